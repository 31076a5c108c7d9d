"""Recurrent layers on a GPU beside what a user would pick instead: ``./run --here bench recurrent_gpu``.

First every layer is checked against the steps in float64, and its replay in a CUDA graph against its bits: the times of
a wrong one mean nothing and are not taken. Then the forward and backward pass of one layer are timed, interleaved (A B
A B), medians over rounds of wall time with the device synchronized. cuDNN's layers have no norm; the loop is an LSTM
with layer normalization as a user writes it in torch. FlashRNN (without norms) and haste are timed where they are
installed. Input and hidden sizes are equal.
"""

import argparse
import copy
import importlib.metadata
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normscope import GRU, LSTM, RNN

SHAPES = ((8, 256), (64, 256), (8, 400), (64, 400), (8, 1024), (1, 256), (256, 128))
CHECKED = ((5, 100), (33, 128), (17, 64), (9, 400), (3, 1024))
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
ALLOWED = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float32: 1e-3}
"""Largest error of a result, as a part of its largest entry."""


class Settings(NamedTuple):
    """What is measured."""

    shapes: Sequence[tuple[int, int]] = SHAPES
    """Batch and hidden size."""
    steps: Sequence[int] = (100, 400)
    dtypes: Sequence[str] = ("bfloat16", "float32")
    rounds: int = 11
    checked: Sequence[tuple[int, int]] = CHECKED
    checked_steps: int = 20
    compiles: bool = False
    """Whether the compiled step is timed, too."""


class Loop(nn.Module):
    """One layer of an LSTM with layer normalization, as a user would write it."""

    def __init__(self, size: int, compiles: bool = False) -> None:
        super().__init__()
        self.ih, self.hh = nn.Linear(size, 4 * size, bias=False), nn.Linear(size, 4 * size)
        self.norm_ih, self.norm_hh, self.norm_c = nn.LayerNorm(4 * size), nn.LayerNorm(4 * size), nn.LayerNorm(size)
        self.step: Callable[..., tuple[Tensor, Tensor]] = torch.compile(self._step) if compiles else self._step

    def _step(self, part: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (part + self.norm_hh(self.hh(h))).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.norm_c(c)), c

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[T, B, size]`` to the same shape."""
        h = c = x.new_zeros(x.shape[1], self.hh.in_features)
        outputs = []
        for part in self.norm_ih(self.ih(x)).unbind(0):
            h, c = self.step(part, h, c)
            outputs.append(h)
        return torch.stack(outputs)


class FlashRNN(nn.Module):
    """FlashRNN's LSTM, which has no norm, after the product with the input."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.ih = size, nn.Linear(size, 4 * size, bias=False)
        self.weights = nn.Parameter(torch.randn(4, 1, size, size) / size**0.5)
        self.bias = nn.Parameter(torch.zeros(4, 1, size))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[T, B, size]`` to the same shape."""
        from flashrnn import flashrnn  # pyright: ignore[reportMissingImports]

        part = self.ih(x).transpose(0, 1).unflatten(-1, (4, 1, self.size)).contiguous()
        states, _ = flashrnn(part, self.weights, self.bias, function="lstm", backend="cuda_fused", dtype="bfloat16")
        return states[0].squeeze(2).transpose(0, 1)


def haste(size: int) -> nn.Module:
    import haste_pytorch  # pyright: ignore[reportMissingImports]

    return haste_pytorch.LayerNormLSTM(size, size)


def candidates(size: int, dtype: torch.dtype, settings: Settings) -> dict[str, Callable[[], nn.Module]]:
    """List what is timed, each made when its turn comes; ratios are to the first of its cell."""
    made: dict[str, Callable[[], nn.Module]] = {
        "nn.LSTM": lambda: nn.LSTM(size, size),
        "LSTM": lambda: LSTM(size, size),
        "LSTM, rms_norm": lambda: LSTM(size, size, norm="rms_norm"),
        "LSTM, ada_norm": lambda: LSTM(size, size, norm="ada_norm"),
        "torch loop": lambda: Loop(size),
        "nn.GRU": lambda: nn.GRU(size, size),
        "GRU": lambda: GRU(size, size),
        "nn.RNN": lambda: nn.RNN(size, size),
        "RNN": lambda: RNN(size, size),
    }
    if settings.compiles:
        made["torch loop, compiled step"] = lambda: Loop(size, compiles=True)
    if importlib.util.find_spec("flashrnn") and dtype == torch.bfloat16:
        made["FlashRNN"] = lambda: FlashRNN(size)
    if importlib.util.find_spec("haste_pytorch") and dtype == torch.float32:
        made["haste LSTM"] = lambda: haste(size)
    return made


def output_of(layer: nn.Module, x: Tensor) -> Tensor:
    output = layer(x)
    return output if isinstance(output, Tensor) else output[0]


def results(layer: nn.Module, x: Tensor, upstream: Tensor) -> list[Tensor]:
    """Return the output and all gradients."""
    x = x.clone().requires_grad_()
    output = output_of(layer, x)
    return [output.detach(), *torch.autograd.grad(output, [x, *layer.parameters()], upstream)]


def check(settings: Settings, device: torch.device) -> list[str]:
    """Compare the layers with the steps in float64, and a replay of a CUDA graph with its first run; list errors."""
    wrong = []
    kinds = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}
    for name, kind in kinds.items():
        for (batch, size), dtype in ((shape, DTYPES[dtype]) for shape in settings.checked for dtype in settings.dtypes):
            torch.manual_seed(0)
            layer = kind(size, size).to(dtype)
            x, upstream = (torch.randn(settings.checked_steps, batch, size).to(dtype) for _ in range(2))
            exact = results(copy.deepcopy(layer).double(), x.double(), upstream.double())
            layer = layer.to(device)
            got = results(layer, x.to(device), upstream.to(device))
            where = f"{name}, batch {batch}, hidden {size}, {dtype}"
            if device.type == "cuda" and layer.computed_by != "triton":
                wrong.append(f"{where}: computed by {layer.computed_by}")
            for index, (one, true) in enumerate(zip(got, exact, strict=True)):
                error = float((one.cpu().double() - true).abs().max() / true.abs().max())
                if not error <= ALLOWED[dtype]:
                    wrong.append(f"{where}: result {index} is off by {error:.3g} of its largest entry")
            if device.type == "cuda" and not replays(layer, x.to(device)):
                wrong.append(f"{where}: a replay of its CUDA graph has other bits")
    return wrong


def replays(layer: nn.Module, x: Tensor) -> bool:
    """Return whether a replay of a captured forward pass follows its input."""
    with torch.no_grad():
        want = output_of(layer, x)
        graph, placed = torch.cuda.CUDAGraph(), torch.zeros_like(x)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            output_of(layer, placed)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            captured = output_of(layer, placed)
        placed.copy_(x)
        graph.replay()
        return torch.equal(captured, want)


def measure(calls: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """Time calls in turn; return the median of each in milliseconds, the first round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            begin = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - begin)
    return {name: 1e3 * statistics.median(taken[1:]) for name, taken in seconds.items()}


def rows(settings: Settings, device: torch.device) -> Any:
    """Time all candidates at every shape; yield a row of the table for each."""
    for dtype in settings.dtypes:
        for steps in settings.steps:
            for batch, size in settings.shapes:
                x, upstream = (torch.randn(steps, batch, size, device=device).to(DTYPES[dtype]) for _ in range(2))
                calls: dict[str, Callable[[], Any]] = {}
                missing = {}
                for name, make in candidates(size, DTYPES[dtype], settings).items():
                    try:
                        layer = make().to(device, DTYPES[dtype])
                        calls[name] = lambda layer=layer, x=x, upstream=upstream: results(layer, x, upstream)
                        calls[name]()
                    except Exception as error:
                        # A peer that cannot do this shape is a fact of the table, and no reason to lose the rest.
                        calls.pop(name, None)
                        missing[name] = type(error).__name__
                taken = measure(calls, settings.rounds, device)
                for name in candidates(size, DTYPES[dtype], settings):
                    of = taken.get(
                        f"nn.{name[-3:]}" if name[-3:] in ("GRU", "RNN") and "Flash" not in name else "nn.LSTM"
                    )
                    ratio = f"{taken[name] / of:.2f}" if name in taken and of else ""
                    shown = f"{taken[name]:.2f}" if name in taken else missing[name]
                    yield f"| {dtype} | {steps} | {batch} | {size} | {name} | {shown} | {ratio} |"


def bench(settings: Settings, device: torch.device, say: Callable[[str], None]) -> int:
    """Check and measure; return the exit status."""
    versions = [f"torch {torch.__version__}", f"CUDA {torch.version.cuda}"]
    if device.type == "cuda":
        versions.append(f"cuDNN {torch.backends.cudnn.version()}")
    for package in ("triton", "flashrnn", "haste-pytorch"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    say(f"{chip}, {datetime.now(UTC):%Y-%m-%d}, {', '.join(versions)}\n")
    wrong = check(settings, device)
    if wrong:
        say("Not timed, for the results are wrong:\n" + "\n".join(wrong))
        return 1
    say("| dtype | T | batch | hidden | layer | ms | times cuDNN's |\n| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows(settings, device):
        say(row)
    return 0


def main() -> int:
    """Print the table."""
    default = Settings()
    parser = argparse.ArgumentParser(prog="./run --here bench recurrent_gpu", description=__doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=default.steps, help="lengths of the sequences")
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, default=default.dtypes, help="dtypes")
    parser.add_argument("--rounds", type=int, default=default.rounds, help="rounds of every cell")
    parser.add_argument("--compiled", action="store_true", help="time the loop with a compiled step, too: minutes")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("recurrent_gpu: torch sees no GPU here; ./run bench recurrent measures on a CPU", file=sys.stderr)
        return 2
    settings = Settings(steps=options.steps, dtypes=options.dtypes, rounds=options.rounds, compiles=options.compiled)
    return bench(settings, torch.device("cuda"), lambda text: print(text, flush=True))


if __name__ == "__main__":
    sys.exit(main())
