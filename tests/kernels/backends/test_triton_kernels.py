"""The GPU kernels, compiled for GPUs that are not present: requests to the compiler, and its results."""

import pytest
import torch

from support.pairwise import pairwise
from support.triton_norms import NORMS
from support.triton_process import compiling, needs_triton

pytestmark = needs_triton

DTYPES = (torch.bfloat16, torch.float32)
SHIPPED = ["layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "ada_norm, released", "rms_norm", "scale_norm"]


def check_compiled(machine: str, name: str, dtype: torch.dtype, width: int, residual: bool) -> set[str]:
    from support import triton_compile

    norm = NORMS[name]
    with triton_compile.machine(machine) as launches:
        triton_compile.call(norm.formula, torch.empty(8, width, dtype=dtype), norm.gain, norm.bias, residual)
        assert len(launches) in ((3,) if norm.gain or norm.bias else (2,)), "one launch forward, at most two backward"
        for launch in launches:
            program = triton_compile.compiled(launch)
            what = f"{launch.kernel.__name__} of {name}, {dtype}, {width} on {machine}"
            assert triton_compile.spilled(program) == 0, f"{what} spills registers"
            assert not triton_compile.has_float64(program), f"{what} has double precision"
            assert program.metadata.shared <= triton_compile.SHARED[machine], f"{what} has too much shared memory"
    return {launch.kernel.__name__ for launch in launches}


@pytest.mark.parametrize(
    "machine", ["sm_90", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sm_80", "sm_100", "gfx942"))]
)
@compiling
def test_every_kernel_compiles_without_spills_or_float64(machine: str) -> None:
    from support import triton_compile

    seen = set()
    for dtype in DTYPES:
        for name, width in (("layer_norm", 768), ("layer_norm", 8192), ("layer_norm", 17000), ("ada_norm", 4096)):
            seen |= check_compiled(machine, name, dtype, width, residual=True)
        for name, width in (("layer_norm", 4096), ("rms_norm", 16384), ("detach_norm", 1000)):
            seen |= check_compiled(machine, name, dtype, width, residual=False)
    assert seen == set(triton_compile.KERNELS)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("machine", ["sm_80", "sm_90", "sm_100", "gfx942"])
@compiling
def test_every_norm_compiles_at_every_kind_of_width(machine: str, dtype: torch.dtype) -> None:
    # Every kind on the machine that most people have, and those that once spilled, on the others.
    widths = (64, 257, 1024, 2048, 5120, 12288, 12345, 40000) if machine == "sm_90" else (5120, 12345, 40000)
    # Every norm at every width, in one of the two types.
    for name, width, of in pairwise(SHIPPED, widths, DTYPES):
        if of == dtype:
            check_compiled(machine, name, dtype, width, residual=width in (1024, 40000))


@pytest.mark.parametrize("width", [1, 100, 4096, 9001, 16385])
@compiling
def test_one_compilation_serves_any_number_of_rows(width: int) -> None:
    from support import triton_compile

    norm = NORMS["layer_norm"]
    with triton_compile.machine("sm_90") as launches:
        for rows in (1, 2, 3, 15, 16, 17, 32, 33):
            triton_compile.call(norm.formula, torch.empty(rows, width), True, True, residual=True)
        # More rows than there is memory for: the launch, with their number in the place of another.
        for launch in launches[:3]:
            where = launch.kernel.arg_names.index("rows") if "rows" in launch.kernel.arg_names else None
            if where is not None:
                arguments = (*launch.arguments[:where], 2**33, *launch.arguments[where + 1 :])
                launches.append(launch._replace(arguments=arguments))
        programs = {launch.kernel.__name__: set() for launch in launches}
        for launch in launches:
            programs[launch.kernel.__name__].add(id(triton_compile.compiled(launch)))
        assert len(programs) == 3
        for launch in launches:
            assert len(launch.kernel.device_caches[0][0]) == 1, f"{launch.kernel.__name__} is compiled more than once"


@pytest.mark.parametrize("width", [100, 1024, 9001, 16385])
@pytest.mark.parametrize("name", ["layer_norm_simple", "layer_norm, gain"])
@compiling
def test_offsets_have_64_bits(name: str, width: int) -> None:
    from support import triton_compile

    norm = NORMS[name]
    with triton_compile.machine("sm_90") as launches:
        triton_compile.call(norm.formula, torch.empty(8, width), norm.gain, False, residual=True)
        for launch in launches:
            narrow = triton_compile.narrow_offsets(triton_compile.compiled(launch))
            # What is left reads or writes the gain, its gradient, or a column of partial sums.
            assert len(narrow) <= (2 if norm.gain else 0), f"{launch.kernel.__name__}: {narrow}"


@pytest.mark.slow
@compiling
def test_numbers_of_the_formula_are_no_arguments() -> None:
    from support import triton_compile

    norm = NORMS["ada_norm, released"]
    with triton_compile.machine("sm_90") as launches:
        for eps in (1e-5, 1e-300, 0.0):
            formula = norm.formula._replace(eps=eps)
            triton_compile.call(formula, torch.empty(8, 96, dtype=torch.bfloat16), False, False, residual=False)
        for launch in launches:
            program = triton_compile.compiled(launch)
            assert not triton_compile.has_float64(program)
            assert not any(isinstance(one, float) for one in launch.arguments)
