"""Rows whose squares, or products of more entries, leave the range of a dtype: the factor that brings them back."""

import math

import torch
from torch import Tensor

from normscope.torch_internals import (
    dispatch_mode_is_active,
    forward_mode_is_active,
    functorch_is_active,
    is_functorch_wrapper,
    is_jit_tracing,
    is_zero_without_memory,
    transforms_active,
)


def is_plain(*tensors: Tensor) -> bool:
    """Return whether all tensors are plain memory and no mode or transform intercepts operations."""
    return not functorch_is_active() and _is_unwatched(*tensors)


def is_mapped(*tensors: Tensor) -> bool:
    """Return whether all tensors are plain inside transforms of ``torch.func``, which are vmap and grad only."""
    return transforms_active() <= {"vmap", "grad"} and _is_unwatched(*tensors)


def _is_unwatched(*tensors: Tensor) -> bool:
    return (
        all(type(one) in (Tensor, torch.nn.Parameter) and not (one.is_neg() or one.is_nested) for one in tensors)
        and not forward_mode_is_active()
        and not dispatch_mode_is_active()
        and not is_jit_tracing()
    )


def is_readable(*tensors: Tensor | None) -> bool:
    """Return whether tensors can be read by address: equal dtypes, no pending negation, memory, and no batch."""
    given = [one for one in tensors if one is not None]
    return len({one.dtype for one in given}) == 1 and not any(
        one.is_neg() or is_zero_without_memory(one) or is_functorch_wrapper(one) for one in given
    )


def is_ordinary(x: Tensor, over: tuple[int, ...]) -> bool:
    """Return whether ``in_range`` changes no row, which is read from plain tensors in the memory of the CPU alone.

    A loop over the entries costs less than new rows there; on other devices, reading the result would wait for them.
    """
    if torch.compiler.is_compiling() or not (x.is_cpu and is_plain(x)):
        return False
    if not x.numel():
        return True
    length = float(torch.linalg.vector_norm(x.detach(), dim=over).amax())
    return length <= _limit(x.dtype) * math.sqrt(math.prod([x.shape[axis] for axis in over]))


def _limit(dtype: torch.dtype) -> float:
    """Return the size up to which tenth powers fit; the fourth derivative of a norm contains ninth powers."""
    return torch.finfo(torch.promote_types(dtype, torch.float32)).max ** 0.1


def in_range(
    x: Tensor, over: tuple[int, ...], *, centers: bool = False
) -> tuple[Tensor, Tensor | float, Tensor | float]:
    r"""Bring rows with very large entries into the range in which a norm and its derivatives can be computed.

    .. math:: x' = s (x - m), \quad \mathrm{norm}(x, \epsilon) = \mathrm{norm}(x', s \epsilon)

    for eps in the unit of the deviation (with :math:`s^2 \epsilon` for eps in the unit of the variance). s and m are
    constants for derivatives, which is exact: the equation holds for every s and m. Ordinary rows keep s = 1 and
    m = 0, and their bits. A row with an infinite entry or a NaN is not changed either.

    Args:
        x: Float32 or float64.
        over: The axes of a row.
        centers: Whether the norm subtracts the mean; m is zero otherwise.

    Returns:
        x', s and m; s and m have size 1 along ``over``, or are the numbers 1 and 0 if no row is changed.
    """
    if is_ordinary(x, over):
        return x, 1.0, 0.0
    given, most = x.detach(), torch.finfo(x.dtype).max
    high, low = given.amax(over, keepdim=True), given.amin(over, keepdim=True)
    size = torch.maximum(high, -low)
    spread = high / 2 - low / 2 if centers else size
    # The factor is a power of two, and neither it nor a number divided by it is subnormal.
    factor = torch.exp2(4 - torch.log2(spread).floor())
    scale = torch.where((spread > _limit(x.dtype)) & (spread <= most), factor, 1.0)
    if not centers:
        return x * scale, scale, 0.0
    count = x.numel() / high.numel()
    middle = torch.where((size > most / (4 * count)) & (size <= most), high / 2 + low / 2, 0.0)
    return x * scale - middle * scale, scale, middle
