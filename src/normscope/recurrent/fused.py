"""One layer and direction by the CPU kernels, as a single node of the autograd graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normscope.kernels import BackendUnavailable
from normscope.kernels import fused as normalize_rows
from normscope.kernels.backends import build
from normscope.kernels.backends import scan as kernels
from normscope.kernels.backends.choice import requested_backend
from normscope.kernels.formula import Formula
from normscope.norms import AdaNorm, DetachNorm, LayerNorm, LayerNormSimple, RMSNorm
from normscope.recurrent.places import Mode, Places
from normscope.recurrent.scan import Regularizers, scan
from normscope.recurrent.steps import NormGroups, State, StepNorms, Weights, gru_step, lstm_step
from normscope.torch_internals import (
    dispatch_mode_is_active,
    forward_mode_is_active,
    functorch_is_active,
    has_forward_hooks,
    is_jit_tracing,
)

NORMS = (LayerNorm, LayerNormSimple, DetachNorm, AdaNorm, RMSNorm)
"""Classes that the kernels compute, themselves and not their subclasses."""


def reason_against(module: Any, mode: Mode, x: Tensor, states: State, *, resets: bool) -> str:
    """Say why the kernels cannot compute a layer here; return an empty text if they can."""
    places: Places = module.places
    regularizers: Regularizers = module.regularizers
    norms = [norm for groups in module.norms.values() for group in groups.values() for norm in group]
    tensors = [x, *states, *(parameter for parameter in module.parameters())]
    reasons = {
        "an RNN has no kernel": mode == "RNN",
        "there are kernels for the CPU only": x.device.type != "cpu",
        f"there are no kernels for {x.dtype}": x.dtype not in kernels.TYPES,
        "parameters and input differ in dtype or device": any(
            one.dtype != x.dtype or one.device != x.device for one in module.parameters()
        ),
        "NORMSCOPE_BACKEND=eager": requested_backend() == "eager",
        "torch.compile traces the steps": torch.compiler.is_compiling(),
        "a mode or a transform of torch is active": functorch_is_active()
        or forward_mode_is_active()
        or dispatch_mode_is_active()
        or is_jit_tracing()
        or torch.is_autocast_enabled("cpu"),
        "a tensor is of a subclass": any(type(one) not in (Tensor, nn.Parameter) for one in tensors),
        "the products are summed before they are normalized": places.products == "summed",
        "each gate has a norm": places.groups == "gates",
        "the gates and the candidate share a norm": mode == "GRU" and places.groups == "whole",
        "the reset gate acts before the product": places.reset == "before",
        "a bias is added before the norm": mode == "GRU" and module.bias and places.bias != "after",
        "the products of the GRU have no norm": mode == "GRU" and not norms,
        "zoneout": any(regularizers.zoneout),
        "recurrent dropout": module.training and bool(regularizers.recurrent_dropout),
        "resets": resets,
        "a projection": bool(module.proj_size),
        "a norm has no kernel": any(type(norm) not in NORMS or norm.traits.formula is None for norm in norms),
        "a norm has hooks": any(map(has_forward_hooks, norms)),
        "a norm requests another backend": any(getattr(norm, "backend", None) not in (None, "cpu") for norm in norms),
    }
    reason = next((words for words, holds in reasons.items() if holds), "")
    if reason:
        return reason
    try:
        kernels.load()
    except build.CannotBuild as error:
        return str(error)
    return ""


def run(
    mode: Mode,
    part: Tensor,
    state: State,
    weights: Weights,
    norms: StepNorms,
    places: Places,
    sizes: Sequence[int],
    *,
    reverse: bool,
) -> tuple[Tensor, State]:
    """Compute all steps of a layer and direction.

    Args:
        mode: LSTM or GRU.
        part: What ``input_part`` returned, ``[N, G]`` in the order of the steps.
        state: Initial states.
        weights: Parameters.
        norms: Norms.
        places: Where they stand.
        sizes: Number of sequences in every step.
        reverse: Whether to run from the last step to the first.

    Returns:
        The outputs, ``[N, H]``, and the final states.
    """
    if mode == "GRU":
        shifts: Sequence[Tensor | None] = (None, None)
        if weights.bias_hh is not None:
            shifts = weights.bias_hh.split([width for width, _ in norms.hh])
        chosen = [
            *(_Norm.of(norm, x=part, shift=shift) for (_, norm), shift in zip(norms.hh, shifts, strict=True)),
            None,
        ]
    else:
        hidden = _Norm.of(norms.hh[0][1], x=part) if norms.hh else None
        read = _Norm.of(norms.cell[0][1], x=part) if norms.cell else None
        chosen = [hidden, None, read]
    parameters = [one for norm in chosen for one in ((None, None) if norm is None else (norm.weight, norm.bias))]
    settings = kernels.Scan(
        cell="GRU" if mode == "GRU" else "LSTM",
        sizes=tuple(sizes),
        reverse=reverse,
        carried=places.cell == "carried",
        formulas=tuple(None if norm is None else norm.formula for norm in chosen),  # pyright: ignore[reportArgumentType]
    )
    h, *c = state
    output, *end = _Recurrence.apply(settings, places, part, h, c[0] if c else None, weights.hh, *parameters)  # pyright: ignore
    return output, tuple(end)


def linear(x: Tensor, weights: Tensor) -> Tensor:
    """Multiply ``[..., I]`` by the transpose of ``[G, I]``; a row's result does not depend on the other rows."""
    rows = _Linear.apply(x.reshape(x.shape[:-1].numel(), x.shape[-1]), weights)  # pyright: ignore
    return rows.view(*x.shape[:-1], weights.shape[0])


class _Linear(torch.autograd.Function):
    """A product with weights, by the kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weights)
        return kernels.product(x, weights, transposed=True)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weights = ctx.saved_tensors
        wants_x, wants_weights = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return upstream @ weights if wants_x else None, upstream.T @ x if wants_weights else None
        upstream = upstream.contiguous()
        dx = kernels.product(upstream, weights, transposed=False) if wants_x else None
        dweights = kernels.gradient_of_weights(upstream, x).to(weights.dtype) if wants_weights else None
        return dx, dweights


@dataclass(frozen=True)
class _Norm:
    """A norm of the family as the kernels take it."""

    formula: Formula
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(cls, norm: Callable[[Tensor], Tensor], *, x: Tensor, shift: Tensor | None = None) -> "_Norm":
        """Read a norm; ``shift`` is added to what it returns."""
        module: Any = norm
        flags = module.traits.formula
        eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps if module.eps is None else module.eps
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if shift is not None:
            bias = shift if bias is None else bias + shift
        return cls(Formula(flags, eps, getattr(module, "scale", 1.0), getattr(module, "k", 0.0)), weight, bias)


class _Recurrence(torch.autograd.Function):
    """All steps of a layer and direction; the gradient with ``create_graph=True`` is that of the steps written out."""

    @staticmethod
    def forward(
        ctx: Any,
        settings: kernels.Scan,
        places: Places,
        part: Tensor,
        h: Tensor,
        c: Tensor | None,
        weights: Tensor,
        *parameters: Tensor | None,
    ) -> tuple[Tensor, ...]:
        wide = torch.promote_types(part.dtype, torch.float32)
        end_h = h.clone(memory_format=torch.contiguous_format)
        end_c = None if c is None else c.to(wide, copy=True, memory_format=torch.contiguous_format)
        norms = _prepared(settings.formulas, parameters, wide)
        output, *kept = kernels.forward(settings, norms, part.contiguous(), end_h, end_c, weights)
        ctx.settings, ctx.places, ctx.count = settings, places, len(kept)
        ctx.save_for_backward(*kept, part, h, c, weights, *parameters)
        return (output, end_h) if end_c is None else (output, end_h, end_c)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        settings: kernels.Scan = ctx.settings
        # Activation checkpointing lets saved tensors be read once.
        saved = ctx.saved_tensors
        kept, inputs = saved[: ctx.count], saved[ctx.count :]
        if torch.is_grad_enabled():
            return (None, None, *_differentiable(settings, ctx.places, inputs, ctx.needs_input_grad[2:], upstream))
        _, _, c, weights, *parameters = inputs
        wide = torch.promote_types(weights.dtype, torch.float32)
        doutput, dh, *dc = (one.clone(memory_format=torch.contiguous_format) for one in upstream)
        wants = [any(ctx.needs_input_grad[6 + 2 * index : 8 + 2 * index]) for index in range(3)]
        norms = _prepared(settings.formulas, parameters, wide)
        dpart, dproduct, sums = kernels.backward(
            settings, norms, doutput, dh, dc[0] if dc else None, weights, kept, wants=wants
        )
        dweights = None
        if ctx.needs_input_grad[5]:
            dweights = kernels.gradient_of_weights(dproduct, kept[0]).to(weights.dtype)
        dparameters: list[Tensor | None] = []
        for index, parameter in enumerate(parameters):
            total = sums[index // 2]
            wanted = parameter is not None and total is not None and ctx.needs_input_grad[6 + index]
            dparameters.append(total[index % 2].to(parameter.dtype) if wanted else None)  # pyright: ignore
        return None, None, dpart, dh, dc[0].to(c.dtype) if dc else None, dweights, *dparameters


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
    settings: kernels.Scan,
    places: Places,
    inputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
    upstream: Sequence[Tensor],
) -> list[Tensor | None]:
    """Compute the gradients by the steps written out, in differentiable operations."""
    part, h, c, weights, *parameters = inputs
    assert part is not None
    assert weights is not None
    size = weights.shape[1]
    widths = ((2 if settings.cell == "GRU" else 4) * size, size, size)
    groups: list[NormGroups] = []
    for index, (formula, width) in enumerate(zip(settings.formulas, widths, strict=True)):
        weight, bias = parameters[2 * index : 2 * index + 2]
        if formula is None:
            groups.append(())
            continue
        groups.append([(width, partial(_row_norm, formula=formula, weight=weight, bias=bias))])
    hidden, candidate, read = groups
    step = partial(
        gru_step if settings.cell == "GRU" else lstm_step,
        weights=Weights(weights, weights, None, None, None),
        norms=StepNorms(hh=[*hidden, *candidate], cell=read),
        places=places,
    )
    state = tuple(one for one in (h, c) if one is not None)
    outputs, end = scan(
        step,
        part.split(settings.sizes),
        state,
        reverse=settings.reverse,
        resets=None,
        start=state,
        regularizers=Regularizers(zoneout=(0.0,) * len(state), recurrent_dropout=0.0),
        training=False,
    )
    results = [torch.cat(outputs), *end] if outputs else [*end]
    needed = [one for one, want in zip(inputs, wanted, strict=True) if want and one is not None]
    grads = iter(torch.autograd.grad(results, needed, upstream[-len(results) :], create_graph=True, allow_unused=True))
    return [next(grads) if want and one is not None else None for one, want in zip(inputs, wanted, strict=True)]


def _row_norm(x: Tensor, *, formula: Formula, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    z = normalize_rows(x, (x.shape[-1],), weight, bias, None, *formula)
    if z is None:
        raise BackendUnavailable(
            "the kernels of norms are gone: NORMSCOPE_BACKEND changed between forward and backward"
        )
    return z
