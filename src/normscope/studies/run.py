"""Compute one run of a study while holding its lease, and write its final state."""

import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from normscope.data import DataDamaged
from normscope.files import leftovers
from normscope.results.store import SCHEMA, LeaseLost, RunFolder, StudyFolder, to_json
from normscope.studies import lease as leases
from normscope.studies.plan import RunSpec
from normscope.tasks import UserCodeError, UserFileChanged
from normscope.training.loop import train
from normscope.training.outcome import Interrupted, Watch

__tracebackhide__ = True


def execute(spec: RunSpec, study: StudyFolder, watch: Watch) -> str:
    """Compute one run, unless it is finished or another process holds its lease (:mod:`normscope.studies.lease`).

    If the lease is lost, the run ends without another change of its folder. After an exception it can be resumed.

    Args:
        spec: Specification of the run.
        study: Folder of the study.
        watch: Callback that receives the progress, and may stop the run.

    Returns:
        The final state; ``"interrupted"`` if ``watch`` stopped the run; or ``"elsewhere"`` if another process computes
        the run, has taken it over, or has finished it.

    Raises:
        OSError: If a file cannot be read or written, such as on a full disk.
        DataDamaged: If a file of the data set was changed since the study began.
        UserFileChanged: If the user's file was edited since the study began.
        KeyboardInterrupt: If the user interrupts it.
    """
    # The user's code may change the working directory.
    folder = StudyFolder(study.path.absolute()).run(spec.id)
    if folder.finished():
        return "elsewhere"
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with holding(folder) as held:
            return "elsewhere" if held is None or held.finished() else _compute(spec, held, watch)
    except LeaseLost:
        return "elsewhere"


def _compute(spec: RunSpec, folder: RunFolder, watch: Watch) -> str:
    """Compute a run in a folder that this process holds.

    Raises:
        LeaseLost: If it no longer holds it.
        OSError: As for :func:`execute`.
        DataDamaged: As for :func:`execute`.
        UserFileChanged: As for :func:`execute`.
        KeyboardInterrupt: As for :func:`execute`.
    """
    # Training rewrites the description in full; a run that fails earlier needs one, too.
    folder.write(folder.description, to_json({"schema": SCHEMA, **spec.identity()}))
    try:
        task = spec.begin()
        with task.context():
            return train(
                task,
                partial(spec.build, task),
                seed=spec.seed,
                recipe=spec.recipe,
                split=spec.split,
                preset=spec.preset,
                folder=folder,
                identity=spec.identity(),
                watch=_WatchOfLease(watch, folder),
            )
    except Interrupted:
        folder.check()
        return "interrupted"
    except (OSError, DataDamaged, UserFileChanged, KeyboardInterrupt, LeaseLost):
        raise
    except UserCodeError as error:
        folder.write(folder.error, f"{error}\n".encode(errors="replace"))
        folder.publish(_failure(error.reason))
        return "failed"
    except BaseException as error:
        # An error of a norm or a model fails this run, not the study; its traceback is written beside the result.
        # This includes exceptions that are not an Exception, such as CancelledError and GeneratorExit.
        folder.write(folder.error, traceback.format_exc().encode(errors="replace"))
        folder.publish(_failure(in_a_line(error)))
        return "failed"


@dataclass
class _WatchOfLease:
    """Stops a run that has lost its lease; an exception instead might end in the loop of a user."""

    watch: Watch
    folder: RunFolder

    def __post_init__(self) -> None:
        self.checked_at = time.monotonic()

    def __call__(self, step: int, loss: float) -> bool:
        """Pass on the progress; check the lease as often as it is refreshed, and after each longer stop."""
        if self.watch(step, loss):
            return True
        now = time.monotonic()
        if now - self.checked_at < leases.LEASE_SECONDS / leases.BEATS:
            return False
        self.checked_at = now
        return _is_lost(self.folder)


def _is_lost(folder: RunFolder) -> bool:
    try:
        folder.check()
    except LeaseLost:
        return True
    return False


def in_a_line(error: BaseException) -> str:
    """Return an error in one line, as the reason of a failed run."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def fail(spec: RunSpec, study: StudyFolder, reason: str, *, details: str = "") -> str:
    """Write the state ``failed`` for a run, unless it is finished or another process holds its lease.

    Args:
        spec: Specification of the run.
        study: Folder of the study.
        reason: Reason in one line.
        details: Further details, such as a traceback; written to ``error.txt``.

    Returns:
        ``"failed"``; or ``"elsewhere"`` if the run is finished or another process holds its lease.
    """
    folder = study.run(spec.id)
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with holding(folder) as held:
            if held is None or held.finished():
                return "elsewhere"
            if not held.description.exists():
                held.write(held.description, to_json({"schema": SCHEMA, **spec.identity()}))
            if details:
                held.write(held.error, details.encode(errors="replace"))
            held.publish(_failure(reason))
    except LeaseLost:
        return "elsewhere"
    return "failed"


def forget(spec: RunSpec, study: StudyFolder) -> None:
    """Delete the result of a failed run so that it is computed again; runs in other states or held do not change.

    A run that could not be scored counts as failed: the data that its scores depend on may have been mended.
    """
    folder = study.run(spec.id)
    if folder.state() not in ("failed", "unscored"):
        return
    with suppress(LeaseLost), holding(folder) as held:
        # Another process may have computed it again in the meantime.
        if held is not None and held.state() in ("failed", "unscored"):
            for path in (held.checkpoint, held.error, held.result):
                held.check()
                path.unlink(missing_ok=True)


@contextmanager
def holding(folder: RunFolder) -> Iterator[RunFolder | None]:
    """Hold a run's lease within the block, which gets the folder to write to; or None if another process holds it."""
    lease = leases.acquire(folder.lease)
    if lease is None:
        yield None
        return
    with lease:
        held = replace(folder, check=lease.check)
        # Without its temporary file, a process that held the lease before, and wakes up, cannot finish a write.
        for leftover in leftovers(folder.path / "*"):
            leftover.unlink(missing_ok=True)
        try:
            held.write(held.holder, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), sync=False)
            yield held
        finally:
            # In a folder that became read-only it stays, as if the process had been killed.
            if not lease.is_lost():
                with suppress(OSError):
                    held.holder.unlink()


def _failure(reason: str) -> dict[str, object]:
    empty = ("value", "valid_value", "selected_step", "step_ms", "peak_bytes", "saved_bytes", "seconds", "parameters")
    # A path in the message may have bytes that are not UTF-8.
    reason = reason.encode(errors="replace").decode()
    return {"schema": SCHEMA, "state": "failed", **dict.fromkeys(empty), "steps": 0, "reason": reason}
