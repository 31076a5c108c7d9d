"""The verdict on times to a target: which arm is faster, slower or equal; Holm's correction over arms and targets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from normscope.results.look_plan import LookPlan, nominal_levels
from normscope.results.look_state import read_earlier
from normscope.results.matching import ArmRuns
from normscope.results.sequential import sequential_p
from normscope.results.statistics import (
    LEAST_PAIRS,
    MOST_SEEDS,
    Interval,
    fewest_pairs,
    holm,
    seeds_needed,
    sign_flip_p,
)
from normscope.results.targets.ranks import hodges_lehmann, left_out, signed_rank_interval
from normscope.results.targets.record import ArmTarget, Bounds, RunTarget, Target, TargetPlan, read_targets
from normscope.results.targets.times import Curve, log_bounds, reach_all, read_curves, score, spacing, stamp
from normscope.results.verdict import exploratory, look_generators

_MORE_FOR_RANKS = math.pi / 3
"""Pairs that an interval from signed ranks takes for each pair that Student's takes, of Gaussian ratios."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """An arm against the baseline on the way to one target, before Holm's correction; ratios are logarithms."""

    target: Target
    """The target."""
    runs: tuple[RunTarget, ...]
    """Times of the arm's runs that ended."""
    base: tuple[RunTarget, ...]
    """The same of the baseline."""
    pairs: int
    """Number of pairs."""
    scores: np.ndarray
    """What the test rests on, ``[pairs]``."""
    ratio: Interval | None
    """Estimate of Hodges and Lehmann, between the bounds that censored pairs leave."""
    interval: Interval | None
    """Its interval at level 1 - alpha."""
    narrow: Interval | None
    """The same at level 1 - 2 alpha, for the comparison with the margin."""
    seconds: tuple[Interval, Interval] | None
    """``ratio`` and ``interval`` in seconds; None where seconds are missing."""
    p: float | None
    """p-value of the sign-flip test; None at a number of pairs that is no look."""
    unknown: int
    """Number of pairs of which neither run reaches the target."""
    unbounded: tuple[int, int]
    """Number of pairs whose ratio has no lower, and no upper bound."""
    lost: int
    """Number of runs that were not computed to their end and had not reached the target."""
    step: float
    """Median of the ratio of the evaluation that reached the target to the one before."""

    @property
    def side(self) -> int:
        """-1 if test and interval say that the arm is faster, 1 if both say slower, else 0."""
        low, high = self.interval or (-math.inf, math.inf)
        total = float(self.scores.sum())
        return -1 if high < 0 and total < 0 else 1 if low > 0 and total > 0 else 0


_races: dict[Any, Race] = {}


def race(card: Mapping[str, Any], arm: ArmRuns, base: ArmRuns, target: Target, plan: LookPlan | None) -> Race:
    """Compare the times of an arm and of the baseline to one target, over the seeds of the arm.

    Args:
        card: Card of the study.
        arm: The arm with the runs up to its last look.
        base: The baseline with the same seeds.
        target: The target.
        plan: Looks of the study; None without any.

    Raises:
        ValueError: If a file of evaluations cannot be read.
    """
    files = [
        (seed, run.folder.metrics, run.result["state"], stamp(run.folder.metrics))
        for side in (arm, base)
        for seed, run in sorted(side.runs.items())
        if run.result is not None
    ]
    metric = card.get("valid_metric") or card["metric"]
    settings = card["alpha"], card.get("steps"), metric["higher_is_better"], tuple(arm.seeds)
    key = (arm.entry["label"], target, plan, *settings, *files)
    # A run that has ended does not change, and a study with looks is followed anew from its files at every look.
    if key not in _races:
        curves, others = read_curves(card, arm), read_curves(card, base)
        _races[key] = compare_curves(card, curves, others, target, plan, arm.generator())
    return _races[key]


def compare_curves(
    card: Mapping[str, Any],
    curves: Mapping[int, Curve],
    others: Mapping[int, Curve],
    target: Target,
    plan: LookPlan | None,
    rng: np.random.Generator,
    **options: Any,
) -> Race:
    """Compare curves as :func:`race` does.

    Args:
        card: ``alpha`` and, where it is known, the number of ``steps`` of a run.
        curves: Curves of the arm, by seed in the order of the looks.
        others: Curves of the baseline.
        target: The target.
        plan: Looks of the study; None without any.
        rng: Random generator of the signs.
        options: Further arguments of :func:`normscope.results.sequential.sequential_p`.
    """
    mine, theirs = reach_all(target, curves, others), reach_all(target, others, others)
    lost = [
        seed
        for side, times in ((curves, mine), (others, theirs))
        for seed, run in times.items()
        if run.step is None and side[seed].state == "failed"
    ]
    couples = [
        (mine[seed], theirs[seed], score(target, curves[seed], others[seed], card.get("steps") or 0))
        for seed in mine
        if seed in theirs and seed not in lost
    ]
    pairs, scores = len(couples), np.array([each for *_, each in couples], dtype=np.float64)
    looks = (pairs,) if plan is None else plan.pairs
    tested = pairs > 0 and pairs in looks and not (plan and lost)
    lower, upper = _columns([log_bounds(run, other) for run, other, _ in couples])
    intervals: list[Interval | None] = [None, None]
    p = seconds = None
    if tested:
        look = looks.index(pairs)
        counts = [
            left_out(pairs, level if plan is None else nominal_levels(plan, level)[look])
            for level in (card["alpha"], 2 * card["alpha"])
        ]
        intervals = [signed_rank_interval(lower, upper, each) for each in counts]
        p = (
            sign_flip_p(scores, rng=rng)
            if plan is None
            else sequential_p(scores, plan, rng=look_generators(rng)[1], flips_only=True, **options)[-1]
        )
        if all((each.seconds or 0) > 0 for run, other, _ in couples for each in (run, other)):
            ends = _columns([log_bounds(run, other, seconds=True) for run, other, _ in couples])
            seconds = hodges_lehmann(*ends), signed_rank_interval(*ends, counts[0])
    reached = sorted(
        run.step / run.after if run.after else math.inf
        for run, other, _ in couples
        for run in (run, other)
        if run.step is not None
    )
    return Race(
        target=target,
        runs=tuple(mine.values()),
        base=tuple(theirs.values()),
        pairs=pairs,
        scores=scores,
        ratio=hodges_lehmann(lower, upper) if pairs else None,
        interval=intervals[0],
        narrow=intervals[1],
        seconds=seconds,
        p=p,
        unknown=sum(run.step is None and other.step is None for run, other, _ in couples),
        unbounded=(lower.count(-math.inf), upper.count(math.inf)),
        lost=len(lost),
        step=reached[len(reached) // 2] if reached else math.inf,
    )


def _columns(bounds: Sequence[Interval]) -> tuple[list[float], list[float]]:
    return [low for low, _ in bounds], [high for _, high in bounds]


def claim(found: Race, p_adjusted: float | None, *, alpha: float, margin: float, caution: str = "") -> str:
    """Return the claim that a race supports, or an empty text.

    ``better`` and ``worse``: the adjusted p is below alpha, and the interval excludes a ratio of 1 on the side of the
    test. ``equivalent``: the 1 - 2 alpha interval lies within the margin, and so does the ratio of two successive
    evaluations, since times closer than that are not told apart. Where both hold it is ``equivalent``, with the side.
    """
    if found.lost or found.p is None or found.pairs < LEAST_PAIRS:
        return ""
    differs = p_adjusted is not None and p_adjusted < alpha and found.side != 0
    low, high = found.narrow or (-math.inf, math.inf)
    if -math.log(margin) < low and high < math.log(margin) and found.step < margin:
        words = "equivalent", f"{'ahead' if found.side < 0 else 'behind'}, by less than the margin" * differs
    elif differs:
        words = "better" if found.side < 0 else "worse", ""
    else:
        return ""
    notes = "; ".join(filter(None, (words[1], caution)))
    return f"{words[0]} ({notes})" if notes else words[0]


def judge_targets(
    card: Mapping[str, Any],
    couples: Sequence[tuple[ArmRuns, ArmRuns]],
    *,
    plan: LookPlan | None = None,
    open_runs: int = 0,
    looked: Sequence[Sequence[tuple[Race | None, str]]] | None = None,
) -> tuple[TargetPlan | None, list[tuple[ArmTarget, ...] | None]]:
    """Judge every arm's times to every target of a card.

    Args:
        card: Card of the study.
        couples: Every arm with its baseline, baselines included.
        plan: Looks of the study; None without any.
        open_runs: Number of planned runs that have not ended; without looks nothing is claimed while there are any.
        looked: For each couple and target the pairs at its last look, None before the first, and why no runs are made
            for it although it is undecided. None in a study without looks.

    Returns:
        The targets, and for each arm its times to each of them; None for all if the card has none.

    Raises:
        ValueError: If a file of evaluations cannot be read.
    """
    targets = read_targets(card)
    if targets is None:
        return None, [None] * len(couples)
    earlier, waiting = read_earlier(card), ""
    if open_runs and plan is None:
        waiting = f"{open_runs} planned run{'s' * (open_runs != 1)} not ended"
    if looked is None:
        looked = [[(None, "")] * len(targets.values)] * len(couples)
    races = [
        [
            (found or _so_far(race(card, arm, base, target, None if arm is base else plan), plan), stopped)
            for target, (found, stopped) in zip(targets.values, row, strict=True)
        ]
        for (arm, base), row in zip(couples, looked, strict=True)
    ]
    tested = [each for (arm, base), row in zip(couples, races, strict=True) for each, _ in row if arm is not base]
    adjusted = iter(holm([each.p for each in tested]))
    caution = exploratory(card.get("changes") or (), len(card["seeds"])) or (earlier.caution if earlier else "")
    times: list[tuple[ArmTarget, ...] | None] = [
        tuple(
            _summarize(
                each,
                None if arm is base else next(adjusted),
                alpha=card["alpha"],
                margin=targets.margin,
                comparisons=len(tested),
                has_looks=plan is not None,
                waiting=waiting,
                stopped=stopped,
                caution=caution,
                is_baseline=arm is base,
            )
            for each, stopped in row
        )
        for (arm, base), row in zip(couples, races, strict=True)
    ]
    curves = [curve for arm, _ in couples for curve in read_curves(card, arm).values()]
    metric = card.get("valid_metric") or card["metric"]
    kept = {name: metric[name] for name in ("name", "unit", "higher_is_better")}
    return replace(targets, resolution=spacing(curves), metric=kept), times


def _so_far(found: Race, plan: LookPlan | None) -> Race:
    """Return a race without what is computed at a look only, where the study has looks and has reached none."""
    return found if plan is None else replace(found, p=None, interval=None, narrow=None, seconds=None)


def _summarize(
    found: Race,
    p_adjusted: float | None,
    *,
    alpha: float,
    margin: float,
    comparisons: int,
    has_looks: bool,
    waiting: str,
    stopped: str,
    caution: str,
    is_baseline: bool,
) -> ArmTarget:
    runs = found.runs
    times = {"target": found.target, "runs": runs, "reached": sum(run.step is not None for run in runs)}
    times |= {"steps": _median(runs, seconds=False), "seconds": _median(runs, seconds=True)}
    if is_baseline:
        return ArmTarget(**times, verdict="baseline")
    words = ""
    if not waiting:
        words = claim(found, p_adjusted, alpha=alpha, margin=margin, caution=caution)
    decided = found.pairs if words and has_looks else None
    if not words:
        why = _reason(found, margin, alpha, comparisons, has_looks=has_looks)
        words = f"not enough evidence ({waiting or '; '.join(filter(None, (stopped, why)))})"
    return ArmTarget(
        **times,
        pairs=found.pairs,
        ratio=_ratios(found.ratio),
        interval=_ratios(found.interval),
        ratio_seconds=_ratios(found.seconds and found.seconds[0]),
        interval_seconds=_ratios(found.seconds and found.seconds[1]),
        p=found.p,
        p_adjusted=p_adjusted,
        verdict="; ".join([*describe_missing(found), words]),
        decided_at=decided,
    )


def describe_missing(found: Race) -> list[str]:
    """Return in how many seeds the arm and the baseline never reach the target, each in words if it is any."""
    parts = []
    for subject, runs in (("", found.runs), ("the baseline ", found.base)):
        missing = sum(run.step is None for run in runs)
        if missing:
            parts.append(f"{subject}fails to reach it in {missing} of {len(runs)} seed{'s' * (len(runs) != 1)}")
    return parts


def _reason(found: Race, margin: float, alpha: float, comparisons: int, *, has_looks: bool) -> str:
    """Return why a race supports no claim."""
    least = fewest_pairs(alpha / comparisons)
    if found.lost:
        return f"{found.lost} run{'s' * (found.lost != 1)} could not be computed to the end"
    if found.p is None:
        return "no look has been reached" if has_looks else "no pair has ended"
    if found.pairs < least:
        return (
            f"{found.pairs} seed{'s' * (found.pairs != 1)} cannot claim anything with {comparisons} "
            f"comparison{'s' * (comparisons != 1)} of times"
        )
    if found.ratio is not None and any(map(math.isinf, found.ratio)) and found.unknown:
        return f"neither run reaches it in {found.unknown} of {found.pairs} pairs"
    low, high = found.narrow or (-math.inf, math.inf)
    if -math.log(margin) < low and high < math.log(margin):
        return f"evaluations are too far apart for a margin of {margin:g}"
    mean, deviation = abs(float(found.scores.mean())), float(found.scores.std(ddof=1)) if found.pairs > 1 else 0.0
    wanted = seeds_needed(sd=deviation, effect=max(mean, math.log(margin) - mean), alpha=alpha / comparisons)
    more = None if wanted is None else max(1, math.ceil(_MORE_FOR_RANKS * wanted) - found.pairs)
    return f"over {MOST_SEEDS} more seeds" if more is None else f"about {more} more seed{'s' * (more != 1)}"


def _median(runs: Sequence[RunTarget], *, seconds: bool) -> float | None:
    times = [math.inf if run.step is None else run.seconds if seconds else float(run.step) for run in runs]
    known = [time for time in times if time is not None]
    middle = float(np.median(known)) if known and len(known) == len(times) else math.inf
    return middle if math.isfinite(middle) else None


def _ratios(ends: Interval | None) -> Bounds | None:
    """Return the ratios of logarithms; None for an end without a bound."""
    if ends is None:
        return None
    # Ratios of whole numbers went through logarithms.
    low, high = (None if math.isinf(end) else float(f"{math.exp(end):.12g}") for end in ends)
    return low, high
