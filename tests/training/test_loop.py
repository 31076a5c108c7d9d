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

from normscope.kernels import describe
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.results.store import RunFolder
from normscope.tasks import TASKS, BatchOrder, ImageClassification, Metric, Recipe, Task
from normscope.training.loop import train
from normscope.training.outcome import Interrupted, Watch
from normscope.training.randomness import initialize

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


def never_stop(step: int, loss: float) -> bool:
    return False


NEVER_STOP: Watch = never_stop


def run(folder: Path, *, task: Task = DIGITS, recipe: Recipe = RECIPE, **changes: Any) -> dict[str, Any]:
    run_folder = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "seed": 5,
        "recipe": recipe,
        "split": "study",
        "preset": "small",
        "folder": run_folder,
        "identity": {"id": "test"},
        "watch": NEVER_STOP,
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
    from normscope.training.randomness import generator, seed_dropout

    run(tmp_path)
    data = DIGITS.load(torch.device("cpu"), "study", "small")
    model = build()()
    order = BatchOrder(data.train_examples, 16, lambda number: generator(5, "data", number))
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
    monkeypatch.setattr("normscope.training.loop.PROGRESS_SECONDS", 0.0)
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
    monkeypatch.setattr("normscope.training.loop.PROGRESS_SECONDS", 0.0)
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
    monkeypatch.setattr("normscope.training.loop.PROGRESS_SECONDS", 0.0)
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
            network = DIGITS.network(NORMS["layer_norm"], PLACEMENTS[name], "small")
            initialize(network, 0)
            return network

        return make

    values = []
    for name in DIGITS.placements:
        run(tmp_path / name, build=model(name))
        values.append(curve(tmp_path / name)[-1]["train_loss"])
    assert len(set(values)) == len(values)


def weights_of(folder: Path, recipe: Recipe, **changes: Any) -> list[dict[str, Tensor]]:
    """Train, and give the weights at every look, those that were tested last."""
    seen: list[dict[str, Tensor]] = []

    def evaluate(model: nn.Module, data: Any, part: str) -> tuple[float, np.ndarray]:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return DIGITS.evaluate(model, data, part)

    run(folder, task=Spy(DIGITS, evaluate=evaluate), recipe=recipe, **changes)
    return seen


def by_hand(recipe: Recipe, update: Callable[[nn.Module, int], None]) -> dict[str, Tensor]:
    """Give the last weights of a run whose updates are written out; nothing of ours but streams and data."""
    from normscope.training.randomness import generator, seed_dropout

    data = DIGITS.load(torch.device("cpu"), "study", "small")
    model = build("layer_norm")()
    order = BatchOrder(data.train_examples, recipe.batch_size, lambda number: generator(5, "data", number))
    for step in range(recipe.steps):
        seed_dropout(5, step, torch.device("cpu"))
        x, y = data.batch(order.batch(step))
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        update(model, step)
    return model.state_dict()


SGD = Recipe(steps=12, batch_size=16, learning_rate=0.5, evaluations=3, optimizer="sgd", schedule="constant")


@pytest.mark.parametrize("limit", [0.05, 1000.0])
def test_the_whole_gradient_is_clipped(tmp_path: Path, limit: float) -> None:
    recipe = dataclasses.replace(SGD, clip=limit)
    norms: list[float] = []

    def update(model: nn.Module, step: int) -> None:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient * min(1.0, limit / norms[-1])

    want = by_hand(recipe, update)
    # Where it clips it clips every update, and where it does not none.
    assert all((norm > limit) is (limit < 1) for norm in norms)
    *_, last, _ = weights_of(tmp_path / "clipped", recipe, build=build("layer_norm"))
    for name, tensor in want.items():
        # torch divides by the norm plus 1e-6, 2e-5 of the smallest limit; twelve updates of it.
        torch.testing.assert_close(last[name], tensor, rtol=1e-4, atol=1e-4)
    free = weights_of(tmp_path / "free", SGD, build=build("layer_norm"))[-2]
    apart = max((free[name] - last[name]).abs().max().item() for name in want)
    assert (apart > 0.01) is (limit < 1)


def test_the_rates_of_the_warm_up_are_used(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SGD, schedule="inverse_sqrt", warmup=4)
    rates = [0.125, 0.25, 0.375, 0.5, *(0.5 * math.sqrt(4 / step) for step in range(5, 13))]

    def update(model: nn.Module, step: int) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= rates[step] * parameter.grad

    want = by_hand(recipe, update)
    *_, last, _ = weights_of(tmp_path, recipe, build=build("layer_norm"))
    for name, tensor in want.items():
        # Rounding of one fused multiply-add an update.
        torch.testing.assert_close(last[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("average", [2, 3, 9])
def test_the_mean_of_the_last_looks_is_tested(tmp_path: Path, average: int) -> None:
    recipe = dataclasses.replace(RECIPE, average=average)
    *looks, judged, tested = weights_of(tmp_path, recipe)
    assert len(looks) == 6
    assert all(torch.equal(judged[name], tensor) for name, tensor in tested.items())
    for name, tensor in tested.items():
        last = [look[name] for look in looks[-average:]]
        if tensor.is_floating_point():
            want = torch.stack([each.double() for each in last]).mean(0)
            # One rounding an addition, of weights and running variances of order one.
            torch.testing.assert_close(tensor.double(), want, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(tensor, last[-1])
    assert any("running" in name for name in tested)
    assert any(not tensor.is_floating_point() for tensor in tested.values())
    result = json.loads((tmp_path / "result.json").read_text())
    # The value is that of the mean, which no look has seen.
    assert result["selected_step"] == recipe.steps
    model = build()().eval()
    model.load_state_dict(tested)
    with torch.no_grad():
        _, scores = DIGITS.evaluate(model, DIGITS.load(torch.device("cpu"), "study", "small"), "valid")
    assert result["valid_value"] == pytest.approx(float(scores.mean(dtype=np.float64)))


def test_what_is_averaged_differs_from_the_best_look(tmp_path: Path) -> None:
    run(tmp_path / "best")
    run(tmp_path / "mean", recipe=AVERAGED)
    first, second = ((tmp_path / name / "examples.npy").read_bytes() for name in ("best", "mean"))
    assert first != second


AVERAGED = dataclasses.replace(RECIPE, average=2)


@pytest.mark.parametrize("stops", [[1], [25, 50], [55], [37, 60]])
def test_an_averaged_run_survives_a_kill_to_the_bit(
    tmp_path: Path, stops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normscope.training.loop.PROGRESS_SECONDS", 0.0)
    recipe = dataclasses.replace(AVERAGED, clip=0.5, warmup=20, weight_decay=0.01)
    want = run(tmp_path / "whole", recipe=recipe)
    for stop in stops:
        with pytest.raises(Interrupted, match=f"stopped at step {stop} of 60"):
            run(tmp_path / "broken", recipe=recipe, watch=lambda step, loss, stop=stop: step == stop)
    found = run(tmp_path / "broken", recipe=recipe)
    assert numbers(found) == numbers(want)
    assert curve(tmp_path / "broken") == curve(tmp_path / "whole")
    assert (tmp_path / "broken" / "examples.npy").read_bytes() == (tmp_path / "whole" / "examples.npy").read_bytes()


def test_two_metrics_each_with_their_aggregate(tmp_path: Path) -> None:
    """The validation set is judged by another number than the test set, and both by sums of what was counted."""
    valid = Metric(name="right", unit="%", higher_is_better=True, aggregate="percentage")
    test = Metric(name="wrong a try", unit="", higher_is_better=False, aggregate="ratio", signature="v1")

    class Two(Spy):
        metric, valid_metric = test, valid

    parts: list[np.ndarray] = []

    def evaluate(model: nn.Module, data: Any, part: str) -> tuple[float, np.ndarray]:
        loss, scores = DIGITS.evaluate(model, data, part)
        wrong, weight = scores / 100, 1 + np.arange(len(scores)) % 3
        found = np.stack([weight * ((1 - wrong) if part == "valid" else wrong), weight], axis=1).astype(np.float32)
        parts.append(found)
        return loss, found

    result = run(tmp_path, task=Two(DIGITS, evaluate=evaluate))
    *valids, tested = parts
    values = [100 * part[:, 0].sum(dtype=np.float64) / part[:, 1].sum(dtype=np.float64) for part in valids]
    assert [row["valid_value"] for row in curve(tmp_path)] == pytest.approx(values, rel=1e-12)
    assert result["valid_value"] == max(row["valid_value"] for row in curve(tmp_path))
    assert result["value"] == pytest.approx(tested[:, 0].sum() / tested[:, 1].sum(), rel=1e-6)
    assert json.loads((tmp_path / "run.json").read_text())["signature"] == "v1"
    scores = RunFolder(tmp_path).read_examples()
    assert scores is not None
    assert np.array_equal(scores, tested)
