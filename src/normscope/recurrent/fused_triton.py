"""One layer and direction by the GPU kernels, as a single node of the autograd graph."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from normscope.kernels.formula import Formula
from normscope.recurrent.eligible import KernelNorm, common_reason, differentiable_gradients, norms_with_bias, row_norm
from normscope.recurrent.places import Mode, Places, group_sizes
from normscope.recurrent.scan import Regularizers, scan
from normscope.recurrent.steps import (
    NormGroups,
    State,
    StepNorms,
    Weights,
    gru_step,
    input_part,
    lstm_step,
    rnn_step,
)

BACKEND = "triton"


@cache
def _kernels() -> Any:
    """Import the kernels, or return the reason why they cannot be used."""
    try:
        from normscope.kernels.backends import scan_triton
    except ImportError as error:
        return f"the GPU kernels need Triton: {error}"
    return scan_triton


def reason_against(module: Any, mode: Mode, x: Tensor, states: State) -> str:
    """Say why the kernels cannot compute a layer here; return an empty text if they can."""
    kernels = _kernels()
    if isinstance(kernels, str):
        return kernels
    regularizers: Regularizers = module.regularizers
    groups = [group for named in module.norms.values() for group in named.values()]
    reasons = {
        f"the kernels hold at most {kernels.WIDEST} units": module.hidden_size > kernels.WIDEST,
        "state and input differ in dtype or device": states[0].dtype != x.dtype or states[0].device != x.device,
        "zoneout": any(regularizers.zoneout),
        "recurrent dropout": module.training and bool(regularizers.recurrent_dropout),
    }
    reason = next((words for words, holds in reasons.items() if holds), "")
    reason = reason or common_reason(module, x, states, BACKEND, kernels.TYPES)
    if not reason and any(len({KernelNorm.of(norm, x=x).formula for norm in group}) > 1 for group in groups):
        return "the norms of a product differ"
    return reason


def run(
    module: Any,
    mode: Mode,
    x: Tensor,
    state: State,
    start: State,
    weights: Weights,
    norms: StepNorms,
    sizes: Sequence[int],
    resets: Sequence[Tensor] | None,
    *,
    reverse: bool,
) -> tuple[Tensor, State]:
    """Compute a layer and direction, as :func:`normscope.recurrent.fused.run` does, without resets."""
    kernels = _kernels()
    places: Places = module.places
    summed = places.products == "summed"
    groups = norms.ih if summed else norms.hh
    bias = weights.bias_hh if mode == "GRU" else None
    if summed and weights.bias_ih is not None and weights.bias_hh is not None:
        bias = weights.bias_ih + weights.bias_hh
    widths = group_sizes(mode, places, module.hidden_size)
    before, *chosen = norms_with_bias(groups, bias, places, widths, x)
    part = F.linear(x, weights.ih, before) if summed else input_part(mode, x, weights, norms, places)
    hidden, *parameters = _stacked(chosen, widths, x)
    read, *read_parameters = _stacked(
        [KernelNorm.of(norm, x=x) for _, norm in norms.cell], [module.hidden_size] * len(norms.cell), x
    )
    settings = kernels.GpuScan(
        cell="RELU" if mode == "RNN" and module.nonlinearity == "relu" else mode,
        sizes=tuple(sizes),
        reverse=reverse,
        summed=summed,
        groups="WHOLE" if len(groups) < 2 else "EACH" if places.groups == "gates" else "PAIR",
        carried=places.cell == "carried" and bool(norms.cell),
        hidden=hidden,
        read=read,
    )
    h, *c = state
    tensors = (
        *(part, h, c[0] if c else None, weights.hh, None if summed or before is None else before.to(_wide(x))),
        *(*parameters, *read_parameters),
    )
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors):
        output, *end = _Recurrence.apply(settings, places, *tensors)  # pyright: ignore[reportGeneralTypeIssues]
    else:
        output, *end = _forward(settings, tensors, keeps=False)[0]
    return output, tuple(end)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _stacked(
    norms: Sequence[KernelNorm | None], widths: Sequence[int], x: Tensor
) -> tuple[Formula | None, Tensor | None, Tensor | None]:
    """Return the formula of some norms, and their weights and biases one after the other, or None for absent ones."""
    first = norms[0] if norms else None
    if first is None:
        return None, None, None
    stacked: list[Tensor | None] = []
    for name, missing in (("weight", 1.0), ("bias", 0.0)):
        ours = [getattr(norm, name) for norm in norms]
        if any(one is not None for one in ours):
            whole = [
                x.new_full((width,), missing) if one is None else one for width, one in zip(widths, ours, strict=True)
            ]
            stacked.append((whole[0] if len(whole) == 1 else torch.cat(whole)).to(_wide(x)))
        else:
            stacked.append(None)
    return first.formula, stacked[0], stacked[1]


def _forward(
    settings: Any, tensors: Sequence[Tensor | None], *, keeps: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """Compute the output and the final states, and what the backward pass needs."""
    part, h, c, weights, *parameters = tensors
    assert part is not None
    assert h is not None
    assert weights is not None
    wide = torch.promote_types(part.dtype, torch.float32)
    ends = [h.clone(memory_format=torch.contiguous_format)]
    if c is not None:
        ends.append(c.to(wide, copy=True, memory_format=torch.contiguous_format))
    output, *kept = _kernels().forward(
        settings,
        _contiguous(parameters),
        part.contiguous(),
        ends[0],
        None if c is None else ends[1],
        weights.contiguous(),
        keeps=keeps,
    )
    return (output, *ends), tuple(kept)


class _Recurrence(torch.autograd.Function):
    """All steps of a layer and direction; the gradient with ``create_graph=True`` is that of the steps written out."""

    @staticmethod
    def forward(ctx: Any, settings: Any, places: Places, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        results, kept = _forward(settings, tensors, keeps=True)
        ctx.settings, ctx.places, ctx.count = settings, places, len(kept)
        ctx.save_for_backward(*kept, *tensors)
        return results

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        # Activation checkpointing lets saved tensors be read once.
        saved = ctx.saved_tensors
        kept, inputs = saved[: ctx.count], saved[ctx.count :]
        wants = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            return (None, None, *_differentiable(ctx.settings, ctx.places, inputs, wants, upstream))
        _, _, c, weights, *parameters = inputs
        doutput, dh, *dc = (one.clone(memory_format=torch.contiguous_format) for one in upstream)
        dpart, dproduct, totals = _kernels().backward(
            ctx.settings,
            _contiguous(parameters),
            doutput,
            dh,
            dc[0] if dc else None,
            weights.contiguous(),
            kept,
            wants=wants[4:],
        )
        dweights = dproduct.t() @ kept[0] if wants[3] else None
        return None, None, dpart, dh, dc[0].to(c.dtype) if dc else None, dweights, *totals


def _contiguous(parameters: Sequence[Tensor | None]) -> Any:
    return _kernels().Parameters(*(None if one is None else one.detach().contiguous() for one in parameters))


def _differentiable(
    settings: Any,
    places: Places,
    inputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
    upstream: Sequence[Tensor],
) -> list[Tensor | None]:
    """Compute the gradients by the steps written out, in differentiable operations."""
    part, h, c, weights, before, *parameters = inputs
    assert part is not None
    assert weights is not None
    size, gates = weights.shape[1], weights.shape[0] // weights.shape[1]
    widths = [count * size for count in {"WHOLE": [gates], "EACH": [1] * gates, "PAIR": [2, 1]}[settings.groups]]
    product: NormGroups = ()
    if settings.hidden is not None:
        split = [[None] * len(widths) if one is None else one.split(widths) for one in parameters[:2]]
        product = [
            (width, partial(row_norm, formula=settings.hidden, weight=weight, bias=bias))
            for width, weight, bias in zip(widths, *split, strict=True)
        ]
    read: NormGroups = ()
    if settings.read is not None:
        read = [(size, partial(row_norm, formula=settings.read, weight=parameters[2], bias=parameters[3]))]
    step: Callable[..., State] = {"LSTM": lstm_step, "GRU": gru_step}.get(
        settings.cell, partial(rnn_step, activation=torch.relu if settings.cell == "RELU" else torch.tanh)
    )
    state = tuple(one for one in (h, c) if one is not None)
    outputs, end = scan(
        partial(
            step,
            weights=Weights(weights, weights, None, None if before is None else before.to(part.dtype), None),
            norms=StepNorms(ih=product if settings.summed else (), hh=() if settings.summed else product, cell=read),
            places=replace(places, bias="before"),
        ),
        part.split(settings.sizes),
        state,
        reverse=settings.reverse,
        resets=None,
        start=state,
        regularizers=Regularizers(zoneout=(0.0,) * len(state), recurrent_dropout=0.0),
        training=False,
    )
    results = [torch.cat(outputs), *end] if outputs else [*end]
    return differentiable_gradients(results, inputs, wanted, upstream)
