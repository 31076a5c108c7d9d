"""The precision of a norm's statistics, and the axes they are taken over."""

import torch
from torch import Tensor


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
