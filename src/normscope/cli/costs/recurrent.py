"""Benchmark of recurrent layers with norms beside PyTorch's without any, on this machine."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.cli.costs.timing import Measurement, passes, ratios, saved_bytes, settings, time_in_rounds
from normscope.registry import look_up
from normscope.surgery.recurrent import RECURRENT, read_recurrent_target

CELLS: dict[str, Callable[..., nn.Module]] = {
    key: kind for key, kind in RECURRENT.items() if issubclass(kind, nn.RNNBase) and f"ln_{key}" in RECURRENT
}
"""PyTorch's layers by the names of the command line."""


class FirstOutput(nn.Module):
    """A recurrent layer that returns its outputs without the final state.

    Args:
        layer: Any recurrent layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[T, B, I]`` to ``[T, B, H]``."""
        return self.layer(x)[0]


@dataclass(frozen=True, kw_only=True)
class RecurrentCost:
    """The cost of one recurrent layer at one size."""

    cell: str
    """``rnn``, ``lstm`` or ``gru``."""
    norm: str | None
    """The norm inside; None for PyTorch's layer."""
    batch: int
    hidden: int
    """Number of units, and of inputs."""
    steps: int
    dtype: str
    computed_by: str
    """What ran: ``torch``, ``cpu`` for the kernels, or ``loop`` with the reason."""
    forward_ms: float
    """Median time of the forward pass, with autograd recording."""
    backward_ms: float
    """Median time of the backward pass, including the gradients of the parameters."""
    forward_ratio: float
    """Ratio to PyTorch's layer."""
    backward_ratio: float
    ratio: float
    """Ratio of forward and backward together; below 1 means faster than PyTorch's layer."""
    quartiles: tuple[float, float]
    """Quartiles of ``ratio`` over the rounds."""
    saved_bytes: int
    """Bytes saved for the backward pass, including the input."""
    memory_ratio: float
    """``saved_bytes`` over that of PyTorch's layer."""


@dataclass(frozen=True, kw_only=True)
class RecurrentCosts(Measurement):
    """The costs of several recurrent layers, with the settings of the measurement."""

    costs: tuple[RecurrentCost, ...]


def bench_recurrent(
    cells: Sequence[str],
    norms: Sequence[str],
    sizes: Sequence[tuple[int, int, int]],
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    *,
    threads: int = 1,
    seconds: float = 1.0,
    callback: Callable[[int], None] | None = None,
) -> RecurrentCosts:
    """Measure the forward and backward passes of recurrent layers.

    Args:
        cells: Keys of :data:`CELLS`.
        norms: Norms inside, such as ``layer_norm`` or ``ada_norm(scale=2.0)``.
        sizes: Batch, hidden size, which is also that of the input, and number of steps.
        dtypes: Dtypes of input and parameters.
        threads: Number of threads, timed as the norms are.
        seconds: Duration per cell, size and dtype.
        callback: Called with the number of finished ones.

    Returns:
        The costs, in the order of cells, sizes, dtypes and norms, PyTorch's layer first.

    Raises:
        UnknownName: If there is no such cell or norm.
        ValueError: If a norm does not fit into a recurrent layer.
    """
    kinds = {cell: look_up("cell", CELLS, cell) for cell in cells}
    # Only batch norm needs the number of steps.
    longest = max(steps for _, _, steps in sizes)
    targets = {
        (cell, norm): read_recurrent_target(f"ln_{cell}(norm={norm!r}, batch_norm_steps={longest})")
        for cell, norm in itertools.product(cells, norms)
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        measured: list[RecurrentCost] = []
        longest_wait = 0.0
        for number, (cell, size, dtype) in enumerate(itertools.product(cells, sizes, dtypes)):
            _, hidden, _ = size
            layers: dict[str | None, nn.Module] = {None: kinds[cell](hidden, hidden, dtype=dtype)}
            for norm in norms:
                target = targets[cell, norm]
                layers[norm] = target.make(hidden, hidden, dtype=dtype, **target.arguments)
            costs, waited = _at_size(cell, size, dtype, layers, threads, seconds)
            measured += costs
            longest_wait = max(longest_wait, waited)
            if callback:
                callback(number + 1)
        return RecurrentCosts(**settings(threads, longest_wait), costs=tuple(measured))
    finally:
        torch.set_num_threads(before)


def _at_size(
    cell: str,
    size: tuple[int, int, int],
    dtype: torch.dtype,
    layers: dict[str | None, Any],
    threads: int,
    seconds: float,
) -> tuple[list[RecurrentCost], float]:
    """Measure layers in turn; that of the key None is the one of the ratios."""
    batch, hidden, steps = size
    x = torch.randn(steps, batch, hidden, dtype=dtype).requires_grad_()
    upstream = torch.randn(steps, batch, hidden, dtype=dtype)
    functions = {
        f"{norm} {part}": function
        for norm, layer in layers.items()
        for part, function in passes(FirstOutput(layer), x, upstream).items()
    }
    times, waited = time_in_rounds(functions, threads=threads, seconds=seconds)
    memory = {norm: saved_bytes(FirstOutput(layer), x) for norm, layer in layers.items()}
    costs = []
    for norm, layer in layers.items():
        taken = {part: times[f"{norm} {part}"] for part in ("forward", "backward", "both")}
        ratio = {part: ratios(taken[part], times[f"{None} {part}"]) for part in taken}
        quartiles = statistics.quantiles(ratio["both"], n=4)
        costs.append(
            RecurrentCost(
                cell=cell,
                norm=norm,
                batch=batch,
                hidden=hidden,
                steps=steps,
                dtype=str(dtype).removeprefix("torch."),
                computed_by=getattr(layer, "computed_by", "torch"),
                forward_ms=statistics.median(taken["forward"]) * 1e3,
                backward_ms=statistics.median(taken["backward"]) * 1e3,
                forward_ratio=statistics.median(ratio["forward"]),
                backward_ratio=statistics.median(ratio["backward"]),
                ratio=statistics.median(ratio["both"]),
                quartiles=(quartiles[0], quartiles[2]),
                saved_bytes=memory[norm],
                memory_ratio=memory[norm] / memory[None],
            )
        )
    return costs, waited
