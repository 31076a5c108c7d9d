"""A diagnosis from the command line: of a task, of a user's own file, at the start and after training."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from support.command_line import CommandLine, Told

pytestmark = pytest.mark.usefixtures("small_data")


OWN = """
import torch
from torch import nn
from normscope import Metric, Trial

def make(norm, placement, seed):
    model = nn.Sequential(nn.Linear(8, 16), norm(16), nn.ReLU(), nn.Linear(16, 3))
    batch = (torch.randn(32, 8), torch.randint(3, (32,)))
    return Trial(
        model=model,
        metric=Metric(name="error", unit="%", higher_is_better=False),
        evaluate=lambda model, part: [0.0, 1.0],
        margin=0.1,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        batches=[batch],
    )

def alone(norm, placement, seed):
    trial = make(norm, placement, seed)
    return Trial(
        model=trial.model, metric=trial.metric, evaluate=trial.evaluate, margin=0.1, train=lambda model, callback: None
    )
"""


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """The command in this process."""
    return partial(CommandLine(capfd), "diagnose")


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "normscope.cli.main", "diagnose", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
    )


def test_a_task_at_initialization(tmp_path: Path) -> None:
    told = run("digits", "--placement", "post", "--norm", "rms_norm", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert "looked at initialization" in told.stdout
    (page,) = (tmp_path / "runs" / "diagnose").glob("digits-rms_norm-start-*.html")
    assert f"Page: {page.relative_to(tmp_path)}" in told.stdout
    content = json.loads(page.with_suffix(".json").read_text())
    assert {norm["kind"] for norm in content["gradients"]} == {"rms_norm"}
    assert content["setting"]["Placement"] == "post"
    assert content["first_update"] is not None
    assert content["history"] == []
    assert content["training"] is True
    text = page.read_text()
    assert '<dd class="long">initialization</dd>' in text
    assert "Through training" not in text
    assert "normscope diagnose digits --placement post" in text


def test_training_first_measures_on_the_way(tmp_path: Path) -> None:
    page = tmp_path / "deep" / "down.html"
    told = run("digits", "--norm", "ada_norm", "--steps", "41", "--out", str(page), "--json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert [line for line in told.stderr.splitlines() if line.strip()] == [f"Page: {page}"]
    content = json.loads(told.stdout)
    assert content == json.loads(page.with_suffix(".json").read_text())
    assert [step["step"] for step in content["history"]] == [0, 20, 40]
    assert content["setting"]["Updates"] == 41
    assert content["setting"]["Looked at"].startswith("the weights after update ")
    assert content["first_update"] is None
    text = page.read_text()
    assert "Through training" in text
    assert "it is skipped for a model whose training has begun" in text
    # What came of it: chance is 90 % of error.
    assert float(content["setting"]["Validation error"].split()[0]) < 50
    assert not (tmp_path / "runs").exists()


def test_a_training_that_diverges_is_told(here: Callable[..., Told], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN.replace("cross_entropy(", "cross_entropy(float('nan') * "))
    told = here("mine.py:make", "--steps", "3", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "ended diverged: the training loss was nan at step 1" in told.stdout


def test_gradients_that_overflow_leave_a_page(here: Callable[..., Told], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN.replace("cross_entropy(", "cross_entropy(1e30 * "))
    told = here("mine.py:make", "--steps", "2", "--out", "page.html", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert json.loads((tmp_path / "page.json").read_text())["setting"]["Updates"] <= 2


def test_a_file_of_ones_own(here: Callable[..., Told], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    told = here("mine.py:make", "--norm", "layer_norm", "--json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    content = json.loads(told.stdout)
    assert [(norm["name"], norm["kind"]) for norm in content["gradients"]] == [("1", "layer_norm")]
    assert content["setting"]["Task"] == "mine.py:make"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digts"], "there is no task 'digts': did you mean 'digits'?"),
        (["digits", "--norm", "layernorm"], "did you mean 'layer_norm'?"),
        (["digits", "--placement", "prenorm"], "did you mean 'pre'?"),
        (["digits", "--steps", "-1"], "steps must be at least 0 (0 diagnoses the model at initialization), got -1"),
        (["digits", "--steps", "9", "--precision", "float16"], "training supports float32 and bfloat16, got float16"),
        (["digits", "--out", "page.txt"], "expected a name that ends with .html, got 'page.txt'"),
        (["mine.py:alone"], "mine.py:alone has a training function, so its loss is unknown"),
        (["mine.py:mak"], "mine.py has no function 'mak': did you mean 'make'?"),
        (["none.py:make"], "there is no file"),
        (["digits", "--seed", "99999999999999999999"], "the seed must be from 0 to 2^63 - 1"),
        (["multi30k_de_en", "--steps", "3"], "warms up over 200 updates, more than the 3 of --steps"),
        (["digits", "--out", "folder.html"], "folder.html, or its JSON, is a folder"),
        (["digits", "--out", "notes.html"], "notes.json exists and is not a diagnosis"),
        (["digits", "--out", "table.html"], "table.json exists and is not a diagnosis"),
        (["digits", "--out", "theirs.html"], "theirs.html exists, but without theirs.json beside it"),
    ],
)
def test_a_slip_is_one_sentence_and_writes_nothing(
    words: list[str], told: str, here: Callable[..., Told], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "notes.json").write_text('{"mine": true}')
    (tmp_path / "table.json").write_text("[1, 2]")
    (tmp_path / "theirs.html").write_text("<p>mine")
    before = {path.name: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}
    said = here(*words, cwd=tmp_path)
    assert said.returncode == 2
    assert told in " ".join(said.stderr.split())
    assert "Traceback" not in said.stderr
    assert {path.name: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there_is_told_first(here: Callable[..., Told], tmp_path: Path) -> None:
    said = here("digits", "--device", "cuda", cwd=tmp_path)
    assert said.returncode == 1
    assert "there is no device cuda: torch finds 0 CUDA devices" in said.stderr
    assert "Traceback" not in said.stderr


def test_numbers_that_overflow_at_a_norm_lose_no_training(here: Callable[..., Told], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        OWN.replace("norm(16)", "Faint(), norm(16)").replace("cross_entropy(", "cross_entropy(1e3 * ")
        + "\nclass Faint(nn.Module):\n    def forward(self, x):\n        return x * 1e-22\n"
    )
    told = here("mine.py:make", "--norm", "layer_norm(eps=1e-40)", "--steps", "3", "--json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    (norm,) = json.loads(told.stdout)["history"][0]["norms"]
    assert norm["arriving_variance"] is None


def test_the_precision_it_is_judged_by_is_part_of_the_question(here: Callable[..., Told], tmp_path: Path) -> None:
    for words in ([], ["--precision", "float16"]):
        assert here("mine.py:make", *words, cwd=_with_own(tmp_path)).returncode == 0
    pages = {path.name: json.loads(path.read_text())["setting"]["Precision"] for path in tmp_path.rglob("*.json")}
    assert sorted(pages.values()) == ["float16", "float32"]


def _with_own(folder: Path) -> Path:
    (folder / "mine.py").write_text(OWN)
    return folder
