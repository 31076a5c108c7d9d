"""The verdict on an arm: the evidence of its pairs, and the conditions under which it is a claim.

A claim requires that all planned seeds have ended, that no run failed, that there are enough pairs for the number of
comparisons, and that the difference exceeds the noise across seeds and across test examples.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from normscope.results.aggregates import AGGREGATES, Aggregate, examples_intervals
from normscope.results.statistics import (
    MOST_SEEDS,
    Interval,
    equivalence,
    fewest_pairs,
    probability_of_improvement,
    seeds_needed,
    sign_flip_p,
    t_interval,
    within,
)

FAILURES = {"diverged": "fails to train", "unscored": "could not be scored", "failed": "could not be computed"}
"""Description of a failure by state: a norm that diverges, a metric that is undefined, and a full machine differ."""

LOST = ("unscored", "failed")
"""States that say nothing about the norm: the run trained, or was never computed to its end."""

# After failures, the survivors must not be described in the words of a claim.
_SURVIVORS = {"better": "ahead", "worse": "behind", "equivalent": "within the margin"}


def exploratory(looks: Sequence[int], seeds: int) -> str:
    """Return why the p values of a study are exploratory; empty if its plan was complete before the first result.

    Args:
        looks: ``looks`` of card.json: how many seeds were planned at each change of the plan that came after a result.
        seeds: Number of seeds in the plan.
    """
    if not looks:
        return ""
    if looks[0] < seeds:
        return f"exploratory: {seeds - looks[0]} of {_count(seeds, 'seed')} came after results could be seen"
    return "exploratory: a learning rate was chosen again after results could be seen"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Statistics of the done pairs of one arm, before Holm's correction; an undefined quantity is None."""

    pairs: int
    """Number of seeds that are done in both the arm and the baseline."""
    difference: float | None
    """Mean of arm minus baseline, in the metric's unit."""
    interval: Interval | None
    """t interval across seeds at level 1 - alpha; the verdict rests on it."""
    p: float | None
    """p-value of the two-sided sign-flip test."""
    p_equivalent: float | None
    """p-value of the equivalence test (two one-sided t tests)."""
    interval_examples: Interval | None
    """Bootstrap interval across test examples at level 1 - alpha."""
    interval_examples_equivalence: Interval | None
    """The same at level 1 - 2 alpha, for the comparison with the margin."""
    improvement: float | None
    """Share of pairs in which the arm is better."""
    seeds_needed: int | None
    """Approximate number of additional pairs for a claim, at least 1; None if the total exceeds ``MOST_SEEDS``."""
    obstacle: str = ""
    """Reason why nothing may be claimed, however many pairs there are."""


def weigh(
    differences: np.ndarray,
    *,
    scores: tuple[np.ndarray, np.ndarray] | None,
    aggregate: Aggregate = AGGREGATES["mean"],
    higher_is_better: bool,
    margin: float,
    alpha: float,
    comparisons: int,
    rng: np.random.Generator,
    obstacle: str = "",
    limits: Interval | None = None,
) -> Evidence:
    """Compute the evidence on one arm, before the adjustment for the other arms.

    ``seeds_needed`` is planned for the larger of the observed difference and its distance to the margin, which is the
    nearer claim: a large difference is to be detected, a small one shown to be small. The test has the size of Holm's
    first step, alpha / comparisons.

    Args:
        differences: Arm minus baseline, ``[P]``; may be empty.
        scores: Per-example scores of arm and baseline, ``[S, E]`` or ``[S, E, K]``; None if the runs have no scores.
        aggregate: Aggregate of the scores.
        higher_is_better: Direction of the metric.
        margin: Smallest difference worth having, in the metric's unit.
        alpha: Accepted probability of any false claim on the card.
        comparisons: Number of arms that the card compares with a baseline.
        rng: Random generator of resamples and sign flips.
        obstacle: Reason why the differences are not evidence; empty if they are.
        limits: Range of every possible difference, to which the t interval is cut; its coverage does not change.
    """
    pairs = len(differences)
    interval = p_equivalent = None
    least = fewest_pairs(alpha / comparisons)
    more: int | None = max(1, least - pairs)
    if pairs >= 2:
        interval = within(t_interval(differences, level=1 - alpha), limits)
        p_equivalent = equivalence(differences, margin=margin, alpha=alpha).p
        distance = abs(float(np.mean(differences)))
        in_all = seeds_needed(
            sd=float(np.std(differences, ddof=1)), effect=max(distance, margin - distance), alpha=alpha / comparisons
        )
        more = None if in_all is None else max(1, in_all - pairs)
    ends = [None, None]
    if scores is not None:
        ends = examples_intervals(*scores, levels=[1 - alpha, 1 - 2 * alpha], aggregate=aggregate, rng=rng)
    return Evidence(
        pairs=pairs,
        difference=float(np.mean(differences)) if pairs else None,
        interval=interval,
        p=sign_flip_p(differences, rng=rng) if pairs else None,
        p_equivalent=p_equivalent,
        interval_examples=ends[0],
        interval_examples_equivalence=ends[1],
        improvement=probability_of_improvement(differences, higher_is_better=higher_is_better) if pairs else None,
        seeds_needed=more,
        obstacle=obstacle,
    )


def verdict(
    evidence: Evidence,
    *,
    p_adjusted: float | None,
    arm: Mapping[int, float | str],
    baseline: Mapping[int, float | str],
    seeds: Collection[int],
    higher_is_better: bool,
    margin: float,
    alpha: float,
    comparisons: int,
    elsewhere: int = 0,
    looks: Sequence[int] = (),
) -> str:
    """Return the verdict on an arm in words.

    ``better`` and ``worse``: the t interval and the test-set interval exclude zero, and the adjusted p is below alpha.
    ``equivalent``: the equivalence test passes, and the 1 - 2 alpha test-set interval lies within the margin. If both
    hold, the verdict is ``equivalent``, since the margin is the smallest difference worth having; the side is added.
    Equivalence is tested per arm, without Holm's correction. ``not enough evidence`` otherwise, with the reason or the
    number of missing seeds. While planned runs have not ended there is no claim, since testing after every run would
    find a difference sooner or later, and Holm's correction depends on every arm; nor is there one if the evidence has
    an obstacle. Failures come first, and the remaining pairs are then never described in the words of a claim. A claim
    of a study whose plan was changed after a result is called exploratory.

    Args:
        evidence: Result of :func:`weigh` over the done pairs.
        p_adjusted: Its p-value after Holm's correction over the card.
        arm: Value of every run that ended, by seed, or its state if it has no value.
        baseline: The same for the baseline.
        seeds: Planned seeds of the card.
        higher_is_better: Direction of the metric.
        margin: Smallest difference worth having, in the metric's unit.
        alpha: Accepted probability of any false claim on the card.
        comparisons: Number of arms that the card compares with a baseline.
        elsewhere: Number of planned runs of other arms that have not ended.
        looks: As for :func:`exploratory`.

    Returns:
        The verdict.

    References:
        Departs from protocols that drop failed runs from the mean: a norm that trains in 7 of 10 seeds is not better.
    """
    waiting = sum(seed not in arm or seed not in baseline for seed in seeds)
    least = fewest_pairs(alpha / comparisons)
    if evidence.obstacle:
        words = f"not enough evidence ({evidence.obstacle})"
    elif waiting:
        words = f"not enough evidence ({waiting} of {_count(len(seeds), 'planned seed')} not ended)"
    elif elsewhere:
        words = f"not enough evidence ({_count(elsewhere, 'run')} of other arms not ended)"
    elif evidence.pairs < least:
        limit = f"{_count(evidence.pairs, 'seed')} cannot claim anything with {_count(comparisons, 'comparison')}"
        words = f"not enough evidence ({limit}; {_more(evidence)})"
    else:
        words = _judge(evidence, p_adjusted, higher_is_better, margin, alpha, exploratory(looks, len(seeds)))
    failures = _failures(arm, baseline)
    if not failures:
        return words
    if not evidence.pairs:
        return f"{failures}; no pair finished"
    for claim, neutral in _SURVIVORS.items():
        words = words.replace(claim, neutral)
    return f"{failures}; over the {_count(evidence.pairs, 'pair')} that finished: {words}"


def _judge(
    evidence: Evidence, p_adjusted: float | None, higher_is_better: bool, margin: float, alpha: float, caution: str
) -> str:
    examples, narrow = evidence.interval_examples, evidence.interval_examples_equivalence
    differs = p_adjusted is not None and p_adjusted < alpha and _excludes_zero(evidence.interval)
    equal = evidence.p_equivalent is not None and evidence.p_equivalent < alpha
    ahead = evidence.difference is not None and (evidence.difference > 0) == higher_is_better
    if equal and (narrow is None or (-margin < narrow[0] and narrow[1] < margin)):
        return _claim("equivalent", f"{'ahead' if ahead else 'behind'}, by less than the margin" * differs, caution)
    if differs and (examples is None or _excludes_zero(examples)):
        return _claim("better" if ahead else "worse", caution)
    if (differs or equal) and examples is not None:
        low, high = examples
        return f"not enough evidence (the test set is too small: over its examples {low:+.3g} to {high:+.3g})"
    return f"not enough evidence ({_more(evidence)})"


def _claim(words: str, *notes: str) -> str:
    inside = "; ".join(filter(None, notes))
    return f"{words} ({inside})" if inside else words


def _failures(arm: Mapping[int, float | str], baseline: Mapping[int, float | str]) -> str:
    parts = []
    for subject, runs in (("", arm), ("the baseline ", baseline)):
        for state, failure in FAILURES.items():
            count = sum(ended == state for ended in runs.values())
            if count:
                parts.append(f"{subject}{failure} in {count} of {_count(len(runs), 'seed')}")
    return "; ".join(parts)


def _excludes_zero(interval: Interval | None) -> bool:
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def _more(evidence: Evidence) -> str:
    if evidence.seeds_needed is None:
        return f"over {MOST_SEEDS} more seeds"
    return f"about {_count(evidence.seeds_needed, 'more seed')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
