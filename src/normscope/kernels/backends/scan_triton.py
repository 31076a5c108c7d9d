"""Recurrent nets on a GPU, in Triton: one launch for a whole sequence, or a product and a launch for every step.

If the recurrent weights fit one multiprocessor, a program keeps them there and runs over all steps of some sequences.
Otherwise torch multiplies, and a kernel computes the norms and gates of a step. Sizes are Python's numbers and nothing
waits for the device, so that a CUDA graph can hold all of it. Sums over rows (the gradients of the norms' parameters)
are computed after the scan in a fixed order, without atomics.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any, Literal, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from normscope.kernels.backends import scan_triton_kernels
from normscope.kernels.formula import Formula

kernels: Any = scan_triton_kernels

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WIDEST = 2048
"""Most units: a row of more does not fit the registers of a program."""
RESIDENT = 0 if torch.version.hip else 128 * 1024
"""Most bytes of shared memory for the recurrent weights of a program that keeps them."""
BESIDE = 16 * 1024
"""Bytes of shared memory that it needs beside them."""
ROWS = 16
"""Sequences of a program that keeps the weights: the height of a product on tensor cores."""
SUMS = {"BLOCK": 64, "ROWS": 32, "TILES": 8, "num_warps": 4}
"""Tile of the kernel that sums over rows, and number of tiles that a program sums."""

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "RELU": 1}
_WIDE = {torch.float32: tl.float32, torch.float64: tl.float64}


@dataclass(frozen=True)
class GpuScan:
    """What a call needs beside its tensors."""

    cell: Literal["LSTM", "GRU", "RNN", "RELU"]
    sizes: tuple[int, ...]
    """Rows of every step, not increasing."""
    reverse: bool
    summed: bool
    """Whether the product with the input is added before the norm, not after it."""
    groups: Literal["WHOLE", "EACH", "PAIR"]
    """Gates that share statistics: all, none, or the first two."""
    carried: bool
    """Whether the next step has the normalized c."""
    hidden: Formula | None
    """Norm of the recurrent product."""
    read: Formula | None
    """Norm of the c that is read."""


class Parameters(NamedTuple):
    """What stands around the recurrent product, in the dtype of the statistics; ``[G]``, of c ``[H]``."""

    before: Tensor | None
    """Added to the product before its norm."""
    weight: Tensor | None
    bias: Tensor | None
    read_weight: Tensor | None
    read_bias: Tensor | None


def forward(
    scan: GpuScan, parameters: Parameters, part: Tensor, h: Tensor, c: Tensor | None, weights: Tensor, *, keeps: bool
) -> tuple[Any, ...]:
    """Compute all steps.

    Args:
        scan: The cell and the lengths.
        parameters: Those of the norms.
        part: ``[N, G]``, contiguous: what comes from the input.
        h: ``[B, H]``; the final states are written here.
        c: ``[B, H]`` in the dtype of the statistics, likewise; None but for an LSTM.
        weights: ``[G, H]``.
        keeps: Whether there will be a backward pass.

    Returns:
        The outputs ``[N, H]``, and what :func:`backward` needs, None for what it does not.
    """
    entries, width = part.shape[0], h.shape[1]
    wide = torch.promote_types(part.dtype, torch.float32)

    def empty(*shape: int, dtype: torch.dtype = part.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=part.device)

    output = empty(entries, width)
    h_before = c_before = gates = normed = squares = None
    if keeps:
        h_before, gates = empty(entries, width), torch.empty_like(part)
        c_before = None if c is None else empty(entries, width, dtype=wide)
        normed = torch.empty_like(part) if scan.hidden is not None or scan.cell == "GRU" else None
        squares = None if scan.hidden is None else empty(_GATES[scan.cell], entries, dtype=wide)
    weights = weights.contiguous()
    resident = _is_resident(scan.cell, width, part.dtype, part.device)
    constants = _constants(_without_sizes(scan), width, wide, resident)
    product = None if resident else empty(h.shape[0], part.shape[1])
    written = (h_before, c_before, gates, normed, squares, entries, tuple(parameters))
    with torch.cuda.device_of(part):
        for first, stride, steps, rows in _runs(scan.sizes, reverse=scan.reverse):
            if product is None:
                grid = (-(-rows // ROWS),)
                kernels.scan_forward[grid](
                    part, weights, output, h, c, *written, first, stride, steps, rows, **constants
                )
                continue
            for begin in range(first, first + steps * stride, stride):
                torch.mm(h[:rows], weights.t(), out=product[:rows])
                kernels.step_forward[(rows,)](part, product, output, h, c, *written, begin, **constants)
    return output, h_before, c_before, gates, normed, squares


def backward(
    scan: GpuScan,
    parameters: Parameters,
    doutput: Tensor,
    dh: Tensor,
    dc: Tensor | None,
    weights: Tensor,
    kept: Sequence[Tensor | None],
    *,
    wants: Sequence[bool],
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Compute the gradients of all steps.

    Args:
        scan: As in :func:`forward`.
        parameters: As in :func:`forward`.
        doutput: ``[N, H]``, contiguous.
        dh: Gradient of the final h, ``[B, H]``; that of the initial one is written here.
        dc: Likewise for c.
        weights: ``[G, H]``.
        kept: What :func:`forward` returned.
        wants: Which parameters have gradients.

    Returns:
        The gradients of ``part`` and of the recurrent products, each ``[N, G]``, and those of the parameters in the
        dtype of the statistics, None where there is none.
    """
    h_before, c_before, gates, normed, squares = kept
    assert h_before is not None
    assert gates is not None
    entries, width = h_before.shape
    wide = torch.promote_types(gates.dtype, torch.float32)
    dpart = torch.empty_like(gates)
    dproduct = torch.empty_like(gates) if scan.hidden is not None or scan.cell == "GRU" else dpart
    read_dz = read_y = None
    if scan.read is not None and any(wants[3:]):
        read_dz, read_y = (torch.empty((entries, width), dtype=wide, device=dh.device) for _ in range(2))
    weights = weights.contiguous()
    resident = _is_resident(scan.cell, width, gates.dtype, dh.device)
    constants = _constants(_without_sizes(scan), width, wide, resident)
    given = (dh, dc, h_before, c_before, gates, normed, squares, entries, tuple(parameters))
    given += (doutput, dpart, None if dproduct is dpart else dproduct, read_dz, read_y)
    with torch.cuda.device_of(dh):
        # The steps in the opposite order.
        for first, stride, steps, rows in _runs(scan.sizes, reverse=not scan.reverse):
            if resident:
                grid = (-(-rows // ROWS),)
                kernels.scan_backward[grid](weights, *given, first, stride, steps, rows, **constants)
                continue
            for begin in range(first, first + steps * stride, stride):
                kernels.step_backward[(rows,)](*given, begin, **constants)
                # In a GRU h reaches the next state beside its product, too.
                dh[:rows].addmm_(dproduct[begin : begin + rows], weights, beta=int(scan.cell == "GRU"))
        totals: list[Tensor | None] = [dproduct.sum(0, dtype=wide) if wants[0] else None, None, None, None, None]
        if scan.hidden is not None and normed is not None and any(wants[1:3]):
            # The candidate of a GRU is multiplied by r after its norm.
            plain = slice(0, 2 * width if scan.cell == "GRU" else None)
            both = [_sums(scan.hidden, dpart[:, plain], normed[:, plain])]
            if scan.cell == "GRU":
                last = slice(2 * width, None)
                both.append(_sums(scan.hidden, dpart[:, last], normed[:, last], gates[:, :width]))
            totals[1:3] = torch.cat(both, -1).unbind(0)
        if scan.read is not None and read_dz is not None and read_y is not None:
            totals[3:] = _sums(scan.read, read_dz, read_y).unbind(0)
    totals = [total if want else None for total, want in zip(totals, wants, strict=True)]
    return dproduct if scan.summed else dpart, dproduct, totals


def _without_sizes(scan: GpuScan) -> tuple[Any, ...]:
    """Return what a kernel is compiled for."""
    return scan.cell, scan.summed, scan.groups, scan.carried, scan.hidden, scan.read


def _runs(sizes: Sequence[int], *, reverse: bool) -> Iterator[tuple[int, int, int, int]]:
    """Divide a scan into runs of steps with equally many rows: the first row, the stride, the steps and the rows."""
    runs: list[tuple[int, int, int, int]] = []
    first = 0
    for rows, group in groupby(sizes):
        steps = len(list(group))
        if rows:
            runs.append((first + rows * (steps - 1), -rows, steps, rows) if reverse else (first, rows, steps, rows))
        first += rows * steps
    return reversed(runs) if reverse else iter(runs)


def _norm(formula: Formula | None) -> tuple[int, float, float, float] | None:
    """Return the numbers of a formula as the kernels take them; they are compile-time constants as in ``triton.py``."""
    if formula is None:
        return None
    flags, eps, scale, k = formula
    return flags, float(eps), float(scale), float(scale) * float(k)


def _side(width: int) -> int:
    """Return the size of a matrix of weights; a product has at least 16 entries in every direction."""
    return max(16, 1 << (width - 1).bit_length())


@cache
def _is_resident(cell: str, width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether a program can keep the recurrent weights."""
    # Tensor cores multiply float32 as the sum of two numbers of fewer bits.
    size = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 8}.get(dtype, math.inf)
    room = RESIDENT
    if device.type != "cpu" and room:
        room = min(room, torch.cuda.get_device_properties(device).shared_memory_per_block_optin - BESIDE)
    return _GATES[cell] * _side(width) ** 2 * size <= room


@cache
def _constants(scan: tuple[Any, ...], width: int, wide: torch.dtype, resident: bool) -> dict[str, Any]:
    """Return the compile-time constants of the kernels."""
    cell, summed, groups, carried, hidden, read = scan
    block = 1 << (width - 1).bit_length()
    constants = {
        "CELL": getattr(kernels, cell).value,
        "SUMMED": summed,
        "CARRIED": carried,
        "HIDDEN": _norm(hidden),
        "GROUPS": getattr(kernels, groups).value,
        "READ": _norm(read),
        "GATES": _GATES[cell],
        "WIDTH": width,
        "WIDE": _WIDE[wide],
    }
    if resident:
        return {**constants, "BLOCK": _side(width), "ROWS": ROWS, "num_warps": 8, "num_stages": 1}
    return {**constants, "BLOCK": block, "num_warps": min(16, max(2, block // 64))}


def _sums(formula: Formula, dz: Tensor, y: Tensor, factor: Tensor | None = None) -> Tensor:
    """Sum the gradients of weight and bias of a norm over rows: ``[2, width]``; ``factor`` multiplies ``dz``."""
    rows, width = dz.shape
    chunks = -(-rows // (SUMS["ROWS"] * SUMS["TILES"]))
    wide = torch.promote_types(dz.dtype, torch.float32)
    partial = torch.empty((chunks, 2, width), dtype=wide, device=dz.device)
    if chunks:
        grid = (-(-width // SUMS["BLOCK"]), chunks)
        kernels.parameter_sums[grid](
            dz,
            factor,
            y,
            partial,
            rows,
            dz.stride(0),
            0 if factor is None else factor.stride(0),
            y.stride(0),
            NORM=_norm(formula),
            WIDTH=width,
            **SUMS,
        )
    return partial.sum(0)
