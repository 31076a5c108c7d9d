"""Comparison of two implementations of a norm in several dtypes, and the conventions in which they differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from normscope.analysis.convention import Convention, closed_form
from normscope.analysis.fit_convention import (
    DTYPES,
    Fit,
    NormFunction,
    bound_of,
    call_copy,
    evaluate,
    fit_convention,
    inputs,
    within_rounding,
)
from normscope.arguments import check_arguments
from normscope.inspection.preserve_state import random_states_kept

CONVENTIONS = {
    "center": "whether the mean is subtracted",
    "divisor": "the divisor",
    "variance": "the computation of the variance",
    "place": "the position of eps",
    "eps": "the value of eps",
    "scale": "the factor on the output",
    "bias": "whether there is a bias",
    "statistics": "the dtype of the statistics",
    "squares": "the dtype of the squares",
    "division": "the operation that normalizes",
    "factor": "the dtype of 1 + w",
    "order": "the order of casts",
}
"""Descriptions of the fields of `Convention`."""

ROUNDINGS = frozenset({"statistics", "squares", "division", "factor", "order"})
"""Fields that make a difference in half precision only."""


@dataclass(frozen=True, kw_only=True)
class Departure:
    """A convention in which the two implementations differ, and its effect by itself."""

    convention: str
    """Key of :data:`CONVENTIONS`."""
    first: str
    second: str
    effects: dict[str, float]
    """Largest absolute change of the first closed form if only this convention is taken from the second, over all kinds
    of rows, by dtype."""
    worst: str
    """Kind of rows with the largest change."""
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of the two implementations, with their original parameters, on one kind of rows in one dtype."""

    rows: str
    """Key of :func:`inputs`."""
    dtype: str
    difference: float | None
    """Largest absolute difference of the outputs; None if it is not finite."""
    first_error: float | None
    """Largest absolute error of the first relative to its float64 reference; None if it is not finite."""
    second_error: float | None
    first_not_finite: int
    """Number of entries of the first output that are infinite or NaN."""
    second_not_finite: int
    within_rounding: bool | None
    """Whether rounding explains the difference, if both follow the conventions of the first with its parameters; None
    if the first is outside the family."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Result of :func:`parity`."""

    names: tuple[str, str]
    width: int
    first: Fit
    second: Fit
    differences: tuple[Difference, ...]
    departures: tuple[Departure, ...]
    """Conventions in which they differ. Empty if either is outside the family; those that make a difference in half
    precision only are left out if those of either are not recognized."""

    @property
    def same_conventions(self) -> bool:
        """Whether the conventions of both are recognized and equal, and all measured differences within rounding."""
        recognized = self.first.recognized and self.second.recognized and not self.departures
        return recognized and all(difference.within_rounding for difference in self.differences)

    @property
    def reading(self) -> str:
        """Results, their usual causes and what to try, as plain text."""
        sentences = [
            f"{name}{' is' if fit.convention is None else ':'} {fit.description}."
            for name, fit in zip(self.names, (self.first, self.second), strict=True)
        ]
        sentences += [departure.sentence for departure in self.departures]
        if self.same_conventions:
            sentences.append("They follow the same conventions; the remaining differences are rounding.")
        elif not self.departures and self.first.convention is not None and self.second.convention is not None:
            sentences.append(self._unexplained)
        for name, place in zip(self.names, ("first", "second"), strict=True):
            lost = [d for d in self.differences if getattr(d, f"{place}_not_finite")]
            if lost:
                kinds = ", ".join(f"{d.rows} rows in {d.dtype}" for d in lost)
                sentences.append(f"{name} returns numbers that are not finite on {kinds}.")
        for dtype in dict.fromkeys(d.dtype for d in self.differences):
            known = [d for d in self.differences if d.dtype == dtype and d.difference is not None]
            if known:
                worst = max(known, key=lambda d: d.difference or 0.0)
                sentences.append(f"Largest difference in {dtype}: {worst.difference:.2g}, on {worst.rows} rows.")
        if self.departures:
            sentences.append(
                "Such differences are usually introduced by porting code; weights should be used with the convention "
                "under which they were trained. To align the implementations, give both the same eps in the same "
                "place, then the same divisor, then the same order of casts, and measure again."
            )
        return " ".join(sentences)

    @property
    def _unexplained(self) -> str:
        """What is known of two norms without departures, of which it cannot be said that they are the same."""
        beyond = [d for d in self.differences if not d.within_rounding]
        if not beyond:
            return (
                "No difference beyond rounding was measured, but not all of their conventions are recognized: other "
                "inputs can show one."
            )
        worst = max(beyond, key=lambda d: math.inf if d.difference is None else d.difference)
        size = "in where they are finite" if worst.difference is None else f"by {worst.difference:.2g}"
        where = f"they differ {size} on {worst.rows} rows in {worst.dtype}, more than rounding explains"
        if self.first.recognized and self.second.recognized:
            return f"They follow the same conventions, yet {where}: compare their parameters."
        return f"The conventions that are recognized of both are the same, yet {where}."

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain dictionaries, lists, strings and numbers; an infinite misfit is None."""
        content = asdict(self)
        for side in ("first", "second"):
            if not math.isfinite(content[side]["misfit"]):
                content[side]["misfit"] = None
        return {**content, "reading": self.reading}


@check_arguments
@random_states_kept()
def parity(
    first: NormFunction,
    second: NormFunction,
    width: int,
    *,
    generator: torch.Generator,
    names: tuple[str, str] = ("the first", "the second"),
    rows: int = 64,
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> Parity:
    """Compare two implementations of a norm in every dtype, and determine the conventions in which they differ.

    The reference for the error of an implementation is the closed form of its conventions in float64, with its
    parameters, or its float64 output if it is outside the family. The modules are compared with their original
    parameters, so load the same weights into both; `fit_convention` determines the conventions with other values.

    Args:
        first: Maps ``[rows, width]`` to the same shape: a module, or a function without parameters.
        second: The implementation to compare with.
        width: Number of entries per row, at least 3.
        generator: Draws the rows, on the CPU.
        names: Names of the two in the sentences.
        rows: Number of rows of each kind.
        dtypes: Dtypes to compare in.

    Returns:
        Differences for every kind of rows and dtype, the conventions, and a sentence for each that differs.

    Raises:
        ValueError: If ``width`` is below 3, ``rows`` is below 1, or the shape of an output differs from its input.

    Example:
        >>> import torch
        >>> from normscope.analysis import parity
        >>> generator = torch.Generator().manual_seed(0)
        >>> found = parity(torch.nn.LayerNorm(8), torch.nn.LayerNorm(8, eps=1e-3), 8, generator=generator)
        >>> [departure.convention for departure in found.departures]
        ['eps']
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    fits = (fit_convention(first, width, generator=generator), fit_convention(second, width, generator=generator))
    kinds = inputs(width, rows, generator=generator)
    differences = [
        _compare(kind, first, second, fits, x.to(dtype), dtype) for kind, x in kinds.items() for dtype in dtypes
    ]
    differing: list[Departure] = []
    one, other = (fit.convention for fit in fits)
    if one is not None and other is not None:
        differing = departures(one, other, names=names, kinds=kinds, dtypes=dtypes, generator=generator)
        if not (fits[0].recognized and fits[1].recognized):
            differing = [departure for departure in differing if departure.convention not in ROUNDINGS]
    return Parity(
        names=names,
        width=width,
        first=fits[0],
        second=fits[1],
        differences=tuple(differences),
        departures=tuple(differing),
    )


def departures(
    one: Convention,
    other: Convention,
    *,
    names: tuple[str, str],
    kinds: Mapping[str, Tensor],
    dtypes: Sequence[torch.dtype],
    generator: torch.Generator,
) -> list[Departure]:
    """Measure the effect of each convention in which ``other`` differs on the closed form of ``one``, by itself.

    Args:
        one: Conventions to start from.
        other: Conventions to take over one at a time.
        names: Names of the two in the sentences.
        kinds: Rows to measure on, ``[rows, H]`` of each kind.
        dtypes: Dtypes to measure in.
        generator: Draws a weight around 1 and a bias around 0.

    Returns:
        One departure for each field that differs, in the order of :data:`CONVENTIONS`, except a value of eps if one of
        the two has no eps, an order of casts if one of them has nothing to scale, and a dtype of 1 + w if one of them
        is not scaled by it.
    """
    width = next(iter(kinds.values())).shape[-1]
    weight = (0.1 * torch.randn(width, generator=generator) + 1).bfloat16()
    bias = (0.1 * torch.randn(width, generator=generator)).bfloat16()
    found = []
    for field, description in CONVENTIONS.items():
        first, second = getattr(one, field), getattr(other, field)
        skipped = field == "eps" and "none" in (one.place, other.place)
        skipped = skipped or (field == "order" and "none" in (one.scale, other.scale) and not (one.bias and other.bias))
        skipped = skipped or (field == "factor" and not one.scale == other.scale == "1 + w")
        if first == second or skipped:
            continue
        changed = replace(one, **{field: second})
        if field == "place" and "none" in (one.place, other.place):
            changed = replace(changed, eps=other.eps)
        effects, worst = {}, ("", -1.0)
        for dtype in dtypes:
            by_kind = {
                kind: _effect(one, changed, x.to(dtype), weight.to(dtype), bias.to(dtype)) for kind, x in kinds.items()
            }
            kind = max(by_kind, key=lambda key: by_kind[key])
            effects[str(dtype).removeprefix("torch.")] = by_kind[kind]
            if by_kind[kind] > worst[1]:
                worst = (kind, by_kind[kind])
        amounts = ", ".join(f"{effect:.2g} in {dtype}" for dtype, effect in effects.items())
        found.append(
            Departure(
                convention=field,
                first=describe(one, field),
                second=describe(other, field),
                effects=effects,
                worst=worst[0],
                sentence=(
                    f"They differ in {description}: {names[0]} has {describe(one, field)}, {names[1]} has "
                    f"{describe(other, field)}; "
                    f"by itself, this changes outputs of order one by up to {amounts} (most on {worst[0]} rows)."
                ),
            )
        )
    return found


def _effect(one: Convention, changed: Convention, x: Tensor, weight: Tensor, bias: Tensor) -> float:
    """Return the largest difference between two closed forms where both are finite."""
    outputs = [
        closed_form(convention, x, None if convention.scale == "none" else weight, bias if convention.bias else None)
        for convention in (one, changed)
    ]
    difference = (outputs[0].double() - outputs[1].double()).abs()
    finite = difference[difference.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def describe(convention: Convention, field: str) -> str:
    """Describe the value of one field of a convention, a key of :data:`CONVENTIONS`."""
    value = getattr(convention, field)
    if field == "center":
        return "the mean subtracted" if value else "the mean not subtracted"
    if field == "divisor":
        return {"biased": "the root over H", "unbiased": "the root over H - 1", "length": "the length"}[value]
    if field == "place":
        positions = {
            "inside": "eps inside the root",
            "added": "eps added outside the root",
            "least": "eps as the lower bound of the divisor",
        }
        return positions.get(value, "no eps")
    if field == "eps":
        return f"eps {value:.3g}"
    if field == "scale":
        return {"none": "no weight", "w": "w", "1 + w": "1 + w"}[value]
    if field == "bias":
        return "a bias" if value else "no bias"
    if field == "variance":
        return "the mean of the squared deviations" if value == "two-pass" else "E[x^2] - E[x]^2"
    if field in {"statistics", "squares", "factor"}:
        return "float32" if value == "float32" else "the dtype of the input"
    if field == "division":
        return "a division" if value == "quotient" else "a product with the reciprocal"
    return str(value)


def _compare(
    kind: str, first: NormFunction, second: NormFunction, fits: tuple[Fit, Fit], x: Tensor, dtype: torch.dtype
) -> Difference:
    """Compare both on the same rows."""
    outputs = [call_copy(norm, x).to(dtype).double() for norm in (first, second)]
    explained = None
    if fits[0].convention is not None:
        # Either may be off by as much.
        bound = 2 * bound_of(fits[0], x, _parameters(first, dtype))
        explained = within_rounding(outputs[0], outputs[1], bound)[1]
    references = [_reference(norm, fit, x) for norm, fit in zip((first, second), fits, strict=True)]
    lost = [int((~y.isfinite()).sum()) for y in outputs]
    return Difference(
        rows=kind,
        dtype=str(dtype).removeprefix("torch."),
        difference=_largest(outputs[0] - outputs[1]),
        first_error=_largest(outputs[0] - references[0]),
        second_error=_largest(outputs[1] - references[1]),
        first_not_finite=lost[0],
        second_not_finite=lost[1],
        within_rounding=explained,
    )


def _reference(norm: NormFunction, fit: Fit, x: Tensor) -> Tensor:
    """Compute the float64 output for ``x`` and for the parameters rounded to the dtype of ``x``."""
    values = _parameters(norm, x.dtype)
    if fit.convention is None:
        return call_copy(norm, x.double(), values)
    return evaluate(fit, x.double(), values)


def _parameters(norm: NormFunction, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the parameters of a module as float64, rounded to ``dtype``, by name."""
    if not isinstance(norm, nn.Module):
        return {}
    return {name: p.detach().cpu().to(dtype).double() for name, p in norm.named_parameters()}


def _largest(difference: Tensor) -> float | None:
    """Return the largest absolute value, or None if an entry is not finite."""
    return float(difference.abs().max()) if difference.isfinite().all() else None
