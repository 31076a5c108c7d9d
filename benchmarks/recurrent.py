"""LSTM and GRU with layer normalization beside PyTorch's without any: ``./run bench recurrent``.

Forward and backward pass of one layer on a CPU, interleaved (A B A B), medians over rounds, as ratios to PyTorch's
layer; the steps written out, and the same steps scripted, for comparison. Input and hidden sizes are equal.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normscope import GRU, LSTM
from normscope.kernels.backends import cpu

SHAPES = ((8, 256), (64, 256), (8, 400), (64, 400), (8, 1024), (1, 256), (256, 128))


class ScriptedCell(nn.Module):
    """One layer of an LSTM with layer normalization, as a user would write it for ``torch.jit.script``."""

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
            gates = self.norm_ih(self.ih(x_t)) + self.norm_hh(self.hh(h))
            i, f, g, o = gates.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.norm_c(c))
            outputs.append(h)
        return torch.stack(outputs)


def measure(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Time calls in turn; return the median of each in milliseconds, the first round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return {name: 1e3 * statistics.median(taken[1:]) for name, taken in seconds.items()}


def step(layer: nn.Module, x: Tensor, upstream: Tensor) -> Callable[[], None]:
    """Return a call of a layer, forward and backward."""

    def call() -> None:
        output = layer(x)
        (output if isinstance(output, Tensor) else output[0]).backward(upstream)
        layer.zero_grad(set_to_none=True)
        x.grad = None

    return call


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="./run bench recurrent", description=__doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=[100, 400], help="lengths of the sequences")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="numbers of threads")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of every cell")
    parser.add_argument("--scripted", action="store_true", help="time the scripted steps, too: minutes")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {cpu.load().description}")
    print("| threads | T | B | H | nn.LSTM, ms | LN-LSTM | RMS-LSTM | AdaNorm-LSTM | scripted | nn.GRU, ms | LN-GRU |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for steps in options.steps:
            for batch, size in SHAPES:
                x, upstream = torch.randn(steps, batch, size, requires_grad=True), torch.randn(steps, batch, size)
                layers: dict[str, nn.Module] = {
                    "lstm": nn.LSTM(size, size),
                    "layer": LSTM(size, size),
                    "rms": LSTM(size, size, norm="rms_norm"),
                    "ada": LSTM(size, size, norm="ada_norm"),
                    "gru": nn.GRU(size, size),
                    "layer gru": GRU(size, size),
                }
                if options.scripted:
                    layers["scripted"] = torch.jit.script(ScriptedCell(size))
                taken = measure({name: step(layer, x, upstream) for name, layer in layers.items()}, options.rounds)
                lstm, gru = taken["lstm"], taken["gru"]
                scripted = f"{taken['scripted'] / lstm:.2f}" if options.scripted else ""
                print(
                    f"| {threads} | {steps} | {batch} | {size} | {lstm:.1f} | {taken['layer'] / lstm:.2f} | "
                    f"{taken['rms'] / lstm:.2f} | {taken['ada'] / lstm:.2f} | {scripted} | {gru:.1f} | "
                    f"{taken['layer gru'] / gru:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
