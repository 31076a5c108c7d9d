"""The picture of gradient norms at initialization: by size with the theory's line, and layer by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from normscope.report.palette import Look, looks, stand_in, style_sheet
from normscope.report.svg import axes, blank, drawing, headline, mark, to_svg

_MUTED = stand_in("muted")
_NAMES = {"post": "Post-LN", "pre": "Pre-LN"}
_WIDTH, _HEIGHT, _PANEL = 784, 300, 240


def draw(found: Mapping[str, Any]) -> str:
    """Draw what :func:`normscope.papers.gradient_slopes.conclude` found, as a whole SVG file.

    Every dot is a seed. In the first panel the broken line is the theory's, through the mean of the smallest size; in
    the others the line is W2 and the broken one W1, means over the seeds.
    """
    look = looks(list(_NAMES), "post")
    rows = found["rows"]
    with drawing():
        figure = blank(_WIDTH, _HEIGHT)
        panels = [
            axes(
                figure, left=46 + number * (_PANEL + 14), right=_WIDTH - (number + 1) * (_PANEL + 14), top=40, bottom=44
            )
            for number in range(3)
        ]
        _by_size(panels[0], found, look)
        top = max(
            max(named)
            for row in rows
            if row["by_layer"]
            for part in row["by_layer"].values()
            for named in part.values()
        )
        for panel, part in zip(panels[1:], ("encoder", "decoder"), strict=True):
            _by_layer(panel, rows, part, look, top)
        svg = to_svg(
            figure,
            name="gradients",
            title="Gradient norm of feed-forward matrices at initialization",
            words=" ".join(f"{line['says']}: ours {_slope(line)}, {line['verdict']}." for line in found["lines"]),
        )
    return _alone(svg)


def _by_size(plot: Axes, found: Mapping[str, Any], look: Mapping[str, Look]) -> None:
    sizes = found["setting"]["layers"]
    for placement, name in _NAMES.items():
        points = [point for point in found["points"] if point["placement"] == placement]
        mine = look[placement]
        for row in found["rows"]:
            if row["placement"] == placement:
                _dot(plot, row["layers"], row["last"], mine, f"{name}, seed {row['seed']}")
        plot.plot(sizes, [point["mean"] for point in points], color=mine.colour, linewidth=2.2)
        plot.plot(sizes, [point["theory"] for point in points], color=mine.colour, linewidth=1.2, linestyle=(0, (4, 3)))
        _name(plot, sizes[-1], points[-1]["mean"], name, mine)
    plot.set(xticks=sizes, xticklabels=[f"{size}-{size}" for size in sizes], ylim=(0, None))
    plot.set_xlabel("layers", color=_MUTED, fontsize=11, loc="right", labelpad=2)
    headline(plot, "last decoder layer, W2; broken: theory")


def _by_layer(plot: Axes, rows: Sequence[Mapping[str, Any]], part: str, look: Mapping[str, Look], top: float) -> None:
    for placement, name in _NAMES.items():
        mine = look[placement]
        held = [row for row in rows if row["placement"] == placement and row["by_layer"]]
        for matrix, style in (("W2", "-"), ("W1", (0, (1, 2)))):
            table = np.array([row["by_layer"][part][matrix] for row in held])
            layers = np.arange(1, table.shape[1] + 1)
            plot.plot(layers, table.mean(axis=0), color=mine.colour, linestyle=style, linewidth=2.0)
            if matrix == "W2":
                for row, values in zip(held, table, strict=True):
                    for layer, value in zip(layers, values, strict=True):
                        _dot(plot, layer, value, mine, f"{name}, layer {layer}, seed {row['seed']}")
                _name(plot, layers[-1], table.mean(axis=0)[-1], name, mine)
        plot.set(xticks=layers, ylim=(0, 1.05 * top))
    plot.set_xlabel("layer", color=_MUTED, fontsize=11, loc="right", labelpad=2)
    size = len(plot.get_xticks())
    headline(plot, f"{part} of {size}-{size}; W2, dotted W1")


def _dot(plot: Axes, x: float, y: float, look: Look, tip: str) -> None:
    plot.plot(
        [x], [y], look.marker, color=look.colour, markersize=3.5, alpha=0.5, linewidth=0, gid=mark(look.index, tip)
    )


def _name(plot: Axes, x: float, y: float, name: str, look: Look) -> None:
    plot.annotate(name, (x, y), (0, 7), textcoords="offset points", ha="right", color=look.colour, fontsize=11)


def _slope(line: Mapping[str, Any]) -> str:
    if line["ours"] is None or line["interval"] is None:
        return "unknown"
    low, high = line["interval"]
    return f"{line['ours']:+.3f} ({low:+.3f} to {high:+.3f})"


def _alone(svg: str) -> str:
    """Make the element a file: its name space, and the colours that a page would give it."""
    style = f"<style>{style_sheet()}svg{{background:var(--paper);font-family:system-ui,sans-serif}}</style>"
    opened = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    end = opened.index(">") + 1
    return opened[:end] + style + opened[end:] + "\n"
