"""The command as a person types it: what can be run, slips of the finger, a figure from nothing to its page."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from support.command_line import CommandLine, Told

pytestmark = pytest.mark.usefixtures("small_data")


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "normscope.cli.main", "reproduce", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
    )


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """The command in this process."""
    return partial(CommandLine(capfd), "reproduce")


def test_list_shows_every_cell_and_what_can_be_run(here: Callable[..., Told], tmp_path: Path) -> None:
    told = here("xu2019", "--list", cwd=tmp_path, COLUMNS="250")
    assert told.returncode == 0, told.stderr
    assert "AdaNorm − LayerNorm on RT" in told.stdout
    assert "3.09 of 1,066 test examples" in told.stdout
    assert "tables: table1, table2, table3" in told.stdout
    assert not list(tmp_path.iterdir())


def test_list_shows_what_is_asked_for(here: Callable[..., Told], tmp_path: Path) -> None:
    told = here("xu2019", "--list", "--only", "rt,table3", cwd=tmp_path, COLUMNS="250")
    assert told.returncode == 0, told.stderr
    assert "AdaNorm − LayerNorm on RT" in told.stdout
    assert "AdaNorm is better than LayerNorm on 7 of 8" in told.stdout
    for other in ("on SST5", "DetachNorm", "LayerNorm-simple is"):
        assert other not in told.stdout
    assert "--norms-at accepts all or final" in told.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["xu19"], "there is no paper 'xu19': did you mean 'xu2019'?"),
        (["xu2019", "--only", "sst"], "no task, table or figure 'sst': did you mean 'sst5'?"),
        (["xu2019", "--seeds", "a"], "seeds must have the form 0-9"),
        (["xu2019", "--list", "--only", "sst"], "no task, table or figure 'sst': did you mean 'sst5'?"),
        (["xiong2020", "--norms-at", "final"], "xiong2020 replaces norms at: all; got 'final'"),
        (["xu2019", "--precision", "float8"], "float8"),
        (["xiong2020", "--only", "gradients", "--layers", "6"], "layers must be two or more growing numbers"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], told: str, here: Callable[..., Told], tmp_path: Path) -> None:
    result = here(*words, cwd=tmp_path)
    assert result.returncode == 2
    assert told in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_figure_from_nothing_to_its_page_and_back_as_json(here: Callable[..., Told], tmp_path: Path) -> None:
    small = [
        "xiong2020",
        "--only",
        "gradients",
        "--layers",
        "1,2",
        "--width",
        "16",
        "--tokens",
        "128",
        "--seeds",
        "0-1",
    ]
    told = run(*small, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "8 of 8 networks measured" in told.stdout
    assert "cannot tell: needs 8" in told.stdout
    assert (tmp_path / "runs" / "xiong2020" / "reproduce.md").exists()
    again = here(*small, "--read-only", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["gradients"]["seeds"] == [0, 1]
    assert "networks measured" not in again.stderr


def test_reading_an_empty_folder_says_what_was_not_run(here: Callable[..., Told], tmp_path: Path) -> None:
    told = here("xu2019", "--only", "rt", "--read-only", cwd=tmp_path, COLUMNS="160")
    assert told.returncode == 0, told.stderr
    assert "not run here" in told.stdout
    assert "no study of it in runs/xu2019" in " ".join(told.stdout.split())


def test_statements_about_equations_are_shown_with_their_verdicts(here: Callable[..., Told], tmp_path: Path) -> None:
    told = here("ba2016", "--only", "table1", "--no-tune", "--out", "there", cwd=tmp_path, COLUMNS="200")
    assert told.returncode == 0, told.stderr
    assert "Table 1 and section 5.1: invariances of batch, weight and layer norm" in told.stdout
    (line,) = [line for line in told.stdout.splitlines() if "all three methods are invariant" in line]
    assert "not reproduced" in line
    narrow = here("ba2016", "--only", "table1", "--read-only", "--out", "there", cwd=tmp_path, COLUMNS="80")
    assert narrow.returncode == 0, narrow.stderr
    assert "of its length" in told.stdout
    assert "of its length" not in narrow.stdout
    listed = here("ba2016", "--list", "--only", "section6.7", cwd=tmp_path, COLUMNS="250")
    assert "a ConvNet with LN trains faster than without" in listed.stdout
    assert "section5.2: Fisher matrices of normalized models" in listed.stdout
