"""Activations and gradients by depth, the placement of the norms, and the theoretical values to compare with."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from normscope.arguments import check_arguments
from normscope.diagnostics.depth.layer_stacks import Stack
from normscope.diagnostics.depth.watch import DepthWatch, Event, LayerCall, holds, nodes_before, watch_depth
from normscope.fits import log_slope
from normscope.inspection.preserve_state import draw_seed, gradients_of, untouched

POST_LN_DECAY = (2 / 3) ** 0.5
"""Factor on the gradient of a Post-LN transformer per layer towards the input (Xiong et al., appendix F)."""

LARGEST_GROWTH = 4.0
"""Largest growth of a residual stream over the second half of its layers that passes.

Branches of constant size make the stream grow as sqrt(l), a factor of 1.4 over that half, or as l, a factor of 2, if
they are fully aligned. Twice that is beyond any such sum: the branches grow with the stream, which is exponential.
"""

LARGEST_FADE = 100.0
"""Largest ratio of the gradients at the first and the last layer, in either direction, that passes."""

RESIDUAL = 0.4
"""Correlation of a layer's output with its input above which the layer counts as residual.

It is 0.7 for the sum of x and a branch of equal size, and 1 / sqrt(width) at initialization without a residual.
"""


LayerPlacement = Literal["pre", "post", "none"]


@dataclass(frozen=True, kw_only=True)
class LayerDepth:
    """One call of one layer. Sizes are root mean squares over all entries."""

    name: str
    call: int
    """Index among the calls of its stack, from 0."""
    placement: LayerPlacement
    """``pre``: a norm reads the layer's input; ``post``: a norm makes its output; ``none``: neither."""
    norms: int
    """Number of norms called inside."""
    activation_in: float
    activation: float
    """Root mean square of the output."""
    resemblance: float
    """Correlation of input and output, every feature centered over the rows: high for a residual connection."""
    gradient: float | None
    """Root mean square of the gradient of the loss with respect to the output."""
    weight_gradient: float | None
    """Norm of the gradient of all its parameters; None if no parameter has a gradient."""
    weight_size: float
    """Norm of all its parameters."""


@dataclass(frozen=True, kw_only=True)
class StackDepth:
    """Profile of one stack of layers by depth, with pass or fail.

    If the loss runs several streams through the layers, slopes, growth and gradient ratio are those of the longest one,
    the last of equally long ones.
    """

    name: str
    layers: tuple[LayerDepth, ...]
    placement: LayerPlacement | Literal["mixed"]
    """``post``, ``pre`` or ``none`` if more than 80 % of the layers are, else ``mixed``."""
    residual: bool
    """Whether the layers are residual: the median of ``resemblance`` is above :data:`RESIDUAL`."""
    final_norm: bool
    """Whether a norm reads the stream after the last layer: outside of the layers of all stacks, or at the beginning of
    the layer of another stack that continues the stream."""
    common_share: float
    """Share of the energy of the last layer's output that is common to all rows, from 0 to 1."""
    activation_slope: float
    """Growth of the natural logarithm of the activation per layer."""
    gradient_slope: float | None
    """Growth of the natural logarithm of the gradient per layer, from the input to the output."""
    growth: float
    """Activation of the last layer divided by that of the middle layer."""
    gradient_ratio: float | None
    """Gradient at the last layer divided by that at the first."""
    passes: Mapping[str, bool]
    """``activation``: growth within :data:`LARGEST_GROWTH`; ``gradient``: ratio within :data:`LARGEST_FADE`."""
    theory: Mapping[str, tuple[float, ...]]
    """Theoretical values, one per layer; see :func:`theory_lines`. Empty if there are several streams."""


def read_depth(watch: DepthWatch, gradients: Mapping[int, Tensor | None]) -> list[StackDepth]:
    """Return one profile for every stack of layers that was called.

    Args:
        watch: Measurements, after the backward pass.
        gradients: Gradients by the ``id`` of the parameter.
    """
    watch.settle()
    read = [_stack(stack, watch, gradients) for stack in watch.stacks]
    return [each for each in read if each is not None]


@check_arguments
def depth_profile(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> list[StackDepth]:
    """Measure activations and gradients by depth in one training step; the model is left unchanged.

    Args:
        model: Any module.
        batch: Second argument of ``loss``.
        loss: Maps (model, batch) to a scalar.
        generator: Seeds dropout; if None, torch's global random state is used and restored.

    Returns:
        One profile for every stack of layers that was called, in the order in which they end.

    Example:
        >>> import torch
        >>> from normscope.diagnostics import depth_profile
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, 3)
        >>> (stack,) = depth_profile(model, torch.randn(2, 5, 8), lambda model, x: model(x)[..., 0].square().mean())
        >>> stack.name, stack.placement, len(stack.layers), stack.final_norm
        ('layers', 'post', 3, False)
    """
    with untouched(model, seed=draw_seed(generator)), watch_depth(model) as watch:
        gradients = gradients_of(loss(model, batch), model)
        return read_depth(watch, gradients)


def theory_lines(layers: Sequence[LayerDepth], placement: str) -> dict[str, tuple[float, ...]]:
    r"""Compute the values that Xiong et al. derive for a stack at initialization, one per layer.

    ``pre``: the mean square of the stream after l layers is between :math:`m + l/2` and :math:`m + 3l/2`, with m the
    mean square of its input (Lemma 2 has m = 1), and the gradient is equal in all layers. ``post``: the mean square
    after the norm is 1, and the gradient of layer l is :math:`(2/3)^{(L-l)/2}` times that of the last layer. A layer of
    the paper is attention and a feed-forward network, with two norms; a layer with one norm counts as half. The values
    are root mean squares.

    The derivation assumes uniform attention, Xavier weights with branches of one width, ReLU, norms with weight one,
    and zero biases. The line of the gradient starts at the measured gradient of the last layer.

    Returns:
        ``activation_low``, ``activation_high`` and ``gradient``; empty for other placements.

    References:
        Xiong et al. (2020). On layer normalization in the transformer architecture. arXiv:2002.04745, Lemma 2, Theorem
        1, appendix F.
        Departs from it in: m may differ from 1, and a layer may have one branch.
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
    calls = [call for call in watch.calls if holds(stack, call.module)]
    if len(calls) < 2:
        return None
    streams: dict[int, list[int]] = {}
    for place, call in enumerate(calls):
        streams.setdefault(call.streams[stack.name], []).append(place)
    longest = max(reversed(streams.values()), key=len)
    layers = tuple(_layer(place, call, gradients) for place, call in enumerate(calls))
    counts: Counter[LayerPlacement] = Counter(layer.placement for layer in layers)
    most, count = counts.most_common(1)[0]
    placement: LayerPlacement | Literal["mixed"] = most if count / len(layers) > 0.8 else "mixed"
    activations = [layers[place].activation for place in longest]
    grads = [gradient for place in longest if (gradient := layers[place].gradient)]
    growth = activations[-1] / max(activations[(len(longest) - 1) // 2], 1e-30)
    ratio = grads[-1] / grads[0] if len(grads) >= 2 else None
    return StackDepth(
        name=stack.name,
        layers=layers,
        placement=placement,
        residual=bool(np.median([layer.resemblance for layer in layers]) > RESIDUAL),
        final_norm=_norm_follows(watch.events, calls[longest[-1]]),
        common_share=calls[-1].common,
        activation_slope=log_slope(np.maximum(activations, 1e-300)) if len(longest) >= 2 else 0.0,
        gradient_slope=log_slope(grads) if len(grads) >= 2 else None,
        growth=growth,
        gradient_ratio=ratio,
        passes={
            "activation": bool(math.isfinite(growth) and growth <= LARGEST_GROWTH),
            "gradient": ratio is not None and 1 / LARGEST_FADE <= ratio <= LARGEST_FADE,
        },
        theory=theory_lines(layers, placement) if len(streams) == 1 else {},
    )


def _layer(place: int, call: LayerCall, gradients: Mapping[int, Tensor | None]) -> LayerDepth:
    parameters = list(call.module.parameters())
    known = [gradient for p in parameters if (gradient := gradients.get(id(p))) is not None]
    return LayerDepth(
        name=call.name,
        call=place,
        placement="post" if call.post else "pre" if call.pre else "none",
        norms=call.norms,
        activation_in=float(call.activation_in),
        activation=float(call.activation),
        resemblance=float(call.resemblance),
        gradient=None if call.gradient is None else float(call.gradient),
        weight_gradient=_length(known) if known else None,
        weight_size=_length([p.detach() for p in parameters]),
    )


def _norm_follows(events: Sequence[Event], last: LayerCall) -> bool:
    """Return whether a norm reads the output of a call, but for what other layers make of it.

    It is called outside of the layers, or reads the input of the layer that it is called in.
    """
    ends = {id(event.call): place for place, event in enumerate(events) if event.what == "out"}
    after, stream = events[ends[id(last)] + 1 :], events[ends[id(last)]].node
    if stream is None:
        # Without a graph the order of the calls decides.
        return next((event.what == "norm" for event in after if event.what != "out"), False)
    walls = {event.node for event in events if event.what == "out"}
    inside = 0
    for event in after:
        inside += {"in": 1, "out": -1, "norm": 0}[event.what]
        reads = (
            event.call.pre and inside == 1 if event.call and event.what == "in" else event.what == "norm" and not inside
        )
        if reads and event.node is not None and any(nodes_before(event.node, {stream}, walls)):
            return True
    return False


def _length(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.float().norm()) ** 2 for tensor in tensors))
