"""One step of recurrent nets in Triton: the functions that the kernels in ``scan_triton_kernels`` call.

A program holds a tile ``[ROWS, BLOCK]`` for every gate: some sequences, and all units of each. Lanes beyond the last
unit are zero before every sum. A norm is a compile-time tuple of flags, eps, scale and scale times k; ``parameters``
are what is added to the product before its norm, weight and bias of its norm, and of the norm of the c that is read.
``squares`` has a row for each group of gates that share statistics. Arithmetic is in the dtype WIDE. Offsets of rows
are 64-bit.
"""

# A type checker cannot check Triton's language, as in triton_kernels.py. It adds tuples, and does not unpack them.
# ruff: noqa: RUF005
# pyright: reportMissingImports=false, reportOptionalMemberAccess=false
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportAssignmentType=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from normscope.kernels.backends.triton_kernels import (
    CENTER,
    DETACH_MEAN,
    DETACH_STD,
    DIVISOR,
    PHI,
    _divisor,
    _down,
    _most,
)

LSTM, GRU, RNN, RELU = map(tl.constexpr, (0, 1, 2, 3))
WHOLE, EACH, PAIR = map(tl.constexpr, (0, 1, 2))
"""Gates that share statistics: all, none, or the first two."""


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    size = tl.abs(x)
    large = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    large = tl.where(x < 0.0, -large, large)
    if x.dtype != tl.float64:
        # Near zero the difference above has few correct bits: Cephes (S. Moshier), tanhf.
        z = x * x
        p = ((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z
        p = ((p + 1.33314422036e-1) * z - 3.33332819422e-1) * z
        large = tl.where(size < 0.625, p * x + x, large)
    return large


@triton.jit
def read(matrix, row, unit, here, GATES: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr):
    """Read the tiles of some rows of ``[N, GATES WIDTH]``, as many as there are gates."""
    tiles = ()
    for k in tl.static_range(GATES):
        at = row[:, None] * (GATES * WIDTH) + (k * WIDTH + unit)[None, :]
        tiles = tiles + (tl.load(matrix + at, mask=here, other=0.0).to(WIDE),)
    return tiles


@triton.jit
def _read_bias(bias, unit, GATES: tl.constexpr, WIDTH: tl.constexpr):
    tiles = ()
    for k in tl.static_range(GATES):
        tiles = tiles + (tl.load(bias + k * WIDTH + unit, mask=unit < WIDTH, other=0.0)[None, :],)
    return tiles


@triton.jit
def write(matrix, tiles, row, unit, here, WIDTH: tl.constexpr):
    """Write the tiles of some rows."""
    for k in tl.static_range(len(tiles)):
        at = row[:, None] * (len(tiles) * WIDTH) + (k * WIDTH + unit)[None, :]
        tl.store(matrix + at, tiles[k].to(matrix.dtype.element_ty), mask=here)


@triton.jit
def _sum(tiles):
    """Add the entries of every row."""
    total = tiles[0]
    for k in tl.static_range(1, len(tiles)):
        total += tiles[k]
    return tl.sum(total, 1)


@triton.jit
def _square_sum(tiles):
    total = tiles[0] * tiles[0]
    for k in tl.static_range(1, len(tiles)):
        total += tiles[k] * tiles[k]
    return tl.sum(total, 1)


@triton.jit
def _scaled(tiles, factor, shift, rest, here):
    """Multiply tiles by a factor of every row after subtracting a shift and its rest; zero beyond the last unit."""
    results = ()
    for k in tl.static_range(len(tiles)):
        results = results + (tl.where(here, (tiles[k] - shift[:, None] - rest[:, None]) * factor[:, None], 0.0),)
    return results


@triton.jit
def _normalize(tiles, here, NORM: tl.constexpr, WIDTH: tl.constexpr):
    """Return the normalized tiles before scale and weight, and the mean square of the rows as the norms store it."""
    COUNT: tl.constexpr = len(tiles) * WIDTH
    q = _square_sum(tiles) * (1.0 / COUNT)
    none = tl.zeros_like(q)
    mu, rest = none, none
    if CENTER & NORM[0]:
        mu = _sum(tiles) * (1.0 / COUNT)
        centered = _scaled(tiles, none + 1.0, mu, none, here)
        # The mean is rounded: a constant row must have no variance, and others no mean left.
        rest = _sum(centered) * (1.0 / COUNT)
        q = _square_sum(centered) * (1.0 / COUNT) - rest * rest
        q = tl.where(q < 0.0, 0.0, q)
    MOST: tl.constexpr = _most(COUNT, q.dtype)
    far = ~(q <= MOST)
    if tl.max(far.to(tl.int32), 0) != 0:
        # Squares leave the range: as in triton_kernels.forward_rows.
        DOWN: tl.constexpr = _down(q.dtype)
        small = _scaled(tiles, none + DOWN, none, none, here)
        low = none
        if CENTER & NORM[0]:
            low = _sum(small) * (1.0 / COUNT)
            small = _scaled(small, none + 1.0, low, none, here)
        scaled = _square_sum(small) * (1.0 / COUNT)
        far = far & (scaled - scaled == 0.0)
        mu = tl.where(far, low * (1.0 / DOWN), mu)
        rest = tl.where(far, 0.0, rest)
        q = tl.where(far, -scaled, q)
    inverse, _ = _divisor(q, NORM[0], NORM[1], COUNT)
    return _scaled(tiles, inverse, mu, rest, here), q


@triton.jit
def _affine(tiles, weight, bias, unit, NORM: tl.constexpr, WIDTH: tl.constexpr):
    """Return what a norm returns, from normalized tiles."""
    results = ()
    for k in tl.static_range(len(tiles)):
        z = tiles[k]
        if PHI & NORM[0]:
            z = (NORM[2] - NORM[3] * z) * z
        if weight is not None:
            z *= tl.load(weight + k * WIDTH + unit, mask=unit < WIDTH, other=0.0)[None, :]
        if bias is not None:
            z += tl.load(bias + k * WIDTH + unit, mask=unit < WIDTH, other=0.0)[None, :]
        results = results + (z,)
    return results


@triton.jit
def _pull_back(dz, tiles, q, weight, first: tl.constexpr, unit, NORM: tl.constexpr, WIDTH: tl.constexpr):
    """Return the gradients of the input of a norm, from those of its output and the normalized tiles.

    ``first`` is the number of gates before them.
    """
    COUNT: tl.constexpr = len(tiles) * WIDTH
    inverse, slope = _divisor(q, NORM[0], NORM[1], COUNT)
    us = ()
    for k in tl.static_range(len(tiles)):
        u = dz[k]
        if weight is not None:
            u *= tl.load(weight + (first + k) * WIDTH + unit, mask=unit < WIDTH, other=0.0)[None, :]
        if PHI & NORM[0]:
            u *= NORM[2] - NORM[3] * tiles[k]
        us = us + (u,)
    mean = tl.zeros_like(inverse)
    if ((CENTER | DETACH_MEAN) & NORM[0]) == CENTER:
        mean = _sum(us) * (1.0 / COUNT)
    product = tl.zeros_like(inverse)
    if (DIVISOR & NORM[0]) != 0 and (DETACH_STD & NORM[0]) == 0:
        total = us[0] * tiles[0]
        for k in tl.static_range(1, len(tiles)):
            total += us[k] * tiles[k]
        product = tl.sum(total, 1) * slope
    results = ()
    for k in tl.static_range(len(tiles)):
        results = results + ((us[k] - mean[:, None]) * inverse[:, None] - product[:, None] * tiles[k],)
    return results


@triton.jit
def _normalize_groups(
    tiles, squares, row, entries, there, here, NORM: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr
):
    """Normalize the gates that share statistics together, and write the mean squares."""
    results = ()
    if GROUPS == WHOLE:
        results, q = _normalize(tiles, here, NORM, WIDTH)
        if squares is not None:
            tl.store(squares + row, q, mask=there)
    elif GROUPS == PAIR:
        first, q = _normalize((tiles[0], tiles[1]), here, NORM, WIDTH)
        last, p = _normalize((tiles[2],), here, NORM, WIDTH)
        if squares is not None:
            tl.store(squares + row, q, mask=there)
            tl.store(squares + entries + row, p, mask=there)
        results = first + last
    else:
        for k in tl.static_range(len(tiles)):
            one, q = _normalize((tiles[k],), here, NORM, WIDTH)
            if squares is not None:
                tl.store(squares + k * entries + row, q, mask=there)
            results = results + one
    return results


@triton.jit
def _pull_back_groups(
    dz, tiles, squares, weight, row, entries, there, unit, NORM: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr
):
    results = ()
    q = tl.load(squares + row, mask=there, other=1.0)
    if GROUPS == WHOLE:
        results = _pull_back(dz, tiles, q, weight, 0, unit, NORM, WIDTH)
    elif GROUPS == PAIR:
        p = tl.load(squares + entries + row, mask=there, other=1.0)
        results = _pull_back((dz[0], dz[1]), (tiles[0], tiles[1]), q, weight, 0, unit, NORM, WIDTH) + _pull_back(
            (dz[2],), (tiles[2],), p, weight, 2, unit, NORM, WIDTH
        )
    else:
        for k in tl.static_range(len(tiles)):
            q = tl.load(squares + k * entries + row, mask=there, other=1.0)
            results = results + _pull_back((dz[k],), (tiles[k],), q, weight, k, unit, NORM, WIDTH)
    return results


@triton.jit
def _added(tiles, others):
    results = ()
    for k in tl.static_range(len(tiles)):
        results = results + (tiles[k] + others[k],)
    return results


@triton.jit
def forward(
    parts, products, h, c, row, unit, there, here, output, h_before, c_before, gates, normed, squares, entries,
    parameters,
    CELL: tl.constexpr, SUMMED: tl.constexpr, CARRIED: tl.constexpr, HIDDEN: tl.constexpr, GROUPS: tl.constexpr,
    READ: tl.constexpr, GATES: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Compute a step from its products, write what it leaves, and return the state."""
    if h_before is not None:
        write(h_before, (h,), row, unit, here, WIDTH)
    if parameters[0] is not None:
        products = _added(products, _read_bias(parameters[0], unit, GATES, WIDTH))
    if SUMMED:
        products = _added(products, parts)
    if HIDDEN is not None:
        products = _normalize_groups(products, squares, row, entries, there, here, HIDDEN, GROUPS, WIDTH)
    if normed is not None:
        write(normed, products, row, unit, here, WIDTH)
    if HIDDEN is not None:
        products = _affine(products, parameters[1], parameters[2], unit, HIDDEN, WIDTH)
    # What the reset gate of a GRU multiplies.
    multiplied = products[GATES - 1]
    if not SUMMED:
        products = _added(products, parts)
    if CELL == LSTM:
        i = _sigmoid(products[0])
        f = _sigmoid(products[1])
        g = _tanh(products[2])
        o = _sigmoid(products[3])
        if gates is not None:
            write(gates, (i, f, g, o), row, unit, here, WIDTH)
            write(c_before, (c,), row, unit, here, WIDTH)
        c = f * c + i * g
        out = c
        if READ is not None:
            y, _ = _normalize((tl.where(here, c, 0.0),), here, READ, WIDTH)
            out = _affine(y, parameters[3], parameters[4], unit, READ, WIDTH)[0]
        new = o * _tanh(out)
        if CARRIED:
            c = out
    elif CELL == GRU:
        r = _sigmoid(products[0])
        z = _sigmoid(products[1])
        n = _tanh(parts[2] + r * multiplied)
        if gates is not None:
            write(gates, (r, z, n), row, unit, here, WIDTH)
        new = z * (h.to(WIDE) - n) + n
    else:
        new = products[0]
        if CELL == RELU:
            new = tl.where(new < 0.0, 0.0, new)
        else:
            new = _tanh(new)
        if gates is not None:
            write(gates, (new,), row, unit, here, WIDTH)
    write(output, (new,), row, unit, here, WIDTH)
    # A lane beyond the last unit multiplies nothing, but must not be infinite.
    return tl.where(here, new, 0.0).to(output.dtype.element_ty), c


@triton.jit
def backward(
    dh, dc, row, unit, there, here, h_before, c_before, gates, normed, squares, entries, parameters, doutput,
    dpart, dproduct, read_dz, read_y,
    CELL: tl.constexpr, SUMMED: tl.constexpr, CARRIED: tl.constexpr, HIDDEN: tl.constexpr, GROUPS: tl.constexpr,
    READ: tl.constexpr, GATES: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a step: of its products, and of the state before it but for the products."""
    upstream = dh + read(doutput, row, unit, here, 1, WIDTH, WIDE)[0]
    before = tl.zeros_like(dh)
    tiles = ()
    if normed is not None:
        tiles = read(normed, row, unit, here, GATES, WIDTH, WIDE)
    if CELL == LSTM:
        i, f, g, o = read(gates, row, unit, here, 4, WIDTH, WIDE)
        old = read(c_before, row, unit, here, 1, WIDTH, WIDE)[0]
        out = f * old + i * g
        if READ is not None:
            y, q = _normalize((out,), here, READ, WIDTH)
            out = _affine(y, parameters[3], parameters[4], unit, READ, WIDTH)[0]
        level = _tanh(out)
        d_o = upstream * level * o * (1.0 - o)
        d = upstream * o * (1.0 - level * level)
        if CARRIED or READ is None:
            d += dc
        d = tl.where(here, d, 0.0)
        if READ is not None:
            if read_dz is not None:
                write(read_dz, (d,), row, unit, here, WIDTH)
                write(read_y, y, row, unit, here, WIDTH)
            d = _pull_back((d,), y, q, parameters[3], 0, unit, READ, WIDTH)[0]
            if not CARRIED:
                d += dc
        dgates = (d * g * i * (1.0 - i), d * old * f * (1.0 - f), d * i * (1.0 - g * g), d_o)
        dc = d * f
    elif CELL == GRU:
        r, z, n = read(gates, row, unit, here, 3, WIDTH, WIDE)
        old = read(h_before, row, unit, here, 1, WIDTH, WIDE)[0]
        m = tiles[2]
        if HIDDEN is not None:
            m = _affine(tiles, parameters[1], parameters[2], unit, HIDDEN, WIDTH)[2]
        dn = upstream * (1.0 - z) * (1.0 - n * n)
        dgates = (dn * m * r * (1.0 - r), upstream * (old - n) * z * (1.0 - z), dn)
        dproducts = (dgates[0], dgates[1], dn * r)
        before = upstream * z
    else:
        new = read(gates, row, unit, here, 1, WIDTH, WIDE)[0]
        if CELL == RELU:
            dgates = (tl.where(new > 0.0, upstream, 0.0),)
        else:
            dgates = (upstream * (1.0 - new * new),)
    if CELL != GRU:
        dproducts = dgates
    if HIDDEN is not None:
        dproducts = _pull_back_groups(
            dproducts, tiles, squares, parameters[1], row, entries, there, unit, HIDDEN, GROUPS, WIDTH
        )
    write(dpart, dgates, row, unit, here, WIDTH)
    if dproduct is not None:
        write(dproduct, dproducts, row, unit, here, WIDTH)
    return dproducts, before, dc
