"""The looks of a study, followed through its runs: which arms are decided, which go on, and how it ended; no torch.

Everything follows from card.json and the runs on disk, so that a study that is resumed takes the same decisions.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from normscope.results.look_plan import LookPlan
from normscope.results.look_state import LookState, NextLook, read_earlier
from normscope.results.matching import ArmRuns, pair_values
from normscope.results.per_arm import ArmLook, Standing, weigh_arm
from normscope.results.sequential import boundary, chance_of_decision, continued_p
from normscope.results.statistics import holm
from normscope.results.targets.path import TargetPath
from normscope.results.targets.record import read_targets
from normscope.results.verdict import (
    Evidence,
    beyond_seeds,
    decide,
    describe_failures,
    exploratory,
    look_generators,
    more_seeds,
)

UNLIKELY = 0.01
"""Chance of a decision at the looks to come below which an arm does not go on."""


_weighed: dict[Any, Evidence] = {}


@dataclass(kw_only=True, eq=False)
class _Course:
    """One arm on its way through the looks."""

    arm: ArmRuns
    base: ArmRuns
    pairs: int = 0
    """Pairs at its last look."""
    looks: list[ArmLook] = field(default_factory=list)
    evidence: Evidence | None = None
    p_adjusted: float | None = None
    claim: str = ""
    stopped: str = ""
    """Why it does not go on although it is undecided."""
    is_final: bool = False
    """Whether no further run could change that."""

    @property
    def is_open(self) -> bool:
        """Whether its metric may still be decided; it may go on for its times to targets alone."""
        return not self.claim and not self.is_final

    def open_runs(self, pairs: int) -> dict[Any, ArmRuns]:
        """Return the runs up to a number of pairs that have not ended, with their arm."""
        return {
            side.planned[seed]: side
            for side in (self.arm, self.base)
            for seed in side.seeds[:pairs]
            if seed not in side.ended
        }


@dataclass(kw_only=True, eq=False)
class LookPath:
    """The path of a study through its looks, up to the last one whose runs have all ended.

    Args:
        card: Card of the study.
        plan: Its looks.
        couples: Every arm with its baseline, baselines included.
        workers: Number of runs that are computed at a time, for the estimate of the time.
        keep_going: Whether arms go on although a decision is unlikely.
    """

    card: Mapping[str, Any]
    plan: LookPlan
    couples: Sequence[tuple[ArmRuns, ArmRuns]]
    workers: int = 1
    keep_going: bool = False
    reached: int = 0
    needed: dict[Any, ArmRuns] = field(default_factory=dict)
    """Names of the runs that the next look needs and that have not ended, with their arm."""

    def __post_init__(self) -> None:
        self.courses = [_Course(arm=arm, base=base) for arm, base in self.couples if arm is not base]
        self.comparisons = len(self.courses)
        self.earlier = read_earlier(self.card)
        targets = read_targets(self.card)
        sides = [(course.arm, course.base) for course in self.courses]
        self.times = None if targets is None else TargetPath(self.card, targets, self.plan, sides)
        self.going: list[_Course] = []
        tuned = not self.card.get("tune") or self.card.get("tuning") is not None
        for look, pairs in enumerate(self.plan.pairs):
            self.going = [course for course in self.courses if self._goes_on(course, pairs)]
            self.needed = {run: side for course in self.going for run, side in course.open_runs(pairs).items()}
            if not self.going or self.needed or not tuned:
                return
            self._test(look)
        self.going = []

    def _goes_on(self, course: _Course, pairs: int) -> bool:
        # Stopping is not binding: an arm whose runs are there all the same is tested.
        anyway = self.keep_going or not course.open_runs(pairs)
        if self.times is not None and self.times.goes_on(self.courses.index(course), anyway=anyway):
            return True
        return course.is_open and (anyway or not course.stopped)

    def _test(self, look: int) -> None:
        """Test the arms that went on to a look, and decide which go on from there."""
        card, pairs, self.reached = self.card, self.plan.pairs[look], look + 1
        if self.times is not None:
            self.times.test([self.courses.index(course) for course in self.going], pairs)
        going = [course for course in self.going if course.is_open]
        for course in going:
            course.pairs, course.stopped = pairs, ""
            course.evidence = self._weigh_once(course, pairs)
        p = [course.evidence and course.evidence.p for course in self.courses]
        adjusted = holm(p)
        caution, is_continued = exploratory(card.get("changes") or (), len(card["seeds"])), self._is_continued(pairs)
        for index, course in enumerate(self.courses):
            if course not in going or course.evidence is None:
                continue
            course.p_adjusted = adjusted[index]
            failures = describe_failures(*(side.ended for side in self._sides(course, pairs)))
            if failures or course.evidence.obstacle:
                course.stopped, course.is_final = course.evidence.obstacle, True
                continue
            course.claim, lack = decide(
                course.evidence,
                course.p_adjusted,
                higher_is_better=card["metric"]["higher_is_better"],
                margin=card["margin"],
                alpha=card["alpha"],
                caution=caution or "at the conditional level" * is_continued,
                caution_equivalent=self.earlier.caution if self.earlier and is_continued else None,
            )
            course.looks.append(self._describe(course, look, lack, _level(index, p, adjusted, card["alpha"])))
            if not course.claim:
                self._stop(course, lack)

    def _is_continued(self, pairs: int) -> bool:
        return self.earlier is not None and pairs > self.earlier.seen

    def _weigh_once(self, course: _Course, pairs: int) -> Evidence:
        """Return the evidence at a look, which is computed once in a process: a run that has ended does not change."""
        ended = [
            (side.runs[seed].folder.path, value)
            for side in self._sides(course, pairs)
            for seed, value in side.ended.items()
        ]
        settings = json.dumps([self.card[name] for name in ("metric", "margin", "alpha")])
        key = (course.arm.entry["label"], *ended, self.plan, self.earlier, self.comparisons, settings)
        if key not in _weighed:
            _weighed[key] = self._weigh(course, pairs)
        return _weighed[key]

    @staticmethod
    def _sides(course: _Course, pairs: int) -> tuple[ArmRuns, ArmRuns]:
        return course.arm.until(pairs), course.base.until(pairs)

    def _weigh(self, course: _Course, pairs: int) -> Evidence:
        """Compute the evidence at a look; after a change of the plan its p-value is that of the continuation."""
        earlier, plan = self.earlier, self.plan
        if earlier is not None and not self._is_continued(pairs):
            plan = earlier.plan
        evidence = weigh_arm(self.card, *self._sides(course, pairs), self.comparisons, plan=plan)
        if evidence.pairs < pairs:
            # Runs failed. The pairs that are left may be as many as an earlier look has, and are not tested as such.
            return replace(evidence, interval=None, p=None, p_equivalent=None)
        if earlier is None or not self._is_continued(pairs) or evidence.p is None:
            return evidence
        later = LookPlan(tuple(each for each in plan.pairs if each > earlier.seen), plan.spending)
        # The signs of the planned test: what it rejected at the look, its continuation rejects.
        _, signs = look_generators(course.arm.generator())
        differences = pair_values(*self._sides(course, pairs))
        p = continued_p(differences, earlier.plan, later, seen=earlier.seen, rng=signs)[-1]
        return replace(evidence, p=p)

    def _stop(self, course: _Course, lack: str) -> None:
        """Stop an undecided arm at the maximum, or where nothing could still change."""
        most, evidence = self.plan.pairs[-1], course.evidence
        assert evidence is not None
        kept = {"margin": self.card["margin"], "alpha": self.card["alpha"]}
        if course.pairs == most:
            course.stopped, course.is_final = lack or f"at the maximum of {most} seeds; {more_seeds(evidence)}", True
        elif beyond_seeds(evidence, course.p_adjusted, pairs=most, **kept):
            course.stopped = lack
        elif not lack and _chance(course, self.plan, **kept) < UNLIKELY:
            course.stopped = f"stopped at {course.pairs} of {most} seeds: a decision is unlikely"

    def _describe(self, course: _Course, look: int, lack: str, level: float) -> ArmLook:
        evidence, pairs = course.evidence, course.pairs
        assert evidence is not None
        differences = pair_values(*self._sides(course, pairs))
        _, signs = look_generators(course.arm.generator())
        plan = self.plan if self.earlier is None else self.earlier.plan
        return ArmLook(
            pairs=pairs,
            difference=_given(evidence.difference),
            interval=_given(evidence.interval),
            boundary=None
            if self._is_continued(pairs)
            else _claimed_from(evidence, boundary(differences, plan, alpha=level, rng=signs)[look]),
            p_adjusted=_given(course.p_adjusted),
            p_equivalent=_given(evidence.p_equivalent),
            verdict=course.claim or f"not enough evidence{f' ({lack})' if lack else ''}",
        )

    @property
    def state(self) -> LookState:
        """The looks and how far the study came."""
        following = None
        if self.going:
            following = NextLook(
                pairs=self.plan.pairs[self.reached], runs=len(self.needed), minutes=_minutes(self.needed, self.workers)
            )
        return LookState(
            pairs=self.plan.pairs,
            spending=self.plan.spending,
            reached=self.reached,
            ended=None if self.going else self._ending(),
            next=following,
            continues=self.earlier,
        )

    def _ending(self) -> Literal["decided", "maximum", "hopeless"]:
        undecided: list[Any] = [course for course in self.courses if not course.claim and course.stopped]
        undecided += [] if self.times is None else self.times.undecided
        if not undecided:
            return "decided"
        return "maximum" if any(course.pairs == self.plan.pairs[-1] for course in undecided) else "hopeless"

    def standings(self) -> Iterator[Standing]:
        """Yield how every arm stands at its last look, baselines included, in their order."""
        following = self.plan.pairs[self.reached] if self.going else 0
        courses = iter(self.courses)
        for arm, base in self.couples:
            if arm is base:
                own = [course for course in self.courses if course.base is base]
                side = arm.until(max(following if course in self.going else self._pairs(course) for course in own))
                yield Standing(arm=side, base=side, planned=side, evidence=None, p_adjusted=None, verdict="baseline")
                continue
            course = next(courses)
            planned = following if course in self.going else self._pairs(course)
            pairs = course.pairs or planned
            evidence = course.evidence or weigh_arm(
                self.card, arm.until(pairs), base.until(pairs), self.comparisons, plan=self.plan
            )
            yield Standing(
                arm=arm.until(pairs),
                base=base.until(pairs),
                planned=arm.until(planned),
                evidence=evidence,
                p_adjusted=course.p_adjusted,
                verdict=self._words(course),
                looks=tuple(course.looks),
                decided_at=course.pairs if course.claim else None,
            )

    def _pairs(self, course: _Course) -> int:
        """Return the number of pairs at the last look of an arm, be it for its metric or for its times."""
        return max(course.pairs, 0 if self.times is None else self.times.pairs(self.courses.index(course)))

    def looked(self) -> list[list[tuple[Any, str]]] | None:
        """Return for every couple its times at their last looks, as :func:`judge_targets` takes them."""
        if self.times is None:
            return None
        courses, none = iter(range(len(self.courses))), [(None, "")] * len(self.times.targets.values)
        return [none if arm is base else self.times.looked(next(courses)) for arm, base in self.couples]

    def _words(self, course: _Course) -> str:
        if course.claim:
            return course.claim
        if course in self.going and course.is_open:
            cost = describe_next(self.state.next, self.workers)
            return f"not enough evidence ({'next' if self.reached else 'first'} look at {cost})"
        failures = describe_failures(course.arm.until(course.pairs).ended, course.base.until(course.pairs).ended)
        if failures:
            return f"{failures}; stopped at {course.pairs} seeds, since no claim can follow"
        return f"not enough evidence ({course.stopped})"


def describe_next(following: NextLook | None, workers: int) -> str:
    """Return where the next look is and what it takes: ``20 seeds: 30 runs, about 12 minutes``; empty without one."""
    if following is None:
        return ""
    minutes = following.minutes
    if minutes is None:
        time = ""
    elif minutes < 1.5:
        time = ", under a minute" if minutes < 1 else ", about a minute"
    else:
        time = f", about {minutes:.0f} minutes" if minutes < 120 else f", about {minutes / 60:.1f} hours"
    time += f" with {workers} workers" if time and workers > 1 else ""
    return f"{following.pairs} seeds: {following.runs} run{'s' * (following.runs != 1)}{time}"


def _minutes(runs: Mapping[Any, ArmRuns], workers: int) -> float | None:
    medians = {id(side): side.median("seconds") for side in runs.values()}
    known = [seconds for seconds in medians.values() if seconds is not None]
    if not known:
        return None
    seconds = [medians[id(side)] for side in runs.values()]
    usual = float(np.median(known))
    return sum(usual if each is None else each for each in seconds) / min(workers, len(seconds)) / 60


def _level(index: int, p: Sequence[float | None], adjusted: Sequence[float | None], alpha: float) -> float:
    """Return the level at which Holm's correction tests an arm: alpha over the arms not rejected before it."""
    own = p[index]
    before = [
        other
        for other, value in enumerate(p)
        if other != index
        and value is not None
        and own is not None
        and (value, other) < (own, index)
        and (corrected := adjusted[other]) is not None
        and corrected < alpha
    ]
    return alpha / (len(p) - len(before))


def _claimed_from(evidence: Evidence, flips: float | None) -> float | None:
    """Return the smallest difference of its sign that would be claimed: by the flips, and by the interval."""
    low, high = _given(evidence.interval)
    difference = _given(evidence.difference)
    return None if flips is None else max(flips, difference - low if difference > 0 else high - difference)


def _chance(course: _Course, plan: LookPlan, *, margin: float, alpha: float) -> float:
    differences = pair_values(course.arm.until(course.pairs), course.base.until(course.pairs))
    (generator,) = course.arm.generator().spawn(1)
    # All of alpha, as if every other arm were decided: the most that this arm may come to have.
    return chance_of_decision(differences, plan, margin=margin, alpha=alpha, rng=generator)


def _given(value: Any) -> Any:
    assert value is not None
    return value
