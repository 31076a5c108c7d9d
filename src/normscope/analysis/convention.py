"""Conventions of an implementation of a norm, determined from its outputs, and the closed form that they define."""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Divisor = Literal["biased", "unbiased", "length"]
Place = Literal["inside", "added", "least", "none"]
Scale = Literal["none", "w", "1 + w"]
Statistics = Literal["float32", "input"]
Order = Literal["scale, then cast", "cast, then scale"]
NormFunction = Callable[[Tensor], Tensor]

TOLERANCE = 1e-3
"""Largest relative misfit of the divisor that counts as a fit."""

_SIZES = torch.logspace(-14, 1, 61, dtype=torch.float64)
_VISIBLE = 1.05
"""Ratio of the divisor to that without eps from which a row is used to estimate eps."""


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One member of the family that :func:`closed_form` computes."""

    center: bool
    """Whether the mean is subtracted."""
    divisor: Divisor
    """s: root of the sum of squares divided by H or by H - 1, or the Euclidean length."""
    place: Place
    """Position of eps: inside the root, added to s, lower bound of the divisor, or absent."""
    eps: float
    scale: Scale
    """Factor on the normalized input: none, the weight w, or 1 + w."""
    bias: bool
    statistics: Statistics
    """dtype of the statistics of half-precision inputs: at least float32, or the dtype of the input."""
    order: Order
    """Whether a half-precision output is rounded after scaling, or before and again after it."""

    @property
    def description(self) -> str:
        """The convention in one line."""
        spread = {"biased": "mean square over H", "unbiased": "mean square over H - 1", "length": "Euclidean length"}
        eps = {
            "inside": f"eps {self.eps:.3g} inside the root",
            "added": f"eps {self.eps:.3g} added outside the root",
            "least": f"divisor at least eps {self.eps:.3g}",
            "none": "no eps",
        }
        scale = {"none": "no weight", "w": "scaled by w", "1 + w": "scaled by 1 + w"}
        order = f", {self.order}" if self.scale != "none" or self.bias else ""
        return (
            f"mean {'' if self.center else 'not '}subtracted, {spread[self.divisor]}, {eps[self.place]}, "
            f"{scale[self.scale]}{', bias' if self.bias else ''}, statistics in "
            f"{'float32' if self.statistics == 'float32' else 'the dtype of the input'}{order}"
        )

    def ratio(self, width: int) -> float:
        """Return the root of the biased mean square divided by s, for rows of ``width`` entries."""
        return {"biased": 1.0, "unbiased": ((width - 1) / width) ** 0.5, "length": width**-0.5}[self.divisor]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Result of :func:`fit_convention`."""

    convention: Convention | None
    """None if the implementation is outside the family."""
    weight: str | None
    """Name of the parameter w."""
    bias: str | None
    """Name of the parameter b."""
    misfit: float
    """Largest relative deviation of the divisor from the fitted one, over rows of standard deviation 1e-14 to 10."""
    agreement: float
    """Share of bfloat16 outputs that the fitted convention reproduces to the bit."""
    eps_follows_dtype: bool
    """Whether eps has another value in float64."""
    why: str = ""
    """Why the implementation is outside the family."""


def fit_convention(norm: NormFunction, width: int, *, generator: torch.Generator) -> Fit:
    """Determine the conventions of ``norm`` from its outputs on constructed rows.

    Weight and bias are identified by giving the parameters two sets of random values; divisor and eps by the size of
    the output for rows of one direction and 61 sizes; the order of casts by a bitwise comparison of bfloat16 outputs
    with every candidate. ``norm`` is left unchanged: copies of it are called.

    Args:
        norm: Maps ``[rows, width]`` to the same shape: a module, or a function without parameters.
        width: H, at least 3.
        generator: Draws the rows.

    Returns:
        The conventions. Norms such as AdaNorm, DyT or batch norm are outside the family: their output is not the
        centered or uncentered input divided by one number per row.

    Raises:
        ValueError: If ``width`` is below 3, or the shape of the output differs from that of the input.
    """
    if width < 3:
        raise ValueError(f"width must be at least 3, for the divisors to differ, got {width}")
    rows = torch.randn(32, width, dtype=torch.float64, generator=generator)
    rows = rows - rows.mean(-1, keepdim=True)
    rows = rows / rows.square().mean(-1, keepdim=True).sqrt()
    draws = [{name: _draw(p, generator) for name, p in _parameters(norm, width).items()} for _ in range(2)]
    outside = Fit(convention=None, weight=None, bias=None, misfit=math.inf, agreement=0.0, eps_follows_dtype=False)
    affine = _affine(norm, rows, draws)
    if affine is None:
        why = "its output is not a weight times the normalized input plus a bias"
        return replace(outside, why=why)
    scale, weight, bias = affine
    shifted = rows + 3.0
    center = _close(call_copy(norm, rows, draws[0]), call_copy(norm, shifted, draws[0]))
    fits = {
        dtype: _divisor(norm, rows[0], draws[0], scale, weight, bias, dtype) for dtype in (torch.float32, torch.float64)
    }
    divisor, place, eps, misfit = fits[torch.float32]
    if misfit > TOLERANCE:
        return replace(outside, misfit=misfit, why="no divisor of the family fits the size of its output")
    convention = Convention(
        center=center,
        divisor=divisor,
        place=place,
        eps=eps,
        scale=scale,
        bias=bias is not None,
        statistics="float32",
        order="scale, then cast",
    )
    found = replace(outside, weight=weight, bias=bias, misfit=misfit)
    wanted = evaluate(replace(found, convention=convention), shifted, draws[0])
    if not _close(call_copy(norm, shifted, draws[0]), wanted):
        return replace(outside, misfit=misfit, why="the closed form does not match on shifted rows")
    convention, agreement = _casts(norm, replace(found, convention=convention), shifted, draws[0])
    other = fits[torch.float64][2]
    follows = not math.isclose(eps, other, rel_tol=0.01) and max(eps, other) > 0
    return replace(found, convention=convention, agreement=agreement, eps_follows_dtype=follows)


def closed_form(convention: Convention, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    r"""Normalize the rows of ``x`` according to ``convention``, roundings included.

    Statistics in a half-precision dtype use the operation of published code, ``var``, ``std``, ``norm`` or the mean of
    squares; the first and the last of these overflow first.

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
    centered = wide - wide.mean(-1, keepdim=True) if convention.center else wide
    correction = 1 if convention.divisor == "unbiased" else 0
    if convention.divisor == "length":
        spread = torch.linalg.vector_norm(centered, dim=-1, keepdim=True)
    elif convention.center and convention.place != "inside":
        spread = wide.std(-1, correction=correction, keepdim=True)
    elif convention.center:
        spread = wide.var(-1, correction=correction, keepdim=True)
    else:
        spread = wide.square().mean(-1, keepdim=True) * (x.shape[-1] / (x.shape[-1] - correction))
        spread = spread if convention.place == "inside" else spread.sqrt()
    if convention.place == "inside":
        square = spread.square() if convention.divisor == "length" else spread
        divided_by = (square + convention.eps).sqrt()
    elif convention.place == "added":
        divided_by = spread + convention.eps
    elif convention.place == "least":
        divided_by = spread.clamp(min=convention.eps)
    else:
        divided_by = spread
    y = centered / divided_by
    if convention.order == "cast, then scale":
        y = y.to(x.dtype)
    if weight is not None:
        w = weight.to(y.dtype)
        y = y * (w if convention.scale == "w" else 1 + w)
    if bias is not None:
        y = y + bias.to(y.dtype)
    return y.to(x.dtype)


def call_copy(norm: NormFunction, x: Tensor, values: dict[str, Tensor] | None = None) -> Tensor:
    """Call a copy of ``norm`` in the dtype of ``x``, with other values for some parameters.

    Args:
        norm: A module, which is copied and cast, or a function, which is called as it is.
        x: ``[rows, H]``, moved to the device of the module.
        values: New values of parameters, by name.

    Returns:
        The output, in its original dtype, on the device of ``x``.

    Raises:
        ValueError: If the shape of the output differs from that of ``x``.
    """
    rows = x
    if isinstance(norm, nn.Module):
        norm = copy.deepcopy(norm).to(x.dtype)
        rows = x.to(next((tensor.device for tensor in norm.state_dict().values()), x.device))
        with torch.no_grad():
            for name, value in (values or {}).items():
                norm.get_parameter(name).copy_(value)
    with torch.no_grad():
        y = norm(rows)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        got = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"a norm must map {list(x.shape)} to the same shape, got {got}")
    return y.to(x.device)


def evaluate(fit: Fit, x: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Compute the fitted closed form of ``x`` in its dtype, with the parameters ``values``."""
    assert fit.convention is not None
    weight, bias = (None if name is None else values[name].to(x.dtype) for name in (fit.weight, fit.bias))
    return closed_form(fit.convention, x, weight, bias)


def _parameters(norm: NormFunction, width: int) -> dict[str, Tensor]:
    """Return the parameters that can be a weight or a bias."""
    if not isinstance(norm, nn.Module):
        return {}
    return {name: p for name, p in norm.named_parameters() if p.numel() in {1, width}}


def _draw(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Draw values for a parameter, away from zero and one, that are exact in every dtype."""
    return torch.empty(parameter.shape).uniform_(1.2, 2.0, generator=generator).bfloat16().double()


def _close(one: Tensor, other: Tensor) -> bool:
    """Return whether outputs of order one are equal to float32 precision, which some norms always compute in."""
    return bool((one.double() - other.double()).abs().max() <= 1e-4)


def _affine(
    norm: NormFunction, rows: Tensor, draws: list[dict[str, Tensor]]
) -> tuple[Scale, str | None, str | None] | None:
    """Identify scale, weight and bias by a regression of every feature of the output on that of the rows."""
    slopes, shifts = [], []
    for values in draws:
        h = call_copy(norm, rows, values).double()
        x = rows - rows.mean(0)
        slope = (h * x).sum(0) / (x * x).sum(0)
        shift = (h - slope * rows).mean(0)
        if not (h.isfinite().all() and _close(h, slope * rows + shift)):
            return None
        slopes.append(slope)
        shifts.append(shift)
    names = list(draws[0])
    candidates: list[tuple[Scale, str | None]] = [("none", None), *itertools.product(("w", "1 + w"), names)]
    factors = {
        key: torch.stack([slope / _scale(*key, values) for slope, values in zip(slopes, draws, strict=True)])
        for key in candidates
    }
    constant = [key for key, factor in factors.items() if (factor / factor.mean() - 1).abs().max() <= TOLERANCE]
    added = [name for name in names if all(_close(s, v[name].expand_as(s)) for s, v in zip(shifts, draws, strict=True))]
    nothing = all(_close(shift, torch.zeros_like(shift)) for shift in shifts)
    if len(constant) != 1 or not (nothing or added):
        return None
    return (*constant[0], None if nothing else added[0])


def _scale(scale: Scale, name: str | None, values: dict[str, Tensor]) -> Tensor:
    """Return the factor on the normalized input for parameters of the given values."""
    if name is None:
        return torch.ones((), dtype=torch.float64)
    return values[name] if scale == "w" else 1 + values[name]


def _divisor(
    norm: NormFunction,
    row: Tensor,
    values: dict[str, Tensor],
    scale: Scale,
    weight: str | None,
    bias: str | None,
    dtype: torch.dtype,
) -> tuple[Divisor, Place, float, float]:
    """Fit divisor, place and value of eps to the divisors of rows of many sizes, and return them with the misfit."""
    sizes = _SIZES.to(row.device)
    h = call_copy(norm, (sizes[:, None] * row).to(dtype), values).double()
    if bias is not None:
        h = h - values[bias]
    scaled = (_scale(scale, weight, values) * row).expand_as(row)
    share = (h @ scaled) / (scaled @ scaled)
    # Rounding of the bias hides the smallest outputs.
    seen = share.isfinite() & (share > (1e-3 if bias is not None else 0))
    sizes, divided_by = sizes[seen], sizes[seen] / share[seen]
    best: tuple[Divisor, Place, float, float] = ("biased", "none", 0.0, math.inf)
    for divisor, place in itertools.product(get_args(Divisor), ("none", "inside", "added", "least")):
        blank = Convention(
            center=True,
            divisor=divisor,
            place=place,
            eps=0.0,
            scale="none",
            bias=False,
            statistics="float32",
            order="scale, then cast",
        )
        s = sizes / blank.ratio(row.numel())
        shows = divided_by > _VISIBLE * s
        if place == "none" or not shows.any():
            eps, wanted = 0.0, s
        elif place == "inside":
            eps = float((divided_by**2 - s**2)[shows].median())
            wanted = (s**2 + eps).sqrt()
        elif place == "added":
            eps = float((divided_by - s)[shows].median())
            wanted = s + eps
        else:
            eps = float(divided_by[shows].median())
            wanted = s.clamp(min=eps)
        misfit = float((divided_by / wanted - 1).abs().max()) if len(sizes) else math.inf
        # Of equal fits the first is chosen, which has no eps.
        if misfit < best[3] - 1e-9:
            best = (divisor, place if eps else "none", _rounded(eps), misfit)
    return best


def _rounded(eps: float) -> float:
    """Round a fitted eps to a machine epsilon, or to three digits."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        if math.isclose(eps, torch.finfo(dtype).eps, rel_tol=0.002):
            return torch.finfo(dtype).eps
    return float(f"{eps:.3g}")


def _casts(norm: NormFunction, fit: Fit, rows: Tensor, values: dict[str, Tensor]) -> tuple[Convention, float]:
    """Choose dtype of statistics and order of casts by the share of bit-identical bfloat16 outputs."""
    assert fit.convention is not None
    x = rows.bfloat16()
    outputs = call_copy(norm, x, values).to(x.dtype)
    candidates: list[tuple[Statistics, Order]] = [("float32", "scale, then cast"), ("input", "cast, then scale")]
    if fit.weight is not None or fit.bias is not None:
        candidates.insert(1, ("float32", "cast, then scale"))
    shares = {}
    for statistics, order in candidates:
        convention = replace(fit.convention, statistics=statistics, order=order)
        equal = evaluate(replace(fit, convention=convention), x, values) == outputs
        shares[convention] = float(equal.double().mean())
    best = max(shares, key=lambda convention: shares[convention])
    return best, shares[best]
