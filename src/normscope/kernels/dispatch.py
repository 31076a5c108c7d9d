"""Dispatch of a norm to the kernel of a backend, or to its definition."""

import math
from typing import Any

import torch
from torch import Tensor

from normscope.kernels import operator, transforms
from normscope.kernels.autograd import norm as through_python
from normscope.kernels.backends import choice as backends
from normscope.kernels.backends.choice import Backend
from normscope.kernels.formula import Formula
from normscope.kernels.scaling import is_mapped, is_plain
from normscope.torch_internals import constant_when_compiled, forward_mode_is_active, functorch_is_active

_call: Any = None
"""C++ function of the CPU backend, when it is loaded and no other backend is requested."""


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
    """Compute a member of the family with a kernel, if possible.

    Args:
        x: ``[..., *shape]``.
        shape: Sizes of the axes of a row.
        weight: Of shape ``shape``.
        bias: Of shape ``shape``.
        residual: Added to ``x`` first; the same shape and dtype.
        flags: As in :class:`~normscope.kernels.formula.Formula`.
        eps: As in :class:`~normscope.kernels.formula.Formula`.
        scale: As in :class:`~normscope.kernels.formula.Formula`.
        k: As in :class:`~normscope.kernels.formula.Formula`.
        backend: Requested backend; None for that of NORMSCOPE_BACKEND, or else the best for the device.

    Returns:
        The norm of ``x``, or with a residual a pair of the norm and the sum. None if the definition must be used: it is
        requested, the device has no kernels, the arguments do not match (the definition raises the error), or tensors
        or modes are not plain: subclasses, forward-mode derivatives, ``torch.export``, tracing.

    Raises:
        BackendUnavailable: If the requested backend cannot be used for ``x``.
    """
    if torch.compiler.is_compiling():
        return _traced(x, shape, weight, bias, residual, Formula(flags, eps, scale, k), backend)
    if _call is not None and backend is None and x.is_cpu:
        z = _call(x, shape, weight, bias, residual, flags, eps, scale, k)
        if z is not None or not functorch_is_active():
            return z
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
    """Choose the backend, and store its C++ function for later calls."""
    global _call
    module = backends.choose(x.device, backend)
    if module is None:
        return None
    transformed = functorch_is_active()
    if x.is_cpu and not transformed:
        shim = module.load().shim
        if shim is not None:
            if backend is None:
                _call = shim.norm
            return shim.norm(x, shape, weight, bias, residual, *formula)
    tensors = [one for one in (x, weight, bias, residual) if one is not None]
    allowed = is_mapped(*tensors) if transformed else is_plain(*tensors)
    if not (allowed and _fits(x, shape, weight, bias, residual)):
        return None
    through = transforms.norm if transformed else through_python
    z, total = through(module, formula, math.prod(shape), x, residual, weight, bias)
    return z if total is None else (z, total)


def _fits(
    x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, residual: Tensor | None
) -> bool:
    """Return whether a kernel supports the arguments: shapes, dtypes, and parameters not wider than the statistics."""
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


def _traced(
    x: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    formula: Formula,
    backend: Backend | None,
) -> Any:
    """Add the operator to the graph that is being compiled."""
    if _is_exporting() or not _has_kernels(x.device.type, backend):
        return None
    # A custom op below autograd drops forward-mode tangents, and does not support transforms or tensor subclasses.
    if forward_mode_is_active() or functorch_is_active():
        return None
    if any(type(one) not in (Tensor, torch.nn.Parameter) for one in (x, weight, bias, residual) if one is not None):
        return None
    if not _fits(x, shape, weight, bias, residual):
        return None
    z, total, _, _ = operator.norm(x, residual, weight, bias, math.prod(shape), *formula)
    return z if residual is None else (z, total)


@constant_when_compiled
def _is_exporting() -> bool:
    """Return whether ``torch.export`` traces the code.

    ``torch.compile`` of torch 2.11 replaces a call of ``torch.compiler.is_exporting`` in the code that it traces by
    True, also when nothing is exported. Here the call is not traced but made, and its result put into the graph.
    """
    return torch.compiler.is_exporting()


@constant_when_compiled
def _has_kernels(device: str, backend: Backend | None) -> bool:
    return backends.choose(torch.device(device), backend) is not None
