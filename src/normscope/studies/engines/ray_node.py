"""What the Ray engine runs on a node: a task that passes a run to a worker of ours, and the mailbox of the reports.

Ray sends these functions by value, so the module imports nothing that a node with Ray might lack. A run is computed by
the worker process of the local engine (:mod:`normscope.studies.engines.worker`), so that its numbers are the same. The
worker stays for the next run of the same Ray process, which saves it the import of torch.
"""

import importlib
import json
import os
import queue
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from normscope.studies.engines.parcel import check_parcel, pack

BEAT_SECONDS = 1.0
"""Interval between two reports of a run, which are also its heartbeat."""

CHECKPOINT_SECONDS = 20.0
"""Minimum time between two checkpoints that are sent to the mailbox."""

LOG_BYTES = 64 << 10
"""Length of the worker's output that is returned with a run."""

SCRATCH = "normscope-ray-"
"""Beginning of the names of the temporary folders in which nodes without the study's folder compute."""

SCRATCH_SECONDS = 3600.0
"""Age at which a temporary folder that no process holds is deleted."""

_VERSIONS = """
import hashlib, importlib.metadata, importlib.util, json, pathlib, platform, runpy

found = {"Python": ".".join(platform.python_version_tuple()[:2])}
for name in ("ray", "torch", "numpy"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = ""
if (torch := importlib.util.find_spec("torch")) is not None:
    # With the build, such as +cu130; importing torch takes seconds.
    found["torch"] = runpy.run_path(str(pathlib.Path(torch.origin).with_name("version.py")))["__version__"]
package = importlib.util.find_spec("normscope")
found["normscope"] = ""
if package is not None:
    from normscope.version import __version__
    root, digest = pathlib.Path(package.origin).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\\0" + path.read_bytes())
    found["normscope"] = f"{__version__} (source files {digest.hexdigest()[:8]})"
print(json.dumps(found))
"""


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers, as a worker of this interpreter sees them; empty if missing.

    The version of normscope includes a hash of its source files.
    """
    # -P, as for a worker: neither this process's path nor the current folder counts.
    done = subprocess.run([sys.executable, "-P", "-c", _VERSIONS], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def look(token: Mapping[str, str]) -> dict[str, Any]:
    """Return the host name and the versions of a node, and whether it sees the study's folder."""
    return {"host": socket.gethostname(), "versions": versions(), "sees": sees(token)}


def sees(token: Mapping[str, str]) -> bool:
    """Check whether this machine sees the study's folder, in which the driver has written a token."""
    try:
        return Path(token["path"]).read_text(encoding="utf-8") == token["content"]
    except (OSError, ValueError):
        return False


class Mailbox:
    """The actor between tasks and driver: tasks report, and learn from the answer whether they are to stop."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.stopped: set[str] = set()
        self.all_stopped = False

    def report(self, report: dict[str, Any]) -> bool:
        """Keep a report for the driver; return whether its attempt is to stop."""
        self.reports.append(report)
        return self.all_stopped or report["attempt"] in self.stopped

    def drain(self) -> list[dict[str, Any]]:
        """Return the reports that have arrived since the last call."""
        reports, self.reports = self.reports, []
        return reports

    def stop(self, attempt: str | None) -> None:
        """Stop one attempt, or all of them if None."""
        if attempt is None:
            self.all_stopped = True
        else:
            self.stopped.add(attempt)


def compute(request: Mapping[str, Any], mailbox: Any) -> dict[str, Any]:
    """Compute a run in a worker process, and report to the mailbox.

    Args:
        request: ``attempt``, ``spec``, ``study``, ``token``, ``shared``, ``files``, ``texts``, ``environment`` and
            ``versions``, from the driver.
        mailbox: Handle of the actor.

    Returns:
        ``end``, which is the final state of the run, or ``"interrupted"``, ``"elsewhere"``, ``"fault"``, ``"crash"``,
        ``"no start"`` or ``"mismatch"``; with ``files`` the files of the run if it was computed in a temporary folder.
    """
    shared = sees(request["token"]) if request["shared"] is None else request["shared"]
    about = {"attempt": request["attempt"], "host": socket.gethostname(), "shared": shared}
    if not _found:
        _found.update(versions())
    if _found != request["versions"]:
        return {**about, "end": "mismatch", "versions": _found}
    with _scratch() as scratch:
        study = Path(request["study"]) if shared else scratch / "study"
        folder = study / "runs" / request["spec"]["id"]
        if not shared:
            folder.mkdir(parents=True)
            for name, content in check_parcel(request["files"]).items():
                (folder / name).write_bytes(content)
        watch = _Watch(about, mailbox, None if shared else folder)
        # Before the worker starts: a run that another process holds is not begun.
        if watch.report(0):
            return {**about, "end": "interrupted"}
        spec = {**request["spec"]["json"], "file": _own_file(request, scratch)}
        worker = _worker(request["environment"])
        try:
            end = worker.compute({"spec": spec, "study": str(study)}, watch)
        except BaseException:
            worker.process.kill()
            raise
        return {**about, **end, "files": None if shared else pack(folder), "log": worker.read_log()}


class _Watch:
    """Reports the progress of a run at each beat, with a new checkpoint if the driver cannot see it."""

    def __init__(self, about: Mapping[str, Any], mailbox: Any, folder: Path | None) -> None:
        self.about, self.mailbox, self.folder = about, mailbox, folder
        self.checkpoint: tuple[int, int] | None = None
        self.sent_at = self.reported_at = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self.reported_at > BEAT_SECONDS

    def report(self, step: int) -> bool:
        """Report a step; return whether the run is to stop."""
        ray: Any = importlib.import_module("ray")
        self.reported_at = time.monotonic()
        answer = self.mailbox.report.remote({**self.about, "step": step, "files": self._new_checkpoint()})
        # While the main thread of a task waits for an object, Ray gives its processor to another task.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(ray.get, answer).result()

    def _new_checkpoint(self) -> dict[str, bytes] | None:
        if self.folder is None or time.monotonic() - self.sent_at < CHECKPOINT_SECONDS:
            return None
        try:
            status = (self.folder / "checkpoint.pt").stat()
        except FileNotFoundError:
            return None
        if (status.st_mtime_ns, status.st_size) == self.checkpoint:
            return None
        self.checkpoint, self.sent_at = (status.st_mtime_ns, status.st_size), time.monotonic()
        files = pack(self.folder)
        # The result is returned by the task, after its last report.
        return {name: files[name] for name in ("run.json", "metrics.jsonl", "checkpoint.pt") if name in files}


class _Worker:
    """A worker process of ours, with a thread that reads its messages."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        # It lives as long as the worker.
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "normscope.studies.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=self.environment,
        )
        self.was_ready = False
        self.log_read = 0
        self.messages: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.messages.put(line)
        self.messages.put("")

    def compute(self, request: Mapping[str, Any], watch: _Watch) -> dict[str, Any]:
        """Send a run to the worker, and return how it ended."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        step, stopping = 0, False
        while True:
            try:
                line = self.messages.get(timeout=BEAT_SECONDS / 2)
            except queue.Empty:
                line = None
            if line == "":
                code = self.process.wait()
                how = "crash" if self.was_ready else "no start"
                return {"end": "interrupted" if stopping else how, "code": code}
            event = json.loads(line) if line else {}
            self.was_ready = self.was_ready or bool(event)
            if event.get("event") in ("end", "fault"):
                return {"end": event.get("state", "fault"), "reason": event.get("reason"), "step": step}
            step = event.get("step", step)
            if watch.is_due() and watch.report(step) and not stopping:
                # It now writes a checkpoint, or ends by itself when its grace is over.
                stopping = True
                with suppress(BrokenPipeError):
                    self.process.stdin.close()

    def read_log(self) -> str:
        """Return the end of what the worker has written since the last call."""
        size = os.fstat(self.log.fileno()).st_size
        start, self.log_read = max(self.log_read, size - LOG_BYTES), size
        return os.pread(self.log.fileno(), size - start, start).decode(errors="replace")


_found: dict[str, str] = {}
"""The versions of this node. The driver, whose module is what Ray sends, leaves it empty."""

_workers: list[_Worker] = []
"""The worker of this Ray process, for its next run."""


def _worker(environment: Mapping[str, str]) -> _Worker:
    """Return the worker of this process, or a new one if it has ended or has other devices."""
    wanted = {**os.environ, **environment}
    for worker in _workers:
        assert worker.process.stdin is not None
        if worker.process.poll() is None and not worker.process.stdin.closed and worker.environment == wanted:
            return worker
        worker.process.kill()
    _workers[:] = [_Worker(wanted)]
    return _workers[0]


def _own_file(request: Mapping[str, Any], scratch: Path) -> str:
    """Return the location of the user's file here: where the driver has it, or a copy if there is none."""
    location: str = request["spec"]["json"]["file"]
    path, _, function = location.rpartition(":")
    if not location or Path(path).is_file():
        return location
    for name, text in request["texts"].items():
        (scratch / "user" / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / "user" / name).write_bytes(text)
    return f"{scratch / 'user' / Path(path).name}:{function}"


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a temporary folder for the block; delete those that killed processes left behind."""
    for path in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with suppress(OSError, Timeout):
            status = path.lstat()
            is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
            if is_ours and time.time() - status.st_mtime > SCRATCH_SECONDS:
                with FileLock(path / "lock", timeout=0):
                    shutil.rmtree(path, ignore_errors=True)
    folder = tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True)
    with folder as name, FileLock(Path(name) / "lock"):
        yield Path(name)
