"""What is shown while something goes on."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from normscope.progress import DownloadProgress, StudyProgress


def test_progress_without_a_terminal_prints_lines() -> None:
    console = Console(file=io.StringIO(), width=100)
    with StudyProgress(console, runs=2, updates=200, done=0, done_updates=0) as progress:
        progress.tell("a", "layer_norm", 0, "running", 50)
        progress.tell("a", "layer_norm", 0, "done", 100)
        progress.tell("b", "none", 0, "diverged", 100)
    assert isinstance(console.file, io.StringIO)
    assert "2 of 2 runs, 1 diverged · none seed 0: 100% of the updates" in console.file.getvalue()


def test_progress_on_a_terminal_draws_a_bar(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with StudyProgress(console, runs=2, updates=200, done=1, done_updates=100) as progress:
        progress.tell("b", "none", 3, "running", 50)
        progress.progress.refresh()
    assert isinstance(console.file, io.StringIO)
    assert "1 of 2 runs · none seed 3" in console.file.getvalue()
    assert "150/200" in console.file.getvalue()


@pytest.mark.parametrize(
    ("terminal", "wanted"), [(False, "fetching images.gz, 9.9 MB\nfetching labels.gz, 0.0 MB\n"), (True, "9.9/9.9 MB")]
)
def test_a_download_is_shown_file_by_file(terminal: bool, wanted: str) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal)
    with DownloadProgress(console) as progress:
        for done in (1_000_000, 9_900_000):
            progress("images.gz", done, 9_900_000)
        progress("labels.gz", 10, 10)
    assert isinstance(console.file, io.StringIO)
    assert wanted in console.file.getvalue()


def test_nothing_is_shown_where_nothing_is_fetched() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with DownloadProgress(console):
        pass
    assert isinstance(console.file, io.StringIO)
    assert not console.file.getvalue()
