"""From a norm's arguments to the kernel that computes it, or to its definition."""

import math
from typing import Any

import torch
from torch import Tensor

from normscope.kernels import operator
from normscope.kernels.autograd import norm as through_python
from normscope.kernels.backends import choice as backends
from normscope.kernels.backends.choice import Backend
from normscope.kernels.formula import Formula
from normscope.torch_internals import (
    constant_when_compiled,
    dispatch_mode_is_active,
    forward_mode_is_active,
    functorch_is_active,
    is_jit_tracing,
)

_call: Any = None
"""The C++ function of the CPU backend, once that is loaded and nothing else is asked for."""


def fused(
    x: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    flags: int,
    eps: float,
    scale: float = 1.0,
    k: float = 0.0,
    backend: Backend | None = None,
) -> Any:
    """Compute a member of the family by a kernel, where one may.

    Args:
        x: ``[..., *shape]``.
        shape: The sizes of the axes that make a row.
        weight: The gain, ``shape``.
        bias: The bias, ``shape``.
        residual: Added to ``x`` before, of its shape and dtype.
        flags: See ``normscope.kernels.formula``.
        eps: See there.
        scale: See there.
        k: See there.
        backend: What is asked for; None for NORMSCOPE_BACKEND, and without it the best one for the device.

    Returns:
        The norm of ``x``, or with a residual that and the sum; None where the definition is to be used: it was asked
        for, the device has no kernels, the arguments do not fit (the definition says how), or the tensors are more than
        their numbers: subclasses, ``torch.func`` transforms, forward-mode derivatives, ``torch.export``, tracing.

    Raises:
        BackendUnavailable: If a backend was asked for by name and cannot run here.
    """
    if torch.compiler.is_compiling():
        return _traced(x, shape, weight, bias, residual, flags, eps, scale, k, backend)
    if _call is not None and backend is None and x.is_cpu:
        return _call(x, shape, weight, bias, residual, flags, eps, scale, k)
    return _dispatch(x, shape, weight, bias, residual, Formula(flags, eps, scale, k), backend)


def _dispatch(
    x: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    formula: Formula,
    backend: Backend | None,
) -> Any:
    """Choose the backend, and remember the shortest way to it."""
    global _call
    module = backends.choose(x.device, backend)
    if module is None:
        return None
    if x.is_cpu:
        shim = module.load().shim
        if shim is not None:
            if backend is None:
                _call = shim.norm
            return shim.norm(x, shape, weight, bias, residual, *formula)
    tensors = [one for one in (x, weight, bias, residual) if one is not None]
    if not (_fits(x, shape, weight, bias, residual) and _plain(tensors)):
        return None
    z, total = through_python(module, formula, math.prod(shape), x, residual, weight, bias)
    return z if total is None else (z, total)


def _fits(
    x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, residual: Tensor | None
) -> bool:
    """Return whether the arguments are those of a kernel: shapes, and parameters no wider than the statistics."""
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    wide = x.dtype == torch.float64
    return (
        x.dtype in kinds
        and x.shape[x.dim() - len(shape) :] == shape
        and (residual is None or (residual.dtype == x.dtype and residual.shape == x.shape))
        and all(
            one.shape == shape and one.dtype in kinds and (wide or one.dtype != torch.float64)
            for one in (weight, bias)
            if one is not None
        )
    )


def _plain(tensors: list[Tensor]) -> bool:
    """Return whether tensors are numbers in memory and nothing else, and no mode looks at them."""
    return (
        all(type(one) in (Tensor, torch.nn.Parameter) and not one.is_neg() for one in tensors)
        and not forward_mode_is_active()
        and not functorch_is_active()
        and not dispatch_mode_is_active()
        and not is_jit_tracing()
    )


def _traced(
    x: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    flags: int,
    eps: float,
    scale: float,
    k: float,
    backend: Backend | None,
) -> Any:
    """Put the operator into the graph that is being made."""
    if torch.compiler.is_exporting() or not _has_kernels(x.device.type, backend):
        return None
    # An operator below autograd drops tangents, and knows no transforms and no subclasses.
    if forward_mode_is_active() or functorch_is_active():
        return None
    if any(type(one) not in (Tensor, torch.nn.Parameter) for one in (x, weight, bias, residual) if one is not None):
        return None
    if not _fits(x, shape, weight, bias, residual):
        return None
    z, total, _, _ = operator.norm(x, residual, weight, bias, math.prod(shape), flags, eps, scale, k)
    return z if residual is None else (z, total)


@constant_when_compiled
def _has_kernels(device: str, backend: Backend | None) -> bool:
    return backends.choose(torch.device(device), backend) is not None
