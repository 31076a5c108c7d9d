"""Differences of ours compared with published ones: the evidence of the pairs, and the judgement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from normscope.papers.judging.agreement import RANGES, Judgement, cannot_tell, decide, limit, side_of, trains
from normscope.papers.judging.audit import epsilon_of
from normscope.papers.judging.cell import Cell
from normscope.results.aggregates import AGGREGATES, examples_intervals
from normscope.results.look_plan import LookPlan
from normscope.results.matching import ArmRuns, pair_scores, pair_values
from normscope.results.sequential import repeated_interval, sequential_p
from normscope.results.statistics import (
    Interval,
    fewest_pairs,
    seeds_needed,
    sign_flip_p,
    sign_test,
    t_interval,
    within,
)
from normscope.results.verdict import FAILURES, LOST


@dataclass(frozen=True, kw_only=True)
class PairedEvidence:
    """Evidence of paired runs, before Holm's correction; ``wide`` intervals are at level 1 - alpha / comparisons."""

    pairs: int
    """Number of seeds that ended in both arms, without failed ones."""
    waiting: int = 0
    """Number of planned seeds that have not ended in both arms."""
    difference: float | None
    """Mean of arm minus baseline."""
    sd: float | None
    """Standard deviation of the differences."""
    seeds: Interval | None
    """t interval across seeds at level 1 - alpha; of a study with looks, the repeated interval of its last look."""
    seeds_wide: Interval | None
    examples: Interval | None = None
    """Bootstrap interval across test examples, at level 1 - alpha."""
    examples_wide: Interval | None = None
    p: float | None
    """p-value of the sign-flip test, at the last look if there are looks, or of the sign test if a run diverged."""
    broken: tuple[int, int] | None = None
    """Numbers of pairs in which the arm is better and worse, if any run diverged."""
    failed: int = 0
    """Number of pairs that could not be computed or scored."""
    unscored: int = 0
    """Number of those that were computed."""
    comparisons: int = 1
    """Number of differences that are judged together."""
    untrained: str = ""
    """Reason why nothing follows from runs that learned nothing; empty if the baseline trains."""
    dead: str = ""
    """Statement that the arm has learned nothing, which differs from a small difference; empty if it has learned."""


def weigh(
    cell: Cell, task: str, arm: ArmRuns, base: ArmRuns, card: Mapping[str, Any], comparisons: int
) -> PairedEvidence:
    """Compute the evidence on a difference, before Holm's correction."""
    aggregate = AGGREGATES[card["metric"].get("aggregate") or "mean"]
    differences, scores, rng = pair_values(arm, base), pair_scores(arm, base, aggregate), arm.generator()
    levels = [1 - card["alpha"], 1 - card["alpha"] / comparisons]
    looks = look_plan(card)
    reached = 0 if looks is None else looks.reached(len(differences))
    if looks is not None and reached:
        # Whatever made an arm stop, a look's test and its repeated interval hold.
        differences = differences[: looks.pairs[reached - 1]]
    several = len(differences) >= 2
    low, high = RANGES.get(cell.metric.unit, (-np.inf, np.inf))
    limits = (low - high, high - low)
    seeds = [within(_interval(differences, looks, level), limits) if several else None for level in levels]
    examples: Sequence[Interval | None] = (None, None)
    if scores is not None:
        examples = examples_intervals(*scores, levels=levels, aggregate=aggregate, rng=rng)
    if looks is None:
        p = sign_flip_p(differences, rng=rng) if len(differences) else None
    else:
        p = sequential_p(differences, looks, rng=rng)[-1] if reached else None
    both = sorted(arm.ended.keys() & base.ended.keys())
    states = [(arm.ended[seed], base.ended[seed]) for seed in both]
    lost = [pair for pair in states if not _has_value(pair)]
    broken = None
    if any("diverged" in pair for pair in states):
        broken = _ranks(states, higher_is_better=cell.metric.higher_is_better)
        # At any of several looks, each has its share of alpha.
        p = min(1.0, sign_test(broken[0], sum(broken)) * looks_of(card)) if any(broken) else 1.0
    return PairedEvidence(
        pairs=len(both) - len(lost),
        waiting=0 if reached else sum(seed not in both for seed in card["seeds"]),
        difference=float(np.mean(differences)) if len(differences) else None,
        sd=float(np.std(differences, ddof=1)) if several else None,
        seeds=seeds[0],
        seeds_wide=seeds[1],
        examples=examples[0],
        examples_wide=examples[1],
        p=p,
        broken=broken,
        failed=len(lost),
        unscored=sum("failed" not in pair for pair in lost),
        comparisons=comparisons,
        untrained=untrained(cell, task, arm, base),
        dead=_dead(cell, task, arm),
    )


def look_plan(card: Mapping[str, Any]) -> LookPlan | None:
    """Return the planned looks of a study, or None if it is tested once."""
    looks = card.get("looks")
    return LookPlan(tuple(looks["pairs"]), looks["spending"]) if looks else None


def looks_of(card: Mapping[str, Any]) -> int:
    """Return the number of planned looks of a study; 1 if it is tested once."""
    looks = look_plan(card)
    return 1 if looks is None else len(looks.pairs)


def _interval(differences: np.ndarray, looks: LookPlan | None, level: float) -> Interval:
    """Return the t interval, or the repeated confidence interval at the last look reached."""
    if looks is None or not looks.reached(len(differences)):
        return t_interval(differences, level=level)
    return repeated_interval(differences, looks, level=level)[-1]


def _dead(cell: Cell, task: str, arm: ArmRuns) -> str:
    values = list(arm.values.values())
    if not values or trains(values, task, cell.metric, cell.chance):
        return ""
    return f"the arm learns nothing here: its mean is {np.mean(values):.4g} {cell.metric.unit}"


def untrained(cell: Cell, task: str, arm: ArmRuns, base: ArmRuns) -> str:
    """Return the reason if the baseline is at chance, or always diverges while the arm is at chance."""
    if trains(base.values.values(), task, cell.metric, cell.chance) or (
        not base.values and trains(arm.values.values(), task, cell.metric, cell.chance)
    ):
        return ""
    if not base.values:
        return "no run of the baseline trains, and the arm learns nothing"
    mean = np.mean(list(base.values.values()))
    return f"its mean is {mean:.4g} {cell.metric.unit}, chance reaches {limit(task, cell.metric, cell.chance):.4g}"


def _has_value(pair: tuple[float | str, float | str]) -> bool:
    """Return whether both runs of a pair have a value, or diverged, which is worse than any value."""
    return not any(side in LOST for side in pair)


def _ranks(states: Sequence[tuple[float | str, float | str]], *, higher_is_better: bool) -> tuple[int, int]:
    """Count the pairs in which the arm is better and worse; a diverged run is worse than any value."""
    worst = -np.inf if higher_is_better else np.inf
    numbers = [
        tuple(worst if side == "diverged" else float(side) for side in pair) for pair in states if _has_value(pair)
    ]
    above, below = sum(ours > theirs for ours, theirs in numbers), sum(ours < theirs for ours, theirs in numbers)
    return (above, below) if higher_is_better else (below, above)


def judge_difference(
    cell: Cell,
    task: str,
    evidence: PairedEvidence,
    p_adjusted: float | None,
    card: Mapping[str, Any],
    *,
    full_steps: int,
) -> Judgement:
    """Judge a published difference.

    Args:
        cell: Published difference.
        task: Task of our runs.
        evidence: Evidence of our pairs.
        p_adjusted: Its p-value after Holm's correction.
        card: Card of the study.
        full_steps: Number of updates of the task's preset; a study with fewer is cut short.
    """
    epsilon = None if cell.published is None else epsilon_of(cell, card["margin"])
    interval = _hull(evidence.seeds, evidence.examples)
    wide = _hull(evidence.seeds_wide, evidence.examples_wide)
    base = Judgement(
        cell=cell,
        task=task,
        verdict="",
        because="",
        ours=evidence.difference,
        interval=interval,
        interval_seeds=evidence.seeds,
        interval_examples=evidence.examples,
        pairs=evidence.pairs,
        epsilon=epsilon,
        signature=card["metric"].get("signature") or "",
    )
    least = fewest_pairs(card["alpha"] / evidence.comparisons)
    significant = p_adjusted is not None and p_adjusted < card["alpha"]
    failed = "".join(
        f"; {pairs} of the pairs {FAILURES[state]}"
        for state, pairs in (("failed", evidence.failed - evidence.unscored), ("unscored", evidence.unscored))
        if pairs
    )
    if not evidence.pairs and not evidence.failed:
        return replace(base, verdict="not run here", because="no pair of runs has ended")
    if card["steps"] < full_steps:
        return cut_short(base, card, full_steps)
    if evidence.waiting or evidence.pairs < least:
        needs = max(least, len(card["seeds"]))
        why = f"{evidence.pairs} pairs have ended, {evidence.waiting} of {len(card['seeds'])} seeds have not"
        if not evidence.waiting:
            why = f"{evidence.pairs} pairs can claim nothing with {evidence.comparisons} comparisons"
        return cannot_tell(base, needs, why + failed)
    if evidence.untrained:
        return replace(base, verdict="cannot tell: the baseline does not train", because=evidence.untrained + failed)
    if evidence.broken is not None:
        return _judge_ranks(base, cell, evidence.broken, significant=significant, least=least, failed=failed)
    if interval is None or wide is None or evidence.seeds is None:
        return cannot_tell(base, least, f"{evidence.pairs} pairs have a difference" + failed)
    if evidence.dead:
        return replace(base, verdict="cannot tell: the arm does not train here", because=evidence.dead + failed)
    side = side_of(interval, significant=significant) * (1 if cell.metric.higher_is_better else -1)
    margin = card["margin"]
    base = replace(base, direction=side or None, within_margin=-margin <= wide[0] and wide[1] <= margin)
    apart = "the paper prints none" if cell.published is None else other_scorer(cell, base.signature)
    ends = (interval, evidence.seeds, wide)
    return _compare(base, evidence, ends, card["alpha"], significant=significant, apart=apart, failed=failed)


def _compare(
    base: Judgement,
    evidence: PairedEvidence,
    ends: tuple[Interval, Interval, Interval],
    alpha: float,
    *,
    significant: bool,
    apart: str,
    failed: str,
) -> Judgement:
    """Compare the difference of trained, finished pairs with the published one; ``ends``: hull, over seeds, wide."""
    assert isinstance(base.cell, Cell)
    published = float(base.cell.direction) if base.cell.published is None else base.cell.published
    epsilon = base.epsilon.value if base.epsilon else 0.0
    interval, seeds, wide = ends
    note = f"; sizes are not compared: {apart}" if apart else ""
    verdict = decide(published, epsilon, interval, significant=significant, sizes=None if apart else wide)
    if verdict is not None:
        return replace(base, verdict=verdict[0], because=verdict[1] + note + failed)
    if apart and not published:
        why = f"no direction is claimed, and sizes are not compared: {apart}"
        return replace(base, verdict="cannot tell: the scorer is not the paper's", because=why + failed)
    by_seeds = None if apart else evidence.seeds_wide
    if decide(published, epsilon, seeds, significant=significant, sizes=by_seeds) is not None:
        why = "the seeds agree, the test set is too small: see the interval over its examples"
        return replace(base, verdict="cannot tell: needs a larger test set", because=why + note + failed)
    in_all = _needed(published, epsilon, evidence, alpha, sizes=not apart)
    return cannot_tell(base, None if in_all is None else max(in_all, evidence.pairs + 1), (note + failed)[2:])


def cut_short(base: Judgement, card: Mapping[str, Any], full_steps: int) -> Judgement:
    """Return the judgement of a study with fewer updates than the preset: it can show nothing."""
    why = f"{card['steps']:,} of the preset's {full_steps:,} updates"
    return replace(base, verdict="cannot tell: cut short", because=why)


def other_scorer(cell: Cell, signature: str) -> str:
    """Return why sizes are not compared, or an empty text; BLEU has settings that a paper must name."""
    if cell.metric.unit == "BLEU" and not cell.metric.signature:
        return "the paper does not name its scorer"
    return "" if cell.metric.signature == signature else f"the paper's scorer is {cell.metric.signature or 'another'}"


def _judge_ranks(
    base: Judgement, cell: Cell, ranks: tuple[int, int], *, significant: bool, least: int, failed: str
) -> Judgement:
    better, worse = ranks
    words = f"runs diverged: better in {better}, worse in {worse} of {base.pairs} pairs (sign test)" + failed
    if not significant:
        return cannot_tell(base, max(least, base.pairs + 1), words)
    direction = 1 if better > worse else -1
    claimed = cell.direction * (1 if cell.metric.higher_is_better else -1)
    same = (claimed > 0) == (direction > 0) and claimed != 0
    return replace(base, verdict="reproduced" if same else "not reproduced", because=words, direction=direction)


def _needed(published: float, epsilon: float, evidence: PairedEvidence, alpha: float, *, sizes: bool) -> int | None:
    """Return the number of pairs that would reach the nearest verdict if the true difference is the observed one.

    If only directions are compared, the observed difference is to be detected; if epsilon exceeds the published
    difference, a difference of the published size is.
    """
    mean = evidence.difference or 0.0
    effect = abs(epsilon - abs(mean - published))
    if published:
        effect = abs(published) if epsilon >= abs(published) else max(abs(mean), effect)
    effect = effect if sizes else abs(mean)
    return seeds_needed(sd=evidence.sd or 0.0, effect=effect, alpha=alpha / evidence.comparisons)


def _hull(seeds: Interval | None, examples: Interval | None) -> Interval | None:
    if seeds is None or examples is None:
        return seeds
    return min(seeds[0], examples[0]), max(seeds[1], examples[1])
