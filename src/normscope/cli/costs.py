"""What every norm costs on this machine, beside what a user would pick instead, in one run.

Competitors take turns, in another order every time, and a ratio is the median over the turns, so that whatever else the
machine does meanwhile, and what the one before leaves in the caches, meets all of them alike. Only ratios are to be
compared between machines; times are of this one.
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
"""What PyTorch has instead; for every other norm that is ``nn.LayerNorm`` with gain and bias."""

SAMPLE = 2e-4
"""Seconds that one timed sample takes at least: a small call is repeated."""
WAITED = 0.03
"""The share of a sample that its threads may have waited for a core; a turn with more is dropped."""
LEAST = 7
"""Turns that are kept at least."""


@dataclass(frozen=True, kw_only=True)
class NormCost:
    """One norm at one shape."""

    norm: str
    rows: int
    width: int
    dtype: str
    forward_us: float
    """Median, with autograd recording."""
    backward_us: float
    """Median, with the gradients of the parameters."""
    against: str
    """What the ratios are to."""
    forward_ratio: float
    backward_ratio: float
    ratio: float
    """Of forward and backward together: below 1 is faster."""
    quartiles: tuple[float, float]
    """Of ``ratio`` over the turns."""
    forward_limit: float
    """Time of copying the input, allocation included, over ours: 1 is the limit."""
    backward_limit: float
    """Time of adding two such tensors over ours."""
    saved_bytes: int
    """Kept for the backward pass, the input included."""


@dataclass(frozen=True, kw_only=True)
class NormCosts:
    """What was measured, and on what."""

    backend: str
    threads: int
    device: str
    torch: str
    malloc: bool
    """Whether glibc was told to keep large blocks; without, large tensors measure the system's page faults."""
    waited: float
    """The largest share of a kept turn that some thread waited for a core: above 0.03 the machine was busy."""
    costs: tuple[NormCost, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
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
    """Measure norms, forward and backward.

    Args:
        norms: Keys of ``NORMS``.
        shapes: Rows and widths.
        dtypes: Of input and parameters.
        threads: One is timed by the time its thread computes, several by the clock, without the samples in which a
            thread had to wait for a core.
        seconds: How long every shape in every dtype is measured, at least :data:`LEAST` turns.
        callback: Told how many shapes, in how many dtypes, are done.

    Returns:
        The costs, in the order of shapes, dtypes and norms.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cases = [(shape, dtype) for shape in shapes for dtype in dtypes]
        found: list[NormCost] = []
        most = 0.0
        for number, ((rows, width), dtype) in enumerate(cases):
            if callback:
                callback(number)
            costs, waited = _at_shape(norms, rows, width, dtype, threads, seconds)
            found += costs
            most = max(most, waited)
        if callback:
            callback(len(cases))
        return NormCosts(
            backend=describe(torch.device("cpu")),
            threads=threads,
            device=torch.backends.cpu.get_cpu_capability(),
            torch=torch.__version__,
            malloc=all(os.environ.get(f"MALLOC_{name}_THRESHOLD_") for name in ("MMAP", "TRIM")),
            waited=most,
            costs=tuple(found),
        )
    finally:
        torch.set_num_threads(before)


def _at_shape(
    norms: Sequence[str], rows: int, width: int, dtype: torch.dtype, threads: int, seconds: float
) -> tuple[list[NormCost], float]:
    """Measure all norms at one shape in turns, with their yardsticks and the limits."""
    x = torch.randn(rows, width, dtype=dtype).requires_grad_()
    upstream = torch.randn(rows, width, dtype=dtype)
    modules: dict[str, nn.Module] = {"nn.LayerNorm": nn.LayerNorm(width, dtype=dtype)}
    against = {name: f"nn.{TORCH[name].__name__}" if name in TORCH else "nn.LayerNorm" for name in norms}
    modules |= {against[name]: TORCH[name](width, dtype=dtype) for name in norms if name in TORCH}
    modules |= {name: NORMS[name](width).to(dtype) for name in norms if name != "frn"}
    functions: dict[str, Callable[[], object]] = {
        "copy": lambda: x.detach().clone(),
        "add": lambda: torch.add(x.detach(), upstream),
    }
    for name, module in modules.items():
        functions |= {f"{name} {part}": one for part, one in parts(module, x, upstream).items()}
    times, waited = turns(functions, threads=threads, seconds=seconds)
    found = []
    for name in norms:
        if name not in modules:
            continue
        ours = {part: times[f"{name} {part}"] for part in ("forward", "backward", "both")}
        theirs = {part: times[f"{against[name]} {part}"] for part in ours}
        ratio = {part: ratios(ours[part], theirs[part]) for part in ours}
        quartiles = statistics.quantiles(ratio["both"], n=4)
        found.append(
            NormCost(
                norm=name,
                rows=rows,
                width=width,
                dtype=str(dtype).removeprefix("torch."),
                forward_us=statistics.median(ours["forward"]) * 1e6,
                backward_us=statistics.median(ours["backward"]) * 1e6,
                against=against[name],
                forward_ratio=statistics.median(ratio["forward"]),
                backward_ratio=statistics.median(ratio["backward"]),
                ratio=statistics.median(ratio["both"]),
                quartiles=(quartiles[0], quartiles[2]),
                forward_limit=statistics.median(ratios(times["copy"], ours["forward"])),
                backward_limit=statistics.median(ratios(times["add"], ours["backward"])),
                saved_bytes=saved_bytes(modules[name], x),
            )
        )
    return found, waited


def parts(module: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> dict[str, Callable[[], object]]:
    """Give the forward pass, the backward pass and both, as functions of nothing.

    Args:
        module: A module, or a function of ``x`` without parameters.
        x: The input, which requires a gradient.
        upstream: The gradient of its output.

    Raises:
        ValueError: If the output depends on nothing that has a gradient.
    """
    inputs = [x, *(module.parameters() if isinstance(module, nn.Module) else ())]
    y = module(x)
    if not y.requires_grad:
        raise ValueError(f"{module} gives nothing to differentiate")
    return {
        "forward": lambda: module(x),
        "backward": lambda: torch.autograd.grad(y, inputs, upstream, retain_graph=True),
        "both": lambda: torch.autograd.grad(module(x), inputs, upstream),
    }


def saved_bytes(module: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Count the bytes that autograd keeps for the backward pass, each storage once, without the parameters."""
    parameters = (
        {p.untyped_storage().data_ptr() for p in module.parameters()} if isinstance(module, nn.Module) else set()
    )
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = max(kept.get(storage.data_ptr(), 0), tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(x)
    del y
    return sum(kept.values())


def turns(
    functions: Mapping[str, Callable[[], object]], *, threads: int, seconds: float
) -> tuple[dict[str, list[float]], float]:
    """Time functions in turns.

    Args:
        functions: What is timed, by name.
        threads: How many threads each uses; says which clock is right.
        seconds: How long to go on, for seven turns at least.

    Returns:
        Seconds a call, by name, one of every turn that is kept; and the largest share of such a turn that some thread
        waited for a core. Kept are the turns with at most :data:`WAITED`, or the seven best.
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
    while time.monotonic() < end or len(taken) < LEAST:
        turn, share = {}, 0.0
        # What comes before leaves the caches full of its own: everybody comes after everybody.
        order.shuffle(names)
        for name in names:
            function = functions[name]
            waited, begin = _waited(), clock()
            for _ in range(counts[name]):
                function()
            took = clock() - begin
            turn[name] = took / counts[name]
            if threads > 1:
                share = max(share, (_waited() - waited) / took)
        taken.append((share, turn))
    taken.sort(key=lambda one: one[0])
    kept = [one for place, one in enumerate(taken) if place < LEAST or one[0] <= WAITED]
    return {name: [turn[name] for _, turn in kept] for name in functions}, kept[-1][0]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Divide turn by turn."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def _waited() -> float:
    """Give the seconds that the threads of this process have waited for a core; 0 where the system does not say."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total / 1e9
