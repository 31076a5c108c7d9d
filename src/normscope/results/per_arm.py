"""One arm of a study against its baseline, in numbers and words; needs no torch."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from normscope.results.aggregates import AGGREGATES, share_limits
from normscope.results.look_plan import LookPlan
from normscope.results.matching import ArmRuns, compare_scores, pair_values, read_scores
from normscope.results.schema import RunState
from normscope.results.statistics import Interval, bca_interval, holm
from normscope.results.targets.record import ArmTarget
from normscope.results.verdict import Evidence, verdict, weigh


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One planned run, as summary.json has it.

    Example:
        >>> from pathlib import Path
        >>> from normscope import summarize
        >>> summary = summarize(Path("runs/digits"))  # a study that compare() made
        >>> run = summary.arms[0].runs[0]
        >>> run.seed, run.state, round(run.value, 2)
        (0, 'done', 7.06)
    """

    seed: int
    """Seed, shared with the runs that it is paired with."""
    state: RunState
    """How far it came."""
    value: float | None
    """Metric on the test set of a done run."""
    steps: int | None = None
    """Optimizer updates made; of an interrupted run, up to its last evaluation."""
    id: str | None = None
    """Name of its folder."""


@dataclass(frozen=True, kw_only=True)
class ArmLook:
    """One look at an arm, as summary.json has it."""

    pairs: int
    """Number of pairs."""
    difference: float
    """Mean of arm minus baseline over the pairs."""
    interval: Interval
    """Repeated interval at level 1 - alpha: those of all looks hold together."""
    boundary: float | None
    """Smallest absolute difference that would be claimed, at the level of the arm; None if none would."""
    p_adjusted: float
    """p-value of the sequential sign-flip test after Holm's correction."""
    p_equivalent: float
    """p-value of the sequential equivalence test."""
    verdict: str
    """Verdict of the look in words."""


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """One arm against the baseline, as summary.json has it; an undefined quantity is None.

    Example:
        >>> from pathlib import Path
        >>> from normscope import summarize
        >>> summary = summarize(Path("runs/digits"))  # a study that compare() made
        >>> arm = summary.arms[0]
        >>> arm.label, arm.pairs, arm.failures, arm.verdict
        ('none', 10, 0, 'worse')
    """

    label: str
    """Name on the card."""
    norm: str
    """Key of the norm."""
    placement: str | None = None
    """Key of the placement."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the norm."""
    learning_rate: float | None = None
    """Peak learning rate of its runs."""
    optimizer: str | None = None
    """Optimizer of its runs, if the card names one; else the task's."""
    variant: str | None = None
    """Variant of the task, if not the task as it is."""
    parameters: int | None = None
    """Number of trainable parameters of its model; the median where it depends on the split."""
    runs: tuple[RunSummary, ...]
    """One run per planned seed, in the order of the card."""
    mean: float | None
    """Mean over the done runs, in the metric's unit; the other runs that ended are counted in ``failures``."""
    sd: float | None
    """Standard deviation over the same runs, n - 1 in the denominator; None for fewer than two."""
    worst: float | None = None
    """Worst value; None if a run ended without a value."""
    pairs: int
    """Number of seeds that are done in both the arm and the baseline."""
    unpaired: tuple[int, ...] = ()
    """Seeds that are done in only one of them."""
    failures: int
    """Number of runs that ended without a value: they diverged, or could not be scored or computed."""
    difference: float | None
    """Mean of arm minus baseline over the pairs."""
    interval: Interval | None
    """t interval at level 1 - alpha, with looks the repeated one at the last of them; the verdict rests on it."""
    interval_bca: Interval | None = None
    """BCa bootstrap interval at the same level; too narrow for few pairs."""
    interval_examples: Interval | None = None
    """Bootstrap interval over test examples at the same level."""
    p: float | None = None
    """p-value of the sign-flip test, with looks that of the sequential one."""
    p_adjusted: float | None
    """The same after Holm's correction over all comparisons of the card, untuned ones included."""
    p_equivalent: float | None = None
    """p-value of the equivalence test: two one-sided t tests, with looks two sequential sign-flip tests."""
    effect: float | None = None
    """Difference in standard deviations of the baseline over seeds."""
    improvement: float | None = None
    """Share of pairs in which the arm is better."""
    seeds_needed: int | None = None
    """Approximate number of additional seeds needed; see :func:`normscope.results.verdict.weigh`."""
    verdict: str
    """Verdict in words; ``baseline`` for the baseline."""
    step_ms: float | None = None
    """Time per update in ms; like the next five a median over the done runs with seeds that every arm has."""
    peak_bytes: int | None = None
    """Peak of allocated memory."""
    saved_bytes: int | None = None
    """Memory saved in the forward pass for the backward pass."""
    seconds: float | None = None
    """Duration of a run."""
    steps_to_baseline: int | None = None
    """In a study without targets, a description: updates until the median validation loss reaches the baseline's final
    one, to the nearest evaluation; None if it never does."""
    seconds_to_baseline: float | None = None
    """The same in seconds of training."""
    targets: tuple[ArmTarget, ...] | None = None
    """Its times to the targets of the card; None in a study without targets."""
    measures: Mapping[str, float] | None = None
    """Means over the done runs of further results by name, on which no verdict rests; None if the task has none."""
    looks: tuple[ArmLook, ...] | None = None
    """Its looks; None for the baseline and in a study without looks."""
    decided_at: int | None = None
    """Number of pairs at the look that decided it; None if none did."""

    @property
    def states(self) -> list[RunState]:
        """States of its runs."""
        return [run.state for run in self.runs]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """An arm, the runs that its numbers rest on, and the verdict."""

    arm: ArmRuns
    """The arm with these runs."""
    base: ArmRuns
    """Its baseline with the same seeds; the arm itself if it is the baseline."""
    planned: ArmRuns
    """The arm with all runs that are planned so far."""
    evidence: Evidence | None
    """Evidence of its pairs; None for the baseline."""
    p_adjusted: float | None
    """p-value after Holm's correction."""
    verdict: str
    """Verdict in words."""
    looks: tuple[ArmLook, ...] | None = None
    """Its looks, if the study has any."""
    decided_at: int | None = None
    """Number of pairs at the look that decided it."""


def weigh_arm(
    card: Mapping[str, Any], arm: ArmRuns, base: ArmRuns, comparisons: int, *, plan: LookPlan | None = None
) -> Evidence:
    """Compute the evidence of one arm's pairs, before Holm's correction: at a look, if the study has a plan of looks.

    If every seed has its own split, the pairs carry the noise of the test examples, too, and no interval over examples
    is computed. Else, if runs were scored on different numbers of test examples, the evidence keeps the differences and
    permits no claim.
    """
    aggregate = AGGREGATES[card["metric"].get("aggregate") or "mean"]
    scores, lengths = compare_scores(arm, base, aggregate)
    every = [*(scores or ())]
    if arm.resampled:
        every = [each for side in read_scores(arm, base, aggregate) for each in side.values()]
    shares = [share_limits(aggregate, card["metric"]["unit"], each) for each in every]
    share = shares[0] if shares and None not in shares else None
    return weigh(
        pair_values(arm, base),
        scores=scores,
        obstacle=lengths
        and f"scored on different test examples, {lengths}: evaluate must score the same ones in every run",
        aggregate=aggregate,
        higher_is_better=card["metric"]["higher_is_better"],
        margin=card["margin"],
        alpha=card["alpha"],
        comparisons=comparisons,
        rng=arm.generator(),
        limits=share and (share[0] - share[1], share[1] - share[0]),
        plan=plan,
    )


def stand_once(
    card: Mapping[str, Any], couples: Sequence[tuple[ArmRuns, ArmRuns]], *, comparisons: int, open_runs: int
) -> list[Standing]:
    """Test every arm once, when all planned runs have ended.

    Args:
        card: Card of the study.
        couples: Every arm with its baseline, baselines included.
        comparisons: Number of comparisons of the card.
        open_runs: Number of planned runs of the study that have not ended.
    """
    evidence = [None if arm is base else weigh_arm(card, arm, base, comparisons) for arm, base in couples]
    adjusted = iter(holm([each.p for each in evidence if each is not None]))
    standings = []
    for (arm, base), each in zip(couples, evidence, strict=True):
        p_adjusted, words = None, "baseline"
        if each is not None:
            p_adjusted = next(adjusted)
            words = verdict(
                each,
                p_adjusted=p_adjusted,
                arm=arm.ended,
                baseline=base.ended,
                seeds=card["seeds"],
                higher_is_better=card["metric"]["higher_is_better"],
                margin=card["margin"],
                alpha=card["alpha"],
                comparisons=comparisons,
                elsewhere=open_runs,
                changes=card.get("changes") or (),
            )
        standings.append(Standing(arm=arm, base=base, planned=arm, evidence=each, p_adjusted=p_adjusted, verdict=words))
    return standings


def summarize_arm(
    card: Mapping[str, Any], standing: Standing, *, shared: int, targets: tuple[ArmTarget, ...] | None = None
) -> ArmSummary:
    """Build the summary of an arm.

    Args:
        card: Content of card.json.
        standing: The arm, its runs and its verdict.
        shared: Number of first seeds that every arm has. Costs are over these: how busy the machine was changes during
            a study, and arms that stop at different looks would otherwise be timed at different moments.
        targets: Its times to the targets of the card; None if the card has none.
    """
    arm, base, evidence = standing.arm, standing.base, standing.evidence
    timed = arm.until(shared)
    values = list(arm.values.values())
    failures = len(arm.ended) - len(values)
    higher = card["metric"]["higher_is_better"]
    differences = pair_values(arm, base)
    bca, effect = None, None
    if evidence is not None:
        if len(differences) >= 2:
            bca = bca_interval(differences, level=1 - card["alpha"], rng=arm.generator())
        if evidence.difference is not None and base.sd:
            effect = evidence.difference / base.sd
    reached = _reaching(timed.curve, base.until(shared).curve) if targets is None else (None, None)
    peak_bytes, saved_bytes = timed.median("peak_bytes"), timed.median("saved_bytes")
    return ArmSummary(
        **{key: arm.entry[key] for key in ("label", "norm", "placement", "arguments", "learning_rate")},
        optimizer=arm.entry.get("optimizer"),
        variant=arm.entry.get("variant"),
        parameters=_parameters(arm),
        runs=tuple(_summarize_run(seed, standing.planned) for seed in standing.planned.seeds),
        mean=float(np.mean(values)) if values else None,
        sd=arm.sd,
        worst=(min if higher else max)(values) if values and not failures else None,
        pairs=len(differences),
        unpaired=tuple(sorted(arm.values.keys() ^ base.values.keys())),
        failures=failures,
        difference=evidence and evidence.difference,
        interval=evidence and evidence.interval,
        interval_bca=bca,
        interval_examples=evidence and evidence.interval_examples,
        p=evidence and evidence.p,
        p_adjusted=standing.p_adjusted,
        p_equivalent=evidence and evidence.p_equivalent,
        effect=effect,
        improvement=evidence and evidence.improvement,
        seeds_needed=evidence and evidence.seeds_needed,
        verdict=standing.verdict,
        step_ms=timed.median("step_ms"),
        peak_bytes=None if peak_bytes is None else round(peak_bytes),
        saved_bytes=None if saved_bytes is None else round(saved_bytes),
        seconds=timed.median("seconds"),
        steps_to_baseline=reached[0],
        seconds_to_baseline=reached[1],
        targets=targets,
        measures=arm.measures(),
        looks=standing.looks,
        decided_at=standing.decided_at,
    )


def _reaching(
    curve: Sequence[tuple[int, float, float]], goal: Sequence[tuple[int, float, float]]
) -> tuple[int, float] | tuple[None, None]:
    if goal:
        for step, loss, seconds in curve:
            if loss <= goal[-1][1]:
                return step, seconds
    return None, None


def _parameters(arm: ArmRuns) -> int | None:
    counts = [count for run in arm.runs.values() if (count := run.description.get("parameters")) is not None]
    if counts and arm.resampled:
        # A vocabulary is that of the seed's training part.
        return round(statistics.median(counts))
    if len(set(counts)) > 1:
        raise ValueError(
            f"the runs of {arm.entry['label']} differ in their number of parameters: {sorted(set(counts))}"
        )
    return next(iter(counts), None)


def _summarize_run(seed: int, arm: ArmRuns) -> RunSummary:
    if seed not in arm.runs:
        return RunSummary(seed=seed, state="planned", value=None, steps=None, id=None)
    run = arm.runs[seed]
    if run.result is not None:
        state, steps = run.result["state"], run.result.get("steps")
    else:
        rows = run.folder.read_metrics()
        state, steps = "interrupted", rows[-1]["step"] if rows else 0
    return RunSummary(seed=seed, state=state, value=arm.values.get(seed), steps=steps, id=run.name)
