"""One run: its states, its rule of selection, its resume to the bit, and the test set read once."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normscope.catalogue import NORMS, PLACEMENTS, TASKS
from normscope.kernels import describe
from normscope.results.store import RunFolder
from normscope.tasks import ImageClassification, Task
from normscope.train import Interrupted, Recipe, initialize, train

DIGITS = TASKS["digits"]
assert isinstance(DIGITS, ImageClassification)
RECIPE = Recipe(steps=60, batch_size=16, learning_rate=3e-3, evaluations=6)


class Network(nn.Module):
    """A small network with dropout, so that a resumed run must have the same masks."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 32), norm(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def build(norm: str = "batch_norm") -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        network = Network(NORMS[norm])
        initialize(network, 5)
        return network

    return model


def run(folder: Path, *, task: Task = DIGITS, recipe: Recipe = RECIPE, **changes: Any) -> dict[str, Any]:
    run_folder = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "seed": 5,
        "recipe": recipe,
        "split": "study",
        "folder": run_folder,
        "identity": {"id": "test"},
        "watch": lambda step, loss: False,
        "build": build(),
        **changes,
    }
    state = train(task, options.pop("build"), **options)
    result = json.loads(run_folder.result.read_text())
    assert result["state"] == state
    return result


TIMES = ("step_ms", "peak_bytes", "seconds")


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in TIMES}


def curve(folder: Path) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if key != "seconds"} for row in RunFolder(folder).read_metrics()]


def test_a_run_leaves_what_the_documents_say(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "metrics.jsonl", "examples.npy", "result.json"}
    assert result["steps"] == 60
    assert [row["step"] for row in curve(tmp_path)] == [10, 20, 30, 40, 50, 60]
    scores = RunFolder(tmp_path).read_examples()
    assert scores is not None
    assert scores.mean(dtype=np.float64) == result["value"]
    best = min(curve(tmp_path), key=lambda row: (row["valid_value"], row["valid_loss"]))
    assert result["selected_step"] == best["step"]
    assert result["valid_value"] == best["valid_value"]
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["parameters"] == result["parameters"] == 64 * 32 + 32 + 2 * 32 + 32 * 10 + 10
    assert described["versions"]["torch"] == torch.__version__
    assert described["backend"] == describe(torch.device("cpu"))
    assert described["data"]


def test_every_evaluation_tells_what_the_norms_take(tmp_path: Path) -> None:
    run(tmp_path)
    rows = curve(tmp_path)
    assert all(list(row["gradient"]) == ["layers.1"] for row in rows)
    assert all(0 <= share <= 1 for row in rows for share in row["gradient"]["layers.1"])
    assert len({tuple(row["gradient"]["layers.1"]) for row in rows}) == len(rows)


def test_two_runs_are_equal_and_two_seeds_are_not(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert numbers(first) == numbers(second)
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    run(tmp_path / "c", seed=6)
    assert curve(tmp_path / "a") != curve(tmp_path / "c")


def test_training_equals_a_bare_loop(tmp_path: Path) -> None:
    """The same arithmetic written out, with nothing of ours but streams and data."""
    from normscope.train.streams import BatchOrder, seed_dropout

    run(tmp_path)
    data = DIGITS.load(torch.device("cpu"), "study")
    model = build()()
    order = BatchOrder(data.train_examples, 16, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, fused=True)
    losses = []
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 60)
        seed_dropout(5, step, torch.device("cpu"))
        model.train()
        x, y = data.batch(order.batch(step))
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert curve(tmp_path)[-1]["train_loss"] == pytest.approx(np.mean(losses[50:]), rel=1e-12)


@pytest.mark.parametrize("stops", [[1], [10], [37], [5, 6, 44, 59]])
def test_a_resumed_run_equals_the_unbroken_one_to_the_bit(
    tmp_path: Path, stops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normscope.train.loop.PROGRESS_SECONDS", 0.0)
    want = run(tmp_path / "whole")
    for stop in stops:
        with pytest.raises(Interrupted, match=f"stopped at step {stop} of 60"):
            run(tmp_path / "broken", watch=lambda step, loss, stop=stop: step == stop)
        assert (tmp_path / "broken" / "checkpoint.pt").exists()
        torch.randn(17)
    found = run(tmp_path / "broken")
    assert numbers(found) == numbers(want)
    assert curve(tmp_path / "broken") == curve(tmp_path / "whole")
    assert (tmp_path / "broken" / "examples.npy").read_bytes() == (tmp_path / "whole" / "examples.npy").read_bytes()
    assert not (tmp_path / "broken" / "checkpoint.pt").exists()


def test_a_damaged_checkpoint_is_kept_and_the_run_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normscope.train.loop.PROGRESS_SECONDS", 0.0)
    want = run(tmp_path / "whole")
    with pytest.raises(Interrupted, match="step 37"):
        run(tmp_path / "broken", watch=lambda step, loss: step == 37)
    whole = (tmp_path / "broken" / "checkpoint.pt").read_bytes()
    (tmp_path / "broken" / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"checkpoint\.pt cannot be read .* the run begins again"):
        found = run(tmp_path / "broken")
    assert numbers(found) == numbers(want)
    assert curve(tmp_path / "broken") == curve(tmp_path / "whole")
    assert (tmp_path / "broken" / "checkpoint.damaged").read_bytes() == whole[: len(whole) // 2]


def test_lines_written_after_the_checkpoint_are_dropped_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normscope.train.loop.PROGRESS_SECONDS", 0.0)
    run(tmp_path / "whole")
    with pytest.raises(Interrupted, match="step 25"):
        run(tmp_path / "broken", watch=lambda step, loss: step == 25)
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "train_loss": 9.0, "valid_loss": 9.0, "valid_value": 9.0, "seconds": 9.0}\n{"step": 4')
    run(tmp_path / "broken")
    assert curve(tmp_path / "broken") == curve(tmp_path / "whole")


def test_a_link_in_the_place_of_the_metrics_leads_nowhere(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("do not touch\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to(precious)
    run(tmp_path / "run")
    assert precious.read_text() == "do not touch\n"
    assert len(curve(tmp_path / "run")) == RECIPE.evaluations


def test_a_loss_that_is_not_finite_is_a_state(tmp_path: Path) -> None:
    def explode(model: nn.Module, batch: Any) -> Tensor:
        return DIGITS.loss(model, batch) * (math.nan if model.training and len(seen) == 12 else 1.0)

    seen: list[int] = []
    task = Spy(DIGITS, on_loss=lambda: seen.append(1), loss=explode)
    result = run(tmp_path, task=task)
    assert result["state"] == "diverged"
    assert result["value"] is None
    assert result["steps"] == 12
    assert result["reason"] == "the training loss was nan at step 12"


def test_a_validation_loss_that_is_not_finite_is_a_state(tmp_path: Path) -> None:
    def evaluate(model: nn.Module, data: Any, part: str) -> tuple[float, np.ndarray]:
        _, scores = DIGITS.evaluate(model, data, part)
        return math.inf, scores

    result = run(tmp_path, task=Spy(DIGITS, evaluate=evaluate))
    assert result["state"] == "diverged"
    assert result["reason"] == "the validation loss was not finite at step 10"


def test_the_test_set_is_read_once_at_the_end(tmp_path: Path) -> None:
    parts: list[str] = []

    def evaluate(model: nn.Module, data: Any, part: str) -> tuple[float, np.ndarray]:
        parts.append(part)
        return DIGITS.evaluate(model, data, part)

    run(tmp_path, task=Spy(DIGITS, evaluate=evaluate))
    assert parts == ["valid"] * 6 + ["test"]


def test_tuning_never_reads_the_test_set(tmp_path: Path) -> None:
    parts: list[str] = []

    def evaluate(model: nn.Module, data: Any, part: str) -> tuple[float, np.ndarray]:
        parts.append(part)
        return DIGITS.evaluate(model, data, part)

    result = run(tmp_path, task=Spy(DIGITS, evaluate=evaluate), split="tune")
    assert parts == ["valid"] * 6
    assert result["value"] == result["valid_value"]
    assert not (tmp_path / "examples.npy").exists()


def test_the_best_validation_value_is_tested_not_the_last(tmp_path: Path) -> None:
    values = iter([50.0, 20.0, 20.0, 20.0, 70.0, 90.0])
    losses = iter([1.0, 0.9, 0.7, 0.7, 0.1, 0.1])
    weights: list[Tensor] = []

    def evaluate(model: nn.Module, data: Any, part: str) -> tuple[float, np.ndarray]:
        weights.append(next(model.parameters()).detach().clone())
        if part == "test":
            return 0.0, np.zeros(4, np.float32)
        return next(losses), np.full(4, next(values), np.float32)

    result = run(tmp_path, task=Spy(DIGITS, evaluate=evaluate))
    assert result["selected_step"] == 30
    assert torch.equal(weights[-1], weights[2])


def test_bfloat16_runs_and_differs(tmp_path: Path) -> None:
    half = dataclasses.replace(RECIPE, precision="bfloat16")
    run(tmp_path / "half", recipe=half, build=build("layer_norm"))
    run(tmp_path / "single", build=build("layer_norm"))
    ours, theirs = curve(tmp_path / "half"), curve(tmp_path / "single")
    assert ours != theirs
    assert ours[-1]["train_loss"] == pytest.approx(theirs[-1]["train_loss"], rel=0.1)


class Spy:
    """A task that passes everything on, and lets a test look at or replace two of its methods."""

    def __init__(
        self,
        task: Task,
        *,
        loss: Callable[..., Tensor] | None = None,
        evaluate: Callable[..., Any] | None = None,
        on_loss: Callable[[], None] | None = None,
    ) -> None:
        self._task, self._loss, self._evaluate, self._on_loss = task, loss, evaluate, on_loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if self._on_loss:
            self._on_loss()
        return (self._loss or self._task.loss)(model, batch)

    def evaluate(self, model: nn.Module, data: Any, part: str) -> Any:
        return (self._evaluate or self._task.evaluate)(model, data, part)


def test_placements_change_the_numbers(tmp_path: Path) -> None:
    def model(name: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            network = DIGITS.network(NORMS["layer_norm"], PLACEMENTS[name])
            initialize(network, 0)
            return network

        return make

    values = []
    for name in DIGITS.placements:
        run(tmp_path / name, build=model(name))
        values.append(curve(tmp_path / name)[-1]["train_loss"])
    assert len(set(values)) == len(values)
