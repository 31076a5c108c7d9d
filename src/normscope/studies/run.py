"""Compute one run of a study while holding its lock, and write its final state."""

import os
import socket
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from normscope.data import DataDamaged
from normscope.files import write_atomically
from normscope.results.store import SCHEMA, RunFolder, StudyFolder, write_json
from normscope.studies.plan import RunSpec
from normscope.tasks import UserCodeError, UserFileChanged
from normscope.training.loop import train
from normscope.training.outcome import Interrupted, Watch
from normscope.training.stacked import Member, train_stacked

__tracebackhide__ = True


def execute(spec: RunSpec, study: StudyFolder, watch: Watch, *, beside: Sequence[RunSpec] = ()) -> str:
    """Compute one run, unless it is finished or another process holds its lock.

    The operating system releases the lock when the process ends, for any reason. After an exception the run can be
    resumed.

    Args:
        spec: Specification of the run.
        study: Folder of the study.
        watch: Callback that receives the progress, and may stop the run.
        beside: Further runs to compute in one stack with a stacked run, each unless it is finished or held elsewhere.

    Returns:
        The final state; ``"interrupted"`` if ``watch`` stopped the run; or ``"elsewhere"`` if another process computes
        the run or has finished it.

    Raises:
        OSError: If a file cannot be read or written, such as on a full disk.
        DataDamaged: If a file of the data set was changed since the study began.
        UserFileChanged: If the user's file was edited since the study began.
        KeyboardInterrupt: If the user interrupts it.
    """
    if spec.stacked:
        return _execute_stack((spec, *beside), study, watch)
    # The user's code may change the working directory.
    folder = StudyFolder(study.path.absolute()).run(spec.id)
    folder.path.mkdir(parents=True, exist_ok=True)
    with _holding(folder) as held:
        if not held or folder.finished():
            return "elsewhere"
        # Training rewrites the description in full; a run that fails earlier needs one, too.
        write_json(folder.description, {"schema": SCHEMA, **spec.identity()})
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
                    watch=watch,
                )
        except Interrupted:
            return "interrupted"
        except (OSError, DataDamaged, UserFileChanged, KeyboardInterrupt):
            raise
        except UserCodeError as error:
            write_atomically(folder.error, f"{error}\n".encode(errors="replace"))
            _write_failure(folder.result, error.reason)
            return "failed"
        except BaseException as error:
            # An error of a norm or a model fails this run, not the study; its traceback is written beside the result.
            # This includes exceptions that are not an Exception, such as CancelledError and GeneratorExit.
            write_atomically(folder.error, traceback.format_exc().encode(errors="replace"))
            _write_failure(folder.result, in_a_line(error))
            return "failed"


def _execute_stack(specs: Sequence[RunSpec], study: StudyFolder, watch: Watch) -> str:
    """Compute the runs of a stack that are neither finished nor held elsewhere; return the state of the first.

    Raises:
        OSError: As for :func:`execute`.
        DataDamaged: As for :func:`execute`.
        KeyboardInterrupt: As for :func:`execute`.
    """
    with ExitStack() as held:
        folders = {spec.id: StudyFolder(study.path.absolute()).run(spec.id) for spec in specs}
        free = []
        for spec in specs:
            folder = folders[spec.id]
            folder.path.mkdir(parents=True, exist_ok=True)
            if held.enter_context(_holding(folder)) and not folder.finished():
                write_json(folder.description, {"schema": SCHEMA, **spec.identity()})
                free.append(spec)
        if specs[0] not in free:
            return "elsewhere"
        try:
            members = [
                Member(
                    task=(task := spec.begin()),
                    build=partial(spec.build, task),
                    seed=spec.seed,
                    folder=folders[spec.id],
                    identity=spec.identity(),
                )
                for spec in free
            ]
            train_stacked(members, recipe=specs[0].recipe, split=specs[0].split, preset=specs[0].preset, watch=watch)
        except Interrupted:
            return folders[specs[0].id].state() or "interrupted"
        except (OSError, DataDamaged, KeyboardInterrupt):
            raise
        except BaseException as error:
            for folder in (folders[spec.id] for spec in free):
                if not folder.finished():
                    write_atomically(folder.error, traceback.format_exc().encode(errors="replace"))
                    _write_failure(folder.result, in_a_line(error))
        return folders[specs[0].id].read_result()["state"]


def in_a_line(error: BaseException) -> str:
    """Return an error in one line, as the reason of a failed run."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def fail(spec: RunSpec, study: StudyFolder, reason: str, *, details: str = "") -> str:
    """Write the state ``failed`` for a run, unless it is finished or another process holds its lock.

    Args:
        spec: Specification of the run.
        study: Folder of the study.
        reason: Reason in one line.
        details: Further details, such as a traceback; written to ``error.txt``.

    Returns:
        ``"failed"``; or ``"elsewhere"`` if the run is finished or another process holds its lock.
    """
    folder = study.run(spec.id)
    with _holding(folder) as held:
        if not held or folder.finished():
            return "elsewhere"
        if not folder.description.exists():
            write_json(folder.description, {"schema": SCHEMA, **spec.identity()})
        if details:
            write_atomically(folder.error, details.encode(errors="replace"))
        _write_failure(folder.result, reason)
    return "failed"


def forget(spec: RunSpec, study: StudyFolder) -> None:
    """Delete the result of a failed run so that it is computed again; runs in other states or locked do not change.

    A run that could not be scored counts as failed: the data that its scores depend on may have been mended.
    """
    folder = study.run(spec.id)
    if folder.state() not in ("failed", "unscored"):
        return
    with _holding(folder) as held:
        # Another process may have computed it again in the meantime.
        if held and folder.state() in ("failed", "unscored"):
            for path in (folder.checkpoint, folder.error, folder.result):
                path.unlink(missing_ok=True)


@contextmanager
def _holding(folder: RunFolder) -> Iterator[bool]:
    """Hold a run's lock within the block; yield False if another process holds it."""
    lock = FileLock(folder.lock)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        # If the name is a symbolic link, its target must not be overwritten.
        folder.holder.unlink(missing_ok=True)
        folder.holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield True
    finally:
        folder.holder.unlink(missing_ok=True)
        lock.release()


def _write_failure(path: Path, reason: str) -> None:
    # A path in the message may have bytes that are not UTF-8.
    reason = reason.encode(errors="replace").decode()
    empty = ("value", "valid_value", "selected_step", "step_ms", "peak_bytes", "saved_bytes", "seconds", "parameters")
    write_json(path, {"schema": SCHEMA, "state": "failed", **dict.fromkeys(empty), "steps": 0, "reason": reason})
