"""What is shown while something goes on."""

import io
import warnings
from pathlib import Path

import pytest
from rich.console import Console

import normscope
from normscope.cli.progress import DownloadProgress, StudyProgress, sentences


def test_progress_without_a_terminal_prints_lines() -> None:
    console = Console(file=io.StringIO(), width=100)
    with StudyProgress(console) as progress:
        progress.callback("c", "none seed 1", "done", 100, of=100)
        progress.callback("a", "layer_norm seed 0", "planned", 0, of=100)
        progress.callback("b", "none seed 0", "planned", 0, of=100)
        progress.callback("a", "layer_norm seed 0", "running", 50, of=100)
        progress.callback("a", "layer_norm seed 0", "done", 100, of=100)
        assert isinstance(console.file, io.StringIO)
        assert not console.file.getvalue()
        progress.callback("b", "none seed 0", "diverged", 100, of=100)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 1
    assert "3 of 3 runs, 1 diverged · none seed 0: 100% of the updates" in lines[0]


def test_progress_on_a_terminal_draws_a_bar() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with StudyProgress(console) as progress:
        progress.callback("a", "none seed 2", "done", 100, of=100)
        progress.callback("b", "none seed 3", "running", 50, of=100)
        progress.callback("b", "none seed 3", "elsewhere", 0, of=100)
        progress.progress.refresh()
    assert isinstance(console.file, io.StringIO)
    assert "1 of 2 runs · none seed 3" in console.file.getvalue()
    assert "150/200" in console.file.getvalue()


def test_runs_that_are_told_later_make_the_study_larger() -> None:
    console = Console(file=io.StringIO(), width=100)
    with StudyProgress(console) as progress:
        for place in range(4):
            progress.callback(str(place), "trial", "planned", 0, of=10)
        progress.callback("0", "trial", "failed", 10, of=10)
        progress.callback("0", "trial", "planned", 0, of=10)
        progress.callback("0", "trial", "done", 10, of=10)
    task = progress.progress.tasks[0]
    assert (task.completed, task.total) == (10, 40)
    assert task.description.startswith("1 of 4 runs ")


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


def test_a_note_is_printed_once() -> None:
    console = Console(file=io.StringIO(), width=60)
    with StudyProgress(console) as progress:
        for _ in range(2):
            progress.callback("a", "none seed 0", "elsewhere", 0, of=100, note="process 12 computes it [bold]")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "none seed 0: process 12 computes it [bold]\n"


def test_our_warnings_are_sentences_and_others_keep_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    place = str(Path(normscope.__file__).parent / "studies" / "preflight.py")
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        before = warnings.showwarning
        with sentences():
            warnings.warn_explicit("the seeds [agree]", UserWarning, place, 3)
            warnings.warn_explicit("theirs", UserWarning, "their.py", 4)
        assert warnings.showwarning == before
    assert [str(each.message) for each in given] == ["theirs"]
    assert capsys.readouterr().err == "Warning: the seeds [agree]\n"


def test_runs_whose_updates_are_unknown_are_counted() -> None:
    console = Console(file=io.StringIO(), width=100)
    with StudyProgress(console) as progress:
        for state in ("planned", "running", "done"):
            progress.callback("a", "layer_norm seed 0", state, 0, of=0)
    assert isinstance(console.file, io.StringIO)
    assert "1 of 1 runs" in console.file.getvalue()
    assert "updates" not in console.file.getvalue()
