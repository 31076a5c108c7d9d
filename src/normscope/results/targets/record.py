"""The targets of a card, and the times to them as summary.json has them; no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated, Any, Literal

from normscope.results.schema import METRIC, TARGETS

Target = float | Literal["baseline"]
"""A value of the validation metric, or ``"baseline"``: for each seed the best one of the baseline's run."""

BASELINE: Literal["baseline"] = "baseline"
"""The target that differs from seed to seed."""

DEFAULT_MARGIN = 1.1
"""Largest ratio of two times that counts as equal, if nobody says another."""

Bounds = tuple[float | None, float | None]
"""Lower and upper end of a ratio; None where censored runs leave it unbounded."""

_TARGET = (float, BASELINE)
_BOUNDS = [(float, None), (float, None)]


@dataclass(frozen=True, kw_only=True)
class TargetPlan:
    """The targets of a study, written beforehand."""

    values: Annotated[tuple[Target, ...], [_TARGET, ...]]
    """The targets."""
    margin: Annotated[float, TARGETS["margin"]] = DEFAULT_MARGIN
    """Times whose ratio lies strictly between 1 / margin and margin are equivalent."""
    resolution: Annotated[int | None, (int, None)] = None
    """Usual number of updates between two evaluations; None before any run has an evaluation."""
    metric: Annotated[Mapping[str, Any] | None, (None, METRIC)] = None
    """The metric that the targets are values of."""

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"targets must be one or more, all different, got {list(self.values)}")
        for value in self.values:
            if value != BASELINE and not (isinstance(value, int | float) and math.isfinite(value)):
                raise ValueError(f"a target must be a finite number or {BASELINE!r}, got {value!r}")
        if not 1 < self.margin < 100:
            raise ValueError(f"the margin of the targets is a ratio above 1, such as 1.1, got {self.margin}")

    def content(self) -> dict[str, Any]:
        """Return ``targets`` of card.json."""
        return {"values": list(self.values), "margin": self.margin}


@dataclass(frozen=True, kw_only=True)
class RunTarget:
    """The time of one run to one target; it is censored if it never got there."""

    seed: int
    """Seed."""
    value: float | None
    """The target in this seed; None if the baseline's run has no evaluation."""
    step: int | None
    """Update of the first evaluation at which the run's best value is as good as the target; None if none is."""
    after: int
    """Update of the evaluation before that one, 0 if it was the first; of a censored run its last evaluation."""
    seconds: float | None = None
    """Seconds of training at ``step``, or of a censored run at its end; None if they were not recorded."""


@dataclass(frozen=True, kw_only=True)
class ArmTarget:
    """An arm's times to one target, as summary.json has them; ratios are those of the arm over the baseline."""

    target: Annotated[Target, _TARGET]
    """The target."""
    runs: tuple[RunTarget, ...]
    """One entry per run that ended, in the order of the seeds; a censored one has no ``step``."""
    reached: int
    """Number of runs that reached the target."""
    steps: float | None
    """Median over ``runs`` of the updates, where censored runs come last; None if one of those is in the middle."""
    seconds: float | None = None
    """The same in seconds of training."""
    pairs: int = 0
    """Number of seeds whose runs have ended in both the arm and the baseline, censored ones included."""
    ratio: Annotated[Bounds | None, (None, _BOUNDS)] = None
    """Estimate of the ratio of updates (Hodges and Lehmann): equal ends, or those that censored pairs leave open."""
    interval: Annotated[Bounds | None, (None, _BOUNDS)] = None
    """Interval of the ratio from signed ranks at level 1 - alpha, with looks the repeated one."""
    ratio_seconds: Annotated[Bounds | None, (None, _BOUNDS)] = None
    """``ratio`` in seconds; it is described and not tested."""
    interval_seconds: Annotated[Bounds | None, (None, _BOUNDS)] = None
    """``interval`` in seconds."""
    p: float | None = None
    """p-value of the sign-flip test of the pairs, with looks that of the sequential one."""
    p_adjusted: float | None = None
    """The same after Holm's correction over all arms and targets of the card."""
    verdict: str
    """Verdict in words: ``better`` is faster; ``baseline`` for the baseline."""
    decided_at: int | None = None
    """Number of pairs at the look that decided it; None if none did, and in a study without looks."""


def read_targets(card: Mapping[str, Any]) -> TargetPlan | None:
    """Return the targets of a card, or None if it has none.

    Raises:
        ValueError: If a target occurs twice.
    """
    content = card.get("targets")
    return None if content is None else TargetPlan(values=tuple(content["values"]), margin=content["margin"])


def parse_targets(values: Sequence[float | str]) -> tuple[Target, ...]:
    """Return targets as a study has them, from numbers or text such as ``"3.2"`` and ``"baseline"``.

    Raises:
        ValueError: If one is neither a finite number nor ``"baseline"``.
    """
    found: list[Target] = []
    for value in values:
        if value == BASELINE:
            found.append(BASELINE)
            continue
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"a target must be a value of the validation metric, such as 3.2, or {BASELINE!r}, got {value!r}"
            )
        found.append(number)
    return tuple(found)


def name_target(target: Target, unit: str = "") -> str:
    """Return a target in words: ``3.2 nats``, or ``the baseline's best``."""
    return "the baseline's best" if target == BASELINE else f"{target:g} {unit}".strip()


def split_target(verdict: str) -> tuple[str, str]:
    """Split the verdict on times to a target into the runs that never reach it and the rest; either may be empty."""
    parts = verdict.split("; ")
    missing = list(takewhile(lambda part: "fails to reach it" in part, parts))
    return "; ".join(missing), "; ".join(parts[len(missing) :])
