"""Times to a target, written out by hand: crossings, censored runs, ratios with their bounds, and scores of pairs."""

import math

import pytest

from normscope.results.targets import RunTarget
from normscope.results.targets.record import BASELINE
from normscope.results.targets.times import Curve, log_bounds, reach_all, score, spacing
from support.curves import curve

LOG = pytest.approx


def test_the_first_evaluation_that_is_as_good_counts():
    run = curve([3.0, 2.0, 2.5, 1.0])
    assert run.reach(2.0) == RunTarget(seed=0, value=2.0, step=20, after=10, seconds=2.0)
    assert run.reach(3.5) == RunTarget(seed=0, value=3.5, step=10, after=0, seconds=1.0)
    assert run.reach(1.2) == RunTarget(seed=0, value=1.2, step=40, after=30, seconds=4.0)
    assert run.reach(0.9) == RunTarget(seed=0, value=0.9, step=None, after=40, seconds=4.0)
    assert curve([]).reach(1.0) == RunTarget(seed=0, value=1.0, step=None, after=0, seconds=None)


def test_the_direction_of_the_metric_decides_what_is_as_good():
    run = curve([50.0, 70.0, 60.0], higher_is_better=True)
    assert (run.best, run.reach(65.0).step, run.reach(75.0).step) == (70.0, 20, None)
    assert curve([50.0, 70.0, 60.0]).best == 50.0


def test_the_baseline_reaches_its_best_and_the_arm_does_or_not():
    base = {0: curve([3.0, 2.0, 2.2]), 1: curve([3.0, 2.9, 2.8], seed=1)}
    arm = {0: curve([3.0, 2.1, 2.05]), 1: curve([2.8, 2.5, 2.4], seed=1), 2: curve([1.0], seed=2)}
    assert [(run.value, run.step) for run in reach_all(BASELINE, base, base).values()] == [(2.0, 20), (2.8, 30)]
    assert [(run.value, run.step) for run in reach_all(BASELINE, arm, base).values()] == [(2.0, None), (2.8, 10)]
    assert [run.step for run in reach_all(2.5, arm, base).values()] == [20, 20, 10]


def test_ratios_of_times_and_the_bounds_that_censored_runs_leave():
    reached = {step: RunTarget(seed=0, value=1.0, step=step, after=0, seconds=step / 2) for step in (20, 40)}
    never = RunTarget(seed=0, value=1.0, step=None, after=99, seconds=50.0)
    assert log_bounds(reached[20], reached[40]) == (LOG(math.log(0.5)), LOG(math.log(0.5)))
    # The next update would have been the hundredth.
    assert log_bounds(never, reached[40]) == (LOG(math.log(2.5)), math.inf)
    assert log_bounds(reached[20], never) == (-math.inf, LOG(math.log(0.2)))
    assert log_bounds(never, never) == (-math.inf, math.inf)
    assert log_bounds(never, reached[40], seconds=True) == (LOG(math.log(2.5)), math.inf)
    # Nothing is known of a run without an evaluation.
    nothing = RunTarget(seed=0, value=None, step=None, after=0)
    assert log_bounds(nothing, reached[40]) == log_bounds(reached[40], nothing) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("target", "arm", "base", "ratio"),
    [
        (2.0, [3, 2, 2, 1], [3, 3, 3, 2], 0.5),
        (2.0, [3, 2, 2, 1], [3, 3, 3, 3], 20 / 51),
        (2.0, [3, 3, 3, 3], [3, 3, 3, 3], 1.0),
        # Both reach 1.5, the arm at 40, the baseline at 20; the arm never reaches 1.
        (BASELINE, [3, 2, 2, 1.5], [2, 1.5, 1.2, 1], (40 / 20 * 51 / 20) ** 0.5),
        # Both reach 1.5, the arm at 20, the baseline at 30, which never reaches 1.
        (BASELINE, [2, 1, 1, 1], [3, 2, 1.5, 1.5], (20 / 30 * 20 / 51) ** 0.5),
        (BASELINE, [2, 1, 1, 1], [2, 1, 1, 1], 1.0),
        (BASELINE, [2, 1], [], 20 / 51),
        (BASELINE, [], [], 1.0),
    ],
)
def test_the_score_of_a_pair_changes_its_sign_with_the_places(target, arm, base, ratio):
    arm, base = curve(arm), curve(base)
    assert score(target, arm, base, 50) == LOG(math.log(ratio))
    assert score(target, base, arm, 50) == LOG(-math.log(ratio))


def test_a_run_that_trained_longer_than_planned_is_the_longest():
    assert score(1.0, curve([2, 2, 2]), curve([1]), 0) == LOG(math.log(3.1))
    assert score(1.0, curve([]), curve([]), 0) == 0.0


def test_a_target_that_is_reached_before_the_first_update():
    early, late = ([RunTarget(seed=0, value=1.0, step=step, after=0)] for step in (0, 40))
    assert log_bounds(early[0], late[0]) == (-math.inf, LOG(-math.log(40)))
    assert log_bounds(early[0], early[0]) == (-math.inf, math.inf)
    runs = [Curve(seed=0, state="done", rows=((0, 1.0, None), (9, 2.0, None)), higher_is_better=False), curve([2, 1])]
    assert score(1.0, *runs, 20) == LOG(-math.log(20))


def test_spacing_is_the_usual_one():
    assert spacing([curve([3, 2, 1]), curve([3, 2], every=15)]) == 10
    assert spacing([curve([])]) is None
