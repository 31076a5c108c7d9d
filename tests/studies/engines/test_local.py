"""The local engine: workers that die, runs that others hold, and machines that are at fault."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from normscope.results.store import StudyFolder, read_json
from normscope.studies.engines import local
from normscope.studies.engines.engine import EngineError, RunEvent
from normscope.studies.engines.local import LocalEngine
from normscope.studies.lease import acquire
from normscope.studies.plan import RunSpec, plan
from normscope.studies.run import execute, fail
from normscope.studies.spec import make_study


def runs(*, steps: int = 30, seeds: int = 2) -> list[RunSpec]:
    return plan(make_study("digits", norms=["none"], seeds=range(seeds), steps=steps))


def workers() -> list[int]:
    """List the worker processes of this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(status[1]) == os.getpid() and b"normscope.studies.engines.worker" in command:
                found.append(int(entry.name))
    return found


@pytest.fixture
def two_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a run up after two workers that it ended, and a study after four: a worker takes seconds to start."""
    assert (local.ATTEMPTS, local.HOPELESS) == (3, 6)
    monkeypatch.setattr(local, "ATTEMPTS", 2)
    monkeypatch.setattr(local, "HOPELESS", 4)


@pytest.mark.slow
def test_every_run_ends_and_is_told_once(tmp_path: Path) -> None:
    events: list[RunEvent] = []
    study = StudyFolder(tmp_path)
    LocalEngine(workers=2).run(runs(seeds=4), study, events.append)
    ended = [event.spec.seed for event in events if event.state == "done"]
    assert sorted(ended) == [0, 1, 2, 3]
    assert all(study.run(spec.id).finished() for spec in runs(seeds=4))
    assert workers() == []


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing_but_time(tmp_path: Path) -> None:
    killed: list[int] = []

    def callback(event: RunEvent) -> None:
        if event.state == "running" and not killed and event.step > 100:
            killed.extend(workers())
            os.kill(killed[0], signal.SIGKILL)

    study = StudyFolder(tmp_path / "broken")
    study.path.mkdir()
    LocalEngine(workers=1).run(runs(steps=1500, seeds=1), study, callback)
    assert killed
    whole = StudyFolder(tmp_path / "whole")
    (spec,) = runs(steps=1500, seeds=1)
    assert execute(spec, whole, lambda step, loss: False) == "done"
    ours, theirs = (read_json(folder.run(spec.id).result) for folder in (study, whole))
    assert ours["value"] == theirs["value"]
    assert ours["state"] == "done"


@pytest.mark.slow
@pytest.mark.usefixtures("two_attempts")
def test_a_run_that_kills_every_worker_fails(tmp_path: Path) -> None:
    deaths: list[int] = []

    def callback(event: RunEvent) -> None:
        if event.state == "running":
            for worker in workers():
                if worker not in deaths:
                    deaths.append(worker)
                    os.kill(worker, signal.SIGKILL)

    study = StudyFolder(tmp_path)
    (spec,) = runs(steps=100_000, seeds=1)
    LocalEngine(workers=1).run([spec], study, callback)
    result = read_json(study.run(spec.id).result)
    assert result["state"] == "failed"
    assert "ended by signal 9, 2 times (often due to lack of memory)" in result["reason"]
    assert len(deaths) == 2


@pytest.mark.slow
def test_a_run_held_elsewhere_is_waited_for_and_taken_over(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    first, second = runs()
    folder = study.run(first.id)
    folder.path.mkdir(parents=True)
    lease = acquire(folder.lease)
    assert lease is not None
    states: list[tuple[int, str]] = []

    def callback(event: RunEvent) -> None:
        states.append((event.spec.seed, event.state))
        if states[-1] == (1, "done"):
            lease.claim.release()

    LocalEngine(workers=1).run([first, second], study, callback)
    assert (0, "elsewhere") in states
    assert states.index((1, "done")) < states.index((0, "done"))
    assert folder.finished()


def test_a_worker_that_cannot_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('this torch is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    study = StudyFolder(tmp_path / "study")
    study.path.mkdir()
    with pytest.raises(EngineError, match=r"(?s)a worker ended with exit status 1.*this torch is broken"):
        LocalEngine(workers=1).run(runs(seeds=1), study, lambda event: None)


def test_workers_must_be_positive() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        LocalEngine(workers=0)


@pytest.mark.slow
def test_what_lies_in_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "filelock.py").write_text("raise SystemExit('hostile')")
    (tmp_path / "queue.py").write_text("raise SystemExit('innocent')")
    monkeypatch.chdir(tmp_path)
    study = StudyFolder(tmp_path / "study")
    study.path.mkdir()
    LocalEngine(workers=1).run(runs(seeds=1), study, lambda event: None)
    assert read_json(study.run(runs(seeds=1)[0].id).result)["state"] == "done"


def test_the_machines_fault_is_one_line(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    (tmp_path / "runs").write_text("a file where a folder belongs")
    with pytest.raises(EngineError) as raised:
        LocalEngine(workers=1).run(runs(seeds=1), study, lambda event: None)
    assert "Traceback" not in str(raised.value)
    assert "NotADirectoryError" in str(raised.value)


def test_a_run_that_another_process_finished_is_not_given_up(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    (spec,) = runs(seeds=1)
    folder = study.run(spec.id)
    folder.path.mkdir(parents=True)
    lease = acquire(folder.lease)
    assert lease is not None
    with lease:
        assert fail(spec, study, "no memory") == "elsewhere"
    assert execute(spec, study, lambda step, loss: False) == "done"
    assert fail(spec, study, "no memory") == "elsewhere"
    assert read_json(folder.result)["state"] == "done"


def own(name: str, *, seeds: int = 3) -> list[RunSpec]:
    return plan(make_study(name, norms=["layer_norm"], seeds=range(seeds)))


def in_the_loss(code: str) -> tuple[str, str]:
    """Change the user's file: what one of its losses does in training."""
    return "        return F.cross", f"        if model.training and {code}\n        return F.cross"


@pytest.mark.slow
@pytest.mark.usefixtures("two_attempts")
def test_however_a_worker_ends_the_others_go_on(user_file: Callable[..., str], tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "study")
    study.path.mkdir()
    interrupts = "seed == 1: raise KeyboardInterrupt"
    crashes = "        if model.training and seed == 2: __import__('ctypes').string_at(0)\n"
    old, new = in_the_loss(interrupts)
    specs = own(user_file((old, crashes + new)), seeds=4)
    LocalEngine(workers=1).run(specs, study, lambda event: None)
    results = [study.run(spec.id).read_result() for spec in specs]
    assert [result["state"] for result in results] == ["done", "failed", "failed", "done"]
    assert results[1]["reason"] == "KeyboardInterrupt"
    assert "raise KeyboardInterrupt" in study.run(specs[1].id).error.read_text()
    assert results[2]["reason"] == "its worker ended by signal 11, 2 times"
    assert "Segmentation fault" in study.run(specs[2].id).error.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("two_attempts")
def test_workers_that_do_nothing_but_die_end_the_study(user_file: Callable[..., str], tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "study")
    study.path.mkdir()
    change = ("    x = torch", "    import os, sys\n    sys.stdin.name == os.devnull and os._exit(7)\n    x = torch")
    with pytest.raises(EngineError, match=r"workers ended 4 times, the last with exit status 7, before any run had"):
        LocalEngine(workers=1).run(own(user_file(change), seeds=9), study, lambda event: None)
    assert workers() == []


ENDLESS = """True:
            import sys

            sys.modules["__main__"].GRACE_SECONDS = 100_000.0
            while batch is not None: pass"""


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_and_leaves_no_worker(
    user_file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normscope.studies.engines.local.PATIENCE_SECONDS", 0.2)
    # Neither the engine nor its worker gives up in the time of this test: only the second signal ends it.
    monkeypatch.setattr("normscope.studies.engines.local.GRACE_SECONDS", 100_000.0)
    study = StudyFolder(tmp_path / "study")
    study.path.mkdir()
    (spec,) = own(user_file(in_the_loss(ENDLESS)), seeds=1)
    folder = study.run(spec.id)
    events: list[RunEvent] = []

    def press() -> None:
        while not folder.holder.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    def callback(event: RunEvent) -> None:
        events.append(event)
        if event.note:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        LocalEngine(workers=1).run([spec], study, callback)
    assert [event.note for event in events] == ["waiting up to 100000 s for its current step; press Ctrl-C to stop now"]
    assert workers() == []
    assert not folder.finished()


def test_who_is_waited_for_is_told(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    (spec,) = runs(seeds=1)
    folder = study.run(spec.id)
    folder.path.mkdir(parents=True)
    lease = acquire(folder.lease)
    assert lease is not None
    folder.holder.write_text("process 12 on a_machine\n")
    notes: list[str] = []

    def callback(event: RunEvent) -> None:
        if event.note:
            notes.append(event.note)
            lease.claim.release()

    LocalEngine(workers=1).run([spec], study, callback)
    assert notes == ["waiting for process 12 on a_machine, which computes this run"]
    assert folder.finished()


@pytest.mark.slow
def test_workers_hash_texts_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_file: Callable[..., str]
) -> None:
    """The order of a set, of which a user makes a vocabulary, is one in all workers, whatever the shell says."""
    judged = (
        "        return 100.0 * (",
        "        return [float(''.join(list({*map(str, range(7))})))]\n        return 100.0 * (",
    )
    specs = plan(make_study(user_file(judged), norms=["none"], seeds=[0]))
    values = []
    for number, hashed in enumerate(("1", "2")):
        monkeypatch.setenv("PYTHONHASHSEED", hashed)
        study = StudyFolder(tmp_path / str(number))
        study.path.mkdir()
        LocalEngine(workers=1).run(specs, study, lambda event: None)
        values += [read_json(study.run(spec.id).result)["value"] for spec in specs]
    assert len(set(values)) == 1
