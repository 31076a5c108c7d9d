"""The precision of a norm's statistics, their axes, and the computation without a kernel."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from normscope.kernels.scaling import in_range
from normscope.norms.checks import check_input
from normscope.norms.nested import over_rows


def widen(x: Tensor) -> Tensor:
    """Return ``x`` in the dtype in which its statistics are computed.

    Args:
        x: Any shape, any floating dtype.

    Returns:
        ``x`` itself if it is float32 or float64, a float32 copy if it is narrower.
    """
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def trailing(axes: int) -> tuple[int, ...]:
    """Return the last ``axes`` axes, counted from the end: ``trailing(2)`` is ``(-2, -1)``."""
    return tuple(range(-axes, 0))


def length(x: Tensor, over: tuple[int, ...]) -> Tensor:
    """Return the Euclidean length over axes that are kept with size 1; its derivative at a row of zeros is zero.

    Torch's vector norm gives the same numbers, but fails to be differentiated in nested forward and reverse modes.
    """
    square = x.square().sum(over, keepdim=True)
    zero = square == 0
    return square.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def standardize(x: Tensor, eps: float, axes: int) -> Tensor:
    r"""Subtract the mean and divide by the standard deviation over the last ``axes`` axes.

    .. math:: y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}, \quad \sigma^2 = \frac{1}{H} \sum_i (x_i - \mu)^2

    The variance is computed from the centered input, so that a large mean does not cost precision, and in a unit in
    which the squares of the largest entries do not overflow.

    Args:
        x: Float32 or float64.
        eps: Added to the variance.
        axes: Number of trailing axes in a row.

    Returns:
        The shape and dtype of ``x``.
    """
    over = trailing(axes)
    x, scale, _ = in_range(x, over, centers=True)
    centered = x - x.mean(over, keepdim=True)
    variance = centered.square().mean(over, keepdim=True)
    return centered * (variance + eps * scale * scale).rsqrt()


def defined(
    module: nn.Module, definition: Callable[[Tensor], Tensor], x: Tensor, residual: Tensor | None
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute a norm by differentiable operations.

    Args:
        module: The norm, for its ``normalized_shape`` and error messages.
        definition: The function that it computes.
        x: ``[..., D]``.
        residual: Added to ``x`` first, if it is not None.

    Returns:
        The norm of ``x``, contiguous; with a residual the norm of the sum, and the sum.

    Raises:
        TypeError: If ``x`` is not of a floating dtype.
        ValueError: If the trailing axes of ``x`` differ, or the residual has another shape or dtype.
    """
    if x.is_nested:
        return over_rows(module, x, residual)
    check_input(module, x, module.normalized_shape)  # pyright: ignore[reportArgumentType]
    if residual is None:
        return definition(x).contiguous()
    if (residual.shape, residual.dtype) != (x.shape, x.dtype):
        wanted, got = ((list(each.shape), each.dtype) for each in (x, residual))
        raise ValueError(f"{module} expects a residual like its input, {wanted}, got {got}")
    total = x + residual
    return definition(total).contiguous(), total
