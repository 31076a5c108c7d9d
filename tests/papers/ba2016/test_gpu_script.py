"""The script for a GPU, a few updates on a CPU: what fits, what is done, and what goes on."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("small_data")


@pytest.fixture
def script() -> Any:
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "ba2016_gpu.py"
    specification = importlib.util.spec_from_file_location("ba2016_gpu", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def call(script: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["ba2016_gpu", "--device", "cpu", "--tasks", "mnist_mlp", "--seeds", "1", *words])
    return script.main()


def test_a_call_goes_on_where_the_last_one_was_stopped(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--out", str(tmp_path), "--steps", "3")
    assert call(script, monkeypatch, *words, "--seconds", "0") == script.AGAIN
    assert "time is up: call again" in capsys.readouterr().out
    assert call(script, monkeypatch, *words) == 0
    said = capsys.readouterr().out
    assert said.count(": done after") == 3
    assert "everything is done" in said
    card = json.loads((tmp_path / "mnist_mlp-full" / "card.json").read_text())
    assert (card["preset"], card["steps"], len(card["arms"])) == ("full", 3, 3)
    assert call(script, monkeypatch, *words) == 0
    assert ": done after" not in capsys.readouterr().out


def test_what_fits_is_measured_once(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(script, "RUN_SECONDS", 1e-9)
    options = script.argparse.Namespace(device="cpu", precision="float32", compile=False, seeds=1)
    monkeypatch.setattr(script, "milliseconds", lambda run, timed=script.milliseconds: timed(run, 1, 0))
    path = tmp_path / "fits.json"
    (found,) = script.fit(["mnist_mlp"], options, path).values()
    assert found["ms"] > 0
    assert (found["steps"], found["preset_steps"]) == (1, 8600)
    monkeypatch.setattr(script, "milliseconds", lambda run: pytest.fail("it was measured again"))
    assert script.fit(["mnist_mlp"], options, path) == {"mnist_mlp": found}


def test_stand_ins_give_way_to_the_papers_own_sets(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        script, "missing", lambda task: "" if task in ("cifar10", "cifar10_part", "draw_mnist") else "no"
    )
    assert script.here() == [task for task in script.PAPER.tasks if task in ("cifar10", "draw_mnist")]
    monkeypatch.setattr(script, "missing", lambda task: "" if task == "cifar10_part" else "no")
    assert script.here() == ["cifar10_part"]


def test_without_a_gpu_nothing_is_measured(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["ba2016_gpu"])
    assert script.main() == 1
    assert "there is no GPU here" in capsys.readouterr().err
