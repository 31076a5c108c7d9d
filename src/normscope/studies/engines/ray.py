"""The Ray engine: runs as tasks of an existing Ray cluster, with or without a shared folder."""

import importlib.util
import os
import re
import secrets
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from normscope.files import write_atomically
from normscope.results.store import StudyFolder
from normscope.studies.engines.engine import EngineError, RunEvent
from normscope.studies.engines.local import ATTEMPTS
from normscope.studies.engines.ray_session import Session
from normscope.studies.plan import RunSpec

__tracebackhide__ = True

CONNECT_SECONDS = 10.0
"""Time in which the cluster must accept a connection."""


@dataclass(kw_only=True)
class RayEngine:
    """Computes runs as tasks of a Ray cluster that exists, on nodes that have this version of normscope installed.

    A node that sees the study's folder writes into it. A node that does not computes in a temporary folder, and the
    files of the run come back through Ray's object store: checkpoints at intervals, and the whole run at its end. A
    run whose node dies goes to another node, and continues from the last checkpoint; Ray's own retries are off.
    """

    address: str
    """``HOST:PORT`` of the cluster, as ``ray start --head`` prints it; this machine must be one of its nodes."""
    cpus_per_run: float = 1
    """CPUs that a run reserves; its worker has one thread."""
    gpus_per_run: float = 0
    """GPUs that a run reserves; several runs share one if it is below 1."""
    attempts: int = ATTEMPTS
    """Number of worker crashes after which a run counts as failed."""
    at_most: int | None = None
    """Number of runs that are computed at a time; as many as the cluster has room for if None."""
    shared: bool | None = None
    """Whether the nodes share the study's folder with this machine; if None, each node looks for a token in it."""
    workers: int = field(default=1, init=False)
    """Number of runs that the cluster computes at a time, known when it has begun."""

    def __post_init__(self) -> None:
        self.address = check_address(self.address)
        for name, least in (("cpus_per_run", 0.001), ("gpus_per_run", 0), ("attempts", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.gpus_per_run > 1 and self.gpus_per_run != int(self.gpus_per_run):
            raise ValueError(f"gpus_per_run must be a whole number above 1, got {self.gpus_per_run}")
        if self.at_most is not None and self.at_most < 1:
            raise ValueError(f"at_most must be at least 1, got {self.at_most}")

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        """Compute the unfinished runs, and return when every run has a result.

        Args:
            specs: The runs.
            study: Folder of the study.
            callback: Called with an event at each progress and change of state.

        Raises:
            KeyboardInterrupt: If the user interrupts it; unfinished runs have written their checkpoints, or
                :data:`~normscope.studies.engines.engine.GRACE_SECONDS` are over, or the user has interrupted it again.
            EngineError: If Ray is not installed, there is no cluster at the address, a node has another version of
                Python or of a package that matters, no node has room for a run, or a node reports a fault.
        """
        waiting = [spec for spec in specs if not study.run(spec.id).finished()]
        if not waiting:
            return
        for device in {spec.recipe.device for spec in waiting} - {"cpu"}:
            if not self.gpus_per_run:
                raise EngineError(f"the runs are for the device {device!r}: gpus_per_run must be above 0")
            if ":" in device:
                raise EngineError(f"Ray chooses the GPU of a run: the device must be 'cuda', got {device!r}")
        with _connected(self.address) as ray, _token(study) as token:
            try:
                session = Session(self, ray, waiting, study, callback, token)
                self.workers = session.check_nodes()
                session.run()
            except ray.exceptions.RayError as error:
                raise EngineError(
                    f"the connection to the Ray cluster {self.address} is lost ({_sentence(error)}); runs without a "
                    "result can be resumed"
                ) from error


def check_address(address: str | None) -> str:
    """Check that an address is ``HOST:PORT``.

    Raises:
        ValueError: If it is anything else, such as ``auto``; the message says what to type.
    """
    if re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):\d{1,5}", address or "") and 0 < _port(address) < 65536:
        return str(address)
    raise ValueError(
        f"a Ray cluster needs its address, HOST:PORT, got {address!r}: `ray start --head` prints it; type it as in "
        "--engine ray --address 10.0.0.5:6379. No other cluster is looked for, and RAY_ADDRESS is not read"
    )


def _port(address: str | None) -> int:
    return int((address or "").rpartition(":")[2])


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Connect to the cluster at an address for the block, and to no other; yield the module ray.

    Raises:
        EngineError: If that is impossible; the message says why.
    """
    if importlib.util.find_spec("ray") is None:
        raise EngineError("the engine ray needs the package ray: pip install 'normscope[ray]', here and on every node")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray: Any = importlib.import_module("ray")
    if ray.is_initialized():
        if (other := ray.get_runtime_context().gcs_address) != address:
            raise EngineError(f"this process is connected to the Ray cluster {other}, not {address}: ray.shutdown()")
        yield ray
        return
    try:
        socket.create_connection((address.rpartition(":")[0].strip("[]"), _port(address)), CONNECT_SECONDS).close()
    except OSError as error:
        raise EngineError(
            f"no Ray cluster answers at {address} ({error}): start one with `ray start --head`, and type the address "
            "that it prints"
        ) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise EngineError(
            f"cannot join the Ray cluster {address}: {_sentence(error)} (this machine must be one of its nodes, with "
            "the same Ray, the same Python and the same token)"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _sentence(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def _token(study: StudyFolder) -> Iterator[Mapping[str, str]]:
    """Write a file in the study's folder by which nodes recognize it."""
    path, content = study.path.absolute() / f".ray-{uuid.uuid4().hex}", secrets.token_hex(16)
    write_atomically(path, content.encode())
    try:
        yield {"path": str(path), "content": content}
    finally:
        path.unlink(missing_ok=True)
