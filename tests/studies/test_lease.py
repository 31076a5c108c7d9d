"""Leases between processes that are killed, stopped and woken up, in folders that misbehave."""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock._soft
import pytest
from filelock import FileLock

from normscope.results.store import LeaseLost, StudyFolder
from normscope.studies import lease as leases
from normscope.studies.compare import StudyMismatch, compare
from normscope.studies.lease import Lease, acquire, is_marker, wait_for
from normscope.studies.plan import RunSpec, plan
from normscope.studies.run import execute
from normscope.studies.spec import make_study
from support.in_process import InThisProcess

SHORT = 0.4
"""Lease of these tests, in seconds."""


@pytest.fixture(params=["exchange", "no exchange"])
def any_file_system(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system of this test swap two names in one call, or refuse to, as NFS does."""
    exchange: Callable[[str, str], bool] = vars(filelock._soft)["exchange_names"]

    def refuse(one: str, other: str) -> bool:
        return not other.startswith(str(tmp_path)) and exchange(one, other)

    if request.param == "no exchange":
        monkeypatch.setattr("filelock._soft.exchange_names", refuse)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", SHORT)


@contextmanager
def child(function: Callable[[], str]) -> Iterator[tuple[int, int]]:
    """Call a function in a process of its own; yield its number, and a file with the text that it returns."""
    reads, writes = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.write(writes, function().encode())
        except BaseException as error:
            os.write(writes, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writes)
    try:
        yield process, reads
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(reads)


def hold(path: Path) -> Callable[[], str]:
    """Make a function that acquires a lease, says so, and holds it until the process ends."""

    def function() -> str:
        kept = acquire(path)
        (path.parent / "held").write_text(repr(kept))
        signal.pause()
        return repr(kept)

    return function


def wait_until(condition: Callable[[], Any]) -> Any:
    while not (found := condition()):
        time.sleep(0.01)
    return found


def wait_for_stop(process: int) -> None:
    assert os.WIFSTOPPED(os.waitpid(process, os.WUNTRACED)[1])


def spec(steps: int = 30) -> RunSpec:
    return plan(make_study("digits", norms=["layer_norm"], steps=steps, seeds=[0]))[0]


def never(step: int, loss: float) -> bool:
    return False


def files_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Read the files of a folder, with the numbers that tell a file from one of the same content."""
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}


def test_one_of_two_processes_holds_a_lease(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    with child(hold(path)) as (process, _):
        wait_until((tmp_path / "held").exists)
        assert acquire(path) is None
        assert f"pid={process}\n" in path.read_text()
        assert is_marker(path)
    with wait_for(path) as lease:
        lease.check()
        assert acquire(path) is None
    assert not path.exists()
    with pytest.raises(LeaseLost, match="another one may go on"):
        lease.check()


@pytest.mark.usefixtures("any_file_system")
def test_a_killed_holder_on_this_machine_is_superseded_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    with child(hold(path)):
        wait_until((tmp_path / "held").exists)
    assert path.exists()
    lease = acquire(path)
    assert lease is not None
    lease.check()
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("lease")] == ["lease"]
    lease.claim.release()


@pytest.mark.usefixtures("any_file_system", "short")
@pytest.mark.parametrize("marker", [b"", b"of another machine"])
def test_what_another_machine_left_expires(tmp_path: Path, marker: bytes) -> None:
    path = tmp_path / "lease"
    if marker:
        with child(hold(path)):
            wait_until((tmp_path / "held").exists)
        host = path.read_bytes().partition(b"host=")[2].partition(b"\n")[0]
        marker = path.read_bytes().replace(host, b"node7")
    path.write_bytes(marker)
    began = time.monotonic()
    with wait_for(path) as lease:
        assert time.monotonic() - began >= SHORT
        lease.check()


def test_a_step_that_keeps_the_interpreter_for_a_quarter_of_the_lease_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 30 of the 120 seconds. PyDLL calls a function without giving up the interpreter.
    assert leases.LEASE_SECONDS >= leases.LEASE_SECONDS / leases.BEATS + 30.0 + 60.0
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.2)
    path, stop = tmp_path / "lease", tmp_path / "stop"

    def contend() -> str:
        while not stop.exists():
            if acquire(path) is not None:
                return "taken"
            time.sleep(0.01)
        return "left alone"

    lease = acquire(path)
    assert lease is not None
    with lease, child(contend) as (_, answer):
        for _ in range(4):
            ctypes.PyDLL(None).usleep(300_000)
            lease.check()
        stop.touch()
        assert os.read(answer, 100) == b"left alone"


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("jump", [-1.0, +1.0])
def test_clocks_that_jump_do_not_matter(tmp_path: Path, jump: float) -> None:
    # Ten years, by the clock of the file server or of a machine that shares the folder.
    path = tmp_path / "lease"
    lease = acquire(path)
    assert lease is not None
    with lease:
        now = time.time()
        os.utime(path, (now, now + jump * 3.2e8))
        assert acquire(path) is None
        lease.check()
        # The next sign of life sets the time right, and a contender has seen a change.
        wait_until(lambda: abs(path.stat().st_mtime - now) < 60)
        assert acquire(path) is None
        lease.check()


def test_a_lease_under_another_duration_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lease"
    with child(hold(path)):
        wait_until((tmp_path / "held").exists)
        monkeypatch.setattr(leases, "LEASE_SECONDS", 0.1)
        assert acquire(path) is None
        time.sleep(0.2)
        assert acquire(path) is None


@pytest.mark.usefixtures("short", "any_file_system")
def test_a_run_that_was_stopped_past_its_lease_ends_without_writing(tmp_path: Path) -> None:
    study, moment = StudyFolder(tmp_path / "study"), tmp_path / "moment"
    folder = study.run(spec().id)

    def stop_in_training(step: int, loss: float) -> bool:
        if not moment.exists():
            moment.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return False

    with child(lambda: execute(spec(), study, stop_in_training)) as (process, answer):
        wait_for_stop(process)
        assert execute(spec(), study, never) == "elsewhere"
        wait_until(lambda: execute(spec(), study, never) == "done")
        before = files_in(folder.path)
        os.kill(process, signal.SIGCONT)
        assert os.read(answer, 100) == b"elsewhere"
    assert files_in(folder.path) == before
    assert set(before) == {"run.json", "metrics.jsonl", "examples.npy", "result.json"}


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "examples.npy", "result.json", "checkpoint.pt"])
def test_a_run_that_was_stopped_between_its_last_check_and_the_write_changes_nothing(tmp_path: Path, name: str) -> None:
    study, whole = StudyFolder(tmp_path / "study"), StudyFolder(tmp_path / "whole")
    folder = study.run(spec().id)

    def stop_in_the_write() -> str:
        call = os.link if name == "result.json" else os.replace

        def stop_then_call(source: str, target: Path) -> None:
            if target.name == name:
                os.kill(os.getpid(), signal.SIGSTOP)
            call(source, target)

        setattr(os, call.__name__, stop_then_call)
        return execute(spec(), study, lambda step, loss: name == "checkpoint.pt")

    with child(stop_in_the_write) as (process, answer):
        wait_for_stop(process)
        assert len(list(folder.path.glob(f".{name}.*.part"))) == 1
        # The successor stops in the middle, so that the other wakes up while it holds the run.
        wait_until(lambda: execute(spec(), study, lambda step, loss: True) == "interrupted")
        moment = files_in(folder.path)
        lease = acquire(folder.lease)
        assert lease is not None
        with lease:
            os.kill(process, signal.SIGCONT)
            assert os.read(answer, 100) == b"elsewhere"
            assert files_in(folder.path).items() >= moment.items()
            assert not list(folder.path.glob("*.part"))
    assert execute(spec(), study, never) == "done"
    assert execute(spec(), whole, never) == "done"
    assert rows(study) == rows(whole)
    assert folder.examples.read_bytes() == whole.run(spec().id).examples.read_bytes()


def rows(study: StudyFolder) -> list[dict[str, Any]]:
    return [{**row, "seconds": None} for row in study.run(spec().id).read_metrics()]


def test_the_first_result_is_kept(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path).run("one")
    folder.publish({"schema": 1, "state": "done", "value": 1.0})
    with pytest.raises(LeaseLost, match=r"result\.json exists: another process has finished the run"):
        folder.publish({"schema": 1, "state": "done", "value": 2.0})
    assert folder.read_result()["value"] == 1.0
    assert [path.name for path in folder.path.iterdir()] == ["result.json"]


def test_metrics_of_a_process_that_had_come_further_or_less_far_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normscope.training.loop.PROGRESS_SECONDS", 0.0)
    study, whole = StudyFolder(tmp_path / "study"), StudyFolder(tmp_path / "whole")
    folder = study.run(spec().id)
    assert execute(spec(), whole, never) == "done"
    assert len(rows(whole)) > 4
    written = whole.run(spec().id).metrics.read_bytes()
    for late in (b"", written[:40], written):
        shutil.rmtree(study.path, ignore_errors=True)
        assert execute(spec(), study, lambda step, loss: step == 20) == "interrupted"
        folder.metrics.write_bytes(late)
        assert execute(spec(), study, never) == "done"
        assert rows(study) == rows(whole)


def test_locks_of_an_older_version_do_not_block(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    folder = study.run(spec().id)
    folder.path.mkdir(parents=True)
    with FileLock(folder.path / "lock"), FileLock(tmp_path / "lock"):
        study_spec = make_study("digits", norms=["layer_norm"], steps=30, seeds=[0])
        assert compare(study_spec, out=tmp_path, engine=InThisProcess()).complete
    assert folder.finished()


def test_a_file_of_the_users_is_not_taken_for_a_lease(tmp_path: Path) -> None:
    (tmp_path / "lease").write_text("of the flat")
    with pytest.raises(StudyMismatch, match=r"lease exists, but no card\.json"):
        compare(make_study("digits", norms=["none"], steps=4, seeds=[0]), out=tmp_path, engine=InThisProcess())
    assert (tmp_path / "lease").read_text() == "of the flat"


@pytest.mark.usefixtures("short")
def test_a_card_is_written_after_the_holder_was_killed(tmp_path: Path) -> None:
    study_spec = make_study("digits", norms=["none"], steps=4, seeds=[0])
    with child(hold(tmp_path / "lease")):
        wait_until((tmp_path / "held").exists)
    (tmp_path / ".card.json.x.part").touch()
    compare(study_spec, out=tmp_path, engine=InThisProcess())
    assert sorted(path.name for path in tmp_path.iterdir() if "card" in path.name or "lease" in path.name) == [
        "card.json"
    ]


def in_a_mount(folder: Path, function: Callable[[], str]) -> str:
    """Call a function in a process that sees a disk of 256 KiB in a folder."""

    def mounted() -> str:
        if ctypes.CDLL(None, use_errno=True).unshare(0x00020000):  # CLONE_NEWNS
            return f"no mount: {os.strerror(ctypes.get_errno())}"
        for words in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]):
            done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
            if done.returncode:
                return f"no mount: {done.stderr}"
        return function()

    with child(mounted) as (_, answer):
        told = os.read(answer, 1000).decode()
    if told.startswith("no mount"):
        pytest.skip(told)
    return told


needs_mount = pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")


@needs_mount
@pytest.mark.usefixtures("short")
def test_a_folder_that_becomes_read_only_is_an_error_and_the_run_goes_on_later(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)

    def function() -> str:
        folder = study.run(spec().id)
        before: list[dict[str, tuple[int, bytes]]] = []

        def watch(step: int, loss: float) -> bool:
            # The path then leads to another view of the same disk, for which it is read-only.
            subprocess.run(["mount", "--bind", str(tmp_path), str(tmp_path)], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(tmp_path)], check=True)
            before.append(files_in(folder.path))
            return True

        try:
            return execute(spec(), study, watch)
        except OSError as error:
            assert files_in(folder.path) == before[0]
            subprocess.run(["umount", str(tmp_path)], check=True)
            # The claim could not be removed: it expires, or its process ends.
            wait_until(lambda: execute(spec(), study, never) == "done")
            return f"{error.strerror}"

    assert in_a_mount(tmp_path, function) == "Read-only file system"


@needs_mount
def test_a_full_disk_is_an_error_and_the_run_goes_on_later(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)

    def fill() -> None:
        with (tmp_path / "rest").open("wb", buffering=0) as file:
            while file.write(bytes(1024)) == 1024:
                pass

    def function() -> str:
        folder, told = study.run(spec().id), []

        def watch(step: int, loss: float) -> bool:
            with pytest.raises(OSError, match="No space"):
                fill()
            return True

        for attempt in range(2):
            try:
                if attempt:
                    # Even the claim does not fit.
                    folder.path.mkdir(exist_ok=True)
                    watch(0, 0.0)
                told.append(execute(spec(), study, watch))
            except OSError as error:
                told.append(f"{error.strerror}")
            assert not list(folder.path.glob(".*.part"))
            assert not folder.lease.exists()
            (tmp_path / "rest").unlink()
        return f"{told}, {execute(spec(), study, never)}"

    told = ["No space left on device"] * 2
    assert in_a_mount(tmp_path, function) == f"{told}, done"


def test_a_heartbeat_that_fails_is_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.3)
    path = tmp_path / "lease"
    lease = acquire(path)
    assert isinstance(lease, Lease)
    with lease:
        if subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode:
            pytest.skip("needs chattr +i, to refuse a new time")
        try:
            lease.check()
            wait_until(lease.is_lost)
            assert is_marker(path)
        finally:
            subprocess.run(["chattr", "-i", path], check=True)
