"""Times to targets through the looks of a study: what decides an arm, what it goes on for, and what it stops for."""

import json

import numpy as np
import pytest

from normscope.results.summary import runs_to_look
from support.curves import reaching, write_curve
from support.study_folders import Study, read

SPREAD = np.array([-1.0, 1.0, -0.5, 0.5, -0.8, 0.8, -0.2, 0.2])
LOOKS = {"pairs": [8, 12, 16], "spending": "kim_demets"}


def planned(path, *, targets=(1.0,), looks=LOOKS):
    """Write a study whose card names its runs, so that those of a look can be asked for."""
    study = Study(
        path,
        labels=("base", "arm"),
        seeds=range(looks["pairs"][-1]),
        looks=looks,
        targets={"values": list(targets), "margin": 1.1},
    )
    for entry in study.card["arms"]:
        entry["runs"] = {str(seed): f"{entry['label']}-{seed}-0.1" for seed in study.seeds}
    study.save()
    return study


def fill(study, seeds, *, values, steps, base_steps):
    """Write the runs of some seeds: test values of the arm beside 5, and where each side reaches 1.0."""
    for place, seed in enumerate(seeds):
        for label, at in (("base", base_steps), ("arm", steps)):
            run = write_curve(study, label, seed, reaching(at[place % len(at)]))
            value = 5.0 + 0.01 * SPREAD[place % 8] if label == "base" else values[place % len(values)]
            study.run(label, seed, float(value), name=run.path.name)
            write_curve_only(run, at[place % len(at)])


def write_curve_only(run, step):
    rows = [{"step": 10 * n, "valid_value": value} for n, value in enumerate(reaching(step), 1)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))


SAME, CLOSE = [80], [30, 90, 20, 100, 40, 90, 30, 80]


def test_an_arm_that_is_decided_in_both_stops(tmp_path):
    study = planned(tmp_path)
    fill(study, range(8), values=3.0 + 0.02 * SPREAD[::-1], steps=[20, 30], base_steps=SAME)
    summary = read(study)
    _, arm = summary.arms
    assert (arm.verdict, arm.decided_at) == ("better", 8)
    assert (arm.targets[0].verdict, arm.targets[0].decided_at) == ("better", 8)
    assert (summary.looks.ended, runs_to_look(tmp_path)) == ("decided", [])


def test_an_arm_goes_on_for_its_times_and_keeps_the_verdict_on_its_metric(tmp_path):
    study = planned(tmp_path)
    fill(study, range(8), values=3.0 + 0.02 * SPREAD[::-1], steps=CLOSE, base_steps=[50])
    before = read(study)
    assert (before.arms[1].verdict, before.arms[1].decided_at) == ("better", 8)
    assert before.arms[1].targets[0].verdict.startswith("not enough evidence (about")
    assert (before.looks.ended, before.looks.next.pairs, len(runs_to_look(tmp_path))) == (None, 12, 8)
    # The later pairs are fast; in the metric they would have been far worse.
    fill(study, range(8, 12), values=[50.0], steps=[10], base_steps=[90])
    after = read(study)
    arm = after.arms[1]
    assert (arm.verdict, arm.decided_at, arm.pairs, arm.difference) == ("better", 8, 8, before.arms[1].difference)
    assert [look.pairs for look in arm.looks] == [8]
    assert (arm.targets[0].pairs, arm.targets[0].decided_at) == (12, None)
    assert len(arm.runs) == 16
    fill(study, range(12, 16), values=[50.0], steps=[10], base_steps=[90])
    arm = read(study).arms[1]
    assert (arm.targets[0].pairs, read(study).looks.ended) == (
        16,
        "maximum" if not arm.targets[0].decided_at else "decided",
    )


def test_times_that_are_decided_keep_their_verdict_while_the_metric_goes_on(tmp_path):
    study = planned(tmp_path)
    fill(study, range(8), values=5.0 + SPREAD[::-1], steps=[20, 30], base_steps=SAME)
    first = read(study).arms[1]
    assert (first.decided_at, first.targets[0].verdict) == (None, "better")
    fill(study, range(8, 12), values=5.0 + SPREAD[::-1], steps=[None], base_steps=[10])
    arm = read(study).arms[1]
    assert arm.pairs == 12
    assert (arm.targets[0].verdict, arm.targets[0].decided_at, arm.targets[0].pairs) == ("better", 8, 8)


def test_no_runs_are_made_for_times_that_cannot_be_decided(tmp_path):
    study = planned(tmp_path)
    # Neither run of five pairs arrives: of the averages at 16 pairs too many would have no bound.
    steps = [None] * 5 + [20] * 3
    fill(study, range(8), values=3.0 + 0.02 * SPREAD[::-1], steps=steps, base_steps=steps)
    summary = read(study)
    assert summary.looks.ended == "hopeless"
    assert runs_to_look(tmp_path) == []
    assert "; ".join(
        [
            "not enough evidence (stopped at 8 of 16 seeds: a decision is unlikely",
            "neither run reaches it in 5 of 8 pairs)",
        ]
    ) in str(summary.arms[1].targets[0].verdict)
    # Stopping is not binding.
    assert len(runs_to_look(tmp_path, keep_going=True)) == 8


def test_no_runs_are_made_for_equal_times_that_evaluations_do_not_resolve(tmp_path):
    study = planned(tmp_path)
    fill(study, range(8), values=3.0 + 0.02 * SPREAD[::-1], steps=[50], base_steps=[50])
    assert (read(study).looks.ended, runs_to_look(tmp_path)) == ("hopeless", [])
    assert "evaluations are too far apart for a margin of 1.1" in read(study).arms[1].targets[0].verdict


def test_an_arm_whose_metric_failed_goes_on_for_its_times(tmp_path):
    study = planned(tmp_path)
    fill(study, range(8), values=3.0 + 0.02 * SPREAD[::-1], steps=CLOSE, base_steps=[50])
    study.run("arm", 0, state="diverged", name="arm-0-0.1")
    write_curve_only(study.folder.run("arm-0-0.1"), 40)
    summary = read(study)
    assert summary.arms[1].verdict.startswith("fails to train in 1 of 8 seeds")
    assert summary.looks.next.pairs == 12
    # One that was not computed permits no claim about times either.
    study.run("arm", 0, state="failed", name="arm-0-0.1")
    write_curve_only(study.folder.run("arm-0-0.1"), None)
    summary = read(study)
    assert (summary.looks.next, summary.looks.ended) == (None, "decided")
    assert "1 run could not be computed to the end" in summary.arms[1].targets[0].verdict


@pytest.mark.parametrize("seeds", [5, 8])
def test_before_the_first_look_nothing_is_tested(tmp_path, seeds):
    study = planned(tmp_path)
    fill(study, range(seeds), values=[3.0], steps=[20], base_steps=SAME)
    study.folder.run("base-4-0.1").result.unlink()
    arm = read(study).arms[1]
    found = arm.targets[0]
    assert (found.p, found.interval, found.pairs) == (None, None, seeds - 1)
    assert found.ratio == (0.25, 0.25)
    assert found.verdict == "not enough evidence (no look has been reached)"
