"""The GPU backend, in Triton: one launch in the forward pass, one or two in the backward pass.

A program processes a tile of whole rows, so that the result of a row depends only on the row, not on other rows, their
number or the GPU. Rows too wide for the registers are read in chunks from the cache, once for every sum. Sums over rows
(the gradients of weight and bias) are computed in a fixed order, without atomics: the same call on the same machine
gives bit-identical results.

The width and the numbers of the formula are compile-time constants of a kernel; the number of rows is not.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normscope.kernels.backends import triton_kernels
from normscope.kernels.formula import CENTER, Formula

kernels: Any = triton_kernels


class Tile(NamedTuple):
    """Size of the tile that a program processes, and number of its warps."""

    block: int
    """Number of entries of a row, a power of two."""
    warps: int
    """Number of warps of 32 lanes."""
    rows: int = 1
    programs: int = 0
    """Number of programs per multiprocessor, if a program processes several tiles."""


# A row of up to 1024 entries is held by one warp, so that its sums need no barrier; wider rows have 16 entries per
# lane, or 32 if there are no more warps. The backward pass holds two rows, x and dz.
FORWARD = (Tile(1024, 1), Tile(2048, 4), Tile(4096, 8), Tile(8192, 8), Tile(16384, 16))
BACKWARD = (Tile(1024, 1), Tile(2048, 4), Tile(4096, 8), Tile(8192, 16), Tile(16384, 16))
# Two sums over rows are held in registers beside x and dz, 16 entries per lane of each: a multiprocessor has room for
# two programs of 4096 entries or one of 8192, but not for 16384.
BACKWARD_SUMS = (Tile(4096, 8, programs=2), Tile(8192, 16, programs=1))
"""Tiles of a kernel, ascending; a row uses the first that is large enough, and narrow rows share the first."""

CHUNK = Tile(8192, 16)
"""Chunk of a row that is wider than any tile."""
COLUMNS = Tile(64, 8, rows=64)
"""Tile of the kernel that sums over wide rows."""
FINALIZE = Tile(16, 8, rows=128)
"""Tile of the kernel that adds partial sums: tall, because there are few columns and many partial sums."""

NVIDIA_LANES = 32
LANES = 64 if torch.version.hip else NVIDIA_LANES
INTERPRETED_PROCESSORS = 2


def forward(
    formula: Formula, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Normalize the rows of a matrix in one launch.

    Args:
        formula: Member of the family.
        x: ``[rows, H]``, contiguous; statistics are in float64 for float64 inputs, otherwise in float32.
        residual: Added to ``x`` first, ``[rows, H]``, contiguous.
        weight: ``[H]``, any floating-point dtype not wider than the statistics; or ``[G, H]`` for as many equal groups
            of rows, each with a launch of its own.
        bias: As ``weight``.

    Returns:
        z and the sum with the residual (None without one), in the shape and dtype of ``x``; the mean (None if the
        formula does not center) and the mean square of the centered row, ``[rows]``, in the dtype of the statistics.
        The sum is rounded before it is normalized, as if it had been computed separately; z is rounded once.
    """
    if any(one is not None and one.dim() == 2 for one in (weight, bias)):
        return _in_groups(forward, formula, (x, residual), (weight, bias))
    rows, width = x.shape
    z = torch.empty_like(x)
    total = None if residual is None else torch.empty_like(x)
    square = torch.empty(rows, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    mean = torch.empty_like(square) if formula.flags & CENTER else None
    if rows:
        given = [_aligned(one) for one in (x, residual, weight, bias)]
        tile = _tile(FORWARD, width)
        kernel = kernels.forward_rows if width <= tile.block else kernels.forward_chunks
        with torch.cuda.device_of(x):
            kernel[(_parts(rows, tile.rows),)](*given, z, total, mean, square, rows, **_constants(formula, width, tile))
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
    """Compute the gradients of ``forward`` in one launch, or in two if sums over rows are needed.

    Args:
        formula: Member of the family.
        dz: Upstream gradient of z, ``[rows, H]``, contiguous.
        dtotal: Upstream gradient of the sum with the residual, ``[rows, H]``, which is added to that of the input.
        x: Input, or its sum with the residual, ``[rows, H]``; None if the formula does not keep it.
        mean: Mean of every row, ``[rows]``; None if the formula does not center or does not keep the input.
        square: Mean square of every centered row, ``[rows]``.
        weight: ``[H]``, or ``[G, H]`` as in :func:`forward`; then so are the gradients of weight and bias.
        wants_weight: Whether to compute the gradient of the weight.
        wants_bias: Whether to compute the gradient of the bias.

    Returns:
        Gradients of the input in the dtype of ``dz``, rounded once; of the weight in its dtype; of the bias in the
        dtype of the statistics. None for a gradient that is not computed.
    """
    if weight is not None and weight.dim() == 2:
        rows = (dz, dtotal, x, mean, square)
        dx, dweight, dbias = _in_groups(backward, formula, rows, (weight,), wants_weight, wants_bias)
        shape = weight.shape
        return dx, None if dweight is None else dweight.view(shape), None if dbias is None else dbias.view(shape)
    rows, width = dz.shape
    dx = torch.empty_like(dz)
    dweight = torch.empty_like(weight) if wants_weight and weight is not None else None
    dbias = torch.empty(width, dtype=square.dtype, device=dz.device) if wants_bias else None
    sums = [one for one in (dweight, dbias) if one is not None]
    if not rows:
        for one in sums:
            one.zero_()
        return dx, dweight, dbias
    given = [_aligned(one) for one in (dz, dtotal, x, mean, square, weight)]
    with torch.cuda.device_of(dz):
        if sums and width <= BACKWARD_SUMS[-1].block:
            tile = _tile(BACKWARD_SUMS, width)
            # If a row is not a multiple of the vector size, every entry needs registers for a mask and an address.
            if width % 8:
                tile = tile._replace(programs=1)
            programs = min(_parts(rows, tile.rows), tile.programs * _processors(dz.device))
            partial = torch.empty((len(sums), programs, width), dtype=square.dtype, device=dz.device)
            wanted = dweight is not None, dbias is not None
            kernels.backward_sums[(programs,)](*given, dx, partial, rows, *wanted, **_constants(formula, width, tile))
            kernels.finalize[(_parts(width, FINALIZE.block), len(sums))](
                partial, dweight, dbias, programs, width, FINALIZE.block, FINALIZE.rows, **_options(FINALIZE)
            )
            return dx, dweight, dbias
        # Such rows have smaller tiles here, too.
        tile = _tile(BACKWARD if width % 8 == 0 else BACKWARD[:-1], width)
        kernel = kernels.backward_rows if width <= tile.block else kernels.backward_chunks
        kernel[(_parts(rows, tile.rows),)](*given, dx, rows, **_constants(formula, width, tile))
        if sums:
            upstream, _, *kept, _ = given
            kernels.column_sums[(_parts(width, COLUMNS.block),)](
                upstream, *kept, dweight, dbias, rows, **_constants(formula, width, COLUMNS)
            )
    return dx, dweight, dbias


def _in_groups(
    function: Callable[..., tuple[Tensor | None, ...]],
    formula: Formula,
    rows: Sequence[Tensor | None],
    parameters: Sequence[Tensor | None],
    *wanted: bool,
) -> Any:
    """Launch a function for each of as many equal groups of rows as there are rows of parameters."""
    groups = next(len(one) for one in parameters if one is not None)
    split = [[None] * groups if one is None else one.chunk(groups) for one in rows]
    split += [[None] * groups if one is None else one for one in parameters]
    results = [function(formula, *given, *wanted) for given in zip(*split, strict=True)]
    return tuple(None if several[0] is None else torch.cat(several) for several in zip(*results, strict=True))


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)


@cache
def _tile(tiles: tuple[Tile, ...], width: int) -> Tile:
    """Return the tile for a width, which does not depend on the number of rows."""
    if width > tiles[-1].block:
        return CHUNK
    tile = next(tile for tile in tiles if width <= tile.block)
    block = 1 << (width - 1).bit_length()
    return tile._replace(block=block, rows=tile.block // block)


@cache
def _constants(formula: Formula, width: int, tile: Tile) -> dict[str, Any]:
    """Return the compile-time constants of a kernel.

    They include the numbers of the formula: as arguments these would be float32 in eager mode, which is too coarse for
    float64 rows, and float64 under torch.compile, which is too slow for all others.
    """
    return {
        "FLAGS": formula.flags,
        "EPS": float(formula.eps),
        "SCALE": float(formula.scale),
        "SLOPE": float(formula.scale) * float(formula.k),
        "WIDTH": width,
        "BLOCK": tile.block,
        "ROWS": tile.rows,
        **_options(tile),
    }


@cache
def _options(tile: Tile) -> dict[str, int]:
    warps = max(1, tile.warps * NVIDIA_LANES // LANES)
    if LANES != NVIDIA_LANES:
        return {"num_warps": warps}
    # Largest number of registers per thread with which all launched programs run at once. Without this limit, ptxas
    # spills registers in one kernel to fit another program, and uses too many for two programs in another.
    return {"num_warps": warps, "maxnreg": min(255, 65536 // (warps * LANES * max(1, tile.programs)))}


@cache
def _processors(device: torch.device) -> int:
    if device.type == "cpu":
        return INTERPRETED_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _aligned(tensor: Tensor | None) -> Tensor | None:
    """Copy a tensor that is not contiguous or not aligned to 16 bytes.

    Triton compiles another kernel for an unaligned pointer, which adds in another order: the bits of the result would
    depend on the address of a row.
    """
    if tensor is None or (tensor.is_contiguous() and tensor.data_ptr() % 16 == 0):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
