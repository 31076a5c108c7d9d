"""The Triton kernels of recurrent nets, launched by ``normscope.kernels.backends.scan_triton``.

``scan_*`` compute many steps and load the weights once; ``step_*`` compute one step, beside a product that was computed
before (forward) or will be computed after (backward). Their arguments are described in ``scan_triton_cells``.
"""

# A type checker cannot check Triton's language, as in triton_kernels.py. It adds tuples, and does not unpack them.
# ruff: noqa: RUF005
# pyright: reportMissingImports=false, reportOptionalMemberAccess=false
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportAssignmentType=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from normscope.kernels.backends.scan_triton_cells import (
    EACH,
    GRU,
    LSTM,
    PAIR,
    RELU,
    RNN,
    WHOLE,
    backward,
    forward,
    read,
    write,
)
from normscope.kernels.backends.triton_kernels import PHI

__all__ = ["EACH", "GRU", "LSTM", "PAIR", "RELU", "RNN", "WHOLE"]


@triton.jit(do_not_specialize=["entries", "first"])
def step_forward(
    part, product, output, h, c, h_before, c_before, gates, normed, squares, entries: tl.int64,
    parameters, first: tl.int64,
    CELL: tl.constexpr, SUMMED: tl.constexpr, CARRIED: tl.constexpr, HIDDEN: tl.constexpr, GROUPS: tl.constexpr,
    READ: tl.constexpr, GATES: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Compute the rows of a step after their products; one program for each."""
    sequence = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    row = first + sequence
    unit = tl.arange(0, BLOCK)
    there = sequence >= 0
    here = (unit < WIDTH)[None, :]
    parts = read(part, row, unit, here, GATES, WIDTH, WIDE)
    products = read(product, sequence, unit, here, GATES, WIDTH, WIDE)
    state = read(h, sequence, unit, here, 1, WIDTH, h.dtype.element_ty)[0]
    cell = state
    if CELL == LSTM:
        cell = read(c, sequence, unit, here, 1, WIDTH, WIDE)[0]
    state, cell = forward(
        parts, products, state, cell, row, unit, there, here, output, h_before, c_before, gates, normed, squares,
        entries, parameters, CELL, SUMMED, CARRIED, HIDDEN, GROUPS, READ, GATES, WIDTH, WIDE,
    )  # fmt: skip
    write(h, (state,), sequence, unit, here, WIDTH)
    if CELL == LSTM:
        write(c, (cell,), sequence, unit, here, WIDTH)


@triton.jit(do_not_specialize=["entries", "first"])
def step_backward(
    dh, dc, h_before, c_before, gates, normed, squares, entries: tl.int64, parameters, doutput,
    dpart, dproduct, read_dz, read_y, first: tl.int64,
    CELL: tl.constexpr, SUMMED: tl.constexpr, CARRIED: tl.constexpr, HIDDEN: tl.constexpr, GROUPS: tl.constexpr,
    READ: tl.constexpr, GATES: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of the rows of a step before its products; one program for each."""
    sequence = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    row = first + sequence
    unit = tl.arange(0, BLOCK)
    there = sequence >= 0
    here = (unit < WIDTH)[None, :]
    state = read(dh, sequence, unit, here, 1, WIDTH, WIDE)[0]
    cell = state
    if CELL == LSTM:
        cell = read(dc, sequence, unit, here, 1, WIDTH, WIDE)[0]
    _, before, cell = backward(
        state, cell, row, unit, there, here, h_before, c_before, gates, normed, squares, entries, parameters, doutput,
        dpart, dproduct, read_dz, read_y, CELL, SUMMED, CARRIED, HIDDEN, GROUPS, READ, GATES, WIDTH, WIDE,
    )  # fmt: skip
    if CELL == GRU:
        write(dh, (before,), sequence, unit, here, WIDTH)
    if CELL == LSTM:
        write(dc, (cell,), sequence, unit, here, WIDTH)


@triton.jit
def _load_weights(weights, unit, transposed: tl.constexpr, GATES: tl.constexpr, WIDTH: tl.constexpr):
    """Read ``[WIDTH, WIDTH]`` of every gate, or its transpose."""
    inner = unit[:, None]
    outer = unit[None, :]
    here = (inner < WIDTH) & (outer < WIDTH)
    matrices = ()
    for k in tl.static_range(GATES):
        if transposed:
            at = (k * WIDTH + outer) * WIDTH + inner
        else:
            at = (k * WIDTH + inner) * WIDTH + outer
        matrices = matrices + (tl.load(weights + at, mask=here, other=0.0),)
    return matrices


@triton.jit(do_not_specialize=["entries", "first", "stride", "steps", "rows"])
def scan_forward(
    part, weights, output, h, c, h_before, c_before, gates, normed, squares, entries: tl.int64,
    parameters, first: tl.int64, stride: tl.int64, steps, rows,
    CELL: tl.constexpr, SUMMED: tl.constexpr, CARRIED: tl.constexpr, HIDDEN: tl.constexpr, GROUPS: tl.constexpr,
    READ: tl.constexpr, GATES: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Compute steps of equally many rows, ``stride`` rows apart."""
    sequence = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    unit = tl.arange(0, BLOCK)
    there = sequence < rows
    here = there[:, None] & (unit < WIDTH)[None, :]
    state = read(h, sequence, unit, here, 1, WIDTH, h.dtype.element_ty)[0]
    cell = tl.zeros_like(state)
    if CELL == LSTM:
        cell = read(c, sequence, unit, here, 1, WIDTH, WIDE)[0]
    matrices = _load_weights(weights, unit, True, GATES, WIDTH)
    for step in range(steps):
        row = first + step * stride + sequence
        parts = read(part, row, unit, here, GATES, WIDTH, WIDE)
        products = ()
        for k in tl.static_range(GATES):
            products = products + (tl.dot(state, matrices[k], input_precision="tf32x3"),)
        state, cell = forward(
            parts, products, state, cell, row, unit, there, here, output, h_before, c_before, gates, normed, squares,
            entries, parameters, CELL, SUMMED, CARRIED, HIDDEN, GROUPS, READ, GATES, WIDTH, WIDE,
        )  # fmt: skip
    write(h, (state,), sequence, unit, here, WIDTH)
    if CELL == LSTM:
        write(c, (cell,), sequence, unit, here, WIDTH)


@triton.jit(do_not_specialize=["entries", "first", "stride", "steps", "rows"])
def scan_backward(
    weights, dh, dc, h_before, c_before, gates, normed, squares, entries: tl.int64, parameters, doutput, dpart,
    dproduct, read_dz, read_y,
    first: tl.int64, stride: tl.int64, steps, rows,
    CELL: tl.constexpr, SUMMED: tl.constexpr, CARRIED: tl.constexpr, HIDDEN: tl.constexpr, GROUPS: tl.constexpr,
    READ: tl.constexpr, GATES: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of such steps, in the order of ``first`` and ``stride``."""
    sequence = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    unit = tl.arange(0, BLOCK)
    there = sequence < rows
    here = there[:, None] & (unit < WIDTH)[None, :]
    state = read(dh, sequence, unit, here, 1, WIDTH, WIDE)[0]
    cell = tl.zeros_like(state)
    if CELL == LSTM:
        cell = read(dc, sequence, unit, here, 1, WIDTH, WIDE)[0]
    matrices = _load_weights(weights, unit, False, GATES, WIDTH)
    for step in range(steps):
        row = first + step * stride + sequence
        dproducts, state, cell = backward(
            state, cell, row, unit, there, here, h_before, c_before, gates, normed, squares, entries, parameters,
            doutput, dpart, dproduct, read_dz, read_y, CELL, SUMMED, CARRIED, HIDDEN, GROUPS, READ, GATES, WIDTH, WIDE,
        )  # fmt: skip
        for k in tl.static_range(GATES):
            left = tl.where(here, dproducts[k], 0.0).to(weights.dtype.element_ty)
            state = tl.dot(left, matrices[k], state, input_precision="tf32x3")
    write(dh, (state,), sequence, unit, here, WIDTH)
    if CELL == LSTM:
        write(dc, (cell,), sequence, unit, here, WIDTH)


@triton.jit(do_not_specialize=["rows", "dz_row", "factor_row", "y_row"])
def parameter_sums(
    dz, factor, y, partial, rows: tl.int64, dz_row: tl.int64, factor_row: tl.int64, y_row: tl.int64,
    NORM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of weight and bias of a norm over some rows of matrices whose rows are so far apart."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    chunk = tl.program_id(1).to(tl.int64)
    WIDE: tl.constexpr = partial.dtype.element_ty
    weights = tl.zeros((BLOCK,), WIDE)
    biases = tl.zeros((BLOCK,), WIDE)
    for tile in range(TILES):
        row = (chunk * TILES + tile) * ROWS + tl.arange(0, ROWS)
        here = (row < rows)[:, None] & (column < WIDTH)[None, :]
        d = tl.load(dz + row[:, None] * dz_row + column[None, :], mask=here, other=0.0).to(WIDE)
        if factor is not None:
            d *= tl.load(factor + row[:, None] * factor_row + column[None, :], mask=here, other=0.0).to(WIDE)
        v = tl.load(y + row[:, None] * y_row + column[None, :], mask=here, other=0.0).to(WIDE)
        if PHI & NORM[0]:
            v *= NORM[2] - NORM[3] * v
        # Triton 3.8 crashes on some widths if the columns of all tiles are added at the end.
        weights += tl.sum(d * v, 0)
        biases += tl.sum(d, 0)
    at = partial + chunk * 2 * WIDTH + column
    tl.store(at, weights, mask=column < WIDTH)
    tl.store(at + WIDTH, biases, mask=column < WIDTH)
