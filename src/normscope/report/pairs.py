"""Per-seed dots joined by pair: each arm against the baseline, one small picture an arm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from normscope.report.folder import Run
from normscope.report.palette import Look, stand_in
from normscope.report.scale import describe, fence, padded, plain_ticks
from normscope.report.svg import axes, blank, drawing, mark, to_svg

_INK, _MUTED, _BAND, _FAIL = stand_in("ink"), stand_in("muted"), stand_in("band"), stand_in("fail")
_LEFT, _RIGHT = 0.0, 1.0


def common_scale(values: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Choose a value axis for every arm: one for all that share a range, an own one for an arm far from the rest.

    Args:
        values: The values of every arm, over seeds; the baseline's are among them.
    """
    everything = [value for each in values.values() for value in each]
    if not everything:
        return dict.fromkeys(values, (0.0, 1.0))
    low, high = fence(everything)
    shared = padded(low, high)
    return {
        label: shared
        if not each or (min(each) >= low and max(each) <= high)
        else padded(min(everything), max(everything))
        for label, each in values.items()
    }


def pairs(
    runs: Sequence[Run],
    partners: Sequence[Run],
    look: Look,
    summary: Mapping[str, Any],
    limits: tuple[float, float],
    *,
    name: str,
) -> str:
    """Draw every seed of an arm joined to the same seed of the baseline.

    A pair that the arm wins is drawn in its colour, one that it loses in grey. A run that failed to train is a cross
    at the worse edge, joined by a broken line; a seed whose partner has no run yet stands alone. The band is the
    baseline's mean and the margin around it.

    Args:
        runs: The arm's.
        partners: The baseline's.
        look: The arm's.
        summary: summary.json.
        limits: The value axis.
        name: Unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    metric, higher = summary["metric"], summary["metric"]["higher_is_better"]
    left, right = _by_seed(partners), _by_seed(runs)
    low, high = limits
    worst = low if higher else high
    label = runs[0].label
    won = lost = 0
    with drawing():
        figure = blank(172, 226)
        plot = axes(figure, left=36, right=6, top=12, bottom=28)
        plot.set(xlim=(-0.22, 1.22), ylim=limits)
        means = {side: _mean(group) for side, group in ((_LEFT, left), (_RIGHT, right))}
        if means[_LEFT] is not None:
            plot.axhspan(means[_LEFT] - summary["margin"], means[_LEFT] + summary["margin"], color=_BAND, linewidth=0)
        plain_ticks(plot, "y", count=5)
        plot.set_xticks([_LEFT, _RIGHT], ["baseline", "arm"], color=_INK)
        for seed in sorted(left.keys() | right.keys()):
            base, arm = left.get(seed), right.get(seed)
            start, stop = _height(base, worst), _height(arm, worst)
            tip = mark(look.index, f"seed {seed}: {_words(base, metric)} \N{RIGHTWARDS ARROW} {_words(arm, metric)}")
            if start is not None and stop is not None:
                broke = any(run.broke for run in (base, arm) if run is not None)
                ahead = start != stop and (stop > start) == higher
                won, lost = won + (ahead and not broke), lost + (not ahead and not broke)
                colour = _FAIL if broke else look.colour if ahead else _MUTED
                style = (0, (2, 2)) if broke else "-"
                plot.plot([_LEFT, _RIGHT], [start, stop], linestyle=style, linewidth=1.3, color=colour, gid=tip)
            _dot(plot, _LEFT, base, start, _INK, "o", tip)
            _dot(plot, _RIGHT, arm, stop, look.colour, look.marker, tip)
        for x, mean in means.items():
            if mean is not None:
                side = -0.13 if x == _LEFT else 0.13
                plot.plot(
                    [x + side - 0.06, x + side + 0.06], [mean, mean], color=_INK, linewidth=2.4, solid_capstyle="butt"
                )
        crosses = sum(run.broke for run in runs)
        words = (
            f"{label} is ahead in {won} and behind in {lost} pairs with {summary['baseline']};"
            f" {crosses} of its runs failed to train."
        )
        return to_svg(figure, name=name, title=f"{label} against {summary['baseline']}, seed by seed", words=words)


def _dot(plot: Axes, x: float, run: Run | None, height: float | None, colour: str, marker: str, tip: str) -> None:
    """Draw one run: its marker, or a cross if it broke, or nothing if it has no value yet."""
    if run is None or height is None:
        return
    if run.broke:
        look: dict[str, Any] = {"marker": "x", "color": _FAIL, "markersize": 7, "markeredgewidth": 1.8}
    else:
        look = {"marker": marker, "color": colour, "markersize": 5.5, "markeredgewidth": 0}
    plot.plot([x], [height], clip_on=False, zorder=3, gid=tip, **look)


def _by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    """Key runs by seed.

    Raises:
        ValueError: If a seed comes twice.
    """
    table = {run.seed: run for run in runs}
    if len(table) != len(runs):
        raise ValueError(f"{runs[0].label} has {len(runs)} runs for {len(table)} seeds: a seed comes twice")
    return table


def _height(run: Run | None, worst: float) -> float | None:
    """Give the place of a run on the value axis; None where it has none yet."""
    if run is None:
        return None
    return worst if run.broke else run.value


def _mean(group: Mapping[int, Run]) -> float | None:
    """Average the values there are."""
    values = [run.value for run in group.values() if run.value is not None and not run.broke]
    return float(np.mean(values)) if values else None


def _words(run: Run | None, metric: Mapping[str, Any]) -> str:
    """Say how one run ended."""
    if run is None:
        return "not planned"
    return describe(run.value, metric["unit"]) if run.value is not None and not run.broke else run.state
