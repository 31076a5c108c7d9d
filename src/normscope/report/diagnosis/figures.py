"""Figures of a diagnosis: gradients at the norms, sizes by depth, and the variances that reach each norm."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from normscope.report.diagnosis.text import (
    Size,
    caption_by_depth,
    caption_ranges,
    caption_shares,
    caption_side_by_side,
    theory_lines,
)
from normscope.report.drawing.palette import stand_in
from normscope.report.drawing.svg import axes, blank, clean, drawing, headline, plain_ticks, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _MUTED, _ACCENT, _FAIL = stand_in("ink"), stand_in("muted"), stand_in("accent"), stand_in("fail")
WIDE, NARROW = 700, 340
"""Widths of a figure in pixels: on a desktop screen, and on a phone."""
_HEIGHT = 260
_FLOOR = 1e-30
"""Lowest end of a logarithmic axis; a variance of zero is drawn there."""

COMPARED = {
    "layer_norm": ("LayerNorm", "ink", "o", "-"),
    "rms_norm": ("RMSNorm", "arm-1", "s", "-"),
    "ada_norm": ("AdaNorm", "arm-2", "^", "--"),
    "detach_norm": ("DetachNorm", "arm-3", "D", "-"),
}
"""Label, colour, marker and line of the norms that are compared side by side."""
LABELS = {key: label for key, (label, *_) in COMPARED.items()}


def shares(norms: Sequence[Mapping[str, Any]], *, name: str, width: int = WIDE) -> str:
    """Draw the shares of the gradient in the directions of the two derivatives at every norm, in %.

    Args:
        norms: ``gradients`` of a diagnosis, at least one, numbered from 1 in the order of the calls.
        name: Prefix of ids, unique in the page.
        width: Width in pixels.

    Returns:
        An ``<svg>`` element.
    """
    with drawing():
        figure, plot = _panel("% of the gradient's energy, by norm as numbered below", len(norms), width=width)
        places = range(1, len(norms) + 1)
        for key, label, colour, marker in (
            ("recentering", "re-centering", _ACCENT, "o"),
            ("rescaling", "re-scaling", stand_in("arm-2"), "^"),
        ):
            values = [100 * each[key] for each in norms]
            plot.plot(places, values, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
        chance = [100 / each["width"] for each in norms]
        plot.plot(places, chance, color=_MUTED, linestyle=":", linewidth=1, label="by chance")
        plot.set_ylim(bottom=0)
        plain_ticks(plot, "y", count=5)
        _key(plot)
        return to_svg(figure, name=name, title="Where the gradient lies at every norm", words=caption_shares(norms))


def side_by_side(norms: Sequence[Mapping[str, Any]], *, name: str, width: int = WIDE) -> str:
    """Draw the part of the gradient that each of four norms would pass on in the place of every norm, in %."""
    with drawing():
        rows = 1 if width >= WIDE else 2
        words = "% of the gradient that this norm would pass on there"
        figure, plot = _panel(words, len(norms), width=width, key_rows=rows)
        places = range(1, len(norms) + 1)
        for key, (label, colour, marker, line) in COMPARED.items():
            values = [100 * each["beside"][key] for each in norms]
            (drawn,) = plot.plot(places, values, marker=marker, markersize=3.5, linewidth=1.2, linestyle=line)
            drawn.set(color=stand_in(colour), label=label)
        lowest = min(100 * each["beside"][key] for each in norms for key in COMPARED)
        plot.set_ylim(lowest - 0.05 * (100.01 - lowest), 100 + 0.1 * (100.01 - lowest))
        plain_ticks(plot, "y", count=5)
        _key(plot, columns=4 // rows)
        return to_svg(figure, name=name, title="Four norms side by side", words=caption_side_by_side(norms, LABELS))


def by_depth(stack: Mapping[str, Any], what: Size, *, name: str) -> str:
    """Draw the size of activations or gradients over the layers of a stack, with the theoretical lines.

    Args:
        stack: One of ``stacks`` of a diagnosis.
        what: Size to draw.
        name: Prefix of ids, unique in the page.

    Returns:
        An ``<svg>`` element; empty if no size is known.
    """
    known = [(place, layer[what]) for place, layer in enumerate(stack["layers"], 1) if layer[what]]
    if not known:
        return ""
    places, values = zip(*known, strict=True)
    label = stack["name"] or "the model"
    with drawing():
        words = f"size of the {what} by layer of {tail(label, 30)}"
        figure, plot = _panel(words, len(stack["layers"]), width=NARROW)
        plot.plot(places, values, color=_INK, marker="o", markersize=4, linewidth=1.6, label="measured")
        lines = theory_lines(stack, what)
        for number, line in enumerate(lines.values()):
            key = "theory" if number == 0 else None
            grid = range(1, len(line) + 1)
            plot.plot(grid, line, color=_ACCENT, linestyle=(0, (4, 2)), linewidth=1.2, label=key)
        drawn = [*values, *(value for line in lines.values() for value in line)]
        low, high = max(min(drawn), _FLOOR), max(drawn)
        plot.set_yscale("log")
        plot.set_ylim(low / 1.5, high * 1.5)
        plain_ticks(plot, "y", count=4, logarithmic=True)
        plot.set_xlabel("layer", color=_MUTED, fontsize=11, loc="right", labelpad=2)
        _key(plot)
        title = f"Size of the {what}s by layer of {label}"
        return to_svg(figure, name=name, title=title, words=caption_by_depth(stack, what))


def ranges(norms: Sequence[Mapping[str, Any]], *, name: str, width: int = WIDE) -> str:
    """Draw the smallest and the median variance of the input rows of every norm, with its eps, on a logarithmic axis.

    Returns:
        An ``<svg>`` element; empty if no variance is known and finite.
    """
    known = known_variances(norms)
    if not known:
        return ""
    with drawing():
        figure, plot = _panel("variance of a row, by norm as numbered below", len(norms), width=width)
        plot.set_yscale("log")
        rows = (
            ("median_variance", "median", _INK, "o", "-"),
            ("smallest_variance", "smallest", _ACCENT, "v", "-"),
            ("eps", "eps", _FAIL, "_", ":"),
        )
        positive = [each[key] for key, *_ in rows for each in known if each[key]] or [1.0]
        low, high = min(positive) / 10, max(positive) * 10
        places = [place for place, each in enumerate(norms, 1) if any(each is other for other in known)]
        for key, label, colour, marker, line in rows:
            values = [np.nan if each[key] is None else max(each[key], low) for each in known]
            plot.plot(
                places, values, color=colour, marker=marker, markersize=4, linewidth=1.1, linestyle=line, label=label
            )
        plot.set_ylim(low / 2, high)
        plain_ticks(plot, "y", count=5, logarithmic=True)
        _key(plot)
        return to_svg(figure, name=name, title="Variance that reaches the norms", words=caption_ranges(known))


def known_variances(norms: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the norms whose variances are known."""
    return [each for each in norms if each["median_variance"] is not None and each["smallest_variance"] is not None]


def _panel(words: str, count: int, *, width: int, key_rows: int = 1) -> "tuple[Figure, Axes]":
    figure = blank(width, _HEIGHT)
    above = 18 * (key_rows - 1)
    plot = axes(figure, left=58, right=12, top=46 + above, bottom=30)
    plot.set_xlim(0.5, count + 0.5)
    ticks = range(1, count + 1, -(-count // (10 if width >= WIDE else 6)))
    plot.set_xticks(ticks, [str(tick) for tick in ticks])
    headline(plot, words, above=26 + above, size=10)
    return figure, plot


def tail(text: str, longest: int) -> str:
    """Shorten the name of a module to its end, in which names differ."""
    text = clean(text)
    return text if len(text) <= longest else "\N{HORIZONTAL ELLIPSIS}" + text[1 - longest :]


def _key(plot: "Axes", *, columns: int = 4) -> None:
    legend = plot.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=columns, frameon=False, fontsize=10, handlelength=1.8
    )
    for text in legend.get_texts():
        text.set_color(_MUTED)
