"""A study of ours held against the differences that a paper prints, and against its other claims.

Differences are judged, on paired runs: *reproduced*, *not reproduced*, *cannot tell: needs n seeds*, *not run here*.
A figure by itself is *not compared* unless data set, preset and scorer are the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from normscope.papers.audit import epsilon_of
from normscope.papers.cell import Cell, PaperArm
from normscope.papers.claims import judge_broken, judge_value
from normscope.papers.judgement import Judgement, cannot_tell, decide
from normscope.results.aggregates import AGGREGATES
from normscope.results.planning import fewest_pairs, seeds_needed
from normscope.results.runs import Arm, match_runs, pair_scores, pair_values, read_runs
from normscope.results.statistics import Interval, holm
from normscope.results.store import StudyFolder
from normscope.results.verdict import weigh


def judge_study(
    cells: Sequence[Cell], directory: Path, labels: Mapping[PaperArm, str], *, task: str
) -> list[Judgement]:
    """Judge cells by one study's folder, finished or not.

    Holm's correction is over the differences among the cells that the study holds.

    Args:
        cells: Of one paper; those whose arms the study does not have are left out.
        directory: The study.
        labels: From what the paper trained to the label of the study's arm.
        task: The study's.

    Returns:
        A judgement for every cell that the study has the arms of, in their order.

    Raises:
        FileNotFoundError: If there is no study.
        ValueError: If its files are not what they should be, or its metric has another unit or direction than a
            cell's.
    """
    study = StudyFolder(directory)
    card = study.read_card()
    runs, _ = read_runs(study, card)
    # A tuned card has an arm's label twice; the tuned one comes first and is the one that its verdict rests on.
    entries = {entry["label"]: entry for entry in reversed(card["arms"])}
    arms = {label: match_runs(card, entry, runs) for label, entry in entries.items()}
    held = [cell for cell in cells if all(labels.get(side) in arms for side in _sides(cell))]
    for cell in held:
        _check_metric(cell, card["metric"], directory)
    found = {
        cell.id: _weigh(cell, arms[labels[cell.arm]], arms[labels[side]], card, comparisons)
        for comparisons in [max(1, sum(cell.kind == "difference" for cell in held))]
        for cell in held
        if (side := cell.baseline) is not None
    }
    adjusted = dict(zip(found, holm([each.p for each in found.values()]), strict=True))
    told = []
    for cell in held:
        arm = arms[labels[cell.arm]]
        if cell.kind == "difference":
            told.append(_judge_difference(cell, task, found[cell.id], adjusted[cell.id], card))
        elif cell.kind == "diverges":
            told.append(judge_broken(cell, task, arm, card))
        else:
            told.append(judge_value(cell, task, arm, card))
    return told


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the pairs of a difference say, before Holm."""

    pairs: int
    waiting: int
    difference: float | None
    sd: float | None
    seeds: Interval | None
    examples: Interval | None
    p: float | None
    broken: tuple[int, int] | None
    """Pairs in which the arm was better and worse, where a run of either diverged."""
    failed: int
    comparisons: int


def _weigh(cell: Cell, arm: Arm, base: Arm, card: Mapping[str, Any], comparisons: int) -> _Found:
    aggregate = AGGREGATES[card["metric"].get("aggregate") or "mean"]
    differences = pair_values(arm, base)
    evidence = weigh(
        differences,
        scores=pair_scores(arm, base, aggregate),
        aggregate=aggregate,
        higher_is_better=cell.metric.higher_is_better,
        margin=epsilon_of(cell, card["margin"]).value,
        alpha=card["alpha"],
        comparisons=comparisons,
        rng=arm.generator(),
    )
    both = sorted(arm.ended.keys() & base.ended.keys())
    states = [(arm.ended[seed], base.ended[seed]) for seed in both]
    failed = sum("failed" in pair for pair in states)
    broken = None
    p = evidence.p
    if any("diverged" in pair for pair in states):
        broken = _ranks(states, higher_is_better=cell.metric.higher_is_better)
        decided = sum(broken)
        p = min(1.0, 2 * float(special.bdtrc(max(broken) - 1, decided, 0.5))) if decided else 1.0
    return _Found(
        pairs=len(both) - failed,
        waiting=sum(seed not in both for seed in card["seeds"]),
        difference=evidence.difference,
        sd=float(np.std(differences, ddof=1)) if len(differences) >= 2 else None,
        seeds=evidence.interval,
        examples=evidence.interval_examples,
        p=p,
        broken=broken,
        failed=failed,
        comparisons=comparisons,
    )


def _ranks(states: Sequence[tuple[float | str, float | str]], *, higher_is_better: bool) -> tuple[int, int]:
    """Count the pairs in which the arm is better and worse; a run that diverged is worse than any value."""
    worst = -np.inf if higher_is_better else np.inf
    numbers = [
        tuple(worst if side == "diverged" else float(side) for side in pair) for pair in states if "failed" not in pair
    ]
    above, below = sum(ours > theirs for ours, theirs in numbers), sum(ours < theirs for ours, theirs in numbers)
    return (above, below) if higher_is_better else (below, above)


def _judge_difference(
    cell: Cell, task: str, found: _Found, p_adjusted: float | None, card: Mapping[str, Any]
) -> Judgement:
    epsilon = epsilon_of(cell, card["margin"])
    interval = _hull(found.seeds, found.examples)
    base = Judgement(
        cell=cell,
        task=task,
        verdict="",
        because="",
        ours=found.difference,
        interval=interval,
        interval_seeds=found.seeds,
        interval_examples=found.examples,
        pairs=found.pairs,
        epsilon=epsilon,
    )
    least = fewest_pairs(card["alpha"] / found.comparisons)
    significant = p_adjusted is not None and p_adjusted < card["alpha"]
    failed = f"; {found.failed} of the pairs could not be computed" if found.failed else ""
    if not found.pairs and not found.failed:
        return replace(base, verdict="not run here", because="no pair of runs has ended")
    if found.waiting or found.pairs < least:
        needs = max(least, len(card["seeds"]))
        why = f"{found.pairs} pairs have ended, {found.waiting} of {len(card['seeds'])} seeds have not"
        if not found.waiting:
            why = f"{found.pairs} pairs can claim nothing with {found.comparisons} comparisons"
        return cannot_tell(base, needs, why + failed)
    if found.broken is not None:
        return _judge_ranks(base, cell, found.broken, significant=significant, least=least, failed=failed)
    if interval is None or found.seeds is None:
        return cannot_tell(base, least, f"{found.pairs} pairs have a difference" + failed)
    verdict = decide(cell.published or 0.0, epsilon.value, interval, significant=significant)
    sign = _sign(interval, card["margin"], significant=significant, higher=cell.metric.higher_is_better)
    if verdict is not None:
        return replace(base, verdict=verdict[0], because=verdict[1] + failed, sign=sign)
    if decide(cell.published or 0.0, epsilon.value, found.seeds, significant=significant) is not None:
        why = "the seeds agree, the test set is too small: see the interval over its examples"
        return replace(base, verdict="cannot tell: needs a larger test set", because=why + failed, sign=sign)
    in_all = _needed(cell.published or 0.0, epsilon.value, found, card["alpha"])
    return cannot_tell(replace(base, sign=sign), None if in_all is None else max(in_all, found.pairs + 1), failed[2:])


def _judge_ranks(
    base: Judgement, cell: Cell, ranks: tuple[int, int], *, significant: bool, least: int, failed: str
) -> Judgement:
    better, worse = ranks
    words = f"runs diverged: better in {better}, worse in {worse} of {base.pairs} pairs (sign test)" + failed
    if not significant:
        return cannot_tell(base, max(least, base.pairs + 1), words)
    sign = 1 if better > worse else -1
    claimed = (cell.published or 0.0) * (1 if cell.metric.higher_is_better else -1)
    same = (claimed > 0) == (sign > 0) and claimed != 0
    return replace(base, verdict="reproduced" if same else "not reproduced", because=words, sign=sign)


def _needed(published: float, epsilon: float, found: _Found, alpha: float) -> int | None:
    """Count the pairs after which the nearest verdict would be found, were the truth what we see.

    Where epsilon is wider than the published difference only its direction can be shown: then the count is for finding
    a difference of the published size.
    """
    mean = found.difference or 0.0
    effect = abs(epsilon - abs(mean - published))
    if published:
        effect = abs(published) if epsilon >= abs(published) else max(abs(mean), effect)
    return seeds_needed(sd=found.sd or 0.0, effect=effect, alpha=alpha / found.comparisons)


def _sign(interval: Interval, margin: float, *, significant: bool, higher: bool) -> int | None:
    low, high = interval
    if -margin <= low and high <= margin:
        return 0
    if significant and not low <= 0 <= high:
        return 1 if (low > 0) == higher else -1
    return None


def _hull(seeds: Interval | None, examples: Interval | None) -> Interval | None:
    if seeds is None or examples is None:
        return seeds
    return min(seeds[0], examples[0]), max(seeds[1], examples[1])


def _sides(cell: Cell) -> list[PaperArm]:
    return [cell.arm] if cell.baseline is None else [cell.arm, cell.baseline]


def _check_metric(cell: Cell, metric: Mapping[str, Any], directory: Path) -> None:
    for name in ("unit", "higher_is_better"):
        if metric[name] != getattr(cell.metric, name):
            raise ValueError(
                f"{directory} has {name} {metric[name]!r}, and the cell {cell.id} {getattr(cell.metric, name)!r}: "
                "they cannot be compared"
            )
