"""The heat map of a diagnosis: every norm's gradient through training, in one picture of a bounded size."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from normscope.report.diagnosis import captions
from normscope.report.diagnosis.figures import WIDE, tail
from normscope.report.drawing.palette import stand_in
from normscope.report.drawing.svg import axes, blank, describe, drawing, headline, to_svg

STEPS, LINES, SHADES = 60, 60, 20
"""At most so many columns and lines are drawn, in so many shades of one colour."""

Table = list[list[float | None]]


def through_training(history: Sequence[Mapping[str, Any]], *, name: str, width: int = WIDE) -> str:
    """Draw norms by steps: the share of the gradient that lies in the directions of both derivatives, together.

    Args:
        history: Steps with ``step`` and ``norms``, at least one; more than :data:`STEPS` are thinned out. The calls of
            a norm in a step give their mean, and more than :data:`LINES` norms share lines with their neighbours.
        name: Unique in the page.
        width: In pixels.

    Returns:
        An ``<svg>`` element.
    """
    chosen, labels, table = table_of(history)
    largest = largest_of(history) or 1.0
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
        words = caption_of(history)
        return to_svg(figure, name=name, title="The gradient at the norms through training", words=words)


def table_of(history: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str], Table]:
    """Give the steps that are drawn, a label for every line, and by line the share at every step or None."""
    chosen = [history[place] for place in np.unique(np.linspace(0, len(history) - 1, STEPS).round().astype(int))]
    names = _names(history)
    lines = [
        [str(name) for name in part] for part in np.array_split(np.array(names), min(len(names), LINES)) if len(part)
    ]
    steps = [_by_name(step) for step in chosen]
    table: Table = []
    for line in lines:
        cells = [[share for name in line for share in step.get(name, ())] for step in steps]
        table.append([mean(cell) if cell else None for cell in cells])
    labels = [line[0] or "the model" if len(line) == 1 else f"{line[0]} and {len(line) - 1} more" for line in lines]
    return chosen, labels, table


def caption_of(history: Sequence[Mapping[str, Any]]) -> str:
    """Say what the picture shows."""
    names = _names(history)
    return captions.through_training(len(history), min(len(names), LINES), len(names), largest_of(history))


def largest_of(history: Sequence[Mapping[str, Any]]) -> float:
    """Give the largest share that is drawn."""
    return max((share for line in table_of(history)[2] for share in line if share is not None), default=0.0)


def _names(history: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(norm["name"] for step in history for norm in step["norms"]))


def _by_name(step: Mapping[str, Any]) -> dict[str, list[float]]:
    shares: dict[str, list[float]] = {}
    for norm in step["norms"]:
        if norm["recentering"] is not None and norm["rescaling"] is not None:
            shares.setdefault(norm["name"], []).append(norm["recentering"] + norm["rescaling"])
    return shares


def _shade(plot: Axes, table: Table, largest: float) -> None:
    """Draw the cells of one shade as one path, neighbours in a line as one rectangle."""
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
