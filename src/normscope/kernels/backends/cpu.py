"""The CPU backend: compiled kernels, called by a C++ autograd function, or from Python where that cannot be built.

The C++ function is there for small calls: from Python one costs several times what torch's own operations cost. Above
some ten thousand entries both take the same time.
"""

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from normscope.kernels.backends import build
from normscope.kernels.formula import CENTER, Formula, gradients

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

SMALL = 1 << 15
"""Entries below which a second thread costs more than it gives."""
PARTS = 32
"""So many partial sums make a parameter's gradient, fewer for small ones and more for many rows."""
ROWS = 64
"""At the most so many rows are in a partial sum, or rounding adds up."""

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
    """The instruction set in use: ``avx512bf16``, ``avx512``, ``avx2`` or ``base``."""
    functions: ctypes.CDLL
    shim: ModuleType | None
    """The C++ functions: ``norm`` with autograd, ``run`` over all rows; None where they could not be built."""
    words: str
    """What is in use, and why not the better thing."""


@cache
def load() -> Library:
    """Load the kernels, building them at the first use ever; NORMSCOPE_CPU_ISA may name an instruction set.

    Raises:
        CannotBuild: If there are none and none can be built.
        ValueError: If NORMSCOPE_CPU_ISA names an instruction set that this machine or this build has not.
    """
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(build.shim, _say)
        path = build.kernels(_say)
    functions = ctypes.CDLL(str(path))
    functions.normscope_use.restype = ctypes.c_char_p
    wish = os.environ.get("NORMSCOPE_CPU_ISA")
    isa = functions.normscope_use(wish.encode() if wish else None)
    if isa is None:
        raise ValueError(f"NORMSCOPE_CPU_ISA={wish} does not run here; unset it for the best that does")
    rows = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    functions.normscope_forward.argtypes = rows
    functions.normscope_backward.argtypes = [*rows, ctypes.c_void_p, ctypes.c_void_p]
    functions.normscope_reduce.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
    try:
        shim = _load_shim(building.result(), functions)
        words = f"{isa.decode()} vector code under a C++ autograd function"
    except (build.CannotBuild, ImportError) as error:
        shim = None
        words = f"{isa.decode()} vector code called from Python, which is slower for small tensors: {error}"
        _say(f"normscope: the CPU kernels run without their C++ function: {error}")
    return Library(path, isa.decode(), functions, shim, words)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _load_shim(path: Path, functions: ctypes.CDLL) -> ModuleType:
    """Import the extension module and tell it where the kernels are.

    Raises:
        ImportError: If it is none, or not for this torch.
    """
    spec = importlib.util.spec_from_file_location("normscope.kernels._shim", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = ("normscope_forward", "normscope_backward", "normscope_reduce")
    addresses = [ctypes.cast(getattr(functions, name), ctypes.c_void_p).value for name in names]
    module.bind(*addresses, lambda flags, eps, scale, k, *rest: gradients(Formula(flags, eps, scale, k), *rest))
    return module


def forward(
    formula: Formula, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Normalize the rows of a contiguous matrix.

    Args:
        formula: The member of the family.
        x: ``[rows, H]``, float32, float64, bfloat16 or float16.
        residual: The same shape and dtype, added before; None for none.
        weight: ``[H]``, not wider than the statistics.
        bias: ``[H]``, not wider than the statistics.

    Returns:
        z; the sum, or None without a residual; the mean of every row, or None where there is none; its mean square
        around that. Statistics in float64 for float64, else in float32.
    """
    statistics = _statistics(x)
    rows = x.shape[0]
    z = torch.empty_like(x)
    total = None if residual is None else torch.empty_like(x)
    mean = torch.empty(rows, dtype=statistics) if formula.flags & CENTER else None
    square = torch.empty(rows, dtype=statistics)
    gain = _wide(weight, statistics)
    shift = _wide(bias, statistics)
    if shift is not None and gain is None:
        # The kernels know no bias without a gain.
        gain = torch.ones_like(shift)
    call = _call(formula, x, x=x, residual=residual, weight=gain, bias=shift, sum=total, z=z, mean=mean, square=square)
    library, address = load(), ctypes.addressof(call)
    if library.shim is not None:
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
    """Compute the gradients of the input (or the sum), the gain and the bias.

    Args:
        formula: The member of the family.
        dz: ``[rows, H]``, contiguous.
        dtotal: What comes to the sum itself, added to the gradient; None for none.
        x: What was normalized; None where the formula needs no input.
        mean: The mean of every row, where the formula has one and ``x`` is there.
        square: The mean square of every row.
        weight: ``[H]``.
        wants_weight: Whether the gain's gradient is wanted.
        wants_bias: Whether the bias's gradient is wanted.

    Returns:
        dx in the dtype of ``dz``; the gain's and the bias's in the dtype of the statistics, or None. They are added up
        over a division of the rows that depends on their number alone, so that threads do not change them.
    """
    rows, width = dz.shape
    dx = torch.empty_like(dz)
    gain = _wide(weight, square.dtype)
    if wants_bias and gain is None:
        gain = torch.ones(width, dtype=square.dtype)
    added = None if dtotal is None else dtotal.contiguous()
    call = _call(formula, dz, x=x, dz=dz, dsum=added, weight=gain, dx=dx, mean=mean, square=square)
    library, address = load(), ctypes.addressof(call)
    function = library.functions.normscope_backward
    if not (wants_weight or wants_bias):
        if library.shim is not None:
            library.shim.run(address, 0, 0, 0)
        else:
            _over(rows, width, lambda begin, end: function(address, begin, end, None, None))
        return dx, None, None
    parts = max(1, min(rows * width // SMALL, PARTS, rows), rows // ROWS)
    size = -(-rows // parts)
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


def _statistics(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _wide(parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if parameter is None else parameter.detach().to(dtype).contiguous()


def _call(formula: Formula, like: Tensor, **tensors: Tensor | None) -> KernelCall:
    """Fill the structure; the tensors must outlive its use."""
    call = KernelCall(*like.shape, formula.flags, TYPES[like.dtype], formula.eps, formula.scale, formula.k)
    for name, tensor in tensors.items():
        setattr(call, name, None if tensor is None else tensor.data_ptr())
    return call


def _over(rows: int, width: int, body: Callable[[int, int], None]) -> None:
    """Run over all rows, in as many threads as torch uses where that pays."""
    threads = min(torch.get_num_threads(), rows * width // SMALL)
    if threads < 2:
        body(0, rows)
        return
    edges = [rows * index // threads for index in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(body, edges[:-1], edges[1:]))
