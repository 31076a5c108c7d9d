"""Evaluations of runs turned into times to a target, and pairs of runs into ratios of times and scores; no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from normscope.results.matching import ArmRuns, StoredRun
from normscope.results.targets.record import BASELINE, RunTarget, Target


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The evaluations of one run in the order of the steps."""

    seed: int
    """Seed."""
    state: str
    """Final state of the run."""
    rows: tuple[tuple[int, float, float | None], ...]
    """Step, validation value and seconds of every evaluation that has a value."""
    higher_is_better: bool
    """Direction of the validation metric."""

    @cached_property
    def best(self) -> float | None:
        """Best validation value; None without an evaluation."""
        values = [value for _, value, _ in self.rows]
        return (max if self.higher_is_better else min)(values, default=None)

    @property
    def end(self) -> int:
        """Step of the last evaluation, 0 if there is none."""
        return self.rows[-1][0] if self.rows else 0

    def reach(self, value: float | None) -> RunTarget:
        """Return the time to a value: that of the first evaluation at which the best so far is as good."""
        before = 0
        for step, found, seconds in self.rows:
            if value is not None and (found >= value if self.higher_is_better else found <= value):
                return RunTarget(seed=self.seed, value=value, step=step, after=before, seconds=seconds)
            before = step
        seconds = self.rows[-1][2] if self.rows else None
        return RunTarget(
            seed=self.seed, value=value, step=None, after=0 if value is None else self.end, seconds=seconds
        )


def read_curves(card: Mapping[str, Any], arm: ArmRuns) -> dict[int, Curve]:
    """Read the curves of the runs of an arm that ended, by seed in the order of the card.

    Raises:
        ValueError: If a file of evaluations cannot be read; the message names file and line.
    """
    metric = card.get("valid_metric") or card["metric"]
    return {
        seed: _read_curve(arm.runs[seed], seed, metric["higher_is_better"])
        for seed in arm.seeds
        if seed in arm.runs and arm.runs[seed].result is not None
    }


def _read_curve(run: StoredRun, seed: int, higher_is_better: bool) -> Curve:
    assert run.result is not None
    rows = [
        (row["step"], float(row["valid_value"]), row.get("seconds"))
        for row in run.folder.read_metrics()
        if row.get("valid_value") is not None
    ]
    return Curve(
        seed=seed,
        state=run.result["state"],
        rows=tuple(sorted(rows, key=lambda row: row[0])),
        higher_is_better=higher_is_better,
    )


def reach_all(target: Target, curves: Mapping[int, Curve], base: Mapping[int, Curve]) -> dict[int, RunTarget]:
    """Return the times of an arm's runs to a target; without a run of the baseline its best value is unknown."""
    times = {}
    for seed, curve in curves.items():
        if target != BASELINE:
            times[seed] = curve.reach(float(target))
        elif seed in base:
            times[seed] = curve.reach(base[seed].best)
    return times


def log_bounds(arm: RunTarget, base: RunTarget, *, seconds: bool = False) -> tuple[float, float]:
    """Return the bounds of the logarithm of the ratio of two times, which are equal if neither is censored.

    The time of a censored run is at least one update more than its last evaluation; without one it is unknown.
    """
    (low, high), (base_low, base_high) = (_log_time(run, seconds=seconds) for run in (arm, base))
    return low - base_high, high - base_low


def _log_time(run: RunTarget, *, seconds: bool) -> tuple[float, float]:
    if run.step is None:
        least = run.seconds if seconds else run.after and run.after + 1
        return math.log(least) if least else -math.inf, math.inf
    time = run.seconds if seconds else run.step
    low = math.log(time) if time else -math.inf
    return low, low


def score(target: Target, arm: Curve, base: Curve, longest: int) -> float:
    r"""Compute what the test of a pair rests on: the logarithm of a ratio of two times, in updates.

    It changes its sign if the two runs change places, so that it is symmetric about zero where they are exchangeable.
    A run that does not reach the target counts as if it did at the end of the longest training. Where the target is
    ``"baseline"``, both runs go to the worse of their two best values instead, which both reach: the baseline always
    reaches its own best, and a run like it in half of the seeds only.

    Args:
        target: The target.
        arm: Run of the arm.
        base: Run of the baseline with the same seed.
        longest: Number of updates of a run.
    """
    longest = max(longest, arm.end, base.end)
    value = None if target == BASELINE else float(target)
    if target == BASELINE and arm.best is not None and base.best is not None:
        value = (min if arm.higher_is_better else max)(arm.best, base.best)
    times = [curve.reach(curve.best if value is None else value).step or longest for curve in (arm, base)]
    return math.log(times[0]) - math.log(times[1]) if longest else 0.0


def spacing(curves: Sequence[Curve]) -> int | None:
    """Return the median number of updates between two evaluations of a run; None if there are none."""
    gaps = sorted(
        step - before
        for curve in curves
        for (step, *_), before in zip(curve.rows, [0, *(step for step, *_ in curve.rows)], strict=False)
    )
    return gaps[len(gaps) // 2] if gaps else None
