"""Comparisons side by side: runs paired by seed, tuned arms with untuned ones, published figures with ours."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from normscope.report.drawing.format import MISSING, decimals, number, rate, span, split_verdict
from normscope.report.drawing.palette import ArmStyle, stand_in
from normscope.report.drawing.svg import axes, blank, describe, drawing, fence, mark, padded, plain_ticks, to_svg
from normscope.report.study.folder import RunHistory, StudyRecord
from normscope.results.per_arm import ArmSummary
from normscope.results.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _BAND, _FAIL = stand_in("ink"), stand_in("muted"), stand_in("band"), stand_in("fail")
_LEFT, _RIGHT = 0.0, 1.0


def published_tables(study: StudyRecord) -> list[dict[str, Any]]:
    """Build the tables of published figures beside the arms of the same norm and arguments: values and differences."""
    arms, places = study.summary.arms, decimals(study.summary.margin)
    base = next(arm for arm in arms if arm.label == study.summary.baseline)
    tables = []
    for table in study.card.get("published") or []:
        zero = next((row["value"] for row in table["rows"] if _matches(base, row)), None)
        rows = []
        other_scorer = _explain_other_scorer(study.card["metric"], table)
        for row in table["rows"]:
            value = row["value"]
            difference = value - zero if not _matches(base, row) and None not in (value, zero) else None
            for arm in [arm for arm in arms if _matches(arm, row)] or [None]:
                compared = None if other_scorer else arm
                rows.append(
                    {
                        "norm": row["norm"],
                        "label": arm and arm.label,
                        "theirs": MISSING if value is None else str(value),
                        "ours": number(compared and compared.mean, places),
                        "their_difference": number(difference, places, signed=True),
                        "our_difference": number(compared and compared.difference, places, signed=True),
                        "our_interval": span(compared and compared.interval, places),
                    }
                )
        tables.append(
            {
                "label": table["label"],
                "source": table["source"] if table["source"] != table["label"] else "",
                "note": " ".join(filter(None, [table.get("note"), other_scorer])),
                "rows": rows,
            }
        )
    return tables


def tuned_beside_untuned(summary: Summary) -> list[dict[str, Any]]:
    """Build the table of every tuned arm beside the same arm at the task's learning rate."""
    places = decimals(summary.margin)
    rows = []
    for arm in summary.arms:
        twin = next((other for other in summary.untuned or () if _same(arm, other)), None)
        rows.append(
            {
                "label": arm.label,
                "sides": [
                    {
                        "rate": rate(side and side.learning_rate),
                        "difference": number(side and side.difference, places, signed=True),
                        "interval": span(side and side.interval, places),
                        "broken": "" if side is None else split_verdict(side)[0],
                        "verdict": MISSING if side is None else split_verdict(side)[1],
                    }
                    for side in (twin, arm)
                ],
            }
        )
    return rows


def _explain_other_scorer(metric: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    """Explain why the figures of a table are not compared; empty if its scorer has the signature of ours."""
    ours, theirs = metric.get("signature") or "", table.get("signature") or ""
    if ours == theirs:
        return ""
    return (
        f"Not compared with ours: scored as {theirs or 'the source does not say'}, ours as {ours or 'no such scorer'}; "
        "figures of two scorers differ by more than norms do."
    )


def _matches(arm: ArmSummary, row: Mapping[str, Any]) -> bool:
    """Return whether an arm has the norm of a published row, and the arguments that the row names."""
    return arm.norm == row["norm"] and (row.get("arguments") or {}).items() <= arm.arguments.items()


def _same(arm: ArmSummary, other: ArmSummary) -> bool:
    """Return whether two arms differ only in the learning rate: labels name everything else."""
    fields = ("label", "norm", "placement", "arguments")
    return all(getattr(arm, name) == getattr(other, name) for name in fields)


def common_scale(values: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Choose the value axis of every arm: a common one, and a separate one for an arm far from the rest.

    Args:
        values: Values over seeds by arm, including those of the baseline.
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
    runs: Sequence[RunHistory],
    partners: Sequence[RunHistory],
    style: ArmStyle,
    summary: Summary,
    limits: tuple[float, float],
    *,
    name: str,
) -> str:
    """Draw every seed of an arm joined to the same seed of the baseline.

    A pair is drawn in the colour of the arm if the arm is better, else in grey. A run without a value is a cross
    at the worse edge, joined by a broken line; a run whose partner has no value yet stands alone. The band is the
    margin around the mean of the baseline.

    Args:
        runs: Runs of the arm.
        partners: Runs of the baseline.
        style: Style of the arm.
        summary: Summary of the study.
        limits: Limits of the value axis.
        name: Prefix of ids, unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    metric, higher = summary.metric, summary.metric["higher_is_better"]
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
        if (center := means[_LEFT]) is not None:
            plot.axhspan(center - summary.margin, center + summary.margin, color=_BAND, linewidth=0)
        plain_ticks(plot, "y", count=5)
        plot.set_xticks([_LEFT, _RIGHT], ["baseline", "arm"], color=_INK)
        for seed in sorted(left.keys() | right.keys()):
            base, arm = left.get(seed), right.get(seed)
            start, stop = _height(base, worst), _height(arm, worst)
            tip = mark(style.index, f"seed {seed}: {_ending(base, metric)} \N{RIGHTWARDS ARROW} {_ending(arm, metric)}")
            if start is not None and stop is not None:
                broke = any(run.broke for run in (base, arm) if run is not None)
                ahead = start != stop and (stop > start) == higher
                won, lost = won + (ahead and not broke), lost + (not ahead and not broke)
                colour = _FAIL if broke else style.colour if ahead else _MUTED
                line = (0, (2, 2)) if broke else "-"
                plot.plot([_LEFT, _RIGHT], [start, stop], linestyle=line, linewidth=1.3, color=colour, gid=tip)
            _dot(plot, _LEFT, base, start, _INK, "o", tip)
            _dot(plot, _RIGHT, arm, stop, style.colour, style.marker, tip)
        for x, mean in means.items():
            if mean is not None:
                side = -0.13 if x == _LEFT else 0.13
                plot.plot(
                    [x + side - 0.06, x + side + 0.06], [mean, mean], color=_INK, linewidth=2.4, solid_capstyle="butt"
                )
        crosses = sum(run.broke for run in runs)
        words = (
            f"{label} is ahead in {won} and behind in {lost} pairs with {summary.baseline};"
            f" {crosses} of its runs ended without a value."
        )
        return to_svg(figure, name=name, title=f"{label} against {summary.baseline}, seed by seed", words=words)


def _dot(
    plot: "Axes", x: float, run: RunHistory | None, height: float | None, colour: str, marker: str, tip: str
) -> None:
    """Draw one run: a marker, a cross if it has failed, nothing if it has no value yet."""
    if run is None or height is None:
        return
    if run.broke:
        shape: dict[str, Any] = {"marker": "x", "color": _FAIL, "markersize": 7, "markeredgewidth": 1.8}
    else:
        shape = {"marker": marker, "color": colour, "markersize": 5.5, "markeredgewidth": 0}
    plot.plot([x], [height], clip_on=False, zorder=3, gid=tip, **shape)


def _by_seed(runs: Sequence[RunHistory]) -> dict[int, RunHistory]:
    """Return runs by seed.

    Raises:
        ValueError: If a seed occurs twice.
    """
    table = {run.seed: run for run in runs}
    if len(table) != len(runs):
        raise ValueError(f"{runs[0].label} has {len(runs)} runs for {len(table)} seeds: a seed comes twice")
    return table


def _height(run: RunHistory | None, worst: float) -> float | None:
    """Return the position of a run on the value axis, or None if it has no value yet."""
    if run is None:
        return None
    return worst if run.broke else run.value


def _mean(group: Mapping[int, RunHistory]) -> float | None:
    """Return the mean of the known values, or None."""
    values = [run.value for run in group.values() if run.value is not None and not run.broke]
    return float(np.mean(values)) if values else None


def _ending(run: RunHistory | None, metric: Mapping[str, Any]) -> str:
    """Describe the value or the state of a run."""
    if run is None:
        return "not planned"
    return describe(run.value, metric["unit"]) if run.value is not None and not run.broke else run.state
