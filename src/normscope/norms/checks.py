"""Checks of the arguments and inputs of norms."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from torch import Tensor, nn

from normscope.torch_internals import parameters_of

Shape = int | Sequence[int]
"""A width, or the sizes of several trailing axes, as torch's ``normalized_shape``."""


def as_shape(normalized_shape: Shape) -> tuple[int, ...]:
    """Return ``normalized_shape`` as a tuple of positive sizes.

    Args:
        normalized_shape: A width, or the sizes of the trailing axes.

    Returns:
        One positive size per axis, at least one axis.

    Raises:
        TypeError: If it is not an int or an iterable of ints.
        ValueError: If there is no axis, or a size is below one.
    """
    given = normalized_shape
    sizes = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes):
        raise TypeError(f"normalized_shape must be an int or a sequence of ints, got {given!r}")
    if not sizes or min(sizes) < 1:
        raise ValueError(f"normalized_shape must hold one or more sizes of at least 1, got {given}")
    return tuple(int(size) for size in sizes)


def check_eps(eps: float) -> float:
    """Return ``eps`` if it can be added under a square root.

    Args:
        eps: The number added to a variance, a mean square or a standard deviation.

    Returns:
        The same number.

    Raises:
        TypeError: If ``eps`` is not a real number.
        ValueError: If ``eps`` is negative, infinite or NaN.
    """
    return check_number("eps", eps, least=0)


def check_number(
    name: str, value: float, *, least: float = -math.inf, most: float = math.inf, above: float = -math.inf
) -> float:
    """Return ``value`` if it is finite and within its bounds.

    Args:
        name: Name of the argument, for the error message.
        value: The number.
        least: Inclusive lower bound.
        most: Inclusive upper bound.
        above: Exclusive lower bound.

    Returns:
        The same number.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is infinite, NaN or out of bounds.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and least <= value <= most and value > above):
        bounds = {"at least": least, "at most": most, "above": above}
        limits = [f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound)]
        raise ValueError(f"{name} must be {' and '.join(['finite', *limits])}, got {value}")
    return value


def example_width(arguments: Mapping[str, Any]) -> int:
    """Return a width that a norm with these arguments can have: 8, or a multiple of ``num_groups``.

    Args:
        arguments: Keyword arguments of a norm.
    """
    groups = arguments.get("num_groups")
    return 8 * groups if isinstance(groups, int) and groups > 0 else 8


def check_input(module: nn.Module, x: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse an input that ``module`` cannot normalize.

    Args:
        module: The norm, for the error message.
        x: Its input.
        shape: The expected sizes of the trailing axes.

    Raises:
        TypeError: If ``x`` is not of a floating dtype, or a parameter of the norm is complex.
        ValueError: If the trailing axes of ``x`` do not have the sizes ``shape``.
    """
    complex_parameter = any(p is not None and p.dtype.is_complex for p in parameters_of(module).values())
    if x.is_complex() or complex_parameter:
        got = f"parameters of {next(module.parameters()).dtype}" if complex_parameter else x.dtype
        raise TypeError(
            f"{module} expects a floating dtype, got {got}: the size of complex numbers is not defined here (torch's "
            "RMSNorm takes z², not |z|²). Normalize torch.view_as_real(x), or use torch's class"
        )
    if not x.is_floating_point():
        raise TypeError(f"{module} expects a floating dtype, got {x.dtype}")
    if x.shape[-len(shape) :] != shape:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{module} expects [..., {wanted}], got {list(x.shape)}")
