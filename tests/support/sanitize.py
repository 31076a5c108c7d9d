"""The CPU kernels and their C++ function under AddressSanitizer and UndefinedBehaviorSanitizer.

Builds them as the package does, with the sanitizers' flags behind its own, in a temporary folder; calls the kernels
from fuzz.c, then the modules of the package and its recurrent layers from Python. Exit status 0: nothing was found. 1:
something was, and what it is stands above. 2: this machine has no compiler with sanitizers.
"""

import argparse
import copy
import dataclasses
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")
RUNTIMES = (("libasan.so", "libubsan.so"), ("libclang_rt.asan-x86_64.so",), ("libclang_rt.asan-aarch64.so",))
OPTIONS = {
    # Python and torch free little at their end, and torch's libraries share names.
    "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0:verify_asan_link_order=0:halt_on_error=1:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}


class NoSanitizers(RuntimeError):
    """The compiler has none, or there is no compiler."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the CPU kernels under the sanitizers.")
    parser.add_argument("--cases", type=int, default=6000, help="calls of the kernels from C")
    parser.add_argument("--case", type=int, help="the one of them that a failure named")
    parser.add_argument("--calls", type=int, default=600, help="calls of the modules from Python; 0 for none")
    parser.add_argument("--layers", type=int, default=300, help="calls of recurrent layers, likewise")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.inside:
        from sanitize_layers import call_layers

        patch_flags()
        return call_modules(asked.seed, asked.calls) or call_layers(asked.seed, asked.layers)
    try:
        with tempfile.TemporaryDirectory(prefix="normscope-sanitize-") as scratch:
            return run(Path(scratch), asked)
    except NoSanitizers as error:
        print(f"sanitize: cannot run here: {error}")
        return 2


def run(scratch: Path, asked: argparse.Namespace) -> int:
    from normscope.kernels.backends import build

    patch_flags()
    check_compiler(scratch)
    os.environ["XDG_CACHE_HOME"] = str(scratch)
    fuzz = build_fuzz(scratch, build.kernels(print), SANITIZE)
    start = time.monotonic()
    which = [asked.seed, asked.cases, *([] if asked.case is None else [asked.case])]
    done = subprocess.run([fuzz, *map(str, which)], env=os.environ | OPTIONS, check=False)
    if done.returncode:
        print(f"sanitize: FAILED in the kernels, status {done.returncode}; see above. --case runs one case alone.")
        return 1
    print(f"sanitize: the kernels are clean, {time.monotonic() - start:.0f} s", flush=True)
    if not asked.calls or asked.case is not None:
        return 0
    build.shim(print)
    build.scan(print)
    # Python does not link libstdc++, and the sanitizer wants to find there, at once, how exceptions are thrown.
    libraries = [*preloaded(), find("CXX", "libstdc++.so")]
    environment = os.environ | OPTIONS | {"LD_PRELOAD": ":".join(filter(None, libraries))}
    environment |= {"NORMSCOPE_BACKEND": "", "NORMSCOPE_CPU_ISA": ""}
    start = time.monotonic()
    program = [sys.executable, __file__, "--inside", "--seed", str(asked.seed), "--calls", str(asked.calls)]
    program += ["--layers", str(asked.layers)]
    done = subprocess.run(program, env=environment, check=False)
    if done.returncode:
        print(f"sanitize: FAILED in the modules, status {done.returncode}; see above")
        return 1
    print(f"sanitize: the modules are clean, {time.monotonic() - start:.0f} s")
    return 0


def patch_flags() -> None:
    """Put the sanitizers behind the package's flags; they enter the names of what is built."""
    from normscope.kernels.backends import build

    build.C_FLAGS = (*build.C_FLAGS, *SANITIZE)
    build.CXX_FLAGS = (*build.CXX_FLAGS, *SANITIZE)


def check_compiler(scratch: Path) -> None:
    from normscope.kernels.backends import build

    source, program = scratch / "try.c", scratch / "try"
    source.write_text("int main(void) { return 0; }\n")
    try:
        compiler, _ = build.compiler("CC"), build.compiler("CXX")
    except build.CannotBuild as error:
        raise NoSanitizers(str(error)) from error
    done = subprocess.run([*compiler, *SANITIZE, source, "-o", program], capture_output=True, text=True, check=False)
    if done.returncode or subprocess.run([program], check=False).returncode:
        raise NoSanitizers(f"{compiler[0]} builds nothing with {SANITIZE[0]}: {done.stderr.strip()[-300:]}")


def build_fuzz(scratch: Path, library: Path, flags: tuple[str, ...] = ()) -> Path:
    """Link fuzz.c with the very library that the package would load."""
    from normscope.kernels.backends import build

    compiler = build.compiler("CC")
    # -fPIC: what the library exports stays in the library, with what a sanitizer put around it.
    command = [*compiler, "-std=gnu11", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", *flags, f"-I{build.HERE}"]
    command += [str(HERE / "fuzz.c"), str(library), f"-Wl,-rpath,{library.parent}", "-o", str(scratch / "fuzz"), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"fuzz.c does not compile: {done.stderr}")
    return scratch / "fuzz"


def preloaded() -> list[str]:
    for names in RUNTIMES:
        found = [path for name in names if (path := find("CC", name))]
        if found:
            return found
    raise NoSanitizers("the compiler has no sanitizer as a shared library, which Python needs")


def find(variable: str, library: str) -> str | None:
    from normscope.kernels.backends import build

    command = [*build.compiler(variable), f"-print-file-name={library}"]
    path = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return str(Path(path).resolve()) if os.path.isabs(path) and os.path.exists(path) else None


# ---- the modules ----

ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-8, "float16": 2.0**-11}
LEAST = 2.0**-25
"""Half the smallest positive float16."""
SLACK = 400
"""Roundoffs between a gradient and its definition in float64, times its size: rows of a few entries cancel."""


def call_modules(seed: int, calls: int) -> int:
    """Compare the modules with their definitions in float64: any strides, any dtype, both ways into the kernels."""
    import torch

    from normscope.kernels import dispatch
    from normscope.kernels.backends import cpu

    library = cpu.load()
    print(f"sanitize: {library.description}", flush=True)
    if library.shim is None:
        print("sanitize: the C++ function was not loaded")
        return 1
    through_python = dataclasses.replace(library, shim=None)
    counts: dict[str, int] = {}
    for number in range(calls):
        rng = random.Random(f"{seed} {number}")
        torch.manual_seed(rng.randrange(2**31))
        way = rng.choice(["C++", "C++", "Python"])
        dispatch._call = None
        torch.set_num_threads(rng.randint(1, 4))
        words: list[str] = [way]
        try:
            with mock.patch.object(cpu, "load", return_value=through_python) if way == "Python" else nullcontext():
                name = one_call(rng, way, words)
        except Exception:
            print(f"sanitize: seed {seed} call {number}: {', '.join(words)}", flush=True)
            raise
        counts[name] = counts.get(name, 0) + 1
    print(f"{calls} calls of modules: {', '.join(f'{name} {count}' for name, count in sorted(counts.items()))}")
    return 0


def one_call(rng: random.Random, way: str, words: list[str]) -> str:
    import torch

    dtype = rng.choice([torch.float32, torch.float64, torch.bfloat16, torch.float16])
    width = rng.choice([rng.randint(2, 70), rng.randint(2, 300), 2 ** rng.randint(1, 10) + rng.randint(0, 1)])
    shape = (width,) if rng.random() < 0.8 else (rng.randint(1, 5), width)
    many = rng.random() < 0.1
    sizes = [*([rng.randint(40, 400)] if many else [rng.randint(0, 5) for _ in range(rng.randint(0, 3))]), *shape]
    module = make_module(rng, shape, dtype)
    with_residual, hooked = rng.random() < 0.4, rng.random() < 0.15
    words += [repr(module), str(dtype), f"sizes {sizes}", f"residual {with_residual}", f"hooks {hooked}"]
    x = strided(rng, sizes, dtype, words).detach().requires_grad_(rng.random() < 0.85)
    residual = strided(rng, sizes, dtype, words).detach().requires_grad_(rng.random() < 0.7) if with_residual else None
    for parameter in module.parameters():
        parameter.requires_grad_(rng.random() < 0.8)

    # By the definition: what was normalized, exactly, is the one input.
    total = x.detach() if residual is None else (x + residual).detach()
    reference = copy.deepcopy(module).double()
    reference.backend = "eager"
    exact = total.double().requires_grad_()
    defined = [reference(exact), exact.clone()][: 1 + with_residual]

    given = [one for one in (x, residual) if one is not None]
    before = [one.detach().clone() for one in given]
    inputs = [one for one in (*given, *module.parameters()) if one.requires_grad]
    # What torch hands back of what it saved need not be laid out as it was.
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: turned(t) if hooked else t)
    with hooks if hooked else nullcontext():
        outputs = both(module, x, residual)
        close(outputs[0], defined[0], reach(exact, shape), "z", dtype)
        if with_residual and not torch.equal(outputs[1], total):
            raise AssertionError("the sum is another")
        if not inputs:
            return type(module).__name__
        picked = [1] if with_residual and rng.random() < 0.15 else list(range(len(outputs)))
        sent = [upstream(rng, sizes, dtype, words) for _ in picked]
        ends = [outputs[i] for i in picked]

        def gradients() -> Any:
            return torch.autograd.grad(ends, inputs, sent, retain_graph=True, allow_unused=True)

        got, again = gradients(), threads_changed(gradients)
    for one, other in zip(got, again, strict=True):
        if one is not None and not torch.equal(one, other):
            raise AssertionError("a gradient depends on the threads")
    if not all(torch.equal(one, kept) for one, kept in zip(given, before, strict=True)):
        raise AssertionError("an input was written to")

    learned = [one for one in reference.parameters() if one.requires_grad]
    ends, exact_sent = [defined[i] for i in picked], [one.double() for one in sent]
    total_wanted, *rest = torch.autograd.grad(ends, [exact, *learned], exact_sent, retain_graph=True, allow_unused=True)
    of_inputs = sum(one.requires_grad for one in given)
    wanted = [*([total_wanted] * of_inputs), *rest]
    gains = max([1.0, *(one.abs().max().item() for one in module.parameters())])
    size = gains * sum(largest(one) for one in sent) * reach(exact, shape)
    for i, (one, found, want) in enumerate(zip(inputs, got, wanted, strict=True)):
        if (found is None) != (want is None):
            raise AssertionError(f"gradient {i}: {found} where the definition has {want}")
        if found is not None:
            if (found.shape, found.dtype) != (one.shape, one.dtype):
                raise AssertionError(f"gradient {i} is {found.dtype} {list(found.shape)}")
            rows = exact.numel() // math.prod(shape) if i >= of_inputs else 1
            # The closed form rounds before and after it adds what comes to the sum. ScaleNorm's one gain is spread over
            # the row before, and its gradient collected after, in its own dtype.
            rounded = math.prod(shape) * size * max(1, rows) if one.numel() == 1 else 2 * largest(want)
            close(found, want, size * max(1, rows), f"gradient {i}", dtype, rounded)
    if dtype == torch.float64 and 0 in picked and x.requires_grad:
        twice(module, reference, x, residual, exact, sent[0], reach(exact, shape))
    return type(module).__name__


def largest(tensor: Any) -> float:
    return tensor.double().abs().max().item() if tensor.numel() else 0.0


def reach(exact: Any, shape: tuple[int, ...]) -> float:
    """Give the greatest 1 / d that the rows may have, which multiplies every error."""
    rows = exact.detach().reshape(-1, math.prod(shape))
    return 1 + (largest(rows) * (rows.var(-1, correction=0) + 1e-5).rsqrt()).max().item() if rows.numel() else 1.0


def twice(module: Any, reference: Any, x: Any, residual: Any, exact: Any, dz: Any, size: float) -> None:
    """Compare second derivatives, of the gradient's random projection."""
    import torch

    found = []
    for norm, start, added in ((module, x, residual), (reference, exact, None)):
        sent = dz.clone().requires_grad_()
        z = both(norm, start, added)[0]
        (dx,) = torch.autograd.grad(z, start, sent, create_graph=True)
        ends = [start, sent, *(one for one in norm.parameters() if one.requires_grad)]
        weights = torch.linspace(-1, 2, dx.numel(), dtype=dx.dtype).view(dx.shape)
        found.append(torch.autograd.grad(dx, ends, weights, allow_unused=True, materialize_grads=True))
    for i, (one, other) in enumerate(zip(*found, strict=True)):
        close(one, other, 1e4 * size**3, f"second derivative {i}", x.dtype, 4 * x.numel() * largest(other))


def both(module: Any, x: Any, residual: Any) -> tuple[Any, ...]:
    return (module(x),) if residual is None else module(x, residual)


def close(got: Any, wanted: Any, size: float, what: str, dtype: Any, rounded: float | None = None) -> None:
    if not got.numel():
        return
    off = largest(got.double() - wanted.double())
    bound = SLACK * ROUNDOFF["float64" if dtype.itemsize == 8 else "float32"] * max(size, largest(wanted))
    kept = largest(wanted) if rounded is None else rounded
    bound += 1.01 * ROUNDOFF[str(got.dtype).removeprefix("torch.")] * kept + 2 * LEAST
    if not off <= bound:
        raise AssertionError(f"{what} is off by {off:.3g}, {bound:.3g} allowed")


def threads_changed(body: Callable[[], Any]) -> Any:
    import torch

    was = torch.get_num_threads()
    torch.set_num_threads(1 if was > 1 else 3)
    result = body()
    torch.set_num_threads(was)
    return result


def make_module(rng: random.Random, shape: tuple[int, ...], dtype: Any) -> Any:
    import torch
    from torch import nn

    from normscope.norms import AdaNorm, DetachNorm, LayerNorm, LayerNormSimple, RMSNorm, ScaleNorm

    def any_of(*options: Any) -> Any:
        return rng.choice(options)

    narrow = any_of(dtype, torch.float32, torch.bfloat16)
    eps, gain, bias, affine = any_of(1e-5, 1e-3, 1e-1), any_of(True, False), any_of(True, False), rng.random() < 0.7
    convention, scale, k = any_of("paper", "released"), rng.uniform(0.5, 2), any_of(0.0, 0.1, 0.5)
    makers = [
        lambda: LayerNorm(shape, eps, affine, bias, dtype=narrow, weight=gain),
        lambda: LayerNormSimple(shape, eps),
        lambda: RMSNorm(shape, any_of(None, eps), affine, dtype=narrow),
        lambda: ScaleNorm(shape, eps, dtype=narrow),
        lambda: AdaNorm(shape, eps, scale=scale, k=k, convention=convention),
        lambda: DetachNorm(shape, eps, mean=any_of(True, False), std=any_of(True, False)),
    ]
    module = any_of(*makers)()
    for name, parameter in list(module.named_parameters()):
        values = torch.randn(*parameter.shape[:-1], parameter.shape[-1] * 2).to(narrow)[..., ::2] + 2
        setattr(module, name, nn.Parameter(values if rng.random() < 0.3 else values.contiguous()))
    return module


def strided(rng: random.Random, sizes: list[int], dtype: Any, words: list[str]) -> Any:
    """Draw numbers and lay them out in some way."""
    import torch

    way = rng.choice(["plain", "plain", "transposed", "sliced", "expanded", "offset", "flipped", "padded"])
    words.append(way)
    if way == "transposed" and len(sizes) > 1:
        i, j = rng.sample(range(len(sizes)), 2)
        swapped = list(sizes)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        return (torch.randn(swapped) + 0.5).to(dtype).transpose(i, j)
    if way == "sliced":
        axis = rng.randrange(len(sizes))
        wide = list(sizes)
        wide[axis] = 2 * wide[axis] + 1
        return (torch.randn(wide) + 0.5).to(dtype)[(slice(None),) * axis + (slice(1, None, 2),)]
    if way == "expanded" and len(sizes) > 1 and sizes[0]:
        return (torch.randn(1, *sizes[1:]) + 0.5).to(dtype).expand(sizes)
    if way == "offset":
        count = torch.Size(sizes).numel()
        return (torch.randn(count + 3) + 0.5).to(dtype)[3:].view(sizes)
    if way == "flipped":
        return (torch.randn(sizes) + 0.5).to(dtype).flip(-1)
    if way == "padded":
        return (torch.randn(*sizes[:-1], sizes[-1] + 5) + 0.5).to(dtype)[..., 2:-3]
    return (torch.randn(sizes) + 0.5).to(dtype)


def upstream(rng: random.Random, sizes: list[int], dtype: Any, words: list[str]) -> Any:
    """Draw what comes from above, also what is only said to be there: a pending sign, zeros without memory."""
    import torch

    way = rng.random()
    if way < 0.1:
        words.append("negated")
        return torch._neg_view(torch.randn(sizes).to(dtype))
    if way < 0.15:
        words.append("zeros")
        return torch._efficientzerotensor(tuple(sizes), dtype=dtype)
    return strided(rng, sizes, dtype, words)


def turned(tensor: Any) -> Any:
    return tensor if tensor.dim() < 2 else tensor.transpose(0, -1).contiguous().transpose(0, -1)


if __name__ == "__main__":
    sys.exit(main())
