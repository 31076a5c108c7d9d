"""A study as a whole: killed, resumed, run twice at once, refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from normscope import data
from normscope.results.store import StudyFolder, write_json
from normscope.studies import compare
from normscope.studies.compare import StudyMismatch, default_folder, default_workers, states
from normscope.studies.engines.engine import EngineError
from normscope.studies.plan import plan
from normscope.studies.run import fail
from normscope.studies.spec import make_study
from support.in_process import InThisProcess

TIMES = {"step_ms", "peak_bytes", "seconds", "seconds_to_baseline"}
COMMAND = [sys.executable, "-m", "normscope.cli.main", "compare", "digits"]
OPTIONS = ["--norms", "layer_norm,none,batch_norm", "--seeds", "0-2", "--steps", "800"]


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *OPTIONS, "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # As the installed command is started, whoever started these tests (`./run test` sets it).
        env={name: value for name, value in os.environ.items() if name != "NORMSCOPE_STARTED_AS"},
        # What a shell starts in the background is deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(out: Path, *options: str) -> str:
    with start(out, *options) as process:
        words, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, words
    return words


def numbers(content: Any) -> Any:
    """Leave out what a clock or the system measured, and the command that was typed."""
    if isinstance(content, dict):
        return {key: numbers(value) for key, value in content.items() if key not in TIMES and key != "command"}
    return [numbers(value) for value in content] if isinstance(content, list) else content


def summary(out: Path) -> Any:
    return numbers(json.loads((out / "summary.json").read_text()))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("unbroken")
    finish(out)
    return summary(out)


def files_in(out: Path) -> list[tuple[str, int, int]] | None:
    """List the files of a study with their sizes and times; None where one vanished meanwhile."""
    with suppress(FileNotFoundError):
        files = [(str(path), path.stat()) for path in out.rglob("*")]
        return sorted((name, about.st_size, about.st_mtime_ns) for name, about in files)
    return None


def wait_for_changes(out: Path, process: subprocess.Popen[str], count: int) -> None:
    """Wait until a study has changed its folder so many times, or has ended."""
    seen = files_in(out)
    while count and process.poll() is None:
        time.sleep(0.05)
        if (now := files_in(out)) != seen:
            seen, count = now, count - 1


@pytest.mark.slow
def test_kills_at_random_moments_change_no_number(tmp_path: Path, unbroken: Any) -> None:
    moments = random.Random(2019)
    out = tmp_path / "killed"
    cut_short = 0
    # `./run bench kills` has two hundred.
    for number in range(4):
        with start(out) as process:
            wait_for_changes(out, process, moments.randrange(12))
            cut_short += process.poll() is None
            with suppress(ProcessLookupError):
                # In turn the study alone, whose workers then stop by themselves, and everything at once.
                os.killpg(process.pid, signal.SIGKILL) if number % 2 else os.kill(process.pid, signal.SIGKILL)
    print(f"{cut_short} of 4 kills met a study that was still going")
    assert cut_short >= 2
    finish(out)
    assert summary(out) == unbroken
    assert not list(out.rglob("checkpoint.pt"))


@pytest.mark.slow
def test_two_invocations_on_one_folder_share_the_work(tmp_path: Path, unbroken: Any) -> None:
    out = tmp_path / "shared"
    with start(out) as first, start(out) as second:
        words = [process.communicate(timeout=1800)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), words
    assert summary(out) == unbroken


@pytest.mark.slow
def test_ctrl_c_leaves_a_resumable_folder_and_says_how_to_go_on(tmp_path: Path, unbroken: Any) -> None:
    out = tmp_path / "stopped"
    with start(out) as process:
        while not list(out.glob("runs/*/result.json")):
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        words, _ = process.communicate(timeout=1800)
    assert process.returncode == 130
    assert "Resume with:  normscope compare digits --norms layer_norm,none,batch_norm" in words
    assert "Traceback" not in words
    assert list(out.glob("runs/*/checkpoint.pt"))
    told = finish(out)
    assert "of 9 runs are already finished" in told
    assert summary(out) == unbroken


def test_a_finished_study_is_answered_from_its_folder_without_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_spec = make_study("digits", norms=["none", "layer_norm"], seeds=[0, 1], steps=20)
    first = compare(study_spec, out=tmp_path, engine=InThisProcess())
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **options: started.append(words) or pytest.fail("started"))
    second = compare(study_spec, out=tmp_path, workers=1)
    assert first.to_dict() == second.to_dict()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == stamps
    assert not started


def test_the_fixed_fields_of_summary_json_are_there(tmp_path: Path) -> None:
    compare(
        make_study("digits", norms=["none", "layer_norm"], seeds=[0, 1], steps=20), out=tmp_path, engine=InThisProcess()
    )
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["schema"] == 1
    assert set(content["metric"]) == {"name", "unit", "higher_is_better", "aggregate"}
    assert {"task", "baseline", "margin", "arms"} <= set(content)
    fixed = {
        "norm", "placement", "parameters", "runs", "mean", "difference", "interval", "p_adjusted", "verdict",
        "step_ms", "peak_bytes",
    }  # fmt: skip
    for arm in content["arms"]:
        assert fixed <= set(arm)
        assert all({"seed", "state", "value", "steps"} <= set(run) for run in arm["runs"])
        assert {run["state"] for run in arm["runs"]} == {"done"}
        assert len(arm["interval"] or [0, 0]) == 2
    assert (tmp_path / "summary.csv").read_text().count("\n") == 3
    page = (tmp_path / "report.html").read_bytes()
    assert page.startswith(b"<!doctype html>") or page.startswith(b"<!DOCTYPE html>")
    assert len(page) < 6_000_000


def test_a_folder_of_another_question_is_refused(tmp_path: Path) -> None:
    compare(make_study("digits", norms=["none"], seeds=[0], steps=10), out=tmp_path, engine=InThisProcess())
    before = (tmp_path / "summary.json").read_bytes()
    with pytest.raises(StudyMismatch, match=r"holds another study .* choose another folder with --out"):
        compare(make_study("digits", norms=["none"], seeds=[0], steps=11), out=tmp_path, workers=1)
    assert (tmp_path / "summary.json").read_bytes() == before
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(StudyMismatch, match="is a file; a study needs a folder"):
        compare(make_study("digits", norms=["none"], seeds=[0], steps=11), out=file, workers=1)
    assert file.read_text() == "mine"


def test_missing_data_stops_the_study_before_its_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mnist = tmp_path / "sets" / "mnist"
    mnist.mkdir(parents=True)
    for file in data.SETS["mnist"].files:
        (mnist / file.name).write_bytes(b"altered")
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path / "sets"))
    with pytest.raises(data.DataDamaged, match=r"ubyte\.gz"):
        compare(make_study("mnist_mlp"), out=tmp_path / "study")
    assert not (tmp_path / "study" / "runs").exists()


def test_failed_runs_can_be_computed_anew(tmp_path: Path) -> None:
    study_spec = make_study("digits", norms=["none"], seeds=[0], steps=10)
    study = StudyFolder(tmp_path)
    (spec,) = plan(study_spec)
    write_json(study.run(spec.id).description, {"schema": 1, **spec.identity()})
    assert fail(spec, study, "on purpose") == "failed"
    assert states([spec], study)["failed"] == 1
    assert compare(study_spec, out=tmp_path, workers=1).arms[0].failures == 1
    assert compare(study_spec, out=tmp_path, engine=InThisProcess(), retry_failed=True).arms[0].failures == 0


def test_the_folder_is_named_after_task_and_question() -> None:
    study_spec = make_study("digits")
    assert str(default_folder(study_spec)) == str(Path("runs") / f"digits-{study_spec.id}")
    assert default_workers(make_study("digits", device="cuda")) == 1
    assert default_workers(study_spec) >= 1


def test_a_device_that_is_not_there_is_named_and_a_finished_study_needs_none(tmp_path: Path) -> None:
    study_spec = make_study("digits", norms=["none"], seeds=[0], steps=10, device="cuda:7")
    with pytest.raises(EngineError, match=r"device 'cuda:7' does not exist: torch .* finds (no|\d) CUDA devices here"):
        compare(study_spec, out=tmp_path)
    assert not list(tmp_path.iterdir())
    study = StudyFolder(tmp_path)
    (spec,) = plan(study_spec)
    study.run(spec.id).path.mkdir(parents=True)
    assert fail(spec, study, "on purpose") == "failed"
    assert compare(study_spec, out=tmp_path).arms[0].failures == 1


def test_every_run_is_told_before_the_first_moves(tmp_path: Path) -> None:
    study_spec = make_study("digits", norms=["none", "layer_norm"], seeds=[0], steps=10)
    told: list[str] = []
    compare(study_spec, out=tmp_path, engine=InThisProcess(), callback=lambda event: told.append(event.state))
    assert told[:2] == ["planned", "planned"]
    assert told.count("done") == 2
    told.clear()
    compare(study_spec, out=tmp_path, workers=1, callback=lambda event: told.append(event.state))
    assert told == ["done", "done"]


def test_a_folder_takes_more_seeds_and_says_so(tmp_path: Path) -> None:
    first = make_study("digits", norms=["none", "layer_norm"], seeds=[0, 1], steps=12)
    more = make_study("digits", norms=["none", "layer_norm"], seeds=[0, 1, 2], steps=12)
    compare(first, out=tmp_path, engine=InThisProcess())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    summary = compare(more, out=tmp_path, engine=InThisProcess())
    assert [arm.pairs for arm in summary.arms if arm.label != summary.baseline] == [3]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    content = json.loads((tmp_path / "card.json").read_text())
    assert (content["seeds"], content["changes"]) == ([0, 1, 2], [2])
    assert summary.caution == "exploratory: 1 of 3 seeds came after results could be seen"
    compare(more, out=tmp_path, workers=1)
    assert json.loads((tmp_path / "card.json").read_text())["changes"] == [2]
    with pytest.raises(StudyMismatch, match="only more seeds may be added"):
        compare(first, out=tmp_path, workers=1)
    other = make_study("digits", norms=["none", "layer_norm"], seeds=[0, 1, 2, 3], steps=13)
    with pytest.raises(StudyMismatch):
        compare(other, out=tmp_path, workers=1)
