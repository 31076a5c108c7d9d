"""Learning curves: every seed, their median, and the point at which a run ended without a value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    wants_logarithm,
)
from normscope.report.study.folder import RunHistory

_INK, _MUTED, _FAIL = stand_in("ink"), stand_in("muted"), stand_in("fail")
_FIELDS = ("valid_value", "train_loss")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Axes that all arms of a study share, so that their curves can be compared."""

    steps: int
    """End of the step axis."""
    limits: Mapping[str, tuple[float, float]]
    """Limits of the value axis, by field."""
    logarithmic: Mapping[str, bool]
    """Whether that axis is logarithmic, by field."""


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where the runs of an arm reach one target of the validation metric."""

    name: str
    """The target in words."""
    value: float | None
    """Its value; None if every seed has its own."""
    points: tuple[tuple[int, int, float], ...]
    """Seed, step and value of the evaluation at which each run that reaches it does."""
    step: float | None
    """Median step over the seeds; None if too few runs reach it."""
    baseline: float | None
    """The same of the baseline."""
    words: str
    """Description."""


_MARKERS = "osD^v"


def frame(
    groups: Sequence[Sequence[RunHistory]], steps: int, metric: Mapping[str, Any], targets: Sequence[float] = ()
) -> Frame:
    """Choose axes that show the values from a quarter of the training on, and the final median of every arm.

    Neither the first steps nor runs without a value nor rare outliers thus flatten the part in which the arms differ.

    Args:
        groups: Runs of each arm.
        steps: End of the step axis.
        metric: Validation metric.
        targets: Values of it that are shown, too.
    """
    limits, logarithmic = {}, {}
    for field, higher in zip(_FIELDS, (metric["higher_is_better"], False), strict=True):
        ends: list[float] = [*targets] if field == _FIELDS[0] else []
        for runs in groups:
            middle = median(runs, field, higher_is_better=higher)[1]
            ends += [float(value) for value in middle[-1:] if np.isfinite(value)]
        late = [
            row for runs in groups for run in runs if not run.broke for row in run.metrics if row["step"] >= steps / 4
        ]
        seen = [float(row[field]) for row in late if row.get(field) is not None]
        low, high = fence(seen, reach=8) if seen else (0.0, 1.0)
        low, high = min([low, *ends]), max([high, *ends])
        logarithmic[field] = not higher and wants_logarithm([low, high], 4)
        if logarithmic[field]:
            low, high = (10**edge for edge in padded(np.log10(low), np.log10(high)))
            limits[field] = (low, high)
        else:
            limits[field] = padded(low, high)
    return Frame(steps=steps, limits=limits, logarithmic=logarithmic)


def median(runs: Sequence[RunHistory], field: str, *, higher_is_better: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the evaluated steps, ``[n]`` int64, and the median over runs at each, ``[n]`` float64.

    A run that ended without a value counts as the worst from then on, so that its end never improves the median. The
    median is NaN where this makes it infinite, and where no run has a value.
    """
    grid = np.array(sorted({row["step"] for run in runs for row in run.metrics}), dtype=np.int64)
    worst = -np.inf if higher_is_better else np.inf
    table = np.full((len(runs), len(grid)), np.nan)
    for place, run in enumerate(runs):
        for row in run.metrics:
            if row.get(field) is not None:
                table[place, np.searchsorted(grid, row["step"])] = row[field]
        if run.broke:
            table[place, np.isnan(table[place])] = worst
    middle = np.full(len(grid), np.nan)
    some = ~np.isnan(table).all(axis=0)
    middle[some] = np.nanmedian(table[:, some], axis=0)
    return grid, np.where(np.isfinite(middle), middle, np.nan)


def learning(
    runs: Sequence[RunHistory],
    baseline: Sequence[RunHistory],
    style: ArmStyle,
    metric: Mapping[str, Any],
    shared: Frame,
    points: int,
    *,
    name: str,
    data: str = "validation set",
    crossings: Sequence[Crossing] = (),
) -> str:
    """Draw the validation metric (top) and the training loss (bottom, if any run has one) of an arm over the steps.

    Seeds are thin lines, their median is a thick line, the median of the baseline a broken line; a cross marks the end
    of a run without a value.

    Args:
        runs: Runs of the arm.
        baseline: Runs of the baseline.
        style: Style of the arm.
        metric: Name, unit and direction of the metric.
        shared: Axes.
        points: Largest number of points per line; of more evaluations, evenly spaced ones are drawn.
        name: Prefix of ids, unique in the page.
        data: What the metric was measured on.
        crossings: Where the runs reach the targets of the metric: marked by hollow shapes, with a line at the median of
            the arm and a broken one at that of the baseline.

    Returns:
        An ``<svg>`` element.
    """
    label = runs[0].label
    unit = f" ({metric['unit']})" if metric["unit"] else ""
    trained = any(row.get(_FIELDS[1]) is not None for run in (*runs, *baseline) for row in run.metrics)
    panels = [(_FIELDS[0], f"{metric['name']}{unit}, {data}", 24, 180 if trained else 30)]
    panels += [(_FIELDS[1], "training loss", 198, 30)] if trained else []
    with drawing():
        figure = blank(350, 340 if trained else 190)
        for field, head, top, bottom in panels:
            plot = axes(figure, left=46, right=12, top=top, bottom=bottom)
            logarithmic, limits = shared.logarithmic[field], shared.limits[field]
            if logarithmic:
                plot.set_yscale("log")
            plot.set(xlim=(0, shared.steps), ylim=limits)
            plain_ticks(plot, "y", count=4, logarithmic=logarithmic)
            plain_ticks(plot, "x", count=4)
            if field == _FIELDS[0] and trained:
                plot.tick_params(labelbottom=False)
            else:
                plot.set_xlabel("step", color=_MUTED, fontsize=11, loc="right", labelpad=2)
            suffix = ", log scale" if logarithmic else ""
            headline(plot, clean(head, 42) + suffix)
            for run in runs:
                _seed_line(plot, run, field, style, points)
            higher = metric["higher_is_better"] and field == _FIELDS[0]
            for group, colour, line, width in ((baseline, _INK, (0, (4, 2)), 1.3), (runs, style.colour, "-", 2.3)):
                grid, middle = median(group, field, higher_is_better=higher)
                chosen = _thin(len(grid), points)
                plot.plot(grid[chosen], middle[chosen], color=colour, linestyle=line, linewidth=width, zorder=3)
            for shape, crossing in enumerate(crossings if field == _FIELDS[0] else ()):
                _cross(plot, crossing, style, _MARKERS[shape % len(_MARKERS)], metric["unit"])
        words = "; ".join([_words(runs, metric, data).removesuffix("."), *(each.words for each in crossings)])
        return to_svg(figure, name=name, title=f"Learning curves of {label}", words=f"{words}.")


def _cross(plot: Any, crossing: Crossing, style: ArmStyle, marker: str, unit: str) -> None:
    """Mark where each seed reaches a target, and the medians of the arm and of the baseline."""
    low, high = plot.get_ylim()
    if crossing.value is not None:
        plot.axhline(crossing.value, color=_MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    for step, colour, line in ((crossing.baseline, _INK, (0, (4, 2))), (crossing.step, style.colour, "-")):
        if step is not None:
            plot.axvline(step, color=colour, linewidth=0.9, linestyle=line, zorder=1.5)
    for seed, step, value in crossing.points:
        tip = f"seed {seed} reaches {crossing.name} at step {step}: {describe(value, unit)}"
        plot.plot(
            [step],
            # Early crossings may lie outside the frame.
            [np.clip(value, low, high)],
            marker,
            color="none",
            markeredgecolor=style.colour,
            markersize=5.5,
            markeredgewidth=1.3,
            clip_on=False,
            zorder=4,
            gid=mark(style.index, tip),
        )


def _seed_line(plot: Any, run: RunHistory, field: str, style: ArmStyle, points: int) -> None:
    """Draw one seed as a thin line, with a cross at its end if it has no value."""
    steps = np.array([row["step"] for row in run.metrics])
    values = np.array([np.nan if row.get(field) is None else row[field] for row in run.metrics], dtype=np.float64)
    chosen = _thin(len(steps), points)
    plot.plot(
        steps[chosen],
        values[chosen],
        color=style.colour,
        linewidth=0.8,
        alpha=0.45,
        gid=mark(style.index, f"seed {run.seed}"),
    )
    known = np.flatnonzero(np.isfinite(values))
    if run.broke and len(known):
        last = known[-1]
        low, high = plot.get_ylim()
        plot.plot(
            [steps[last]],
            [np.clip(values[last], low, high)],
            "x",
            color=_FAIL,
            markersize=7,
            markeredgewidth=1.8,
            clip_on=False,
            zorder=4,
            gid=mark(style.index, f"seed {run.seed} {run.state}: last value {describe(float(values[last]), '')}"),
        )


def _thin(count: int, points: int) -> np.ndarray:
    """Choose at most ``points`` of ``count`` indices, including the first and the last."""
    return (
        np.arange(count) if count <= points else np.unique(np.linspace(0, count - 1, points).round().astype(np.int64))
    )


def _words(runs: Sequence[RunHistory], metric: Mapping[str, Any], data: str) -> str:
    """Describe where the curves end."""
    grid, middle = median(runs, _FIELDS[0], higher_is_better=metric["higher_is_better"])
    broke = f"{sum(run.broke for run in runs)} of {len(runs)} seeds ended without a value."
    if not len(grid):
        return f"{runs[0].label}: no evaluation yet; {broke}"
    if not np.isfinite(middle[-1]):
        return f"{runs[0].label}: the median has no value at step {grid[-1]}; {broke}"
    end = describe(float(middle[-1]), metric["unit"])
    return f"{runs[0].label}: the median {metric['name']} on the {data} at step {grid[-1]} is {end}; {broke}"
