"""The GPU kernels beside what a user would pick instead: ``./run --here bench gpu``, on a machine with a GPU.

First every kernel is checked against its definition in float64; the times of a wrong one mean nothing and are not
taken. Then the machine's own rates are measured: kernels that do nothing but read and write two, three or four streams.
A kernel's time is given as a percentage of the rate for as many streams as it cannot do without.

Device time is that of CUDA graph replays, host time that of calls through autograd, one after another. Inputs rotate
through more memory than the cache holds. The whole takes at most ``--seconds``; what was left out for it is said.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from normscope.kernels.autograd import norm as fused
from normscope.kernels.formula import CENTER, DETACH_MEAN, DETACH_STD, PHI, RELEASED, ROOT, Formula
from normscope.norms.ada_norm import ada_norm
from normscope.norms.detach_norm import detach_norm
from normscope.norms.layer_norm import layer_norm
from normscope.norms.layer_norm_simple import layer_norm_simple
from normscope.norms.rms_norm import rms_norm

try:
    import triton
    import triton.language as tl
except ImportError:
    # Said by `main`, or by whoever calls a kernel.
    triton = None

EPS = 1e-5
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "kernels"


class Case(NamedTuple):
    """A norm, and the streams that its two passes cannot do without."""

    formula: Formula
    definition: Callable[..., Tensor]
    torchs: Callable[..., Tensor] | None = None
    gain: bool = False
    bias: bool = False
    residual: bool = False
    streams_forward: int = 2
    streams_backward: int = 3


LAYER_NORM = Case(
    Formula(CENTER | ROOT, EPS),
    partial(layer_norm, eps=EPS),
    lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, EPS),
    gain=True,
    bias=True,
)
CASES = {
    "layer_norm": LAYER_NORM,
    "layer_norm_simple": Case(
        Formula(CENTER | ROOT, EPS),
        partial(layer_norm_simple, eps=EPS),
        lambda x: F.layer_norm(x, x.shape[-1:], eps=EPS),
    ),
    "detach_norm": Case(
        Formula(CENTER | ROOT | DETACH_MEAN | DETACH_STD, EPS), partial(detach_norm, eps=EPS), streams_backward=2
    ),
    "ada_norm": Case(Formula(CENTER | ROOT | PHI, EPS, 1.0, 0.1), partial(ada_norm, eps=EPS, k=0.1)),
    "rms_norm": Case(
        Formula(ROOT, EPS),
        partial(rms_norm, eps=EPS),
        lambda x, weight: F.rms_norm(x, x.shape[-1:], weight, EPS),
        gain=True,
    ),
    "layer_norm of a sum": LAYER_NORM._replace(residual=True, streams_forward=4, streams_backward=4),
    "ada_norm, released": Case(
        Formula(CENTER | RELEASED | PHI, EPS, 1.0, 0.1), partial(ada_norm, eps=EPS, k=0.1, convention="released")
    ),
}


class Settings(NamedTuple):
    """What is measured: the important first, for time may run out."""

    widths: Sequence[int] = (4096, 1024, 8192, 512, 2048, 16384)
    rows: Sequence[int] = (16384, 4096, 65536)
    dtypes: Sequence[torch.dtype] = (torch.bfloat16, torch.float32)
    cases: Sequence[str] = tuple(CASES)
    checked_everywhere: Sequence[int] = (768, 4096)
    checked_once: Sequence[int] = (1, 127, 1000, 5120, 9001, 12288, 16385, 40000)
    """Widths at which every case is checked, and the first only: compiling takes most of the time."""
    checked_rows: int = 300
    counted_rows: Sequence[int] = (300, 1, 16, 64, 301)
    copied_bytes: int = 1 << 30
    samples: int = 7
    sample_seconds: float = 2e-3
    most_rotated: int = 32
    compiles: bool = True
    """Whether the compiled definition is measured, at the first number of rows: it takes seconds a shape."""
    seconds: float = 480.0


class Inputs(NamedTuple):
    """What a case is given; None for what it has not."""

    x: Tensor
    residual: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    dz: Tensor
    dtotal: Tensor | None


Norm = Callable[[Inputs], tuple[Tensor, ...]]
"""From the inputs to z, and the sum where there is a residual."""


def draw(case: Case, rows: int, width: int, dtype: torch.dtype, device: torch.device, offset: float = 0.5) -> Inputs:
    """Draw the inputs of a case: gains around 2, an upstream gradient that knows nothing of the output."""

    def some(*shape: int, around: float = 0.0) -> Tensor:
        return torch.randn(*shape, device=device).add_(around).to(dtype)

    return Inputs(
        some(rows, width, around=offset).requires_grad_(),
        some(rows, width).requires_grad_() if case.residual else None,
        some(width, around=2.0).requires_grad_() if case.gain else None,
        some(width).requires_grad_() if case.bias else None,
        some(rows, width),
        some(rows, width) if case.residual else None,
    )


def gradients(inputs: Inputs, outputs: tuple[Tensor, ...], again: bool) -> tuple[Tensor, ...]:
    """Give the gradients of x and of the parameters; that of the residual is that of x."""
    leaves = [leaf for leaf in (inputs.x, inputs.weight, inputs.bias) if leaf is not None]
    upstream = [inputs.dz] if inputs.dtotal is None else [inputs.dz, inputs.dtotal]
    return torch.autograd.grad(outputs, leaves, upstream, retain_graph=again)


def ours(case: Case) -> Norm:
    from normscope.kernels.backends import triton as backend

    def call(inputs: Inputs) -> tuple[Tensor, ...]:
        x, residual, weight, bias, *_ = inputs
        z, total = fused(backend, case.formula, x.shape[-1], x, residual, weight, bias)
        return (z,) if total is None else (z, total)

    return call


def plain(case: Case, function: Callable[..., Tensor]) -> Norm:
    """Make a function of x, gain and bias one of the inputs."""

    def call(inputs: Inputs) -> tuple[Tensor, ...]:
        parameters = [one for one in (inputs.weight, inputs.bias) if one is not None]
        if inputs.residual is None:
            return (function(inputs.x, *parameters),)
        total = inputs.x + inputs.residual
        return function(total, *parameters), total

    return call


def compiled(case: Case) -> Norm:
    torch._dynamo.reset()
    # The backward pass is timed many times over one forward pass.
    torch._functorch.config.donated_buffer = False
    names = [name for name, there in (("weight", case.gain), ("bias", case.bias)) if there]

    def whole(x: Tensor, residual: Tensor | None, *parameters: Tensor) -> tuple[Tensor, ...]:
        total = x if residual is None else x + residual
        z = case.definition(total, **dict(zip(names, parameters, strict=True)))
        return (z,) if residual is None else (z, total)

    program = torch.compile(whole, dynamic=False)

    def call(inputs: Inputs) -> tuple[Tensor, ...]:
        parameters = [one for one in (inputs.weight, inputs.bias) if one is not None]
        return program(inputs.x, inputs.residual, *parameters)

    return call


def liger(case: Case) -> Norm:
    from liger_kernel.ops.layer_norm import LigerLayerNormFunction
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    if case.bias:
        return plain(case, lambda x, weight, bias: LigerLayerNormFunction.apply(x, weight, bias, EPS))
    # Not in place, for it would overwrite the upstream gradient.
    return plain(case, lambda x, weight: LigerRMSNormFunction.apply(x, weight, EPS, 0.0, "llama", False))


def quack(case: Case) -> Norm:
    from quack.rmsnorm import rmsnorm

    if case.bias:
        raise NotImplementedError("quack's layer norm has no backward pass")
    return plain(case, lambda x, weight: rmsnorm(x, weight, eps=EPS))


def fla(case: Case) -> Norm:
    from fla.modules import layernorm

    if case.bias:
        return plain(case, lambda x, weight, bias: layernorm.layer_norm(x, weight, bias, eps=EPS))
    return plain(case, lambda x, weight: layernorm.rms_norm(x, weight, None, eps=EPS))


def candidates(case: Case, settings: Settings, rows: int) -> dict[str, Callable[[Case], Norm]]:
    """List what computes a case here, ours first; each is made only when its turn comes."""
    named = partial(_with_names, case)
    found: dict[str, Callable[[Case], Norm]] = {"normscope": ours}
    if case.torchs is not None:
        torchs = case.torchs
        found["torch"] = lambda case: plain(case, torchs)
    if settings.compiles and rows == settings.rows[0]:
        found["compiled definition"] = compiled
    found["definition"] = lambda case: plain(case, named)
    if case.gain:
        peers = {"liger": ("liger_kernel", liger), "quack": ("quack", quack), "fla": ("fla", fla)}
        found |= {name: make for name, (module, make) in peers.items() if importlib.util.find_spec(module)}
    return found


def _with_names(case: Case, x: Tensor, *parameters: Tensor) -> Tensor:
    names = [name for name, there in (("weight", case.gain), ("bias", case.bias)) if there]
    return case.definition(x, **dict(zip(names, parameters, strict=True)))


# Correctness


def check(settings: Settings, device: torch.device) -> list[dict[str, str]]:
    """Compare every kernel with its definition in float64; give what is wrong with which norm.

    An error is allowed that is twice that of the definition in the same dtype, and one rounding.
    """
    wrong = []
    checked = [*itertools.product(settings.cases, settings.checked_everywhere)]
    checked += itertools.product(settings.cases[:1], settings.checked_once)
    for (name, width), dtype in itertools.product(checked, settings.dtypes):
        case = CASES[name]
        for offset in (0.5, 1e4):
            given = draw(case, settings.checked_rows, width, dtype, device, offset)
            exact = _results(case, plain(case, partial(_with_names, case)), _double(given))
            naive = _results(case, plain(case, partial(_with_names, case)), given)
            mine = _results(case, ours(case), given)
            again = _results(case, ours(case), given)
            for kind, values in mine.items():
                truth = exact[kind]
                allowed = 2 * (naive[kind].double() - truth).abs().max()
                allowed += torch.finfo(dtype).eps / 2 * truth.abs().max()
                error = (values.double() - truth).abs().max()
                where = f"{dtype}, width {width}, mean {offset:g}: {kind}"
                if not error <= allowed:
                    wrong.append({"norm": name, "what": f"{where} is off by {error:.3g}, allowed {allowed:.3g}"})
                if not torch.equal(values, again[kind]):
                    wrong.append({"norm": name, "what": f"{where} differs from run to run"})
    return wrong


def _double(given: Inputs) -> Inputs:
    """Give the same numbers in float64: the sum rounded as it is where it is computed."""
    x, residual = given.x, given.residual
    if residual is not None:
        total = (x + residual).detach()
        x, residual = total, torch.zeros_like(total)
    wide = (None if one is None else one.detach().double() for one in (x, residual, *given[2:]))
    first, second, weight, bias, dz, dtotal = wide
    for leaf in (first, second, weight, bias):
        if leaf is not None:
            leaf.requires_grad_()
    return Inputs(first, second, weight, bias, dz, dtotal)  # pyright: ignore


def _results(case: Case, norm: Norm, given: Inputs) -> dict[str, Tensor]:
    outputs = norm(given)
    names = ["dx", *(name for name, there in (("dweight", case.gain), ("dbias", case.bias)) if there)]
    return {"z": outputs[0].detach(), **dict(zip(names, gradients(given, outputs, again=False), strict=True))}


# Time


class Timing(NamedTuple):
    """Seconds of one call: the median over samples, and the quartiles."""

    median: float
    low: float
    high: float


def summary(samples: list[float]) -> Timing:
    ordered = sorted(samples)
    return Timing(statistics.median(ordered), ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4])


def time_calls(calls: Sequence[Callable[[], Any]], settings: Settings, device: torch.device) -> Timing:
    """Time calls one after another, the host's part included."""

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def once(rounds: int) -> float:
        synchronize()
        begin = time.perf_counter()
        for _ in range(rounds):
            for call in calls:
                call()
        synchronize()
        return (time.perf_counter() - begin) / rounds / len(calls)

    once(1)
    rounds = max(1, math.ceil(settings.sample_seconds / (once(1) * len(calls))))
    return summary([once(rounds) for _ in range(settings.samples)])


def time_replays(calls: Sequence[Callable[[], Any]], settings: Settings, stream: torch.cuda.Stream) -> Timing:
    """Time the same calls as one CUDA graph, in which the host has no part; ``stream`` is the current one."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    # Not `with torch.cuda.graph`, which collects garbage and empties caches, a thousand times over.
    graph.capture_begin()
    try:
        # Kept, so that no call writes where the one before did.
        kept = [call() for call in calls]
    finally:
        graph.capture_end()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def once(rounds: int) -> float:
        start.record(stream)
        for _ in range(rounds):
            graph.replay()
        end.record(stream)
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / rounds / len(calls)

    once(1)
    rounds = max(1, math.ceil(settings.sample_seconds / (once(1) * len(calls))))
    samples = [once(rounds) for _ in range(settings.samples)]
    del kept
    return summary(samples)


def rates(settings: Settings, device: torch.device) -> dict[str, float]:
    """Measure bytes a second of two, three and four streams: the better of Triton's and torch's kernel."""
    entries = settings.copied_bytes // 4
    a, b, c, d = (torch.ones(entries, device=device) for _ in range(4))
    work: dict[int, list[Callable[[], Any]]] = {
        2: [partial(c.copy_, a), partial(stream, a, None, c, None)],
        3: [partial(torch.add, a, b, out=c), partial(stream, a, b, c, None)],
        4: [partial(stream, a, b, c, d)],
    }
    return {
        str(streams): streams * 4 * entries / min(time_calls([call], settings, device).median for call in calls)
        for streams, calls in work.items()
    }


def stream(a: Tensor, b: Tensor | None, c: Tensor, d: Tensor | None) -> None:
    """Read a, and b; write c, and d."""
    block = 4096
    _stream[(triton.cdiv(a.numel(), block),)](a, b, c, d, a.numel(), BLOCK=block, num_warps=8)


if triton is not None:

    @triton.jit
    def _stream(a, b, c, d, entries, BLOCK: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        here = at < entries
        value = tl.load(a + at, mask=here)
        if b is not None:
            value += tl.load(b + at, mask=here)
        tl.store(c + at, value, mask=here)
        if d is not None:
            tl.store(d + at, -value, mask=here)


def rotated(settings: Settings, device: torch.device, size: int) -> int:
    """TrainCallback how many inputs of a size fill the cache four times over."""
    if device.type != "cuda":
        return 1
    cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or 64 << 20
    return max(1, min(settings.most_rotated, math.ceil(4 * cache / size)))


def measure(
    name: str, rows: int, width: int, dtype: torch.dtype, settings: Settings, device: torch.device, until: float
) -> Iterator[dict[str, Any]]:
    """Time every candidate of a case at a shape; one record a candidate, or the reason why there is none."""
    case = CASES[name]
    stream_bytes = rows * width * dtype.itemsize
    many = rotated(settings, device, 2 * stream_bytes)
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    for candidate, make in candidates(case, settings, rows).items():
        record: dict[str, Any] = {
            "norm": name, "dtype": str(dtype).removeprefix("torch."), "rows": rows, "width": width, "by": candidate,
        }  # fmt: skip
        if time.monotonic() > until:
            yield {**record, "left_out": "time"}
            continue
        try:
            norm = make(case)
            # A graph is captured on a stream of its own, and autograd goes back on the stream that it came by.
            with contextlib.nullcontext() if side is None else torch.cuda.stream(side):
                sets = [draw(case, rows, width, dtype, device) for _ in range(many)]
                outputs = [norm(one) for one in sets]
                passes = {
                    "forward": ([partial(norm, one) for one in sets], case.streams_forward),
                    "backward": (
                        [partial(gradients, one, out, again=True) for one, out in zip(sets, outputs, strict=True)],
                        case.streams_backward,
                    ),
                }
                for which, (calls, streams) in passes.items():
                    record[which] = {"bytes": streams * stream_bytes, "streams": streams}
                    record[which]["host_seconds"] = time_calls(calls, settings, device)._asdict()
                    if side is not None:
                        record[which]["seconds"] = time_replays(calls, settings, side)._asdict()
        except Exception as error:
            # A peer that cannot do this shape is a fact of the table, and no reason to lose the rest.
            record["left_out"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        sets = outputs = passes = calls = None
        if side is not None and stream_bytes > 1 << 28:
            torch.cuda.empty_cache()
        yield record


def programs() -> list[dict[str, Any]]:
    """List what was compiled of our kernels: one program for a width, a dtype and a formula."""
    from normscope.kernels.backends import triton_kernels as kernels

    found = []
    for name, kernel in vars(kernels).items():
        for cache in getattr(kernel, "device_caches", {}).values():
            for program in cache[0].values():
                found.append(
                    {
                        "kernel": name,
                        "registers": getattr(program, "n_regs", None),
                        "spills": getattr(program, "n_spills", None),
                        "shared": program.metadata.shared,
                        "warps": program.metadata.num_warps,
                    }
                )
    return found


def added_by_other_rows(settings: Settings, device: torch.device) -> int:
    """Count what is compiled anew when only the number of rows changes: nothing should be."""
    counts = []
    for rows in settings.counted_rows:
        for case in (CASES[name] for name in settings.cases):
            inputs = draw(case, rows, settings.checked_everywhere[0], settings.dtypes[0], device)
            gradients(inputs, ours(case)(inputs), again=False)
        counts.append(len(programs()))
    return counts[-1] - counts[0]


# The report


def machine(device: torch.device) -> dict[str, Any]:
    versions = {}
    for package in ("torch", "triton", "normscope", "liger-kernel", "quack-kernels", "flash-linear-attention"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "python": platform.python_version(),
        "versions": versions | {"torch": torch.__version__},
    }


def bench(settings: Settings, device: torch.device, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Check, measure, and give everything that was found; ``save`` is given what there is, whenever there is more."""
    begin = time.monotonic()
    wrong = check(settings, device)
    report = machine(device) | {"wrong": wrong, "checked_seconds": round(time.monotonic() - begin, 1)}
    right = [name for name in settings.cases if name not in {one["norm"] for one in wrong}]
    report["compiled_for_other_rows"] = added_by_other_rows(settings, device)
    report["rates"] = rates(settings, device)
    report["measurements"] = []
    # What is wanted most comes first: bfloat16 at the usual size, at every width, before other sizes and float32.
    shapes = sorted(
        itertools.product(range(len(settings.dtypes)), range(len(settings.rows)), range(len(settings.widths))),
        key=lambda at: (at[0] + at[1], at),
    )
    for (dtype, rows, width), name in itertools.product(shapes, right):
        shape = settings.rows[rows], settings.widths[width], settings.dtypes[dtype]
        for record in measure(name, *shape, settings, device, begin + settings.seconds):
            report["measurements"].append(with_percent(record, report["rates"]))
        report["seconds"] = round(time.monotonic() - begin, 1)
        report["programs"] = programs()
        save(report)
    report["programs"] = programs()
    return report


def with_percent(record: dict[str, Any], machine_rates: dict[str, float]) -> dict[str, Any]:
    """Add to a record what part of the machine's rate it reached."""
    for which in ("forward", "backward"):
        if "seconds" in record.get(which, {}):
            one = record[which]
            one["percent"] = 100 * one["bytes"] / one["seconds"]["median"] / machine_rates[str(one["streams"])]
    return record


def table(report: dict[str, Any]) -> str:
    """Draw a report for a terminal."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [f"{report['device']}, {report['date']}; {versions}"]
    lines += [f"wrong, and therefore not timed: {one['norm']}, {one['what']}" for one in report["wrong"]]
    streams = "; ".join(f"{count} streams {rate / 1e12:.3f} TB/s" for count, rate in report["rates"].items())
    spilled = sum(bool(one["spills"]) for one in report["programs"])
    lines += [
        f"rates: {streams}",
        f"{len(report['programs'])} programs compiled, {spilled} of them spill registers; "
        f"{report['compiled_for_other_rows']} more for other numbers of rows",
        "",
        f"{'norm':20} {'dtype':9} {'rows':>6} {'width':>6} {'by':20} "
        + " ".join(f"{which + ' us':>12} {'%':>4} {'with host':>10}" for which in ("forward", "backward")),
    ]
    left_out: dict[str, int] = {}
    for one in report["measurements"]:
        if "left_out" in one:
            reason = one["left_out"] if one["left_out"] == "time" else f"{one['by']}, {one['norm']}: {one['left_out']}"
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        cells = []
        for which in ("forward", "backward"):
            timing = one[which]
            device_time = f"{1e6 * timing['seconds']['median']:12.1f}" if "seconds" in timing else f"{'-':>12}"
            percent = f"{timing['percent']:4.0f}" if "percent" in timing else f"{'-':>4}"
            cells.append(f"{device_time} {percent} {1e6 * timing['host_seconds']['median']:10.1f}")
        lines.append(
            f"{one['norm']:20} {one['dtype']:9} {one['rows']:6} {one['width']:6} {one['by']:20} {' '.join(cells)}"
        )
    lines += [f"left out {count} times: {reason}" for reason, count in left_out.items()]
    return "\n".join(lines)


def write(report: dict[str, Any], path: Path) -> None:
    """Write a report so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def main() -> int:
    """Check, measure, print and write; 1 if a kernel is wrong, 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the JSON goes; docs/results/kernels/<GPU>.json if left out")
    parser.add_argument("--seconds", type=float, default=Settings().seconds, help="when to stop measuring")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"gpu: this measures GPU kernels, and torch {torch.__version__} sees no GPU here", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    path = options.out or RESULTS / f"{torch.cuda.get_device_name(device).replace(' ', '_').replace('/', '_')}.json"
    report = bench(Settings(seconds=options.seconds), device, partial(write, path=path))
    print(table(report))
    write(report, path)
    print(f"written to {path}")
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
