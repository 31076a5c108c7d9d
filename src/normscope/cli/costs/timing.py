"""Functions timed in turn on this machine, and the memory that they keep for the backward pass.

The functions are timed in rounds, in a new random order per round, and a ratio is the median over the rounds: load of
the machine and the state of the caches affect all functions alike. Only ratios are comparable between machines.
"""

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normscope.kernels import describe

SAMPLE = 2e-4
"""Minimum duration of a timed sample in seconds; short calls are repeated."""
MAX_WAIT = 0.03
"""Maximum share of a sample that a thread may wait for a core; rounds above it are dropped."""
MIN_ROUNDS = 7
"""Minimum number of rounds that are used."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The settings of a measurement."""

    backend: str
    threads: int
    device: str
    torch: str
    malloc: bool
    """Whether glibc is configured to keep large blocks; otherwise the times of large tensors include page faults."""
    waited: float
    """Largest share of a round that a thread waited for a core; above :data:`MAX_WAIT` the machine was busy."""

    def to_dict(self) -> dict[str, Any]:
        """Return the costs as JSON."""
        return asdict(self)


def settings(threads: int, waited: float) -> dict[str, Any]:
    """Return the fields of a :class:`Measurement` on this machine."""
    return {
        "backend": describe(torch.device("cpu")),
        "threads": threads,
        "device": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "malloc": all(os.environ.get(f"MALLOC_{name}_THRESHOLD_") for name in ("MMAP", "TRIM")),
        "waited": waited,
    }


def passes(module: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> dict[str, Callable[[], object]]:
    """Return the forward pass, the backward pass and both, as functions without arguments.

    Args:
        module: A module, or a function of ``x`` without parameters.
        x: Input, which requires a gradient.
        upstream: Gradient of the output.

    Raises:
        ValueError: If the output has no gradient.
    """
    inputs = [x, *(module.parameters() if isinstance(module, nn.Module) else ())]
    y = module(x)
    if not y.requires_grad:
        raise ValueError(f"the output of {module} has no gradient")
    return {
        "forward": lambda: module(x),
        "backward": lambda: torch.autograd.grad(y, inputs, upstream, retain_graph=True),
        "both": lambda: torch.autograd.grad(module(x), inputs, upstream),
    }


def saved_bytes(module: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Compute the bytes that autograd saves for the backward pass, each storage once, excluding parameters."""
    parameters = (
        {p.untyped_storage().data_ptr() for p in module.parameters()} if isinstance(module, nn.Module) else set()
    )
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            # Of a view all of its memory stays.
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(x)
    del y
    return sum(saved.values())


def time_in_rounds(
    functions: Mapping[str, Callable[[], object]], *, threads: int, seconds: float
) -> tuple[dict[str, list[float]], float]:
    """Time functions in rounds, each function once per round.

    Args:
        functions: Functions to time, by name.
        threads: Number of threads of each; with one, CPU time is measured instead of wall-clock time.
        seconds: Duration; at least :data:`MIN_ROUNDS` rounds are measured.

    Returns:
        Seconds per call by name, one value per round used; and the largest share of these rounds that a thread waited
        for a core. Used are the rounds with a share of at most :data:`MAX_WAIT`, or the :data:`MIN_ROUNDS` best.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    counts = {}
    for name, function in functions.items():
        function()
        begin = time.perf_counter()
        function()
        counts[name] = max(1, round(SAMPLE / max(time.perf_counter() - begin, 1e-9)))
    names, order = list(functions), random.Random(0)
    taken: list[tuple[float, dict[str, float]]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(taken) < MIN_ROUNDS:
        times, share = {}, 0.0
        # The previous function determines the contents of the caches, so the order is random.
        order.shuffle(names)
        for name in names:
            function = functions[name]
            waited, begin = _waited(), clock()
            for _ in range(counts[name]):
                function()
            took = clock() - begin
            times[name] = took / counts[name]
            if threads > 1:
                share = max(share, (_waited() - waited) / took)
        taken.append((share, times))
    taken.sort(key=lambda pair: pair[0])
    used = [pair for place, pair in enumerate(taken) if place < MIN_ROUNDS or pair[0] <= MAX_WAIT]
    return {name: [times[name] for _, times in used] for name in functions}, used[-1][0]


def ratios(times: Sequence[float], references: Sequence[float]) -> list[float]:
    """Compute the ratio of two times per round."""
    return [a / b for a, b in zip(times, references, strict=True)]


def _waited() -> float:
    """Return the seconds that the threads of this process have waited for a core; 0 if not available."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total / 1e9
