"""Recurrent layers with layer normalization beside PyTorch's without any: ``./run bench recurrent``.

Forward and backward pass of one layer on a CPU, interleaved (A B A B), medians over rounds, as ratios to PyTorch's
layer. Input and hidden sizes are equal. Then: the steps written out, the same steps scripted (``torch.jit.script``,
which PyTorch calls deprecated) and with a compiled cell; the memory of one forward and backward pass; one step of a
stream; packed sequences of very different lengths. Under six minutes on two quiet cores; ``--quick`` takes about one.
"""

import argparse
import ctypes
import gc
import math
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from normscope import GRU, LSTM, RNN
from normscope.kernels.backends import cpu
from normscope.recurrent import LSTMCell

SHAPES = ((8, 256), (64, 256), (8, 400), (64, 400), (8, 1024), (1, 256), (256, 128))
Make = Callable[[int], nn.Module]
OURS: dict[str, tuple[str, Make]] = {
    "LN-LSTM": ("nn.LSTM", lambda size: LSTM(size, size)),
    "RMS-LSTM": ("nn.LSTM", lambda size: LSTM(size, size, norm="rms_norm")),
    "AdaNorm-LSTM": ("nn.LSTM", lambda size: LSTM(size, size, norm="ada_norm")),
    "LN-GRU": ("nn.GRU", lambda size: GRU(size, size)),
    "LN-RNN": ("nn.RNN", lambda size: RNN(size, size)),
}
"""Layers, and the one of PyTorch that each is compared with."""
TORCH: dict[str, Make] = {
    "nn.LSTM": lambda size: nn.LSTM(size, size),
    "nn.GRU": lambda size: nn.GRU(size, size),
    "nn.RNN": lambda size: nn.RNN(size, size),
}


class WrittenOut(nn.Module):
    """One layer of an LSTM with layer normalization, as a user would write it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.ih, self.hh = nn.Linear(size, 4 * size, bias=False), nn.Linear(size, 4 * size)
        self.norm_ih, self.norm_hh, self.norm_c = nn.LayerNorm(4 * size), nn.LayerNorm(4 * size), nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[T, B, size]`` to the same shape."""
        h = torch.zeros(x.shape[1], self.ih.in_features)
        c = torch.zeros_like(h)
        outputs = []
        for x_t in x.unbind(0):
            h, c = self.step(x_t, h, c)
            outputs.append(h)
        return torch.stack(outputs)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the next states."""
        i, f, g, o = (self.norm_ih(self.ih(x)) + self.norm_hh(self.hh(h))).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.norm_c(c)), c


def measure(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Time calls in turn; return the median of each in milliseconds, the first round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return {name: 1e3 * statistics.median(taken[1:]) for name, taken in seconds.items()}


def step(layer: nn.Module, x: Any, upstream: Tensor) -> Callable[[], None]:
    """Return a call of a layer, forward and backward."""
    leaf = x if isinstance(x, Tensor) else x.data

    def call() -> None:
        output = layer(x)
        output = output if isinstance(output, Tensor) else output[0]
        (output if isinstance(output, Tensor) else output.data).backward(upstream)
        layer.zero_grad(set_to_none=True)
        leaf.grad = None

    return call


def inputs(steps: int, batch: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Draw an input with a gradient, and an upstream gradient."""
    return torch.randn(steps, batch, size, dtype=dtype, requires_grad=True), torch.randn(
        steps, batch, size, dtype=dtype
    )


def table(columns: list[str]) -> None:
    """Print the head of a table."""
    print(f"\n| {' | '.join(columns)} |\n| {' | '.join('---' for _ in columns)} |")


def layers(threads: int, steps: int, dtype: torch.dtype, rounds: int, names: list[str]) -> None:
    """Print times of layers, and geometric means of the ratios."""
    wanted = list(dict.fromkeys(OURS[name][0] for name in names))
    table(["threads", "T", "dtype", "B", "H", *(f"{name}, ms" for name in wanted), *names])
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for batch, size in SHAPES:
        x, upstream = inputs(steps, batch, size, dtype)
        makes = {**{name: TORCH[name] for name in wanted}, **{name: OURS[name][1] for name in names}}
        built = {name: make(size).to(dtype) for name, make in makes.items()}
        taken = measure({name: step(layer, x, upstream) for name, layer in built.items()}, rounds)
        for name in names:
            assert built[name].computed_by == "cpu"
            ratios[name].append(taken[name] / taken[OURS[name][0]])
        cells = [f"{taken[name]:.1f}" for name in wanted] + [f"{ratios[name][-1]:.2f}" for name in names]
        print(f"| {threads} | {steps} | {str(dtype)[6:]} | {batch} | {size} | {' | '.join(cells)} |", flush=True)
    means = [f"{math.exp(statistics.fmean(map(math.log, ratios[name]))):.2f}" for name in names]
    print(f"| | | | | geometric mean |{' |' * len(wanted)} {' | '.join(means)} |", flush=True)


def loops(rounds: int, shapes: tuple[tuple[int, int], ...]) -> None:
    """Print times of the steps written out, as ratios to those of the kernels."""
    table(["T", "B", "H", "LN-LSTM, ms", "loop", "loop, scripted", "loop, cell compiled"])
    for batch, size in shapes:
        x, upstream = inputs(100, batch, size, torch.float32)
        compiled = WrittenOut(size)
        compiled.step = torch.compile(compiled.step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            scripted = torch.jit.script(WrittenOut(size))
        modules = {"ours": LSTM(size, size), "loop": WrittenOut(size), "scripted": scripted, "compiled": compiled}
        calls = {name: step(module, x, upstream) for name, module in modules.items()}
        for _ in range(2):  # a scripted loop is compiled in its second call
            for call in calls.values():
                call()
        taken = measure(calls, rounds)
        ratios = [f"{taken[name] / taken['ours']:.2f}" for name in ("loop", "scripted", "compiled")]
        print(f"| 100 | {batch} | {size} | {taken['ours']:.1f} | {' | '.join(ratios)} |", flush=True)


def resident(field: str) -> int:
    """Return a size of this process in bytes: ``VmRSS``, or ``VmHWM``, the most since :func:`forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def forget() -> None:
    """Give freed memory back, and count the most from here."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def memory(steps: int) -> None:
    """Print resident memory in sizes of the output: after the forward pass, and the most until backward's end."""
    if not sys.platform.startswith("linux"):
        print("\nmemory: not measured, Linux only")
        return
    table(["T", "B", "H", "layer", "kept after forward, in outputs", "most, in outputs", "most, of PyTorch's"])
    for batch, size in ((64, 256), (8, 1024), (256, 128)):
        x, upstream = inputs(steps, batch, size, torch.float32)
        most: dict[str, float] = {}
        for name, make in {**TORCH, **{name: make for name, (_, make) in OURS.items()}}.items():
            layer = make(size)
            step(layer, x, upstream)()
            forget()
            before = resident("VmRSS")
            output = layer(x)[0]
            kept = resident("VmRSS") - before
            output.backward(upstream)
            most[name] = (resident("VmHWM") - before) / upstream.nbytes
            x.grad, output = None, None
            ratio = f"{most[name] / most[OURS[name][0]]:.2f}" if name in OURS else ""
            print(
                f"| {steps} | {batch} | {size} | {name} | {kept / upstream.nbytes:.1f} | {most[name]:.1f} | {ratio} |"
            )


def stream(rounds: int) -> None:
    """Print times of one step of one sequence, without gradients."""
    table(["H", "nn.LSTMCell, us", "normscope.LSTMCell", "normscope.LSTM, T = 1", "nn.LSTM, T = 1"])
    for size in (128, 256, 400):
        x, h, c = (torch.randn(1, size) for _ in range(3))
        cells: dict[str, Any] = {"nn": nn.LSTMCell(size, size), "ours": LSTMCell(size, size)}
        whole: dict[str, Any] = {"layer": LSTM(size, size), "nn layer": nn.LSTM(size, size)}
        with torch.no_grad():
            calls = {name: partial(cell, x, (h, c)) for name, cell in cells.items()}
            calls |= {name: partial(layer, x[None], (h[None], c[None])) for name, layer in whole.items()}
            taken = measure(calls, rounds)
        ratios = [f"{taken[name] / taken['nn']:.2f}" for name in ("ours", "layer", "nn layer")]
        print(f"| {size} | {1e3 * taken['nn']:.1f} | {' | '.join(ratios)} |", flush=True)


def packed(rounds: int) -> None:
    """Print times of packed sequences whose lengths fall from T to one geometrically, as shares of padded ones."""
    table(["T", "B", "H", "tokens, share", "LN-LSTM, share of its time", "nn.LSTM, share of its time"])
    steps, batch, size = 400, 32, 256
    lengths = torch.logspace(math.log10(steps), 0, batch).long()
    x, upstream = inputs(steps, batch, size, torch.float32)
    short = pack_padded_sequence(x.detach(), lengths)
    short.data.requires_grad_()
    calls: dict[str, Callable[[], None]] = {}
    for name, layer in {"ours": LSTM(size, size), "nn": nn.LSTM(size, size)}.items():
        calls[name] = step(layer, x, upstream)
        calls[f"{name} packed"] = step(layer, short, torch.randn(int(lengths.sum()), size))
    taken = measure(calls, rounds)
    shares = [int(lengths.sum()) / (steps * batch), *(taken[f"{name} packed"] / taken[name] for name in ("ours", "nn"))]
    print(f"| {steps} | {batch} | {size} | {' | '.join(f'{share:.2f}' for share in shares)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="./run bench recurrent", description=__doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=[100, 400], help="lengths of the sequences")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="numbers of threads")
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"], help="dtypes")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every cell; 3 at more than 100 steps")
    parser.add_argument("--quick", action="store_true", help="one thread, 100 steps, float32, three rounds")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.threads, options.dtypes, options.rounds = [100], [1], ["float32"], 3
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {cpu.load().description}")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for dtype in options.dtypes:
            for steps in options.steps:
                whole = steps <= 100 and dtype == "float32"
                rounds = options.rounds if whole else min(3, options.rounds)
                layers(threads, steps, getattr(torch, dtype), rounds, list(OURS) if whole else ["LN-LSTM"])
    torch.set_num_threads(1)
    memory(100)
    stream(1000)
    packed(options.rounds)
    loops(options.rounds, ((8, 256),) if options.quick else ((8, 256), (64, 256), (8, 400)))


if __name__ == "__main__":
    main()
