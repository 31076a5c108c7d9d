"""Evaluations of runs turned into times to a target, and pairs of runs into ratios of times and scores; no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
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
    if below := [step for step, *_ in rows if step < 0]:
        raise ValueError(f"{run.folder.metrics} has an evaluation at step {below[0]}, expected 0 or more")
    return Curve(
        seed=seed,
        state=run.result["state"],
        rows=tuple(sorted(rows, key=lambda row: row[0])),
        higher_is_better=higher_is_better,
    )


def stamp(path: Path) -> tuple[int, int] | None:
    """Return when a file was written and its size, None if it does not exist."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_mtime_ns, status.st_size


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
    # What has the value before its first update needs one at most.
    return (math.log(time), math.log(time)) if time else (-math.inf, 0.0)


def score(target: Target, arm: Curve, base: Curve, longest: int) -> float:
    r"""Compute what the test of a pair rests on: the logarithm of a ratio of two times, in updates.

    It changes its sign if the two runs change places, so that it is symmetric about zero where they are exchangeable.
    A run that never reaches a value counts as if it did one update after the longest training. Where the target is
    ``"baseline"``, the ratio to the baseline's best is not such a score: the baseline always reaches it, and a run like
    it in half of the seeds. In its place stands the mean of two logarithms: of the ratio of the times to the worse of
    the two best values, which both reach, and of the ratio of the times in which each reaches the other's best,

    .. math::
        \tfrac12 \ln \frac{t_a(w)}{t_b(w)} + \tfrac12 \ln \frac{t_a(b^*)}{t_b(a^*)}.

    Args:
        target: The target.
        arm: Run of the arm.
        base: Run of the baseline with the same seed.
        longest: Number of updates of a run.
    """
    longest = max(longest, arm.end, base.end)

    def compare(mine: float | None, other: float | None) -> float:
        # Without a value of the other run, each goes to its own best.
        steps = (
            arm.reach(arm.best if mine is None else mine).step,
            base.reach(base.best if other is None else other).step,
        )
        return _log_steps(steps[0], longest) - _log_steps(steps[1], longest)

    if target != BASELINE:
        return compare(float(target), float(target))
    worse = None
    if arm.best is not None and base.best is not None:
        worse = (min if arm.higher_is_better else max)(arm.best, base.best)
    return (compare(worse, worse) + compare(base.best, arm.best)) / 2


def _log_steps(step: int | None, longest: int) -> float:
    return math.log(longest + 1 if step is None else max(step, 1))


def spacing(curves: Sequence[Curve]) -> int | None:
    """Return the median number of updates between two evaluations of a run; None if there are none."""
    gaps = sorted(
        step - before
        for curve in curves
        for (step, *_), before in zip(curve.rows, [0, *(step for step, *_ in curve.rows)], strict=False)
    )
    return gaps[len(gaps) // 2] if gaps else None
