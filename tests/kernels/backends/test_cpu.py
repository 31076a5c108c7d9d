"""The compiled kernels against the definitions, for every instruction set of this machine, from C++ and Python."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from normscope.kernels.autograd import norm
from normscope.kernels.backends import build, cpu
from normscope.kernels.formula import CENTER, DETACH_MEAN, DETACH_STD, LENGTH, PHI, RELEASED, ROOT, Formula
from normscope.norms.ada_norm import ada_norm
from normscope.norms.detach_norm import detach_norm
from normscope.norms.layer_norm import layer_norm
from normscope.norms.rms_norm import rms_norm
from normscope.norms.scale_norm import scale_norm
from support.pairwise import parametrize_pairwise

EPS = 1e-3
WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 257, 769, 1000, 4097]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}

FAMILY = {
    "layer_norm": (Formula(CENTER | ROOT, EPS), lambda x, w, b: layer_norm(x, w, b, EPS)),
    "rms_norm": (Formula(ROOT, EPS), lambda x, w, b: rms_norm(x, w, EPS) + (0 if b is None else b)),
    "scale_norm": (
        Formula(LENGTH, EPS),
        lambda x, w, b: scale_norm(x, 1 if w is None else w, EPS) + (0 if b is None else b),
    ),
    "released": (Formula(CENTER | RELEASED | PHI, EPS, 1.5, 0.2), lambda x, w, b: affine(ada(x, "released"), w, b)),
    "ada_norm": (Formula(CENTER | ROOT | PHI, EPS, 1.5, 0.2), lambda x, w, b: affine(ada(x, "paper"), w, b)),
    "center": (Formula(CENTER, EPS), lambda x, w, b: affine(x - x.mean(-1, keepdim=True), w, b)),
    "detached mean": (
        Formula(CENTER | ROOT | DETACH_MEAN, EPS),
        lambda x, w, b: affine(detached(x, True, False), w, b),
    ),
    "detached std": (Formula(CENTER | ROOT | DETACH_STD, EPS), lambda x, w, b: affine(detached(x, False, True), w, b)),
    "detached": (
        Formula(CENTER | ROOT | DETACH_MEAN | DETACH_STD, EPS),
        lambda x, w, b: affine(detached(x, True, True), w, b),
    ),
}
"""Members of the family, and their definitions in float64."""


def ada(x: Tensor, convention: str) -> Tensor:
    return ada_norm(x, EPS, scale=1.5, k=0.2, convention=convention)


def detached(x: Tensor, mean: bool, std: bool) -> Tensor:
    return detach_norm(x, EPS, mean=mean, std=std)


def affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


ISAS = list(build.VARIANTS[os.uname().machine.lower()])


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Use an instruction set, every one that runs here; a test may choose them itself by ``indirect``."""
    library = cpu.load()
    if library.functions.normscope_use(request.param.encode()) is None:
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    library.functions.normscope_use(library.isa.encode())


def through_shim(formula: Formula, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None):
    shim = cpu.load().shim
    assert shim is not None
    told = shim.norm(x, tuple(x.shape[-1:]), weight, bias, residual, *formula)
    return told if isinstance(told, tuple) else (told, None)


def through_python(formula: Formula, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None):
    return norm(cpu, formula, x.shape[-1], x, residual, weight, bias)


both_ways = pytest.mark.parametrize("way", [through_shim, through_python])


def gradients(outputs: list[Tensor], inputs: list[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(one.shape, generator=generator, dtype=torch.float64).to(one.dtype) for one in outputs]
    return list(torch.autograd.grad(outputs, inputs, upstream))


@parametrize_pairwise(
    "isa, dtype, name, parameters, way",
    # Every type of every instruction set is compiled apart: each with every member.
    list(product(ISAS, TOLERANCE)),
    FAMILY,
    ["none", "gain", "gain and bias", "bias"],
    [through_shim, through_python],
    indirect=["isa"],
)
def test_values_and_gradients_are_those_of_the_definition(isa, dtype, name, parameters, way):
    formula, definition = FAMILY[name]
    generator = torch.Generator().manual_seed(5)
    for width in WIDTHS[:: 1 if dtype == torch.float32 and parameters != "gain" else 3]:
        if width == 1 and name == "released":
            continue
        rows = 7 if width < 100 else 3
        shapes = {"x": (rows, width), "residual": (rows, width), "weight": (width,), "bias": (width,)}
        given = {key: torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in shapes.items()}
        given |= {"weight": given["weight"] * ("gain" in parameters), "bias": given["bias"] * ("bias" in parameters)}
        absent = {key for key in ("weight", "bias") if not given[key].any()}
        for residual in (False, True):
            left_out = absent if residual else absent | {"residual"}
            low = {k: None if k in left_out else v.to(dtype).requires_grad_() for k, v in given.items()}
            high = {k: None if v is None else v.detach().double().requires_grad_() for k, v in low.items()}
            z, total = way(formula, low["x"], low["residual"], low["weight"], low["bias"])
            summed = high["x"] if not residual else high["x"] + high["residual"]
            if residual:
                # The norm is taken of the sum as it is stored.
                summed = summed + (total.double() - summed).detach()
            want = definition(summed, high["weight"], high["bias"])
            outputs = ([z], [want]) if not residual else ([z, total], [want, summed])
            inputs = [[one for one in side.values() if one is not None] for side in (low, high)]
            names = [key for key, one in low.items() if one is not None]
            got = [*outputs[0], *gradients(outputs[0], inputs[0], width)]
            wanted = [*outputs[1], *gradients(outputs[1], inputs[1], width)]
            for label, one, other in zip([*range(len(outputs[0])), *names], got, wanted, strict=True):
                assert one.dtype == dtype
                scale = max(1.0, other.abs().max().item())
                error = (one.double() - other).abs().max().item() / scale
                assert error <= TOLERANCE[dtype] * (4 if isinstance(label, str) else 1), (width, residual, label, error)


@both_ways
def test_every_instruction_set_is_named(isa, way):
    z, _ = way(FAMILY["ada_norm"][0], torch.ones(2, 5), None, None, None)
    assert torch.equal(z, torch.zeros(2, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_both_ways_agree_to_the_bit_whatever_the_threads(dtype):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3000, 96, generator=generator).to(dtype).requires_grad_()
    weight, bias = (torch.randn(96, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    seen = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for way, shim in ((through_shim, True), (through_python, True), (through_python, False)):
                with pytest.MonkeyPatch.context() as patch:
                    if not shim:
                        # Where no C++ compiler was found, Python's own threads share the rows.
                        library = dataclasses.replace(cpu.load(), shim=None)
                        patch.setattr(cpu, "load", lambda library=library: library)
                    for learned in ([], [weight, bias]):
                        given = learned or [None, None]
                        z, _ = way(FAMILY["layer_norm"][0], x, None, *given)
                        seen.append([z, *gradients([z], [x, *learned], 2)])
    finally:
        torch.set_num_threads(before)
    for first in (0, 1):
        for other in seen[first::2]:
            assert all(torch.equal(one, two) for one, two in zip(seen[first], other, strict=True))


@pytest.mark.parametrize("way", [through_shim, through_python])
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_threads_share_the_rows(way):
    x, dz = torch.randn(4096, 1024, requires_grad=True), torch.randn(4096, 1024)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        # A busy machine may keep the second thread waiting, and the first one waits for it: not every time.
        assert any(share_of_the_second_thread(way, x, dz) > 0.25 for _ in range(100))
    finally:
        torch.set_num_threads(before)


def share_of_the_second_thread(way, x: torch.Tensor, dz: torch.Tensor) -> float:
    """Compute a few passes; give the processor time of other threads over this one's."""
    others, own = time.process_time() - time.thread_time(), time.thread_time()
    for _ in range(20):
        z, _ = way(FAMILY["ada_norm"][0], x, None, None, None)
        torch.autograd.grad(z, x, dz)
    return (time.process_time() - time.thread_time() - others) / (time.thread_time() - own)


def test_streaming_stores_change_no_bit(isa):
    threshold = cpu.ctypes.c_int64.in_dll(cpu.load().functions, "normscope_around")
    before = threshold.value
    seen = []
    try:
        for value in (0, 2**62):
            threshold.value = value
            for dtype in TOLERANCE:
                x = torch.randn(9, 192, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
                for name in ("layer_norm", "ada_norm", "detached"):
                    z, _ = through_python(FAMILY[name][0], x, None, None, None)
                    seen.append(torch.cat([z, *gradients([z], [x], 3)]))
    finally:
        threshold.value = before
    half = len(seen) // 2
    assert all(torch.equal(one, two) for one, two in zip(seen[:half], seen[half:], strict=True))


def test_an_instruction_set_that_is_not_there_is_refused():
    program = "from normscope.kernels.backends import cpu; cpu.load()"
    environment = {**os.environ, "NORMSCOPE_CPU_ISA": "mmx"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert "NORMSCOPE_CPU_ISA=mmx does not run here" in done.stderr
