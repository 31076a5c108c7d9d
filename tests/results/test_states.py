"""What a study says of itself while it is planned, half done, tuned, extended, and where runs have no score."""

import csv
import io
import json

import numpy as np
import pytest

from normscope.results import read_summary
from normscope.results.verdict import exploratory
from support.study_folders import Study, read, scored

SPREAD = np.array([-1.0, 1.0, -0.5, 0.5, -0.8, 0.8, -0.2, 0.2, -0.4, 0.4])


@pytest.mark.parametrize("lost", [1, 3, 10])
def test_a_run_without_a_score_is_not_said_to_fail_to_train(study, lost):
    for seed in range(lost):
        study.run("ada_norm", seed, state="unscored", result={"reason": "the test score of example 7 was not finite"})
    summary = read(study)
    arm = summary.arms[1]
    assert arm.verdict.startswith(f"could not be scored in {lost} of 10 seeds; ")
    assert "fails to train" not in json.dumps(summary.to_dict())
    assert (arm.failures, arm.worst, summary.complete) == (lost, None, True)
    row = list(csv.DictReader(io.StringIO(summary.to_csv())))[1]
    assert [row[f"seed_{seed}"] for seed in range(lost)] == ["unscored"] * lost


def test_each_kind_of_failure_is_counted_by_itself(study):
    for seed, state in enumerate(["diverged", "unscored", "unscored", "failed"]):
        study.run("layer_norm", seed, state=state)
    words = read(study).arms[1].verdict
    assert words.startswith(
        "the baseline fails to train in 1 of 10 seeds; the baseline could not be scored in 2 of 10 seeds; "
        "the baseline could not be computed in 1 of 10 seeds; over the 6 pairs that finished: "
    )


def test_no_arm_has_a_claim_before_the_last_run_of_the_study(tmp_path):
    study = Study(tmp_path, labels=("layer_norm", "ada_norm", "none"))
    study.fill("layer_norm", 5.0 + 0.01 * SPREAD)
    study.fill("ada_norm", 3.0 + 0.02 * SPREAD[::-1])
    for seed in range(8):
        study.run("none", seed, 9.0)
    summary = read(study)
    assert summary.arms[1].verdict == "not enough evidence (2 runs of other arms not ended)"
    assert summary.progress == {"layer_norm": (10, 10), "ada_norm": (10, 10), "none": (8, 10)}
    assert not summary.complete
    study.run("none", 8, 9.0)
    study.run("none", 9, state="diverged")
    assert read(study).arms[1].verdict == "better"
    assert read(study).progress["none"] == (9, 10)


def test_a_study_whose_tuning_is_not_done_is_not_complete(study):
    study.card["tune"] = True
    study.save()
    assert not read(study).complete


def tuned_study(path):
    study = Study(path)
    arms = [
        Study.arm(label, learning_rate=rate, tuned=rate == 0.3)
        for rate in (0.3, 0.1)
        for label in ("layer_norm", "ada_norm")
    ]
    study.card |= {"arms": arms}
    study.save()
    for label in ("layer_norm", "ada_norm"):
        for rate, spread in ((0.3, 4.0), (0.1, 0.25)):
            for seed in study.seeds[: 10 if rate == 0.3 else 7]:
                study.run(label, seed, 50.0 + spread * seed, described={"learning_rate": rate})
    return study


def test_the_noise_of_the_untuned_baseline_is_its_own(tmp_path):
    summary = read(tuned_study(tmp_path))
    ten, seven = np.std(4.0 * np.arange(10), ddof=1), np.std(0.25 * np.arange(7), ddof=1)
    assert summary.noise == summary.noise_of(summary.arms)
    assert summary.noise["sigma"] == pytest.approx(ten)
    untuned = summary.noise_of(summary.untuned)
    assert (untuned["sigma"], untuned["n"]) == (pytest.approx(seven), 7)
    assert untuned["words"].startswith(f"layer_norm varies by {seven:.3g} % (standard deviation over 7 seeds)")
    assert summary.progress == {"layer_norm": (17, 20), "ada_norm": (17, 20)}


def test_a_run_of_the_tuned_and_the_untuned_arm_counts_once(tmp_path):
    study = Study(tmp_path)
    study.card |= {
        "arms": [Study.arm(label, tuned=tuned) for tuned in (True, False) for label in ("layer_norm", "ada_norm")]
    }
    study.save()
    for label in ("layer_norm", "ada_norm"):
        study.fill(label, 5.0 + SPREAD)
    assert read(study).progress == {"layer_norm": (10, 10), "ada_norm": (10, 10)}


@pytest.mark.parametrize(
    ("changes", "seeds", "words"),
    [
        ([], 10, ""),
        ([5], 10, "exploratory: 5 of 10 seeds came after results could be seen"),
        ([3, 5], 10, "exploratory: 7 of 10 seeds came after results could be seen"),
        ([0], 1, "exploratory: 1 of 1 seed came after results could be seen"),
        ([10], 10, "exploratory: a learning rate was chosen again after results could be seen"),
    ],
)
def test_how_many_seeds_came_after_a_result(changes, seeds, words):
    assert exploratory(changes, seeds) == words


EXTENDED = "exploratory: 4 of 10 seeds came after results could be seen"


@pytest.mark.parametrize(
    ("differences", "margin", "words"),
    [
        (-3.0 + SPREAD, 0.5, f"better ({EXTENDED})"),
        (3.0 + SPREAD, 0.5, f"worse ({EXTENDED})"),
        (0.05 * SPREAD, 0.5, f"equivalent ({EXTENDED})"),
        (0.1 + 0.01 * SPREAD, 0.5, f"equivalent (behind, by less than the margin; {EXTENDED})"),
        (2 * SPREAD, 0.5, "not enough evidence (about 51 more seeds)"),
    ],
)
def test_a_claim_of_an_extended_study_is_exploratory(tmp_path, differences, margin, words):
    study = Study(tmp_path, margin=margin, changes=[6])
    study.fill("layer_norm", [5.0] * 10)
    study.fill("ada_norm", 5.0 + differences)
    summary = read(study)
    assert summary.arms[1].verdict == words
    assert (summary.caution, summary.to_dict()["changes"]) == (EXTENDED, [6])
    summary.write(tmp_path)
    assert read_summary(tmp_path) == summary
    study.run("ada_norm", 0, state="diverged")
    assert ("exploratory" in read(study).arms[1].verdict) is (not words.startswith("not"))
    for claim in ("better", "worse", "equivalent"):
        assert claim not in read(study).arms[1].verdict


def test_a_study_without_looks_or_changes_has_no_field_of_them(study):
    assert not {"looks", "changes"} & {*read(study).to_dict()}
    assert read(study).caution == ""


@pytest.mark.parametrize("higher", [True, False])
def test_an_interval_of_shares_stays_within_them(tmp_path, higher):
    metric = {"name": "share", "unit": "%", "higher_is_better": higher}
    study = Study(tmp_path, seeds=range(2), metric=metric)
    for label, shares in (("layer_norm", (0.0, 0.4)), ("ada_norm", (0.9, 1.0))):
        for seed, share in enumerate(shares):
            scores = 100.0 * (np.arange(50) < 50 * share)
            study.run(label, seed, float(scores.mean()), scores=scores)
    arm = read(study).arms[1]
    # Student's interval of 90 and 60 points is 75 - 12.7 * 15 to 75 + 12.7 * 15.
    assert arm.interval == (-100.0, 100.0)
    assert arm.difference == pytest.approx(75.0)


@pytest.mark.parametrize("cut", ["scores above 100", "another unit", "no scores"])
def test_an_interval_that_is_of_no_share_is_not_cut(tmp_path, cut):
    unit = "ms" if cut == "another unit" else "%"
    study = Study(tmp_path, seeds=range(2), metric={"name": "error", "unit": unit, "higher_is_better": False})
    for label, values in (("layer_norm", (0.0, 20.0)), ("ada_norm", (90.0, 50.0))):
        for seed, value in enumerate(values):
            scores = np.full(10, value)
            if cut == "scores above 100":
                scores[:2] = value + 110.0, value - 110.0
            study.run(label, seed, value, scores=None if cut == "no scores" else scores)
    # 60 and -30 points apart from each other: 12.706 standard errors of 30.
    assert read(study).arms[1].interval == pytest.approx((60.0 - 12.7062 * 30, 60.0 + 12.7062 * 30), rel=1e-4)


def test_sums_that_are_shares_stay_within_them(tmp_path):
    metric = {"name": "UAS", "unit": "%", "higher_is_better": True, "aggregate": "percentage"}
    study = Study(tmp_path, seeds=range(2), metric=metric)
    for label, shares in (("layer_norm", (0.0, 0.5)), ("ada_norm", (1.0, 1.0))):
        for seed, share in enumerate(shares):
            study.run(label, seed, 100.0 * share, scores=np.tile([10 * share, 10], (5, 1)))
    assert read(study).arms[1].interval == (-100.0, 100.0)


def test_cutting_does_not_change_what_is_covered(tmp_path, rng):
    study = Study(tmp_path)
    scored(study, "layer_norm", rng, 0.02)
    scored(study, "ada_norm", rng, 0.03)
    low, high = read(study).arms[1].interval
    assert -100 < low < high < 100
