"""Pictures with one mark an arm: the differences with their intervals (forest), and cost against quality."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from normscope.report.palette import Look, stand_in
from normscope.report.scale import describe, fence, padded, plain_ticks
from normscope.report.svg import axes, blank, clean, drawing, headline, mark, to_svg
from normscope.report.words import change, decimals, level, span, split_verdict

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
