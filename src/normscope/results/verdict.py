"""The verdict on an arm: the evidence of its pairs, and the conditions under which it is a claim.

A claim requires that all planned seeds have ended, that no run failed, that there are enough pairs for the number of
comparisons, and that the difference exceeds the noise across seeds and across test examples.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from normscope.results.aggregates import AGGREGATES, Aggregate, examples_intervals, sum_over_seeds
from normscope.results.look_plan import LookPlan
from normscope.results.sequential import repeated_interval, sequential_equivalence_p, sequential_p
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


def exploratory(changes: Sequence[int], seeds: int) -> str:
    """Return why the p values of a study are exploratory; empty if its plan was complete before the first result.

    Args:
        changes: ``changes`` of card.json: how many seeds were planned at each change that came after a result.
        seeds: Number of seeds in the plan.
    """
    if not changes:
        return ""
    if changes[0] < seeds:
        return f"exploratory: {seeds - changes[0]} of {_count(seeds, 'seed')} came after results could be seen"
    return "exploratory: a learning rate was chosen again after results could be seen"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Statistics of the done pairs of one arm, before Holm's correction; an undefined quantity is None."""

    pairs: int
    """Number of seeds that are done in both the arm and the baseline."""
    difference: float | None
    """Mean of arm minus baseline, in the metric's unit."""
    interval: Interval | None
    """t interval across seeds at level 1 - alpha, at a look the repeated one; the verdict rests on it."""
    p: float | None
    """p-value of the two-sided sign-flip test, at a look that of the sequential one."""
    p_equivalent: float | None
    """p-value of the equivalence test: two one-sided t tests, at a look two sequential sign-flip tests."""
    interval_equivalence: Interval | None = None
    """At a look, the interval across seeds at level 1 - 2 alpha, for the comparison with the margin. None without
    looks, where p_equivalent decides the same."""
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
    error: float | None = None
    """Standard error of the difference over seeds."""
    examples: int | None = None
    """Number of test examples."""
    floor: float | None = None
    """Least share of the variance over test examples that no number of seeds removes; None if it is not estimated."""


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
    plan: LookPlan | None = None,
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
        plan: The looks of the study, if it has any: interval and p-values are then those of the look that the pairs
            complete, which hold at any look, and None if no look is at this number of pairs.
    """
    pairs = len(differences)
    interval = narrow = p_equivalent = error = None
    least = fewest_pairs(alpha / comparisons)
    more: int | None = max(1, least - pairs)
    for_equivalence, for_signs = look_generators(rng)
    if pairs >= 2:
        if plan is None:
            interval = t_interval(differences, level=1 - alpha)
            p_equivalent = equivalence(differences, margin=margin, alpha=alpha).p
        elif pairs in plan.pairs:
            interval, narrow = (repeated_interval(differences, plan, level=1 - k * alpha)[-1] for k in (1, 2))
            p_equivalent = sequential_equivalence_p(differences, plan, margin=margin, rng=for_equivalence)[-1]
        interval = interval and within(interval, limits)
        error = float(np.std(differences, ddof=1)) / math.sqrt(pairs)
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
        p=_p(differences, plan, rng if plan is None else for_signs),
        p_equivalent=p_equivalent,
        interval_equivalence=narrow,
        interval_examples=ends[0],
        interval_examples_equivalence=ends[1],
        improvement=probability_of_improvement(differences, higher_is_better=higher_is_better) if pairs else None,
        seeds_needed=more,
        obstacle=obstacle,
        error=error,
        examples=None if scores is None else scores[0].shape[1],
        floor=None if scores is None else _floor(*scores),
    )


def _p(differences: np.ndarray, plan: LookPlan | None, rng: np.random.Generator) -> float | None:
    if plan is None:
        return sign_flip_p(differences, rng=rng) if len(differences) else None
    return sequential_p(differences, plan, rng=rng)[-1] if len(differences) in plan.pairs else None


def look_generators(rng: np.random.Generator) -> tuple[np.random.Generator, np.random.Generator]:
    """Return the generators of an arm's equivalence test and of its sign flips, the same ones at every look."""
    for_equivalence, for_signs = rng.spawn(2)
    return for_equivalence, for_signs


def _floor(arm: np.ndarray, baseline: np.ndarray) -> float | None:
    """Return a low estimate of the share of the variance over test examples that more seeds do not remove.

    It is low since the seeds' part of the variance is first increased by two of its relative standard errors.
    """
    if arm.ndim != 2 or len(arm) < 2:
        return None
    seeds = len(arm)
    means = sum_over_seeds(arm, baseline) / seeds
    total = float(means.var())
    squares = sum_over_seeds(arm, baseline, lambda differences: (differences - means) ** 2)
    within = float((squares / (seeds - 1)).mean()) / seeds
    return max(0.0, 1 - (1 + 2 * math.sqrt(2 / arm.shape[1])) * within / total) if total > 0 else None


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
    changes: Sequence[int] = (),
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
        changes: As for :func:`exploratory`.

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
        words = f"not enough evidence ({limit}; {more_seeds(evidence)})"
    else:
        claim, obstacle = decide(
            evidence,
            p_adjusted,
            higher_is_better=higher_is_better,
            margin=margin,
            alpha=alpha,
            caution=exploratory(changes, len(seeds)),
        )
        words = claim or f"not enough evidence ({obstacle or more_seeds(evidence)})"
    failures = describe_failures(arm, baseline)
    if not failures:
        return words
    if not evidence.pairs:
        return f"{failures}; no pair finished"
    for claim, neutral in _SURVIVORS.items():
        words = words.replace(claim, neutral)
    return f"{failures}; over the {_count(evidence.pairs, 'pair')} that finished: {words}"


def decide(
    evidence: Evidence,
    p_adjusted: float | None,
    *,
    higher_is_better: bool,
    margin: float,
    alpha: float,
    caution: str = "",
    caution_equivalent: str | None = None,
) -> tuple[str, str]:
    """Return the claim that the evidence supports, and otherwise what the test set lacks for one.

    Args:
        evidence: Evidence of an arm without failures.
        p_adjusted: Its p-value after Holm's correction.
        higher_is_better: Direction of the metric.
        margin: Smallest difference worth having, in the metric's unit.
        alpha: Accepted probability of any false claim on the card.
        caution: Why the p values are exploratory; empty if they are not.
        caution_equivalent: The same for equivalence; None if it does not differ.

    Returns:
        The claim and an empty text; or an empty text and, if the seeds would support a claim and the test examples do
        not, how many examples would; or two empty texts.
    """
    examples, narrow = evidence.interval_examples, evidence.interval_examples_equivalence
    differs, equal = _differs(evidence, p_adjusted, alpha), _is_equal(evidence, margin, alpha)
    ahead = evidence.difference is not None and (evidence.difference > 0) == higher_is_better
    if equal and _is_within(narrow, margin):
        side = f"{'ahead' if ahead else 'behind'}, by less than the margin" * differs
        return _claim("equivalent", side, caution if caution_equivalent is None else caution_equivalent), ""
    if differs and (examples is None or _excludes_zero(examples)):
        return _claim("better" if ahead else "worse", caution), ""
    gaps = _gaps(evidence, margin, differs=differs, equal=equal)
    if evidence.examples is None or not gaps:
        return "", ""
    wanted = evidence.examples * min(reach / distance for reach, distance in gaps) ** 2
    digit = 10 ** max(0, math.floor(math.log10(wanted)) - 1)
    wanted = math.ceil(wanted / digit) * digit
    return "", f"the test set is too small: {evidence.examples:,} examples, about {wanted:,} would do"


def _gaps(evidence: Evidence, margin: float, *, differs: bool, equal: bool) -> list[tuple[float, float]]:
    """Return for each claim of the seeds how far the test-set interval reaches, and how far it may at most."""
    difference, examples = evidence.difference, evidence.interval_examples
    narrow, gaps = evidence.interval_examples_equivalence, []
    if differs and difference and examples:
        end = examples[0] if difference > 0 else examples[1]
        gaps.append((abs(difference - end), abs(difference)))
    if equal and difference is not None and narrow:
        sides = ((narrow[1] - difference, margin - difference), (difference - narrow[0], margin + difference))
        gaps.append(max(sides, key=lambda side: side[0] / side[1]))
    return gaps


def beyond_seeds(evidence: Evidence, p_adjusted: float | None, *, margin: float, alpha: float, pairs: int) -> bool:
    """Check that the seeds support a claim, and that the test set would still be too small with more of them.

    More seeds average out their own part of the variance over test examples, and move the difference: both are taken
    as favourable as is plausible, the second as two standard errors.

    Args:
        evidence: Evidence of an arm without a claim.
        p_adjusted: Its p-value after Holm's correction.
        margin: Smallest difference worth having, in the metric's unit.
        alpha: Accepted probability of any false claim on the card.
        pairs: Number of pairs to go on to.
    """
    if evidence.floor is None or evidence.error is None:
        return False
    scale = math.sqrt(evidence.floor + (1 - evidence.floor) * evidence.pairs / pairs)
    differs, equal = _differs(evidence, p_adjusted, alpha), _is_equal(evidence, margin, alpha)
    gaps = _gaps(evidence, margin, differs=differs, equal=equal)
    return bool(gaps) and all(scale * reach > distance + 2 * evidence.error for reach, distance in gaps)


def _differs(evidence: Evidence, p_adjusted: float | None, alpha: float) -> bool:
    return p_adjusted is not None and p_adjusted < alpha and _excludes_zero(evidence.interval)


def _is_equal(evidence: Evidence, margin: float, alpha: float) -> bool:
    # The p-value of a look never rises again: later pairs may have moved the interval out of the margin.
    is_claimed = evidence.p_equivalent is not None and evidence.p_equivalent < alpha
    return is_claimed and _is_within(evidence.interval_equivalence, margin)


def _is_within(interval: Interval | None, margin: float) -> bool:
    return interval is None or (-margin < interval[0] and interval[1] < margin)


def _claim(words: str, *notes: str) -> str:
    inside = "; ".join(filter(None, notes))
    return f"{words} ({inside})" if inside else words


def describe_failures(arm: Mapping[int, float | str], baseline: Mapping[int, float | str]) -> str:
    """Return how many runs of an arm and of its baseline failed, in words; empty if none did."""
    parts = []
    for subject, runs in (("", arm), ("the baseline ", baseline)):
        for state, failure in FAILURES.items():
            count = sum(ended == state for ended in runs.values())
            if count:
                parts.append(f"{subject}{failure} in {count} of {_count(len(runs), 'seed')}")
    return "; ".join(parts)


def _excludes_zero(interval: Interval | None) -> bool:
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def more_seeds(evidence: Evidence) -> str:
    """Return how many more seeds would be needed, in words."""
    if evidence.seeds_needed is None:
        return f"over {MOST_SEEDS} more seeds"
    return f"about {_count(evidence.seeds_needed, 'more seed')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
