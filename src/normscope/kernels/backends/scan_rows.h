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
#define CHOOSE PASTE(choose_, STATISTICS)
#define TRANSPOSE PASTE(transpose_, STATISTICS)

/* A loop over vectors; the last one may be partly filled. */
#define ROWS(i, width) for (int64_t i = 0, left; left = width - i < N ? width - i : N, i < width; i += N)
#define AT(p, i) (MASKS || left < N ? LOAD_PART(p + i, (int)left) : LOAD(p + i))
#define IN(p, i) (MASKS || left < N ? READ_PART(p + i, (int)left) : READ(p + i))
#define OUT(p, i, v) (MASKS || left < N ? STORE_PART(p + i, v, (int)left) : STORE(p + i, v))
#define KEEP(p, i, v) (MASKS || left < N ? WRITE_PART(p + i, v, (int)left) : WRITE(p + i, v))

/* ---- products ---- */

/* out[r, 0:columns] = start[r, 0:columns] + sum over k of a[r, k] b[k, :], with b a panel of 3 N columns of which the
 * first vectors are needed. The order of the sum depends on nothing else, so that a row has the same result in every
 * batch. */
INLINE void NAME(tile)(const T *a, int64_t inner, const S *b, const T *start, int64_t from, T *out, int64_t stride,
                       const int rows, const int vectors, int columns) {
    V sum[TALL][3];
    for (int j = 0; j < vectors; j++) {
        const int left = columns - j * N < N ? columns - j * N : N;
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
            sum[r][j] = !start ? (V){0} : left == N ? LOAD(start + r * from + j * N) : LOAD_PART(start + r * from + j * N, left);
    }
    for (int64_t k = 0; k < inner; k++, b += 3 * N) {
        V columns_[3];
        _Pragma("GCC unroll 3") for (int j = 0; j < vectors; j++) columns_[j] = READ(b + j * N);
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {
            const V x = SPLAT(WIDEN(a[r * inner + k]));
            _Pragma("GCC unroll 3") for (int j = 0; j < vectors; j++) sum[r][j] = FMA(x, columns_[j], sum[r][j]);
        }
    }
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
        for (int j = 0; j < vectors; j++) {
            const int left = columns - j * N;
            if (left >= N) STORE(out + r * stride + j * N, sum[r][j]);
            else STORE_PART(out + r * stride + j * N, sum[r][j], left);
        }
}

void NAME(product)(const struct product *call, int64_t from, int64_t to) {
    const int64_t inner = call->inner, columns = call->columns, rows = call->rows;
    const T *a = call->a;
    for (int64_t panel = from; panel < to; panel++) {
        const S *b = (const S *)call->packed + panel * inner * 3 * N;
        const T *start = call->start ? (const T *)call->start + panel * 3 * N : NULL;
        T *out = (T *)call->out + panel * 3 * N;
        const int wide = columns - panel * 3 * N < 3 * N ? (int)(columns - panel * 3 * N) : 3 * N;
        int64_t r = 0;
#define TILE(n, vectors)                                                                                             \
    NAME(tile)(a + r * inner, inner, b, start ? start + r * call->stride : NULL, call->stride, out + r * columns, columns, \
               n, vectors, wide)
        for (; r + TALL <= rows; r += TALL)
            if (wide > 2 * N) TILE(TALL, 3);
            else if (wide > N) TILE(TALL, 2);
            else TILE(TALL, 1);
#define REST(n) case n: if (wide > 2 * N) TILE(n, 3); else if (wide > N) TILE(n, 2); else TILE(n, 1); break;
        switch (rows - r) {
            REST(1) REST(2) REST(3)
#if TALL == 8
            REST(4) REST(5) REST(6) REST(7)
#endif
        }
#undef REST
#undef TILE
    }
}

/* out[r, 0:columns] (+)= sum over k of a[k, r] b[k, :], with a packed in columns of TALL, and b as above. */
INLINE void NAME(tile_of_gradient)(const S *a, int64_t count, const S *b, S *out, int64_t wide, const int vectors, int rows,
                                   int columns, int add) {
    V sum[TALL][3];
    _Pragma("GCC unroll 8") for (int r = 0; r < TALL; r++)
        _Pragma("GCC unroll 3") for (int j = 0; j < vectors; j++) {
            sum[r][j] = (V){0};
            if (r < rows) __builtin_prefetch(out + r * wide + j * N);
        }
    for (int64_t k = 0; k < count; k++, a += TALL, b += 3 * N) {
        V columns_[3];
        _Pragma("GCC unroll 3") for (int j = 0; j < vectors; j++) columns_[j] = READ(b + j * N);
        _Pragma("GCC unroll 8") for (int r = 0; r < TALL; r++) {
            const V x = SPLAT(a[r]);
            _Pragma("GCC unroll 3") for (int j = 0; j < vectors; j++) sum[r][j] = FMA(x, columns_[j], sum[r][j]);
        }
    }
    _Pragma("GCC unroll 8") for (int r = 0; r < TALL; r++) {
        if (r >= rows) break;
        _Pragma("GCC unroll 3") for (int j = 0; j < vectors; j++) {
            int64_t left = columns - j * N;
            S *to = out + r * wide + j * N;
            left = left < N ? left : N;
            KEEP(to, 0, add ? sum[r][j] + IN(to, 0) : sum[r][j]);
        }
    }
}

void NAME(gradient)(const void *a_, int64_t stride, const void *packed, int64_t count, int64_t columns, void *out_,
                    int64_t stride_out, int64_t from, int64_t to, int add) {
    /* Lines of a are read once: in columns of TALL, each entry of a column behind the other. */
    S tiles[MOST_TALL * MOST_SUMMED];
    for (int64_t block = from; block < to; block += MOST_TALL) {
        const int64_t end = to - block < MOST_TALL ? to : block + MOST_TALL, height = (end - block + TALL - 1) / TALL * TALL;
        if (height > end - block) memset(tiles, 0, sizeof(S) * height * count);
        const T *a = (const T *)a_ + block;
        for (int64_t k = 0; k < count; k++, a += stride)
            for (int64_t r = 0; r < end - block; r += TALL) {
                S *tile = tiles + r * count + k * TALL;
                if (r + TALL <= end - block) for (int i = 0; i < TALL; i++) tile[i] = WIDEN(a[r + i]);
                else for (int i = 0; r + i < end - block; i++) tile[i] = WIDEN(a[r + i]);
            }
        for (int64_t first = 0; first < columns; first += 3 * N) {
            const int wide = columns - first < 3 * N ? (int)(columns - first) : 3 * N;
            const S *b = (const S *)packed + first * count;
            for (int64_t r = block; r < end; r += TALL) {
                const int tall = end - r < TALL ? (int)(end - r) : TALL;
                const S *tile = tiles + (r - block) * count;
                S *out = (S *)out_ + r * stride_out + first;
                if (wide > 2 * N) NAME(tile_of_gradient)(tile, count, b, out, stride_out, 3, tall, wide, add);
                else if (wide > N) NAME(tile_of_gradient)(tile, count, b, out, stride_out, 2, tall, wide, add);
                else NAME(tile_of_gradient)(tile, count, b, out, stride_out, 1, tall, wide, add);
            }
        }
    }
}

/* Rearrange b, or its transpose, into panels of 3 N columns; missing columns are zero. */
void NAME(pack)(const void *from, int64_t stride, void *to, int64_t inner, int64_t columns, int transposed) {
    S *out = to;
    for (int64_t first = 0; first < columns; first += 3 * N, out += inner * 3 * N) {
        const int64_t wide = columns - first < 3 * N ? columns - first : 3 * N;
        const T *b = (const T *)from + (transposed ? first * stride : first);
        if (wide < 3 * N) memset(out, 0, sizeof(S) * inner * 3 * N);
        if (transposed)
            for (int64_t j = 0; j < wide; j += N)
                for (int64_t k = 0; k < inner; k += N) {
                    const int64_t rows = wide - j < N ? wide - j : N, left = inner - k < N ? inner - k : N;
                    V square[N];
                    for (int i = 0; i < N; i++)
                        square[i] = i >= rows ? SPLAT(0)
                                  : left == N ? LOAD(b + (j + i) * stride + k) : LOAD_PART(b + (j + i) * stride + k, (int)left);
                    TRANSPOSE(square);
                    for (int i = 0; i < left; i++) WRITE(out + (k + i) * 3 * N + j, square[i]);
                }
        else
            for (int64_t k = 0; k < inner; k++)
                ROWS(j, wide) KEEP(out + k * 3 * N, j, AT(b + k * stride, j));
    }
}

/* ---- states ---- */

#define ROW_OF(type, field, row) (s->field ? (type *)s->field + (row) * H : NULL)

/* The h or c before an entry of a row. */
INLINE const void *NAME(state)(const void *after, const void *initial, const void *start, int64_t index, int64_t bytes) {
    return index >= 0 ? (const char *)after + index * bytes
         : index == FRESH ? start : (const char *)initial + (-1 - index) * bytes;
}
INLINE const T *NAME(old_h)(const struct scan *s, int64_t entry) {
    return NAME(state)(s->output, s->initial_h, s->start_h, s->before[entry], s->width * (int64_t)sizeof(T));
}
INLINE const S *NAME(old_c)(const struct scan *s, int64_t entry) {
    return NAME(state)(s->c, s->initial_c, s->start_c, s->before[entry], s->width * (int64_t)sizeof(S));
}

/* scratch: T [end - begin, H]. */
void NAME(gather)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width;
    T *to = scratch;
    for (int64_t r = begin; r < end; r++, to += H) {
        const T *h = NAME(old_h)(s, offset + r), *factor = ROW_OF(const T, dropout, r);
        if (factor) ROWS(j, H) OUT(to, j, AT(h, j) * AT(factor, j));
        else memcpy(to, h, sizeof(T) * H);
    }
}

/* scratch: T [B, H]. */
void NAME(settle)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width;
    for (int64_t r = begin; r < end; r++) {
        T *dh = (T *)s->dh + r * H, *dstart_h = ROW_OF(T, dstart_h, r);
        S *dc = ROW_OF(S, dc, r), *dstart_c = ROW_OF(S, dstart_c, r);
        if (s->dropout) {
            const T *factor = (const T *)s->dropout + r * H, *d = (const T *)scratch + r * H;
            ROWS(j, H) OUT(dh, j, FMA(AT(d, j), AT(factor, j), AT(dh, j)));
        }
        if (s->before[offset + r] != FRESH) continue;
        if (dstart_h) ROWS(j, H) OUT(dstart_h, j, AT(dstart_h, j) + AT(dh, j));
        memset(dh, 0, sizeof(T) * H);
        if (!dc) continue;
        if (dstart_c) ROWS(j, H) KEEP(dstart_c, j, IN(dstart_c, j) + IN(dc, j));
        memset(dc, 0, sizeof(S) * H);
    }
}

/* What zoneout leaves of a new value beside the old one. */
#define HELD(mask, load, p, old, new)                                                   \
    (mask ? CHOOSE(load != SPLAT(0), old, new) : (p) ? FMA(SPLAT((S)(p)), (old) - (new), new) : (new))
/* The shares of a gradient that go to the old value, and to the new one. */
#define OLD_SHARE(mask, load, p, d) (mask ? CHOOSE(load != SPLAT(0), d, SPLAT(0)) : (d) * SPLAT((S)(p)))
#define NEW_SHARE(mask, load, p, d) (mask ? CHOOSE(load != SPLAT(0), SPLAT(0), d) : (p) ? (d) * SPLAT((S)(1 - (p))) : (d))

/* ---- norms ---- */

INLINE void NAME(apply)(const struct norm *like, const void *x, void *z, int64_t rows, int64_t width, int32_t type,
                        S *mean, S *square) {
    struct norm call = *like;
    call.rows = rows, call.width = width, call.type = type;
    call.x = x, call.z = z, call.mean = mean, call.square = square;
    norm_forward(&call, 0, rows);
}

/* dx may be x or dz. */
INLINE void NAME(pull_back)(const struct norm *like, const void *x, const void *dz, const void *dsum, void *dx,
                            const S *mean, const S *square, S *dweight, int64_t rows, int64_t width, int32_t type) {
    struct norm call = *like;
    call.rows = rows, call.width = width, call.type = type;
    call.x = x, call.dz = dz, call.dsum = dsum, call.dx = dx, call.mean = (void *)mean, call.square = (void *)square;
    norm_backward(&call, 0, rows, dweight, dweight ? dweight + width : NULL);
}

/* Means and mean squares of the rows of a chunk. */
struct NAME(moments) {
    S mean[GROUPS][CHUNK], square[GROUPS][CHUNK];
};

/* Normalize rows of products, group by group, to z; return what was normalized, or x itself if there is no norm. */
INLINE const T *NAME(normalized)(const struct scan *s, int first, const T *x, T *z, int64_t rows, int64_t G,
                                 struct NAME(moments) *m) {
    const struct norm *n = s->norms + first;
    if (!n->flags) return x;
    if (s->groups == 1) NAME(apply)(n, x, z, rows, G, s->type, m->mean[0], m->square[0]);
    else
        for (int64_t r = 0; r < rows; r++)
            for (int64_t g = 0, at = r * G; g < s->groups; at += s->widths[g++])
                NAME(apply)(n + g, x + at, z + at, 1, s->widths[g], s->type, &m->mean[g][r], &m->square[g][r]);
    return z;
}

/* The gradient of what was normalized from that of the result, dz; dx may be x. */
INLINE void NAME(denormalized)(const struct scan *s, int first, const T *x, const T *dz, T *dx, int64_t chunk, int64_t rows,
                               int64_t G, const struct NAME(moments) *m) {
    const struct norm *n = s->norms + first;
    if (!n->flags) {
        memcpy(dx, dz, sizeof(T) * rows * G);
        return;
    }
    const int64_t calls = s->groups == 1 ? 1 : rows, each = s->groups == 1 ? rows : 1;
    for (int64_t r = 0; r < calls; r++)
        for (int64_t g = 0, at = r * G; g < s->groups; at += s->widths[g++]) {
            const int64_t width = s->widths[g];
            S *sums = s->dnorms[first + g] ? (S *)s->dnorms[first + g] + chunk * 2 * width : NULL;
            NAME(pull_back)(n + g, x + at, dz + at, NULL, dx + at, &m->mean[g][r], &m->square[g][r], sums, each, width,
                            s->type);
        }
}

/* What the nonlinearities of a chunk are given: rows of the parts of input and state, normalized; the first is NULL if
 * their sum is the second. */
INLINE const T *NAME(inputs)(const struct scan *s, int64_t begin, int64_t at, int64_t rows, int64_t G, T *x, T *y,
                             const T **input, struct NAME(moments) *of_input, struct NAME(moments) *of_product) {
    const T *product = (const T *)s->product + (s->keeps ? at : begin) * G;
    *input = NULL;
    if (s->summed) return NAME(normalized)(s, 0, product, y, rows, G, of_input);
    *input = NAME(normalized)(s, 0, (const T *)s->part + at * G, x, rows, G, of_input);
    return NAME(normalized)(s, HIDDEN, product, y, rows, G, of_product);
}

/* The gradients of both products from those of what the nonlinearities were given. */
INLINE void NAME(outputs)(const struct scan *s, int64_t at, int64_t rows, int64_t G, int64_t chunk, const T *dinput,
                          const T *dhidden, const struct NAME(moments) *of_input, const struct NAME(moments) *of_product) {
    const T *product = (const T *)s->product + at * G;
    T *dproduct = (T *)s->dproduct + at * G, *dpart = (T *)s->dpart + at * G;
    if (s->summed) NAME(denormalized)(s, 0, product, dhidden, dproduct, chunk, rows, G, of_input);
    else {
        NAME(denormalized)(s, 0, (const T *)s->part + at * G, dinput, dpart, chunk, rows, G, of_input);
        if (dproduct != dpart) NAME(denormalized)(s, HIDDEN, product, dhidden, dproduct, chunk, rows, G, of_product);
    }
}

/* What a nonlinearity is given; the first k entries of the row precede it. */
#define GIVEN(k) (p ? AT(p + (k), j) + AT(q + (k), j) : AT(q + (k), j))

/* ---- the LSTM ---- */

void NAME(lstm_forward)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width, rows = end - begin, at = offset + begin, part = CHUNK * H;
    S *c = (S *)scratch + 8 * part, *open = c + part, *read = open + part; /* [rows, H] each */
    struct NAME(moments) of_input, of_product;
    const T *p, *q = NAME(inputs)(s, begin, at, rows, 4 * H, scratch, (T *)((S *)scratch + 4 * part), &p,
                                  &of_input, &of_product);
    for (int64_t r = 0; r < rows; r++, p = p ? p + 4 * H : NULL, q += 4 * H) {
        const S *old = NAME(old_c)(s, at + r);
        ROWS(j, H) {
            const V i = SIGMOID(GIVEN(0)), f = SIGMOID(GIVEN(H)), g = TANH(GIVEN(2 * H));
            KEEP(open + r * H, j, SIGMOID(GIVEN(3 * H)));
            KEEP(c + r * H, j, FMA(f, IN(old, j), i * g));
        }
    }
    const S *out = c;
    if (s->norms[READ_OUT].flags) {
        NAME(apply)(&s->norms[READ_OUT], c, read, rows, H, WIDE, of_input.mean[0], of_input.square[0]);
        out = read;
    }
    for (int64_t r = 0; r < rows; r++) {
        const T *old_h = NAME(old_h)(s, at + r), *held_h = ROW_OF(const T, held_h, at + r);
        const S *old_c = NAME(old_c)(s, at + r), *held_c = ROW_OF(const S, held_c, at + r);
        const S *level = out + r * H, *new_c = (s->carried ? out : c) + r * H, *o = open + r * H;
        T *to_h = (T *)s->output + (at + r) * H;
        S *to_c = (S *)s->c + (at + r) * H;
        ROWS(j, H) {
            const V h = IN(o, j) * TANH(IN(level, j)), new = IN(new_c, j);
            OUT(to_h, j, HELD(held_h, AT(held_h, j), s->zoneout[0], AT(old_h, j), h));
            KEEP(to_c, j, HELD(held_c, IN(held_c, j), s->zoneout[1], IN(old_c, j), new));
        }
    }
}

void NAME(lstm_backward)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width, rows = end - begin, at = offset + begin, part = CHUNK * H;
    S *x = scratch, *y = x + 4 * part, *gates = y + 4 * part, *c = gates + 4 * part, *read = c + part;
    struct NAME(moments) of_input, of_product, of_c;
    const T *p, *q = NAME(inputs)(s, begin, at, rows, 4 * H, (T *)x, (T *)y, &p, &of_input, &of_product);
    for (int64_t r = 0; r < rows; r++, p = p ? p + 4 * H : NULL, q += 4 * H) {
        const S *old = NAME(old_c)(s, at + r);
        S *to = gates + r * 4 * H;
        ROWS(j, H) {
            const V i = SIGMOID(GIVEN(0)), f = SIGMOID(GIVEN(H)), g = TANH(GIVEN(2 * H));
            KEEP(to, j, i);
            KEEP(to + H, j, f);
            KEEP(to + 2 * H, j, g);
            KEEP(to + 3 * H, j, SIGMOID(GIVEN(3 * H)));
            KEEP(c + r * H, j, FMA(f, IN(old, j), i * g));
        }
    }
    const S *out = c;
    if (s->norms[READ_OUT].flags) {
        NAME(apply)(&s->norms[READ_OUT], c, read, rows, H, WIDE, of_c.mean[0], of_c.square[0]);
        out = read;
    }
    /* The normalized parts are not needed any more. */
    T *dgates = (T *)x;
    S *dread = y, *dsum = dread + part, *dnew = dsum + part;
    const int through = s->carried || !s->norms[READ_OUT].flags;
    for (int64_t r = 0; r < rows; r++) {
        const S *o = gates + (4 * r + 3) * H, *level_ = out + r * H, *held_c = ROW_OF(const S, held_c, at + r);
        const T *held_h = ROW_OF(const T, held_h, at + r), *doutput = (const T *)s->doutput + (at + r) * H;
        const S *carry = (S *)s->dc + (begin + r) * H;
        T *dh = (T *)s->dh + (begin + r) * H, *d_o = dgates + (4 * r + 3) * H;
        ROWS(j, H) {
            const V sum = AT(dh, j) + AT(doutput, j), open = IN(o, j), level = TANH(IN(level_, j)), later = IN(carry, j);
            const V upstream = NEW_SHARE(held_h, AT(held_h, j), s->zoneout[0], sum);
            OUT(dh, j, OLD_SHARE(held_h, AT(held_h, j), s->zoneout[0], sum));
            OUT(d_o, j, upstream * level * open * (SPLAT(1) - open));
            const V d = upstream * open * (SPLAT(1) - level * level);
            const V kept = NEW_SHARE(held_c, IN(held_c, j), s->zoneout[1], later);
            KEEP(dread + r * H, j, through ? d + kept : d);
            KEEP(dsum + r * H, j, kept);
        }
    }
    if (s->norms[READ_OUT].flags) {
        S *sums = s->dnorms[READ_OUT] ? (S *)s->dnorms[READ_OUT] + begin / CHUNK * 2 * H : NULL;
        NAME(pull_back)(&s->norms[READ_OUT], c, dread, s->carried ? NULL : dsum, dnew, of_c.mean[0], of_c.square[0], sums, rows,
                        H, WIDE);
    } else dnew = dread;
    for (int64_t r = 0; r < rows; r++) {
        const S *gate = gates + 4 * r * H, *old = NAME(old_c)(s, at + r), *held_c = ROW_OF(const S, held_c, at + r);
        S *carry = (S *)s->dc + (begin + r) * H;
        T *d = dgates + 4 * r * H;
        ROWS(j, H) {
            const V i = IN(gate, j), f = IN(gate + H, j), n = IN(gate + 2 * H, j), dc = IN(dnew + r * H, j);
            OUT(d, j, dc * n * i * (SPLAT(1) - i));
            OUT(d + H, j, dc * IN(old, j) * f * (SPLAT(1) - f));
            OUT(d + 2 * H, j, dc * i * (SPLAT(1) - n * n));
            KEEP(carry, j, FMA(dc, f, OLD_SHARE(held_c, IN(held_c, j), s->zoneout[1], IN(carry, j))));
        }
    }
    NAME(outputs)(s, at, rows, 4 * H, begin / CHUNK, dgates, dgates, &of_input, &of_product);
}

/* ---- the GRU ---- */

void NAME(gru_forward)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width, rows = end - begin, at = offset + begin;
    struct NAME(moments) of_input, of_product;
    const T *p, *q = NAME(inputs)(s, begin, at, rows, 3 * H, scratch, (T *)((S *)scratch + 4 * CHUNK * H), &p, &of_input,
                                  &of_product);
    for (int64_t row = 0; row < rows; row++, p += 3 * H, q += 3 * H) {
        const T *old_h = NAME(old_h)(s, at + row), *held_h = ROW_OF(const T, held_h, at + row);
        T *to = (T *)s->output + (at + row) * H;
        ROWS(j, H) {
            const V r = SIGMOID(GIVEN(0)), z = SIGMOID(GIVEN(H)), old = AT(old_h, j);
            const V n = TANH(FMA(r, AT(q + 2 * H, j), AT(p + 2 * H, j)));
            const V new = FMA(z, old - n, n);
            OUT(to, j, HELD(held_h, AT(held_h, j), s->zoneout[0], old, new));
        }
    }
}

void NAME(gru_backward)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width, rows = end - begin, at = offset + begin;
    T *x = scratch, *y = (T *)((S *)scratch + 4 * CHUNK * H), *dinput = x, *dhidden = y;
    struct NAME(moments) of_input, of_product;
    const T *p, *q = NAME(inputs)(s, begin, at, rows, 3 * H, x, y, &p, &of_input, &of_product);
    for (int64_t row = 0; row < rows; row++, p += 3 * H, q += 3 * H, x += 3 * H, y += 3 * H) {
        const T *old_h = NAME(old_h)(s, at + row), *held_h = ROW_OF(const T, held_h, at + row);
        const T *doutput = (const T *)s->doutput + (at + row) * H;
        T *dh = (T *)s->dh + (begin + row) * H;
        ROWS(j, H) {
            const V r = SIGMOID(GIVEN(0)), z = SIGMOID(GIVEN(H)), m = AT(q + 2 * H, j), one = SPLAT(1);
            const V n = TANH(FMA(r, m, AT(p + 2 * H, j))), sum = AT(dh, j) + AT(doutput, j);
            const V upstream = NEW_SHARE(held_h, AT(held_h, j), s->zoneout[0], sum);
            const V dn = upstream * (one - z) * (one - n * n), dr = dn * m * r * (one - r);
            const V dz = upstream * (AT(old_h, j) - n) * z * (one - z);
            OUT(dh, j, FMA(upstream, z, OLD_SHARE(held_h, AT(held_h, j), s->zoneout[0], sum)));
            /* The normalized parts are not needed any more. */
            OUT(x, j, dr);
            OUT(x + H, j, dz);
            OUT(x + 2 * H, j, dn);
            OUT(y, j, dr);
            OUT(y + H, j, dz);
            OUT(y + 2 * H, j, dn * r);
        }
    }
    NAME(outputs)(s, at, rows, 3 * H, begin / CHUNK, dinput, dhidden, &of_input, &of_product);
}

/* ---- the RNN ---- */

void NAME(rnn_forward)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width, rows = end - begin, at = offset + begin;
    struct NAME(moments) of_input, of_product;
    const T *p, *q = NAME(inputs)(s, begin, at, rows, H, scratch, (T *)((S *)scratch + CHUNK * H), &p, &of_input, &of_product);
    for (int64_t r = 0; r < rows; r++, p = p ? p + H : NULL, q += H) {
        const T *old_h = NAME(old_h)(s, at + r), *held_h = ROW_OF(const T, held_h, at + r);
        T *to = (T *)s->output + (at + r) * H;
        ROWS(j, H) {
            const V a = GIVEN(0), new = s->relu ? CHOOSE(a < SPLAT(0), SPLAT(0), a) : TANH(a);
            OUT(to, j, HELD(held_h, AT(held_h, j), s->zoneout[0], AT(old_h, j), new));
        }
    }
}

void NAME(rnn_backward)(const struct scan *s, int64_t offset, int64_t begin, int64_t end, void *scratch) {
    const int64_t H = s->width, rows = end - begin, at = offset + begin;
    T *x = scratch, *y = (T *)((S *)scratch + CHUNK * H), *d = y;
    struct NAME(moments) of_input, of_product;
    const T *p, *q = NAME(inputs)(s, begin, at, rows, H, x, y, &p, &of_input, &of_product);
    for (int64_t r = 0; r < rows; r++, p = p ? p + H : NULL, q += H, y += H) {
        const T *held_h = ROW_OF(const T, held_h, at + r), *doutput = (const T *)s->doutput + (at + r) * H;
        T *dh = (T *)s->dh + (begin + r) * H;
        ROWS(j, H) {
            const V a = GIVEN(0), sum = AT(dh, j) + AT(doutput, j), h = TANH(a);
            const V upstream = NEW_SHARE(held_h, AT(held_h, j), s->zoneout[0], sum);
            OUT(dh, j, OLD_SHARE(held_h, AT(held_h, j), s->zoneout[0], sum));
            OUT(y, j, s->relu ? CHOOSE(a > SPLAT(0), upstream, SPLAT(0)) : upstream * (SPLAT(1) - h * h));
        }
    }
    NAME(outputs)(s, at, rows, H, begin / CHUNK, d, d, &of_input, &of_product);
}

const struct scan_functions NAME(scan) = {
    {NAME(lstm_forward), NAME(gru_forward), NAME(rnn_forward)},
    {NAME(lstm_backward), NAME(gru_backward), NAME(rnn_backward)},
    NAME(gather),
    NAME(settle),
    NAME(product),
    NAME(gradient),
    NAME(pack),
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
#undef CHOOSE
#undef TRANSPOSE
#undef ROWS
#undef AT
#undef IN
#undef OUT
#undef KEEP
#undef ROW_OF
#undef HELD
#undef OLD_SHARE
#undef NEW_SHARE
#undef GIVEN
