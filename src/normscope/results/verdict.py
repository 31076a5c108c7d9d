"""The words: what one arm's pairs say against the baseline, and when they may be called a claim.

A claim needs all of: the planned seeds have ended, nothing failed, enough pairs for the card's number of comparisons,
and both kinds of noise overcome, across seeds and across test examples.
"""

from collections.abc import Collection, Mapping
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
)

FAILURES = {"diverged": "fails to train", "failed": "could not be computed"}
"""What is said of an arm whose runs ended so. A norm that diverges and a machine that lacks memory are two findings."""

# Among survivors only: the words of a claim would be read as one.
_SURVIVORS = {"better": "ahead", "worse": "behind", "equivalent": "within the margin"}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the finished pairs of one arm say by themselves; what they cannot say is None."""

    pairs: int
    """Seeds that both the arm and the baseline finished."""
    difference: float | None
    """Mean of arm minus baseline, in the metric's unit."""
    interval: Interval | None
    """t interval at level 1 - alpha, across seeds: the one the verdict uses."""
    p: float | None
    """Two-sided sign-flip test, before Holm."""
    p_equivalent: float | None
    """Two one-sided t tests within the margin."""
    interval_examples: Interval | None
    """Across test examples, at level 1 - alpha."""
    interval_examples_equivalence: Interval | None
    """Likewise at level 1 - 2 alpha, for the margin."""
    improvement: float | None
    """Share of pairs in which the arm is better."""
    seeds_needed: int | None
    """About how many more pairs a claim needs, at least one; None where over ``MOST_SEEDS`` in all."""
    obstacle: str = ""
    """Why nothing may be claimed, however many pairs there are; in words."""


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
) -> Evidence:
    """Compute everything that a verdict on one arm rests on, except for the adjustment to the other arms.

    The seeds needed are planned for the larger of the observed difference and its distance to the margin, the claim
    that is nearer: a large difference is to be found, a small one to be shown to be small. The test is Holm's first
    step, of size alpha / comparisons.

    Args:
        differences: Arm minus baseline, ``[P]``; may be empty.
        scores: Per-example scores of arm and baseline, ``[S, E]`` or ``[S, E, K]``, or None where the runs have none.
        aggregate: How the scores of examples become one value.
        higher_is_better: Direction of the metric.
        margin: Smallest difference worth having, in the metric's unit.
        alpha: Chance of a false claim that is accepted, for the whole card.
        comparisons: Arms that the card compares with a baseline.
        rng: Source of resamples and sign flips.
        obstacle: Why the differences are no evidence, in words; empty where they are.
    """
    pairs = len(differences)
    interval = p_equivalent = None
    least = fewest_pairs(alpha / comparisons)
    more: int | None = max(1, least - pairs)
    if pairs >= 2:
        interval = t_interval(differences, level=1 - alpha)
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
) -> str:
    """Put the evidence into words.

    ``better`` and ``worse``: the t interval and the test-set interval exclude zero, and the adjusted p is below alpha.
    ``equivalent``: two one-sided tests pass, and the 1 - 2 alpha test-set interval lies within the margin. Where both
    hold, ``equivalent`` wins, since the margin was declared the smallest difference worth having; the words add on
    which side. Equivalence is tested per arm, without Holm. ``not enough evidence`` otherwise, with the reason or the
    number of seeds that are missing. A study some of whose planned seeds have not ended claims nothing: looking again
    after every run would find a difference sooner or later. Nor does one whose evidence has an obstacle. Failures come
    first, and what the remaining pairs say is then never put in the words of a claim.

    Args:
        evidence: What :func:`weigh` found over the finished pairs.
        p_adjusted: Its p after Holm over the card.
        arm: Value of every run that ended, by seed; its state in the place of a value where it has none.
        baseline: Likewise.
        seeds: The seeds that the card plans.
        higher_is_better: Direction of the metric.
        margin: Smallest difference worth having, in the metric's unit.
        alpha: Chance of a false claim that is accepted, for the whole card.
        comparisons: Arms that the card compares with a baseline.

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
    elif evidence.pairs < least:
        limit = f"{_count(evidence.pairs, 'seed')} cannot claim anything with {_count(comparisons, 'comparison')}"
        words = f"not enough evidence ({limit}; {_more(evidence)})"
    else:
        words = _judge(evidence, p_adjusted, higher_is_better, margin, alpha)
    failures = _failures(arm, baseline)
    if not failures:
        return words
    if not evidence.pairs:
        return f"{failures}; no pair finished"
    for claim, said in _SURVIVORS.items():
        words = words.replace(claim, said)
    return f"{failures}; over the {_count(evidence.pairs, 'pair')} that finished: {words}"


def _judge(evidence: Evidence, p_adjusted: float | None, higher_is_better: bool, margin: float, alpha: float) -> str:
    examples, narrow = evidence.interval_examples, evidence.interval_examples_equivalence
    found = p_adjusted is not None and p_adjusted < alpha and _excludes_zero(evidence.interval)
    equal = evidence.p_equivalent is not None and evidence.p_equivalent < alpha
    ahead = evidence.difference is not None and (evidence.difference > 0) == higher_is_better
    if equal and (narrow is None or (-margin < narrow[0] and narrow[1] < margin)):
        return "equivalent" + (f" ({'ahead' if ahead else 'behind'}, by less than the margin)" if found else "")
    if found and (examples is None or _excludes_zero(examples)):
        return "better" if ahead else "worse"
    if (found or equal) and examples is not None:
        low, high = examples
        return f"not enough evidence (the test set is too small: over its examples {low:+.3g} to {high:+.3g})"
    return f"not enough evidence ({_more(evidence)})"


def _failures(arm: Mapping[int, float | str], baseline: Mapping[int, float | str]) -> str:
    parts = []
    for who, runs in (("", arm), ("the baseline ", baseline)):
        for state, what in FAILURES.items():
            count = sum(ended == state for ended in runs.values())
            if count:
                parts.append(f"{who}{what} in {count} of {_count(len(runs), 'seed')}")
    return "; ".join(parts)


def _excludes_zero(interval: Interval | None) -> bool:
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def _more(evidence: Evidence) -> str:
    if evidence.seeds_needed is None:
        return f"over {MOST_SEEDS} more seeds"
    return f"about {_count(evidence.seeds_needed, 'more seed')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
