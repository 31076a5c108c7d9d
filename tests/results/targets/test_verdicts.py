"""Verdicts on times to a target: claims, what is missing for one, censored runs, Holm's correction, looks, changes."""

import csv
import io
import json
from dataclasses import replace

import pytest

from normscope.results import read_summary
from normscope.results.look_plan import LookPlan
from normscope.results.matching import read_arms
from normscope.results.sequential import sequential_p
from normscope.results.targets import ArmTarget, TargetPlan, judge_targets, race
from normscope.results.targets.record import BASELINE, DEFAULT_MARGIN, name_target, parse_targets
from normscope.results.targets.verdicts import claim
from normscope.results.verdict import look_generators
from support.curves import reaching, write_curve
from support.study_folders import Study, read

PLAN = {"values": [1.0], "margin": 1.1}


def made(path, times, *, steps=100, every=10, targets=PLAN, seeds=10, **card):
    """Write a study in which each arm's runs reach 1.0 at the steps given for it; None for never."""
    study = Study(path, labels=tuple(times), seeds=range(seeds), steps=steps, targets=targets, **card)
    for label, steps_of_arm in times.items():
        for seed, step in enumerate(steps_of_arm):
            write_curve(study, label, seed, reaching(step, steps=steps, every=every), every=every)
    return study


def verdict(path, mine, theirs, **card):
    return read(made(path, {"base": theirs, "arm": mine}, seeds=len(mine), **card)).arms[1].targets[0]


def test_an_arm_that_needs_half_the_updates_is_better(tmp_path):
    found = verdict(tmp_path, [20, 30, 20, 30, 40, 20, 30, 20], [40, 60, 40, 60, 80, 50, 60, 40])
    assert (found.target, found.reached, found.steps, found.seconds) == (1.0, 8, 25.0, 1.25)
    # Of the 36 averages of two logarithms 3 are left out: that of 0.4 with itself and two of the seven with a half.
    assert (found.pairs, found.ratio, found.interval) == (8, (0.5, 0.5), (pytest.approx(0.2**0.5), 0.5))
    assert (found.ratio_seconds, found.interval_seconds) == (found.ratio, found.interval)
    assert (found.p, found.p_adjusted, found.verdict) == (2 / 2**8, 2 / 2**8, "better")
    assert [(run.seed, run.value, run.step, run.after, run.seconds) for run in found.runs][:2] == [
        (0, 1.0, 20, 10, 1.0),
        (1, 1.0, 30, 20, 1.5),
    ]


def test_an_arm_that_needs_longer_is_worse_and_one_exception_of_eight_is_too_many(tmp_path):
    base = [20, 30, 20, 30, 40, 20, 30, 20]
    assert verdict(tmp_path / "a", [2 * step for step in base], base).verdict == "worse"
    found = verdict(tmp_path / "b", [10, *(2 * step for step in base[1:])], base)
    # Left out: the average of the exception with itself, and two of seven with the others, which are even.
    assert found.interval == (1.0, 2.0)
    assert found.verdict == "not enough evidence (about 3 more seeds)"


def test_the_baseline_that_never_arrives_does_not_hide_the_arm_that_does(tmp_path):
    found = verdict(tmp_path, [50] * 8, [None] * 8)
    # Of the baseline only that it needs 101 updates or more is known.
    assert (found.ratio, found.interval) == ((None, pytest.approx(50 / 101)),) * 2
    assert found.verdict == "the baseline fails to reach it in 8 of 8 seeds; better"
    # In seconds nobody knows how much later the next evaluation would have been.
    assert found.interval_seconds == (None, 0.5)


def test_a_censored_run_is_counted_and_weighs_on_the_interval(tmp_path):
    base = [40, 60, 40, 60, 80, 50, 60, 40, 50, 60, 40, 60]
    half = [20, 30, 20, 30, 40, 20, 30, 20, 20, 30, 20, 30]
    # Twelve of 78 averages are infinite, and 13 are left out.
    found = verdict(tmp_path / "one", [None, *half[1:]], base)
    assert found.verdict == "fails to reach it in 1 of 12 seeds; better"
    assert (found.reached, found.interval, found.steps) == (11, (pytest.approx(0.2**0.5), pytest.approx(0.5)), 30.0)
    found = verdict(tmp_path / "two", [None, None, *half[2:]], base)
    assert found.interval == (pytest.approx(0.2**0.5), None)
    assert found.verdict == "fails to reach it in 2 of 12 seeds; not enough evidence (about 2 more seeds)"
    found = verdict(tmp_path / "most", [None] * 7 + half[7:], base)
    assert found.steps is None


def test_pairs_of_which_neither_arrives_leave_both_ends_open(tmp_path):
    found = verdict(tmp_path, [20] * 4 + [None] * 6, [40] * 4 + [None] * 6)
    assert (found.pairs, found.ratio, found.interval) == (10, (None, None), (None, None))
    assert found.verdict == (
        "fails to reach it in 6 of 10 seeds; the baseline fails to reach it in 6 of 10 seeds; "
        "not enough evidence (neither run reaches it in 6 of 10 pairs)"
    )


def test_a_run_that_diverges_is_censored_where_it_ended(tmp_path):
    study = made(tmp_path, {"base": [40] * 8, "arm": [80] * 8}, seeds=8)
    write_curve(study, "arm", 0, [2.0, 2.0], state="diverged")
    write_curve(study, "arm", 1, [2.0, 0.9], state="diverged")
    arm = read(study).arms[1]
    found = arm.targets[0]
    assert found.runs[0].step is None
    assert (found.runs[0].after, found.runs[1].step) == (20, 20)
    # The first may have needed 21 updates, and so the average with the others is even; the second needed 20.
    assert found.interval == (1.0, None)
    assert found.verdict.startswith("fails to reach it in 1 of 8 seeds; not enough evidence")
    assert arm.verdict.startswith("fails to train in 2 of 8 seeds")


def test_a_run_that_was_not_computed_permits_no_claim(tmp_path):
    study = made(tmp_path, {"base": [80] * 9, "arm": [20] * 9}, seeds=9)
    write_curve(study, "arm", 0, [2.0, 2.0], state="failed")
    found = read(study).arms[1].targets[0]
    assert (found.pairs, found.ratio) == (8, (0.25, 0.25))
    assert found.verdict == (
        "fails to reach it in 1 of 9 seeds; not enough evidence (1 run could not be computed to the end)"
    )
    # One that had arrived before is known.
    write_curve(study, "arm", 0, reaching(20)[:5], state="failed")
    assert read(study).arms[1].targets[0].verdict == "better"


def test_equivalence_needs_evaluations_closer_than_the_margin(tmp_path):
    near = [200, 202, 198, 200, 204, 196, 200, 202]
    base = [200, 200, 200, 202, 200, 200, 202, 200]
    found = verdict(tmp_path / "fine", near, base, steps=210, every=2)
    assert found.verdict == "equivalent"
    assert found.p_adjusted > 0.05
    found = verdict(tmp_path / "coarse", [50] * 8, [50] * 8, steps=100, every=10)
    assert (found.ratio, found.interval) == ((1.0, 1.0), (1.0, 1.0))
    assert found.verdict == "not enough evidence (evaluations are too far apart for a margin of 1.1)"
    # Both had arrived at their first evaluation: nobody knows which was first.
    found = verdict(tmp_path / "first", [10] * 8, [10] * 8)
    assert found.verdict == "not enough evidence (evaluations are too far apart for a margin of 1.1)"
    slower = verdict(tmp_path / "slower", [204] * 8, [200] * 8, steps=210, every=2)
    assert slower.verdict == "equivalent (behind, by less than the margin)"
    wide = {"values": [1.0], "margin": 1.3}
    assert verdict(tmp_path / "wide", [50] * 8, [50] * 8, targets=wide).verdict == "equivalent"


def test_who_is_like_the_baseline_is_not_called_slower_to_its_best(tmp_path, rng):
    """The baseline always reaches its own best, a run like it in half of the seeds: sign flips of ratios to it err."""
    study = Study(tmp_path, labels=("base", "arm"), seeds=range(12), targets={"values": [BASELINE], "margin": 1.1})
    for seed in study.seeds:
        # In every second pair the same two curves change places.
        if seed % 2 == 0:
            curves = [[2 - 0.1 * n + 0.02 * rng.normal() for n in range(10)] for _ in range(2)]
        for label, values in zip(("base", "arm"), curves[:: -1 if seed % 2 else 1], strict=True):
            write_curve(study, label, seed, values)
    base, arm = read(study).arms
    assert [run.step for run in base.targets[0].runs if run.step is None] == []
    assert (base.targets[0].verdict, base.targets[0].pairs) == ("baseline", 0)
    found = arm.targets[0]
    assert (found.reached, found.p) == (6, 1.0)
    assert found.verdict.startswith("fails to reach it in 6 of 12 seeds; not enough evidence")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        # Faster to its own low best, and it never reaches the baseline's.
        ([1.8, 1.7, 1.7, 1.7, 1.7], "fails to reach it in 8 of 8 seeds; worse"),
        # Later at the baseline's best, and better at the end.
        ([3.0, 2.9, 2.8, 2.7, 0.5], "worse"),
        ([2.0, 0.9, 0.8, 0.7, 0.6], "better"),
    ],
)
def test_curves_that_cross_have_the_verdict_of_the_ratio(tmp_path, values, words):
    targets = {"values": [BASELINE], "margin": 1.1}
    study = Study(tmp_path, labels=("base", "arm"), seeds=range(8), steps=50, targets=targets)
    for seed in study.seeds:
        write_curve(study, "base", seed, [3.0, 2.5, 1.5, 1.0, 1.0])
        write_curve(study, "arm", seed, values)
    assert read(study).arms[1].targets[0].verdict == words


def test_the_test_and_the_interval_must_be_on_the_same_side(tmp_path):
    study = made(tmp_path, {"base": [80] * 8, "arm": [20] * 8}, seeds=8)
    arms = read_arms(study.folder, study.card)
    found = race(study.card, arms[1], arms[0], 1.0, None)
    assert claim(found, 0.01, alpha=0.05, margin=1.1) == "better"
    assert claim(replace(found, scores=-found.scores), 0.01, alpha=0.05, margin=1.1) == ""
    assert claim(found, 0.05, alpha=0.05, margin=1.1) == ""


def test_holms_correction_is_over_arms_and_targets(tmp_path):
    times = {"base": [60] * 8, "fast": [30] * 8, "slow": [80] * 8, "same": [60] * 8}
    study = made(tmp_path, times, seeds=8, targets={"values": [1.0, 1.5, BASELINE], "margin": 1.1})
    _, fast, slow, same = read(study).arms
    # Eight pairs of one sign: nine tests are too many, six of them have this p.
    assert [target.p for arm in (fast, slow) for target in arm.targets] == [2 / 2**8] * 6
    assert [target.p_adjusted for target in fast.targets] == [9 * 2 / 2**8] * 3
    assert {target.verdict for target in (*fast.targets, *slow.targets)} == {
        "not enough evidence (8 seeds cannot claim anything with 9 comparisons of times)"
    }
    assert same.targets[0].p == 1.0


def test_nothing_is_claimed_while_runs_have_not_ended_or_below_six_pairs(tmp_path):
    study = made(tmp_path / "open", {"base": [80] * 7, "arm": [20] * 6}, seeds=7)
    found = read(study).arms[1].targets[0]
    assert (found.pairs, found.verdict) == (6, "not enough evidence (1 planned run not ended)")
    found = verdict(tmp_path / "five", [20] * 5, [80] * 5)
    assert found.verdict == "not enough evidence (5 seeds cannot claim anything with 1 comparison of times)"
    found = verdict(tmp_path / "equal", [200] * 5, [200] * 5, steps=210, every=2)
    assert not found.verdict.startswith("equivalent")
    empty = Study(tmp_path / "none", labels=("base", "arm"), targets=PLAN)
    found = read(empty).arms[1].targets[0]
    assert (found.pairs, found.ratio, found.p, found.verdict) == (
        *(0, None, None),
        "not enough evidence (20 planned runs not ended)",
    )


def test_a_plan_changed_after_results_is_exploratory(tmp_path):
    study = made(tmp_path, {"base": [80] * 8, "arm": [20] * 8}, seeds=8, changes=[6])
    words = "better (exploratory: 2 of 8 seeds came after results could be seen)"
    assert read(study).arms[1].targets[0].verdict == words


def test_a_higher_metric_and_the_metric_of_validation(tmp_path):
    valid = {"name": "accuracy", "unit": "%", "higher_is_better": True}
    study = Study(tmp_path, labels=("base", "arm"), seeds=range(8), targets=PLAN, valid_metric=valid)
    for seed in study.seeds:
        write_curve(study, "base", seed, [0.1, 0.5, 0.9, 1.1], seconds=False)
        write_curve(study, "arm", seed, [1.0, 1.5, 1.9, 2.1], seconds=False)
    found = read(study).arms[1].targets[0]
    assert (found.steps, found.ratio, found.verdict) == (10.0, (0.25, 0.25), "better")
    assert (found.seconds, found.ratio_seconds, found.interval_seconds) == (None, None, None)


def test_looks_test_the_pairs_that_each_arm_has(tmp_path):
    looks = {"pairs": [8, 12], "spending": "kim_demets"}
    mine = [20, 40, 20, 30, 40, 20, 30, 20]
    study = made(tmp_path, {"base": [80] * 8, "arm": mine}, seeds=12, looks=looks)
    found = read(study).arms[1].targets[0]
    base, arm = read_arms(study.folder, study.card)
    plan = LookPlan((8, 12), "kim_demets")
    scores = race(study.card, arm.until(8), base.until(8), 1.0, plan).scores
    _, signs = look_generators(arm.generator())
    assert found.p == sequential_p(scores, plan, rng=signs, flips_only=True)[-1]
    # All eight of one sign have a probability of 2 / 256, less than the part of alpha that is spent by then.
    assert (found.interval, found.verdict, found.decided_at) == ((0.25, 0.5), "better", 8)
    write_curve(study, "arm", 8, reaching(90))
    assert read(study).arms[1].targets[0].pairs == 8
    _, times = judge_targets(study.card, [(arm.until(3), base.until(3))], plan=plan)
    assert times[0][0].verdict == "not enough evidence (no look has been reached)"


def test_a_run_that_was_not_computed_at_a_look_is_no_earlier_look(tmp_path):
    looks = {"pairs": [8, 12], "spending": "kim_demets"}
    study = made(tmp_path, {"base": [80] * 12, "arm": [20] * 12}, seeds=12, looks=looks)
    for seed in range(8, 12):
        write_curve(study, "arm", seed, [2.0], state="failed")
    arms = read_arms(study.folder, study.card)
    found = race(study.card, arms[1], arms[0], 1.0, LookPlan((8, 12)))
    assert (found.pairs, found.lost, found.p, found.interval) == (8, 4, None, None)


def test_the_summary_has_the_times_and_only_where_the_card_has_targets(tmp_path):
    study = made(tmp_path, {"base": [80] * 8, "arm": [20] * 8}, seeds=8)
    summary = read(study)
    metric = {"name": "test error", "unit": "%", "higher_is_better": False}
    assert summary.targets == TargetPlan(values=(1.0,), margin=DEFAULT_MARGIN, resolution=10, metric=metric)
    summary.write(tmp_path)
    assert read_summary(tmp_path) == summary
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["targets"] == {"values": [1.0], "margin": 1.1, "resolution": 10, "metric": metric}
    # The descriptive time of the median run gives way to the times of the runs.
    assert "steps_to_baseline" not in content["arms"][1]
    assert isinstance(summary.arms[1].targets[0], ArmTarget)
    row = list(csv.DictReader(io.StringIO(summary.to_csv())))[1]
    assert json.loads(row["targets"])[0]["verdict"] == "better"
    del study.card["targets"]
    study.save()
    content = read(study).to_dict()
    assert "targets" not in content
    assert "targets" not in content["arms"][0]
    assert content["arms"][1]["steps_to_baseline"] is None


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"values": ["best"], "margin": 1.1}, r"targets\.values\[0\] 'best', expected a number or baseline"),
        ({"values": [1.0], "margin": 1.0}, r"targets\.margin 1\.0, expected a number above 1 and below 100"),
        ({"values": [], "margin": 1.1}, r"targets\.values \[\], expected one or more"),
        ({"values": [1.0, 1], "margin": 1.1}, r"targets must be one or more, all different, got \[1\.0, 1\]"),
    ],
)
def test_a_card_with_other_targets_is_refused(tmp_path, targets, message):
    study = made(tmp_path, {"base": [80] * 8, "arm": [20] * 8}, seeds=8)
    study.card["targets"] = targets
    study.save()
    with pytest.raises(ValueError, match=message):
        read(study)


def test_targets_are_parsed_and_named():
    assert parse_targets(["3.2", "baseline", 1]) == (3.2, "baseline", 1.0)
    assert (name_target(3.2, "nats"), name_target(BASELINE)) == ("3.2 nats", "the baseline's best")
    for wrong in ("best", "nan", "", True, None):
        with pytest.raises(ValueError, match=r"such as 3\.2, or 'baseline', got"):
            parse_targets([wrong])
    for values, margin in (((), 1.1), ((1.0,), 1.0), ((float("inf"),), 1.1), ((1.0,), 100.0)):
        with pytest.raises(ValueError, match="target"):
            TargetPlan(values=values, margin=margin)
