"""Time to a target: which arm needs fewer updates until its validation metric is good enough; no torch."""

from normscope.results.targets.record import ArmTarget, RunTarget, TargetPlan
from normscope.results.targets.verdicts import judge_targets, race

__all__ = ["ArmTarget", "RunTarget", "TargetPlan", "judge_targets", "race"]
