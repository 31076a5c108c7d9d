"""Conventions of an implementation of a norm, determined from its outputs."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor, nn

from normscope.analysis.convention import (
    Convention,
    Division,
    Divisor,
    Order,
    Place,
    Scale,
    Width,
    closed_form,
    rounding_bound,
)

NormFunction = Callable[[Tensor], Tensor]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

TOLERANCE = 1e-3
"""Largest relative misfit of the divisor that counts as a fit."""

AGREEMENT = 0.98
"""Smallest share of equal half-precision outputs from which the roundings count as recognized."""

_SIZES = torch.logspace(-14, 1, 61, dtype=torch.float64)
_VISIBLE = 1.05
"""Ratio of the divisor to that without eps from which a row is used to estimate eps."""


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
    """Share of bfloat16 and float16 outputs that the fitted convention reproduces to the bit."""
    eps_follows_dtype: bool
    """Whether eps has another value in float64."""
    unexplained: str = ""
    """Where the outputs differ from the fitted closed form by more than rounding explains; empty if nowhere."""
    why: str = ""
    """Why the implementation is outside the family."""

    @property
    def recognized(self) -> bool:
        """Whether the closed form reproduces the outputs in every dtype, most of them to the bit in half precision."""
        return self.convention is not None and self.agreement >= AGREEMENT and not self.unexplained

    @property
    def description(self) -> str:
        """What is known of the conventions, in one line; of those in half precision only if they are recognized."""
        if self.convention is None:
            return f"outside the family of layer and RMS norms: {self.why}"
        follows = "; in float64, eps has another value" if self.eps_follows_dtype else ""
        if self.recognized:
            return self.convention.description + follows
        seen = [f"which has the same bits in {100 * self.agreement:.3g}% of the outputs"] * (self.agreement < AGREEMENT)
        seen += [self.unexplained] * bool(self.unexplained)
        return (
            f"{self.convention.formula}{follows}; conventions of its rounding not recognized, nearest is "
            f"{self.convention.roundings}, {' and '.join(seen)}"
        )


def fit_convention(norm: NormFunction, width: int, *, generator: torch.Generator) -> Fit:
    """Determine the conventions of ``norm`` from its outputs on constructed rows.

    Weight and bias are identified by giving the parameters two sets of random values; divisor and eps by the size of
    the output for rows of one direction and 61 sizes; a one-pass variance by its errors on shifted rows; the roundings
    in half precision by a bitwise comparison of bfloat16 and float16 outputs with every candidate. In the end the
    closed form is compared with the outputs on all kinds of rows and dtypes. ``norm`` is left unchanged: copies of it
    are called.

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
    found = replace(found, convention=convention)
    kinds = inputs(width, len(rows), generator=generator)
    if center and not _explained(norm, found, shifted.float() + 300, draws[0])[1]:
        one_pass = replace(found, convention=replace(convention, variance="one-pass"))
        found = one_pass if _explained(norm, one_pass, shifted.float() + 300, draws[0])[1] else found
    found = _fit_roundings(norm, found, {**kinds, "offset": shifted}, draws[0])
    other = fits[torch.float64][2]
    follows = not math.isclose(eps, other, rel_tol=0.01) and max(eps, other) > 0
    return replace(found, unexplained=_unexplained(norm, found, kinds, draws[0]), eps_follows_dtype=follows)


def inputs(width: int, rows: int, *, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the rows to compare norms on: ``[rows, width]`` float64 of every kind.

    ``large`` rows are within the range of float16, but their squares are not; ``constant`` rows have zero variance.
    """
    normal = torch.randn(rows, width, dtype=torch.float64, generator=generator)
    level = torch.randn(rows, 1, dtype=torch.float64, generator=generator)
    return {
        "normal": normal,
        "shifted": normal + 1e3,
        "tiny": 1e-3 * normal,
        "constant": level.expand(rows, width).clone(),
        "large": (1e4 * normal).clamp(-6e4, 6e4),
    }


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


def _fit_roundings(norm: NormFunction, fit: Fit, kinds: Mapping[str, Tensor], values: dict[str, Tensor]) -> Fit:
    """Choose the conventions in half precision by the share of bit-identical outputs.

    Rows whose statistics lose all digits in the dtype of the input say nothing of the order of operations.
    """
    assert fit.convention is not None
    rows = [kinds[kind].to(dtype) for dtype in DTYPES[1:] for kind in ("normal", "offset", "large")]
    outputs = [call_copy(norm, x, values).to(x.dtype) for x in rows]
    best = replace(fit, agreement=-1.0)
    for convention in _roundings(fit.convention):
        candidate = replace(fit, convention=convention)
        equal = [
            torch.isclose(evaluate(candidate, x, values), y, rtol=0, atol=0, equal_nan=True)
            for x, y in zip(rows, outputs, strict=True)
        ]
        share = float(torch.stack(equal).double().mean())
        # Of equal shares the first is chosen, which is the simplest.
        if share > best.agreement:
            best = replace(candidate, agreement=share)
    return best


def _roundings(convention: Convention) -> Iterator[Convention]:
    """Yield the conventions in half precision that give different closed forms, the simplest first."""
    widths = get_args(Width)
    scales = convention.scale != "none" or convention.bias
    choices = itertools.product(get_args(Order), widths, widths, widths, get_args(Division))
    for order, statistics, squares, factor, division in choices:
        narrow = statistics == "input"
        same_as_another = (
            (division == "reciprocal" and not narrow and order != "cast, then normalize")
            or (factor == "input" and convention.scale != "1 + w")
            or (order == "cast, then scale" and not narrow and not scales)
            or (order in {"scale, then cast", "cast, then normalize"} and narrow)
            or (order == "scale, then normalize" and convention.scale == "none")
        )
        if not same_as_another:
            yield replace(
                convention, statistics=statistics, order=order, squares=squares, factor=factor, division=division
            )


def _unexplained(norm: NormFunction, fit: Fit, kinds: Mapping[str, Tensor], values: dict[str, Tensor]) -> str:
    """Name the rows with the largest difference that rounding does not explain; return "" if there is none."""
    differences = {}
    for dtype, (kind, rows) in itertools.product(DTYPES, kinds.items()):
        largest, explained = _explained(norm, fit, rows.to(dtype), values)
        if not explained:
            differences[f"on {kind} rows in {str(dtype).removeprefix('torch.')}"] = largest
    if not differences:
        return ""
    where = max(differences, key=lambda key: differences[key])
    size = f"by {differences[where]:.2g}" if math.isfinite(differences[where]) else "in where they are finite"
    return f"from which the outputs {where} differ {size}"


def _explained(norm: NormFunction, fit: Fit, x: Tensor, values: dict[str, Tensor]) -> tuple[float, bool]:
    """Return the largest difference from the fitted closed form, and whether rounding explains all of them."""
    outputs, wanted = call_copy(norm, x, values).to(x.dtype), evaluate(fit, x, values)
    return within_rounding(outputs, wanted, bound_of(fit, x, values))


def bound_of(fit: Fit, x: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Bound the rounding errors of the fitted closed form on the rows of ``x``, with the parameters ``values``."""
    assert fit.convention is not None
    weight, bias = (None if name is None else values[name].to(x.dtype) for name in (fit.weight, fit.bias))
    return rounding_bound(fit.convention, x, weight, bias)


def within_rounding(one: Tensor, other: Tensor, bound: Tensor) -> tuple[float, bool]:
    """Return the largest difference, infinite if only one is finite, and whether all are within ``bound``."""
    lost = ~one.isfinite() & ~other.isfinite()
    difference = (one.double() - other.double()).abs().masked_fill(lost, 0.0)
    difference = difference.where(one.isfinite() == other.isfinite(), torch.inf)
    beyond = difference > bound
    return float(difference.where(beyond, 0.0).max()) if beyond.any() else float(difference.max()), not beyond.any()
