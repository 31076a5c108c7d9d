"""What a run leaves on disk, beside what the tests of the loop see."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normscope.results.pictures import Picture, read_pictures
from normscope.results.store import RunFolder
from normscope.tasks import Metric, Recipe
from normscope.training.checkpoint import Progress
from normscope.training.outcome import Failure, Outcome

CPU = torch.device("cpu")


class Remembering(nn.Linear):
    """Keeps something else than tensors in its state."""

    seen: list[int]

    def get_extra_state(self) -> list[int]:
        return self.seen

    def set_extra_state(self, state: list[int]) -> None:
        self.seen = list(state)


class Scored:
    """A task that judges a model by its bias."""

    location = "f.py:make"
    metric = valid_metric = Metric(name="error", unit="%", higher_is_better=False)

    def __init__(self, test: float = 0.0) -> None:
        self.test = test

    def evaluate(self, model: Any, data: Any, part: str) -> tuple[float, np.ndarray]:
        assert not model.training
        scores = model.bias.numpy() + (self.test if part == "test" else 0.0)
        return float(scores.mean()), scores.astype(np.float32)


class Data:
    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}


def outcome(folder: Path, *, test: float = 0.0, average: int = 1) -> Outcome:
    model = Remembering(1, 2)
    model.seen = [0]
    task: Any = Scored(test)
    data: Any = Data()
    recipe = Recipe(steps=3, batch_size=1, learning_rate=0.1, average=average)
    progress = Progress()
    run = RunFolder(folder)
    return Outcome(task=task, data=data, model=model, recipe=recipe, split="study", folder=run, progress=progress)


def validate(one: Outcome, step: int, bias: float) -> Failure | None:
    one.progress.step = step
    with torch.no_grad():
        one.model.get_parameter("bias").fill_(bias)
    model: Any = one.model
    model.seen.append(step)
    return one.validate({})


def test_the_best_evaluation_is_tested_with_all_of_its_state(tmp_path: Path) -> None:
    one = outcome(tmp_path)
    assert [validate(one, step, bias) for step, bias in ((1, 5.0), (2, 2.0), (3, 4.0))] == [None] * 3
    assert one.end("done", reason=None) == "done"
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["value"], result["selected_step"], result["saved_bytes"]) == (2.0, 2, None)
    model: Any = one.model
    assert model.seen == [0, 1, 2]


def test_state_that_is_no_number_is_taken_from_the_last_of_an_average(tmp_path: Path) -> None:
    one = outcome(tmp_path, average=2)
    for step, bias in ((1, 5.0), (2, 2.0), (3, 4.0)):
        validate(one, step, bias)
    one.end("done", reason=None)
    model: Any = one.model
    assert model.seen == [0, 1, 2, 3]
    assert json.loads((tmp_path / "result.json").read_text())["value"] == 3.0


@pytest.mark.parametrize("test", [float("nan"), float("inf")])
def test_a_test_score_that_is_not_finite_is_a_state(test: float, tmp_path: Path) -> None:
    one = outcome(tmp_path, test=test)
    validate(one, 3, 1.0)
    assert one.end("done", reason=None) == "unscored"
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["state"], result["value"], result["valid_value"]) == ("unscored", None, None)
    assert result["reason"] == f"the test score of 2 of 2 examples was not finite (the first: example 0, {test})"
    assert not (tmp_path / "examples.npy").exists()


@pytest.mark.parametrize(("found", "state"), [(3.0, "done"), (float("nan"), "unscored"), (float("inf"), "unscored")])
def test_further_results_are_of_the_tested_scores_and_finite(found: float, state: str, tmp_path: Path) -> None:
    one = outcome(tmp_path, test=2.0)
    task: Any = one.task
    task.measures = lambda model, data, scores: {"twice": 2.0 * float(scores.mean()), "other": found}
    validate(one, 3, 1.0)
    assert one.end("done", reason=None) == state
    result = json.loads((tmp_path / "result.json").read_text())
    assert result.get("measures") == ({"twice": 6.0, "other": 3.0} if state == "done" else None)
    assert result["reason"] == (None if state == "done" else f"the result other was {found}")
    assert (tmp_path / "examples.npy").exists() is (state == "done")


@pytest.mark.parametrize(
    ("location", "bias", "scores", "state", "reason"),
    [
        ("", 1.0, [1.0, np.nan], "diverged", "the validation loss was not finite"),
        ("", 1.0, [[1.0], [2.0]], "unscored", "the validation scores have no ratio: ratio expects"),
        ("f.py:make", 1.0, [[1.0, 0.0]], "unscored", "the validation scores have no ratio: "),
        ("f.py:make", 1.0, [[1.0, np.inf]], "unscored", "the validation score of 1 of 1 examples was not finite"),
        ("f.py:make", np.nan, [[1.0, np.nan]], "diverged", "the weight bias was not finite"),
        ("f.py:make", np.nan, [[1.0, 1.0]], None, ""),
    ],
)
def test_an_evaluation_without_a_value_names_its_cause(
    location: str, bias: float, scores: Any, state: str | None, reason: str, tmp_path: Path
) -> None:
    one = outcome(tmp_path)
    given = np.asarray(scores, dtype=np.float32)
    task: Any = one.task
    task.metric = task.valid_metric = Metric(name="f", unit="", higher_is_better=True, aggregate="ratio")
    task.location = location
    task.evaluate = lambda model, data, part: (float(given.mean()), given)
    found = validate(one, 1, bias)
    assert (found and found.state) == state
    assert reason in (found.reason if found else "")


def test_an_evaluation_that_is_not_finite_is_reported_and_kept_nowhere(tmp_path: Path) -> None:
    one = outcome(tmp_path)
    assert validate(one, 1, float("nan")) == ("diverged", "the weight bias was not finite")
    assert one.progress.best_weights == {}
    assert not (tmp_path / "metrics.jsonl").exists()


def test_autocast_follows_the_recipe(tmp_path: Path) -> None:
    x: Tensor = torch.ones(2, 1)
    with outcome(tmp_path).autocast():
        assert nn.functional.linear(x, torch.ones(2, 1)).dtype == torch.float32


class Drawn(Scored):
    """Draws the bias of its model."""

    def pictures(self, model: Any, data: Any, generator: torch.Generator) -> list[Picture]:
        assert not model.training
        assert not torch.is_grad_enabled()
        level = int(model.bias[0])
        noise = torch.randint(256, (1,), generator=generator).item()
        return [Picture("bias", "images", np.array([[[[level, noise]]]], np.uint8))]


def test_pictures_are_drawn_of_the_tested_weights_of_a_done_run(tmp_path: Path) -> None:
    arrays = []
    for name in ("a", "b"):
        one = outcome(tmp_path / name)
        object.__setattr__(one, "task", Drawn())
        one.folder.path.mkdir()
        assert [validate(one, step, bias) for step, bias in ((1, 5.0), (2, 2.0), (3, 4.0))] == [None] * 3
        assert one.end("done", reason=None) == "done"
        arrays.append(read_pictures(one.folder.pictures)[0].array)
    assert arrays[0].ravel()[0] == 2
    assert np.array_equal(*arrays)


def test_other_tasks_and_runs_have_no_pictures(tmp_path: Path) -> None:
    one = outcome(tmp_path)
    validate(one, 1, 1.0)
    one.end("done", reason=None)
    assert not one.folder.pictures.exists()
    one.folder.result.unlink()
    object.__setattr__(one, "task", Drawn())
    one.end("diverged", reason="the loss was nan")
    assert not one.folder.pictures.exists()
