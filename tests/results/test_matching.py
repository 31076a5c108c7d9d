"""Which run belongs to which arm, and files that contradict each other."""

import numpy as np
import pytest

from normscope.results.aggregates import AGGREGATES
from normscope.results.matching import match_runs, pair_scores, read_runs
from support.study_folders import Study, read


def test_strangers_are_left_out_and_listed(study):
    study.run("rms_norm", 0, 0.0, name="other-arm")
    study.run("ada_norm", 77, 0.0, name="other-seed")
    study.card |= {"preset": "small"}
    for arm in study.card["arms"]:
        arm["warmup"] = 0
    study.save()
    others = {"steps": 9, "task": "mnist", "batch_size": 1, "learning_rate": 9.0, "placement": "pre"}
    for key, value in {**others, "preset": "full", "warmup": 50}.items():
        study.run("ada_norm", 0, 0.0, described={key: value}, name=f"other-{key}")
    study.run("ada_norm", 0, 0.0, described={"split": "tune"}, name="tuning")
    (study.folder.path / "runs" / "notes").mkdir()
    summary = read(study)
    names = ["arm", "batch_size", "learning_rate", "placement", "preset", "seed", "steps", "task", "warmup"]
    assert summary.settings["foreign_runs"] == ["notes", *(f"other-{name}" for name in names)]
    assert summary.arms[1].verdict == "better"


def test_a_run_that_failed_before_it_was_described_is_counted(study):
    for entry in study.card["arms"]:
        entry["runs"] = {str(seed): f"{entry['label']}-{seed}-0.1" for seed in study.seeds}
    study.save()
    study.run("ada_norm", 4, 0.0, name="not-on-the-card")
    (study.folder.path / "runs" / "notes").mkdir()
    for seed, state in ((2, "failed"), (3, "interrupted")):
        folder = study.folder.run(f"ada_norm-{seed}-0.1")
        folder.result.unlink()
        study.run("ada_norm", seed, state=state).description.unlink()
    summary = read(study)
    assert [run.state for run in summary.arms[1].runs[:5]] == ["done", "done", "failed", "interrupted", "done"]
    assert summary.arms[1].verdict.startswith("could not be computed in 1 of 9 seeds; over the 8 pairs")
    assert summary.settings["foreign_runs"] == ["not-on-the-card", "notes"]


def test_two_runs_for_one_seed_are_refused(study):
    study.run("ada_norm", 4, 1.0, name="again")
    with pytest.raises(ValueError, match=r"arm ada_norm has two runs with seed 4: .*ada_norm-4.* and .*again"):
        read(study)


def test_scores_that_contradict_their_run_are_refused(study):
    np.save(study.folder.run("ada_norm-2-0.1").examples, np.ones(5, np.float32))
    np.save(study.folder.run("layer_norm-2-0.1").examples, np.ones(5, np.float32))
    with pytest.raises(ValueError, match=r"ada_norm-2-0\.1/examples\.npy has mean 1\.0, its run has value"):
        read(study)


def test_a_run_without_a_single_score_is_refused(study):
    for label in ("layer_norm", "ada_norm"):
        np.save(study.folder.run(f"{label}-2-0.1").examples, np.ones(0, np.float32))
    with pytest.raises(ValueError, match=r"examples\.npy must hold one score per test example, got an empty array"):
        read(study)


def test_a_loss_that_is_null_is_no_loss(study):
    for label in ("layer_norm", "ada_norm"):
        for seed in study.seeds:
            rows = '{"step": 20, "valid_loss": null}\n{"step": 40, "valid_loss": 0.5, "seconds": 1.0}\n'
            study.folder.run(f"{label}-{seed}-0.1").metrics.write_text(rows)
    assert read(study).arms[1].steps_to_baseline == 40
    # An evaluation that one run lacks is no part of the median run.
    study.folder.run("layer_norm-0-0.1").metrics.write_text('{"step": 20, "valid_loss": null}\n')
    assert read(study).arms[1].steps_to_baseline is None


def test_scores_of_different_test_sets_leave_their_values_and_no_claim(tmp_path):
    study = Study(tmp_path, labels=("layer_norm", "ada_norm", "rms_norm"))
    for seed in study.seeds:
        for label, value in (("layer_norm", 5.0), ("ada_norm", 2.0), ("rms_norm", 2.0)):
            short = label == "ada_norm" and seed in (1, 4)
            study.run(label, seed, value + seed / 100, scores=np.full(5 if short else 6, value + seed / 100))
    _, arm, other = read(study).arms
    assert arm.verdict == (
        "not enough evidence (scored on different test examples, ada_norm on 5 in seed 1, 4, else 6; layer_norm on 6: "
        "evaluate must score the same ones in every run)"
    )
    assert arm.mean == pytest.approx(2.045)
    assert arm.difference == pytest.approx(-3.0)
    assert arm.interval_examples is None
    assert (other.verdict, other.interval_examples is None) == ("better", False)


def test_who_needs_the_scores_is_refused_where_their_lengths_differ(tmp_path):
    study = Study(tmp_path, seeds=[0])
    study.run("layer_norm", 0, 1.0, scores=np.ones(6))
    study.run("ada_norm", 0, 1.0, scores=np.ones(5))
    runs, _ = read_runs(study.folder, study.card)
    base, arm = (match_runs(study.card, entry, runs) for entry in study.card["arms"])
    with pytest.raises(ValueError, match=r"different lengths: ada_norm on 5; layer_norm on 6"):
        pair_scores(arm, base, AGGREGATES["mean"])


def test_one_number_among_scores_is_told_too(tmp_path):
    study = Study(tmp_path, seeds=range(2))
    for seed in study.seeds:
        study.run("layer_norm", seed, 1.0, scores=np.ones(6))
        study.run("ada_norm", seed, 1.0, scores=np.ones(1 + 5 * seed))
    assert "ada_norm on 6 in seed 1, else 1; layer_norm on 6" in read(study).arms[1].verdict


def test_scores_in_a_column_are_scores(tmp_path):
    study = Study(tmp_path, seeds=range(2))
    for seed in study.seeds:
        study.run("layer_norm", seed, 1.5, scores=[1.0, 2.0])
        study.run("ada_norm", seed, 2.5, scores=[[2.0], [3.0]])
    assert read(study).arms[1].interval_examples == (1.0, 1.0)


def test_a_done_run_needs_a_value(study):
    study.run("ada_norm", 0, None)
    with pytest.raises(ValueError, match=r"result\.json is done and needs a value, got None"):
        read(study)


def test_nan_in_a_result_is_refused(study):
    path = study.folder.run("ada_norm-0-0.1").result
    path.write_text('{"schema": 1, "state": "done", "value": NaN}')
    with pytest.raises(ValueError, match="NaN is not a JSON number"):
        read(study)


def test_an_unknown_state_is_refused(study):
    study.run("ada_norm", 0, 1.0, state="running")
    with pytest.raises(ValueError, match=r"has state 'running', expected done, diverged, unscored or failed"):
        read(study)


PERCENTAGE = {"name": "right", "unit": "%", "higher_is_better": True, "aggregate": "percentage", "signature": "v1"}


def test_runs_of_another_scorer_are_left_out(tmp_path):
    study = Study(tmp_path, metric=PERCENTAGE, seeds=range(3))
    study.fill("layer_norm", [5.0, 6.0, 7.0], described={"signature": "v1"})
    study.run("ada_norm", 0, 5.0, described={"signature": "v1"})
    study.run("ada_norm", 1, 5.0, described={"signature": "v2"})
    study.run("ada_norm", 2, 5.0, described={"signature": ""})
    summary = read(study)
    assert [run.state for run in summary.arms[1].runs] == ["done", "planned", "planned"]
    assert summary.settings["foreign_runs"] == ["ada_norm-1-0.1", "ada_norm-2-0.1"]
    assert not summary.complete


def test_a_run_that_does_not_say_its_scorer_belongs_to_any(tmp_path):
    study = Study(tmp_path, metric=PERCENTAGE, seeds=[0])
    study.run("layer_norm", 0, 5.0)
    study.run("ada_norm", 0, 5.0)
    assert read(study).complete
    # A metric without choices is a scorer, too: its runs are no others'.
    study.card["metric"] = {**PERCENTAGE, "signature": ""}
    study.save()
    study.run("ada_norm", 0, 5.0, described={"signature": "v1"})
    assert [run.state for run in read(study).arms[1].runs] == ["planned"]
    del study.card["metric"]["signature"]
    study.save()
    assert read(study).complete


def test_an_aggregate_that_does_not_exist_is_refused(study):
    study.card["metric"]["aggregate"] = "median"
    study.save()
    with pytest.raises(ValueError, match=r"card\.json .*aggregate 'median', expected .*mean.*bleu"):
        read(study)


def test_arms_that_differ_in_their_warm_up_alone(tmp_path):
    study = Study(tmp_path, seeds=range(2))
    study.card["arms"] = [
        {**study.arm("layer_norm"), "label": f"layer_norm, warm-up {warmup}", "warmup": warmup} for warmup in (0, 50)
    ]
    study.card["baseline"] = "layer_norm, warm-up 0"
    study.save()
    for warmup, value in ((0, 5.0), (50, 4.0)):
        for seed in study.seeds:
            about = {"warmup": warmup, "norm": "layer_norm"}
            study.run(f"layer_norm, warm-up {warmup}", seed, value, described=about)
    summary = read(study)
    assert [arm.mean for arm in summary.arms] == [5.0, 4.0]
    assert summary.complete


@pytest.mark.parametrize("scores", [[1.0, np.nan], [np.inf, 1.0]])
def test_a_score_that_is_not_finite_is_told_with_its_file(study, scores):
    for label in ("layer_norm", "ada_norm"):
        np.save(study.folder.run(f"{label}-2-0.1").examples, np.array(scores, np.float32))
    with pytest.raises(ValueError, match=r"ada_norm-2-0\.1/examples\.npy"):
        read(study)
