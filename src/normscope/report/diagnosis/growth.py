"""What every norm divides its input by, through training: an input that runs away is seen here."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import mean, median
from typing import Any

import numpy as np

from normscope.report.diagnosis.captions import count
from normscope.report.diagnosis.figures import WIDE, tail
from normscope.report.drawing.palette import stand_in
from normscope.report.drawing.svg import axes, blank, describe, drawing, headline, plain_ticks, to_svg

LINES, STEPS = 60, 60
"""At most so many norms, those that grew most, are drawn at so many steps."""

Sizes = dict[str, list[tuple[int, float]]]


def sizes_of(history: Sequence[Mapping[str, Any]]) -> Sizes:
    """Give step and size, the mean over its calls, of every norm that has one at two steps or more.

    Those that grew most come first. A diagnosis of an older version has no sizes.
    """
    sizes: Sizes = {}
    for step in history:
        known = [(norm["name"], norm["size"]) for norm in step["norms"] if norm.get("size")]
        for name, calls in groupby(sorted(known), key=lambda pair: pair[0]):
            sizes.setdefault(name, []).append((step["step"], mean(size for _, size in calls)))
    told = {name: line for name, line in sizes.items() if len(line) > 1}
    return dict(sorted(told.items(), key=lambda pair: -_factor(pair[1])))


def growth(history: Sequence[Mapping[str, Any]], *, name: str, width: int = WIDE) -> str:
    """Draw the sizes by step, logarithmic, the one that grew most in colour.

    Args:
        history: Steps with ``step`` and ``norms``, of which at least one has sizes.
        name: Unique in the page.
        width: In pixels.

    Returns:
        An ``<svg>`` element.
    """
    sizes = sizes_of(history)
    drawn = [value for line in sizes.values() for _, value in line]
    with drawing():
        figure = blank(width, 220)
        plot = axes(figure, left=58, right=12, top=46, bottom=34)
        for place, (norm, line) in reversed([*enumerate(sizes.items())][:LINES]):
            kept = np.unique(np.linspace(0, len(line) - 1, STEPS).round().astype(int))
            steps, values = zip(*(line[each] for each in kept), strict=True)
            (curve,) = plot.plot(steps, values, color=stand_in("muted"), linewidth=0.9, alpha=0.7)
            if place == 0:
                curve.set(color=stand_in("accent"), linewidth=1.8, alpha=1.0, label=tail(norm or "the model", 40))
        plot.set_yscale("log")
        plot.set_ylim(min(drawn) / 1.5, max(drawn) * 1.5)
        plain_ticks(plot, "y", count=4, logarithmic=True)
        plot.set_xlabel("step", color=stand_in("muted"), fontsize=11, loc="right", labelpad=2)
        headline(plot, "what a norm divides its input by, by step", above=26, size=10)
        legend = plot.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), frameon=False, fontsize=10)
        legend.get_texts()[0].set_color(stand_in("muted"))
        return to_svg(figure, name=name, title="Sizes of inputs through training", words=caption_of(history))


def caption_of(history: Sequence[Mapping[str, Any]]) -> str:
    """Say which input grew most, and how the others did."""
    sizes = sizes_of(history)
    most, line = next(iter(sizes.items()))
    factor = describe(median(_factor(each) for each in sizes.values()), "")
    begin, end = (describe(size, "") for _, size in (line[0], line[-1]))
    words = (
        f"{count([*sizes])}; what they divide by is in the median {factor} times as large at the last measured step as "
        f"at the first. In colour the one that grew most, {most or 'the model'}: from {begin} to {end}."
    )
    return words if len(sizes) <= LINES else f"{words} The {LINES} that grew most are drawn."


def _factor(line: Sequence[tuple[int, float]]) -> float:
    return line[-1][1] / line[0][1]
