"""The pictures of a diagnosis: gradients at the norms, sizes by depth, and the numbers that reach each norm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normscope.report.palette import stand_in
from normscope.report.scale import describe, plain_ticks
from normscope.report.svg import axes, blank, clean, drawing, headline, to_svg

_INK, _MUTED, _ACCENT, _FAIL = stand_in("ink"), stand_in("muted"), stand_in("accent"), stand_in("fail")
_WIDTH, _HEIGHT = 700, 260
_FLOOR = 1e-30
"""Where a logarithmic axis ends at the latest: a variance of zero is drawn there."""

LETS_THROUGH = {
    "layer_norm": ("LayerNorm", "ink", "o", "-"),
    "rms_norm": ("RMSNorm", "arm-1", "s", "-"),
    "ada_norm": ("AdaNorm", "arm-2", "^", "--"),
    "detach_norm": ("DetachNorm", "arm-3", "D", "-"),
}
"""Label, colour, marker and line of the norms that are set side by side."""


def shares(norms: Sequence[Mapping[str, Any]], *, name: str) -> str:
    """Draw what re-centering and re-scaling take out of the gradient at every norm, in %, in the order of the calls.

    Args:
        norms: ``gradients`` of a diagnosis, at least one.
        name: Unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    with drawing():
        figure, plot = _panel("% of the gradient's energy, by norm in the order of the calls", len(norms))
        for key, label, colour, marker in (
            ("recentering", "re-centering", _ACCENT, "o"),
            ("rescaling", "re-scaling", stand_in("arm-2"), "^"),
        ):
            values = [100 * each[key] for each in norms]
            plot.plot(values, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
        plot.plot([100 / each["width"] for each in norms], color=_MUTED, linestyle=":", linewidth=1, label="by chance")
        plot.set_ylim(bottom=0)
        plain_ticks(plot, "y", count=5)
        _key(plot)
        most = max(norms, key=lambda each: each["recentering"] + each["rescaling"])
        words = (
            f"{len(norms)} norms; the most at {most['name']}: re-centering {describe(100 * most['recentering'], '%')}"
        )
        words += f", re-scaling {describe(100 * most['rescaling'], '%')}."
        return to_svg(figure, name=name, title="What norms take out of the gradient", words=words)


def side_by_side(norms: Sequence[Mapping[str, Any]], *, name: str) -> str:
    """Draw how much of the gradient four norms would let through at every norm's place, in %."""
    with drawing():
        figure, plot = _panel("% of the gradient that this norm would let through there", len(norms))
        for key, (label, colour, marker, line) in LETS_THROUGH.items():
            values = [100 * each["beside"][key] for each in norms]
            (drawn,) = plot.plot(values, marker=marker, markersize=3.5, linewidth=1.2, linestyle=line, label=label)
            drawn.set_color(stand_in(colour))
        lowest = min(100 * each["beside"][key] for each in norms for key in LETS_THROUGH)
        plot.set_ylim(lowest - 0.05 * (100.01 - lowest), 100 + 0.1 * (100.01 - lowest))
        plain_ticks(plot, "y", count=5)
        _key(plot)
        means = {
            label: np.mean([100 * each["beside"][key] for each in norms]) for key, (label, *_) in LETS_THROUGH.items()
        }
        words = ", ".join(f"{label} {describe(float(mean), '%')}" for label, mean in means.items())
        return to_svg(figure, name=name, title="Four norms side by side", words=f"On average: {words}.")


def by_depth(stack: Mapping[str, Any], what: str, *, name: str) -> str:
    """Draw the size of activations or gradients over the layers of a stack, with the lines of theory.

    Args:
        stack: One of ``stacks`` of a diagnosis.
        what: ``activation`` or ``gradient``.
        name: Unique in the page.

    Returns:
        An ``<svg>`` element; empty where no size is known.
    """
    known = [(place, layer[what]) for place, layer in enumerate(stack["layers"], 1) if layer[what]]
    if not known:
        return ""
    places, values = zip(*known, strict=True)
    title = f"Size of the {what}s by layer"
    with drawing():
        figure, plot = _panel(f"root mean square of the {what} behind each layer", len(stack["layers"]), width=340)
        plot.plot(places, values, color=_INK, marker="o", markersize=4, linewidth=1.6, label="measured")
        lines = {key: line for key, line in stack["theory"].items() if key.startswith(what) and None not in line}
        for number, line in enumerate(lines.values()):
            label = "theory" if number == 0 else None
            grid = range(1, len(line) + 1)
            plot.plot(grid, line, color=_ACCENT, linestyle=(0, (4, 2)), linewidth=1.2, label=label)
        drawn = [*values, *(value for line in lines.values() for value in line)]
        low, high = max(min(drawn), _FLOOR), max(drawn)
        plot.set_yscale("log")
        plot.set_ylim(low / 1.5, high * 1.5)
        plot.set_xlim(0.5, len(stack["layers"]) + 0.5)
        plain_ticks(plot, "y", count=4, logarithmic=True)
        plot.set_xlabel("layer", color=_MUTED, fontsize=11, loc="right", labelpad=2)
        _key(plot)
        ends = f"from {describe(values[0], '')} at the first to {describe(values[-1], '')} at the last"
        words = f"{len(values)} layers, {ends}."
        return to_svg(figure, name=name, title=title, words=words)


def ranges(norms: Sequence[Mapping[str, Any]], *, name: str) -> str:
    """Draw the smallest and the median variance that reach every norm, beside its eps; logarithmic.

    Returns:
        An ``<svg>`` element; empty where no norm divides by a size.
    """
    told = [each for each in norms if each["median_variance"] is not None]
    if not told:
        return ""
    with drawing():
        figure, plot = _panel("variance of a row, by norm in the order of the model", len(told))
        plot.set_yscale("log")
        rows = (
            ("median_variance", "median", _INK, "o", "-"),
            ("smallest_variance", "smallest", _ACCENT, "v", "-"),
            ("eps", "eps", _FAIL, "_", ":"),
        )
        positive = [each[key] for key, *_ in rows for each in told if each[key]] or [1.0]
        low, high = min(positive) / 10, max(positive) * 10
        for key, label, colour, marker, line in rows:
            values = [np.nan if each[key] is None else max(each[key], low) for each in told]
            plot.plot(values, color=colour, marker=marker, markersize=4, linewidth=1.1, linestyle=line, label=label)
        plot.set_ylim(low / 2, high)
        plain_ticks(plot, "y", count=5, logarithmic=True)
        _key(plot)
        worst = min(told, key=lambda each: each["smallest_variance"])
        words = f"The smallest variance is {describe(worst['smallest_variance'], '')} at {worst['name']}."
        return to_svg(figure, name=name, title="Variance that reaches the norms", words=words)


def through_training(history: Sequence[Mapping[str, Any]], *, name: str) -> str:
    """Draw a heat map, norms by steps: the share of the gradient that re-centering and re-scaling concern, together.

    Args:
        history: Steps with ``step`` and ``norms``, at least one; more than 60 are thinned out.
        name: Unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    chosen = [history[place] for place in np.unique(np.linspace(0, len(history) - 1, 60).round().astype(int))]
    names = list(dict.fromkeys(norm["name"] for step in chosen for norm in step["norms"]))
    table = [{norm["name"]: norm["recentering"] + norm["rescaling"] for norm in step["norms"]} for step in chosen]
    largest = max(max(row.values(), default=0.0) for row in table) or 1.0
    with drawing():
        figure = blank(_WIDTH, 70 + 12 * len(names))
        plot = axes(figure, left=190, right=12, top=26, bottom=30)
        plot.grid(visible=False)
        for column, row in enumerate(table):
            for line, norm in enumerate(names):
                if norm in row:
                    shade = min(max(row[norm] / largest, 0.0), 1.0)
                    plot.barh(line, 1, left=column, height=1, color=_ACCENT, alpha=round(shade, 2), linewidth=0)
        plot.set(xlim=(0, len(table)), ylim=(len(names) - 0.5, -0.5))
        plot.set_yticks(range(len(names)), [clean(norm, 28) for norm in names], fontsize=9)
        ticks = sorted({0, len(table) // 2, len(table) - 1})
        plot.set_xticks([tick + 0.5 for tick in ticks], [str(chosen[tick]["step"]) for tick in ticks])
        plot.set_xlabel("step", color=_MUTED, fontsize=11, loc="right", labelpad=2)
        most = describe(100 * largest, "%")
        headline(plot, f"share of the gradient in the directions of both derivatives; full colour is {most}")
        words = f"{len(names)} norms over {len(history)} measured steps; the largest share is {most}."
        return to_svg(figure, name=name, title="The gradient at the norms through training", words=words)


def _panel(words: str, count: int, *, width: int = _WIDTH) -> tuple[Figure, Axes]:
    figure = blank(width, _HEIGHT)
    plot = axes(figure, left=58, right=12, top=46, bottom=30)
    plot.set_xlim(-0.5, count - 0.5)
    plot.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    headline(plot, words, above=26, size=10)
    return figure, plot


def _key(plot: Axes) -> None:
    legend = plot.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=4, frameon=False, fontsize=10, handlelength=1.8
    )
    for text in legend.get_texts():
        text.set_color(_MUTED)
