"""Times to targets followed through the looks of a study: which are decided, and for which an arm goes on; no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normscope.results.look_plan import LookPlan, nominal_levels
from normscope.results.matching import ArmRuns
from normscope.results.sequential import chance_of_decision
from normscope.results.statistics import holm
from normscope.results.targets.ranks import left_out
from normscope.results.targets.record import TargetPlan
from normscope.results.targets.verdicts import Race, claim, race

UNLIKELY = 0.01
"""Chance of a decision at the looks to come below which no runs are made for a target."""


@dataclass(kw_only=True, eq=False)
class TargetCourse:
    """The times of one arm to one target, up to its last look."""

    arm: ArmRuns
    base: ArmRuns
    place: int
    """Index of the target."""
    race: Race | None = None
    """The pairs at its last look; None before the first."""
    pairs: int = 0
    """Number of pairs at that look."""
    claim: str = ""
    stopped: str = ""
    """Why no runs are made for it although it is undecided."""


class TargetPath:
    """The courses of every arm to every target of a study.

    Args:
        card: Card of the study.
        targets: Its targets.
        plan: Its looks.
        couples: Every arm with its baseline, without the baselines.
    """

    def __init__(
        self,
        card: Mapping[str, Any],
        targets: TargetPlan,
        plan: LookPlan,
        couples: Sequence[tuple[ArmRuns, ArmRuns]],
    ) -> None:
        self.card, self.targets, self.plan = card, targets, plan
        self.courses = [
            [TargetCourse(arm=arm, base=base, place=place) for place in range(len(targets.values))]
            for arm, base in couples
        ]

    def looked(self, arm: int) -> list[tuple[Race | None, str]]:
        """Return for each target the pairs at its last look, and why no runs are made for it if it is undecided."""
        return [(course.race, "" if course.claim else course.stopped) for course in self.courses[arm]]

    @property
    def undecided(self) -> list[TargetCourse]:
        """Courses without a claim for which no runs are made."""
        return [course for row in self.courses for course in row if course.stopped and not course.claim]

    def goes_on(self, arm: int, *, anyway: bool) -> bool:
        """Return whether a target of an arm is to be tested at the next look.

        Args:
            arm: Index of the arm.
            anyway: Whether those are, too, of which a decision is unlikely.
        """
        return any(
            not course.claim and (anyway or not course.stopped) and not (course.race and course.race.lost)
            for course in self.courses[arm]
        )

    def pairs(self, arm: int) -> int:
        """Return the largest number of pairs at which a target of an arm was tested."""
        return max(course.pairs for course in self.courses[arm])

    def test(self, arms: Sequence[int], pairs: int) -> None:
        """Test the undecided targets of some arms at a look, and decide for which runs are made from there."""
        for course in (course for arm in arms for course in self.courses[arm] if not course.claim):
            target = self.targets.values[course.place]
            sides = course.arm.until(pairs), course.base.until(pairs)
            course.race, course.pairs, course.stopped = race(self.card, *sides, target, self.plan), pairs, ""
        every = [course for row in self.courses for course in row]
        adjusted = holm([course.race and course.race.p for course in every])
        kept = {"alpha": self.card["alpha"], "margin": self.targets.margin}
        for course, p in zip(every, adjusted, strict=True):
            if course.race is None or course.claim or course.pairs != pairs:
                continue
            course.claim = claim(course.race, p, **kept)
            if not course.claim:
                course.stopped = self._why_stopped(course)

    def _why_stopped(self, course: TargetCourse) -> str:
        most, found = self.plan.pairs[-1], course.race
        assert found is not None
        if found.p is None:
            return ""
        if course.pairs == most:
            return f"at the maximum of {most} seeds"
        (rng,) = course.arm.generator().spawn(1)
        # Equivalence is out of reach where evaluations are too far apart.
        margin = math.log(self.targets.margin) if found.step < self.targets.margin else 0.0
        # All of alpha, as if everything else were decided: the most that this may come to have.
        chance = chance_of_decision(found.scores, self.plan, margin=margin, alpha=self.card["alpha"], rng=rng)
        if chance < UNLIKELY or not self._can_be_bounded(found):
            return f"stopped at {course.pairs} of {most} seeds: a decision is unlikely"
        return ""

    def _can_be_bounded(self, found: Race) -> bool:
        """Return whether an end of the interval can have a bound at the maximum, if no later run is censored."""
        most = self.plan.pairs[-1]
        room = left_out(most, nominal_levels(self.plan, self.card["alpha"])[-1])
        return any(count * most - count * (count - 1) // 2 <= room for count in found.unbounded)
