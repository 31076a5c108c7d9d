"""One run of a study, under its lock, brought to a state."""

import os
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
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

__tracebackhide__ = True


def execute(spec: RunSpec, study: StudyFolder, watch: Watch) -> str:
    """Compute one run, unless it is finished or another process holds its lock.

    The lock is the operating system's: it goes with the process that holds it, however that ends.

    Args:
        spec: The run.
        study: Where it keeps its files.
        watch: Takes signs of life; may stop the run.

    Returns:
        A final state, ``"interrupted"``, or ``"elsewhere"``: another process computes the run, or has computed it.

    Raises:
        OSError: If the machine, not the run, is at fault: a full disk, say. The run stays resumable.
        DataDamaged: Likewise, if a file of the data set was changed since the study began.
        UserFileChanged: Likewise, if the user's own file was.
        KeyboardInterrupt: Likewise, if somebody stopped it.
    """
    # A user's code may go to another folder.
    folder = StudyFolder(study.path.absolute()).run(spec.id)
    folder.path.mkdir(parents=True, exist_ok=True)
    with _holding(folder) as held:
        if not held or folder.finished():
            return "elsewhere"
        # Training writes it again with all that it knows; a run that fails before then must say what it was, too.
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
            write_atomically(folder.error, f"{error}\n".encode())
            _write_failure(folder.result, error.reason)
            return "failed"
        except BaseException as error:
            # Whatever a norm or a model raises costs this run, not the study; the traceback is kept beside it. So it
            # is for what no `except Exception` takes: a task that was cancelled, a generator's end.
            write_atomically(folder.error, traceback.format_exc().encode())
            _write_failure(folder.result, in_a_line(error))
            return "failed"


def in_a_line(error: BaseException) -> str:
    """Write an error as the reason of a run that failed."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def fail(spec: RunSpec, study: StudyFolder, reason: str, *, told: str = "") -> str:
    """Give a run up that nobody could compute, unless another process has or holds it.

    Args:
        spec: The run.
        study: Where it keeps its files.
        reason: Why, in a line.
        told: What else is known, such as a traceback; kept beside it in ``error.txt``.

    Returns:
        ``"failed"``, or ``"elsewhere"``.
    """
    folder = study.run(spec.id)
    with _holding(folder) as held:
        if not held or folder.finished():
            return "elsewhere"
        if not folder.description.exists():
            write_json(folder.description, {"schema": SCHEMA, **spec.identity()})
        if told:
            write_atomically(folder.error, told.encode(errors="replace"))
        _write_failure(folder.result, reason)
    return "failed"


def forget(spec: RunSpec, study: StudyFolder) -> None:
    """Make a run that failed one that has not begun; one in any other state, or held by a process, is left alone."""
    folder = study.run(spec.id)
    if folder.state() != "failed":
        return
    with _holding(folder) as held:
        # Another process may have computed it anew since.
        if held and folder.state() == "failed":
            for path in (folder.checkpoint, folder.error, folder.result):
                path.unlink(missing_ok=True)


@contextmanager
def _holding(folder: RunFolder) -> Iterator[bool]:
    """Hold a run's lock inside, and no longer, unless another process does; tell whether it is held."""
    lock = FileLock(folder.lock)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        # What a link of that name leads to is not ours.
        folder.holder.unlink(missing_ok=True)
        folder.holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield True
    finally:
        folder.holder.unlink(missing_ok=True)
        lock.release()


def _write_failure(path: Path, reason: str) -> None:
    empty = ("value", "valid_value", "selected_step", "step_ms", "peak_bytes", "saved_bytes", "seconds", "parameters")
    write_json(path, {"schema": SCHEMA, "state": "failed", **dict.fromkeys(empty), "steps": 0, "reason": reason})
