"""The precision of a norm's statistics, and the axes they are taken over."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from normscope.norms.checks import check_input


def widen(x: Tensor) -> Tensor:
    """Return ``x`` in the dtype its statistics are computed in.

    Args:
        x: Any shape, any floating dtype.

    Returns:
        ``x`` itself if it is float32 or float64, a float32 copy if it is narrower.
    """
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def trailing(axes: int) -> tuple[int, ...]:
    """Return the last ``axes`` axes, counted from the end: ``trailing(2)`` is ``(-2, -1)``."""
    return tuple(range(-axes, 0))


def standardize(x: Tensor, eps: float, axes: int) -> Tensor:
    r"""Subtract the mean and divide by the standard deviation over the last ``axes`` axes.

    .. math:: y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}, \quad \sigma^2 = \frac{1}{H} \sum_i (x_i - \mu)^2

    The variance is taken of the centered input, so that a large mean costs no digits of it.

    Args:
        x: Float32 or float64.
        eps: Added to the variance.
        axes: How many trailing axes make a row.

    Returns:
        The shape and dtype of ``x``.
    """
    over = trailing(axes)
    centered = x - x.mean(over, keepdim=True)
    variance = centered.square().mean(over, keepdim=True)
    return centered * (variance + eps).rsqrt()


def defined(
    module: nn.Module, definition: Callable[[Tensor], Tensor], x: Tensor, residual: Tensor | None
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute a norm by differentiable operations.

    Args:
        module: The norm, for the words of an error, with its ``normalized_shape``.
        definition: What it computes.
        x: ``[..., D]``.
        residual: Added to ``x`` before; None for none.

    Returns:
        The norm of ``x``; with a residual the norm of the sum, and the sum.

    Raises:
        TypeError: If ``x`` is not of a floating dtype.
        ValueError: If the trailing axes of ``x`` differ, or the residual is of another shape or dtype.
    """
    check_input(module, x, module.normalized_shape)  # pyright: ignore[reportArgumentType]
    if residual is None:
        return definition(x)
    if (residual.shape, residual.dtype) != (x.shape, x.dtype):
        wanted, got = ((list(one.shape), one.dtype) for one in (x, residual))
        raise ValueError(f"{module} expects a residual like its input, {wanted}, got {got}")
    total = x + residual
    return definition(total), total
