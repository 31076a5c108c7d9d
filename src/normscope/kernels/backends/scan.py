"""Recurrent nets on the CPU: one call computes all steps of a layer and direction, forward or backward."""

import ctypes
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from normscope.kernels.backends import build, cpu
from normscope.kernels.formula import Formula

Cell = Literal["LSTM", "GRU"]
GATES = {"LSTM": 4, "GRU": 3}
TYPES = (torch.float32, torch.float64, torch.bfloat16)
_CHUNK = 4
_SCRATCH = 6
_STATISTICS = 3


class _Functions(ctypes.Structure):
    """``struct scan_functions`` of ``scan.h``."""

    _fields_ = (
        ("rows", ctypes.c_void_p * 4),
        ("product", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("pack", ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2, ctypes.c_int)),
        ("add", ctypes.c_void_p),
        ("panel", ctypes.c_int64),
        ("entry", ctypes.c_int64),
        ("statistic", ctypes.c_int64),
    )


_POINTERS = (
    *("part", "forward_weights", "backward_weights", "h", "c", "output", "h_before", "c_before", "product", "gates"),
    *("mean", "square", "doutput", "dpart", "dproduct", "dhidden", "dcandidate", "dread", "scratch"),
)


class _Product(ctypes.Structure):
    """``struct product`` of ``scan.cpp``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("a", "packed", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "inner", "columns")),
    )


class _Call(ctypes.Structure):
    """``struct scan`` of ``scan.h``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "batch", "width", "entries")),
        *((name, ctypes.c_int32) for name in ("cell", "type", "reverse", "carried")),
        ("sizes", ctypes.c_void_p),
        *((name, cpu.KernelCall) for name in ("hidden", "candidate", "read")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    )


@dataclass(frozen=True)
class StepNorm:
    """A norm of a step: a member of the family, with its parameters in the dtype of the statistics."""

    formula: Formula
    weight: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True)
class Scan:
    """What a call needs beside its tensors."""

    cell: Cell
    sizes: tuple[int, ...]
    """Rows of every step, not increasing."""
    reverse: bool
    carried: bool
    formulas: tuple[Formula | None, Formula | None, Formula | None]
    """Norms of the recurrent product (of a GRU's gates), of its candidate, and of the c that is read."""


@cache
def _module() -> tuple[ctypes.CDLL, ModuleType]:
    library, extension = build.scan(build.say)
    spec = importlib.util.spec_from_file_location("normscope.kernels._scan", extension)
    if spec is None or spec.loader is None:
        raise ImportError(f"{extension} is not an extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return ctypes.CDLL(str(library)), module


@cache
def _functions(dtype: torch.dtype) -> _Functions:
    norms = cpu.load()
    library, _ = _module()
    library.normscope_scan.restype = ctypes.POINTER(_Functions)
    pointers = [
        ctypes.cast(getattr(norms.functions, f"normscope_{name}"), ctypes.c_void_p) for name in ("forward", "backward")
    ]
    return library.normscope_scan(norms.isa.encode(), cpu.TYPES[dtype], *pointers).contents


def load() -> None:
    """Load the kernels, and build them on first use.

    Raises:
        CannotBuild: If they are not built and cannot be built.
    """
    _functions(torch.float32)


def _pack(weights: Tensor, *, transposed: bool) -> Tensor:
    """Rearrange ``[G, H]``, or its transpose, into panels for products from the left."""
    functions = _functions(weights.dtype)
    weights = weights.contiguous()
    columns, inner = weights.shape if transposed else weights.shape[::-1]
    panels = -(-columns // functions.panel)
    packed = torch.empty(panels * functions.panel * inner, dtype=_statistics(weights.dtype))
    functions.pack(weights.data_ptr(), packed.data_ptr(), inner, columns, int(transposed))
    return packed


def forward(
    scan: Scan, norms: Sequence[StepNorm | None], part: Tensor, h: Tensor, c: Tensor | None, weights: Tensor
) -> tuple[Tensor, ...]:
    """Compute all steps.

    Args:
        scan: The cell and the lengths.
        norms: The norms of ``scan.formulas`` with their parameters.
        part: ``[N, G]``, contiguous.
        h: ``[B, H]``; the final states are written here.
        c: ``[B, H]`` in the dtype of the statistics, likewise; None for a GRU.
        weights: ``[G, H]``.

    Returns:
        The outputs ``[N, H]``, and what :func:`backward` needs.
    """
    entries, width = part.shape[0], h.shape[1]
    wide = _statistics(part.dtype)
    output, h_before = torch.empty(entries, width, dtype=part.dtype), torch.empty(entries, width, dtype=part.dtype)
    c_before = None if c is None else torch.empty(entries, width, dtype=wide)
    product, gates = torch.empty_like(part), torch.empty_like(part)
    mean, square = torch.empty(2, _STATISTICS, entries, dtype=wide).unbind(0)
    packed = _pack(weights, transposed=True)
    _run(
        "forward",
        scan,
        norms,
        part.dtype,
        (entries, h.shape[0], width),
        part=part,
        forward_weights=packed,
        h=h,
        c=c,
        output=output,
        h_before=h_before,
        c_before=c_before,
        product=product,
        gates=gates,
        mean=mean,
        square=square,
    )
    kept = (
        (h_before, product, gates, mean, square)
        if c_before is None
        else (h_before, product, gates, mean, square, c_before)
    )
    return output, *kept


def backward(
    scan: Scan,
    norms: Sequence[StepNorm | None],
    doutput: Tensor,
    dh: Tensor,
    dc: Tensor | None,
    weights: Tensor,
    kept: Sequence[Tensor],
    *,
    wants: Sequence[bool],
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Compute the gradients of all steps.

    Args:
        scan: As in :func:`forward`.
        norms: As in :func:`forward`.
        doutput: ``[N, H]``, contiguous.
        dh: Gradient of the final h, ``[B, H]``; that of the initial one is written here.
        dc: Likewise for c.
        weights: ``[G, H]``.
        kept: What :func:`forward` returned.
        wants: Whether the parameters of the norms hidden, candidate and read have gradients.

    Returns:
        The gradient of ``part`` and of the products, each ``[N, G]``; and for each norm the sums for weight and bias,
        ``[2, width]`` in the dtype of the statistics, or None.
    """
    h_before, product, gates, mean, square, *rest = kept
    batch, width = dh.shape
    wide = _statistics(product.dtype)
    dpart = torch.empty_like(product)
    dproduct = dpart if scan.cell == "LSTM" and norms[0] is None else torch.empty_like(product)
    chunks = -(-batch // _CHUNK)
    sums: list[Tensor | None] = []
    widths = (GATES["LSTM"] * width if scan.cell == "LSTM" else 2 * width, width, width)
    for norm, wanted, size in zip(norms, wants, widths, strict=True):
        sums.append(torch.zeros(chunks, 2, size, dtype=wide) if norm is not None and wanted else None)
    _run(
        "backward",
        scan,
        norms,
        product.dtype,
        (product.shape[0], batch, width),
        backward_weights=_pack(weights, transposed=False),
        h=dh,
        c=dc,
        h_before=h_before,
        c_before=rest[0] if rest else None,
        product=product,
        gates=gates,
        mean=mean,
        square=square,
        doutput=doutput,
        dpart=dpart,
        dproduct=dproduct,
        dhidden=sums[0],
        dcandidate=sums[1],
        dread=sums[2],
    )
    return dpart, dproduct, [None if one is None else one.sum(0) for one in sums]


def product(a: Tensor, weights: Tensor, *, transposed: bool) -> Tensor:
    """Multiply ``[N, K]`` by ``[K, M]``, or by the transpose of ``[M, K]``.

    The result of a row does not depend on the other rows or on the number of threads.
    """
    columns = weights.shape[0 if transposed else 1]
    out = torch.empty(a.shape[0], columns, dtype=a.dtype)
    packed = _pack(weights, transposed=transposed)
    call = _Product(a.data_ptr(), packed.data_ptr(), out.data_ptr(), *a.shape, columns)
    _module()[1].product(ctypes.addressof(_functions(a.dtype)), ctypes.addressof(call))
    return out


def gradient_of_weights(upstream: Tensor, x: Tensor) -> Tensor:
    """Multiply the transpose of ``[N, M]`` by ``[N, K]``: ``[M, K]`` in the dtype of the statistics."""
    inner, rows = upstream.shape
    out = torch.zeros(rows, x.shape[1], dtype=_statistics(x.dtype))
    packed = _pack(x, transposed=False)
    call = _Product(upstream.data_ptr(), packed.data_ptr(), out.data_ptr(), rows, inner, x.shape[1])
    _module()[1].gradient(ctypes.addressof(_functions(x.dtype)), ctypes.addressof(call))
    return out


def _run(
    direction: str,
    scan: Scan,
    norms: Sequence[StepNorm | None],
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    **tensors: Tensor | None,
) -> None:
    entries, batch, width = shape
    call = _Call(
        steps=len(scan.sizes),
        batch=batch,
        width=width,
        entries=entries,
        cell=int(scan.cell == "GRU"),
        type=cpu.TYPES[dtype],
        reverse=int(scan.reverse),
        carried=int(scan.carried),
    )
    sizes = (ctypes.c_int64 * max(1, len(scan.sizes)))(*scan.sizes)
    call.sizes = ctypes.addressof(sizes)
    for name, norm in zip(("hidden", "candidate", "read"), norms, strict=True):
        if norm is not None:
            fields: Any = getattr(call, name)
            fields.flags, fields.eps, fields.scale, fields.k = norm.formula
            fields.weight, fields.bias = (None if one is None else one.data_ptr() for one in (norm.weight, norm.bias))
    functions = _functions(dtype)
    count = torch.get_num_threads() * _CHUNK * _SCRATCH * width
    scratch = torch.empty(count + batch * width, dtype=_statistics(dtype))
    for name, tensor in {**tensors, "scratch": scratch}.items():
        setattr(call, name, None if tensor is None else tensor.data_ptr())
    getattr(_module()[1], direction)(ctypes.addressof(functions), ctypes.addressof(call))


def _statistics(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
