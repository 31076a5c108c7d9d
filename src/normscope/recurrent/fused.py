"""One layer and direction by the CPU kernels, as a single node of the autograd graph."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from normscope.kernels.backends import build
from normscope.kernels.backends import scan as kernels
from normscope.kernels.formula import Formula
from normscope.recurrent.eligible import KernelNorm, common_reason, differentiable_gradients, norms_with_bias, row_norm
from normscope.recurrent.places import Mode, Places, group_sizes
from normscope.recurrent.scan import Masks, Regularizers, draw_masks, scan
from normscope.recurrent.steps import (
    NormGroups,
    State,
    StepNorms,
    Weights,
    gru_step,
    lstm_step,
    normalize,
    rnn_step,
)
from normscope.torch_internals import keeps_graph

BACKEND = "cpu"
"""What ``computed_by`` of a layer says."""


def reason_against(module: Any, mode: Mode, x: Tensor, states: State) -> str:
    """Say why the kernels cannot compute a layer here; return an empty text if they can."""
    if x.device.type != "cpu":
        return "there are kernels for CPUs and for GPUs with Triton only"
    if reason := common_reason(module, x, states, BACKEND, kernels.TYPES):
        return reason
    try:
        kernels.load()
    except build.CannotBuild as error:
        return str(error)
    return ""


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
    """Compute a layer and direction.

    Args:
        module: The layer.
        mode: Its cell.
        x: ``[N, I]`` in the order of the steps.
        state: Initial states.
        start: The state that an episode begins with, ``[1, H]`` each.
        weights: Parameters.
        norms: Norms.
        sizes: Number of sequences in every step.
        resets: Per step bool ``[B_t]``: where a new episode begins.
        reverse: Whether to run from the last step to the first.

    Returns:
        The outputs, ``[N, H]``, and the final states.
    """
    places, regularizers = module.places, module.regularizers
    masks = draw_masks(regularizers, state, sizes, reverse=reverse, training=module.training)
    widths = group_sizes(mode, places, module.hidden_size)
    biases = (weights.bias_ih, weights.bias_hh)
    if mode != "GRU":
        biases = (
            None if weights.bias_ih is None or weights.bias_hh is None else weights.bias_ih + weights.bias_hh,
            None,
        )
    (before_input, *of_input), (before_product, *of_product) = (
        norms_with_bias(groups, bias, places, widths, x)
        for groups, bias in zip((norms.ih, norms.hh), biases, strict=True)
    )
    chosen = [*of_input, *of_product, KernelNorm.of(norms.cell[0][1], x=x) if norms.cell else None]
    parameters = [one for norm in chosen for one in ((None, None) if norm is None else (norm.weight, norm.bias))]
    settings = kernels.Scan(
        cell=mode,
        sizes=tuple(sizes),
        reverse=reverse,
        carried=places.cell == "carried" and bool(norms.cell),
        summed=places.products == "summed",
        relu=mode == "RNN" and module.nonlinearity == "relu",
        widths=tuple(widths),
        formulas=tuple(None if norm is None else norm.formula for norm in chosen),
        zoneout=(regularizers.zoneout[0], regularizers.zoneout[1] if mode == "LSTM" else 0.0),
    )
    call = _Layer(settings, places, masks, resets)
    h, *c = state
    start_h, *start_c = (None,) * len(start) if resets is None else start
    tensors = (
        *(x.contiguous(), weights.ih, before_input, h, c[0] if c else None, weights.hh, before_product),
        *(start_h, start_c[0] if start_c else None, *parameters),
    )
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors):
        output, *end = _Recurrence.apply(call, *tensors)  # pyright: ignore[reportGeneralTypeIssues]
    else:
        output, *end = _forward(call, tensors, keeps=False)[0]
    return output, tuple(end)


def _shifted(resets: Sequence[Tensor], sizes: Sequence[int], *, reverse: bool) -> Tensor:
    """Join resets; backwards, an episode ends where the next step, which was computed before, began another."""
    if reverse:
        following = [*resets[1:], resets[0][:0]] if resets else []
        resets = [F.pad(one, (0, size - one.shape[0])) for one, size in zip(following, sizes, strict=True)]
    return torch.cat([*resets]) if resets else torch.zeros(0, dtype=torch.bool)


@dataclass(frozen=True)
class _Layer:
    """What a layer and direction needs beside the tensors with gradients."""

    scan: kernels.Scan
    places: Places
    masks: Masks
    resets: Sequence[Tensor] | None


class _Tensors(NamedTuple):
    """The tensors with gradients, before those of the norms."""

    x: Tensor
    """``[N, I]``."""
    weights_ih: Tensor
    bias_ih: Tensor | None
    """Added before the norms, as ``bias_hh``."""
    h: Tensor
    c: Tensor | None
    weights_hh: Tensor
    bias_hh: Tensor | None
    start_h: Tensor | None
    """``[1, H]``, as ``start_c``."""
    start_c: Tensor | None


_FIRST = len(_Tensors._fields)
"""Index of the first parameter of the norms."""


def _states(call: _Layer, tensors: _Tensors) -> kernels.States:
    wide = torch.promote_types(tensors.x.dtype, torch.float32)
    held = [
        None if one is None else one.to(dtype)
        for one, dtype in zip(call.masks.held, (tensors.x.dtype, wide), strict=False)
    ]
    return kernels.States(
        h=tensors.h.contiguous(),
        c=None if tensors.c is None else tensors.c.to(wide).contiguous(),
        resets=None if call.resets is None else _shifted(call.resets, call.scan.sizes, reverse=call.scan.reverse),
        start_h=None if tensors.start_h is None else tensors.start_h.contiguous(),
        start_c=None if tensors.start_c is None else tensors.start_c.to(wide).contiguous(),
        held_h=held[0],
        held_c=held[1] if len(held) > 1 else None,
        dropout=call.masks.dropout,
    )


def _forward(
    call: _Layer, tensors: Sequence[Tensor | None], *, keeps: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """Compute the output and the final states, and what the backward pass needs."""
    named = _Tensors(*tensors[:_FIRST])  # pyright: ignore[reportArgumentType]
    norms = _prepared(call.scan.formulas, tensors[_FIRST:], torch.promote_types(named.x.dtype, torch.float32))
    part = kernels.product(named.x, named.weights_ih, named.bias_ih, transposed=True)
    states = _states(call, named)
    output, product, c, *end = kernels.forward(
        call.scan, norms, part, states, named.weights_hh, named.bias_hh, keeps=keeps
    )
    return (output, *(one for one in end if one is not None)), (part, product, c)


class _Recurrence(torch.autograd.Function):
    """A layer and direction; the gradient with ``create_graph=True`` is that of the steps written out.

    The backward pass normalizes the products again and computes the gates again, so that only both products and c are
    kept. Their gradients overwrite them, unless the graph is retained or a hook replaced what was saved.
    """

    @staticmethod
    def forward(ctx: Any, call: _Layer, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        results, kept = _forward(call, tensors, keeps=True)
        ctx.call = call
        ctx.places = [None if one is None else one.data_ptr() for one in kept[:2]]
        ctx.save_for_backward(results[0], *kept, *tensors)
        return results

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        call: _Layer = ctx.call
        output, part, product, c, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return (None, *_differentiable(call, tensors, wanted, upstream))
        named = _Tensors(*tensors[:_FIRST])
        overwrites = not keeps_graph() and ctx.places == [part.data_ptr(), product.data_ptr()]
        doutput, dh, *dc = upstream
        got = kernels.backward(
            call.scan,
            _prepared(call.scan.formulas, tensors[_FIRST:], torch.promote_types(part.dtype, torch.float32)),
            doutput.contiguous(),
            dh,
            dc[0] if dc else None,
            part,
            product,
            c,
            output,
            _states(call, named),
            named.weights_hh,
            wants=[any(pair) for pair in zip(wanted[_FIRST::2], wanted[_FIRST + 1 :: 2], strict=True)],
            wants_weights=wanted[_Tensors._fields.index("weights_hh")],
            overwrites=overwrites,
        )
        wants = dict(zip(_Tensors._fields, wanted, strict=False))
        gradients = _Tensors(
            kernels.product(got.part, named.weights_ih, transposed=False) if wants["x"] else None,  # pyright: ignore
            kernels.gradient_of_weights(got.part, named.x) if wants["weights_ih"] else None,  # pyright: ignore
            got.part.sum(0) if wants["bias_ih"] else None,
            got.h,
            got.c,
            got.weights,  # pyright: ignore
            got.product.sum(0) if wants["bias_hh"] else None,
            None if got.start_h is None else got.start_h[None],
            None if got.start_c is None else got.start_c[None],
        )
        sums = [one for total in got.norms for one in ((None, None) if total is None else total)]
        return None, *(
            one.to(like.dtype) if one is not None and like is not None and want else None
            for one, like, want in zip((*gradients, *sums), tensors, wanted, strict=True)
        )


def _prepared(
    formulas: Sequence[Formula | None], parameters: Sequence[Tensor | None], wide: torch.dtype
) -> list[kernels.StepNorm | None]:
    """Widen the parameters of the norms; the kernels do not support a bias without a weight."""
    norms: list[kernels.StepNorm | None] = []
    for index, formula in enumerate(formulas):
        weight, bias = (
            None if one is None else one.detach().to(wide).contiguous() for one in parameters[2 * index : 2 * index + 2]
        )
        if bias is not None and weight is None:
            weight = torch.ones_like(bias)
        norms.append(None if formula is None else kernels.StepNorm(formula, weight, bias))
    return norms


def _differentiable(
    call: _Layer, tensors: Sequence[Tensor | None], wanted: Sequence[bool], upstream: Sequence[Tensor]
) -> list[Tensor | None]:
    """Compute the gradients by the steps written out, in differentiable operations."""
    settings, named = call.scan, _Tensors(*tensors[:_FIRST])  # pyright: ignore[reportArgumentType]
    size, count = named.h.shape[1], len(settings.widths)
    groups: list[NormGroups] = []
    for index, (formula, width) in enumerate(
        zip(settings.formulas, (*settings.widths, *settings.widths, size), strict=True)
    ):
        weight, bias = tensors[_FIRST + 2 * index : _FIRST + 2 * index + 2]
        if formula is None:
            groups.append(())
        else:
            groups.append([(width, partial(row_norm, formula=formula, weight=weight, bias=bias))])
    ih, hh = ([one for group in part for one in group] for part in (groups[:count], groups[count:-1]))
    part = F.linear(named.x, named.weights_ih, named.bias_ih)
    if not settings.summed:
        part = normalize(part, ih)
    step = {"LSTM": lstm_step, "GRU": gru_step, "RNN": rnn_step}[settings.cell]
    if settings.cell == "RNN":
        step = partial(step, activation=torch.relu if settings.relu else torch.tanh)
    state = tuple(one for one in (named.h, named.c) if one is not None)
    outputs, end = scan(
        partial(
            step,
            weights=Weights(named.weights_ih, named.weights_hh, None, named.bias_hh, None),
            norms=StepNorms(ih=ih, hh=hh, cell=groups[-1]),
            places=replace(call.places, bias="before"),
        ),
        part.split(settings.sizes),
        state,
        reverse=settings.reverse,
        resets=call.resets,
        start=tuple(one for one in (named.start_h, named.start_c) if one is not None),
        regularizers=Regularizers(zoneout=settings.zoneout[: len(state)], recurrent_dropout=0.0),
        training=False,
        masks=call.masks,
    )
    results = [torch.cat(outputs), *end] if outputs else [*end]
    return differentiable_gradients(results, tensors, wanted, upstream)
