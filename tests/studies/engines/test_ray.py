"""The Ray engine: its arguments and parcels everywhere, and a real cluster of one node where Ray is installed."""

import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from normscope.cli.engine import EngineOptions, check_engine, make_engine
from normscope.results.store import StudyFolder
from normscope.studies.engines import parcel, ray_node
from normscope.studies.engines.engine import EngineError, RunEvent
from normscope.studies.engines.parcel import check_content, check_parcel, pack
from normscope.studies.engines.ray import RayEngine, check_address
from normscope.studies.engines.ray_node import Mailbox, sees, versions
from normscope.studies.plan import RunSpec, plan
from normscope.studies.run import execute
from normscope.studies.spec import make_study


def runs(*, steps: int = 30, seeds: int = 1) -> list[RunSpec]:
    return plan(make_study("digits", norms=["layer_norm"], seeds=range(seeds), steps=steps))


@pytest.mark.parametrize("address", ["10.0.0.5:6379", "head.cluster.local:1", "[::1]:65535", "127.0.0.2:6479"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    assert check_address(address) == RayEngine(address=address).address == address


@pytest.mark.parametrize(
    "address", [None, "", "auto", "local", "ray://10.0.0.5:10001", "10.0.0.5", "a b:1", "host:0", "host:65536", "h:1\n"]
)
def test_no_cluster_is_used_that_is_not_named(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    with pytest.raises(ValueError, match=r"got (None|'.*').*type it as in --engine ray --address 10\.0\.0\.5:6379"):
        check_address(address)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("cpus_per_run", 0, "cpus_per_run must be at least 0.001, got 0"),
        ("gpus_per_run", -1, "gpus_per_run must be at least 0, got -1"),
        ("gpus_per_run", 1.5, "gpus_per_run must be a whole number above 1, got 1.5"),
        ("attempts", 0, "attempts must be at least 1, got 0"),
        ("at_most", 0, "at_most must be at least 1, got 0"),
    ],
)
def test_options_out_of_range(option: str, value: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RayEngine(address="h:1", **{option: value})  # type: ignore[arg-type]


def test_command_line_makes_the_engine() -> None:
    study = make_study("digits", norms=["layer_norm"], seeds=range(6))
    options = EngineOptions(engine="ray", address="h:1", cpus_per_run=2, gpus_per_run=0.5, shared_folder=False)
    expected = RayEngine(address="h:1", cpus_per_run=2, gpus_per_run=0.5, at_most=3, shared=False)
    assert make_engine(options, study, workers=3) == expected
    with pytest.raises(ValueError, match="--address is for --engine ray; the engine is local"):
        check_engine(EngineOptions(address="h:1"))


def test_runs_on_an_accelerator_reserve_one(tmp_path: Path) -> None:
    specs = plan(make_study("digits", norms=["layer_norm"], seeds=range(1), device="cuda"))
    with pytest.raises(EngineError, match="for the device 'cuda': gpus_per_run must be above 0"):
        RayEngine(address="h:1").run(specs, StudyFolder(tmp_path), print)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_a_missing_ray_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"pip install 'normscope\[ray\]', here and on every node"):
        RayEngine(address="127.0.0.2:1").run(runs(), StudyFolder(tmp_path), print)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, StudyFolder]:
    """Compute a run in this process."""
    (spec,), study = runs(), StudyFolder(tmp_path_factory.mktemp("done"))
    assert execute(spec, study, lambda step, loss: False) == "done"
    return spec, study


def test_finished_runs_need_no_cluster(done: tuple[RunSpec, StudyFolder]) -> None:
    RayEngine(address="h:1").run([done[0]], done[1], print)


def test_a_parcel_has_the_files_of_a_run_with_the_result_last(done: tuple[RunSpec, StudyFolder]) -> None:
    spec, study = done
    folder = study.run(spec.id)
    (folder.path / "other").write_text("not sent")
    parcel = pack(folder.path)
    assert [*parcel] == ["run.json", "metrics.jsonl", "examples.npy", "result.json"]
    assert all((folder.path / name).read_bytes() == content for name, content in parcel.items())
    check_content(parcel, spec.id)
    with pytest.raises(ValueError, match=f"run.json describes the run '{spec.id}', not 'another'"):
        check_content(parcel, "another")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ([("run.json", b"")], "expected the files of a run by name, got a list"),
        ({"../card.json": b"{}"}, "'../card.json' is not a file of a run"),
        ({"/etc/passwd": b""}, "'/etc/passwd' is not a file of a run"),
        ({7: b""}, "7 is not a file of a run"),
        ({"run.json": "text"}, "run.json must be bytes, got a str"),
        ({"run.json": b"12345"}, "run.json has 5 bytes; the limit is 4"),
    ],
)
def test_a_parcel_from_a_stranger_is_refused(sent: object, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parcel.LIMITS, "run.json", 4)
    with pytest.raises(ValueError, match=words):
        check_parcel(sent)


@pytest.mark.parametrize("name", ["run.json", "result.json", "metrics.jsonl", "examples.npy"])
def test_damaged_content_is_refused(name: str, done: tuple[RunSpec, StudyFolder]) -> None:
    spec, study = done
    files = pack(study.run(spec.id).path)
    with pytest.raises(ValueError, match=name):
        check_content({**files, name: b"[]\n"}, spec.id)
    if name == "run.json":
        with pytest.raises(FileNotFoundError):
            check_content({key: content for key, content in files.items() if key != name}, spec.id)


def test_the_mailbox_keeps_reports_and_answers_whether_to_stop() -> None:
    mailbox = Mailbox()
    assert not mailbox.report({"attempt": "a", "step": 1})
    mailbox.stop("a")
    assert mailbox.report({"attempt": "a", "step": 2})
    assert not mailbox.report({"attempt": "b", "step": 1})
    assert [report["step"] for report in mailbox.drain()] == [1, 2, 1]
    assert mailbox.drain() == []
    mailbox.stop(None)
    assert mailbox.report({"attempt": "b", "step": 2})


def test_a_node_sees_the_folder_if_the_token_in_it_is_the_drivers(tmp_path: Path) -> None:
    token = {"path": str(tmp_path / "token"), "content": "secret"}
    assert not sees(token)
    (tmp_path / "token").write_text("another")
    assert not sees(token)
    (tmp_path / "token").write_text("secret")
    assert sees(token)


def test_versions_are_those_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    versions.cache_clear()
    found = versions()
    assert found["Python"] == ".".join(map(str, sys.version_info[:2]))
    assert (found["torch"], found["numpy"]) == (torch.__version__, np.__version__)
    package = tmp_path / "normscope"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "version.py").write_text("__version__ = '7'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    versions.cache_clear()
    other = versions()["normscope"]
    assert other.startswith("7 (source files ")
    (package / "version.py").write_text("__version__ = '7' ")
    versions.cache_clear()
    assert versions()["normscope"] not in (other, found["normscope"])
    versions.cache_clear()


def test_folders_of_killed_processes_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (target := tmp_path / "target").mkdir()
    (tmp_path / f"{ray_node.SCRATCH}link").symlink_to(target)
    (tmp_path / f"{ray_node.SCRATCH}new").mkdir()
    (tmp_path / f"{ray_node.SCRATCH}old").mkdir()
    with ray_node._scratch() as held:
        (held / "study").mkdir()
        for path in (held, tmp_path / f"{ray_node.SCRATCH}old"):
            os.utime(path, (0, 0))
        with ray_node._scratch() as second:
            assert second.is_dir()
        assert (held / "study").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{ray_node.SCRATCH}{n}" for n in ("link", "new")] + [
        "target"
    ]
    assert not [*target.iterdir()]


def test_a_users_file_is_copied_to_a_node_that_lacks_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("here")
    request = {"spec": {"json": {"file": f"{tmp_path}/mine.py:make"}}, "texts": {"mine.py": b"sent", "a/b.py": b"too"}}
    assert ray_node._own_file(request, tmp_path / "scratch") == f"{tmp_path}/mine.py:make"
    (tmp_path / "mine.py").unlink()
    assert ray_node._own_file(request, tmp_path / "scratch") == f"{tmp_path}/scratch/user/mine.py:make"
    assert (tmp_path / "scratch" / "user" / "a" / "b.py").read_bytes() == b"too"


# With a real cluster, where Ray is installed: CI has no Ray, which is large.


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a node with two CPUs, which sees what this process sees."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'normscope[ray]'")
    work, port = tmp_path_factory.mktemp("ray"), 20_000 + secrets.randbelow(10_000)
    (work / "token").touch(0o600)
    (work / "token").write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(work / "token"))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_ADDRESS", "10.255.255.1:1")
        options = ["--head", "--node-ip-address=127.0.0.2", f"--port={port}", "--num-cpus=2", "--num-gpus=0"]
        options += ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000", "--block"]
        with (work / "log").open("wb") as log:
            node = subprocess.Popen(
                [Path(sys.executable).with_name("ray"), "start", *options], stdout=log, stderr=log, process_group=0
            )
        while "Ray runtime started" not in (work / "log").read_text():
            assert node.poll() is None, (work / "log").read_text()
            time.sleep(0.1)
        yield f"127.0.0.2:{port}"
        node.terminate()
        node.wait(30)


def files(study: StudyFolder, spec: RunSpec) -> list[object]:
    """Return what a run has on disk, but for times and memory."""
    folder = study.run(spec.id)
    result = {
        key: each for key, each in folder.read_result().items() if key not in ("seconds", "step_ms", "peak_bytes")
    }
    rows = [{key: each for key, each in row.items() if key != "seconds"} for row in folder.read_metrics()]
    return [folder.read_description(), rows, result, folder.examples.read_bytes(), folder.checkpoint.exists()]


@pytest.mark.parametrize("shared", [None, False])
def test_numbers_are_those_of_the_local_engine(
    shared: bool | None, address: str, tmp_path: Path, done: tuple[RunSpec, StudyFolder]
) -> None:
    events: list[RunEvent] = []
    spec, local = done
    RayEngine(address=address, shared=shared).run(runs(seeds=3), StudyFolder(tmp_path), events.append)
    assert sorted(event.spec.seed for event in events if event.state == "done") == [0, 1, 2]
    import torch

    threads = torch.get_num_threads()
    ours = files(StudyFolder(tmp_path), spec)
    theirs = files(local, spec)
    # The run in this process may have more threads.
    assert ours[0] == theirs[0] | {"threads": 1}  # type: ignore[operator]
    assert threads > 1 or ours[1:] == theirs[1:]
    assert not [*tmp_path.glob(".ray-*")]


@pytest.mark.parametrize("shared", [None, False])
def test_a_run_that_kills_its_workers_fails(shared: bool | None, address: str, tmp_path: Path) -> None:
    killed: set[int] = set()

    def kill(event: RunEvent) -> None:
        for pid in _workers() - killed if event.state == "running" and event.step else ():
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)

    (spec,), study = runs(steps=1_000_000), StudyFolder(tmp_path)
    RayEngine(address=address, shared=shared, attempts=2).run([spec], study, kill)
    result = study.run(spec.id).read_result()
    assert result["state"] == "failed"
    assert result["reason"] == "its worker ended by signal 9, 2 times (often due to lack of memory)"
    assert len(killed) == 2


@pytest.mark.parametrize("shared", [None, False])
def test_an_interrupted_run_goes_on_where_it_was(shared: bool | None, address: str, tmp_path: Path) -> None:
    (spec,), study = runs(steps=1_000_000), StudyFolder(tmp_path)
    steps: list[int] = []

    def interrupt_at(count: int) -> Callable[[RunEvent], None]:
        def callback(event: RunEvent) -> None:
            steps.append(event.step)
            if event.state == "running" and event.step and len(steps) >= count:
                raise KeyboardInterrupt

        return callback

    engine = RayEngine(address=address, shared=shared)
    with pytest.raises(KeyboardInterrupt):
        engine.run([spec], study, interrupt_at(3))
    assert study.run(spec.id).checkpoint.exists()
    assert not study.run(spec.id).holder.exists()
    reached = max(steps)
    steps.clear()
    with pytest.raises(KeyboardInterrupt):
        engine.run([spec], study, interrupt_at(1))
    assert min(step for step in steps if step) > reached


def test_a_fault_of_a_node_is_the_engines(address: str, tmp_path: Path) -> None:
    (spec,), study = runs(), StudyFolder(tmp_path)
    (tmp_path / "runs").mkdir()
    study.run(spec.id).path.write_text("a file where a folder belongs")
    with pytest.raises(EngineError, match=r"the node .* cannot continue: FileExistsError"):
        RayEngine(address=address, shared=True).run([spec], study, lambda event: None)


def test_a_run_that_another_process_finishes_is_not_computed_twice(
    address: str, tmp_path: Path, done: tuple[RunSpec, StudyFolder]
) -> None:
    spec, finished = done
    study, folder = StudyFolder(tmp_path), StudyFolder(tmp_path).run(spec.id)
    begun = threading.Event()

    def hold() -> None:
        def watch(step: int, loss: float) -> bool:
            begun.set()
            return others.wait(30)

        execute(spec, study, watch)
        for name, content in pack(finished.run(spec.id).path).items():
            (folder.path / name).write_bytes(content)

    others = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(30)
    states: list[str] = []

    def callback(event: RunEvent) -> None:
        states.append(event.state)
        if event.state == "elsewhere":
            others.set()

    RayEngine(address=address, shared=False).run([spec], study, callback)
    thread.join()
    assert states[-1] == "done"
    assert "elsewhere" in states
    assert folder.read_metrics() == finished.run(spec.id).read_metrics()


def test_nothing_that_answers_is_an_error_at_once(address: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no Ray cluster answers at 127\.0\.0\.3:1"):
        RayEngine(address="127.0.0.3:1").run(runs(), StudyFolder(tmp_path), print)
    with pytest.raises(EngineError, match=r"has CPU=64 GPU=0 for a run: 127\.0\.0\.2 has CPU=2 GPU=0"):
        RayEngine(address=address, cpus_per_run=64).run(runs(), StudyFolder(tmp_path), print)


def _workers() -> set[int]:
    """List the worker processes of ours that Ray's processes have started."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if (
                    b"normscope.studies.engines.worker" in command
                    and b"ray::" in Path(f"/proc/{parent}/cmdline").read_bytes()
                ):
                    found.add(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found
