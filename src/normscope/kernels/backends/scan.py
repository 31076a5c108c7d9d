"""Recurrent nets on the CPU: one call computes all steps of a layer and direction, forward or backward."""

import ctypes
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from normscope.kernels.backends import build, cpu
from normscope.kernels.formula import Formula

Cell = Literal["LSTM", "GRU", "RNN"]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TYPES = (torch.float32, torch.float64, torch.bfloat16)
_CHUNK = 4
_SCRATCH = 14
_GROUPS = 4


class _Functions(ctypes.Structure):
    """``struct scan_functions`` of ``scan.h``."""

    _fields_ = (
        ("rows", ctypes.c_void_p * (2 * len(GATES) + 2)),
        ("product", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("pack", ctypes.CFUNCTYPE(None, *[ctypes.c_void_p, ctypes.c_int64] * 2, ctypes.c_int64, ctypes.c_int)),
        ("panel", ctypes.c_int64),
        ("entry", ctypes.c_int64),
        ("statistic", ctypes.c_int64),
    )


class _Product(ctypes.Structure):
    """``struct product`` of ``scan.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("a", "packed", "start", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "inner", "columns", "stride")),
    )


_POINTERS = (
    *("part", "weights", "transposed", "bias", "initial_h", "initial_c", "start_h", "start_c", "resets", "held_h"),
    *("held_c", "dropout", "product", "output", "c", "end_h", "end_c", "before", "scratch", "doutput", "dh", "dc"),
    *("dstart_h", "dstart_c", "dpart", "dproduct"),
)


class _Call(ctypes.Structure):
    """``struct scan`` of ``scan.h``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "batch", "width", "entries")),
        *(
            (name, ctypes.c_int32)
            for name in ("cell", "type", "reverse", "carried", "summed", "relu", "groups", "keeps")
        ),
        ("sizes", ctypes.c_void_p),
        ("widths", ctypes.c_int64 * _GROUPS),
        ("norms", cpu.KernelCall * (2 * _GROUPS + 1)),
        ("zoneout", ctypes.c_double * 2),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("dnorms", ctypes.c_void_p * (2 * _GROUPS + 1)),
        ("dweights", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class StepNorm:
    """A norm of a step: a member of the family, with its parameters in the dtype of the statistics."""

    formula: Formula
    weight: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a call needs beside its tensors."""

    cell: Cell
    sizes: tuple[int, ...]
    """Rows of every step, not increasing."""
    reverse: bool
    carried: bool
    """Whether the normalized c is carried on."""
    summed: bool
    """Whether the products are added before they are normalized, by the norms of the input's."""
    relu: bool
    widths: tuple[int, ...]
    """Widths of the parts of a product that have statistics of their own."""
    formulas: tuple[Formula | None, ...]
    """Norms of the parts of the input's product, of the recurrent product's, and of the c that is read."""
    zoneout: tuple[float, float] = (0.0, 0.0)
    """Share of the old h and c that is mixed in, where no mask is given."""


@dataclass(frozen=True, kw_only=True)
class States:
    """Where sequences start, and what happens to the state between steps."""

    h: Tensor
    """``[B, H]``."""
    c: Tensor | None
    """``[B, H]`` in the dtype of the statistics; None but for an LSTM."""
    resets: Tensor | None = None
    """bool ``[N]``: whether the state starts anew before an entry."""
    start_h: Tensor | None = None
    """``[H]``: the state that it starts with."""
    start_c: Tensor | None = None
    held_h: Tensor | None = None
    """``[N, H]``, one where zoneout holds the old value, else zero."""
    held_c: Tensor | None = None
    """Likewise, in the dtype of the statistics."""
    dropout: Tensor | None = None
    """``[B, H]``: factor of the h that the weights multiply."""


class Gradients(NamedTuple):
    """What :func:`backward` computes."""

    part: Tensor
    """``[N, G]``."""
    product: Tensor
    """``[N, G]``; ``part`` itself where nothing tells them apart."""
    weights: Tensor | None
    """``[G, H]`` in the dtype of the statistics."""
    h: Tensor
    c: Tensor | None
    start_h: Tensor | None
    start_c: Tensor | None
    norms: list[Tensor | None]
    """For each norm the sums for weight and bias, ``[2, width]`` in the dtype of the statistics."""


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
    packed = torch.empty(panels * functions.panel, inner, dtype=_statistics(weights.dtype))
    functions.pack(weights.data_ptr(), weights.shape[1], packed.data_ptr(), inner, columns, int(transposed))
    return packed


def forward(
    scan: Scan,
    norms: Sequence[StepNorm | None],
    part: Tensor,
    states: States,
    weights: Tensor,
    bias: Tensor | None,
    *,
    keeps: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]:
    """Compute all steps.

    Args:
        scan: The cell and the lengths.
        norms: The norms of ``scan.formulas`` with their parameters.
        part: The input's product ``[N, G]``, contiguous; overwritten by the sum of the products if they are summed.
        states: Initial states and masks, contiguous.
        weights: ``[G, H]``.
        bias: ``[G]``, added to the recurrent product before it is normalized.
        keeps: Whether there will be a backward pass.

    Returns:
        The outputs ``[N, H]``; the recurrent product ``[N, G]`` (``part`` if they are summed) for :func:`backward`, and
        likewise c after every entry, in the dtype of the statistics; the final h and c.
    """
    entries, width = part.shape[0], states.h.shape[1]
    output = torch.empty(entries, width, dtype=part.dtype)
    c = None if states.c is None else torch.empty(entries, width, dtype=states.c.dtype)
    product = part
    if not scan.summed:
        product = torch.empty(entries if keeps else states.h.shape[0], part.shape[1], dtype=part.dtype)
    end_h, end_c = torch.empty_like(states.h), None if states.c is None else torch.empty_like(states.c)
    _run(
        "forward",
        scan,
        norms,
        states,
        entries,
        keeps=keeps or scan.summed,
        part=part,
        weights=_pack(weights, transposed=True),
        bias=None if bias is None else bias.contiguous(),
        product=product,
        output=output,
        c=c,
        end_h=end_h,
        end_c=end_c,
    )
    return output, product, c, end_h, end_c


def backward(
    scan: Scan,
    norms: Sequence[StepNorm | None],
    doutput: Tensor,
    dh: Tensor,
    dc: Tensor | None,
    part: Tensor,
    product: Tensor,
    c: Tensor | None,
    output: Tensor,
    states: States,
    weights: Tensor,
    *,
    wants: Sequence[bool],
    wants_weights: bool,
    overwrites: bool,
) -> Gradients:
    """Compute the gradients of all steps.

    Args:
        scan: As in :func:`forward`.
        norms: As in :func:`forward`.
        doutput: ``[N, H]``, contiguous.
        dh: Gradient of the final h, ``[B, H]``.
        dc: Likewise of c.
        part: As after :func:`forward`.
        product: What :func:`forward` returned.
        c: Likewise.
        output: Likewise.
        states: As in :func:`forward`.
        weights: ``[G, H]``.
        wants: Whether the parameters of each norm have gradients.
        wants_weights: Whether the weights have.
        overwrites: Whether ``part`` and ``product`` may be overwritten, by their gradients.

    Returns:
        The gradients.
    """
    batch, width = dh.shape
    wide = _statistics(part.dtype)
    dh = dh.clone(memory_format=torch.contiguous_format)
    dc = None if dc is None else dc.clone(memory_format=torch.contiguous_format)
    alike = scan.summed or (scan.cell != "GRU" and not any(norms[:-1]))
    dproduct = product if overwrites else torch.empty(product.shape[0], product.shape[1], dtype=product.dtype)
    dpart = dproduct if alike else part if overwrites else torch.empty(part.shape[0], part.shape[1], dtype=part.dtype)
    chunks = -(-batch // _CHUNK)
    sums = [
        torch.zeros(chunks, 2, size, dtype=wide) if norm is not None and wanted else None
        for norm, wanted, size in zip(norms, wants, (*scan.widths, *scan.widths, width), strict=True)
    ]
    dweights = torch.empty(weights.shape, dtype=wide) if wants_weights else None
    dstart_h = None if states.start_h is None else torch.zeros_like(dh)
    dstart_c = None if states.start_c is None or dc is None else torch.zeros_like(dc)
    _run(
        "backward",
        scan,
        norms,
        states,
        part.shape[0],
        sums=sums,
        part=part,
        transposed=_pack(weights, transposed=False),
        product=product,
        output=output,
        c=c,
        doutput=doutput,
        dh=dh,
        dc=dc,
        dstart_h=dstart_h,
        dstart_c=dstart_c,
        dpart=dpart,
        dproduct=dproduct,
        dweights=dweights,
    )
    start_h, start_c, *totals = (None if one is None else one.sum(0) for one in (dstart_h, dstart_c, *sums))
    return Gradients(dpart, dproduct, dweights, dh, dc, start_h, start_c, totals)


def product(x: Tensor, weights: Tensor, bias: Tensor | None = None, *, transposed: bool) -> Tensor:
    """Multiply ``[N, K]`` by ``[K, M]``, or by the transpose of ``[M, K]``, and add a bias ``[M]``; x is contiguous."""
    columns = weights.shape[0] if transposed else weights.shape[1]
    out = torch.empty(x.shape[0], columns, dtype=x.dtype)
    packed = _pack(weights, transposed=transposed)
    bias = None if bias is None else bias.contiguous()
    start = None if bias is None else bias.data_ptr()
    call = _Product(x.data_ptr(), packed.data_ptr(), start, out.data_ptr(), *x.shape, columns, 0)
    _module()[1].product(ctypes.addressof(_functions(x.dtype)), ctypes.addressof(call))
    return out


def gradient_of_weights(upstream: Tensor, x: Tensor) -> Tensor:
    """Multiply the transpose of ``[N, M]`` by ``[N, K]``: ``[M, K]`` in the dtype of the statistics."""
    inner, rows = upstream.shape
    out = torch.empty(rows, x.shape[1], dtype=_statistics(x.dtype))
    call = _Product(upstream.data_ptr(), x.data_ptr(), None, out.data_ptr(), rows, inner, x.shape[1], 0)
    _module()[1].gradient(ctypes.addressof(_functions(x.dtype)), ctypes.addressof(call))
    return out


def _run(
    direction: str,
    scan: Scan,
    norms: Sequence[StepNorm | None],
    states: States,
    entries: int,
    *,
    sums: Sequence[Tensor | None] = (),
    keeps: bool = True,
    **tensors: Tensor | None,
) -> None:
    batch, width = states.h.shape
    dtype, groups = states.h.dtype, len(scan.widths)
    call = _Call(
        steps=len(scan.sizes),
        batch=batch,
        width=width,
        entries=entries,
        cell=list(GATES).index(scan.cell),
        type=cpu.TYPES[dtype],
        reverse=int(scan.reverse),
        carried=int(scan.carried),
        summed=int(scan.summed),
        relu=int(scan.relu),
        groups=groups,
        keeps=int(keeps),
        widths=scan.widths,
        zoneout=scan.zoneout,
    )
    sizes = (ctypes.c_int64 * max(1, len(scan.sizes)))(*scan.sizes)
    call.sizes = ctypes.addressof(sizes)
    slots = (*range(groups), *range(_GROUPS, _GROUPS + groups), 2 * _GROUPS)
    for slot, norm in zip(slots, norms, strict=True):
        if norm is not None:
            fields = call.norms[slot]
            fields.flags, fields.eps, fields.scale, fields.k = norm.formula
            fields.weight, fields.bias = (None if one is None else one.data_ptr() for one in (norm.weight, norm.bias))
    for slot, total in zip(slots, sums, strict=False):
        call.dnorms[slot] = None if total is None else total.data_ptr()
    functions = _functions(dtype)
    count = torch.get_num_threads() * _CHUNK * _SCRATCH * width
    tensors |= {
        "initial_h": states.h,
        "initial_c": states.c,
        **{name: getattr(states, name) for name in ("resets", "start_h", "start_c", "held_h", "held_c", "dropout")},
        "scratch": torch.empty(count + batch * width, dtype=_statistics(dtype)),
        "before": torch.empty(entries, dtype=torch.int64),
    }
    for name, tensor in tensors.items():
        assert tensor is None or tensor.is_contiguous(), f"the kernels take contiguous memory, and {name} is not"
        setattr(call, name, None if tensor is None else tensor.data_ptr())
    getattr(_module()[1], direction)(ctypes.addressof(functions), ctypes.addressof(call))


def _statistics(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
