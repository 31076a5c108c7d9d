"""Claims that an arm trains faster: the ratio of the updates that it needs for the baseline's best value."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from normscope.papers.judging.agreement import Judgement, cannot_tell
from normscope.papers.judging.cell import Cell
from normscope.papers.judging.differences import cut_short, look_plan, untrained
from normscope.results.matching import ArmRuns
from normscope.results.statistics import LEAST_PAIRS, MOST_SEEDS
from normscope.results.targets import ArmTarget, judge_targets, race
from normscope.results.targets.record import BASELINE, DEFAULT_MARGIN, split_target

_SEEDS = re.compile(r"about (\d+) more seed")


def judge_faster(
    cells: Sequence[Cell],
    sides: Sequence[tuple[ArmRuns, ArmRuns]],
    card: Mapping[str, Any],
    *,
    task: str,
    full_steps: int,
) -> list[Judgement]:
    """Judge the claims of a study that an arm is faster, with Holm's correction over them.

    The target is the best validation value of the baseline with the same seed. A run that never reaches it is censored:
    it counts as slower than any that does. The ratio is in updates; that in seconds depends on the machine.

    Args:
        cells: Cells of the kind ``faster``.
        sides: Arm and baseline of each.
        card: Card of the study.
        task: Task of our runs.
        full_steps: Number of updates of the task's preset; a study with fewer is cut short.

    Returns:
        One judgement per cell.

    Raises:
        ValueError: If a file of evaluations cannot be read.
    """
    couples, looked, waiting, looks = [], [], [], look_plan(card)
    for arm, base in sides:
        both = arm.ended.keys() & base.ended.keys()
        reached = 0 if looks is None else looks.reached(len(both))
        waiting.append(0 if reached else sum(seed not in both for seed in card["seeds"]))
        count = len(card["seeds"]) if looks is None or not reached else looks.pairs[reached - 1]
        arm, base = arm.until(count), base.until(count)
        couples.append((arm, base))
        looked.append([(race(card, arm, base, BASELINE, looks) if reached else None, "")])
    margin = (card.get("targets") or {}).get("margin", DEFAULT_MARGIN)
    _, times = judge_targets(
        {**card, "targets": {"values": [BASELINE], "margin": margin}}, couples, plan=looks, looked=looked
    )
    judged = []
    for cell, (arm, base), found, lacking in zip(cells, couples, times, waiting, strict=True):
        assert found is not None
        (target,) = found
        judged.append(_judge(cell, task, arm, base, card, target, lacking, full_steps))
    return judged


def _judge(
    cell: Cell,
    task: str,
    arm: ArmRuns,
    base: ArmRuns,
    card: Mapping[str, Any],
    found: ArmTarget,
    waiting: int,
    full_steps: int,
) -> Judgement:
    ends, interval = _bounds(found.ratio), _bounds(found.interval)
    ours = None if ends is None or not math.isclose(*ends) else ends[0]
    judgement = Judgement(
        cell=cell,
        task=task,
        verdict="",
        because="",
        ours=ours,
        interval=interval if ours is not None or interval is None else _hull(ends, interval),
        interval_seeds=interval,
        pairs=found.pairs,
    )
    if not found.pairs:
        return replace(judgement, verdict="not run here", because="no pair of runs has ended")
    if card["steps"] < full_steps:
        return cut_short(judgement, card, full_steps)
    if waiting:
        why = f"{found.pairs} pairs have ended, {waiting} of {len(card['seeds'])} seeds have not"
        return cannot_tell(judgement, max(LEAST_PAIRS, len(card["seeds"])), why)
    if reason := untrained(cell, task, arm, base):
        return replace(judgement, verdict="cannot tell: the baseline does not train", because=reason)
    missing, words = split_target(found.verdict)
    if words.startswith("better") or "ahead" in words:
        return replace(
            judgement,
            verdict="reproduced",
            because="; ".join(filter(None, (missing, _size(cell, judgement)))),
            direction=1,
        )
    if words.startswith("worse") or "behind" in words:
        why = "; ".join(filter(None, (missing, "ours is slower")))
        return replace(judgement, verdict="not reproduced", because=why, direction=-1)
    if words.startswith("equivalent"):
        return replace(
            judgement,
            verdict="not reproduced",
            because=f"as many updates, within the margin; {found.verdict}",
            within_margin=True,
        )
    if not words.startswith("not enough evidence"):
        raise ValueError(f"{cell.id}: expected a verdict on times to a target, got {found.verdict!r}")
    if more := _SEEDS.search(words):
        return cannot_tell(judgement, found.pairs + int(more[1]), found.verdict)
    if f"over {MOST_SEEDS}" in words:
        return cannot_tell(judgement, None, found.verdict)
    return replace(judgement, verdict="cannot tell: the times do not decide", because=found.verdict)


def _size(cell: Cell, judgement: Judgement) -> str:
    """Compare the published ratio with our interval."""
    if cell.published is None or judgement.interval is None:
        return "the direction"
    low, high = judgement.interval
    if low <= cell.published <= high:
        return "the direction, and the published ratio is within our interval"
    return f"the direction; the gain is {'smaller' if cell.published < low else 'larger'} than published"


def _bounds(ends: tuple[float | None, float | None] | None) -> tuple[float, float] | None:
    """Return the ends with 0 and infinity in the place of the unknown ones."""
    return None if ends is None else (ends[0] or 0.0, math.inf if ends[1] is None else ends[1])


def _hull(first: tuple[float, float] | None, second: tuple[float, float]) -> tuple[float, float]:
    return second if first is None else (min(first[0], second[0]), max(first[1], second[1]))
