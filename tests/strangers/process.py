"""Run one architecture in a process of its own, with a limit of time and of memory, and collect what it reports.

The processes are forked from one server that has imported the libraries, so that each costs milliseconds to start.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

QUIET = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "OMP_NUM_THREADS"), "1"),
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "CUDA_VISIBLE_DEVICES": "",
}
"""Environment of every process: nothing is downloaded, one thread, the CPU."""

Provider = str
"""``module:name`` of a dictionary such as :data:`strangers.libraries.LIBRARIES`."""

PROVIDER: Provider = "strangers.libraries:LIBRARIES"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a process may use."""

    seconds: float
    """Wall-clock time for all cells of an architecture."""
    build_seconds: float = 2.0
    """Processor time of the build."""
    gigabytes: float = 6.0
    """Private memory."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One architecture to try, and how."""

    library: str
    name: str
    targets: tuple[str, ...]
    compiled: tuple[str, ...]
    backend: str
    limits: Limits
    provider: Provider = PROVIDER


def provided(provider: Provider) -> dict[str, Any]:
    """Return the dictionary that a provider names."""
    module, _, name = provider.partition(":")
    return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError in the body when it has used so much processor time.

    Raises:
        TimeoutError: In the body.
    """

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds:g} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _begin(limits: Limits | None) -> None:
    """Make this process quiet, its own group, and limited."""
    import logging
    import resource
    import warnings

    import torch

    with contextlib.suppress(OSError):
        os.setsid()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if limits is not None:
        size = int(limits.gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _list(channel: connection.Connection, provider: Provider, library: str) -> None:
    """Send the names of a library's architectures."""
    _begin(None)
    channel.send(provided(provider)[library][0]())


def _try(channel: connection.Connection, order: Order) -> None:
    """Try one architecture and send every report."""
    _begin(order.limits)
    from strangers import libraries, trial

    channel.send({"begins": "build"})
    try:
        attempts = provided(order.provider)[order.library][1](order.name)
        subject = libraries.first_that_runs(attempts, limited=lambda: processor_time(order.limits.build_seconds))
    except Exception as error:
        channel.send({"not_built": str(error) or type(error).__name__})
        return
    channel.send({"built": subject.how})
    try:
        trial.try_subject(
            subject,
            targets=trial.known(order.targets),
            backend=order.backend,
            compiled=order.compiled,
            report=channel.send,
        )
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[-1]
        channel.send(
            {"broke": f"{type(error).__name__}: {error} ({os.path.basename(frames.filename)}:{frames.lineno})"}
        )
        return
    channel.send({"ended": True})


def context(preload: Sequence[str]) -> Any:
    """Return the multiprocessing context: a server with these modules imported, or new processes where it cannot be."""
    os.environ.update(QUIET)
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["strangers.trial", "normscope.surgery", "normscope.diagnostics", *preload])
    return made


def names(made: Any, library: str, provider: Provider = PROVIDER) -> list[str]:
    """Return the names of a library's architectures; the library is imported in another process.

    Raises:
        RuntimeError: If they cannot be listed, such as where the library is not installed.
    """
    here, there = made.Pipe(duplex=False)
    process = made.Process(target=_list, args=(there, provider, library), daemon=True)
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"the architectures of {library} cannot be listed: is it installed? ./run strangers sets it up; "
            f"`python -c 'import {library}'` shows the error"
        ) from None


@dataclass(kw_only=True)
class Running:
    """An architecture whose process has started."""

    order: Order
    process: Any
    channel: connection.Connection
    deadline: float
    started: float = field(default_factory=time.monotonic)
    record: dict[str, Any] = field(default_factory=dict)
    current: str = "build"
    cells: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False

    def take(self, event: dict[str, Any]) -> None:
        """Take in one report of the process."""
        if "begins" in event:
            self.current = event["begins"]
        elif "cell" in event:
            self.cells.append(event)
        elif "ended" in event:
            self.done = True
        else:
            self.record |= event
            self.done = self.done or "not_built" in event or "broke" in event

    def end(self, why: str) -> dict[str, Any]:
        """Return the record of the architecture; where the process did not end by itself, the cell says why."""
        if not self.done:
            if self.current == "build":
                self.record["not_built"] = why
            else:
                status = "timeout" if "time limit" in why else "killed"
                own = self.current.startswith("own/") and self.current != "own/diagnose"
                self.cells.append({"cell": self.current, "status": "theirs" if own else status, "error": why})
        seconds = round(time.monotonic() - self.started, 1)
        return {
            "library": self.order.library,
            "name": self.order.name,
            **self.record,
            "seconds": seconds,
            "backend": self.order.backend,
            "cells": self.cells,
        }


def run_all(orders: Iterator[Order], made: Any, *, workers: int, done: Callable[[dict[str, Any]], None]) -> None:
    """Run all orders, so many at a time, and hand over the record of each as it ends.

    Args:
        orders: What to try.
        made: The multiprocessing context.
        workers: Processes at a time.
        done: Called with each record.
    """
    running: list[Running] = []
    more = True
    try:
        while more or running:
            while more and len(running) < workers:
                order = next(orders, None)
                if order is None:
                    more = False
                else:
                    running.append(_start(order, made))
            for each in _wait(running):
                running.remove(each[0])
                done(each[0].end(each[1]))
    finally:
        for each in running:
            _kill(each.process)


def _start(order: Order, made: Any) -> Running:
    here, there = made.Pipe(duplex=False)
    process = made.Process(target=_try, args=(there, order), daemon=False)
    process.start()
    there.close()
    return Running(order=order, process=process, channel=here, deadline=time.monotonic() + order.limits.seconds)


def _wait(running: Sequence[Running]) -> list[tuple[Running, str]]:
    """Take reports until a process ends or is over its time; return those that ended, each with the reason."""
    if not running:
        return []
    left = max(0.0, min(each.deadline for each in running) - time.monotonic())
    ready = connection.wait([each.channel for each in running], timeout=left)
    ended = []
    for each in running:
        open_ = True
        while open_ and each.channel in ready and each.channel.poll():
            try:
                each.take(each.channel.recv())
            except EOFError:
                open_ = False
        if not open_:
            each.process.join(timeout=10)
            _kill(each.process)
            ended.append((each, f"the process ended with {each.process.exitcode}"))
        elif time.monotonic() >= each.deadline:
            _kill(each.process)
            ended.append((each, f"over the time limit of {each.order.limits.seconds:g} s"))
    return ended


def _kill(process: Any) -> None:
    """End a process with all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if process.is_alive() and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ValueError, ProcessLookupError):
        process.kill()
    process.join(timeout=10)
