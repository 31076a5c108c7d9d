"""What every norm checks before it computes: its shape, its numbers and its input."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

Shape = int | Sequence[int]
"""A width, or the sizes of several trailing axes, as torch's ``normalized_shape``."""


def as_shape(normalized_shape: Shape) -> tuple[int, ...]:
    """Return ``normalized_shape`` as a tuple of positive sizes.

    Args:
        normalized_shape: A width, or the sizes of the trailing axes.

    Returns:
        One positive size an axis, at least one axis.

    Raises:
        ValueError: If there is no axis, or a size is below one.
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or min(shape) < 1:
        raise ValueError(f"normalized_shape must hold one or more sizes of at least 1, got {normalized_shape}")
    return shape


def check_eps(eps: float) -> float:
    """Return ``eps`` if it can stand under a root.

    Args:
        eps: The number added to a variance, a mean square or a standard deviation.

    Returns:
        The same number.

    Raises:
        ValueError: If ``eps`` is negative, infinite or not a number.
    """
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps must be finite and at least 0, got {eps}")
    return eps


def check_input(module: nn.Module, x: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse an input that ``module`` cannot normalize.

    Args:
        module: The norm, for the words of the error.
        x: Its input.
        shape: The sizes its trailing axes must have.

    Raises:
        TypeError: If ``x`` is not of a floating dtype.
        ValueError: If the trailing axes of ``x`` do not have the sizes ``shape``.
    """
    if not x.is_floating_point():
        raise TypeError(f"{module} expects a floating dtype, got {x.dtype}")
    if x.shape[-len(shape) :] != shape:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{module} expects [..., {wanted}], got {list(x.shape)}")
