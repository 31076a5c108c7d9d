"""Compile the kernels as a launch would, for machines that are not here."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from normscope.kernels.backends import triton as backend
from normscope.kernels.backends import triton_kernels
from normscope.kernels.formula import Formula

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}
"""Bytes of shared memory that a program can have."""


def kernels_of(module: ModuleType) -> dict[str, triton.JITFunction]:
    """List what is launched: a kernel has a number that it is not compiled for, and a function has none."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, triton.JITFunction) and value.do_not_specialize
    }


KERNELS = kernels_of(triton_kernels)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Launch(NamedTuple):
    """What a kernel was called with."""

    kernel: triton.JITFunction
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class Device:
    """As much of a driver as compiling asks for."""

    def __init__(self, target: GPUTarget) -> None:
        self.get_current_target = lambda: target
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0


class Recorder:
    """Stands for a kernel, and keeps what it is called with."""

    def __init__(self, kernel: triton.JITFunction, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **options: self.launches.append(Launch(self.kernel, grid, arguments, options))


@contextmanager
def machine(name: str, module: ModuleType = triton_kernels) -> Iterator[list[Launch]]:
    """Make the backend believe in a machine; gives the list that its launches are appended to instead of done."""
    launches: list[Launch] = []
    kernels = kernels_of(module)
    before = backend.LANES
    driver.set_active(Device(TARGETS[name]))
    set_lanes(TARGETS[name].warp_size)
    for kernel, value in kernels.items():
        value.device_caches.clear()
        setattr(module, kernel, Recorder(value, launches))
    try:
        yield launches
    finally:
        vars(module).update(kernels)
        set_lanes(before)


def set_lanes(lanes: int) -> None:
    backend.LANES = lanes
    backend._constants.cache_clear()
    backend._options.cache_clear()


def call(formula: Formula, x: torch.Tensor, gain: bool, bias: bool, residual: bool) -> None:
    """Call the backend forward and backward, with whatever ``x`` holds."""
    weight = torch.empty(x.shape[-1], dtype=x.dtype) if gain else None
    shift = torch.empty(x.shape[-1], dtype=x.dtype) if bias else None
    other = torch.empty_like(x) if residual else None
    z, total, mean, square = backend.forward(formula, x, other, weight, shift)
    kept = (x if total is None else total) if formula.keeps_input(gain) else None
    backend.backward(formula, z, other, kept, mean if kept is not None else None, square, weight, gain, bias)


def compiled(launch: Launch) -> Any:
    """Compile a launch as Triton would before it launches, or find it in the kernel's cache."""
    return launch.kernel.run(*launch.arguments, grid=launch.grid, warmup=True, **launch.options)


def spilled(program: Any) -> int:
    """Read from the machine code how much of a thread's registers went to memory."""
    if "amdgcn" in program.asm:
        # Scalar registers are spilled to vector registers, which is no memory.
        found = re.findall(r"\.(?:vgpr_spill_count|private_segment_fixed_size):\s+(\d+)", program.asm["amdgcn"])
        assert len(found) == 2
        return sum(map(int, found))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    (stack,) = re.findall(r"STACK:(\d+)", usage)
    return int(stack)


def has_float64(program: Any) -> bool:
    """Whether the machine code computes in double precision."""
    return ".f64" in program.asm["ptx"] if "ptx" in program.asm else "_f64" in program.asm["amdgcn"]


def narrow_offsets(program: Any) -> list[str]:
    """List the additions to a pointer whose offset has fewer than 64 bits."""
    lines = [line for line in program.asm["ttir"].splitlines() if "tt.addptr" in line]
    assert lines
    return [line for line in lines if not re.search(r"i64>?( loc.*)?$", line)]
