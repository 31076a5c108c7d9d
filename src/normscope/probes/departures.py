"""The conventions that two norms do not share, and what each of them does alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from normscope.probes.convention import Convention, closed_form

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
