/* The kernels of recurrent nets for one storage type. Included once for each, as cpu_rows.h, with TYPE and STATISTICS. */

#define NAME(x) PASTE4(normscope_, x, TYPE, ISA)
#define T PASTE(stored_, TYPE)
#define S PASTE(stored_, STATISTICS)
#define V STATISTICS
#define N PASTE(lanes_, STATISTICS)
#define LOAD PASTE(load_, TYPE)
#define LOAD_PART PASTE3(load_, TYPE, _part)
#define STORE PASTE(store_, TYPE)
#define STORE_PART PASTE3(store_, TYPE, _part)
#define READ PASTE(load_, STATISTICS)
#define READ_PART PASTE3(load_, STATISTICS, _part)
#define WRITE PASTE(store_, STATISTICS)
#define WRITE_PART PASTE3(store_, STATISTICS, _part)
#define FMA PASTE(fma_, STATISTICS)
#define SPLAT(value) ((V){0} + (value))
#define SIGMOID PASTE(sigmoid_, STATISTICS)
#define TANH PASTE(tanh_, STATISTICS)
#define WIDEN PASTE(widen_one_, TYPE)
#define WIDE PASTE(type_of_, STATISTICS)

/* A loop over vectors; the last one may be partly filled. */
#define ROWS(i, width) for (int64_t i = 0, left; left = width - i < N ? width - i : N, i < width; i += N)
#define AT(p, i) (MASKS || left < N ? LOAD_PART(p + i, (int)left) : LOAD(p + i))
#define IN(p, i) (MASKS || left < N ? READ_PART(p + i, (int)left) : READ(p + i))
#define OUT(p, i, v) (MASKS || left < N ? STORE_PART(p + i, v, (int)left) : STORE(p + i, v))
#define KEEP(p, i, v) (MASKS || left < N ? WRITE_PART(p + i, v, (int)left) : WRITE(p + i, v))

/* ---- products ---- */

/* out[r, 0:columns] = sum over k of a[r, k] b[k, :], with b a panel of 3 N columns. The order of the sum depends on
 * nothing else, so that a row has the same result in every batch. */
INLINE void NAME(tile)(const T *a, int64_t inner, const S *b, T *out, int64_t stride, const int rows, int columns) {
    V sum[TALL][3];
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = sum[r][2] = (V){0};
    for (int64_t k = 0; k < inner; k++, b += 3 * N) {
        const V b0 = READ(b), b1 = READ(b + N), b2 = READ(b + 2 * N);
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {
            const V x = SPLAT(WIDEN(a[r * inner + k]));
            sum[r][0] = FMA(x, b0, sum[r][0]);
            sum[r][1] = FMA(x, b1, sum[r][1]);
            sum[r][2] = FMA(x, b2, sum[r][2]);
        }
    }
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
        for (int j = 0; j < 3; j++) {
            const int left = columns - j * N;
            if (left >= N) STORE(out + r * stride + j * N, sum[r][j]);
            else if (left > 0) STORE_PART(out + r * stride + j * N, sum[r][j], left);
        }
}

/* The panels from..to of out [rows, columns] = a [rows, inner] b. */
void NAME(product)(const void *left, const void *packed, void *to_, int64_t rows, int64_t inner, int64_t columns,
                   int64_t from, int64_t to) {
    const T *a = left;
    for (int64_t panel = from; panel < to; panel++) {
        const S *b = (const S *)packed + panel * inner * 3 * N;
        T *out = (T *)to_ + panel * 3 * N;
        const int wide = columns - panel * 3 * N < 3 * N ? (int)(columns - panel * 3 * N) : 3 * N;
        int64_t r = 0;
        for (; r + TALL <= rows; r += TALL) NAME(tile)(a + r * inner, inner, b, out + r * columns, columns, TALL, wide);
#define REST(n) case n: NAME(tile)(a + r * inner, inner, b, out + r * columns, columns, n, wide); break;
        switch (rows - r) {
            REST(1) REST(2) REST(3)
#if TALL == 8
            REST(4) REST(5) REST(6) REST(7)
#endif
        }
#undef REST
    }
}

/* out[r, 0:columns] (+)= sum over k of a[k, r] b[k, :], with rows of a stride apart, and b as above. */
INLINE void NAME(tile_of_gradient)(const T *a, int64_t stride, int64_t inner, const S *b, S *out, int64_t wide,
                                   const int rows, int columns, int add) {
    V sum[TALL][3];
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = sum[r][2] = (V){0};
    for (int64_t k = 0; k < inner; k++, a += stride, b += 3 * N) {
        const V b0 = READ(b), b1 = READ(b + N), b2 = READ(b + 2 * N);
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {
            const V x = SPLAT(WIDEN(a[r]));
            sum[r][0] = FMA(x, b0, sum[r][0]);
            sum[r][1] = FMA(x, b1, sum[r][1]);
            sum[r][2] = FMA(x, b2, sum[r][2]);
        }
    }
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
        for (int j = 0; j < 3; j++) {
            int64_t left = columns - j * N;
            if (left <= 0) break;
            S *to = out + r * wide + j * N;
            left = left < N ? left : N;
            KEEP(to, 0, add ? sum[r][j] + IN(to, 0) : sum[r][j]);
        }
}

/* Entries that are summed before the next ones are loaded: a block of both matrices fits in the second-level cache. */
enum { NAME(block) = 256 };

/* The rows from..to of out [rows, columns] = a^T b, with a [inner, rows]: the gradient of a matrix of weights. */
void NAME(gradient)(const void *left_, const void *packed, void *to_, int64_t rows, int64_t inner, int64_t columns,
                    int64_t from, int64_t to) {
    for (int64_t k = 0; k < inner; k += NAME(block)) {
        const int64_t count = inner - k < NAME(block) ? inner - k : NAME(block);
        for (int64_t panel = 0; panel * 3 * N < columns; panel++) {
            const S *b = (const S *)packed + (panel * inner + k) * 3 * N;
            const int wide = columns - panel * 3 * N < 3 * N ? (int)(columns - panel * 3 * N) : 3 * N;
            const T *a = (const T *)left_ + k * rows;
            S *out = (S *)to_ + panel * 3 * N;
            int64_t r = from;
#define TILE(n) NAME(tile_of_gradient)(a + r, rows, count, b, out + r * columns, columns, n, wide, k > 0)
            for (; r + TALL <= to; r += TALL) TILE(TALL);
#define REST(n) case n: TILE(n); break;
            switch (to - r) {
                REST(1) REST(2) REST(3)
#if TALL == 8
                REST(4) REST(5) REST(6) REST(7)
#endif
            }
#undef REST
#undef TILE
        }
    }
}

/* Rearrange b, or its transpose, into panels of 3 N columns; missing columns are zero. */
void NAME(pack)(const void *from, void *to, int64_t inner, int64_t columns, int transposed) {
    const T *b = from;
    S *out = to;
    for (int64_t first = 0; first < columns; first += 3 * N)
        for (int64_t k = 0; k < inner; k++)
            for (int64_t j = first; j < first + 3 * N; j++)
                *out++ = j >= columns ? 0 : WIDEN(transposed ? b[j * inner + k] : b[k * columns + j]);
}

void NAME(add)(const void *from, void *to, int64_t count) {
    const T *x = from;
    T *sum = to;
    ROWS(i, count) OUT(sum, i, AT(sum, i) + AT(x, i));
}

/* ---- the LSTM ---- */

/* Normalize rows, or nothing if n has no flags. */
INLINE void NAME(apply)(const struct norm *like, const void *x, void *z, void *mean, void *square, int64_t rows,
                        int64_t width, int32_t type) {
    struct norm call = *like;
    call.rows = rows, call.width = width, call.type = type;
    call.x = x, call.z = z, call.mean = mean, call.square = square;
    norm_forward(&call, 0, rows);
}

/* dx may be x or dz. */
INLINE void NAME(pull_back)(const struct norm *like, const void *x, const void *dz, const void *dsum, void *dx, void *mean,
                            void *square, void *sums, int64_t chunk, int64_t rows, int64_t width, int32_t type) {
    struct norm call = *like;
    S *weight = sums ? (S *)sums + chunk * 2 * width : NULL;
    call.rows = rows, call.width = width, call.type = type;
    call.x = x, call.dz = dz, call.dsum = dsum, call.dx = dx, call.mean = mean, call.square = square;
    norm_backward(&call, 0, rows, weight, weight ? weight + width : NULL);
}

#define STATISTICS_OF(place) (S *)s->mean + (place) * s->entries + at, (S *)s->square + (place) * s->entries + at

void NAME(lstm_forward)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width, rows = end - begin, at = offset + begin;
    T *normed = scratch;                       /* [rows, 4 H] */
    S *read = (S *)scratch + 4 * CHUNK * H;    /* [rows, H] */
    const T *product = (const T *)s->product + at * 4 * H;
    if (s->hidden.flags) {
        NAME(apply)(&s->hidden, product, normed, STATISTICS_OF(0), rows, 4 * H, s->type);
        product = normed;
    }
    const T *part = (const T *)s->part + at * 4 * H;
    T *gates = (T *)s->gates + at * 4 * H;
    S *c = (S *)s->c + begin * H, *before = (S *)s->c_before + at * H;
    for (int64_t r = 0; r < rows; r++, part += 4 * H, product += 4 * H, gates += 4 * H) {
        const T *p = part, *q = product;
        ROWS(j, H) {
            const V i = SIGMOID(AT(p, j) + AT(q, j)), f = SIGMOID(AT(p + H, j) + AT(q + H, j));
            const V g = TANH(AT(p + 2 * H, j) + AT(q + 2 * H, j)), o = SIGMOID(AT(p + 3 * H, j) + AT(q + 3 * H, j));
            OUT(gates, j, i);
            OUT(gates + H, j, f);
            OUT(gates + 2 * H, j, g);
            OUT(gates + 3 * H, j, o);
            const V old = IN(c + r * H, j);
            KEEP(before + r * H, j, old);
            KEEP(c + r * H, j, FMA(f, old, i * g));
        }
    }
    const S *out = c;
    if (s->read.flags) {
        NAME(apply)(&s->read, c, read, STATISTICS_OF(2), rows, H, WIDE);
        out = read;
    }
    gates = (T *)s->gates + at * 4 * H;
    T *h = (T *)s->h + begin * H, *output = (T *)s->output + at * H;
    for (int64_t r = 0; r < rows; r++)
        ROWS(j, H) {
            const V value = AT(gates + (4 * r + 3) * H, j) * TANH(IN(out + r * H, j));
            OUT(h + r * H, j, value);
            OUT(output + r * H, j, value);
        }
    if (s->carried && out != c) memcpy(c, out, sizeof(S) * rows * H);
}

/* h and c of the struct are the gradients of the states after the step, dh of all later steps included, and become those
 * before it, but for the product. */
void NAME(lstm_backward)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width, rows = end - begin, at = offset + begin;
    S *c = scratch, *read = c + CHUNK * H, *dread = read + CHUNK * H, *dc = dread + CHUNK * H;
    const T *gates = (const T *)s->gates + at * 4 * H;
    const S *before = (const S *)s->c_before + at * H;
    T *dpart = (T *)s->dpart + at * 4 * H;
    S *carry = (S *)s->c + begin * H;
    for (int64_t r = 0; r < rows; r++)
        ROWS(j, H) {
            const T *g = gates + 4 * r * H;
            KEEP(c + r * H, j, FMA(AT(g + H, j), IN(before + r * H, j), AT(g, j) * AT(g + 2 * H, j)));
        }
    const S *out = c;
    if (s->read.flags) {
        NAME(apply)(&s->read, c, read, STATISTICS_OF(2), rows, H, WIDE);
        out = read;
    }
    const T *dh = (const T *)s->h + begin * H, *doutput = (const T *)s->doutput + at * H;
    for (int64_t r = 0; r < rows; r++)
        ROWS(j, H) {
            const V o = AT(gates + (4 * r + 3) * H, j), level = TANH(IN(out + r * H, j));
            const V upstream = AT(dh + r * H, j) + AT(doutput + r * H, j);
            OUT(dpart + (4 * r + 3) * H, j, upstream * level * o * (SPLAT(1) - o));
            V d = upstream * o * (SPLAT(1) - level * level);
            if (s->carried || !s->read.flags) d += IN(carry + r * H, j);
            KEEP(dread + r * H, j, d);
        }
    if (s->read.flags) {
        NAME(pull_back)(&s->read, c, dread, s->carried ? NULL : carry, dc, STATISTICS_OF(2), s->dread, begin / CHUNK, rows,
                        H, WIDE);
    } else dc = dread;
    for (int64_t r = 0; r < rows; r++)
        ROWS(j, H) {
            const T *g = gates + 4 * r * H;
            T *d = dpart + 4 * r * H;
            const V i = AT(g, j), f = AT(g + H, j), n = AT(g + 2 * H, j), dc_ = IN(dc + r * H, j);
            OUT(d, j, dc_ * n * i * (SPLAT(1) - i));
            OUT(d + H, j, dc_ * IN(before + r * H, j) * f * (SPLAT(1) - f));
            OUT(d + 2 * H, j, dc_ * i * (SPLAT(1) - n * n));
            KEEP(carry + r * H, j, dc_ * f);
        }
    if (s->hidden.flags)
        NAME(pull_back)(&s->hidden, (const T *)s->product + at * 4 * H, dpart, NULL, (T *)s->dproduct + at * 4 * H,
                        STATISTICS_OF(0), s->dhidden, begin / CHUNK, rows, 4 * H, s->type);
    /* All of dh is that of the product. */
    memset((T *)s->h + begin * H, 0, sizeof(T) * rows * H);
}

/* ---- the GRU ---- */

/* Normalize the products of the gates and of the candidate: [rows, 2 H] and [rows, H] in scratch. */
INLINE void NAME(gru_norms)(const struct scan *s, int64_t at, int64_t rows, T *gates, T *candidate) {
    const int64_t H = s->width;
    const T *product = (const T *)s->product + at * 3 * H;
    for (int64_t r = 0; r < rows; r++) {
        memcpy(gates + r * 2 * H, product + r * 3 * H, sizeof(T) * 2 * H);
        memcpy(candidate + r * H, product + (r * 3 + 2) * H, sizeof(T) * H);
    }
    NAME(apply)(&s->hidden, gates, gates, STATISTICS_OF(0), rows, 2 * H, s->type);
    NAME(apply)(&s->candidate, candidate, candidate, STATISTICS_OF(1), rows, H, s->type);
}

void NAME(gru_forward)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width, rows = end - begin, at = offset + begin;
    T *rz = scratch, *m = rz + 2 * CHUNK * H, *h = (T *)s->h + begin * H, *output = (T *)s->output + at * H;
    NAME(gru_norms)(s, at, rows, rz, m);
    for (int64_t row = 0; row < rows; row++) {
        const T *p = (const T *)s->part + (at + row) * 3 * H, *q = rz + row * 2 * H, *candidate = m + row * H;
        T *gates = (T *)s->gates + (at + row) * 3 * H;
        ROWS(j, H) {
            const V r = SIGMOID(AT(p, j) + AT(q, j)), z = SIGMOID(AT(p + H, j) + AT(q + H, j));
            const V n = TANH(FMA(r, AT(candidate, j), AT(p + 2 * H, j)));
            const V new = FMA(z, AT(h + row * H, j) - n, n);
            OUT(gates, j, r);
            OUT(gates + H, j, z);
            OUT(gates + 2 * H, j, n);
            OUT(h + row * H, j, new);
            OUT(output + row * H, j, new);
        }
    }
}

void NAME(gru_backward)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width, rows = end - begin, at = offset + begin;
    T *rz = scratch, *m = rz + 2 * CHUNK * H, *drz = m + CHUNK * H, *dm = drz + 2 * CHUNK * H;
    T *dh = (T *)s->h + begin * H;
    NAME(gru_norms)(s, at, rows, rz, m);
    for (int64_t row = 0; row < rows; row++) {
        const T *gates = (const T *)s->gates + (at + row) * 3 * H, *before = (const T *)s->h_before + (at + row) * H;
        const T *doutput = (const T *)s->doutput + (at + row) * H;
        T *d = (T *)s->dpart + (at + row) * 3 * H;
        ROWS(j, H) {
            const V r = AT(gates, j), z = AT(gates + H, j), n = AT(gates + 2 * H, j), one = SPLAT(1);
            const V upstream = AT(dh + row * H, j) + AT(doutput, j);
            const V dn = upstream * (one - z) * (one - n * n);
            const V dr = dn * AT(m + row * H, j) * r * (one - r);
            const V dz = upstream * (AT(before, j) - n) * z * (one - z);
            OUT(d, j, dr);
            OUT(d + H, j, dz);
            OUT(d + 2 * H, j, dn);
            OUT(drz + row * 2 * H, j, dr);
            OUT(drz + (row * 2 + 1) * H, j, dz);
            OUT(dm + row * H, j, dn * r);
            OUT(dh + row * H, j, upstream * z);
        }
    }
    /* The products again, where their norms were. */
    const T *product = (const T *)s->product + at * 3 * H;
    for (int64_t r = 0; r < rows; r++) {
        memcpy(rz + r * 2 * H, product + r * 3 * H, sizeof(T) * 2 * H);
        memcpy(m + r * H, product + (r * 3 + 2) * H, sizeof(T) * H);
    }
    NAME(pull_back)(&s->hidden, rz, drz, NULL, drz, STATISTICS_OF(0), s->dhidden, begin / CHUNK, rows, 2 * H, s->type);
    NAME(pull_back)(&s->candidate, m, dm, NULL, dm, STATISTICS_OF(1), s->dcandidate, begin / CHUNK, rows, H, s->type);
    T *dproduct = (T *)s->dproduct + at * 3 * H;
    for (int64_t r = 0; r < rows; r++) {
        memcpy(dproduct + r * 3 * H, drz + r * 2 * H, sizeof(T) * 2 * H);
        memcpy(dproduct + (r * 3 + 2) * H, dm + r * H, sizeof(T) * H);
    }
}

const struct scan_functions NAME(scan) = {
    {NAME(lstm_forward), NAME(gru_forward)},
    {NAME(lstm_backward), NAME(gru_backward)},
    NAME(product),
    NAME(gradient),
    NAME(pack),
    NAME(add),
    3 * N,
    sizeof(T),
    sizeof(S),
};

#undef NAME
#undef T
#undef S
#undef V
#undef N
#undef LOAD
#undef LOAD_PART
#undef STORE
#undef STORE_PART
#undef READ
#undef READ_PART
#undef WRITE
#undef WRITE_PART
#undef FMA
#undef SPLAT
#undef SIGMOID
#undef TANH
#undef WIDEN
#undef WIDE
#undef ROWS
#undef AT
#undef IN
#undef OUT
#undef KEEP
#undef STATISTICS_OF
