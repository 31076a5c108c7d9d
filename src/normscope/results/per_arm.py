"""One arm of a study against its baseline, in numbers and words; needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from normscope.results.aggregates import AGGREGATES
from normscope.results.matching import Arm, compare_scores, pair_values
from normscope.results.statistics import Interval, bca_interval
from normscope.results.verdict import Evidence, verdict, weigh


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One planned run."""

    seed: int
    """Which pair it belongs to."""
    state: str
    """``done``, ``diverged``, ``failed``, ``interrupted`` or ``planned``."""
    value: float | None
    """The metric on the test set, of a run that is done."""
    steps: int | None
    """Optimizer updates made; of an interrupted run, up to its last evaluation."""
    id: str | None
    """Name of its folder."""


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """One arm against the baseline; what cannot be said is None."""

    label: str
    """Its name on the card."""
    norm: str
    """Which norm."""
    placement: str
    """Where it stands."""
    arguments: Mapping[str, Any]
    """Of the norm."""
    learning_rate: float | None
    """Of its runs."""
    parameters: int | None
    """Trained numbers in its model."""
    runs: tuple[RunSummary, ...]
    """One a planned seed, in the card's order."""
    mean: float | None
    """Over the runs that are done, in the metric's unit; diverged and failed ones are in ``failures``."""
    sd: float | None
    """Over the same runs, n - 1 in the denominator; None below two."""
    worst: float | None
    """Worst value; None also where a run failed, which no value is worse than."""
    pairs: int
    """Seeds that the arm and the baseline both finished."""
    unpaired: tuple[int, ...]
    """Seeds that one of the two finished alone."""
    failures: int
    """Runs that diverged or failed."""
    difference: float | None
    """Mean of arm minus baseline over the pairs."""
    interval: Interval | None
    """t interval at level 1 - alpha: the verdict's."""
    interval_bca: Interval | None
    """Bootstrap interval at the same level; too narrow for few pairs."""
    interval_examples: Interval | None
    """Bootstrap over test examples at the same level."""
    p: float | None
    """Sign-flip test."""
    p_adjusted: float | None
    """The same after Holm over every comparison of the card, the untuned ones included."""
    p_equivalent: float | None
    """Two one-sided tests."""
    effect: float | None
    """Difference in units of the baseline's standard deviation over seeds."""
    improvement: float | None
    """Share of pairs in which the arm is better."""
    seeds_needed: int | None
    """About how many more; see :func:`normscope.results.verdict.weigh`."""
    verdict: str
    """In words; ``baseline`` for the baseline."""
    step_ms: float | None
    """Median over the done runs, like the three below."""
    peak_bytes: int | None
    """Most memory held at once."""
    saved_bytes: int | None
    """Kept from the forward for the backward pass."""
    seconds: float | None
    """Of a whole run."""
    steps_to_baseline: int | None
    """Updates until the median run's validation loss is as low as that of the baseline's median run at its end, to the
    nearest evaluation; None where it never is."""
    seconds_to_baseline: float | None
    """The same in seconds of training."""

    def to_dict(self) -> dict[str, Any]:
        """Give the arm as JSON has it: lists for tuples."""
        content = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        content |= {"runs": [asdict(run) for run in self.runs], "arguments": dict(self.arguments)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}


def weigh_arm(card: Mapping[str, Any], arm: Arm, base: Arm, comparisons: int) -> Evidence:
    """Compute what one arm's pairs say, before Holm.

    Runs that were scored on different numbers of test examples leave their values, and no claim.
    """
    aggregate = AGGREGATES[card["metric"].get("aggregate") or "mean"]
    scores, lengths = compare_scores(arm, base, aggregate)
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
    )


def summarize_arm(
    card: Mapping[str, Any],
    arm: Arm,
    base: Arm,
    evidence: Evidence | None,
    *,
    p_adjusted: float | None,
    comparisons: int,
) -> ArmSummary:
    """Put an arm's numbers together; ``evidence`` is None for the baseline itself."""
    values = list(arm.values.values())
    failures = len(arm.ended) - len(values)
    higher = card["metric"]["higher_is_better"]
    differences = pair_values(arm, base)
    words, bca, effect = "baseline", None, None
    if evidence is not None:
        words = verdict(
            evidence,
            p_adjusted=p_adjusted,
            arm=arm.ended,
            baseline=base.ended,
            seeds=card["seeds"],
            higher_is_better=higher,
            margin=card["margin"],
            alpha=card["alpha"],
            comparisons=comparisons,
        )
        if len(differences) >= 2:
            bca = bca_interval(differences, level=1 - card["alpha"], rng=arm.generator())
        if evidence.difference is not None and base.sd:
            effect = evidence.difference / base.sd
    reached = _reaching(arm.curve(), base.curve())
    peak_bytes, saved_bytes = arm.median("peak_bytes"), arm.median("saved_bytes")
    return ArmSummary(
        **{key: arm.entry[key] for key in ("label", "norm", "placement", "arguments", "learning_rate")},
        parameters=_parameters(arm),
        runs=tuple(_summarize_run(seed, arm) for seed in card["seeds"]),
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
        p_adjusted=p_adjusted,
        p_equivalent=evidence and evidence.p_equivalent,
        effect=effect,
        improvement=evidence and evidence.improvement,
        seeds_needed=evidence and evidence.seeds_needed,
        verdict=words,
        step_ms=arm.median("step_ms"),
        peak_bytes=None if peak_bytes is None else round(peak_bytes),
        saved_bytes=None if saved_bytes is None else round(saved_bytes),
        seconds=arm.median("seconds"),
        steps_to_baseline=reached[0],
        seconds_to_baseline=reached[1],
    )


def _reaching(
    curve: Sequence[tuple[int, float, float]], goal: Sequence[tuple[int, float, float]]
) -> tuple[int, float] | tuple[None, None]:
    if goal:
        for step, loss, seconds in curve:
            if loss <= goal[-1][1]:
                return step, seconds
    return None, None


def _parameters(arm: Arm) -> int | None:
    told = [run.described.get("parameters") for run in arm.runs.values()]
    counts = {count for count in told if count is not None}
    if len(counts) > 1:
        raise ValueError(f"the runs of {arm.entry['label']} differ in their number of parameters: {sorted(counts)}")
    return next(iter(counts), None)


def _summarize_run(seed: int, arm: Arm) -> RunSummary:
    if seed not in arm.runs:
        return RunSummary(seed=seed, state="planned", value=None, steps=None, id=None)
    run = arm.runs[seed]
    if run.result is not None:
        state, steps = run.result["state"], run.result.get("steps")
    else:
        rows = run.folder.read_metrics()
        state, steps = "interrupted", rows[-1]["step"] if rows else 0
    return RunSummary(seed=seed, state=state, value=arm.values.get(seed), steps=steps, id=run.folder.path.name)
