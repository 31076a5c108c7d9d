"""Figures of a diagnosis through training: a heat map of the gradient shares, and the growth of the inputs of norms."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np

from normscope.report.diagnosis.figures import WIDE, tail
from normscope.report.diagnosis.text import caption_heat, count
from normscope.report.drawing.palette import stand_in
from normscope.report.drawing.svg import axes, blank, describe, drawing, headline, plain_ticks, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS, LINES, SHADES = 60, 60, 20
"""Largest numbers of steps, of norms or groups of norms, and of shades of the colour that a figure has."""

History = Sequence[Mapping[str, Any]]
"""Measured steps: ``step``, and ``norms`` with one entry per call of a norm."""
Table = list[list[float | None]]
"""Shares by line and step."""
Sizes = dict[str, list[tuple[int, float]]]
"""Steps and sizes by norm."""


def heat_map(history: History, *, name: str, width: int = WIDE) -> str:
    """Draw the share of the gradient in the directions of both derivatives together, norms by steps.

    Args:
        history: At least one step; more than :data:`STEPS` are thinned out. The calls of a norm in a step are averaged,
            and more than :data:`LINES` norms share lines with their neighbours.
        name: Prefix of ids, unique in the page.
        width: Width in pixels.

    Returns:
        An ``<svg>`` element.
    """
    chosen, labels, table = shares_by_line(history)
    largest = largest_share(history) or 1.0
    muted, narrow = stand_in("muted"), width < WIDE
    with drawing():
        figure = blank(width, 70 + 12 * len(labels))
        plot = axes(figure, left=112 if narrow else 190, right=12, top=26, bottom=30)
        plot.grid(visible=False)
        _shade(plot, table, largest)
        plot.set(xlim=(0, len(chosen)), ylim=(len(labels) - 0.5, -0.5))
        plot.set_yticks(range(len(labels)), [tail(label, 16 if narrow else 28) for label in labels], fontsize=9)
        ticks = sorted({0, len(chosen) // 2, len(chosen) - 1})
        plot.set_xticks([tick + 0.5 for tick in ticks], [str(chosen[tick]["step"]) for tick in ticks])
        plot.set_xlabel("step", color=muted, fontsize=11, loc="right", labelpad=2)
        most = f"full colour is {describe(100 * largest, '%')}"
        headline(plot, most if narrow else f"share of the gradient in the directions of both derivatives; {most}")
        words = caption_heat_map(history)
        return to_svg(figure, name=name, title="The gradient at the norms through training", words=words)


def shares_by_line(history: History) -> tuple[list[Mapping[str, Any]], list[str], Table]:
    """Return the steps of the heat map, the label of every line, and the share of every line and step, or None."""
    chosen = [history[place] for place in _spread(len(history), STEPS)]
    names = _names(history)
    lines = [[str(name) for name in part] for part in np.array_split(np.array(names), min(len(names), LINES))]
    lines = [line for line in lines if line]
    steps = [_shares_by_name(step) for step in chosen]
    table: Table = []
    for line in lines:
        cells = [[share for name in line for share in step.get(name, ())] for step in steps]
        table.append([mean(cell) if cell else None for cell in cells])
    labels = [line[0] or "the model" if len(line) == 1 else f"{line[0]} and {len(line) - 1} more" for line in lines]
    return chosen, labels, table


def caption_heat_map(history: History) -> str:
    """Describe the heat map."""
    names = _names(history)
    return caption_heat(len(history), min(len(names), LINES), len(names), largest_share(history))


def largest_share(history: History) -> float:
    """Return the largest share in the heat map."""
    return max((share for line in shares_by_line(history)[2] for share in line if share is not None), default=0.0)


def _names(history: History) -> list[str]:
    return list(dict.fromkeys(norm["name"] for step in history for norm in step["norms"]))


def _shares_by_name(step: Mapping[str, Any]) -> dict[str, list[float]]:
    shares: dict[str, list[float]] = {}
    for norm in step["norms"]:
        if norm["recentering"] is not None and norm["rescaling"] is not None:
            shares.setdefault(norm["name"], []).append(norm["recentering"] + norm["rescaling"])
    return shares


def _spread(length: int, most: int) -> list[int]:
    """Return at most ``most`` evenly spaced indices of a sequence."""
    return [int(place) for place in np.unique(np.linspace(0, length - 1, most).round())]


def _shade(plot: "Axes", table: Table, largest: float) -> None:
    """Draw the cells of each shade as one path, with neighbours in a line as one rectangle."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners: dict[int, list[tuple[float, float]]] = {}
    for line, shares in enumerate(table):
        shades = [0 if share is None else round(SHADES * min(max(share / largest, 0.0), 1.0)) for share in shares]
        left = 0
        for shade, cells in groupby(shades):
            right = left + len(list(cells))
            low, high = line - 0.5, line + 0.5
            corners.setdefault(shade, []).extend([(left, low), (right, low), (right, high), (left, high), (left, low)])
            left = right
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    for shade, points in sorted(corners.items()):
        if shade:
            path = Path(points, codes * (len(points) // 5))
            plot.add_patch(PathPatch(path, facecolor=stand_in("accent"), alpha=shade / SHADES, linewidth=0))


def sizes_of(history: History) -> Sizes:
    """Return steps and sizes, averaged over calls, of every norm with a size at two steps or more.

    The norms whose sizes grew most come first. Diagnoses of older versions have no sizes.
    """
    sizes: Sizes = {}
    for step in history:
        known = [(norm["name"], norm["size"]) for norm in step["norms"] if norm.get("size")]
        for name, calls in groupby(sorted(known), key=lambda pair: pair[0]):
            sizes.setdefault(name, []).append((step["step"], mean(size for _, size in calls)))
    lines = {name: line for name, line in sizes.items() if len(line) > 1}
    return dict(sorted(lines.items(), key=lambda pair: -_factor(pair[1])))


def growth(history: History, *, name: str, width: int = WIDE) -> str:
    """Draw the sizes by which norms divide their inputs over the steps, on a logarithmic axis.

    The norm whose size grew most is drawn in colour. At most :data:`LINES` norms are drawn, at :data:`STEPS` steps.

    Args:
        history: Steps of which at least two have sizes.
        name: Prefix of ids, unique in the page.
        width: Width in pixels.

    Returns:
        An ``<svg>`` element.
    """
    sizes = sizes_of(history)
    drawn = [value for line in sizes.values() for _, value in line]
    with drawing():
        figure = blank(width, 220)
        plot = axes(figure, left=58, right=12, top=46, bottom=34)
        for place, (norm, line) in reversed([*enumerate(sizes.items())][:LINES]):
            steps, values = zip(*(line[each] for each in _spread(len(line), STEPS)), strict=True)
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
        return to_svg(figure, name=name, title="Sizes of inputs through training", words=caption_growth(history))


def caption_growth(history: History) -> str:
    """Describe which input grew most, and how the others grew."""
    sizes = sizes_of(history)
    most, line = next(iter(sizes.items()))
    factor = describe(median(_factor(each) for each in sizes.values()), "")
    begin, end = (describe(size, "") for _, size in (line[0], line[-1]))
    words = (
        f"{count([*sizes])}; the sizes that they divide by are in the median {factor} times as large at the last "
        f"measured step as at the first. In colour the one that grew most, {most or 'the model'}: from {begin} to "
        f"{end}."
    )
    return words if len(sizes) <= LINES else f"{words} The {LINES} that grew most are drawn."


def _factor(line: Sequence[tuple[int, float]]) -> float:
    return line[-1][1] / line[0][1]
