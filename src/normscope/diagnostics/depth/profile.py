"""The size of activations and gradients by depth, where the norms stand on the way, and what theory has to say."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.diagnostics.depth.layer_stacks import Stack
from normscope.diagnostics.depth.watch import DepthWatch, holds, watch_depth
from normscope.inspection.preserve_state import draw_seed, gradients_of, untouched

POST_LN_DECAY = (2 / 3) ** 0.5
"""Factor on the gradient per layer towards the input of a Post-LN transformer (Xiong et al., appendix F)."""

LARGEST_GROWTH = 4.0
"""A stream may grow by this factor over the second half of its layers and pass.

Branches that add up to a stream without growing themselves make it grow as sqrt(l), a factor 1.4 over a half; fully
aligned ones as l, a factor 2. Twice that is beyond any sum: every branch grows with the stream, which is exponential.
"""

LARGEST_FADE = 100.0
"""The gradient of the last layer may be this many times that of the first, or the other way round, and pass."""


RESIDUAL = 0.4
"""Correlation of a layer's output with its input from which it counts as residual.

A sum of x and a branch of its size has 0.7; layers without a residual have 1 / sqrt(width) at initialization.
"""


@dataclass(frozen=True, kw_only=True)
class LayerDepth:
    """One call of one layer. Sizes are root mean squares over all entries."""

    name: str
    call: int
    """Its place among the calls of its stack, from 0."""
    placement: str
    """``pre``: a norm stands on the layer's input; ``post``: on its output; ``none``: neither."""
    norms: int
    """Norms that were called inside."""
    activation_in: float
    activation: float
    """Of the output."""
    resemblance: float
    """Correlation of input and output, every feature centered over the rows: high where a residual carries x on."""
    gradient: float | None
    """Of the loss by the output, over all entries."""
    weight_gradient: float | None
    """Length of the gradient of all its parameters together; None where none has one."""
    weight_size: float
    """Length of all its parameters together."""


@dataclass(frozen=True, kw_only=True)
class StackDepth:
    """One stack of layers by depth, with its judgement."""

    name: str
    layers: tuple[LayerDepth, ...]
    placement: str
    """``post`` or ``pre`` where most layers are, else ``mixed`` or ``none``."""
    residual: bool
    """Whether the layers carry their input on: half of them resemble it by more than :data:`RESIDUAL`."""
    final_norm: bool
    """Whether a norm is called between the last layer and the next stack or the end."""
    common_share: float
    """Share of the energy of the last layer's output that all its rows have in common, within 0 and 1."""
    activation_slope: float
    """Natural logarithm of the activation's growth per layer."""
    gradient_slope: float | None
    """Natural logarithm of the gradient's growth per layer, from the input to the output."""
    growth: float
    """Activation of the last layer over that of the layer in the middle."""
    gradient_ratio: float | None
    """Gradient at the last layer over that at the first."""
    passes: Mapping[str, bool]
    """``activation``: growth within :data:`LARGEST_GROWTH`; ``gradient``: ratio within :data:`LARGEST_FADE`."""
    theory: Mapping[str, tuple[float, ...]]
    """Lines to draw, one number a layer; see :func:`theory_lines`."""


def read_depth(watch: DepthWatch, gradients: Mapping[int, Tensor | None]) -> list[StackDepth]:
    """Put together what was seen, one profile for every stack of layers that was called.

    Args:
        watch: After the backward pass.
        gradients: From the identity of a parameter to its gradient.
    """
    watch.settle()
    read = [_stack(stack, watch, gradients) for stack in watch.stacks]
    return [each for each in read if each is not None]


def depth_profile(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> list[StackDepth]:
    """Measure activations and gradients by depth in one step; the model stays as it is.

    Args:
        model: Any module.
        batch: What ``loss`` takes.
        loss: From (model, batch) to a scalar.
        generator: Seeds dropout; None goes on from torch's own state, which is restored.

    Returns:
        One profile for every stack of layers that was called, in the order of the model.
    """
    with untouched(model, seed=draw_seed(generator)), watch_depth(model) as watch:
        gradients = gradients_of(loss(model, batch), model)
        return read_depth(watch, gradients)


def theory_lines(layers: Sequence[LayerDepth], placement: str) -> dict[str, tuple[float, ...]]:
    r"""Give the lines of Xiong et al. for a stack at initialization, one number after every layer.

    ``pre``: the mean square of the stream after l of its layers is from :math:`m + l/2` to :math:`m + 3l/2`, m the mean
    square of its input (Lemma 2, where m = 1), and its gradient is the same in every layer. ``post``: the mean square
    is 1 behind the norm, and the gradient of layer l is :math:`(2/3)^{(L-l)/2}` of the last one's. A layer is attention
    and a feed-forward network, two norms: what stands here in halves counts by its norms. Sizes are root mean squares.

    They assume uniform attention, Xavier weights with branches of one width, ReLU, gains of one and zero biases.
    Gradients start at the measured one of the last layer.

    Returns:
        ``activation_low``, ``activation_high`` and ``gradient``; empty for other placements.

    References:
        Xiong et al. (2020). On layer normalization in the transformer architecture. arXiv:2002.04745, Lemma 2, Theorem
        1, appendix F.
        Departs from it in: m, and layers of one branch.
    """
    if placement not in ("post", "pre") or not layers:
        return {}
    count = np.cumsum([layer.norms / 2 for layer in layers])
    last = layers[-1].gradient
    if placement == "pre":
        start = layers[0].activation_in ** 2
        lines = {"activation_low": np.sqrt(start + count / 2), "activation_high": np.sqrt(start + 1.5 * count)}
        gradient = np.ones(len(layers))
    else:
        lines = {"activation_low": np.ones(len(layers)), "activation_high": np.ones(len(layers))}
        gradient = POST_LN_DECAY ** (count[-1] - count)
    if last:
        lines["gradient"] = last * gradient
    return {name: tuple(float(value) for value in line) for name, line in lines.items()}


def _stack(stack: Stack, watch: DepthWatch, gradients: Mapping[int, Tensor | None]) -> StackDepth | None:
    calls = [call for call in watch.calls if holds(stack, call["module"])]
    names = {call["name"] for call in calls}
    if len(calls) < 2:
        return None
    layers = tuple(_layer(place, call, gradients) for place, call in enumerate(calls))
    share = {kind: sum(layer.placement == kind for layer in layers) / len(layers) for kind in ("post", "pre", "none")}
    placement = next((kind for kind, part in share.items() if part > 0.8), "mixed")
    activations = [layer.activation for layer in layers]
    grads = [layer.gradient for layer in layers if layer.gradient]
    growth = activations[-1] / max(activations[(len(layers) - 1) // 2], 1e-30)
    ratio = grads[-1] / grads[0] if len(grads) >= 2 else None
    return StackDepth(
        name=stack.name,
        layers=layers,
        placement=placement,
        residual=bool(np.median([layer.resemblance for layer in layers]) > RESIDUAL),
        final_norm=_norm_follows(watch.events, names),
        common_share=calls[-1]["common"],
        activation_slope=log_slope(activations),
        gradient_slope=log_slope(grads) if len(grads) >= 2 else None,
        growth=growth,
        gradient_ratio=ratio,
        passes={
            "activation": bool(math.isfinite(growth) and growth <= LARGEST_GROWTH),
            "gradient": ratio is not None and 1 / LARGEST_FADE <= ratio <= LARGEST_FADE,
        },
        theory=theory_lines(layers, placement),
    )


def _layer(place: int, call: Mapping[str, Any], gradients: Mapping[int, Tensor | None]) -> LayerDepth:
    parameters = list(call["module"].parameters())
    told = [gradient for p in parameters if (gradient := gradients.get(id(p))) is not None]
    return LayerDepth(
        name=call["name"],
        call=place,
        placement="post" if call["post"] else "pre" if call["pre"] else "none",
        norms=call["norms"],
        activation_in=float(call["activation_in"]),
        activation=float(call["activation"]),
        resemblance=float(call["resemblance"]),
        gradient=None if call["gradient"] is None else float(call["gradient"]),
        weight_gradient=_length(told) if told else None,
        weight_size=_length([p.detach() for p in parameters]),
    )


def _norm_follows(events: Sequence[tuple[str, str]], names: set[str]) -> bool:
    """Return whether a norm is called behind the last layer of a stack, before any other stack begins."""
    last = max(place for place, event in enumerate(events) if event[0] == "out" and event[1] in names)
    for what, _ in events[last + 1 :]:
        if what == "in":
            return False
        if what == "norm":
            return True
    return False


def _length(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.float().norm()) ** 2 for tensor in tensors))


def log_slope(values: Sequence[float]) -> float:
    """Fit the natural logarithm of values over their places with a line, and return its slope."""
    logs = np.log(np.maximum(np.asarray(values, dtype=np.float64), 1e-300))
    return float(np.polyfit(np.arange(len(logs)), logs, 1)[0]) if np.isfinite(logs).all() else math.inf
