"""Figures of recurrent layers by step: sizes, gradients, gates, and the rows that the norms inside read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from normscope.report.diagnosis.figures import NARROW, tail
from normscope.report.drawing.palette import stand_in
from normscope.report.drawing.svg import axes, blank, describe, drawing, headline, plain_ticks, to_svg

POINTS, LAYERS = 200, 8
"""Largest numbers of steps in a figure, and of layers and directions that are drawn."""

_STYLES = (
    ("ink", "-"),
    ("accent", (0, (4, 2))),
    ("arm-1", (0, (1.5, 1.2))),
    ("arm-2", (0, (6, 2, 1.5, 2))),
    ("arm-4", "-"),
    ("arm-5", (0, (4, 1.2))),
)
_HEIGHT = 276
_DECADES = 1e-30
"""Smallest number on a logarithmic axis, relative to the largest."""

Lines = Mapping[str, Sequence[float | None]]
"""Numbers of every step by label; None where one is unknown."""


def of_layers(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Draw the steps of recurrent layers.

    Args:
        layers: ``recurrent`` of a diagnosis.

    Returns:
        Pictures with their captions, at most four for each of the first :data:`LAYERS` layers and directions.
    """
    pictures = []
    for place, layer in enumerate(layers[:LAYERS]):
        for key, words, lines, logarithmic in figures_of(layer):
            if known_lines(lines):
                name = f"steps-{place}-{key}"
                svg = by_step(layer["name"], words, lines, name=name, logarithmic=logarithmic)
                caption = caption_by_step(layer["name"], words, lines)
                pictures.append({"broad": svg, "narrow": "", "caption": caption})
    return pictures


def figures_of(layer: Mapping[str, Any]) -> list[tuple[str, str, Lines, bool]]:
    """Return the key, the subject and the lines of each figure of a layer, and whether its axis is logarithmic."""
    gates = {gate: _percent(line) for gate, line in layer["saturated"].items()}
    memory = next((gate for gate in ("forget gate", "update gate") if gate in layer["closed"]), None)
    if memory:
        gates[f"{memory}, closed"] = _percent(layer["closed"][memory])
    places = [norm["place"] for norm in layer["norms"]]
    summed = "ih" in places and "hh" not in places and layer["kind"] != "GRU"
    names = {"ih": "W_h h + W_x x" if summed else "W_x x", "hh": "W_h h", "cell": "c"}
    norms = {
        names[place] + (f", {places[:at].count(place) + 1}" if places.count(place) > 1 else ""): norm["deviation"]
        for at, (place, norm) in enumerate(zip(places, layer["norms"], strict=True))
    }
    gradients = {"of h": layer["gradient_h"], **({"of c": layer["gradient_c"]} if layer["gradient_c"] else {})}
    return [
        ("size", "size of the state", {"h": layer["h"], **({"c": layer["c"]} if layer["c"] else {})}, False),
        ("gradient", "size of the gradient", gradients, True),
        ("gates", "saturated entries, %", gates, False),
        ("norms", "deviation of the rows that a norm reads", norms, True),
    ]


def known_lines(lines: Lines) -> dict[str, list[tuple[int, float]]]:
    """Return the steps, from 1, and the numbers of each line that has any; nothing if all are zero."""
    known: dict[str, list[tuple[int, float]]] = {}
    for label, line in lines.items():
        if points := [(step, value) for step, value in enumerate(line, 1) if value is not None]:
            known[label] = points
    return known if any(value for points in known.values() for _, value in points) else {}


def by_step(layer: str, words: str, lines: Lines, *, name: str, logarithmic: bool) -> str:
    """Draw lines over the steps of a layer; steps beyond :data:`POINTS` are thinned out.

    Args:
        layer: Name of the layer and direction.
        words: Subject of the figure.
        lines: Numbers by label, of which :func:`known_lines` returns at least one.
        name: Prefix of ids, unique in the page.
        logarithmic: Whether the axis of the numbers is; a zero is drawn at its lower end.

    Returns:
        An ``<svg>`` element.
    """
    known = known_lines(lines)
    count = max(len(line) for line in lines.values())
    rows = -(-len(known) // 3)
    with drawing():
        figure = blank(NARROW, _HEIGHT + 16 * rows)
        plot = axes(figure, left=58, right=12, top=26 + 17 * rows, bottom=44)
        values = [value for points in known.values() for _, value in points]
        positive = [value for value in values if value > 0]
        low = max(min(positive), max(positive) * _DECADES)
        for (label, points), (colour, line) in zip(known.items(), _cycle(len(known)), strict=True):
            chosen = [points[at] for at in np.unique(np.linspace(0, len(points) - 1, POINTS).round().astype(int))]
            at, sizes = zip(*chosen, strict=True)
            drawn = [max(size, low / 3) for size in sizes] if logarithmic else sizes
            marker = "o" if len(chosen) == 1 else ""
            plot.plot(at, drawn, color=stand_in(colour), linestyle=line, linewidth=1.4, marker=marker, label=label)
        plot.set_xlim(1 - 0.02 * count, count + 0.02 * count)
        if logarithmic:
            plot.set_yscale("log")
            plot.set_ylim(low / 4, 2 * max(values))
        else:
            plot.set_ylim(0, 1.08 * max(values))
        plain_ticks(plot, "x", count=5)
        plain_ticks(plot, "y", count=4, logarithmic=logarithmic)
        plot.set_xlabel("step", color=stand_in("muted"), fontsize=11, loc="right", labelpad=2)
        headline(plot, f"{words}: {tail(layer, 24)}", above=8 + 17 * rows, size=10)
        legend = plot.legend(
            loc="lower left", bbox_to_anchor=(-0.15, 0.99), ncols=3, frameon=False, fontsize=9, handlelength=1.8
        )
        for text in legend.get_texts():
            text.set_color(stand_in("muted"))
        title = f"{words[0].upper()}{words[1:]} by step of {layer}"
        return to_svg(figure, name=name, title=title, words=caption_by_step(layer, words, lines))


def caption_by_step(layer: str, words: str, lines: Lines) -> str:
    """Describe the first and the last number of every line."""
    parts = [
        f"{label}: {describe(points[0][1], '')} to {describe(points[-1][1], '')}"
        for label, points in known_lines(lines).items()
    ]
    return f"{layer}, {words}, first to last step: {'; '.join(parts)}."


def _percent(line: Sequence[float | None]) -> list[float | None]:
    return [None if share is None else 100 * share for share in line]


def _cycle(count: int) -> list[tuple[str, Any]]:
    return [_STYLES[place % len(_STYLES)] for place in range(count)]
