"""The processes of a run that shares its batches among several devices; the first holds the run's lease."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from normscope.results.store import RunFolder
from normscope.studies.plan import RunSpec
from normscope.training.ranks import RankDied, Ranks, joined

__tracebackhide__ = True

END_SECONDS = 5.0
"""Time that the other processes have to end after the first."""


@contextmanager
def ranks_of(spec: RunSpec, folder: RunFolder) -> Iterator[Ranks | None]:
    """Start the further processes of a run, and end them with the block.

    Yields:
        The processes, as the first one sees them; None if the run has one device.

    Raises:
        RankDied: If one of the processes was killed; the run can be resumed.
        RuntimeError: If one of the processes failed while this one did not; the message has its reason.
    """
    count = spec.recipe.devices_per_run
    if count == 1:
        yield None
        return
    place = Path(tempfile.mkdtemp(prefix="normscope-ranks-"))
    others: list[subprocess.Popen[str]] = []
    ended = threading.Event()
    try:
        for rank in range(1, count):
            # -P: files in the current folder must not shadow modules.
            command = [sys.executable, "-P", "-m", "normscope.studies.engines.rank"]
            other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            others.append(other)
            request = {"spec": spec.to_json(), "folder": str(folder.path), "meeting": str(place / "meeting")}
            on_cuda = torch.device(spec.recipe.device).type == "cuda"
            fraction = torch.cuda.get_per_process_memory_fraction() if on_cuda else 1.0
            _write(other, {**request, "rank": rank, "threads": torch.get_num_threads(), "memory_fraction": fraction})
        for other in others:
            assert other.stdout is not None
            if not other.stdout.readline():
                raise RankDied(_how(others, other))
        device = torch.device(spec.recipe.device)
        if device.type == "cuda":
            # NCCL does not notice that a process has died, and would wait for it.
            threading.Thread(target=_end_with, args=(others, ended), daemon=True).start()
        try:
            with joined(place / "meeting", 0, count, device) as ranks:
                yield ranks
        except Exception as error:
            _blame(others, error)
            raise
    finally:
        ended.set()
        for other in others:
            assert other.stdin is not None
            assert other.stdout is not None
            other.kill()
            other.wait()
            other.stdin.close()
            other.stdout.close()
        shutil.rmtree(place, ignore_errors=True)


def _write(other: subprocess.Popen[str], request: dict[str, object]) -> None:
    assert other.stdin is not None
    try:
        other.stdin.write(json.dumps(request) + "\n")
        other.stdin.flush()
    except BrokenPipeError:
        # It has died; the end of its output, which is read next, says so.
        return


def _how(others: Sequence[subprocess.Popen[str]], other: subprocess.Popen[str]) -> str:
    code = other.wait()
    how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
    return f"process {others.index(other) + 1} of the {len(others) + 1} that share the run ended {how}"


def _blame(others: Sequence[subprocess.Popen[str]], error: Exception) -> None:
    """Raise another error if the first process failed because another one had ended.

    Raises:
        RankDied: If another process was killed.
        RuntimeError: If another process failed, and this one's error only says that it is gone.
    """
    deadline = time.monotonic() + END_SECONDS
    lost = isinstance(error, dist.DistError) or "gloo" in str(error)
    while lost and all(other.poll() is None for other in others) and time.monotonic() < deadline:
        time.sleep(0.05)
    for other in others:
        if other.poll() is None:
            continue
        assert other.stdout is not None
        reason = other.stdout.readline()
        if not reason:
            raise RankDied(_how(others, other)) from error
        if lost:
            raise RuntimeError(f"process {others.index(other) + 1} of the run: {json.loads(reason)}") from error


def _end_with(others: Sequence[subprocess.Popen[str]], ended: threading.Event) -> None:
    """End this process if another one dies before the run has ended."""
    while not ended.wait(1.0):
        if any(other.poll() for other in others):
            os._exit(1)
