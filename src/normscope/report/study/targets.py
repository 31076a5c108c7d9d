"""Times to a target on the page of a study: sentences, a table, and the crossings for the learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from normscope.report.drawing.curves import Crossing
from normscope.report.drawing.format import (
    aside,
    duration,
    level,
    number,
    probability,
    ratio,
    significant,
    verdict_kind,
)
from normscope.report.study.folder import RunHistory
from normscope.results.per_arm import ArmSummary
from normscope.results.summary import Summary
from normscope.results.targets.record import BASELINE, ArmTarget, name_target, split_target

_FASTER = {"better": "faster", "worse": "slower", "equivalent": "equivalent"}


def describe_targets(summary: Summary) -> list[str]:
    """Write what the times are, how finely they are resolved, and what the error rate covers; empty without targets."""
    targets = summary.targets
    if targets is None:
        return []
    metric, margin = targets.metric or summary.metric, targets.margin
    spacing = f" Evaluations are {number(targets.resolution, 0)} updates apart." if targets.resolution else ""
    return [
        f"Updates until the first evaluation at which a run's best {metric['name']} so far is as good as a target."
        f"{spacing}"
        f" The ratio is that of the arm's updates over those of {summary.baseline} with the same seed, as Hodges"
        f" and Lehmann estimate it over the seeds: below 1 is faster. A run that never arrives counts as later than its"
        f" last evaluation; where that leaves a ratio open, its bounds are given. Seconds are those of this machine,"
        f" described and not tested.",
        f"Better is faster, worse is slower, equivalent: a ratio between 1/{margin:g} and {margin:g}. A claim needs the"
        f" {level(summary.alpha)} interval and a sign-flip test, corrected for all arms and targets (Holm): any false"
        f" claim on times has a probability of at most {summary.alpha:g}, beside that of the verdicts above."
        + (
            " A run like the baseline reaches the baseline's best in half of the seeds only, so the test compares each"
            " with the other's best instead."
            if BASELINE in targets.values
            else ""
        ),
    ]


def target_rows(summary: Summary) -> list[dict[str, Any]]:
    """Build the table of times: one row per target and arm, tuned arms first."""
    if summary.targets is None:
        return []
    unit = (summary.targets.metric or summary.metric)["unit"]
    return [
        _row(arm, side, (arm.targets or ())[place], unit)
        for place in range(len(summary.targets.values))
        for side, arms in (("", summary.arms), ("untuned", summary.untuned or ()))
        for arm in arms
    ]


def _row(arm: ArmSummary, side: str, each: ArmTarget, unit: str) -> dict[str, Any]:
    _, rest = split_target(each.verdict)
    kind = verdict_kind(rest)
    return {
        "label": arm.label,
        "side": side,
        "target": name_target(each.target, unit),
        "reached": f"{each.reached} of {len(each.runs)}",
        "steps": number(each.steps, 0),
        "ratio": ratio(each.ratio),
        "interval": ratio(each.interval),
        "seconds": duration(each.seconds),
        "ratio_seconds": ratio(each.ratio_seconds),
        "interval_seconds": ratio(each.interval_seconds),
        "p_adjusted": probability(each.p_adjusted),
        "broken": each.reached < len(each.runs),
        "kind": kind,
        "note": rest if kind == "open" else aside(rest, kind),
        "decided": "" if each.decided_at is None else f"decided at {each.decided_at} pairs",
    }


def target_sentences(arm: ArmSummary, summary: Summary) -> list[str]:
    """Write the verdict on an arm's times to each target; nothing of the baseline and without targets."""
    if summary.targets is None or arm.label == summary.baseline:
        return []
    unit, sentences = (summary.targets.metric or summary.metric)["unit"], []
    for each in arm.targets or ():
        missing, rest = split_target(each.verdict)
        kind = verdict_kind(rest)
        words = f"{_FASTER[kind]}{rest.removeprefix(kind)}" if kind in _FASTER else rest
        facts = [f"{level(summary.alpha)} interval {ratio(each.interval)}"]
        facts += [] if each.p_adjusted is None else [f"adjusted p {probability(each.p_adjusted)}"]
        numbers = f", {ratio(each.ratio)} times those of {summary.baseline} ({'; '.join(facts)})"
        parts = f"{missing}; " * bool(missing) + words + ("" if each.interval is None else numbers)
        sentences.append(f"Updates to {name_target(each.target, unit)}: {parts}.")
    return sentences


def crossings(runs: Sequence[RunHistory], arm: ArmSummary, baseline: ArmSummary, unit: str) -> Sequence[Crossing]:
    """Return where each run of an arm reaches each target, for its learning curves."""
    found = []
    for place, each in enumerate(arm.targets or ()):
        values: dict[int, Mapping[int, float]] = {
            run.seed: {row["step"]: row["valid_value"] for row in run.metrics if row.get("valid_value") is not None}
            for run in runs
        }
        points = [
            (time.seed, time.step, values[time.seed][time.step])
            for time in each.runs
            if time.step is not None and time.step in values.get(time.seed, {})
        ]
        other = (baseline.targets or ())[place]
        found.append(
            Crossing(
                name=name_target(each.target, unit),
                value=None if each.target == BASELINE else float(each.target),
                points=tuple(points),
                step=each.steps,
                baseline=other.steps,
                words=f"{each.reached} of {len(each.runs)} seeds reach {name_target(each.target, unit)}"
                + (f", in the median at step {significant(each.steps)}" if each.steps is not None else ""),
            )
        )
    return found
