"""Figures of a study: differences with intervals (forest), cost against quality, gradients at the norms, tuning."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from normscope.report.drawing.format import change, decimals, level, span, split_verdict
from normscope.report.drawing.palette import ArmStyle, stand_in
from normscope.report.drawing.svg import (
    axes,
    blank,
    clean,
    describe,
    drawing,
    fence,
    headline,
    mark,
    padded,
    plain_ticks,
    to_svg,
)
from normscope.report.study.folder import RunHistory
from normscope.results.per_arm import ArmSummary
from normscope.results.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cost = Literal["step_ms", "peak_bytes", "saved_bytes"]

_INK, _MUTED, _BAND, _FAIL = stand_in("ink"), stand_in("muted"), stand_in("band"), stand_in("fail")
_ROW = 52
_PARTS = (("re-centering", "-"), ("re-scaling", (0, (4, 2))))


def forest(summary: Summary, styles: Mapping[str, ArmStyle], *, width: int, name: str) -> str:
    """Draw the paired difference of every arm with its intervals and the margin band.

    The thick line is the interval over seeds, the thin one the interval over test examples. An interval that would
    flatten all others is cut at the edge, with an arrow; its numbers stand beside it.

    Args:
        summary: Summary of the study.
        styles: Styles of the arms.
        width: Width in CSS pixels; the figure is not meant to be scaled.
        name: Prefix of ids, unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    arms = [arm for arm in summary.arms if arm.label != summary.baseline]
    metric, margin, places = summary.metric, summary.margin, decimals(summary.margin)
    low, high = _reach(arms, margin)
    with drawing():
        figure = blank(width, 52 + _ROW * len(arms))
        plot = axes(figure, left=8, right=8, top=22, bottom=30)
        plot.grid(visible=False)
        plot.set(xlim=(low, high), ylim=(len(arms) - 0.35, -0.45), yticks=[])
        plot.axvspan(-margin, margin, color=_BAND, linewidth=0)
        plot.axvline(0, color=_MUTED, linewidth=1)
        plain_ticks(plot, "x", count=6 if width > 500 else 4)
        right, left = ("better", "worse") if metric["higher_is_better"] else ("worse", "better")
        for text, place, side in (
            (f"\N{LEFTWARDS ARROW} {left}", 0, "left"),
            (f"{right} \N{RIGHTWARDS ARROW}", 1, "right"),
        ):
            plot.annotate(
                text,
                (place, 1),
                (0, 8),
                xycoords="axes fraction",
                textcoords="offset points",
                ha=side,
                color=_MUTED,
                fontsize=11,
            )
        for row, arm in enumerate(arms):
            _forest_row(plot, row, arm, styles[arm.label], (low, high), places, 24 if width < 500 else 60)
        words = "; ".join(
            f"{arm.label}: {change(arm.difference, places, metric['unit'])} {span(arm.interval, places)}"
            for arm in arms
        )
        title = f"Difference to {summary.baseline} in {metric['name']}, with {level(summary.alpha)} interval"
        return to_svg(figure, name=name, title=title, words=f"{words}. The margin is ±{margin} {metric['unit']}.")


def _reach(arms: Sequence[ArmSummary], margin: float) -> tuple[float, float]:
    """Return the limits of the forest's axis: all intervals except those six times farther out than the median one."""
    ends = []
    for arm in arms:
        if arm.difference is not None:
            both = [*(arm.interval or [arm.difference]), *(arm.interval_examples or [])]
            ends.append((min(both), max(both)))
    sizes = [max(abs(low), abs(high), margin) for low, high in ends]
    shown = [end for end, size in zip(ends, sizes, strict=True) if size <= 6 * float(np.median(sizes))]
    edges = [-1.25 * margin, 1.25 * margin, *(edge for end in shown for edge in end)]
    return padded(min(edges), max(edges), 0.04) if any(edges) else (-1.0, 1.0)


def _forest_row(
    plot: "Axes",
    row: int,
    arm: ArmSummary,
    style: ArmStyle,
    limits: tuple[float, float],
    places: int,
    longest: int,
) -> None:
    """Draw one arm: its name and numbers above, its intervals below."""
    low, high = limits
    failures = split_verdict(arm)[0]
    position: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
        "annotation_clip": False,
    }
    label = clean(arm.label, longest)
    plot.annotate(label, (0, row - 0.2), (2, 0), color=_INK, weight="bold", gid=mark(style.index), **position)
    numbers = f"{change(arm.difference, places, '')}  {span(arm.interval, places)}"
    plot.annotate(numbers, (1, row - 0.2), (-2, 0), ha="right", color=_INK, fontsize=11, **position)
    y = row + 0.14
    if arm.difference is not None:
        if arm.interval_examples:
            plot.plot(arm.interval_examples, [y + 0.13] * 2, color=style.colour, linewidth=1, gid=mark(style.index))
        if arm.interval:
            plot.plot(
                arm.interval, [y, y], color=style.colour, linewidth=3.5, solid_capstyle="butt", gid=mark(style.index)
            )
        tip = f"{arm.label}: {arm.verdict}"
        plot.plot([arm.difference], [y], style.marker, color=style.colour, markersize=9, gid=mark(style.index, tip))
        for edge, arrow, beyond in ((low, "<", arm.difference < low), (high, ">", arm.difference > high)):
            if beyond:
                plot.plot(
                    [edge], [y], arrow, color=style.colour, markersize=9, clip_on=False, gid=mark(style.index, tip)
                )
    if failures:
        plot.annotate(failures, (0, y + 0.29), (2, 0), color=_FAIL, fontsize=11, weight="bold", **position)


def cost(
    arms: Sequence[ArmSummary],
    styles: Mapping[str, ArmStyle],
    metric: Mapping[str, Any],
    field: Cost,
    axis: str,
    *,
    name: str,
) -> str:
    """Draw the mean of every arm against a cost; the bar is one standard deviation over seeds.

    Args:
        arms: Arms that have a mean and this cost.
        styles: Styles of the arms.
        metric: Name and unit of the metric.
        field: Field of an arm that is its cost.
        axis: Label of the cost, with its unit.
        name: Prefix of ids, unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    scale = 2**20 if field.endswith("_bytes") else 1
    # Every arm has both: None would have no place in the figure.
    points = [(arm, arm.mean or 0.0, (getattr(arm, field) or 0.0) / scale) for arm in arms]
    low, high = fence([mean for _, mean, _ in points])
    spread = max((arm.sd or 0.0) for arm, mean, _ in points if low <= mean <= high)
    bottom, top = padded(low - spread, high + spread)
    label = clean(f"{metric['name']} ({metric['unit']})" if metric["unit"] else metric["name"], 40)
    with drawing():
        figure = blank(350, 270)
        plot = axes(figure, left=46, right=14, top=26, bottom=40)
        plot.set(xlim=(0, max(x for *_, x in points) * 1.12), ylim=(bottom, top))
        plain_ticks(plot, "x", count=5)
        plain_ticks(plot, "y", count=5)
        plot.set_xlabel(axis, color=_MUTED, fontsize=11, loc="right")
        headline(plot, label, above=12)
        for arm, mean, x in points:
            style = styles[arm.label]
            y = float(np.clip(mean, bottom + 0.02 * (top - bottom), top - 0.02 * (top - bottom)))
            tip = f"{arm.label}: {describe(mean, metric['unit'])}, {describe(x, '')} ({axis})"
            if y == mean and arm.sd:
                plot.plot([x, x], [y - arm.sd, y + arm.sd], color=style.colour, linewidth=1.5, gid=mark(style.index))
            plot.plot(
                [x], [y], style.marker, color=style.colour, markersize=8, gid=mark(style.index, tip), clip_on=False
            )
            if y != mean:
                note = f"{clean(arm.label, 20)} {describe(mean, '')}"
                plot.annotate(
                    note, (x, y), (-8, 0), textcoords="offset points", ha="right", va="center", color=_MUTED, fontsize=9
                )
        words = "; ".join(
            f"{arm.label}: {describe(mean, metric['unit'])} at {describe(x, '')}" for arm, mean, x in points
        )
        return to_svg(figure, name=name, title=f"{label} against {axis}", words=words + ".")


def shares(run: RunHistory) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of a run's evaluations, ``[n]``, and both gradient shares in %, ``[n, 2]``, averaged over norms.

    Evaluations without shares are skipped: the network has no norms, or the run is older than this measurement.
    """
    rows = [(row["step"], row["gradient"]) for row in run.metrics if row.get("gradient")]
    steps = np.array([step for step, _ in rows], dtype=np.int64)
    means = [100 * np.mean(list(by_norm.values()), axis=0) for _, by_norm in rows]
    return steps, np.array(means, dtype=np.float64).reshape(-1, 2)


def highest(runs: Sequence[RunHistory]) -> float:
    """Return the upper end of the share axis that all arms of a study use, in %."""
    seen = [share for run in runs for share in shares(run)[1].ravel()]
    return max(1.0, 1.08 * max(seen, default=0.0))


def gradients(runs: Sequence[RunHistory], style: ArmStyle, steps: int, top: float, *, name: str) -> str:
    """Draw both gradient shares of one arm over the steps: seeds as thin lines, their medians as thick lines.

    Args:
        runs: Runs of the arm.
        style: Style of the arm.
        steps: End of the step axis.
        top: Upper end of the share axis, in %.
        name: Prefix of ids, unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    measured = [(run, *shares(run)) for run in runs]
    grid = np.array(sorted({step for _, at, _ in measured for step in at}), dtype=np.int64)
    table = np.full((len(runs), len(grid), 2), np.nan)
    for place, (_, at, values) in enumerate(measured):
        table[place, np.searchsorted(grid, at)] = values
    middle = np.nanmedian(table, axis=0)
    with drawing():
        figure = blank(350, 210)
        plot = axes(figure, left=46, right=12, top=24, bottom=30)
        plot.set(xlim=(0, steps), ylim=(0, top))
        plain_ticks(plot, "y", count=4)
        plain_ticks(plot, "x", count=4)
        plot.set_xlabel("step", color=_MUTED, fontsize=11, loc="right", labelpad=2)
        headline(plot, "% of the gradient: re-centering (line), re-scaling (broken)", size=10)
        for part, (word, line) in enumerate(_PARTS):
            for run, at, values in measured:
                tip = mark(style.index, f"{word}, seed {run.seed}")
                plot.plot(at, values[:, part], color=style.colour, linewidth=0.7, alpha=0.35, linestyle=line, gid=tip)
            plot.plot(grid, middle[:, part], color=style.colour, linestyle=line, linewidth=2.3, zorder=3)
        ends = " and ".join(f"{word} {describe(float(middle[-1, part]), '%')}" for part, (word, _) in enumerate(_PARTS))
        words = f"{runs[0].label}: at step {grid[-1]} the median share of {ends}."
        return to_svg(figure, name=name, title=f"Gradient at the norms of {runs[0].label}", words=words)


def tuning(
    curve: Sequence[Mapping[str, Any]],
    chosen: float,
    style: ArmStyle,
    label: str,
    metric: Mapping[str, Any],
    limits: tuple[float, float],
    *,
    name: str,
) -> str:
    """Draw the validation value of every tuning run over the learning rate; the vertical line is the chosen rate.

    Args:
        curve: One entry per learning rate, with the value of each tuning seed, or None if its run has no value (a
            cross).
        chosen: Learning rate that was chosen.
        style: Style of the arm.
        label: Label of the arm.
        metric: Unit and direction of the metric.
        limits: Limits of the value axis.
        name: Prefix of ids, unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    from matplotlib.ticker import NullLocator

    low, high = limits
    worst = low if metric["higher_is_better"] else high
    with drawing():
        figure = blank(172, 180)
        plot = axes(figure, left=36, right=6, top=12, bottom=40)
        rates = [entry["learning_rate"] for entry in curve]
        plot.set_xscale("log")
        plot.set(xlim=(min(rates) / 1.5, max(rates) * 1.5), ylim=limits)
        plain_ticks(plot, "y", count=4)
        shown = rates[:: -(-len(rates) // 4)]
        plot.set_xticks(shown, [_power(rate) for rate in shown])
        plot.xaxis.set_minor_locator(NullLocator())
        plot.set_xlabel("learning rate", color=_MUTED, fontsize=11, loc="right", labelpad=2)
        plot.axvline(chosen, color=_MUTED, linewidth=1, linestyle=(0, (3, 2)))
        means = [np.mean(entry["values"]) if None not in entry["values"] else np.nan for entry in curve]
        plot.plot(rates, means, color=style.colour, linewidth=2, gid=mark(style.index))
        for entry in curve:
            for value in entry["values"]:
                text = "no value" if value is None else describe(value, metric["unit"])
                tip = f"{label}, learning rate {entry['learning_rate']:g}: {text}"
                plot.plot(
                    [entry["learning_rate"]],
                    [worst if value is None else value],
                    "x" if value is None else style.marker,
                    color=_FAIL if value is None else style.colour,
                    markersize=6,
                    markeredgewidth=1.8 if value is None else 0,
                    clip_on=value is not None,
                    gid=mark(style.index, tip),
                )
        return to_svg(
            figure,
            name=name,
            title=f"Tuning of {label}",
            words=f"{label} was tuned over the rates {', '.join(f'{at:g}' for at in rates)}; {chosen:g} was chosen.",
        )


def _power(rate: float) -> str:
    """Write a learning rate in few characters, such as ``3e-4``."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "\N{MINUS SIGN}")
