"""A difference of ours held against the one that a paper prints: what the pairs say, and the verdict on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from normscope.papers.judging.agreement import Judgement, cannot_tell, decide, limit, side_of, trains
from normscope.papers.judging.audit import epsilon_of
from normscope.papers.judging.cell import Cell
from normscope.results.aggregates import AGGREGATES, examples_intervals
from normscope.results.matching import Arm, pair_scores, pair_values
from normscope.results.statistics import Interval, fewest_pairs, seeds_needed, sign_flip_p, t_interval


@dataclass(frozen=True, kw_only=True)
class FoundDifference:
    """What the pairs of a difference say, before Holm. ``wide`` intervals are at level 1 - alpha / comparisons."""

    pairs: int
    """Seeds that both arms ended, failed ones not counted."""
    waiting: int = 0
    """Planned seeds that have not ended in both."""
    difference: float | None
    """Mean of arm minus baseline."""
    sd: float | None
    """Of the differences."""
    seeds: Interval | None
    """t interval across seeds, at level 1 - alpha."""
    seeds_wide: Interval | None
    examples: Interval | None = None
    """Bootstrap across test examples, at level 1 - alpha."""
    examples_wide: Interval | None = None
    p: float | None
    """Sign-flip test, or the sign test where a run diverged."""
    broken: tuple[int, int] | None = None
    """Pairs in which the arm was better and worse, where a run of either diverged."""
    failed: int = 0
    """Pairs that could not be computed."""
    comparisons: int = 1
    """Differences that are judged together."""
    untrained: str = ""
    """Why nothing can be concluded from runs that have learned nothing; empty where the baseline trains."""
    dead: str = ""
    """That the arm has learned nothing, which is another finding than a small loss; empty where it has."""


def weigh(cell: Cell, task: str, arm: Arm, base: Arm, card: Mapping[str, Any], comparisons: int) -> FoundDifference:
    """Compute everything that the verdict on a difference rests on, but for Holm's correction."""
    aggregate = AGGREGATES[card["metric"].get("aggregate") or "mean"]
    differences, scores, rng = pair_values(arm, base), pair_scores(arm, base, aggregate), arm.generator()
    levels = [1 - card["alpha"], 1 - card["alpha"] / comparisons]
    several = len(differences) >= 2
    seeds = [t_interval(differences, level=level) if several else None for level in levels]
    examples: Sequence[Interval | None] = (None, None)
    if scores is not None:
        examples = examples_intervals(*scores, levels=levels, aggregate=aggregate, rng=rng)
    p = sign_flip_p(differences, rng=rng) if len(differences) else None
    both = sorted(arm.ended.keys() & base.ended.keys())
    states = [(arm.ended[seed], base.ended[seed]) for seed in both]
    failed = sum("failed" in pair for pair in states)
    broken = None
    if any("diverged" in pair for pair in states):
        broken = _ranks(states, higher_is_better=cell.metric.higher_is_better)
        decided = sum(broken)
        p = min(1.0, 2 * float(special.bdtrc(max(broken) - 1, decided, 0.5))) if decided else 1.0
    return FoundDifference(
        pairs=len(both) - failed,
        waiting=sum(seed not in both for seed in card["seeds"]),
        difference=float(np.mean(differences)) if len(differences) else None,
        sd=float(np.std(differences, ddof=1)) if several else None,
        seeds=seeds[0],
        seeds_wide=seeds[1],
        examples=examples[0],
        examples_wide=examples[1],
        p=p,
        broken=broken,
        failed=failed,
        comparisons=comparisons,
        untrained=_untrained(cell, task, arm, base),
        dead=_dead(cell, task, arm),
    )


def _dead(cell: Cell, task: str, arm: Arm) -> str:
    values = list(arm.values.values())
    if not values or trains(values, task, cell.metric):
        return ""
    return f"the arm learns nothing here: its mean is {np.mean(values):.4g} {cell.metric.unit}"


def _untrained(cell: Cell, task: str, arm: Arm, base: Arm) -> str:
    """Say why nothing follows: the baseline is at chance, or diverges always and the arm is at chance."""
    if trains(base.values.values(), task, cell.metric) or (
        not base.values and trains(arm.values.values(), task, cell.metric)
    ):
        return ""
    if not base.values:
        return "every run of the baseline diverged, and the arm learns nothing"
    mean = np.mean(list(base.values.values()))
    return f"its mean is {mean:.4g} {cell.metric.unit}, chance reaches {limit(task, cell.metric):.4g}"


def _ranks(states: Sequence[tuple[float | str, float | str]], *, higher_is_better: bool) -> tuple[int, int]:
    """Count the pairs in which the arm is better and worse; a run that diverged is worse than any value."""
    worst = -np.inf if higher_is_better else np.inf
    numbers = [
        tuple(worst if side == "diverged" else float(side) for side in pair) for pair in states if "failed" not in pair
    ]
    above, below = sum(ours > theirs for ours, theirs in numbers), sum(ours < theirs for ours, theirs in numbers)
    return (above, below) if higher_is_better else (below, above)


def judge_difference(
    cell: Cell, task: str, found: FoundDifference, p_adjusted: float | None, card: Mapping[str, Any], *, full_steps: int
) -> Judgement:
    """Give the verdict on a difference.

    Args:
        cell: What is printed.
        task: Where ours was run.
        found: What our pairs say.
        p_adjusted: Its p after Holm.
        card: Of the study.
        full_steps: Updates of the task's preset: a study of fewer is cut short.
    """
    epsilon, interval = epsilon_of(cell, card["margin"]), _hull(found.seeds, found.examples)
    wide = _hull(found.seeds_wide, found.examples_wide)
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
        signature=card["metric"].get("signature") or "",
    )
    least = fewest_pairs(card["alpha"] / found.comparisons)
    significant = p_adjusted is not None and p_adjusted < card["alpha"]
    failed = f"; {found.failed} of the pairs could not be computed" if found.failed else ""
    if not found.pairs and not found.failed:
        return replace(base, verdict="not run here", because="no pair of runs has ended")
    if card["steps"] < full_steps:
        return cut_short(base, card, full_steps)
    if found.waiting or found.pairs < least:
        needs = max(least, len(card["seeds"]))
        why = f"{found.pairs} pairs have ended, {found.waiting} of {len(card['seeds'])} seeds have not"
        if not found.waiting:
            why = f"{found.pairs} pairs can claim nothing with {found.comparisons} comparisons"
        return cannot_tell(base, needs, why + failed)
    if found.untrained:
        return replace(base, verdict="cannot tell: the baseline does not train", because=found.untrained + failed)
    if found.broken is not None:
        return _judge_ranks(base, cell, found.broken, significant=significant, least=least, failed=failed)
    if interval is None or wide is None or found.seeds is None:
        return cannot_tell(base, least, f"{found.pairs} pairs have a difference" + failed)
    if found.dead:
        return replace(base, verdict="cannot tell: the arm does not train here", because=found.dead + failed)
    side = side_of(interval, significant=significant) * (1 if cell.metric.higher_is_better else -1)
    margin = card["margin"]
    base = replace(base, direction=side or None, within_margin=-margin <= wide[0] and wide[1] <= margin)
    apart = other_scorer(cell, base.signature)
    ends = (interval, found.seeds, wide)
    return _hold(base, found, ends, card["alpha"], significant=significant, apart=apart, failed=failed)


def _hold(
    base: Judgement,
    found: FoundDifference,
    ends: tuple[Interval, Interval, Interval],
    alpha: float,
    *,
    significant: bool,
    apart: str,
    failed: str,
) -> Judgement:
    """Hold a difference of trained, finished pairs against the published one: its interval, by seeds, and wide."""
    published, epsilon = base.cell.published or 0.0, base.epsilon.value if base.epsilon else 0.0
    interval, seeds, wide = ends
    note = f"; sizes are not compared: {apart}" if apart else ""
    verdict = decide(published, epsilon, interval, significant=significant, sizes=None if apart else wide)
    if verdict is not None:
        return replace(base, verdict=verdict[0], because=verdict[1] + note + failed)
    if apart and not published:
        why = f"no direction is claimed, and sizes are not compared: {apart}"
        return replace(base, verdict="cannot tell: the scorer is not the paper's", because=why + failed)
    by_seeds = None if apart else found.seeds_wide
    if decide(published, epsilon, seeds, significant=significant, sizes=by_seeds) is not None:
        why = "the seeds agree, the test set is too small: see the interval over its examples"
        return replace(base, verdict="cannot tell: needs a larger test set", because=why + note + failed)
    in_all = _needed(published, epsilon, found, alpha, sizes=not apart)
    return cannot_tell(base, None if in_all is None else max(in_all, found.pairs + 1), (note + failed)[2:])


def cut_short(base: Judgement, card: Mapping[str, Any], full_steps: int) -> Judgement:
    """Say that a study of fewer updates than the preset's can show nothing."""
    why = f"{card['steps']:,} of the preset's {full_steps:,} updates"
    return replace(base, verdict="cannot tell: cut short", because=why)


def other_scorer(cell: Cell, signature: str) -> str:
    """Say why sizes are not compared; empty where they are. BLEU always has choices, and a paper must name them."""
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
    claimed = (cell.published or 0.0) * (1 if cell.metric.higher_is_better else -1)
    same = (claimed > 0) == (direction > 0) and claimed != 0
    return replace(base, verdict="reproduced" if same else "not reproduced", because=words, direction=direction)


def _needed(published: float, epsilon: float, found: FoundDifference, alpha: float, *, sizes: bool) -> int | None:
    """Count the pairs after which the nearest verdict would be found, were the truth what we see.

    Where only directions are compared that is finding what we see; where epsilon is wider than the published difference
    it is finding a difference of the published size.
    """
    mean = found.difference or 0.0
    effect = abs(epsilon - abs(mean - published))
    if published:
        effect = abs(published) if epsilon >= abs(published) else max(abs(mean), effect)
    effect = effect if sizes else abs(mean)
    return seeds_needed(sd=found.sd or 0.0, effect=effect, alpha=alpha / found.comparisons)


def _hull(seeds: Interval | None, examples: Interval | None) -> Interval | None:
    if seeds is None or examples is None:
        return seeds
    return min(seeds[0], examples[0]), max(seeds[1], examples[1])
