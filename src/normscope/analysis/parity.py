"""Two implementations of a norm side by side: how far apart they are, in which dtype, and which convention does it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from normscope.analysis.convention import Convention, Fit, NormFunction, ask, closed_form, evaluate, fit_convention

CONVENTIONS = {
    "center": "whether the mean is subtracted",
    "divisor": "what it divides by",
    "place": "where eps stands",
    "eps": "the value of eps",
    "gain": "what multiplies the output",
    "bias": "whether there is a bias",
    "statistics": "the dtype of the statistics",
    "order": "the order of casts",
}
"""The fields of `Convention` in words."""


@dataclass(frozen=True, kw_only=True)
class Departure:
    """One convention that the two do not share, and what it alone does."""

    convention: str
    """A key of :data:`CONVENTIONS`."""
    first: str
    second: str
    effects: dict[str, float]
    """From a dtype to the largest absolute change of the first one's closed form if only this is taken from the
    second, over all kinds of rows."""
    worst: str
    """The kind of rows that shows it most."""
    sentence: str


def departures(
    one: Convention,
    other: Convention,
    *,
    names: tuple[str, str],
    kinds: Mapping[str, Tensor],
    dtypes: Sequence[torch.dtype],
    generator: torch.Generator,
) -> list[Departure]:
    """Take every convention in which ``other`` differs into ``one``'s closed form, alone, and see what it does.

    Args:
        one: The convention that is changed.
        other: The convention that it is changed to.
        names: What the two are called in the sentences.
        kinds: Rows to see it on, ``[rows, H]`` of each kind.
        dtypes: The dtypes to see it in.
        generator: Draws a gain around 1 and a bias around 0.

    Returns:
        One departure for each field that differs, in the order of :data:`CONVENTIONS`. Left out are a value of eps
        where one of them has none, and an order of casts where one has nothing to scale.
    """
    width = next(iter(kinds.values())).shape[-1]
    weight = (0.1 * torch.randn(width, generator=generator) + 1).bfloat16()
    bias = (0.1 * torch.randn(width, generator=generator)).bfloat16()
    found = []
    for field, words in CONVENTIONS.items():
        ours, theirs = getattr(one, field), getattr(other, field)
        silent = field == "eps" and "none" in (one.place, other.place)
        silent = silent or (field == "order" and "none" in (one.gain, other.gain) and not (one.bias and other.bias))
        if ours == theirs or silent:
            continue
        changed = replace(one, **{field: theirs})
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
                first=say(one, field),
                second=say(other, field),
                effects=effects,
                worst=worst[0],
                sentence=(
                    f"They differ in {words}: {names[0]} has {say(one, field)}, {names[1]} has {say(other, field)}; "
                    f"that alone moves outputs of order one by up to {amounts} (most on {worst[0]} rows)."
                ),
            )
        )
    return found


def _effect(one: Convention, changed: Convention, x: Tensor, weight: Tensor, bias: Tensor) -> float:
    """Give the largest change between two closed forms where both are finite."""
    outputs = [
        closed_form(convention, x, None if convention.gain == "none" else weight, bias if convention.bias else None)
        for convention in (one, changed)
    ]
    difference = (outputs[0].double() - outputs[1].double()).abs()
    finite = difference[difference.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def say(convention: Convention, field: str) -> str:
    """Put one field of a convention, a key of :data:`CONVENTIONS`, into words."""
    value = getattr(convention, field)
    if field == "center":
        return "the mean subtracted" if value else "the mean kept"
    if field == "divisor":
        return {"biased": "the root over H", "unbiased": "the root over H - 1", "length": "the length"}[value]
    if field == "place":
        inside = {"inside": "it inside the root", "added": "it added outside the root", "least": "it as least divisor"}
        return inside.get(value, "none")
    if field == "eps":
        return f"eps {value:.3g}"
    if field == "gain":
        return {"none": "no gain", "w": "w", "1 + w": "1 + w"}[value]
    if field == "bias":
        return "a bias" if value else "no bias"
    if field == "statistics":
        return "float32" if value == "float32" else "the dtype of the input"
    return str(value)


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The two implementations, with the parameters they came with, on one kind of rows in one dtype."""

    rows: str
    """A key of `inputs`."""
    dtype: str
    difference: float | None
    """Largest absolute difference of the outputs; None if a number that both should give is not finite."""
    first_error: float | None
    """Largest absolute distance of the first from its own truth in float64; None if one is not finite."""
    second_error: float | None
    first_not_finite: int
    """How many numbers of the first one's output are infinite or NaN."""
    second_not_finite: int


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What two implementations have in common, and what not."""

    names: tuple[str, str]
    width: int
    first: Fit
    second: Fit
    differences: tuple[Difference, ...]
    departures: tuple[Departure, ...]
    """Empty if one of the two is outside the family, or they share every convention."""

    @property
    def reading(self) -> str:
        """What was found, what it usually comes from and what to try, in sentences."""
        words = []
        for name, fit in zip(self.names, (self.first, self.second), strict=True):
            if fit.convention is None:
                words.append(f"{name} is outside the family of layer and RMS norms: {fit.why}.")
            else:
                follows = "; its eps is another one in float64" if fit.eps_follows_dtype else ""
                words.append(f"{name}: {fit.convention.words}{follows}.")
        words += [departure.sentence for departure in self.departures]
        if not self.departures and self.first.convention is not None and self.second.convention is not None:
            words.append("They follow the same conventions; what is left is rounding.")
        for name, place in zip(self.names, ("first", "second"), strict=True):
            lost = [d for d in self.differences if getattr(d, f"{place}_not_finite")]
            if lost:
                kinds = ", ".join(f"{d.rows} rows in {d.dtype}" for d in lost)
                words.append(f"{name} gives numbers that are not finite on {kinds}.")
        for dtype in dict.fromkeys(d.dtype for d in self.differences):
            known = [d for d in self.differences if d.dtype == dtype and d.difference is not None]
            if known:
                worst = max(known, key=lambda d: d.difference or 0.0)
                words.append(f"Largest difference in {dtype}: {worst.difference:.2g}, on {worst.rows} rows.")
        if self.departures:
            words.append(
                "Such differences usually come with a port from another code base; weights that were trained under one "
                "convention should be run under it. To make them one: give both the same eps in the same place, then "
                "the same divisor, then the same order of casts, and measure again."
            )
        return " ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain dictionaries, lists, strings and numbers; an infinite misfit is None."""
        content = asdict(self)
        for side in ("first", "second"):
            if not math.isfinite(content[side]["misfit"]):
                content[side]["misfit"] = None
        return {**content, "reading": self.reading}


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
    """Compare two implementations of a norm in every dtype, and find the conventions that tell them apart.

    Each one's own truth is the closed form that it was found to follow, in float64, with its own parameters; outside
    the family it is its own float64 output. The parameters are those the modules come with, so give both the weights
    that you mean to compare; their conventions are found with others (see `fit_convention`).

    Args:
        first: From ``[rows, width]`` to the same shape: a module, or a function without parameters.
        second: The other one.
        width: Entries of a row, at least 3.
        generator: Draws the rows, on the CPU.
        names: What the two are called in the sentences.
        rows: How many rows of each kind.
        dtypes: The dtypes to compare in.

    Returns:
        Differences for every kind of rows and dtype, the conventions, and a sentence for each that differs.

    Raises:
        ValueError: If ``width`` is below 3, ``rows`` below 1, or an output has not the shape of its input.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    fits = (fit_convention(first, width, generator=generator), fit_convention(second, width, generator=generator))
    kinds = inputs(width, rows, generator=generator)
    differences = [
        _compare(kind, first, second, fits, x.to(dtype), dtype) for kind, x in kinds.items() for dtype in dtypes
    ]
    apart: list[Departure] = []
    one, other = (fit.convention for fit in fits)
    if one is not None and other is not None:
        apart = departures(one, other, names=names, kinds=kinds, dtypes=dtypes, generator=generator)
    return Parity(
        names=names,
        width=width,
        first=fits[0],
        second=fits[1],
        differences=tuple(differences),
        departures=tuple(apart),
    )


def inputs(width: int, rows: int, *, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the rows that norms are compared on: ``[rows, width]`` float64, of every kind.

    ``large`` stays below the largest float16, but its squares do not; ``constant`` rows have no variance at all.
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


def _compare(
    kind: str, first: NormFunction, second: NormFunction, fits: tuple[Fit, Fit], x: Tensor, dtype: torch.dtype
) -> Difference:
    """Run both on the same rows."""
    told = [ask(norm, x).double() for norm in (first, second)]
    truths = [_truth(norm, fit, x) for norm, fit in zip((first, second), fits, strict=True)]
    lost = [int((~y.isfinite()).sum()) for y in told]
    return Difference(
        rows=kind,
        dtype=str(dtype).removeprefix("torch."),
        difference=_largest(told[0] - told[1]),
        first_error=_largest(told[0] - truths[0]),
        second_error=_largest(told[1] - truths[1]),
        first_not_finite=lost[0],
        second_not_finite=lost[1],
    )


def _truth(norm: NormFunction, fit: Fit, x: Tensor) -> Tensor:
    """Give what exact arithmetic makes of ``x`` and of the parameters as the dtype of ``x`` holds them."""
    values = {}
    if isinstance(norm, nn.Module):
        values = {name: p.detach().cpu().to(x.dtype).double() for name, p in norm.named_parameters()}
    if fit.convention is None:
        return ask(norm, x.double(), values)
    return evaluate(fit, x.double(), values)


def _largest(difference: Tensor) -> float | None:
    """Give the largest absolute value, or None if one is not finite."""
    return float(difference.abs().max()) if difference.isfinite().all() else None
