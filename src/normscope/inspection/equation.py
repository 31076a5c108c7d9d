"""The equation of an unknown norm, identified from the rows that it maps to each other."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from normscope.norms.traits import EpsPlace

TOLERANCE = 2e-5
"""Relative: ten float32 roundings and more; from a width of 25,000 on, the divisors n and n - 1 differ by less."""


@dataclass(frozen=True, kw_only=True)
class Equation:
    """A layer norm or an RMS norm, as a module was observed to compute it."""

    kind: Literal["layer_norm", "rms_norm"]
    width: int
    eps: float
    eps_place: EpsPlace
    weight: str | None
    """Name of the parameter that multiplies."""
    bias: str | None
    """Name of the parameter that is added."""
    unit_offset: bool
    """Whether the factor is one plus the weight."""
    unbiased: bool
    """Whether the divisor of the variance is n - 1."""
    channels_first: bool
    """Whether the features are on axis 1."""
    spatial: tuple[int, ...] = ()
    """Sizes of the axes after the features in the input on which it was observed."""


def matching(
    x: Tensor, z: Tensor, parameters: Mapping[str, Tensor], candidates: Sequence[float], *, channels_first: bool
) -> Equation | None:
    """Find the equation that maps the rows of ``x`` to those of ``z``.

    Args:
        x: ``[..., D]``, float64.
        z: ``[..., D]``, a module's output for ``x``.
        parameters: The module's parameters, by name.
        candidates: Values of eps to try, in this order; zero is tried last, as without an eps all its places agree.
        channels_first: Whether the module has its features on axis 1.

    Returns:
        None if no equation matches.
    """
    roles = [
        (weight, bias)
        for weight, bias in itertools.permutations([*parameters, None], 2)
        if {*parameters} <= {weight, bias} and (weight is not None or bias is None)
    ] or [(None, None)]
    tried = sorted(dict.fromkeys(candidates), key=lambda eps: eps == 0)
    kinds: tuple[Literal["rms_norm", "layer_norm"], ...] = ("rms_norm", "layer_norm")
    places: tuple[EpsPlace, ...] = ("variance", "deviation", "length")
    largest = z.abs().amax()
    for eps, kind, place, unbiased in itertools.product(tried, kinds, places, (False, True)):
        if unbiased and (kind == "rms_norm" or place == "length"):
            continue
        centered, size = _centered_and_size(x, kind, place, eps, unbiased)
        y = centered / size
        for (weight, bias), offset in itertools.product(roles, (False, True)):
            if (_affine(y, parameters, weight, bias, offset) - z).abs().amax() <= TOLERANCE * largest:
                return Equation(
                    kind=kind,
                    width=x.shape[-1],
                    eps=eps,
                    eps_place=place,
                    weight=weight,
                    bias=bias,
                    unit_offset=offset,
                    unbiased=unbiased,
                    channels_first=channels_first,
                )
    return None


def value_of(equation: Equation, x: Tensor, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute an equation.

    Args:
        equation: The equation.
        x: Rows ``[..., D]``.
        parameters: By name.

    Returns:
        The output ``[..., D]`` and the divisor of every row ``[..., 1]``.
    """
    centered, size = _centered_and_size(x, equation.kind, equation.eps_place, equation.eps, equation.unbiased)
    return _affine(centered / size, parameters, equation.weight, equation.bias, equation.unit_offset), size


def _centered_and_size(x: Tensor, kind: str, place: str, eps: float, unbiased: bool) -> tuple[Tensor, Tensor]:
    width = x.shape[-1]
    centered = x - x.mean(-1, keepdim=True) if kind == "layer_norm" else x
    square = centered.square().sum(-1, keepdim=True)
    if place == "length":
        return centered, square.sqrt().clamp(min=max(eps, 1e-300)) / width**0.5
    mean = square / max(width - unbiased, 1)
    return centered, (mean + eps).sqrt() if place == "variance" else mean.sqrt() + eps


def _affine(y: Tensor, parameters: Mapping[str, Tensor], weight: str | None, bias: str | None, offset: bool) -> Tensor:
    scaled = y if weight is None else y * (parameters[weight].reshape(-1) + offset)
    return scaled if bias is None else scaled + parameters[bias].reshape(-1)
