"""The GPU scans, compiled for GPUs that are not present: requests to the compiler, its results, and the host's part."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from normscope.kernels.formula import CENTER, PHI, RELEASED, ROOT, Formula
from support.pairwise import pairwise
from support.triton_process import compiling, needs_triton

pytestmark = needs_triton

NORMS = {"layer": Formula(CENTER | ROOT, 1e-5), "ada": Formula(CENTER | RELEASED | PHI, 1e-5, 1.0, 0.1)}
SPILLED = 32
"""Bytes of a thread that may go to memory where kinds are unusual: some need up to eight registers too many."""
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "RELU": 1}
RESIDENT = [("LSTM", 128, torch.bfloat16), ("GRU", 50, torch.float32)]
STEPPED = [("LSTM", 400, torch.float32), ("GRU", 1024, torch.bfloat16)]
MORE_RESIDENT = [
    *(("LSTM", 100, torch.float16), ("LSTM", 64, torch.float32), ("LSTM", 5, torch.float32)),
    *(("GRU", 128, torch.bfloat16), ("RNN", 256, torch.bfloat16), ("RELU", 128, torch.float32)),
]
MORE_STEPPED = [
    *(("LSTM", 256, torch.bfloat16), ("LSTM", 1024, torch.bfloat16), ("LSTM", 2048, torch.float32)),
    *(("GRU", 1024, torch.float32), ("GRU", 2048, torch.bfloat16), ("RNN", 2000, torch.float16)),
    ("LSTM", 1, torch.float64),
]


def call(
    cell: Any,
    width: int,
    dtype: torch.dtype,
    *,
    norm: str = "layer",
    groups: Any = "WHOLE",
    summed: bool = False,
    sizes: tuple[int, ...] = (20, 20, 20),
    reverse: bool = False,
    keeps: bool = True,
) -> None:
    """Call the scans forward and backward, with whatever their memory holds."""
    from normscope.kernels.backends import scan_triton

    wide = torch.promote_types(dtype, torch.float32)
    gates, entries, batch = GATES[cell], sum(sizes), sizes[0]
    scan = scan_triton.GpuScan(
        cell, sizes, reverse, summed, groups, False, NORMS[norm], NORMS[norm] if cell == "LSTM" else None
    )

    def empty(*shape: int, like: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=like)

    parameters = scan_triton.Parameters(*(empty(gates * width, like=wide) for _ in range(3)), None, None)
    if cell == "LSTM":
        parameters = parameters._replace(read_weight=empty(width, like=wide), read_bias=empty(width, like=wide))
    c = empty(batch, width, like=wide) if cell == "LSTM" else None
    weights, h = empty(gates * width, width), empty(batch, width)
    output, *kept = scan_triton.forward(scan, parameters, empty(entries, gates * width), h, c, weights, keeps=keeps)
    if keeps:
        scan_triton.backward(scan, parameters, output, h, c, weights, kept, wants=[True] * 5)


def check_compiled(machine: str, launches: list[Any], what: str, *, spilled: int = 0) -> set[str]:
    from support import triton_compile

    # One launch of every kernel; the two sums of an LSTM are alike.
    for launch in {launch.kernel.__name__: launch for launch in launches}.values():
        program = triton_compile.compiled(launch)
        name = f"{launch.kernel.__name__} of {what} on {machine}"
        assert triton_compile.spilled(program) <= spilled, f"{name} spills registers"
        assert program.metadata.shared <= triton_compile.SHARED[machine], f"{name} has too much shared memory"
        if "float64" not in what:
            assert not triton_compile.has_float64(program), f"{name} has double precision"
    return {launch.kernel.__name__ for launch in launches}


@compiling
def test_scans_compile_without_spills() -> None:
    check_all("sm_90", RESIDENT, STEPPED)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["sm_80", "sm_90", "sm_100"])
@compiling
def test_scans_of_every_size_compile_without_spills(machine: str) -> None:
    check_all(machine, [*RESIDENT, *MORE_RESIDENT], [*STEPPED, *MORE_STEPPED])


def check_all(
    machine: str, resident: list[tuple[str, int, torch.dtype]], stepped: list[tuple[str, int, torch.dtype]]
) -> None:
    from normscope.kernels.backends import scan_triton_kernels
    from support import triton_compile

    for cases, kernels in ((resident, "scan"), (stepped, "step")):
        for cell, width, dtype in cases:
            with triton_compile.machine(machine, scan_triton_kernels) as launches:
                call(cell, width, dtype, sizes=(20,))
                seen = check_compiled(machine, launches, f"{cell}, {width}, {dtype}")
            assert seen == {f"{kernels}_forward", f"{kernels}_backward", "parameter_sums"}


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["sm_80", "sm_90", "sm_100"])
@compiling
def test_every_kind_of_scan_compiles_with_few_spills(machine: str) -> None:
    from normscope.kernels.backends import scan_triton_kernels
    from support import triton_compile

    groups = {"LSTM": ("WHOLE", "EACH"), "GRU": ("PAIR", "EACH", "WHOLE"), "RNN": ("WHOLE",), "RELU": ("WHOLE",)}
    kinds = [(cell, group) for cell, ways in groups.items() for group in ways]
    found = pairwise(kinds, ("layer", "ada"), (64, 128, 1024, 2048), (torch.bfloat16, torch.float32))
    # Every kind on the machine that most people have, and a third of them on the others.
    for (cell, group), norm, width, dtype in found if machine == "sm_90" else found[::3]:
        with triton_compile.machine(machine, scan_triton_kernels) as launches:
            call(cell, width, dtype, norm=norm, groups=group, summed=cell in ("RNN", "RELU"), sizes=(20,))
            call(cell, width, dtype, norm=norm, groups=group, sizes=(20,), keeps=False)
            check_compiled(machine, launches, f"{cell}, {group}, {norm}, {width}, {dtype}", spilled=SPILLED)


@compiling
def test_one_compilation_serves_any_number_of_sequences_and_steps() -> None:
    from normscope.kernels.backends import scan_triton_kernels
    from support import triton_compile

    with triton_compile.machine("sm_90", scan_triton_kernels) as launches:
        for sizes in ((1,), (16, 16, 3), (17, 2, 2, 1, 1), (64,) * 16):
            for reverse in (False, True):
                for width in (16, 260):
                    call("GRU", width, torch.bfloat16, groups="PAIR", sizes=sizes, reverse=reverse)
        # A program that keeps the weights has one launch for all steps with equally many sequences.
        assert sum(launch.kernel.__name__ == "scan_forward" for launch in launches) == 2 * (1 + 2 + 3 + 1)
        for launch in launches:
            triton_compile.compiled(launch)
        for name in ("scan_forward", "scan_backward", "step_forward", "step_backward"):
            kernel = next(launch.kernel for launch in launches if launch.kernel.__name__ == name)
            assert len(kernel.device_caches[0][0]) == 1, f"{name} is compiled more than once"


@pytest.mark.parametrize("width", [64, 300])
@compiling
def test_nothing_waits_for_the_device(width: int) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    from normscope.kernels.backends import scan_triton_kernels
    from support import triton_compile

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(str(func).split(".")[1])
            return func(*args, **(kwargs or {}))

    seen: set[str] = set()
    with triton_compile.machine("sm_90", scan_triton_kernels), Names():
        call("LSTM", width, torch.bfloat16, sizes=(5, 5, 2))
    # No number is read from a tensor, and no tensor is made of numbers, which would be copied to the device.
    views = {"alias", "slice", "select", "t", "transpose", "unbind", "view"}
    assert seen <= {"empty", "empty_like", "mm", "addmm_", "sum", "cat", "promote_types", *views}


@compiling
def test_offsets_of_rows_have_64_bits() -> None:
    from normscope.kernels.backends import scan_triton_kernels
    from support import triton_compile

    with triton_compile.machine("sm_90", scan_triton_kernels) as launches:
        call("GRU", 30, torch.float64, groups="PAIR", sizes=(2,))
        for launch in launches[:2]:
            narrow = triton_compile.narrow_offsets(triton_compile.compiled(launch))
            # Those of the norms' parameters have one axis.
            assert not [line for line in narrow if re.search(r"tensor<\d+x\d+x!tt.ptr", line)]
