"""What the kernels of all devices share: which layers they compute, and how they take norms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.kernels import BackendUnavailable
from normscope.kernels import fused as normalize_rows
from normscope.kernels.backends.choice import requested_backend
from normscope.kernels.formula import Formula
from normscope.norms import AdaNorm, DetachNorm, LayerNorm, LayerNormSimple, RMSNorm
from normscope.recurrent.places import Places
from normscope.recurrent.steps import NormGroups, State
from normscope.torch_internals import (
    dispatch_mode_is_active,
    forward_mode_is_active,
    functorch_is_active,
    has_forward_hooks,
    is_jit_tracing,
)

NORMS = (LayerNorm, LayerNormSimple, DetachNorm, AdaNorm, RMSNorm)
"""Classes that the kernels compute, themselves and not their subclasses."""


def common_reason(module: Any, x: Tensor, states: State, backend: str, types: Sequence[torch.dtype]) -> str:
    """Say why the kernels of a device cannot compute a layer here; return an empty text if they may.

    Args:
        module: The layer.
        x: Its input.
        states: Its initial states.
        backend: Name of the kernels, as norms request it.
        types: dtypes that they support.
    """
    places: Places = module.places
    norms = [norm for groups in module.norms.values() for group in groups.values() for norm in group]
    parameters = list(module.parameters())
    reasons = {
        f"there are no kernels for {x.dtype}": x.dtype not in types,
        "parameters and input differ in dtype or device": any(
            one.dtype != x.dtype or one.device != x.device for one in parameters
        ),
        "NORMSCOPE_BACKEND=eager": requested_backend() == "eager",
        "a mode or a transform of torch is active": functorch_is_active()
        or forward_mode_is_active()
        or dispatch_mode_is_active()
        or is_jit_tracing()
        or torch.is_autocast_enabled(x.device.type),
        "a tensor is of a subclass": any(type(one) not in (Tensor, nn.Parameter) for one in (x, *states, *parameters)),
        "the reset gate acts before the product": places.reset == "before",
        "a projection": bool(module.proj_size),
        "a norm has no kernel": any(type(norm) not in NORMS or norm.traits.formula is None for norm in norms),
        "a norm has hooks": any(has_forward_hooks(norm) or "forward" in vars(norm) for norm in norms),
        "a norm requests another backend": any(getattr(norm, "backend", None) not in (None, backend) for norm in norms),
    }
    return next((words for words, holds in reasons.items() if holds), "")


@dataclass(frozen=True)
class KernelNorm:
    """A norm of the family as the kernels take it."""

    formula: Formula
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(cls, norm: Callable[[Tensor], Tensor], *, x: Tensor, shift: Tensor | None = None) -> "KernelNorm":
        """Read a norm; ``shift`` is added to what it returns."""
        module: Any = norm
        flags = module.traits.formula
        eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps if module.eps is None else module.eps
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if shift is not None:
            bias = shift if bias is None else bias + shift
        return cls(Formula(flags, eps, getattr(module, "scale", 1.0), getattr(module, "k", 0.0)), weight, bias)


def norms_with_bias(
    groups: NormGroups, bias: Tensor | None, places: Places, widths: Sequence[int], x: Tensor
) -> tuple[Any, ...]:
    """Return the bias that is added before the norms of a product, and the norms, with the bias after them."""
    if not groups:
        return (bias if bias is None or places.bias != "both" else 2 * bias, *(None for _ in widths))
    before = None if places.bias == "after" else bias
    shifts = (None,) * len(groups) if bias is None or places.bias == "before" else bias.split(list(widths))
    return before, *(KernelNorm.of(norm, x=x, shift=shift) for (_, norm), shift in zip(groups, shifts, strict=True))


def row_norm(x: Tensor, *, formula: Formula, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Normalize the rows of ``x`` by the kernels of norms, with derivatives of every order.

    Raises:
        BackendUnavailable: If NORMSCOPE_BACKEND has changed since the forward pass.
    """
    z = normalize_rows(x, (x.shape[-1],), weight, bias, None, *formula)
    if z is None:
        raise BackendUnavailable(
            "the kernels of norms are gone: NORMSCOPE_BACKEND changed between forward and backward"
        )
    return z


def differentiable_gradients(
    results: Sequence[Tensor], inputs: Sequence[Tensor | None], wanted: Sequence[bool], upstream: Sequence[Tensor]
) -> list[Tensor | None]:
    """Compute the gradients of what the steps written out gave, with graphs of their own.

    Args:
        results: Outputs, which are left out if there are no steps, and final states.
        inputs: What the gradients are with respect to.
        wanted: Which of them are needed; the others are None.
        upstream: Gradients of the outputs and of the final states.
    """
    needed = [one for one, want in zip(inputs, wanted, strict=True) if want and one is not None]
    grads = iter(torch.autograd.grad(results, needed, upstream[-len(results) :], create_graph=True, allow_unused=True))
    return [next(grads) if want and one is not None else None for one, want in zip(inputs, wanted, strict=True)]
