"""The Triton kernels of the GPU backend, launched by ``normscope.kernels.backends.triton``.

A row is one of a tile ``[ROWS, BLOCK]``, or is processed in chunks ``[BLOCK]``. Lanes beyond the end of a row are kept
at zero after every operation, so that the reductions need no mask. Statistics and sums have the dtype of ``square``.
Row offsets are 64-bit.
"""

# A type checker cannot check Triton's language, which only looks like Python, and Triton may not be installed.
# pyright: reportMissingImports=false, reportOptionalMemberAccess=false
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportAssignmentType=false, reportAttributeAccessIssue=false

import torch
import triton
import triton.language as tl

from normscope.kernels import formula as family

CENTER, PHI, DETACH_MEAN = map(tl.constexpr, (family.CENTER, family.PHI, family.DETACH_MEAN))
DETACH_STD, DIVISOR, ROOT = map(tl.constexpr, (family.DETACH_STD, family.DIVISOR, family.ROOT))
RELEASED = tl.constexpr(family.RELEASED)


@triton.constexpr_function
def _down(kind):
    return family.SCALE[torch.float64 if kind == tl.float64 else torch.float32]


@triton.constexpr_function
def _most(width, kind):
    return 2.0 ** (1022 if kind == tl.float64 else 126) / width


@triton.jit
def _root(square):
    if square.dtype == tl.float64:
        return tl.sqrt(square)
    else:
        return tl.sqrt_rn(square)


@triton.jit
def _quotient(numerator, denominator):
    if denominator.dtype == tl.float64:
        return numerator / denominator
    else:
        return tl.div_rn(numerator, denominator)


@triton.jit
def _divisor(stored, FLAGS: tl.constexpr, EPS: tl.constexpr, WIDTH: tl.constexpr):
    """Return 1 / d and kappa d^2, the factor of y sum(u y) in the gradient; ``stored`` is negative in another unit."""
    one = tl.full(stored.shape, 1.0, stored.dtype)
    if (DIVISOR & FLAGS) == 0:
        return one, one * 0.0
    unit = tl.where(stored < 0.0, one * _down(stored.dtype), one)
    square = tl.abs(stored)
    eps = unit * EPS
    if (DIVISOR & FLAGS) == ROOT:
        inverse = _quotient(one, _root(square + eps * unit)) * unit
        return inverse, inverse * (1.0 / WIDTH)
    elif (DIVISOR & FLAGS) == RELEASED:
        deviation = _root(square * (WIDTH / (WIDTH - 1.0)))
        flat = deviation == 0.0
        slope = _quotient(one, tl.where(flat, 1.0, deviation) * (WIDTH - 1.0))
        return _quotient(one, deviation + eps) * unit, tl.where(flat, 0.0, slope) * unit
    else:
        length = _root(square * WIDTH)
        short = length < eps
        inverse = _quotient(one, tl.where(short, eps, length)) * unit
        return inverse, tl.where(short, 0.0, inverse)


@triton.jit
def _within(row, column, rows, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    # There are as many programs as tiles, so a single row always exists; a mask for it would cost registers.
    here = column < WIDTH
    if ROWS > 1:
        here = (row < rows)[:, None] & here
    return here


@triton.jit
def _read(pointer, at, here, WIDE: tl.constexpr):
    return tl.load(pointer + at, mask=here, other=0.0).to(WIDE)


@triton.jit
def _read_sum(x, residual, at, here, WIDE: tl.constexpr):
    value = _read(x, at, here, WIDE)
    if residual is not None:
        value = (value + _read(residual, at, here, WIDE)).to(x.dtype.element_ty).to(WIDE)
    return value


@triton.jit
def _mean_of_chunks(x, residual, row, mu, UNIT, SQUARES: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Return the mean over a row of UNIT x - mu, or of its square."""
    total = tl.zeros((BLOCK,), mu.dtype)
    for start in range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = _read_sum(x, residual, row * WIDTH + column, column < WIDTH, mu.dtype) * UNIT
        value = tl.where(column < WIDTH, value - mu, 0.0)
        total += value * value if SQUARES else value
    return tl.sum(total, 0) * (1.0 / WIDTH)


@triton.jit
def _write_output(z, y, weight, bias, column, at, here, FLAGS: tl.constexpr, SCALE, SLOPE, WIDTH: tl.constexpr):
    if PHI & FLAGS:
        y = (SCALE - SLOPE * y) * y
    if weight is not None:
        y *= _read(weight, column, column < WIDTH, y.dtype)
    if bias is not None:
        y += _read(bias, column, column < WIDTH, y.dtype)
    tl.store(z + at, y.to(z.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["rows"])
def forward_rows(
    x, residual, weight, bias, z, total, mean, square, rows: tl.int64,
    FLAGS: tl.constexpr, EPS: tl.constexpr, SCALE: tl.constexpr, SLOPE: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Normalize a tile of whole rows."""
    WIDE: tl.constexpr = square.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    here = _within(row, column, rows, ROWS, WIDTH)
    at = row[:, None] * WIDTH + column
    value = _read_sum(x, residual, at, here, WIDE)
    if residual is not None:
        tl.store(total + at, value.to(total.dtype.element_ty), mask=here)
    if CENTER & FLAGS:
        mu = tl.sum(value, 1) * (1.0 / WIDTH)
        # Corrects the rounding of the first sum, which is large if the mean is: a constant row must have no variance.
        mu += tl.sum(tl.where(here, value - mu[:, None], 0.0), 1) * (1.0 / WIDTH)
        value = tl.where(here, value - mu[:, None], 0.0)
    q = tl.sum(value * value, 1) * (1.0 / WIDTH)
    MOST: tl.constexpr = _most(WIDTH, WIDE)
    DOWN: tl.constexpr = _down(WIDE)
    far = ~(q <= MOST)
    if tl.max(far.to(tl.int32), 0) != 0:
        small = _read_sum(x, residual, at, here, WIDE) * DOWN
        if CENTER & FLAGS:
            low = tl.sum(small, 1) * (1.0 / WIDTH)
            low += tl.sum(tl.where(here, small - low[:, None], 0.0), 1) * (1.0 / WIDTH)
            small = tl.where(here, small - low[:, None], 0.0)
        scaled = tl.sum(small * small, 1) * (1.0 / WIDTH)
        # A row with an infinite entry or a NaN keeps what it has; one whose mean alone was too large has another mean.
        far = far & (scaled - scaled == 0.0)
        if CENTER & FLAGS:
            mu = tl.where(far, low * (1.0 / DOWN), mu)
        value = tl.where(far[:, None], small * (1.0 / DOWN), value)
        q = tl.sum(value * value, 1) * (1.0 / WIDTH)
        q = tl.where(far & ~(q <= MOST), -scaled, q)
    if CENTER & FLAGS:
        tl.store(mean + row, mu, mask=row < rows)
    tl.store(square + row, q, mask=row < rows)
    inverse, _ = _divisor(q, FLAGS, EPS, WIDTH)
    _write_output(z, value * inverse[:, None], weight, bias, column, at, here, FLAGS, SCALE, SLOPE, WIDTH)


@triton.jit(do_not_specialize=["rows"])
def forward_chunks(
    x, residual, weight, bias, z, total, mean, square, rows: tl.int64,
    FLAGS: tl.constexpr, EPS: tl.constexpr, SCALE: tl.constexpr, SLOPE: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Normalize a row that is wider than any tile, with one pass for every sum and one to write."""
    WIDE: tl.constexpr = square.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    first = tl.arange(0, BLOCK)
    mu = tl.zeros((), WIDE)
    if CENTER & FLAGS:
        for _ in tl.static_range(2):
            mu += _mean_of_chunks(x, residual, row, mu, 1.0, False, WIDTH, BLOCK)
    q = _mean_of_chunks(x, residual, row, mu, 1.0, True, WIDTH, BLOCK)
    DOWN: tl.constexpr = _down(WIDE)
    if ~(q <= _most(WIDTH, WIDE)):  # as in forward_rows
        low = tl.zeros((), WIDE)
        if CENTER & FLAGS:
            for _ in tl.static_range(2):
                low += _mean_of_chunks(x, residual, row, low, DOWN, False, WIDTH, BLOCK)
        scaled = _mean_of_chunks(x, residual, row, low, DOWN, True, WIDTH, BLOCK)
        far = scaled - scaled == 0.0
        mu = tl.where(far, low * (1.0 / DOWN), mu)
        q = _mean_of_chunks(x, residual, row, mu, 1.0, True, WIDTH, BLOCK)
        q = tl.where(far & ~(q <= _most(WIDTH, WIDE)), -scaled, q)
    if CENTER & FLAGS:
        tl.store(mean + row, mu)
    tl.store(square + row, q)
    inverse, _ = _divisor(q, FLAGS, EPS, WIDTH)
    for start in range(0, WIDTH, BLOCK):
        column = start + first
        here = column < WIDTH
        at = row * WIDTH + column
        value = _read_sum(x, residual, at, here, WIDE)
        if residual is not None:
            tl.store(total + at, value.to(total.dtype.element_ty), mask=here)
        _write_output(z, (value - mu) * inverse, weight, bias, column, at, here, FLAGS, SCALE, SLOPE, WIDTH)


@triton.jit
def _normalized(x, mu, inverse, at, here, WIDE: tl.constexpr):
    """Return y as in the forward pass, and zero in lanes beyond the end of the row."""
    return tl.where(here, (_read(x, at, here, WIDE) - mu) * inverse, 0.0)


@triton.jit
def _write_gradient(dx, dtotal, gradient, at, here):
    if dtotal is not None:
        gradient += _read(dtotal, at, here, gradient.dtype)
    tl.store(dx + at, gradient.to(dx.dtype.element_ty), mask=here)


@triton.jit
def _statistics(mean, square, row, rows, FLAGS: tl.constexpr, EPS: tl.constexpr, WIDTH: tl.constexpr):
    """Return the mean (0 if it is not stored), 1 / d and kappa d^2, with finite values for rows beyond the end."""
    q = tl.load(square + row, mask=row < rows, other=1.0)
    inverse, slope = _divisor(q, FLAGS, EPS, WIDTH)
    mu = q * 0.0
    if mean is not None:
        mu = tl.load(mean + row, mask=row < rows, other=0.0)
    return mu, inverse, slope


@triton.jit
def _backward_tile(
    dz, dtotal, x, mean, square, weight, dx, rows, row, column,
    FLAGS: tl.constexpr, EPS: tl.constexpr, SCALE: tl.constexpr, SLOPE: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Write dx of a tile, and return dz and the factor of the weight in z."""
    WIDE: tl.constexpr = square.dtype.element_ty
    here = _within(row, column, rows, ROWS, WIDTH)
    at = row[:, None] * WIDTH + column
    mu, inverse, slope = _statistics(mean, square, row, rows, FLAGS, EPS, WIDTH)
    upstream = _read(dz, at, here, WIDE)
    u = upstream
    v = upstream
    if weight is not None:
        u *= _read(weight, column, column < WIDTH, WIDE)
    if x is not None:
        y = _normalized(x, mu[:, None], inverse[:, None], at, here, WIDE)
        v = y
        if PHI & FLAGS:
            u *= SCALE - SLOPE * y
            v *= SCALE - SLOPE * y
    gradient = u
    if ((CENTER | DETACH_MEAN) & FLAGS) == CENTER:
        u_mean = tl.sum(u, 1) * (1.0 / WIDTH)
        gradient -= u_mean[:, None]
    gradient *= inverse[:, None]
    if (DIVISOR & FLAGS) != 0 and (DETACH_STD & FLAGS) == 0:
        product = tl.sum(u * y, 1)
        if ((CENTER | DETACH_MEAN) & FLAGS) == CENTER and x.dtype.element_ty.primitive_bitwidth > 16:
            # The stored mean is rounded. If x has as many bits, the remainder of the mean in y is visible.
            left = tl.sum(y, 1)
            product -= u_mean * left
            y -= (left * (1.0 / WIDTH))[:, None]
        gradient -= (slope * product)[:, None] * y
    _write_gradient(dx, dtotal, gradient, at, here)
    return upstream, v


@triton.jit(do_not_specialize=["rows"])
def backward_rows(
    dz, dtotal, x, mean, square, weight, dx, rows: tl.int64,
    FLAGS: tl.constexpr, EPS: tl.constexpr, SCALE: tl.constexpr, SLOPE: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compute the input gradient of a tile of whole rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    _backward_tile(dz, dtotal, x, mean, square, weight, dx, rows, row, column, FLAGS, EPS, SCALE, SLOPE, WIDTH, ROWS)


@triton.jit(do_not_specialize=["rows"])
def backward_sums(
    dz, dtotal, x, mean, square, weight, dx, partial, rows: tl.int64,
    WANTS_WEIGHT: tl.constexpr, WANTS_BIAS: tl.constexpr, FLAGS: tl.constexpr, EPS: tl.constexpr,
    SCALE: tl.constexpr, SLOPE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compute the input gradient for every ``programs``-th tile, and partial sums for the weight and bias gradients."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    column = tl.arange(0, BLOCK)
    dweight = tl.zeros((ROWS, BLOCK), partial.dtype.element_ty)
    dbias = tl.zeros((ROWS, BLOCK), partial.dtype.element_ty)
    for tile in tl.range(program, tl.cdiv(rows, ROWS), programs, num_stages=2):
        row = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        upstream, v = _backward_tile(
            dz, dtotal, x, mean, square, weight, dx, rows, row, column[None, :], FLAGS, EPS, SCALE, SLOPE, WIDTH, ROWS
        )
        if WANTS_WEIGHT:
            dweight += upstream * v
        if WANTS_BIAS:
            dbias += upstream
    at = partial + program.to(tl.int64) * WIDTH + column
    if WANTS_WEIGHT:
        tl.store(at, tl.sum(dweight, 0), mask=column < WIDTH)
        at += programs.to(tl.int64) * WIDTH
    if WANTS_BIAS:
        tl.store(at, tl.sum(dbias, 0), mask=column < WIDTH)


@triton.jit(do_not_specialize=["programs"])
def finalize(partial, dweight, dbias, programs, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Add the partial sums of all programs in order: those of the weight, then those of the bias."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    which = tl.program_id(1)
    partial += which.to(tl.int64) * programs * WIDTH
    sums = tl.zeros((ROWS, BLOCK), partial.dtype.element_ty)
    for start in range(0, programs, ROWS):
        row = (start + tl.arange(0, ROWS).to(tl.int64))[:, None]
        here = (row < programs) & (column < WIDTH)[None, :]
        sums += tl.load(partial + row * WIDTH + column[None, :], mask=here, other=0.0)
    result = tl.sum(sums, 0)
    if dweight is not None:
        tl.store(dweight + column, result.to(dweight.dtype.element_ty), mask=(column < WIDTH) & (which == 0))
    if dbias is not None:
        last = 0 if dweight is None else 1
        tl.store(dbias + column, result, mask=(column < WIDTH) & (which == last))


@triton.jit(do_not_specialize=["rows"])
def backward_chunks(
    dz, dtotal, x, mean, square, weight, dx, rows: tl.int64,
    FLAGS: tl.constexpr, EPS: tl.constexpr, SCALE: tl.constexpr, SLOPE: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compute the input gradient of a row that is wider than any tile, with one pass for sums and one to write."""
    WIDE: tl.constexpr = square.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    first = tl.arange(0, BLOCK)
    mu, inverse, slope = _statistics(mean, square, row, rows, FLAGS, EPS, WIDTH)
    sums = tl.zeros((BLOCK,), WIDE)
    products = tl.zeros((BLOCK,), WIDE)
    lefts = tl.zeros((BLOCK,), WIDE)
    u_mean = tl.zeros((), WIDE)
    y_mean = tl.zeros((), WIDE)
    product = tl.zeros((), WIDE)
    for sweep in tl.static_range(2):
        for start in range(0, WIDTH, BLOCK):
            column = start + first
            here = column < WIDTH
            at = row * WIDTH + column
            u = _read(dz, at, here, WIDE)
            y = u
            if weight is not None:
                u *= _read(weight, column, here, WIDE)
            if x is not None:
                y = _normalized(x, mu, inverse, at, here, WIDE)
                if PHI & FLAGS:
                    u *= SCALE - SLOPE * y
            if sweep == 0:
                sums += u
                products += u * y
                lefts += y
            else:
                _write_gradient(dx, dtotal, (u - u_mean) * inverse - slope * product * (y - y_mean), at, here)
        if sweep == 0:
            if ((CENTER | DETACH_MEAN) & FLAGS) == CENTER:
                u_mean = tl.sum(sums, 0) * (1.0 / WIDTH)
            if (DIVISOR & FLAGS) != 0 and (DETACH_STD & FLAGS) == 0:
                product = tl.sum(products, 0)
                if ((CENTER | DETACH_MEAN) & FLAGS) == CENTER:
                    y_mean = tl.sum(lefts, 0) * (1.0 / WIDTH)
                    product -= u_mean * y_mean * WIDTH


@triton.jit(do_not_specialize=["rows"])
def column_sums(
    dz, x, mean, square, dweight, dbias, rows: tl.int64,
    FLAGS: tl.constexpr, EPS: tl.constexpr, SCALE: tl.constexpr, SLOPE: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Sum a few columns over all rows, for rows that are too wide to do so together with dx."""
    WIDE: tl.constexpr = square.dtype.element_ty
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    weights = tl.zeros((ROWS, BLOCK), WIDE)
    biases = tl.zeros((ROWS, BLOCK), WIDE)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        here = (row < rows)[:, None] & (column < WIDTH)[None, :]
        at = row[:, None] * WIDTH + column[None, :]
        upstream = _read(dz, at, here, WIDE)
        if dbias is not None:
            biases += upstream
        if dweight is not None:
            mu, inverse, _ = _statistics(mean, square, row, rows, FLAGS, EPS, WIDTH)
            v = _normalized(x, mu[:, None], inverse[:, None], at, here, WIDE)
            if PHI & FLAGS:
                v *= SCALE - SLOPE * v
            weights += upstream * v
    if dweight is not None:
        tl.store(dweight + column, tl.sum(weights, 0).to(dweight.dtype.element_ty), mask=column < WIDTH)
    if dbias is not None:
        tl.store(dbias + column, tl.sum(biases, 0), mask=column < WIDTH)
