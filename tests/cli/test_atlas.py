"""``normscope atlas``: what it prints, what it writes, and that it needs no torch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.command_line import CommandLine

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capfd)


def test_it_prints_a_sentence_per_norm_and_writes_the_page(here: CommandLine, tmp_path: Path) -> None:
    told = here("atlas", str(RESULTS), "--out", str(tmp_path / "mine.html"))
    assert told.returncode == 0, told.stderr
    # A sentence is wrapped within its column.
    words = " ".join(re.sub("[│┃]", " ", told.stdout).split())
    assert (
        "batch_norm 2 better (digits, cifar10_part), 1 equivalent (novels_cloze), 2 undecided (digits, mnist_mlp)."
        in words
    )
    assert told.stdout.splitlines()[-1] == f"Page: {tmp_path / 'mine.html'}"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.html"]


def test_names_with_escape_sequences_are_printed_without_them(here: CommandLine, tmp_path: Path) -> None:
    text = (RESULTS / "rt" / "summary.json").read_text().replace('"ada_norm"', '"ada\\u001b[31m"')
    (tmp_path / "summary.json").write_text(text)
    told = here("atlas", str(tmp_path))
    assert told.returncode == 0, told.stderr
    assert "ada[31m" in told.stdout
    assert "\x1b" not in told.stdout


def test_json_is_printed_and_writes_nothing(here: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "rt").symlink_to(RESULTS / "rt")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "summary.json").write_bytes((RESULTS / "rt" / "summary.json").read_bytes())
    told = here("atlas", str(tmp_path), "--json")
    assert told.returncode == 0, told.stderr
    content = json.loads(told.stdout)
    assert content["schema"] == 1
    worse = [each for each in content["comparisons"] if each["outcome"] == "worse"]
    assert [(each["study"], each["norm"], round(each["difference"], 1)) for each in worse] == [("own", "none", -26.2)]
    assert not (tmp_path / "atlas.html").exists()


def test_mistakes_are_one_sentence(here: CommandLine, tmp_path: Path) -> None:
    told = here("atlas", str(tmp_path))
    assert told.returncode == 1
    assert "an atlas needs at least one study, which `normscope compare` makes" in " ".join(told.stderr.split())
    told = here("atlas", str(tmp_path / "nowhere"))
    assert told.returncode == 1
    assert "nowhere is no folder: an atlas needs at least one study" in " ".join(told.stderr.split())
    told = here("atlas", str(RESULTS), "--out", str(tmp_path / "page.txt"))
    assert told.returncode == 2
    assert "expected a path that ends with .html" in told.stderr
    assert not list(tmp_path.iterdir())


def test_it_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    for words in (["--help"], [str(RESULTS), "--out", str(tmp_path / "atlas.html")]):
        told = subprocess.run(
            [sys.executable, "-m", "normscope.cli.main", "atlas", *words],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert told.returncode == 0, told.stderr
    assert (tmp_path / "atlas.html").exists()
