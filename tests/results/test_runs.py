"""Which run belongs to which arm, and files that contradict each other."""

import numpy as np
import pytest
from studies import Study, read


def test_strangers_are_left_out_and_listed(study):
    study.run("rms_norm", 0, 0.0, name="other-arm")
    study.run("ada_norm", 77, 0.0, name="other-seed")
    for key, value in {"steps": 9, "task": "mnist", "batch_size": 1, "learning_rate": 9.0, "placement": "pre"}.items():
        study.run("ada_norm", 0, 0.0, described={key: value}, name=f"other-{key}")
    study.run("ada_norm", 0, 0.0, described={"split": "tune"}, name="tuning")
    (study.folder.path / "runs" / "notes").mkdir()
    summary = read(study)
    names = ["arm", "batch_size", "learning_rate", "placement", "seed", "steps", "task"]
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
    with pytest.raises(ValueError, match=r"examples\.npy must hold one score a test example, got none"):
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


def test_scores_of_different_test_sets_are_refused(tmp_path):
    study = Study(tmp_path)
    for label in ("layer_norm", "ada_norm"):
        study.run(label, 0, 1.0, scores=np.ones(5 if label == "ada_norm" else 6))
    with pytest.raises(ValueError, match=r"ada_norm and layer_norm have examples\.npy of different lengths, \[5, 6\]"):
        read(study)


def test_a_done_run_needs_a_value(study):
    study.run("ada_norm", 0, None)
    with pytest.raises(ValueError, match=r"result\.json is done and needs a value, got None"):
        read(study)


def test_nan_in_a_result_is_refused(study):
    path = study.folder.run("ada_norm-0-0.1").result
    path.write_text('{"schema": 1, "state": "done", "value": NaN}')
    with pytest.raises(ValueError, match="NaN is no JSON number"):
        read(study)


def test_an_unknown_state_is_refused(study):
    study.run("ada_norm", 0, 1.0, state="running")
    with pytest.raises(ValueError, match=r"has state 'running', expected done, diverged or failed"):
        read(study)
