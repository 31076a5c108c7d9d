"""The CPU kernels beside what a user would pick instead, and what is wanted of them: ``./run bench cpu``.

Every comparison is taken in turns in one process: forward and backward, medians of the ratios of every turn, one thread
by the time that it computes, two by the clock without the turns that had to wait. The two malloc variables are set, for
without them tensors of 16 MB and more measure the system's page faults. About fifteen minutes.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import normscope
from normscope.cli.bench import parts, ratios, turns
from normscope.cli.doctor import MALLOC
from normscope.files import write_atomically
from normscope.kernels import describe
from normscope.kernels.backends import cpu
from normscope.kernels.formula import CENTER, DETACH_MEAN, DETACH_STD, PHI, ROOT
from normscope.norms.ada_norm import ada_norm
from normscope.norms.detach_norm import detach_norm
from normscope.norms.layer_norm_simple import layer_norm_simple

SHAPES = [(4096, 256), (4096, 512), (4096, 1024), (2048, 4096), (16384, 768), (64, 1000), (4, 1000)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# What is wanted of a ratio, at most: by dtype for 2,048 rows and more, for 64 and for 4; None where nothing is asked.
WANTED: dict[tuple[str, str], dict[str, tuple[float | None, float | None, float | None]]] = {
    ("ada_norm", "nn.LayerNorm"): {"float32": (0.80, 0.60, 0.68), "bfloat16": (0.45, 0.55, 0.68)},
    ("layer_norm_simple", "nn.LayerNorm"): {"float32": (0.80, 0.60, 0.68), "bfloat16": (0.45, 0.55, 0.68)},
    ("detach_norm", "nn.LayerNorm"): {"float32": (0.72, None, None), "bfloat16": (0.32, None, None)},
    ("layer_norm", "nn.LayerNorm"): {"float32": (0.90, 1.0, 1.0), "bfloat16": (0.50, 1.0, 1.0)},
    ("rms_norm", "nn.RMSNorm"): {"float32": (1 / 4.5, None, None), "bfloat16": (1 / 9, None, None)},
    ("ada_norm", "released code"): {"float32": (1 / 10, 1 / 7, 1 / 5), "bfloat16": (1 / 15, 1 / 7, 1 / 5)},
    ("ada_norm", "compiled definition"): {"float32": (1.0, 1.0, 1.0), "bfloat16": (1.0, 1.0, 1.0)},
    ("layer_norm_simple", "compiled definition"): {"float32": (1.0, 1.0, 1.0), "bfloat16": (1.0, 1.0, 1.0)},
    ("detach_norm", "compiled definition"): {"float32": (1.0, 1.0, 1.0), "bfloat16": (1.0, 1.0, 1.0)},
    ("add + ada_norm, fused", "add + nn.LayerNorm"): {"float32": (0.75, 0.75, 0.75), "bfloat16": (0.60, 0.60, 0.60)},
    ("add + ada_norm, fused", "add + ada_norm"): {"float32": (1.0, 1.0, 1.0), "bfloat16": (1.0, 1.0, 1.0)},
}
CHAIN = {"float32": 0.50, "bfloat16": 0.50}
"""One layer in a chain of 32 at (4, 1000), against ``nn.LayerNorm``."""
RAW = {"float32": (0.85, 0.90), "bfloat16": (0.65, 0.80)}
"""Share of the rate of copying (forward) and adding (backward), at least, from 4 MB on."""
FAMILY = {
    "layer_norm_simple": CENTER | ROOT,
    "ada_norm": CENTER | ROOT | PHI,
    "detach_norm": CENTER | ROOT | DETACH_MEAN | DETACH_STD,
}
_busy: list[float] = []
"""The largest share of every measurement's turns that a thread waited for a core."""

DEFINITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "ada_norm": ada_norm,
    "layer_norm_simple": layer_norm_simple,
    "detach_norm": detach_norm,
}


def released(x: Tensor) -> Tensor:
    """AdaNorm in the order and the operations of the authors' code: ten full-size ones."""
    centered = x - x.mean(-1, keepdim=True)
    y = centered / (x.std(-1, keepdim=True) + 1e-5)
    factor = (1 - 0.1 * y).detach()
    return factor * y


def residual_form(norm: Callable[..., Any], fused: bool) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Give the Pre-LN form: the sum goes on beside its norm."""

    def separate(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        return norm(total), total

    return norm if fused else separate


def measure(
    rows: int, width: int, dtype: torch.dtype, threads: int, seconds: float
) -> dict[tuple[str, str], list[float]]:
    """Take all end-to-end ratios at one shape; forward and backward together."""
    x = torch.randn(rows, width).to(dtype).requires_grad_()
    upstream = torch.randn(rows, width).to(dtype)
    torch.compiler.reset()
    modules: dict[str, Callable[[Tensor], Tensor]] = {
        "nn.LayerNorm": nn.LayerNorm(width, dtype=dtype),
        "nn.RMSNorm": nn.RMSNorm(width, dtype=dtype),
        "released code": released,
        "ada_norm": normscope.AdaNorm(width),
        "layer_norm_simple": normscope.LayerNormSimple(width),
        "detach_norm": normscope.DetachNorm(width),
        "layer_norm": normscope.LayerNorm(width, dtype=dtype),
        "rms_norm": normscope.RMSNorm(width, dtype=dtype),
    }
    for name, definition in DEFINITIONS.items():
        modules[f"compiled {name}"] = torch.compile(definition, dynamic=False)
    functions = {name: parts(module, x, upstream)["both"] for name, module in modules.items()}
    residual = torch.randn(rows, width).to(dtype).requires_grad_()
    second = torch.randn(rows, width).to(dtype)
    for name, form in {
        "add + nn.LayerNorm": residual_form(modules["nn.LayerNorm"], fused=False),
        "add + ada_norm": residual_form(modules["ada_norm"], fused=False),
        "add + ada_norm, fused": residual_form(modules["ada_norm"], fused=True),
    }.items():
        learned = modules["nn.LayerNorm"].parameters() if "nn." in name else ()  # pyright: ignore
        inputs = [x, residual, *learned]
        functions[name] = lambda form=form, inputs=inputs: torch.autograd.grad(
            form(x, residual), inputs, (upstream, second)
        )
    times, busy = turns(functions, threads=threads, seconds=seconds)
    _busy.append(busy)
    found = {}
    for ours, theirs in WANTED:
        yardstick = f"compiled {ours}" if theirs == "compiled definition" else theirs
        found[ours, theirs] = ratios(times[ours], times[yardstick])
    found["yardstick us", "nn.LayerNorm"] = [t * 1e6 for t in times["nn.LayerNorm"]]
    return found


def measure_chain(dtype: torch.dtype, threads: int, seconds: float) -> dict[str, list[float]]:
    """Take the ratio of 32 layers to 32 of ``nn.LayerNorm`` at (4, 1000)."""
    x = torch.randn(4, 1000).to(dtype).requires_grad_()
    upstream = torch.randn(4, 1000).to(dtype)
    chains = {
        "nn.LayerNorm": nn.Sequential(*(nn.LayerNorm(1000, dtype=dtype) for _ in range(32))),
        "ada_norm": nn.Sequential(*(normscope.AdaNorm(1000) for _ in range(32))),
        "layer_norm_simple": nn.Sequential(*(normscope.LayerNormSimple(1000) for _ in range(32))),
        "detach_norm": nn.Sequential(*(normscope.DetachNorm(1000) for _ in range(32))),
        "layer_norm": nn.Sequential(*(normscope.LayerNorm(1000, dtype=dtype) for _ in range(32))),
        "rms_norm": nn.Sequential(*(normscope.RMSNorm(1000, dtype=dtype) for _ in range(32))),
    }
    functions = {name: parts(chain, x, upstream)["both"] for name, chain in chains.items()}
    times, busy = turns(functions, threads=threads, seconds=seconds)
    _busy.append(busy)
    return {name: ratios(times[name], times["nn.LayerNorm"]) for name in chains if name != "nn.LayerNorm"}


def measure_raw(rows: int, width: int, dtype: torch.dtype, threads: int, seconds: float) -> dict[str, list[float]]:
    """Take the kernels' share of the rate of copying and adding into memory that is there."""
    shim = cpu.load().shim
    assert shim is not None, "the C++ function could not be built"
    x, dz = (torch.randn(rows, width).to(dtype) for _ in range(2))
    z, dx = (torch.empty_like(x) for _ in range(2))
    mean, square = (torch.empty(rows) for _ in range(2))
    functions: dict[str, Callable[[], object]] = {"copy": lambda: z.copy_(x), "add": lambda: torch.add(x, dz, out=dx)}
    for name, flags in FAMILY.items():
        formula = cpu.Formula(flags, 1e-5, 1.0, 0.1)
        call = cpu._call(formula, x, x=x, z=z, mean=mean, square=square)
        back = cpu._call(formula, x, x=None if name == "detach_norm" else x, dz=dz, dx=dx, mean=mean, square=square)
        # The structures hold addresses alone: the functions keep them, and the tensors above are alive until the end.
        functions[f"{name} forward"] = lambda call=call: shim.run(ctypes.addressof(call))
        functions[f"{name} backward"] = lambda back=back: shim.run(ctypes.addressof(back), 0, 0, 0)
    times, busy = turns(functions, threads=threads, seconds=seconds)
    _busy.append(busy)
    limits = {"forward": "copy", "backward": "add"}
    return {name: ratios(times[limits[name.split()[-1]]], times[name]) for name in times if " " in name}


def wanted(pair: tuple[str, str], dtype: str, rows: int) -> float | None:
    """Give what is asked of a ratio."""
    large, small, tiny = WANTED[pair][dtype]
    return large if rows >= 2048 else small if rows == 64 else tiny


def cell(values: list[float], bound: float | None, *, at_least: bool = False) -> str:
    """Write a median, bold with its bound where that is missed."""
    value = statistics.median(values)
    if bound is None or (value >= bound if at_least else value <= bound):
        return f"{value:.2f}"
    return f"**{value:.2f}** ({bound:.2f})"


def main() -> None:
    """Measure, print the tables, write them and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=6.0, help="for every shape and dtype")
    parser.add_argument("--out", type=Path, help="a folder for cpu.md and cpu.json")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    begin = time.monotonic()
    lines = [
        f"{date.today()}, {_processor()}, torch {torch.__version__}, normscope {normscope.__version__}, "
        f"{describe(torch.device('cpu'))}. `./run bench cpu`. Ratios of forward and backward together, below 1 is "
        "faster; in bold what misses its goal, with the goal.",
    ]
    record: list[dict[str, Any]] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for label, dtype in DTYPES.items():
            found = {}
            for rows, width in SHAPES:
                found[rows, width] = measure(rows, width, dtype, threads, options.seconds)
                print(
                    f"{threads} threads, {label}, {rows} x {width}: {time.monotonic() - begin:.0f} s", file=sys.stderr
                )
            lines += ["", f"## {label}, {threads} thread{'s' * (threads > 1)}", ""]
            lines += ["| | against | " + " | ".join(f"{r} x {w}" for r, w in SHAPES) + " |"]
            lines += ["| --- | --- |" + " --- |" * len(SHAPES)]
            for pair in WANTED:
                cells = [cell(found[shape][pair], wanted(pair, label, shape[0])) for shape in SHAPES]
                lines.append(f"| {pair[0]} | {pair[1]} | " + " | ".join(cells) + " |")
                record += [
                    _entry(pair, label, threads, shape, found[shape][pair], wanted(pair, label, shape[0]))
                    for shape in SHAPES
                ]
            medians = [statistics.median(found[shape]["yardstick us", "nn.LayerNorm"]) for shape in SHAPES]
            lines.append("| nn.LayerNorm | in µs | " + " | ".join(f"{one:,.0f}" for one in medians) + " |")
            chain = measure_chain(dtype, threads, options.seconds)
            # The goal is that of a norm without parameters; the others pay for the gradients of theirs.
            free = ("ada_norm", "layer_norm_simple", "detach_norm")
            words = [f"{name} {cell(v, CHAIN[label] if name in free else None)}" for name, v in chain.items()]
            lines += ["", f"A layer in a chain of 32 at (4, 1000), against `nn.LayerNorm`: {', '.join(words)}."]
            record += [
                _entry((f"{name} in a chain of 32", "nn.LayerNorm"), label, threads, (4, 1000), v, CHAIN[label])
                for name, v in chain.items()
            ]
            lines += ["", "Kernels alone, as a share of the rate of copying (forward) and adding (backward):", ""]
            raw = {shape: measure_raw(*shape, dtype, threads, options.seconds / 3) for shape in SHAPES}
            lines += ["| | " + " | ".join(f"{r} x {w}" for r, w in SHAPES) + " |", "| --- |" + " --- |" * len(SHAPES)]
            for name in raw[SHAPES[0]]:
                bound = RAW[label][name.endswith("backward")]
                size = dtype.itemsize
                bounds = [bound if r * w * size >= 1 << 22 else None for r, w in SHAPES]
                cells = [cell(raw[shape][name], one, at_least=True) for shape, one in zip(SHAPES, bounds, strict=True)]
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
                record += [
                    _entry(
                        (f"{name} kernel, share of the limit", "copy or add"),
                        label,
                        threads,
                        shape,
                        raw[shape][name],
                        one,
                    )
                    for shape, one in zip(SHAPES, bounds, strict=True)
                ]
    share = 100 * max(_busy)
    lines += [
        "",
        f"With several threads, no thread waited for a core for more than {share:.0f} % of a turn that counts.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out / "cpu.md", text.encode())
        write_atomically(options.out / "cpu.json", (json.dumps(record, indent=1) + "\n").encode())
        draw(record, options.out / "cpu.svg")


def _entry(
    pair: tuple[str, str], dtype: str, threads: int, shape: tuple[int, int], values: list[float], bound: float | None
) -> dict[str, Any]:
    low, median, high = statistics.quantiles(values, n=4)
    return {
        "what": pair[0],
        "against": pair[1],
        "dtype": dtype,
        "threads": threads,
        "shape": shape,
        "median": round(median, 4),
        "quartiles": (round(low, 4), round(high, 4)),
        "turns": len(values),
        "goal": bound,
    }


def draw(record: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratios to torch's own layer as bars, one thread, from what was recorded."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "normscope", "font.size": 9}
    from matplotlib import pyplot

    pairs = [("layer_norm", "nn.LayerNorm"), ("layer_norm_simple", "nn.LayerNorm"), ("ada_norm", "nn.LayerNorm")]
    pairs += [("detach_norm", "nn.LayerNorm"), ("rms_norm", "nn.RMSNorm")]
    figure, axes = pyplot.subplots(2, 1, figsize=(8, 6), sharex=True, sharey=True, layout="constrained")
    for panel, label in zip(axes, DTYPES, strict=True):
        panel.axhline(1, color="0.4", linewidth=0.8)
        for place, pair in enumerate(pairs):
            found = [one for one in record if (one["what"], one["against"]) == pair and one["threads"] == 1]
            values = [one["median"] for one in found if one["dtype"] == label]
            at = [index + (place - 2) * 0.16 for index in range(len(values))]
            panel.bar(at, values, 0.14, label=f"{pair[0]}, against {pair[1]}")
        panel.set_ylabel(f"{label}: time, PyTorch's = 1")
    axes[1].set_xticks(range(len(SHAPES)), [f"{rows:,} x {width:,}" for rows, width in SHAPES])
    axes[1].set_xlabel("rows x width, forward and backward, one thread")
    axes[0].legend(ncols=2, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _processor() -> str:
    """Name the processor as the system does."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


if __name__ == "__main__":
    main()
