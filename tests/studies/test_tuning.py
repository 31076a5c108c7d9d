"""Tuning: one budget for all, on seeds and a split of its own."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from normscope.results.store import StudyFolder, read_json, write_json
from normscope.studies import compare
from normscope.studies.compare import StudyMismatch
from normscope.studies.engines.engine import RunEvent
from normscope.studies.plan import RunSpec
from normscope.studies.run import execute, fail
from normscope.studies.spec import GRID, TUNING_SEEDS, make_study
from normscope.studies.tuning import tune, tuning_plan
from normscope.tasks import TASKS

STUDY_SPEC = make_study("digits", norms=["none", "layer_norm"], seeds=[0, 1], steps=25, tune=True)


class Here:
    """Computes runs in this process; some fail on purpose."""

    def __init__(self, fails: Callable[[RunSpec], bool] = lambda spec: False) -> None:
        self.fails = fails
        self.seen: list[RunSpec] = []

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        for spec in specs:
            self.seen.append(spec)
            if self.fails(spec):
                study.run(spec.id).path.mkdir(parents=True)
                assert fail(spec, study, "on purpose") == "failed"
            else:
                execute(spec, study, lambda step, loss: False)


def test_every_arm_has_the_same_trials() -> None:
    trials = tuning_plan(STUDY_SPEC)
    assert all(spec.split == "resampled_tune" for spec in trials)
    assert {spec.seed for spec in trials} == set(TUNING_SEEDS)
    budget = {
        norm: sorted(spec.recipe.learning_rate for spec in trials if spec.norm.name == norm)
        for norm in ("none", "layer_norm")
    }
    assert budget["none"] == budget["layer_norm"]
    assert len(budget["none"]) == len(GRID) * len(TUNING_SEEDS)


def test_the_best_validation_value_is_chosen(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    tuning = tune(STUDY_SPEC, study, Here(), lambda event: None)
    for arm in tuning["arms"].values():
        means = {point["learning_rate"]: sum(point["values"]) for point in arm["curve"]}
        assert arm["chosen"] == min(means, key=lambda rate: means[rate])
    assert read_json(tmp_path / "tuning" / "tuning.json")["arms"] == ["none", "layer_norm"]


def told(results: dict[float, tuple[float, float]], task: str, tmp_path: Path) -> float:
    """Tune one arm on trials that ended with these values and losses, by factor of the task's rate; give the factor."""
    study_spec = make_study(task, norms=["layer_norm"], seeds=[0], steps=25, tune=True)
    rate = TASKS[task].presets["small"].learning_rate

    class Written:
        def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
            for spec in specs:
                value, loss = results[round(spec.recipe.learning_rate / rate, 6)]
                run = study.run(spec.id)
                run.path.mkdir(parents=True)
                run.metrics.write_text(json.dumps({"step": 20, "valid_loss": loss, "valid_value": value}) + "\n")
                write_json(run.result, {"schema": 1, "state": "done", "value": value, "selected_step": 20})

    tuning = tune(study_spec, StudyFolder(tmp_path), Written(), lambda event: None)
    return round(tuning["arms"]["layer_norm"]["chosen"] / rate, 6)


def test_the_best_follows_the_metrics_direction(tmp_path: Path) -> None:
    values = {0.3: (90.0, 1.0), 1.0: (97.0, 1.0), 3.0: (95.0, 1.0)}
    assert told(values, "mnist_cnn", tmp_path / "accuracy") == 1.0
    assert told(values, "mnist_mlp", tmp_path / "error") == 0.3


def test_equal_values_are_parted_by_the_loss(tmp_path: Path) -> None:
    assert told({0.3: (5.0, 0.4), 1.0: (5.0, 0.2), 3.0: (5.0, 0.3)}, "digits", tmp_path) == 1.0


def test_a_trial_that_failed_is_worst_and_an_arm_without_trials_keeps_its_rate(tmp_path: Path) -> None:
    def fails(spec: RunSpec) -> bool:
        return spec.norm.name == "none" or spec.recipe.learning_rate > 0.001

    tuning = tune(STUDY_SPEC, StudyFolder(tmp_path), Here(fails), lambda event: None)
    assert tuning["arms"]["none"]["chosen"] == pytest.approx(0.002)
    assert tuning["arms"]["layer_norm"]["chosen"] == pytest.approx(0.0006)


def test_the_verdict_uses_fresh_seeds_and_shows_the_untuned_beside(tmp_path: Path) -> None:
    engine = Here(
        lambda spec: spec.split == "resampled_tune" and spec.norm.name == "none" and spec.recipe.learning_rate < 0.005
    )
    summary = compare(STUDY_SPEC, out=tmp_path, engine=engine)
    study_seeds = {spec.seed for spec in engine.seen if spec.split == "resampled"}
    assert study_seeds == {0, 1}
    assert not study_seeds & set(TUNING_SEEDS)
    assert summary.untuned is not None
    assert [arm.label for arm in summary.arms] == [arm.label for arm in summary.untuned] == ["none", "layer_norm"]
    assert summary.arms[0].learning_rate == pytest.approx(0.006)
    assert summary.untuned[0].learning_rate == pytest.approx(0.002)
    assert summary.complete
    content = read_json(tmp_path / "summary.json")
    assert set(content["tuning"]["arms"]) == {"none", "layer_norm"}
    assert "tuning" in (tmp_path / "report.html").read_text().lower()


def test_the_folder_is_claimed_before_the_first_trial(tmp_path: Path) -> None:
    other = make_study("digits", norms=["layer_norm", "rms_norm"], seeds=[0], steps=20)

    class Intruded(Here):
        def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
            before = (tmp_path / "card.json").read_bytes()
            with pytest.raises(StudyMismatch, match="holds another study"):
                compare(other, out=tmp_path)
            assert (tmp_path / "card.json").read_bytes() == before
            super().run(specs, study, callback)

    assert compare(STUDY_SPEC, out=tmp_path, engine=Intruded()).complete
    longer = make_study("digits", norms=["none", "layer_norm"], seeds=[0, 1, 2], steps=25, tune=True)
    with pytest.raises(StudyMismatch, match="use the same options as before; a tuned study takes no more seeds"):
        compare(longer, out=tmp_path)


@pytest.mark.slow
def test_a_trial_computed_anew_may_choose_another_rate(tmp_path: Path) -> None:
    def fails(spec: RunSpec) -> bool:
        return spec.split == "resampled_tune" and spec.norm.name == "none" and spec.recipe.learning_rate > 0.001

    first = compare(STUDY_SPEC, out=tmp_path, engine=Here(fails))
    assert first.arms[0].learning_rate == pytest.approx(0.0006)
    second = compare(STUDY_SPEC, out=tmp_path, engine=Here(), retry_failed=True)
    (curve,) = [arm["curve"] for label, arm in second.to_dict()["tuning"]["arms"].items() if label == "none"]
    assert all(point["values"][0] is not None for point in curve)
    best = min(curve, key=lambda point: (point["values"], point["losses"]))
    assert second.arms[0].learning_rate == best["learning_rate"] == pytest.approx(0.006)
    assert second.complete
