"""Conventions of implementations of layer and RMS norms, and the closed form that they define, roundings included."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Divisor = Literal["biased", "unbiased", "length"]
Variance = Literal["two-pass", "one-pass"]
Place = Literal["inside", "added", "least", "none"]
Scale = Literal["none", "w", "1 + w"]
Width = Literal["float32", "input"]
Division = Literal["quotient", "reciprocal"]
Order = Literal["scale, then cast", "cast, then scale", "scale, then normalize", "cast, then normalize"]

_GENEROSITY = 8
"""Factor on the first-order bound of rounding errors: several roundings add up."""


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One member of the family that :func:`closed_form` computes.

    The fields from ``statistics`` on make a difference in half precision only.
    """

    center: bool
    """Whether the mean is subtracted."""
    divisor: Divisor
    """s: root of the sum of squares divided by H or by H - 1, or the Euclidean length."""
    variance: Variance = "two-pass"
    """Whether the mean is subtracted before squaring, or its square afterwards: E[x^2] - E[x]^2, which cancels."""
    place: Place
    """Position of eps: inside the root, added to s, lower bound of the divisor, or absent."""
    eps: float
    scale: Scale
    """Factor on the normalized input: none, the weight w, or 1 + w."""
    bias: bool
    statistics: Width
    """dtype of mean, s and divisor for half-precision inputs: at least float32, or the dtype of the input."""
    squares: Width = "float32"
    """dtype that the squares are rounded to, one by one, before they are summed."""
    division: Division = "quotient"
    """Whether the input is divided or multiplied by the reciprocal, where that is rounded to half precision."""
    factor: Width = "float32"
    """dtype of the sum 1 + w."""
    order: Order
    """Where a half-precision result is rounded: once at the end; normalized, before scaling; the divisor, before
    normalizing; or the input times the weight, before normalizing."""

    @property
    def description(self) -> str:
        """The convention in one line."""
        return f"{self.formula}, {self.roundings}"

    @property
    def formula(self) -> str:
        """The part that makes a difference in every precision."""
        spread = {"biased": "mean square over H", "unbiased": "mean square over H - 1", "length": "Euclidean length"}
        eps = {
            "inside": f"eps {self.eps:.3g} inside the root",
            "added": f"eps {self.eps:.3g} added outside the root",
            "least": f"divisor at least eps {self.eps:.3g}",
            "none": "no eps",
        }
        scale = {"none": "no weight", "w": "scaled by w", "1 + w": "scaled by 1 + w"}
        return (
            f"mean {'' if self.center else 'not '}subtracted, {spread[self.divisor]}"
            f"{' as E[x^2] - E[x]^2' if self.variance == 'one-pass' else ''}, {eps[self.place]}, "
            f"{scale[self.scale]}{', bias' if self.bias else ''}"
        )

    @property
    def roundings(self) -> str:
        """The part that makes a difference in half precision only."""
        parts = [f"statistics in {_dtype(self.statistics)}"]
        if self.squares == "input":
            parts.append("squares in the dtype of the input")
        if self.division == "reciprocal":
            parts.append("multiplied by the rounded reciprocal")
        if self.factor == "input":
            parts.append("1 + w in the dtype of the input")
        if self.scale != "none" or self.bias or self.order == "cast, then normalize":
            parts.append(self.order)
        return ", ".join(parts)

    def ratio(self, width: int) -> float:
        """Return the root of the biased mean square divided by s, for rows of ``width`` entries."""
        return {"biased": 1.0, "unbiased": ((width - 1) / width) ** 0.5, "length": width**-0.5}[self.divisor]


def closed_form(convention: Convention, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    r"""Normalize the rows of ``x`` according to ``convention``, roundings included.

    .. math:: h = G \odot \frac{x - \mu}{d} + b, \quad d = \sqrt{s^2 + \epsilon}, \; s + \epsilon, \; \max(s, \epsilon)
        \text{ or } s

    Args:
        convention: Conventions to follow.
        x: ``[..., H]``, any floating dtype.
        weight: w, ``[H]`` or ``[1]``; G is w or 1 + w. Required if and only if the convention has one.
        bias: b, ``[H]`` or ``[1]``. Required if and only if the convention has one.

    Returns:
        The shape and dtype of ``x``.

    Raises:
        ValueError: If weight or bias is missing, or given although the convention has none.

    References:
        Ba et al. (2016), arXiv:1607.06450, eqs. (15)-(16); Zhang, Sennrich (2019), arXiv:1910.07467, eq. (4). The
        conventions are those of published code.
    """
    if (weight is None) != (convention.scale == "none") or (bias is None) != (not convention.bias):
        given = f"{'no ' * (weight is None)}weight and {'no ' * (bias is None)}bias"
        raise ValueError(f"{convention.description}: got {given}")
    wide = x if convention.statistics == "input" else x.to(torch.promote_types(x.dtype, torch.float32))
    y = wide - wide.mean(-1, keepdim=True) if convention.center else wide
    by = _divisor(convention, x, reciprocal=convention.division == "reciprocal")
    if weight is not None and convention.scale == "1 + w":
        wide_weight = weight if convention.factor == "input" else weight.to(torch.promote_types(x.dtype, torch.float32))
        weight = 1 + wide_weight
    if convention.order == "scale, then cast":
        weight, bias = (None if one is None else one.to(wide.dtype) for one in (weight, bias))
    elif convention.order != "cast, then scale":
        y = y.to(x.dtype)
    if convention.order == "cast, then normalize":
        by = by.to(x.dtype)
    if convention.order == "scale, then normalize" and weight is not None:
        y, weight = weight * y, None
    y = y * by if convention.division == "reciprocal" else y / by
    if convention.order == "cast, then scale":
        y = y.to(x.dtype)
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    return y.to(x.dtype)


def _divisor(convention: Convention, x: Tensor, *, reciprocal: bool = False) -> Tensor:
    """Compute what the rows of ``x`` are divided by, or its reciprocal, with the roundings of ``convention``.

    Where squares are not rounded to half precision it is computed by torch's ``var``, ``std`` and ``vector_norm``, as
    published code does: the squares of float16 overflow at 256, these only where the result does.
    """
    wide = x if convention.statistics == "input" else x.to(torch.promote_types(x.dtype, torch.float32))
    rounded = convention.squares == "input" or convention.variance == "one-pass"
    rounded = rounded or not (convention.center or convention.divisor == "length" or convention.statistics == "input")
    correction, length = int(convention.divisor == "unbiased"), convention.divisor == "length"
    inside = convention.place == "inside"
    if rounded:
        mean = wide.mean(-1, keepdim=True)
        from_mean = convention.center and convention.variance == "two-pass"
        values = wide - mean if from_mean else wide
        values = values.to(x.dtype if convention.squares == "input" else wide.dtype)
        squares = values.square().to(wide.dtype)
        spread = squares.sum(-1, keepdim=True) if length else squares.mean(-1, keepdim=True)
        if convention.variance == "one-pass":
            spread = spread - mean.square() * (x.shape[-1] if length else 1)
        if correction:
            spread = spread * (x.shape[-1] / (x.shape[-1] - 1))
        spread = spread if inside else spread.sqrt()
    elif convention.center and not length:
        by = wide.var if inside else wide.std
        spread = by(-1, correction=correction, keepdim=True)
    else:
        values = wide - wide.mean(-1, keepdim=True) if convention.center else wide
        spread = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        spread = spread if length else spread * (x.shape[-1] - correction) ** -0.5
        spread = spread.square() if inside else spread
    if inside:
        square = spread + convention.eps
        return square.rsqrt() if reciprocal else square.sqrt()
    if convention.place == "added":
        spread = spread + convention.eps
    elif convention.place == "least":
        spread = spread.clamp(min=convention.eps)
    return 1 / spread if reciprocal else spread


def rounding_bound(
    convention: Convention, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    r"""Bound the rounding errors of any implementation of ``convention`` on the rows of ``x``, to first order.

    .. math:: 8 \, |G| \left( u \, |y| + u_\mu \frac{\max |x|}{d} + |y| \, \frac{\Delta d}{d} \right)
        + 8 \, u \, |b|

    u is the machine epsilon of the dtype of ``x``, :math:`u_\mu` that of the mean, and :math:`\Delta d` what an error
    of :math:`(u_s + u_{32} \sqrt{H}) \, s^2 + (u_\mu \max |x|)^2` in the mean square changes in the divisor; with a
    one-pass variance :math:`u_s E[x^2]` is added.

    Args:
        convention: Conventions of the implementation.
        x: ``[..., H]``, the input in its dtype.
        weight: w, as in :func:`closed_form`.
        bias: b, as in :func:`closed_form`.

    Returns:
        float64 of the shape of ``x``; infinite where a row without spread is divided by its spread, and where the
        error of the divisor is not small.
    """
    exact, narrow = x.double(), torch.finfo(x.dtype)
    single = torch.finfo(torch.promote_types(x.dtype, torch.float32))
    mean = narrow if convention.statistics == "input" else single
    rounded = convention.squares == "input" or convention.order == "cast, then normalize"
    squares = narrow if convention.statistics == "input" or rounded else single
    y = exact - exact.mean(-1, keepdim=True) if convention.center else exact
    spread, total = (values.square().mean(-1, keepdim=True) for values in (y, exact))
    largest = exact.abs().amax(-1, keepdim=True)
    by = _divisor(convention, exact)
    # Sums in float32 lose more in long rows.
    summed = single.eps * x.shape[-1] ** 0.5
    missed = (squares.eps + summed) * spread + (mean.eps * largest).square() * convention.center
    missed = missed + squares.eps * total * (convention.variance == "one-pass") + squares.smallest_normal * squares.eps
    unit = by * convention.ratio(x.shape[-1])
    root = unit if convention.place == "inside" else spread.sqrt()
    relative = torch.minimum(missed.sqrt(), missed / (2 * root)) / unit
    error = (y / by).abs() * (narrow.eps + relative) + mean.eps * largest / by * convention.center
    if weight is not None:
        error = error * (weight.double() if convention.scale == "w" else 1 + weight.double()).abs()
    if bias is not None:
        error = error + narrow.eps * bias.double().abs()
    # Numbers below the normal ones are rounded to multiples of the smallest one.
    error = _GENEROSITY * (error + narrow.smallest_normal * narrow.eps)
    return torch.where(error.isnan() | (_GENEROSITY * relative > 1), torch.inf, error)


def _dtype(width: Width) -> str:
    return "float32" if width == "float32" else "the dtype of the input"
