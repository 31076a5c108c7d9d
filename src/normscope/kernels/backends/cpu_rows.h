/* The kernels for one storage type. Included once for each, with TYPE: f32, f64, bf16 or f16; STATISTICS: f32 or f64;
 * and EXACT: 1 if the rounding error of a mean is visible at the precision of the stored values.
 *
 * A loop over a row processes whole vectors, then the remainder. Sums are accumulated in four vectors: they depend only
 * on the row and its width, not on other rows. */

#define NAME(x) PASTE4(normscope_, x, TYPE, ISA)
#define T PASTE(stored_, TYPE)
#define S PASTE(stored_, STATISTICS)
#define V STATISTICS
#define N PASTE(lanes_, STATISTICS)
#define LOAD PASTE(load_, TYPE)
#define LOAD2 PASTE(load2_, TYPE)
#define ADD2 PASTE(add2_, TYPE)
#define LOAD_PART PASTE3(load_, TYPE, _part)
#define STORE PASTE(store_, TYPE)
#define STORE2 PASTE(store2_, TYPE)
#define STORE_PART PASTE3(store_, TYPE, _part)
#define READ PASTE(load_, STATISTICS)
#define READ_PART PASTE3(load_, STATISTICS, _part)
#define WRITE PASTE(store_, STATISTICS)
#define WRITE_PART PASTE3(store_, STATISTICS, _part)
#define FMA PASTE(fma_, STATISTICS)
#define LESS PASTE(less_, STATISTICS)
#define SPLAT(value) ((V){0} + (value))
#define FIRST PASTE(first_, STATISTICS)
#define TOTAL PASTE(total_, STATISTICS)
#define ROOT_OF PASTE(root_, STATISTICS)
#define LIMIT PASTE(MOST_, STATISTICS)
#define DOWN PASTE(DOWN_, STATISTICS)
#define ZERO4 {{0}, {0}, {0}, {0}}
#define SUM4(v) TOTAL((v[0] + v[1]) + (v[2] + v[3]))
/* Sums are accumulated over eight iterations before they are added up, so that one large entry absorbs few others. */
#define STOP (i + (width - i < 32 * N ? (width - i) / (4 * N) * (4 * N) : 32 * N))
#define KEEP(total, part) total[0] += part[0], total[1] += part[1], total[2] += part[2], total[3] += part[3];

INLINE S NAME(gather)(const T *x, int64_t width) {
    V total[4] = ZERO4;
    int64_t i = 0;
    while (i + 4 * N <= width) {
        V part[4] = ZERO4;
        for (const int64_t stop = STOP; i < stop; i += 4 * N) {
            ADD2(x + i, &part[0], &part[1]);
            ADD2(x + i + 2 * N, &part[2], &part[3]);
        }
        KEEP(total, part)
    }
    for (; i + N <= width; i += N) total[0] += LOAD(x + i);
    if (i < width) total[1] += LOAD_PART(x + i, (int)(width - i));
    return SUM4(total);
}

/* Add the residual, and round the sum to the storage type. */
INLINE void NAME(join)(const T *x, const T *residual, T *sum, int64_t width) {
    int64_t i = 0;
    for (; i + N <= width; i += N) STORE(sum + i, LOAD(x + i) + LOAD(residual + i));
    if (i < width) {
        int left = (int)(width - i);
        STORE_PART(sum + i, LOAD_PART(x + i, left) + LOAD_PART(residual + i, left), left);
    }
}

/* Sum c^2 with c = x - mean, and prefetch the next row. */
INLINE S NAME(spread)(const T *x, const T *next, int64_t width, S mean) {
    V total[4] = ZERO4, v, w;
    int64_t i = 0;
#define TAKE(sum, value) \
    v = (value) - mean;  \
    sum = FMA(v, v, sum);
    while (i + 4 * N <= width) {
        V part[4] = ZERO4;
        for (const int64_t stop = STOP; i < stop; i += 4 * N) {
            for (int line = 0; line < 4 * N * (int)sizeof(T); line += 64) __builtin_prefetch((char *)(next + i) + line);
            LOAD2(x + i, &v, &w);
            TAKE(part[0], v)
            TAKE(part[1], w)
            LOAD2(x + i + 2 * N, &v, &w);
            TAKE(part[2], v)
            TAKE(part[3], w)
        }
        KEEP(total, part)
    }
    for (; i + N <= width; i += N) { TAKE(total[0], LOAD(x + i)) }
    if (i < width) {
        int left = (int)(width - i);
        v = FIRST(LOAD_PART(x + i, left) - mean, left);
        total[1] = FMA(v, v, total[1]);
    }
#undef TAKE
    return SUM4(total);
}

/* z = v or w v + b, with v = y or C (1 - k y) y. */
INLINE V NAME(value)(V x, S mean, S inverse, S scale, S slope, int phi) {
    /* Not x / d - mean / d, which is one operation less: a constant row would give the rounding error of mean / d. */
    V y = (x - mean) * inverse;
    return phi ? y * LESS(SPLAT(scale), y, SPLAT(slope)) : y;
}

INLINE void NAME(emit)(const T *x, T *z, const S *weight, const S *bias, int64_t width, S mean, S inverse, S scale,
                       S slope, int phi, int affine, int around) {
    int64_t i = 0;
#define EMIT(name, load, read, at, ...)                                                           \
    V name = NAME(value)(load(x + (at)__VA_ARGS__), mean, inverse, scale, slope, phi);            \
    if (affine && bias) name = FMA(name, read(weight + (at)__VA_ARGS__), read(bias + (at)__VA_ARGS__)); \
    else if (affine) name *= read(weight + (at)__VA_ARGS__);
    for (; i + 2 * N <= width; i += 2 * N) {
        EMIT(a, LOAD, READ, i)
        EMIT(b, LOAD, READ, i + N)
        STORE2(z + i, a, b, around);
    }
    for (; i < width; i += N) {
        int left = width - i < N ? (int)(width - i) : N;
        EMIT(a, LOAD_PART, READ_PART, i, , left)
        STORE_PART(z + i, a, left);
    }
#undef EMIT
}

/* Multiply a row by DOWN. */
SELDOM void NAME(shrink)(const T *x, T *to, int64_t width) {
    for (int64_t i = 0; i < width; i += N) {
        int left = width - i < N ? (int)(width - i) : N;
        STORE_PART(to + i, LOAD_PART(x + i, left) * DOWN, left);
    }
}

/* 1 / d, and kappa d (formula.py): the gradient is (u - mean of u - kappa d c sum(u c)) / d. With a negative square,
 * those of the row times DOWN. */
INLINE S NAME(inverse)(const struct norm *n, S square, S *kappa) {
    const S width = (S)n->width;
    S inverse = 1, deviation, eps = (S)n->eps;
    *kappa = 0;
    if (square < 0) {
        square = -square;
        eps *= (n->flags & DIVISOR) == ROOT ? DOWN * DOWN : DOWN;
    }
    switch (n->flags & DIVISOR) {
    case ROOT:
        inverse = 1 / ROOT_OF(square + eps);
        *kappa = inverse * inverse / width;
        break;
    case RELEASED:
        deviation = ROOT_OF(square * (width / (width - 1)));
        inverse = 1 / (deviation + eps);
        *kappa = deviation == 0 ? 0 : inverse / (deviation * (width - 1));
        break;
    case LENGTH:
        deviation = ROOT_OF(square * width);
        inverse = 1 / (deviation < eps ? eps : deviation);
        *kappa = deviation < eps || deviation == 0 ? 0 : inverse * inverse;
        break;
    }
    return inverse;
}

/* Compute a row again whose sum of squares is too large: if only its mean was out of range, with another mean, and
 * otherwise as the row times DOWN, which takes the place of the result first. The square of the latter is stored with a
 * minus sign. A row with an infinite entry or a NaN keeps what it has. */
SELDOM void NAME(forward_far)(const struct norm *n, int64_t row) {
    const int64_t width = n->width;
    const T *x = (const T *)(n->residual ? n->sum : n->x) + row * width;
    T *z = (T *)n->z + row * width;
    S low = 0, mean = 0, sum, kappa, square;
    if (n->width * n->rows * (int64_t)sizeof(T) >= normscope_around) FENCE
    NAME(shrink)(x, z, width);
    if (n->flags & CENTER) low = NAME(gather)(z, width) / (S)width, mean = low / DOWN;
    sum = NAME(spread)(x, x, width, mean);
    square = sum / (S)width;
    if (sum <= LIMIT) low = mean;
    else x = z, square = -NAME(spread)(z, z, width, low) / (S)width;
    if (square - square == 0) {
        if (n->flags & CENTER) ((S *)n->mean)[row] = mean;
        ((S *)n->square)[row] = square;
    } else {
        x = (const T *)(n->residual ? n->sum : n->x) + row * width;
        low = n->flags & CENTER ? ((S *)n->mean)[row] : 0;
        square = ((S *)n->square)[row];
    }
    const S inverse = NAME(inverse)(n, square, &kappa);
    NAME(emit)(x, z, n->weight, n->bias, width, low, inverse, (S)n->scale, (S)(n->scale * n->k), n->flags & PHI,
               n->weight != NULL, 0);
}

void NAME(forward)(const struct norm *n, int64_t begin, int64_t end) {
    const int64_t width = n->width, block = BLOCK(width);
    const int around = AROUND(n, n->z);
    const S *weight = n->weight, *bias = n->bias;
    const S scale = (S)n->scale, slope = (S)(n->scale * n->k);
    const int center = n->flags & CENTER;
    const S most = LIMIT / (S)width;
    S mean[MOST], inverse[MOST];
    for (int64_t row = begin; row < end; row += block) {
        const int64_t rows = end - row < block ? end - row : block;
        const T *x = (const T *)n->x + row * width, *next = row + 2 * block <= end ? x + block * width : x;
        T *z = (T *)n->z + row * width;
        S together = 0;
        if (n->residual) {
            T *sum = (T *)n->sum + row * width;
            NAME(join)(x, (const T *)n->residual + row * width, sum, rows * width);
            x = sum;
        }
        for (int64_t r = 0; r < rows; r++) mean[r] = center ? NAME(gather)(x + r * width, width) / (S)width : 0;
        for (int64_t r = 0; r < rows; r++) {
            S kappa, square = NAME(spread)(x + r * width, next + r * width, width, mean[r]) / (S)width;
            if (center) ((S *)n->mean)[row + r] = mean[r];
            ((S *)n->square)[row + r] = square;
            together += square;
            inverse[r] = NAME(inverse)(n, square, &kappa);
        }
#define EMIT(phi, affine)                                                                                          \
    for (int64_t r = 0; r < rows; r++)                                                                             \
        NAME(emit)(x + r * width, z + r * width, weight, bias, width, mean[r], inverse[r], scale, slope, phi, affine, \
                   around);                                                                                        \
    break;
        switch ((n->flags & PHI ? 1 : 0) | (weight ? 2 : 0)) {
        case 0: EMIT(0, 0)
        case 1: EMIT(1, 0)
        case 2: EMIT(0, 1)
        case 3: EMIT(1, 1)
        }
#undef EMIT
        if (__builtin_expect(!(together <= most) && n->flags & DIVISOR, 0))
            for (int64_t r = row; r < row + rows; r++)
                if (!(((S *)n->square)[r] <= most)) NAME(forward_far)(n, r);
    }
    if (around) FENCE
}

/* u = dz w, times C (1 - k y) with phi, where slope is C k / d. */
INLINE V NAME(upstream)(V dz, V c, S scale, S slope, int phi) {
    return phi ? dz * LESS(SPLAT(scale), c, SPLAT(slope)) : dz;
}

/* Sum u, u c and c. The last is zero except for the rounding error of the mean, which matters if terms cancel. */
INLINE void NAME(project)(const T *dz, const T *x, const S *weight, int64_t width, S mean, S scale, S slope, int phi,
                          S *first, S *second, S *third) {
    V one[4] = ZERO4, two[4] = ZERO4, three[4] = ZERO4, c, u, v, w, a, b;
    int64_t i = 0;
#define TAKE(one, two, three, gradient, value)               \
    c = (value) - mean;                                      \
    u = NAME(upstream)(gradient, c, scale, slope, phi);      \
    one += u;                                                \
    two = FMA(u, c, two);                                    \
    if (EXACT) three += c;
#define TAKE2(j, at)                                                 \
    if (weight) {                                                    \
        a = LOAD(dz + at) * READ(weight + at);                       \
        b = LOAD(dz + at + N) * READ(weight + at + N);               \
        v = LOAD(x + at);                                            \
        w = LOAD(x + at + N);                                        \
    } else {                                                         \
        LOAD2(dz + at, &a, &b);                                      \
        LOAD2(x + at, &v, &w);                                       \
    }                                                                \
    TAKE(u_part[j], uc_part[j], three[j], a, v)                      \
    TAKE(u_part[j + 1], uc_part[j + 1], three[j + 1], b, w)
    while (i + 4 * N <= width) {
        V u_part[4] = ZERO4, uc_part[4] = ZERO4;
        for (const int64_t stop = STOP; i < stop; i += 4 * N) {
            TAKE2(0, i)
            TAKE2(2, i + 2 * N)
        }
        KEEP(one, u_part)
        KEEP(two, uc_part)
    }
    for (; i < width; i += N) {
        int left = width - i < N ? (int)(width - i) : N;
        a = LOAD_PART(dz + i, left);
        if (weight) a *= READ_PART(weight + i, left);
        v = LOAD_PART(x + i, left);
        c = v - mean;
        u = NAME(upstream)(a, c, scale, slope, phi);
        one[0] += u;
        two[0] = FMA(u, c, two[0]);
        if (EXACT) three[0] += FIRST(c, left);
    }
#undef TAKE
#undef TAKE2
    *first = SUM4(one);
    *second = SUM4(two);
    *third = EXACT ? SUM4(three) : 0;
}

/* dx = (u - shift - pull c) back (+ dsum), where back is 1 / d; dw += dz v and db += dz if they are needed. The difference is computed first:
 * terms that cancel must have equal rounding errors. */
INLINE void NAME(pull)(const T *dz, const T *x, const T *dsum, T *dx, const S *weight, S *dweight, S *dbias,
                       int64_t ahead, int64_t width, S mean, S inverse, S back, S shift, S pull, S scale, S slope,
                       int phi, int affine, int around) {
    int64_t i = 0;
#define PULL(name, load, read, write, at, ...)                                                              \
    V d##name = load(dz + (at)__VA_ARGS__), c##name = load(x + (at)__VA_ARGS__) - mean;                     \
    V name = NAME(upstream)(d##name, c##name, scale, slope, phi);                                           \
    if (affine && dweight) {                                                                                \
        V sum##name = read(dweight + (at)__VA_ARGS__);                                                      \
        write(dweight + (at), FMA(name, c##name * inverse, sum##name) __VA_ARGS__);                         \
        write(dbias + (at), read(dbias + (at)__VA_ARGS__) + d##name __VA_ARGS__);                           \
    }                                                                                                       \
    if (affine) name *= read(weight + (at)__VA_ARGS__);                                                     \
    name = LESS(name - shift, c##name, SPLAT(pull)) * back;                                                 \
    if (dsum) name += load(dsum + (at)__VA_ARGS__);
    for (; i + 2 * N <= width; i += 2 * N) {
        /* Only for half precision, whose conversion takes time; it slows floats down, by a quarter at width 256. */
        if (sizeof(T) == 2) {
            __builtin_prefetch(dz + ahead + i);
            __builtin_prefetch(x + ahead + i);
        }
        PULL(a, LOAD, READ, WRITE, i)
        PULL(b, LOAD, READ, WRITE, i + N)
        STORE2(dx + i, a, b, around);
    }
    for (; i < width; i += N) {
        int left = width - i < N ? (int)(width - i) : N;
        PULL(a, LOAD_PART, READ_PART, WRITE_PART, i, , left)
        STORE_PART(dx + i, a, left);
    }
#undef PULL
}

/* Backward pass without the input. Sum u; then dx = (u - shift) / d (+ dsum), db += dz. */
INLINE S NAME(sum)(const T *dz, const S *weight, int64_t width) {
    if (!weight) return NAME(gather)(dz, width);
    V part[2] = {{0}, {0}};
    int64_t i = 0;
    for (; i + N <= width; i += N) part[0] = FMA(LOAD(dz + i), READ(weight + i), part[0]);
    if (i < width) part[1] = LOAD_PART(dz + i, (int)(width - i)) * READ_PART(weight + i, (int)(width - i));
    return TOTAL(part[0] + part[1]);
}

INLINE void NAME(scale)(const T *dz, const T *dsum, T *dx, const S *weight, S *dbias, int64_t width, S inverse,
                        S shift, int plain, int around) {
    int64_t i = 0;
    if (plain)
        for (; i + 2 * N <= width; i += 2 * N) {
            V a = (LOAD(dz + i) - shift) * inverse, b = (LOAD(dz + i + N) - shift) * inverse;
            STORE2(dx + i, a, b, around);
        }
    for (; i < width; i += N) {
        int left = width - i < N ? (int)(width - i) : N;
        V d = LOAD_PART(dz + i, left), out = d;
        if (weight) out *= READ_PART(weight + i, left);
        out = (out - shift) * inverse;
        if (dsum) out += LOAD_PART(dsum + i, left);
        if (dbias) WRITE_PART(dbias + i, READ_PART(dbias + i, left) + d, left);
        STORE_PART(dx + i, out, left);
    }
}

void NAME(backward)(const struct norm *n, int64_t begin, int64_t end, void *dweight, void *dbias) {
    const int64_t width = n->width, block = BLOCK(2 * width);
    const int around = AROUND(n, n->dx);
    const S *weight = n->weight;
    const S scale = (S)n->scale, slope = (S)(n->scale * n->k);
    const int phi = n->flags & PHI;
    const int moves = (n->flags & CENTER) && !(n->flags & DETACH_MEAN);
    const int pulls = (n->flags & DIVISOR) && !(n->flags & DETACH_STD);
    S mean[MOST], inverse[MOST], back[MOST], shift[MOST], pull[MOST];
    const T *from[MOST];
    for (int64_t row = begin; row < end; row += block) {
        const int64_t rows = end - row < block ? end - row : block;
        const int64_t ahead = row + 2 * block <= end ? block * width : 0;
        const T *dz = (const T *)n->dz + row * width, *x = n->x ? (const T *)n->x + row * width : NULL;
        const T *dsum = n->dsum ? (const T *)n->dsum + row * width : NULL;
        T *dx = (T *)n->dx + row * width;
        for (int64_t r = 0; r < rows; r++) {
            const int64_t at = r * width;
            S kappa, first = 0, second = 0, third = 0, square = ((const S *)n->square)[row + r];
            back[r] = inverse[r] = NAME(inverse)(n, square, &kappa);
            mean[r] = x && n->flags & CENTER ? ((const S *)n->mean)[row + r] : 0;
            from[r] = x ? x + at : NULL;
            if (square < 0) {
                back[r] *= DOWN;
                mean[r] *= DOWN;
                if (x) NAME(shrink)(from[r], dx + at, width), from[r] = dx + at;
            }
            if (moves || pulls) {
                if (!x) first = NAME(sum)(dz + at, weight, width);
                else if (phi)
                    NAME(project)(dz + at, from[r], weight, width, mean[r], scale, slope * inverse[r], 1, &first, &second,
                                  &third);
                else NAME(project)(dz + at, from[r], weight, width, mean[r], 1, 0, 0, &first, &second, &third);
            }
            pull[r] = pulls ? kappa * second : 0;
            shift[r] = ((moves ? first : 0) - (n->flags & CENTER ? pull[r] * third : 0)) / (S)width;
        }
        if (!x) {
            for (int64_t r = 0; r < rows; r++) {
                const int64_t at = r * width;
                if (weight || dsum || dbias)
                    NAME(scale)(dz + at, dsum ? dsum + at : NULL, dx + at, weight, dbias, width, back[r], shift[r], 0, 0);
                else NAME(scale)(dz + at, NULL, dx + at, NULL, NULL, width, back[r], shift[r], 1,
                                 around);
            }
            continue;
        }
#define PULL(phi, affine)                                                                                         \
    for (int64_t r = 0; r < rows; r++)                                                                            \
        NAME(pull)(dz + r * width, from[r], dsum ? dsum + r * width : NULL, dx + r * width, weight, dweight, dbias, \
                   ahead, width, mean[r], inverse[r], back[r], shift[r], pull[r], scale, slope * inverse[r], phi, affine, around); \
    break;
        switch ((phi ? 1 : 0) | (weight ? 2 : 0)) {
        case 0: PULL(0, 0)
        case 1: PULL(1, 0)
        case 2: PULL(0, 1)
        case 3: PULL(1, 1)
        }
#undef PULL
    }
    if (around) FENCE
}

#undef ZERO4
#undef SUM4
#undef STOP
#undef KEEP
#undef NAME
#undef T
#undef S
#undef V
#undef N
#undef LOAD
#undef LOAD2
#undef ADD2
#undef LOAD_PART
#undef STORE
#undef STORE2
#undef STORE_PART
#undef READ
#undef READ_PART
#undef WRITE
#undef WRITE_PART
#undef FIRST
#undef SPLAT
#undef LESS
#undef FMA
#undef TOTAL
#undef ROOT_OF
#undef LIMIT
#undef DOWN
