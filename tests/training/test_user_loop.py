"""A user's custom training loop, watched: every way in which it can end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.results.store import RunFolder
from normscope.tasks import CustomTask, UserCodeError, UserFile
from normscope.training.loop import train
from normscope.training.outcome import Interrupted

Write = Callable[..., str]
LOOP_BEGINS = "        for step in range(1, 13):\n"
LOOP_ENDS = "            callback(step, value)\n"


def run(name: str, folder: Path, *, seed: int = 3, watch: Any = lambda step, loss: False) -> dict[str, Any]:
    custom = CustomTask(UserFile.named(name), norm=NORMS["layer_norm"], placement=PLACEMENTS["pre"]).for_run(
        seed, "study"
    )
    folder.mkdir(exist_ok=True)
    run_folder = RunFolder(folder)
    state = train(
        custom,
        lambda: custom.network(NORMS["layer_norm"], PLACEMENTS["pre"], "small"),
        seed=seed,
        recipe=custom.trial.recipe,
        split="study",
        preset="small",
        folder=run_folder,
        identity={"id": "test"},
        watch=watch,
    )
    result = json.loads(run_folder.result.read_text())
    assert result["state"] == state
    return result


def train_loss(folder: Path) -> float:
    (row,) = RunFolder(folder).read_metrics()
    return row["train_loss"]


def test_a_run_ends_with_what_every_run_leaves(user_file: Write, tmp_path: Path) -> None:
    result = run(user_file(driven=True), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("run.json", "metrics.jsonl", "examples.npy", "result.json")
    }
    assert (result["state"], result["steps"], result["selected_step"], result["reason"]) == ("done", 12, 12, None)
    assert result["step_ms"] > 0
    # Nobody counted what autograd kept.
    assert result["saved_bytes"] is None
    scores = RunFolder(tmp_path / "run").read_examples()
    assert scores is not None
    assert scores.mean() == result["value"]
    assert len(scores) == 32
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert list(described["data"]) == ["my_file.py"]
    assert described["parameters"] == result["parameters"] == 4 * 8 + 8 + 16 + 8 * 2 + 2


def test_the_model_is_trained_as_the_loop_alone_would(user_file: Write, tmp_path: Path) -> None:
    name = user_file(("nn.Dropout(0.3), ", ""), driven=True)
    result = run(name, tmp_path / "run")
    custom = CustomTask(UserFile.named(name), norm=NORMS["layer_norm"], placement=PLACEMENTS["pre"]).for_run(3, "study")
    model = custom.network(NORMS["layer_norm"], PLACEMENTS["pre"], "small")
    assert custom.trial.train is not None
    custom.trial.train(model, lambda step, loss: None)
    assert result["value"] == custom.evaluate(model.eval(), None, "test")[1].mean()


def test_dropout_is_drawn_from_the_seed_whatever_came_before(user_file: Write, tmp_path: Path) -> None:
    name = user_file(driven=True)
    losses = []
    for number, seed in enumerate((3, 3, 4)):
        torch.rand(number)
        run(name, tmp_path / str(number), seed=seed)
        losses.append(train_loss(tmp_path / str(number)))
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_loop_that_tells_nothing_is_taken_at_its_recipes_word(user_file: Write, tmp_path: Path) -> None:
    result = run(user_file((LOOP_ENDS, ""), driven=True), tmp_path / "run")
    assert (result["state"], result["steps"]) == ("done", 12)
    (row,) = RunFolder(tmp_path / "run").read_metrics()
    assert row["train_loss"] is None


@pytest.mark.parametrize("value", ["float('nan')", "value * float('inf')"])
def test_a_loss_that_is_not_finite_ends_the_run(value: str, user_file: Write, tmp_path: Path) -> None:
    name = user_file((LOOP_ENDS, f"            callback(step, {value} if step == 5 else value.item())\n"), driven=True)
    result = run(name, tmp_path / "run")
    assert (result["state"], result["steps"], result["value"]) == ("diverged", 5, None)
    assert result["reason"].startswith("the training loss was ")
    assert result["reason"].endswith(" at step 5")


SCORES = "return 100.0 * (model(x[parts[part]]).argmax(-1) == y[parts[part]])"


@pytest.mark.parametrize("driven", [True, False])
@pytest.mark.parametrize(("part", "name"), [("valid", "validation"), ("test", "test")])
def test_a_score_that_is_not_finite_is_not_a_failure_to_train(
    part: str, name: str, driven: bool, user_file: Write, tmp_path: Path
) -> None:
    file = user_file((SCORES, f"return [1.0, float('nan') if part == {part!r} else 2.0]"), driven=driven)
    result = run(file, tmp_path / "run")
    assert (result["state"], result["value"]) == ("unscored", None)
    assert result["reason"].startswith(
        f"the {name} score of 1 of 2 examples was not finite (the first: example 1, nan)"
    )


def test_weights_that_are_not_finite_are_a_failure_to_train(user_file: Write, tmp_path: Path) -> None:
    ruined = LOOP_ENDS + "        torch.nn.init.constant_(model[0].weight, float('nan'))\n"
    file = user_file((LOOP_ENDS, ruined), (SCORES, "return model(x[parts[part]])[:, 0]"), driven=True)
    result = run(file, tmp_path / "run")
    assert (result["state"], result["reason"]) == ("diverged", "the weight 0.weight was not finite after training")


CATCHES = {
    "except Exception": "except Exception:\n                pass\n",
    "except BaseException and on": "except BaseException:\n                pass\n",
    "except BaseException and out": "except BaseException:\n                break\n",
    "another error in its place": "except BaseException as error:\n                raise ValueError('?') from error\n",
}


@pytest.mark.parametrize("catch", CATCHES)
@pytest.mark.parametrize("why", ["stopped", "diverged"])
def test_no_way_of_catching_it_hides_the_end(
    catch: str, why: str, user_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normscope.training.user_loop.PROGRESS_SECONDS", 0.0)
    value = "float('nan') if step == 5 else value" if why == "diverged" else "value"
    told = f"            try:\n                callback(step, {value})\n            {CATCHES[catch]}"
    name = user_file((LOOP_ENDS, told), driven=True)
    if why == "diverged":
        assert run(name, tmp_path / "run")["reason"] == "the training loss was nan at step 5"
        return
    with pytest.raises(Interrupted, match=r"stopped at step 5$"):
        run(name, tmp_path / "run", watch=lambda step, loss: step == 5)
    assert not (tmp_path / "run" / "result.json").exists()
    assert run(name, tmp_path / "run")["state"] == "done"


def test_a_run_that_begins_again_ends_as_one_that_was_not_stopped(
    user_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normscope.training.user_loop.PROGRESS_SECONDS", 0.0)
    name = user_file(driven=True)
    run(name, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(name, tmp_path / "run", watch=lambda step, loss: step == 5)
    run(name, tmp_path / "run")
    assert train_loss(tmp_path / "run") == train_loss(tmp_path / "whole")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("callback(-1, value)", r"got callback\(-1, a tensor \[\] of torch.float32\)"),
        ("callback('x', value)", r"got callback\('x', a tensor"),
        ("callback(step, 'low')", r"got callback\(1, 'low'\)"),
        ("callback(step, '0.5')", r"got callback\(1, '0.5'\)"),
        ("callback(value)", r"got callback\(a tensor \[\] of torch.float32\)"),
        ("callback(value, step)", r"got callback\(a tensor \[\] of torch.float32, 1\)"),
        ("callback(value.item(), step)", r"got callback\(0\.\d+, 1\)"),
        ("callback(step, torch.ones(2))", r"got callback\(1, a tensor \[2\] of torch.float32\)"),
        ("callback(None, value)", r"got callback\(None, a tensor"),
        ("callback(step, value, 3)", r"got callback\(1, a tensor \[\] of torch.float32, 3\)"),
        (
            "callback(step, value, epoch=model)",
            r"a tensor \[\] of torch.float32, epoch=a Sequential\)",
        ),
    ],
)
def test_what_is_reported_wrongly_is_an_error_of_the_user(
    told: str, words: str, user_file: Write, tmp_path: Path
) -> None:
    with pytest.raises(UserCodeError, match=words) as raised:
        run(user_file((LOOP_ENDS, f"            {told}\n"), driven=True), tmp_path / "run")
    assert "an integer of at least 0, and the last loss, a number or a one-element tensor" in str(raised.value)
    assert "normscope/" not in str(raised.value)
    assert raised.value.reason.endswith("(my_file.py, line 29)")


def test_an_error_of_the_user_shows_their_lines(user_file: Write, tmp_path: Path) -> None:
    name = user_file((LOOP_BEGINS, LOOP_BEGINS + "            optimizer.nonsense()\n"), driven=True)
    with pytest.raises(UserCodeError) as raised:
        run(name, tmp_path / "run")
    assert "optimizer.nonsense()" in str(raised.value)
    assert "normscope/tasks" not in str(raised.value)
    assert "normscope/train" not in str(raised.value)
