"""Pictures with one mark an arm: the differences with their intervals (forest), and cost against quality."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import NullLocator

from normscope.report.drawing.format import change, decimals, level, span, split_verdict
from normscope.report.drawing.palette import Look, stand_in
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
from normscope.report.study.folder import Run

_INK, _MUTED, _BAND, _FAIL = stand_in("ink"), stand_in("muted"), stand_in("band"), stand_in("fail")
_ROW = 52


def forest(summary: Mapping[str, Any], looks: Mapping[str, Look], *, width: int, name: str) -> str:
    """Draw the paired difference of every arm with its intervals and the margin band.

    The thick line is the interval over seeds, the thin one the interval over test examples. An interval that would
    flatten all others is cut at the edge, with an arrow; its numbers stand beside it.

    Args:
        summary: summary.json.
        looks: The look of every arm.
        width: In CSS pixels; the picture is not meant to be scaled.
        name: Unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    arms = [arm for arm in summary["arms"] if arm["label"] != summary["baseline"]]
    metric, margin, places = summary["metric"], summary["margin"], decimals(summary["margin"])
    low, high = _reach(arms, margin)
    with drawing():
        figure = blank(width, 52 + _ROW * len(arms))
        plot = axes(figure, left=8, right=8, top=22, bottom=30)
        plot.grid(visible=False)
        plot.set(xlim=(low, high), ylim=(len(arms) - 0.35, -0.45), yticks=[])
        plot.axvspan(-margin, margin, color=_BAND, linewidth=0)
        plot.axvline(0, color=_MUTED, linewidth=1)
        plain_ticks(plot, "x", count=6 if width > 500 else 4)
        better = "better \N{RIGHTWARDS ARROW}" if metric["higher_is_better"] else "\N{LEFTWARDS ARROW} better"
        worse = "\N{LEFTWARDS ARROW} worse" if metric["higher_is_better"] else "worse \N{RIGHTWARDS ARROW}"
        for text, place in ((worse, worse), (better, better)):
            right = place.endswith("\N{RIGHTWARDS ARROW}")
            plot.annotate(
                text,
                (1 if right else 0, 1),
                (0, 8),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right" if right else "left",
                color=_MUTED,
                fontsize=11,
            )
        for row, arm in enumerate(arms):
            _forest_row(plot, row, arm, looks[arm["label"]], (low, high), places, 24 if width < 500 else 60)
        words = "; ".join(
            f"{arm['label']}: {change(arm['difference'], places, metric['unit'])} {span(arm['interval'], places)}"
            for arm in arms
        )
        title = f"Difference to {summary['baseline']} in {metric['name']}, with {level(summary['alpha'])} interval"
        return to_svg(figure, name=name, title=title, words=f"{words}. The margin is ±{margin} {metric['unit']}.")


def cost(
    arms: Sequence[Mapping[str, Any]],
    looks: Mapping[str, Look],
    metric: Mapping[str, Any],
    field: str,
    axis: str,
    *,
    name: str,
) -> str:
    """Draw the mean of every arm against what it costs; the bar is one standard deviation over seeds.

    Args:
        arms: Those with a mean and a cost; the others cannot stand in the picture.
        looks: The look of every arm.
        metric: Its name and unit.
        field: The cost, one of an arm's fields.
        axis: What the cost is, with its unit.
        name: Unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    scale = 2**20 if field.endswith("_bytes") else 1
    low, high = fence([arm["mean"] for arm in arms])
    spread = max((arm["sd"] or 0.0) for arm in arms if low <= arm["mean"] <= high)
    bottom, top = padded(low - spread, high + spread)
    with drawing():
        figure = blank(350, 270)
        plot = axes(figure, left=46, right=14, top=26, bottom=40)
        costs = [arm[field] / scale for arm in arms]
        plot.set(xlim=(0, max(costs) * 1.12), ylim=(bottom, top))
        plain_ticks(plot, "x", count=5)
        plain_ticks(plot, "y", count=5)
        plot.set_xlabel(axis, color=_MUTED, fontsize=11, loc="right")
        headline(plot, _axis(metric), above=12)
        for arm, x in zip(arms, costs, strict=True):
            look = looks[arm["label"]]
            y = float(np.clip(arm["mean"], bottom + 0.02 * (top - bottom), top - 0.02 * (top - bottom)))
            tip = f"{arm['label']}: {describe(arm['mean'], metric['unit'])}, {describe(x, '')} ({axis})"
            if y == arm["mean"] and arm["sd"]:
                plot.plot(
                    [x, x], [y - arm["sd"], y + arm["sd"]], color=look.colour, linewidth=1.5, gid=mark(look.index)
                )
            plot.plot([x], [y], look.marker, color=look.colour, markersize=8, gid=mark(look.index, tip), clip_on=False)
            if y != arm["mean"]:
                note = f"{clean(arm['label'], 20)} {describe(arm['mean'], '')}"
                plot.annotate(
                    note, (x, y), (-8, 0), textcoords="offset points", ha="right", va="center", color=_MUTED, fontsize=9
                )
        words = "; ".join(
            f"{arm['label']}: {describe(arm['mean'], metric['unit'])} at {describe(x, '')}"
            for arm, x in zip(arms, costs, strict=True)
        )
        return to_svg(figure, name=name, title=f"{_axis(metric)} against {axis}", words=words + ".")


def _axis(metric: Mapping[str, Any]) -> str:
    """Name an axis of the metric."""
    return clean(f"{metric['name']} ({metric['unit']})" if metric["unit"] else metric["name"], 40)


def _reach(arms: Sequence[Mapping[str, Any]], margin: float) -> tuple[float, float]:
    """Choose the ends of the forest's axis: all intervals but those six times as far out as the middle one."""
    ends = []
    for arm in arms:
        if arm["difference"] is not None:
            both = [*(arm["interval"] or [arm["difference"]]), *(arm.get("interval_examples") or [])]
            ends.append((min(both), max(both)))
    far = [max(abs(low), abs(high), margin) for low, high in ends]
    kept = [end for end, size in zip(ends, far, strict=True) if size <= 6 * float(np.median(far))]
    edges = [-1.25 * margin, 1.25 * margin, *(edge for end in kept for edge in end)]
    return padded(min(edges), max(edges), 0.04) if any(edges) else (-1.0, 1.0)


def _forest_row(
    plot: Any, row: int, arm: Mapping[str, Any], look: Look, limits: tuple[float, float], places: int, longest: int
) -> None:
    """Draw one arm: its name and numbers above, its intervals below."""
    low, high = limits
    fails = split_verdict(arm)[0]
    name = clean(arm["label"], longest)
    above = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
        "annotation_clip": False,
    }
    plot.annotate(name, (0, row - 0.2), (2, 0), color=_INK, weight="bold", gid=mark(look.index), **above)
    numbers = f"{change(arm['difference'], places, '')}  {span(arm['interval'], places)}"
    plot.annotate(numbers, (1, row - 0.2), (-2, 0), ha="right", color=_INK, fontsize=11, **above)
    y = row + 0.14
    if arm["difference"] is not None:
        if arm.get("interval_examples"):
            plot.plot(arm["interval_examples"], [y + 0.13] * 2, color=look.colour, linewidth=1, gid=mark(look.index))
        if arm["interval"]:
            plot.plot(
                arm["interval"], [y, y], color=look.colour, linewidth=3.5, solid_capstyle="butt", gid=mark(look.index)
            )
        tip = f"{arm['label']}: {arm['verdict']}"
        plot.plot([arm["difference"]], [y], look.marker, color=look.colour, markersize=9, gid=mark(look.index, tip))
        for edge, arrow, inside in ((low, "<", arm["difference"] < low), (high, ">", arm["difference"] > high)):
            if inside:
                plot.plot([edge], [y], arrow, color=look.colour, markersize=9, clip_on=False, gid=mark(look.index, tip))
    if fails:
        plot.annotate(fails, (0, y + 0.29), (2, 0), color=_FAIL, fontsize=11, weight="bold", **above)


_MUTED_ = stand_in("muted")
_PARTS = (("re-centering", "-"), ("re-scaling", (0, (4, 2))))


def shares(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Give the steps of a run's evaluations, ``[n]``, and both shares in %, ``[n, 2]``, averaged over its norms.

    Evaluations without a share are left out: of a network without norms, or a run older than the probe.
    """
    rows = [(row["step"], row["gradient"]) for row in run.metrics if row.get("gradient")]
    steps = np.array([step for step, _ in rows], dtype=np.int64)
    means = [100 * np.mean(list(by_norm.values()), axis=0) for _, by_norm in rows]
    return steps, np.array(means, dtype=np.float64).reshape(-1, 2)


def highest(runs: Sequence[Run]) -> float:
    """Give the end of the share axis that all arms of a study have, in %."""
    seen = [share for run in runs for share in shares(run)[1].ravel()]
    return max(1.0, 1.08 * max(seen, default=0.0))


def gradients(runs: Sequence[Run], look: Look, steps: int, top: float, *, name: str) -> str:
    """Draw both shares of one arm over the steps: every seed thin, their median thick.

    Args:
        runs: The arm's.
        look: The arm's.
        steps: The end of the step axis.
        top: The end of the share axis, in %.
        name: Unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    found = [(run, *shares(run)) for run in runs]
    grid = np.array(sorted({step for _, at, _ in found for step in at}), dtype=np.int64)
    table = np.full((len(runs), len(grid), 2), np.nan)
    for place, (_, at, values) in enumerate(found):
        table[place, np.searchsorted(grid, at)] = values
    middle = np.nanmedian(table, axis=0)
    with drawing():
        figure = blank(350, 210)
        plot = axes(figure, left=46, right=12, top=24, bottom=30)
        plot.set(xlim=(0, steps), ylim=(0, top))
        plain_ticks(plot, "y", count=4)
        plain_ticks(plot, "x", count=4)
        plot.set_xlabel("step", color=_MUTED_, fontsize=11, loc="right", labelpad=2)
        headline(plot, "% of the gradient: re-centering (line), re-scaling (broken)", size=10)
        for part, (word, style) in enumerate(_PARTS):
            for run, at, values in found:
                tip = mark(look.index, f"{word}, seed {run.seed}")
                plot.plot(at, values[:, part], color=look.colour, linewidth=0.7, alpha=0.35, linestyle=style, gid=tip)
            plot.plot(grid, middle[:, part], color=look.colour, linestyle=style, linewidth=2.3, zorder=3)
        ends = " and ".join(f"{word} {describe(float(middle[-1, part]), '%')}" for part, (word, _) in enumerate(_PARTS))
        words = f"{runs[0].label}: at step {grid[-1]} the median share of {ends}."
        return to_svg(figure, name=name, title=f"Gradient at the norms of {runs[0].label}", words=words)


_MUTED_T, _FAIL_T = stand_in("muted"), stand_in("fail")


def tuning(
    curve: Sequence[Mapping[str, Any]],
    chosen: float,
    look: Look,
    label: str,
    metric: Mapping[str, Any],
    limits: tuple[float, float],
    *,
    name: str,
) -> str:
    """Draw the validation value of every tuning run over the learning rate; the vertical line is the chosen rate.

    Args:
        curve: One entry a learning rate, with the value of each tuning seed; None where a run broke, drawn as a cross.
        chosen: The rate that the verdict's runs use.
        look: The arm's.
        label: Its name.
        metric: Its unit and direction.
        limits: The value axis.
        name: Unique in the page.

    Returns:
        An ``<svg>`` element.
    """
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
        plot.set_xlabel("learning rate", color=_MUTED_T, fontsize=11, loc="right", labelpad=2)
        plot.axvline(chosen, color=_MUTED_T, linewidth=1, linestyle=(0, (3, 2)))
        means = [np.mean(entry["values"]) if None not in entry["values"] else np.nan for entry in curve]
        plot.plot(rates, means, color=look.colour, linewidth=2, gid=mark(look.index))
        for entry in curve:
            for value in entry["values"]:
                found = "failed to train" if value is None else describe(value, metric["unit"])
                tip = f"{label}, learning rate {entry['learning_rate']:g}: {found}"
                x, y = [entry["learning_rate"]], [worst if value is None else value]
                plot.plot(
                    x,
                    y,
                    "x" if value is None else look.marker,
                    color=_FAIL_T if value is None else look.colour,
                    markersize=6,
                    markeredgewidth=1.8 if value is None else 0,
                    clip_on=value is not None,
                    gid=mark(look.index, tip),
                )
        return to_svg(
            figure,
            name=name,
            title=f"Tuning of {label}",
            words=f"{label} was tuned over the rates {', '.join(f'{at:g}' for at in rates)}; {chosen:g} was chosen.",
        )


def _power(rate: float) -> str:
    """Write a learning rate in few letters: ``3e-4``."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "\N{MINUS SIGN}")
