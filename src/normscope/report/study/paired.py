"""Per-seed dots joined by pair: each arm against the baseline, one small picture an arm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from normscope.report.drawing.format import MISSING, decimals, number, rate, span, split_verdict
from normscope.report.drawing.palette import Look, stand_in
from normscope.report.drawing.svg import axes, blank, describe, drawing, fence, mark, padded, plain_ticks, to_svg
from normscope.report.study.folder import Run, Study


def published_tables(study: Study) -> list[dict[str, Any]]:
    """Set every published figure beside the arms with its norm and arguments, as values and as differences."""
    arms, places = study.summary["arms"], decimals(study.summary["margin"])
    base = next(arm for arm in arms if arm["label"] == study.summary["baseline"])
    tables = []
    for table in study.card.get("published") or []:
        zero = next((row["value"] for row in table["rows"] if _is_of(base, row)), None)
        rows = []
        apart_by = _scored_otherwise(study.card["metric"], table)
        for row in table["rows"]:
            value = row["value"]
            apart = value - zero if not _is_of(base, row) and None not in (value, zero) else None
            for arm in [arm for arm in arms if _is_of(arm, row)] or [None]:
                rows.append(
                    {
                        "norm": row["norm"],
                        "label": arm and arm["label"],
                        "theirs": MISSING if value is None else str(value),
                        "ours": MISSING if apart_by else number(arm and arm["mean"], places),
                        "their_difference": number(apart, places, signed=True),
                        "our_difference": MISSING
                        if apart_by
                        else number(arm and arm["difference"], places, signed=True),
                        "our_interval": MISSING if apart_by else span(arm and arm["interval"], places),
                    }
                )
        tables.append(
            {
                "label": table["label"],
                "source": table["source"] if table["source"] != table["label"] else "",
                "note": " ".join(filter(None, [table.get("note"), apart_by])),
                "rows": rows,
            }
        )
    return tables


def tuned_beside_untuned(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Set the verdict of every tuned arm beside that of the same arm with the recipe's own learning rate."""
    places = decimals(summary["margin"])
    rows = []
    for arm in summary["arms"]:
        twin = next((other for other in summary.get("untuned") or [] if _same(arm, other)), None)
        rows.append(
            {
                "label": arm["label"],
                "sides": [
                    {
                        "rate": MISSING if side is None else rate(side.get("learning_rate")),
                        "difference": number(side and side["difference"], places, signed=True),
                        "interval": span(side and side["interval"], places),
                        "broken": "" if side is None else split_verdict(side)[0],
                        "verdict": MISSING if side is None else split_verdict(side)[1],
                    }
                    for side in (twin, arm)
                ],
            }
        )
    return rows


def _scored_otherwise(metric: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    """Say why figures cannot be compared, where their scorers were not set alike; nothing where they were."""
    ours, theirs = metric.get("signature") or "", table.get("signature") or ""
    if ours == theirs:
        return ""
    return (
        f"Not compared with ours: scored as {theirs or 'the source does not say'}, ours as {ours or 'no such scorer'}; "
        "figures of two scorers differ by more than norms do."
    )


def _is_of(arm: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether an arm has a published row's norm, and the arguments that the row names."""
    arguments = row.get("arguments") or {}
    return arm["norm"] == row["norm"] and arguments.items() <= (arm.get("arguments") or {}).items()


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two arms differ in nothing but the learning rate: labels name everything else."""
    return all(one.get(key) == other.get(key) for key in ("label", "norm", "placement", "arguments"))


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
