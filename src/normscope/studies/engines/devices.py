"""The devices of the local engine: which of them a worker uses, how much of their memory, and how much is left."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from normscope.studies.engines.engine import EngineError
from normscope.studies.engines.growth import SPARE

__tracebackhide__ = True


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The devices of a run, which several workers may share."""

    name: str
    """Name for messages, such as ``cuda:0``."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Environment variables of the workers: on CUDA the visible devices, so that all runs see ``cuda``."""


def slots_of(device: str, devices_per_run: int) -> tuple[Slot, ...]:
    """Return the places for runs: the CPU; the CUDA device that is named; or all visible ones, grouped for runs.

    A run is named by its device as the user wrote it, ``cuda``, never by the one that it was computed on.

    Args:
        device: Device in torch's syntax.
        devices_per_run: Number of devices of each run.
    """
    kind = torch.device(device)
    if kind.type == "cpu" or kind.index is not None:
        return (Slot(name="the CPU" if kind.type == "cpu" else device),)
    count = torch.cuda.device_count()
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    names = visible[:count] or [str(number) for number in range(count)]
    groups = [range(at, at + devices_per_run) for at in range(0, count - devices_per_run + 1, devices_per_run)]
    slots = tuple(
        Slot(
            name=", ".join(f"cuda:{number}" for number in group),
            environment={"CUDA_VISIBLE_DEVICES": ",".join(names[number] for number in group)},
        )
        for group in groups
    )
    # check_device reports devices that are missing, before the first run; a finished study needs none.
    return slots or (Slot(name=device),)


def check_device(name: str, devices_per_run: int = 1) -> None:
    """Check that a device exists, and on CUDA as many as a run has.

    Raises:
        EngineError: If it does not, or there are too few.
    """
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type != "cpu" and (device.index or 0) >= count:
        raise EngineError(
            f"device {name!r} does not exist: torch {torch.__version__} finds {count or 'no'} CUDA devices here"
        )
    if device.type != "cpu" and devices_per_run > count:
        raise EngineError(f"a run on {devices_per_run} devices needs as many: torch finds {count} CUDA devices here")


def cores() -> int:
    """Return the number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_memory(device: torch.device, workers: int, *, is_shared: bool) -> None:
    """Limit this process to its share of the memory of its CUDA device; a CPU has no such limit.

    A tenth of a shared device is left for the contexts of the processes, which the limit does not count.

    Args:
        device: The device.
        workers: Number of processes on it.
        is_shared: Whether there are others, or may be before the run ends.
    """
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(SPARE / workers if is_shared else 1.0, device.index or 0)


def is_limited(device: torch.device) -> bool:
    """Return whether :func:`limit_memory` has limited this process, so that others share its device."""
    return device.type == "cuda" and torch.cuda.get_per_process_memory_fraction(device.index or 0) < 1


def memory_of(device: torch.device, workers: int) -> tuple[int, int] | None:
    """Return the bytes that this process uses on its device and those that are free there; None if unknown.

    On CUDA that is a share of all that is used on the device, contexts included, which is too much rather than too
    little if another program uses it.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return (total - free) // workers, free
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return pages * os.sysconf("SC_PAGE_SIZE"), int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # Not on Linux.
        return None
