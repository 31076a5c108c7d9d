"""The CPU backend: compiled kernels, called from a C++ autograd function, or from Python if that cannot be built.

The C++ function is for small calls, which from Python take several times as long as torch's operations. From about ten
thousand entries, both ways take the same time.
"""

import ctypes
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from normscope.kernels.backends import build
from normscope.kernels.formula import CENTER, Formula, gradients_of_groups

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

SMALL = 1 << 15
"""Number of entries below which a second thread does not pay off."""
PARTS = 32
"""Number of partial sums per parameter gradient: fewer for small inputs, more for many rows."""
ROWS = 64
"""Largest number of rows per partial sum, which limits the accumulation of rounding errors."""

NAMES = ("x", "residual", "weight", "bias", "dz", "dsum", "sum", "z", "dx", "mean", "square")


class KernelCall(ctypes.Structure):
    """``struct norm`` of ``cpu.h``."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("flags", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("eps", ctypes.c_double),
        ("scale", ctypes.c_double),
        ("k", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in NAMES),
    )


@dataclass(frozen=True)
class Library:
    """The loaded kernels."""

    path: Path
    isa: str
    """Instruction set in use: ``avx512bf16``, ``avx512``, ``avx2`` or ``base``."""
    functions: ctypes.CDLL
    shim: ModuleType | None
    """C++ functions: ``norm`` with autograd, ``run`` over all rows; None if they could not be built."""
    description: str
    """Code in use, and why it is not the fastest."""


@cache
def load() -> Library:
    """Load the kernels, and build them on first use; NORMSCOPE_CPU_ISA may select an instruction set.

    Raises:
        CannotBuild: If the kernels are not built and cannot be built, or the built file is for another machine.
        ValueError: If NORMSCOPE_CPU_ISA names an instruction set that this machine or build does not support.
    """
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(build.shim, build.say)
        path = build.kernels(build.say)
    try:
        functions = ctypes.CDLL(str(path))
    except OSError as error:
        raise build.CannotBuild(f"{error}; remove this file to build it for this machine") from error
    functions.normscope_use.restype = ctypes.c_char_p
    requested = os.environ.get("NORMSCOPE_CPU_ISA")
    isa = functions.normscope_use(requested.encode() if requested else None)
    if isa is None:
        raise ValueError(f"NORMSCOPE_CPU_ISA={requested} does not run here; unset it to use the best that does")
    rows = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    functions.normscope_forward.argtypes = rows
    functions.normscope_backward.argtypes = [*rows, ctypes.c_void_p, ctypes.c_void_p]
    functions.normscope_reduce.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
    try:
        shim = _load_shim(building.result(), functions)
        description = f"{isa.decode()} vector code under a C++ autograd function"
    except (build.CannotBuild, ImportError) as error:
        shim = None
        description = f"{isa.decode()} vector code called from Python, which is slower for small tensors: {error}"
        build.say(f"normscope: the CPU kernels run without their C++ function: {error}")
    return Library(path, isa.decode(), functions, shim, description)


def _load_shim(path: Path, functions: ctypes.CDLL) -> ModuleType:
    """Import the extension module, and pass it the addresses of the kernels.

    Raises:
        ImportError: If the file is not an extension module, or is for another torch.
    """
    spec = importlib.util.spec_from_file_location("normscope.kernels._shim", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not an extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = ("normscope_forward", "normscope_backward", "normscope_reduce")
    addresses = [ctypes.cast(getattr(functions, name), ctypes.c_void_p).value for name in names]
    module.bind(
        *addresses, lambda flags, eps, scale, k, *rest: gradients_of_groups(Formula(flags, eps, scale, k), *rest)
    )
    return module


def forward(
    formula: Formula, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Normalize the rows of a contiguous matrix.

    Args:
        formula: Member of the family.
        x: ``[rows, H]``, float32, float64, bfloat16 or float16.
        residual: Added to ``x`` first; the same shape and dtype.
        weight: ``[H]``, or ``[G, H]`` for as many equal groups of rows; not wider than the statistics.
        bias: As ``weight``, not wider than the statistics.

    Returns:
        z; the sum, or None without a residual; the mean of every row, or None if the formula does not center; the mean
        square of the centered rows. Statistics are in float64 for float64 inputs, otherwise in float32.
    """
    statistics = _statistics(x)
    rows = x.shape[0]
    z = torch.empty_like(x)
    total = None if residual is None else torch.empty_like(x)
    mean = torch.empty(rows, dtype=statistics) if formula.flags & CENTER else None
    square = torch.empty(rows, dtype=statistics)
    weight, bias = _wide(weight, statistics), _wide(bias, statistics)
    if bias is not None and weight is None:
        # The kernels do not support a bias without a weight.
        weight = torch.ones_like(bias)
    call = _call(formula, x, x=x, residual=residual, weight=weight, bias=bias, sum=total, z=z, mean=mean, square=square)
    library, address = load(), ctypes.addressof(call)
    if weight is not None and weight.dim() == 2:
        _over_groups(call, weight, lambda _, *given: library.functions.normscope_forward(*given))
    elif library.shim is not None:
        library.shim.run(address)
    else:
        _over(rows, x.shape[1], lambda begin, end: library.functions.normscope_forward(address, begin, end))
    return z, total, mean, square


def backward(
    formula: Formula,
    dz: Tensor,
    dtotal: Tensor | None,
    x: Tensor | None,
    mean: Tensor | None,
    square: Tensor,
    weight: Tensor | None,
    wants_weight: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute the gradients of the input (or the sum), the weight and the bias.

    Args:
        formula: Member of the family.
        dz: Upstream gradient of z, ``[rows, H]``, contiguous.
        dtotal: Upstream gradient of the sum, which is added to that of the input.
        x: Input or sum that was normalized; None if the formula does not need it.
        mean: Mean of every row, if the formula centers and ``x`` is given.
        square: Mean square of every centered row.
        weight: ``[H]``, or ``[G, H]`` as in :func:`forward`; then so are the gradients of weight and bias.
        wants_weight: Whether to compute the gradient of the weight.
        wants_bias: Whether to compute the gradient of the bias.

    Returns:
        dx in the dtype of ``dz``; the gradients of weight and bias in the dtype of the statistics, or None. Their sums
        are split by the number of rows alone, so that they do not depend on the number of threads.
    """
    rows, width = dz.shape
    dx = torch.empty_like(dz)
    weight = _wide(weight, square.dtype)
    if wants_bias and weight is None:
        weight = torch.ones(width, dtype=square.dtype)
    added = None if dtotal is None else dtotal.contiguous()
    call = _call(formula, dz, x=x, dz=dz, dsum=added, weight=weight, dx=dx, mean=mean, square=square)
    library, address = load(), ctypes.addressof(call)
    function = library.functions.normscope_backward
    if weight is not None and weight.dim() == 2:
        return dx, *_sums_of_groups(call, weight, wants_weight, wants_bias)
    if not (wants_weight or wants_bias):
        if library.shim is not None:
            library.shim.run(address, 0, 0, 0)
        else:
            _over(rows, width, lambda begin, end: function(address, begin, end, None, None))
        return dx, None, None
    parts, size = _parts(rows, width)
    dweight, dbias = (torch.zeros(parts, width, dtype=square.dtype) for _ in range(2))

    def part(index: int) -> None:
        at = (one[index].data_ptr() for one in (dweight, dbias))
        function(address, min(rows, index * size), min(rows, index * size + size), *at)

    if library.shim is not None:
        library.shim.run(address, parts, dweight.data_ptr(), dbias.data_ptr())
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(part, range(parts)) if parts > 1 else map(part, range(parts)))
    for one in (dweight, dbias):
        library.functions.normscope_reduce(one.data_ptr(), parts, width, call.type)
    return dx, dweight[0].clone() if wants_weight else None, dbias[0].clone() if wants_bias else None


def _parts(rows: int, width: int) -> tuple[int, int]:
    """Return the number of partial sums over rows, and the number of rows of each."""
    parts = max(1, min(rows * width // SMALL, PARTS, rows), rows // ROWS)
    return parts, -(-rows // parts)


def _over_groups(call: KernelCall, weight: Tensor, body: Callable[[int, int, int, int], None]) -> None:
    """Call ``body(group, call, begin, end)`` for the rows of each group, with the address of a call with its weight."""
    groups, size = len(weight), weight.shape[1] * weight.element_size()
    rows = call.rows // groups

    def some(begin: int, end: int) -> None:
        own = KernelCall.from_buffer_copy(call)
        for group in range(begin, end):
            own.weight = call.weight + group * size
            own.bias = None if call.bias is None else call.bias + group * size
            body(group, ctypes.addressof(own), group * rows, (group + 1) * rows)

    _over(groups, rows * call.width, some)


def _sums_of_groups(
    call: KernelCall, weight: Tensor, wants_weight: bool, wants_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the gradients of every group as if it were alone."""
    functions, sums = load().functions, wants_weight or wants_bias
    parts, size = _parts(call.rows // len(weight), call.width)
    dweight, dbias = (weight.new_zeros(len(weight), parts, call.width) if sums else None for _ in range(2))

    def group(index: int, address: int, begin: int, end: int) -> None:
        if dweight is None or dbias is None:
            functions.normscope_backward(address, begin, end, None, None)
            return
        for part in range(parts):
            at = (one[index, part].data_ptr() for one in (dweight, dbias))
            edges = (min(end, begin + place * size) for place in (part, part + 1))
            functions.normscope_backward(address, *edges, *at)
        for one in (dweight, dbias):
            functions.normscope_reduce(one[index].data_ptr(), parts, call.width, call.type)

    _over_groups(call, weight, group)
    return tuple(
        one[:, 0].contiguous() if wanted and one is not None else None
        for one, wanted in ((dweight, wants_weight), (dbias, wants_bias))
    )  # pyright: ignore


def _statistics(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _wide(parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if parameter is None else parameter.detach().to(dtype).contiguous()


def _call(formula: Formula, like: Tensor, **tensors: Tensor | None) -> KernelCall:
    """Fill the structure of a call; the tensors must outlive it."""
    call = KernelCall(*like.shape, formula.flags, TYPES[like.dtype], formula.eps, formula.scale, formula.k)
    for name, tensor in tensors.items():
        setattr(call, name, None if tensor is None else tensor.data_ptr())
    return call


def _over(rows: int, width: int, body: Callable[[int, int], None]) -> None:
    """Process all rows, in up to as many threads as torch uses if the input is large."""
    threads = min(torch.get_num_threads(), rows * width // SMALL)
    if threads < 2:
        body(0, rows)
        return
    edges = [rows * index // threads for index in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(body, edges[:-1], edges[1:]))
