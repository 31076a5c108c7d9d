"""The family of norms on a GPU, in Triton: one launch forward, one or two backward.

A program takes a tile of whole rows, so that a row's numbers depend on nothing but the row: not on its neighbours, on
how many there are, or on the size of the machine. Rows too wide for the registers are read in chunks, again for every
sum, from the cache. Sums over rows (the gradients of the gain and the bias) are added in a fixed order, without
atomics: the same call on the same machine gives the same bits.

The width and the numbers of the formula are constants of a compiled kernel, the number of rows is not.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normscope.kernels.backends import triton_kernels
from normscope.kernels.formula import CENTER, Formula

kernels: Any = triton_kernels


class Tile(NamedTuple):
    """What a program holds at a time, and how many lanes hold it."""

    block: int
    """Entries of a row, a power of two."""
    warps: int
    """Of 32 lanes."""
    rows: int = 1
    programs: int = 0
    """For every multiprocessor, where one program takes several tiles."""


# A row of up to 1024 entries lies in one warp, so that its sums cross no barrier; wider ones have 16 entries a lane,
# or 32 where there are no more warps. Backward holds two rows, x and dz, for one.
FORWARD = (Tile(1024, 1), Tile(2048, 4), Tile(4096, 8), Tile(8192, 8), Tile(16384, 16))
BACKWARD = (Tile(1024, 1), Tile(2048, 4), Tile(4096, 8), Tile(8192, 16), Tile(16384, 16))
# Two sums over rows stand in registers beside x and dz, 16 entries a lane of each: there is room for two programs of
# 4096 entries on a multiprocessor, for one of 8192, and for none of 16384.
BACKWARD_SUMS = (Tile(4096, 8, programs=2), Tile(8192, 16, programs=1))
"""The tiles of a kernel, ascending; a row takes the first that holds it, and narrow rows share the first."""

CHUNK = Tile(8192, 16)
"""Of a row that no tile holds."""
COLUMNS = Tile(64, 8, rows=64)
"""Of the kernel that sums over wide rows."""
# Tall, for there are few columns and many partial sums.
FINALIZE = Tile(16, 8, rows=128)
"""Of the sum over partial sums."""

NVIDIA_LANES = 32
LANES = 64 if torch.version.hip else NVIDIA_LANES
INTERPRETED_PROCESSORS = 2


def forward(
    formula: Formula, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Normalize the rows of a matrix in one launch.

    Args:
        formula: The member of the family.
        x: ``[rows, H]``, contiguous; statistics in float64 if it is that, else in float32.
        residual: Added to ``x`` first, ``[rows, H]``, contiguous.
        weight: The gain, ``[H]``, any floating dtype not wider than the statistics.
        bias: The bias, ``[H]``, likewise.

    Returns:
        z and the sum with the residual (None without one), in the shape and dtype of ``x``; the mean (None where the
        formula does not center) and the mean square of the centered row, ``[rows]``, in the dtype of the statistics.
        The sum is rounded before it is normalized, as if it had been computed by itself; z is rounded once.
    """
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
    """Compute the gradients of what ``forward`` computed, in one launch, or in two where sums over rows are wanted.

    Args:
        formula: The member of the family.
        dz: The upstream gradient of z, ``[rows, H]``, contiguous.
        dtotal: The upstream gradient of the sum with the residual, ``[rows, H]``; added to that of the input.
        x: The input, or its sum with the residual, ``[rows, H]``; None where the formula does not keep it.
        mean: The mean of every row, ``[rows]``; None where the formula does not center or does not keep the input.
        square: The mean square of every centered row, ``[rows]``.
        weight: The gain, ``[H]``.
        wants_weight: Whether the gradient of the gain is wanted.
        wants_bias: Whether that of the bias is.

    Returns:
        The gradient of the input in the dtype of ``dz``, rounded once; of the gain in its own dtype; of the bias in
        the dtype of the statistics. None for what is not wanted.
    """
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
            # A row that is not made of whole vectors has a mask and an address for every entry, and registers for them.
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
        # Here, too: such rows have smaller tiles.
        tile = _tile(BACKWARD if width % 8 == 0 else BACKWARD[:-1], width)
        kernel = kernels.backward_rows if width <= tile.block else kernels.backward_chunks
        kernel[(_parts(rows, tile.rows),)](*given, dx, rows, **_constants(formula, width, tile))
        if sums:
            upstream, _, *kept, _ = given
            kernels.column_sums[(_parts(width, COLUMNS.block),)](
                upstream, *kept, dweight, dbias, rows, **_constants(formula, width, COLUMNS)
            )
    return dx, dweight, dbias


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)


@cache
def _tile(tiles: tuple[Tile, ...], width: int) -> Tile:
    """Choose from a table: the same for a width, whatever the number of rows."""
    if width > tiles[-1].block:
        return CHUNK
    tile = next(tile for tile in tiles if width <= tile.block)
    block = 1 << (width - 1).bit_length()
    return tile._replace(block=block, rows=tile.block // block)


@cache
def _constants(formula: Formula, width: int, tile: Tile) -> dict[str, Any]:
    """Give what a kernel is compiled for.

    The numbers of the formula are among it: a number that is an argument is a float32 in eager mode, too coarse for
    float64 rows, and a float64 under torch.compile, too slow for all others.
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
    # What the hardware gives a thread at the most, if as many programs as are launched are to run at once. Without it,
    # ptxas spills a register or two in one place to seat one more program, and in another takes too many for two.
    return {"num_warps": warps, "maxnreg": min(255, 65536 // (warps * LANES * max(1, tile.programs)))}


@cache
def _processors(device: torch.device) -> int:
    if device.type == "cpu":
        return INTERPRETED_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _aligned(tensor: Tensor | None) -> Tensor | None:
    """Copy what does not begin at a multiple of 16 bytes, or has gaps.

    Triton compiles another kernel for such a pointer, which adds in another order: a row's bits would depend on where
    it begins.
    """
    if tensor is None or (tensor.is_contiguous() and tensor.data_ptr() % 16 == 0):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
