"""Benchmark of the norms against the corresponding PyTorch modules, on this machine."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from normscope.cli.costs.timing import Measurement, passes, ratios, saved_bytes, settings, time_in_rounds
from normscope.norms import NORMS

SHAPES = ((4, 1000), (64, 1000), (4096, 256), (4096, 1024), (2048, 4096), (16384, 768))
"""Rows and widths: a recurrent step, a small batch, and four sizes of activations."""

TORCH: dict[str, Callable[..., nn.Module]] = {"rms_norm": nn.RMSNorm, "batch_norm": nn.BatchNorm1d}
"""Reference module per norm; for all others it is ``nn.LayerNorm`` with weight and bias."""


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
class NormCosts(Measurement):
    """The costs of several norms, with the settings of the measurement."""

    costs: tuple[NormCost, ...]


def bench_norms(
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
        seconds: Duration per shape and dtype; a few rounds are measured in any case.
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
        return NormCosts(**settings(threads, longest_wait), costs=tuple(measured))
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
