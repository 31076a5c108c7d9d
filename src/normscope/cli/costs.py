"""Benchmark of the norms against the corresponding PyTorch modules, on this machine.

The functions are timed in rounds, in a new random order per round, and a ratio is the median over the rounds: load of
the machine and the state of the caches affect all functions alike. Only ratios are comparable between machines.
"""

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normscope.kernels import describe
from normscope.norms import NORMS

SHAPES = ((4, 1000), (64, 1000), (4096, 256), (4096, 1024), (2048, 4096), (16384, 768))
"""Rows and widths: a recurrent step, a small batch, and four sizes of activations."""

TORCH: dict[str, Callable[..., nn.Module]] = {"rms_norm": nn.RMSNorm, "batch_norm": nn.BatchNorm1d}
"""Reference module per norm; for all others it is ``nn.LayerNorm`` with weight and bias."""

SAMPLE = 2e-4
"""Minimum duration of a timed sample in seconds; short calls are repeated."""
MAX_WAIT = 0.03
"""Maximum share of a sample that a thread may wait for a core; rounds above it are dropped."""
MIN_ROUNDS = 7
"""Minimum number of rounds that are used."""


@dataclass(frozen=True, kw_only=True)
class NormCost:
    """The cost of one norm at one shape and dtype."""

    norm: str
    rows: int
    width: int
    dtype: str
    forward_us: float
    """Median time of the forward pass, with autograd recording."""
    backward_us: float
    """Median time of the backward pass, including the gradients of the parameters."""
    against: str
    """Reference module of the ratios."""
    forward_ratio: float
    backward_ratio: float
    ratio: float
    """Ratio of forward and backward together; below 1 means faster than the reference."""
    quartiles: tuple[float, float]
    """Quartiles of ``ratio`` over the rounds."""
    forward_limit: float
    """Time to copy the input, including allocation, divided by the norm's forward time."""
    backward_limit: float
    """Time to add two such tensors, divided by the norm's backward time."""
    saved_bytes: int
    """Bytes saved for the backward pass, including the input."""


@dataclass(frozen=True, kw_only=True)
class NormCosts:
    """The costs of several norms, with the settings of the measurement."""

    backend: str
    threads: int
    device: str
    torch: str
    malloc: bool
    """Whether glibc is configured to keep large blocks; otherwise the times of large tensors include page faults."""
    waited: float
    """Largest share of a round that a thread waited for a core; above :data:`MAX_WAIT` the machine was busy."""
    costs: tuple[NormCost, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the costs as JSON."""
        return asdict(self)


def bench(
    norms: Sequence[str],
    shapes: Sequence[tuple[int, int]] = SHAPES,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
    *,
    threads: int = 1,
    seconds: float = 1.0,
    callback: Callable[[int], None] | None = None,
) -> NormCosts:
    """Measure the forward and backward passes of norms.

    Args:
        norms: Keys of ``NORMS``.
        shapes: Pairs of rows and width.
        dtypes: Dtypes of input and parameters.
        threads: Number of threads. One thread is timed by its CPU time, several by wall-clock time, without the samples
            in which a thread waited for a core.
        seconds: Duration per shape and dtype; at least :data:`MIN_ROUNDS` rounds are measured.
        callback: Called with the number of finished pairs of shape and dtype.

    Returns:
        The costs, in the order of shapes, dtypes and norms.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cases = [(shape, dtype) for shape in shapes for dtype in dtypes]
        measured: list[NormCost] = []
        longest_wait = 0.0
        for number, ((rows, width), dtype) in enumerate(cases):
            if callback:
                callback(number)
            costs, waited = _at_shape(norms, rows, width, dtype, threads, seconds)
            measured += costs
            longest_wait = max(longest_wait, waited)
        if callback:
            callback(len(cases))
        return NormCosts(
            backend=describe(torch.device("cpu")),
            threads=threads,
            device=torch.backends.cpu.get_cpu_capability(),
            torch=torch.__version__,
            malloc=all(os.environ.get(f"MALLOC_{name}_THRESHOLD_") for name in ("MMAP", "TRIM")),
            waited=longest_wait,
            costs=tuple(measured),
        )
    finally:
        torch.set_num_threads(before)


def _at_shape(
    norms: Sequence[str], rows: int, width: int, dtype: torch.dtype, threads: int, seconds: float
) -> tuple[list[NormCost], float]:
    """Measure all norms at one shape, with their reference modules and the limits."""
    x = torch.randn(rows, width, dtype=dtype).requires_grad_()
    upstream = torch.randn(rows, width, dtype=dtype)
    modules: dict[str, nn.Module] = {"nn.LayerNorm": nn.LayerNorm(width, dtype=dtype)}
    against = {name: f"nn.{TORCH[name].__name__}" if name in TORCH else "nn.LayerNorm" for name in norms}
    modules |= {against[name]: TORCH[name](width, dtype=dtype) for name in norms if name in TORCH}
    modules |= {name: NORMS[name](width).to(dtype) for name in norms}
    # The rows are the positions of one sample for norms whose moments are over positions.
    one_sample = (x.detach()[None].requires_grad_(), upstream[None])
    given = {
        name: one_sample if getattr(module, "mixes_positions", False) else (x, upstream)
        for name, module in modules.items()
    }
    functions: dict[str, Callable[[], object]] = {
        "copy": lambda: x.detach().clone(),
        "add": lambda: torch.add(x.detach(), upstream),
    }
    for name, module in modules.items():
        functions |= {f"{name} {part}": function for part, function in passes(module, *given[name]).items()}
    times, waited = time_in_rounds(functions, threads=threads, seconds=seconds)
    costs = []
    for name in norms:
        measured = {part: times[f"{name} {part}"] for part in ("forward", "backward", "both")}
        ratio = {part: ratios(taken, times[f"{against[name]} {part}"]) for part, taken in measured.items()}
        quartiles = statistics.quantiles(ratio["both"], n=4)
        costs.append(
            NormCost(
                norm=name,
                rows=rows,
                width=width,
                dtype=str(dtype).removeprefix("torch."),
                forward_us=statistics.median(measured["forward"]) * 1e6,
                backward_us=statistics.median(measured["backward"]) * 1e6,
                against=against[name],
                forward_ratio=statistics.median(ratio["forward"]),
                backward_ratio=statistics.median(ratio["backward"]),
                ratio=statistics.median(ratio["both"]),
                quartiles=(quartiles[0], quartiles[2]),
                forward_limit=statistics.median(ratios(times["copy"], measured["forward"])),
                backward_limit=statistics.median(ratios(times["add"], measured["backward"])),
                saved_bytes=saved_bytes(modules[name], given[name][0]),
            )
        )
    return costs, waited


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
            saved[storage.data_ptr()] = max(saved.get(storage.data_ptr(), 0), tensor.numel() * tensor.element_size())
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
