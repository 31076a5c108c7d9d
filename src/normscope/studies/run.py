"""Compute one run of a study while holding its lease, and write its final state."""

import os
import socket
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import torch

from normscope.data import DataDamaged
from normscope.files import leftovers
from normscope.results.store import SCHEMA, LeaseLost, RunFolder, StudyFolder, to_json
from normscope.studies import lease as leases
from normscope.studies.engines.devices import is_limited
from normscope.studies.plan import RunSpec
from normscope.studies.ranks import ranks_of
from normscope.tasks import UserCodeError, UserFileChanged
from normscope.training.loop import train
from normscope.training.outcome import Interrupted, Watch
from normscope.training.ranks import RankDied
from normscope.training.stacked import Member, train_stacked

__tracebackhide__ = True


_CHECK_SECONDS = leases.LEASE_SECONDS / leases.BEATS
"""Interval between two checks of a lease while a run is computed: that of its refreshes. Every write checks, too."""


def execute(spec: RunSpec, study: StudyFolder, watch: Watch, *, beside: Sequence[RunSpec] = ()) -> str:
    """Compute one run, unless it is finished or another process holds its lease (:mod:`normscope.studies.lease`).

    If the lease is lost, the run ends without another change of its folder. After an exception it can be resumed.

    Args:
        spec: Specification of the run.
        study: Folder of the study.
        watch: Callback that receives the progress, and may stop the run.
        beside: Further runs to compute in one stack with a stacked run, each unless it is finished or held elsewhere.

    Returns:
        The final state; ``"interrupted"`` if ``watch`` stopped the run; ``"crowded"`` if it needs more memory than its
        share of a device that other runs use; or ``"elsewhere"`` if another process computes the run, has taken it
        over, or has finished it.

    Raises:
        OSError: If a file cannot be read or written, such as on a full disk.
        DataDamaged: If a file of the data set was changed since the study began.
        UserFileChanged: If the user's file was edited since the study began.
        RankDied: If another process of a run on several devices was killed.
        KeyboardInterrupt: If the user interrupts it.
    """
    if spec.stacked:
        return _execute_stack((spec, *beside), study, watch)
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
        RankDied: As for :func:`execute`.
        KeyboardInterrupt: As for :func:`execute`.
    """
    # Training rewrites the description in full; a run that fails earlier needs one, too.
    folder.write(folder.description, to_json({"schema": SCHEMA, **spec.identity()}))
    try:
        task = spec.begin()
        with ranks_of(spec, folder) as ranks, task.context():
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
                ranks=ranks,
            )
    except Interrupted:
        folder.check()
        return "interrupted"
    except (OSError, DataDamaged, UserFileChanged, KeyboardInterrupt, LeaseLost, RankDied):
        raise
    except UserCodeError as error:
        if _is_crowded_out(error, spec):
            return "crowded"
        folder.write(folder.error, f"{error}\n".encode(errors="replace"))
        folder.publish(_failure(error.reason))
        return "failed"
    except BaseException as error:
        if _is_crowded_out(error, spec):
            return "crowded"
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
        if now - self.checked_at < _CHECK_SECONDS:
            return False
        self.checked_at = now
        return _is_lost(self.folder)


def _is_lost(folder: RunFolder) -> bool:
    try:
        folder.check()
    except LeaseLost:
        return True
    return False


def _is_crowded_out(error: BaseException | None, spec: RunSpec) -> bool:
    """Return whether an error is a lack of memory on a device that other runs share."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error is not None and is_limited(torch.device(spec.recipe.device))


def _execute_stack(specs: Sequence[RunSpec], study: StudyFolder, watch: Watch) -> str:
    """Compute the runs of a stack that are neither finished nor held elsewhere; return the state of the first.

    A member whose lease is lost leaves the stack; the others go on from their checkpoints.

    Raises:
        OSError: As for :func:`execute`.
        DataDamaged: As for :func:`execute`.
        KeyboardInterrupt: As for :func:`execute`.
    """
    root = StudyFolder(study.path.absolute())
    with ExitStack() as leases_held:
        held: dict[str, RunFolder] = {}
        for spec in specs:
            folder = root.run(spec.id)
            if folder.finished():
                continue
            folder.path.mkdir(parents=True, exist_ok=True)
            # The end of a lost lease is no error of the stack.
            leases_held.enter_context(suppress(LeaseLost))
            with suppress(LeaseLost):
                mine = leases_held.enter_context(holding(folder))
                if mine is not None and not mine.finished():
                    held[spec.id] = mine
        while specs[0].id in held:
            try:
                return _compute_stack([spec for spec in specs if spec.id in held], held, watch)
            except LeaseLost:
                held = {name: folder for name, folder in held.items() if not _is_lost(folder) and not folder.finished()}
    return "elsewhere"


def _compute_stack(specs: Sequence[RunSpec], held: Mapping[str, RunFolder], watch: Watch) -> str:
    """Compute runs whose folders this process holds; return the state of the first.

    Raises:
        LeaseLost: If it no longer holds one of them.
        OSError: As for :func:`execute`.
        DataDamaged: As for :func:`execute`.
        KeyboardInterrupt: As for :func:`execute`.
    """
    folders = [held[spec.id] for spec in specs]
    checked_at = time.monotonic()

    def watch_leases(step: int, loss: float) -> bool:
        nonlocal checked_at
        now = time.monotonic()
        if now - checked_at >= _CHECK_SECONDS:
            checked_at = now
            for folder in folders:
                if not folder.finished():
                    folder.check()
        return watch(step, loss)

    try:
        members = []
        for spec, folder in zip(specs, folders, strict=True):
            folder.write(folder.description, to_json({"schema": SCHEMA, **spec.identity()}))
            task = spec.begin()
            build = partial(spec.build, task)
            members.append(Member(task=task, build=build, seed=spec.seed, folder=folder, identity=spec.identity()))
        recipe, split, preset = specs[0].recipe, specs[0].split, specs[0].preset
        train_stacked(members, recipe=recipe, split=split, preset=preset, watch=watch_leases)
    except Interrupted:
        return folders[0].state() or "interrupted"
    except (OSError, DataDamaged, KeyboardInterrupt, LeaseLost):
        raise
    except BaseException as error:
        for folder in folders:
            if not folder.finished():
                folder.write(folder.error, traceback.format_exc().encode(errors="replace"))
                folder.publish(_failure(in_a_line(error)))
    return folders[0].read_result()["state"]


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
