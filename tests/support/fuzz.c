/* Calls the CPU kernels with random arguments and compares them with the formula (formula.py) in long double.
 *
 *     fuzz SEED CASES [ONE]    all cases, or the one that a failure named
 *
 * Memory: every array is an allocation of its own that ends or begins with its last or first byte: malloc's, for a
 * sanitizer to see, or one with a page beside it that nobody may touch, which sees what no sanitizer does: the masked
 * and the streaming instructions. Outputs begin as NaN with a payload that no arithmetic makes; inputs are compared
 * with copies afterwards.
 *
 * Bounds: u is the roundoff of the statistics, h the smallest positive number there (the smallest normal one where
 * AVX512-BF16 takes what is less for zero), H the width. A sum is taken in four vectors of N lanes, eight rounds at a
 * time: m = H / 32N + 20 roundings a term, with the fewest lanes that there are. To first order in u, with A the mean
 * of |x| and s the standard deviation:
 *     mean               e = (m + 2) u A
 *     mean square        (m + 8) u (s + e)^2 + e^2, for it is taken around the mean as it was rounded
 *     1 / d              what d makes of that, for 1/d falls as the mean square rises, and 8 u
 *     z                  what y makes of both, and 10 u |C| (1 + |k y|) |g y|
 * The backward pass is given its mean and mean square; with U = |g dz| |C| (1 + |k y|),
 *     dx                 (m + 50) u (U / d + mean U / d + kappa (|c| + mean |c|) sum U |c| + |dsum|)
 *                        and for the half types |mean| beside |c|
 *     dweight, dbias     (rows + 16) u times the sum of magnitudes, with what was there before
 * Whatever can underflow adds its multiple of h, and what is stored rounds once more by the roundoff of its type. There
 * is no bound where the mean square may be zero in truth or overflow, or 1/d^2 overflows: such entries are counted. A
 * row that carries an infinity or NaN must not be finite where the formula is not, nor wrong where it is finite. */

#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu.h"

typedef long double real;

const char *normscope_use(const char *isa);
forward_function normscope_forward;
backward_function normscope_backward;
reduce_function normscope_reduce;
extern int64_t normscope_around;

enum { MOST_ROWS = 9, MOST_WIDTH = 4200, CANARY = 256 };

static const char *const names[TYPES] = {"f32", "f64", "bf16", "f16"};
static const char *const known[] = {"base", "avx2", "avx512", "avx512bf16"};
enum { KNOWN = sizeof known / sizeof *known };

/* ---- chance ---- */

static uint64_t state;

static uint64_t draw(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static int64_t below(int64_t n) { return (int64_t)(draw() % (uint64_t)n); }
static int chance(int percent) { return below(100) < percent; }
static double uniform(double low, double high) { return low + (high - low) * (double)(draw() >> 11) * 0x1p-53; }
static double gauss(void) { return sqrt(-2 * log(uniform(0x1p-53, 1))) * cos(6.283185307179586 * uniform(0, 1)); }

/* ---- numbers as they are stored ---- */

static int statistics_of(int type) { return type == FLOAT64 ? FLOAT64 : FLOAT32; }
static size_t size_of(int type) { return type == FLOAT64 ? 8 : type == FLOAT32 ? 4 : 2; }
static const int digits_of[TYPES] = {24, 53, 8, 11}, least_of[TYPES] = {-149, -1074, -133, -24};
static real roundoff(int type) { return ldexpl(1, -digits_of[type]); }
static real least(int type) { return ldexpl(1, least_of[type]); }
static real greatest(int type) {
    return type == FLOAT64 ? DBL_MAX : type == FLOAT16 ? 65504 : ldexpl(2 - ldexpl(1, 1 - digits_of[type]), 127);
}

/* Round to nearest, ties to even, from the definition. */
static real rounded(real value, int type) {
    if (!isfinite(value) || value == 0) return value;
    int exponent;
    frexpl(value, &exponent);
    int last = exponent - digits_of[type] > least_of[type] ? exponent - digits_of[type] : least_of[type];
    real near = ldexpl(rintl(ldexpl(value, -last)), last);
    return fabsl(near) > greatest(type) ? copysignl(INFINITY, value) : near;
}

/* The sum as the arithmetic of a type gives it. */
static real added(real a, real b, int type) { return type == FLOAT64 ? (double)a + (double)b : rounded(a + b, type); }

static real get(const void *array, int type, int64_t at) {
    if (type == FLOAT64) return ((const double *)array)[at];
    if (type == FLOAT32) return ((const float *)array)[at];
    uint16_t bits = ((const uint16_t *)array)[at];
    int exponents = type == FLOAT16 ? 5 : 8, fractions = 15 - exponents;
    int exponent = bits >> fractions & ((1 << exponents) - 1), fraction = bits & ((1 << fractions) - 1);
    real magnitude = exponent == (1 << exponents) - 1 ? (fraction ? NAN : INFINITY)
                     : exponent ? ldexpl((1 << fractions) + fraction, exponent - 1 + least_of[type])
                                : ldexpl(fraction, least_of[type]);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static void put(void *array, int type, int64_t at, real value) {
    value = rounded(value, type);
    if (type == FLOAT64) ((double *)array)[at] = (double)value;
    else if (type == FLOAT32) ((float *)array)[at] = (float)value;
    else {
        int fractions = type == FLOAT16 ? 10 : 7, exponent;
        uint16_t sign = signbit(value) ? 0x8000 : 0, bits;
        uint16_t infinity = (uint16_t)(0x7fff & ~((1 << fractions) - 1));
        if (isnan(value)) bits = infinity | 1 << (fractions - 1);
        else if (isinf(value)) bits = infinity;
        else {
            frexpl(value, &exponent);
            int last = exponent - fractions - 1 > least_of[type] ? exponent - fractions - 1 : least_of[type];
            /* The implicit bit of a normal number adds one to the exponent field. */
            bits = (uint16_t)((last - least_of[type]) << fractions) + (uint16_t)ldexpl(fabsl(value), -last);
        }
        ((uint16_t *)array)[at] = sign | bits;
    }
}

static uint64_t bits_of(const void *array, int type, int64_t at) {
    uint64_t bits = 0;
    memcpy(&bits, (const char *)array + at * (int64_t)size_of(type), size_of(type));
    return bits;
}
static const uint64_t poison[TYPES] = {0x7fa5a5a5, 0x7ff5a5a5a5a5a5a5, 0x7fa5, 0x7da5};

/* ---- memory ---- */

struct array {
    void *at, *base, *copy;
    size_t bytes, mapped;
    int64_t count;
    int type;
};

enum { ARRAYS = 64 };
static struct array arrays[ARRAYS];
static int used;
static char words[1024];

_Noreturn static void fail(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    fflush(stdout);
    fprintf(stderr, "fuzz: ");
    vfprintf(stderr, format, rest);
    fprintf(stderr, "\n  %s\n", words);
    va_end(rest);
    exit(1);
}

static unsigned char canary(const void *p) { return (unsigned char)(0x5a ^ ((uintptr_t)p & 0xff)); }

static struct array *make(int64_t count, int type) {
    if (used == ARRAYS) abort();
    struct array *a = &arrays[used++];
    *a = (struct array){.count = count, .type = type, .bytes = (size_t)count * size_of(type)};
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (a->bytes + page - 1) / page * page + page;
    switch (below(6)) {
    case 0:
        a->at = a->base = malloc(a->bytes);
        break;
    case 1:
        if (posix_memalign(&a->base, 64, a->bytes)) a->base = NULL;
        a->at = a->base;
        break;
    case 2: {
        size_t shift = size_of(type) * (1 + (size_t)below(16));
        a->base = malloc(a->bytes + shift);
        a->at = (char *)a->base + shift;
        break;
    }
    default: {
        a->mapped = room + page;
        a->base = mmap(NULL, a->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (a->base == MAP_FAILED) fail("mmap");
        char *low = (char *)a->base + page, *high = (char *)a->base + room;
        mprotect(a->base, page, PROT_NONE);
        mprotect(high, page, PROT_NONE);
        a->at = chance(60) ? high - a->bytes : low;
        for (char *p = low; p < high; p++) *(unsigned char *)p = canary(p);
    }
    }
    if (!a->base && a->bytes) fail("no memory");
    for (int64_t i = 0; i < count; i++)
        memcpy((char *)a->at + i * (int64_t)size_of(type), &poison[type], size_of(type));
    return a;
}

/* From now on it must not change. */
static void *seal(struct array *a) {
    a->copy = malloc(a->bytes + 1);
    if (!a->copy) fail("no memory");
    memcpy(a->copy, a->at, a->bytes);
    return a->at;
}

static void free_all(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (; used; used--) {
        struct array *a = &arrays[used - 1];
        if (a->copy && memcmp(a->copy, a->at, a->bytes)) fail("an input was written to (array %d)", used - 1);
        free(a->copy);
        if (!a->mapped) {
            free(a->base);
            continue;
        }
        char *low = (char *)a->base + page, *high = (char *)a->base + a->mapped - page;
        for (char *p = low; p < high; p++)
            if ((p < (char *)a->at || p >= (char *)a->at + a->bytes) && *(unsigned char *)p != canary(p))
                fail("written at byte %ld of an array of %zu (%d)", (long)(p - (char *)a->at), a->bytes, used - 1);
        munmap(a->base, a->mapped);
    }
}

/* ---- a call ---- */

struct call {
    int type, statistics, isa;
    int64_t rows, width, begin, end;
    struct norm n;
    struct array *x, *residual, *sum, *z, *mean, *square, *weight, *bias, *dz, *dsum, *dx, *dweight, *dbias;
};

static int64_t cases_of[TYPES][KNOWN], bounded, unbounded;
static real worst[TYPES];
static char worst_words[TYPES][16];

static void compare(const struct call *c, const char *what, const struct array *a, int64_t at, real wanted, real bound,
                    int no_bound) {
    real got = get(a->at, a->type, at);
    if (bits_of(a->at, a->type, at) == poison[a->type]) fail("%s[%ld] was not written", what, (long)at);
    if (no_bound) {
        unbounded++;
        return;
    }
    bounded++;
    if (!isfinite(wanted) || !isfinite(bound)) {
        real slack = 64 * (roundoff(c->type) + roundoff(a->type)) * fabsl(wanted) + least(a->type);
        int fine = !isfinite(wanted) ? (isnan(wanted) ? isnan(got) : !isfinite(got))
                                     : !isfinite(got) || fabsl(got - wanted) <= slack;
        if (!fine) fail("%s[%ld] is %Lg where the formula gives %Lg (no finite bound)", what, (long)at, got, wanted);
        return;
    }
    if (isinf(got) && copysignl(fabsl(wanted) + bound, wanted * got) > greatest(a->type)) return;
    real error = fabsl(got - wanted) / bound;
    if (!(error <= 1)) fail("%s[%ld] is %.12Lg, %.12Lg wanted, off by %Lg bounds", what, (long)at, got, wanted, error);
    if (error > worst[c->type]) {
        worst[c->type] = error;
        snprintf(worst_words[c->type], sizeof *worst_words, "%s", what);
    }
}

static real u_of(const struct call *c) { return roundoff(c->statistics) + LDBL_EPSILON; }
static real roundings(const struct call *c) { return c->width / (c->statistics == FLOAT64 ? 64 : 128) + 20; }
static int flushes(const struct call *c) { return c->type == BFLOAT16 && !strcmp(known[c->isa], "avx512bf16"); }
static real h_of(const struct call *c) { return flushes(c) ? FLT_MIN : least(c->statistics); }

/* Bound for what is rounded into its place once more. */
static real stored(const struct call *c, const struct array *a, real wanted, real bound) {
    real floor = flushes(c) ? FLT_MIN : least(a->type);
    return bound + roundoff(a->type) * (fabsl(wanted) + bound) + floor;
}

static void untouched(const char *what, const struct array *a, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++)
        if (bits_of(a->at, a->type, i) != poison[a->type]) fail("%s[%ld] lies outside and was written", what, (long)i);
}

/* 1 / d and kappa by the formula. */
static real inverse_of(const struct norm *n, real square, real *kappa) {
    const real width = n->width, eps = n->eps;
    real deviation, inverse = 1;
    *kappa = 0;
    switch (n->flags & DIVISOR) {
    case ROOT:
        inverse = 1 / sqrtl(square + eps);
        *kappa = inverse * inverse * inverse / width;
        break;
    case RELEASED:
        deviation = sqrtl(square * width / (width - 1));
        inverse = 1 / (deviation + eps);
        *kappa = deviation == 0 ? 0 : inverse * inverse / (deviation * (width - 1));
        break;
    case LENGTH:
        deviation = sqrtl(square * width);
        inverse = 1 / (deviation < eps ? eps : deviation);
        *kappa = deviation < eps || deviation == 0 ? 0 : inverse * inverse * inverse;
    }
    return inverse;
}

static int too_large(const struct call *c, real inverse) {
    return inverse > (c->statistics == FLOAT64 ? 0x1p500 : 0x1p58);
}

/* Mean and mean square of a row, and how far off they may be. */
struct moments { real mean, square, mean_bound, square_bound; };

static struct moments moments_of(const struct call *c, const void *x, int64_t row) {
    const real u = u_of(c), h = h_of(c), m = roundings(c), width = c->width;
    const int64_t from = row * c->width, center = c->n.flags & CENTER;
    struct moments s = {0};
    real size = 0, rest = 0, sum = 0;
    for (int64_t i = 0; i < c->width; i++) {
        sum += get(x, c->type, from + i);
        size += fabsl(get(x, c->type, from + i)) / width;
    }
    for (int64_t i = 0; i < c->width; i++) rest += get(x, c->type, from + i) - sum / width;
    s.mean = !center ? 0 : isfinite(rest) ? (sum + rest) / width : sum / width;
    for (int64_t i = 0; i < c->width; i++) {
        real off = get(x, c->type, from + i) - s.mean;
        s.square += off * off / width;
    }
    real first = center ? (m + 2) * u * size + m * h : 0, spread = sqrtl(s.square) + first;
    if (center) s.mean_bound = first + u * fabsl(s.mean);
    s.square_bound = (m + 8) * u * spread * spread + 8 * h + powl(4 * LDBL_EPSILON * s.mean, 2);
    if (center) s.square_bound += first * first;
    return s;
}

static void check_forward(const struct call *c) {
    const struct norm *n = &c->n;
    const real u = u_of(c), h = h_of(c), scale = n->scale, k = n->k;
    const struct array *x = c->sum ? c->sum : c->x;
    const int64_t width = c->width;
    for (int64_t i = c->begin * width; c->sum && i < c->end * width; i++) {
        /* One sum in the arithmetic of the statistics, then one rounding: exact, so without a bound. */
        real sum = added(get(c->x->at, c->type, i), get(c->residual->at, c->type, i), c->statistics);
        real wanted = rounded(sum, c->type), got = get(c->sum->at, c->type, i);
        int flushed = flushes(c) && got == 0 && fabsl(wanted) < FLT_MIN;
        if (!(got == wanted || (isnan(got) && isnan(wanted)) || flushed))
            fail("sum[%ld] is %.12Lg, %.12Lg wanted", (long)i, got, wanted);
        if (bits_of(c->sum->at, c->type, i) == poison[c->type]) fail("sum[%ld] was not written", (long)i);
    }
    for (int64_t row = c->begin; row < c->end; row++) {
        struct moments s = moments_of(c, x->at, row);
        real none, inverse = inverse_of(n, s.square, &none);
        int overflows = isfinite(s.square) && s.square * width > greatest(c->statistics) / 16;
        if (c->mean) compare(c, "mean", c->mean, row, s.mean, s.mean_bound, 0);
        compare(c, "square", c->square, row, s.square, s.square_bound, overflows);
        real most = inverse_of(n, fmaxl(s.square - s.square_bound, 0), &none);
        real fewest = inverse_of(n, s.square + s.square_bound, &none);
        real off = fmaxl(most - inverse, inverse - fewest) + 8 * u * most;
        for (int64_t i = 0; i < width; i++) {
            real centered = get(x->at, c->type, row * width + i) - s.mean, y = centered * inverse;
            real y_bound = fabsl(centered) * off + (inverse + off) * (s.mean_bound + u * fabsl(centered) + h);
            real v = y, bound = y_bound + 2 * u * fabsl(y) + h;
            if (n->flags & PHI) {
                v = scale * (1 - k * y) * y;
                real size = fabsl(scale) * (1 + 2 * fabsl(k * y));
                bound = size * y_bound + fabsl(scale * k) * y_bound * y_bound + 10 * u * size * fabsl(y);
                bound += 4 * h * (1 + centered * centered);
            }
            real g = c->weight ? get(c->weight->at, c->statistics, i) : 1;
            real b = c->bias ? get(c->bias->at, c->statistics, i) : 0, z = g * v + b;
            bound = fabsl(g) * bound + 3 * u * (fabsl(g * v) + fabsl(b)) + 2 * h;
            compare(c, "z", c->z, row * width + i, z, stored(c, c->z, z, bound), overflows || too_large(c, most));
        }
    }
    for (int outside = 0; outside < 2; outside++) {
        int64_t from = outside ? c->end : 0, to = outside ? c->rows : c->begin;
        untouched("z", c->z, from * width, to * width);
        untouched("square", c->square, from, to);
        if (c->sum) untouched("sum", c->sum, from * width, to * width);
        if (c->mean) untouched("mean", c->mean, from, to);
    }
}

static void check_backward(const struct call *c, const struct array *dweight_before, const struct array *dbias_before) {
    const struct norm *n = &c->n;
    const real u = u_of(c), h = h_of(c), scale = n->scale, k = n->k;
    /* Without an input a weighted sum is kept in one vector. */
    const real m = !c->x && c->weight ? 32 * roundings(c) : roundings(c);
    const int64_t width = c->width;
    const int phi = n->flags & PHI, centers = n->flags & CENTER, moves = centers && !(n->flags & DETACH_MEAN);
    const int pulls = (n->flags & DIVISOR) && !(n->flags & DETACH_STD);
    real *dg = calloc((size_t)width * 5, sizeof *dg);
    if (!dg) fail("no memory");
    real *dg_size = dg + width, *dg_floor = dg + 2 * width, *db = dg + 3 * width, *db_size = dg + 4 * width;
    int no_gain_bound = 0;
    for (int64_t row = c->begin; row < c->end; row++) {
        real square = get(c->square->at, c->statistics, row), mean = c->mean ? get(c->mean->at, c->statistics, row) : 0;
        real kappa, inverse = inverse_of(n, square, &kappa), deviation = sqrtl(square * width);
        int no_bound = too_large(c, inverse) || (isfinite(square) && square * width > greatest(c->statistics) / 16);
        /* Which side of eps the length is on is a matter of rounding. */
        if ((n->flags & DIVISOR) == LENGTH && fabsl(deviation - n->eps) <= 8 * u * n->eps) no_bound = 1;
        no_gain_bound |= no_bound;
        real sum = 0, product = 0, sum_size = 0, product_size = 0, c_sum = 0, c_size = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t i = 0; i < width; i++) {
                const int64_t at = row * width + i;
                real dz = get(c->dz->at, c->type, at), g = c->weight ? get(c->weight->at, c->statistics, i) : 1;
                real off = c->x ? get(c->x->at, c->type, at) - mean : 0, y = off * inverse;
                real factor = phi ? scale * (1 - k * y) : 1, size = phi ? fabsl(scale) * (1 + fabsl(k * y)) : 1;
                real one = dz * g * factor, one_size = fabsl(dz * g) * size;
                if (!pass) {
                    sum += one;
                    sum_size += one_size;
                    product += one * off;
                    product_size += one_size * fabsl(off);
                    c_sum += off;
                    c_size += fabsl(off);
                    dg[i] += dz * factor * y;
                    dg_size[i] += fabsl(dz * y) * size;
                    dg_floor[i] += 4 * h * (1 + fabsl(off) * (1 + fabsl(dz * off)));
                    db[i] += dz;
                    db_size[i] += fabsl(dz);
                    continue;
                }
                real dx = one * inverse, bound = one_size * inverse;
                real floor = 4 * h * (1 + inverse + fabsl(off * dz * g));
                if (moves) {
                    dx -= sum / width * inverse;
                    bound += sum_size / width * inverse;
                }
                if (pulls) {
                    /* c around an exact mean; what rounding leaves of one is not seen in the half types. */
                    int exact = c->type == FLOAT32 || c->type == FLOAT64;
                    real around = !centers ? 0 : exact ? c_size / width : c_size / width + fabsl(mean);
                    dx -= kappa * (off - (centers ? c_sum / width : 0)) * product;
                    bound += kappa * (fabsl(off) + around) * product_size;
                    floor += kappa * fabsl(off) * h * (4 * c_size + 2 * width);
                    floor += 4 * h * fabsl(off) * (kappa / inverse + inverse + 1);
                }
                if (c->dsum) {
                    real more = get(c->dsum->at, c->type, at);
                    dx += more;
                    bound += fabsl(more);
                }
                compare(c, "dx", c->dx, at, dx, stored(c, c->dx, dx, (m + 50) * u * bound + floor), no_bound);
            }
    }
    for (int64_t i = 0; c->dweight && i < width; i++) {
        const real count = c->end - c->begin + 16;
        real before = get(dweight_before->at, c->statistics, i), size = fabsl(before) + dg_size[i];
        if (c->x && c->weight)
            compare(c, "dweight", c->dweight, i, before + dg[i], count * u * size + dg_floor[i] + h, no_gain_bound);
        if (!c->x && get(c->dweight->at, c->statistics, i) != before) fail("dweight[%ld] without an input", (long)i);
        before = get(dbias_before->at, c->statistics, i), size = fabsl(before) + db_size[i];
        compare(c, "dbias", c->dbias, i, before + db[i], count * u * size + h, 0);
    }
    free(dg);
    untouched("dx", c->dx, 0, c->begin * width);
    untouched("dx", c->dx, c->end * width, c->rows * width);
}

/* ---- what is drawn ---- */

enum { GAUSS, OFFSET, TINY, SMALLEST, HUGE_, CONSTANT, ZEROS, SPIKE, SUBNORMAL, BROKEN, KINDS };

static void fill(struct array *a, int64_t rows, int64_t width, int whole) {
    const int type = a->type;
    const double reach = type == FLOAT64 ? 130 : type == FLOAT16 ? 3 : 16;
    for (int64_t row = 0; row < rows; row++) {
        int kind = whole >= 0 ? whole : (int)below(KINDS);
        double middle = 0, spread = 1;
        switch (kind) {
        case OFFSET:
            middle = pow(10, uniform(0, 3)) * (chance(50) ? 1 : -1);
            spread = pow(10, uniform(-2, 1));
            break;
        case TINY: spread = pow(10, uniform(-7, -3)); break;
        case SMALLEST: spread = pow(10, uniform(-reach * 1.1, -reach / 2)); break;
        case HUGE_: spread = pow(10, uniform(reach / 2, reach)); break;
        case CONSTANT: middle = 10 * gauss(); /* fall through */
        case ZEROS: case SPIKE: spread = 0; break;
        case SUBNORMAL: spread = (double)least(type) * uniform(1, 100);
        }
        for (int64_t i = 0; i < width; i++) {
            double one = middle + (spread ? spread * gauss() : 0);
            if (type == FLOAT16 && kind != BROKEN && fabs(one) > 20000) one = copysign(20000, one);
            put(a->at, type, row * width + i, one);
        }
        if (kind == SPIKE) put(a->at, type, row * width + below(width), 10 * gauss());
        for (int64_t times = kind == BROKEN ? 1 + below(3) : 0; times; times--)
            put(a->at, type, row * width + below(width), chance(40) ? NAN : chance(50) ? INFINITY : -INFINITY);
    }
}

static int64_t some_width(void) {
    int64_t step = 4 << below(5), top = MOST_WIDTH / step, width;
    switch (below(10)) {
    case 0: return 1 + below(MOST_WIDTH);
    case 1: width = ((int64_t)1 << below(13)) + below(3) - 1; break;
    case 2: case 3: width = step * (1 + below(top)) + below(3) - 1; break;
    case 4: case 5: width = step * (1 + below(20)) + below(3) - 1; break;
    default: return 1 + below(70);
    }
    return width < 1 ? 1 : width;
}

static int some_kind(void) { return chance(30) ? -1 : chance(50) ? GAUSS : (int)below(KINDS); }
static void *at(struct array *a) { return a ? a->at : NULL; }

/* A row on its own, in memory of its own, must give the same bits. */
static void same_alone(const struct call *c, int64_t row, int backward) {
    struct call one = *c;
    const int64_t width = c->width;
    one.n.rows = 1;
    struct array *given[] = {c->x, c->residual, c->dz, c->dsum, c->mean, c->square, c->sum, c->z, c->dx};
    enum { X, RESIDUAL, DZ, DSUM, MEAN, SQUARE, SUM, Z, DX, GIVEN };
    struct array *mine[GIVEN] = {0};
    for (int i = 0; i < GIVEN; i++) {
        if (!given[i]) continue;
        int64_t count = i == MEAN || i == SQUARE ? 1 : width;
        size_t bytes = (size_t)count * size_of(given[i]->type);
        mine[i] = make(count, given[i]->type);
        if (i < MEAN || (backward && i < SUM)) {
            memcpy(mine[i]->at, (char *)given[i]->at + (size_t)row * bytes, bytes);
            seal(mine[i]);
        }
    }
    one.n.x = at(mine[X]), one.n.residual = at(mine[RESIDUAL]), one.n.dz = at(mine[DZ]), one.n.dsum = at(mine[DSUM]);
    one.n.mean = at(mine[MEAN]), one.n.square = at(mine[SQUARE]), one.n.sum = at(mine[SUM]);
    one.n.z = at(mine[Z]), one.n.dx = at(mine[DX]);
    if (backward) normscope_backward(&one.n, 0, 1, at(c->dweight), at(c->dbias));
    else normscope_forward(&one.n, 0, 1);
    for (int i = backward ? DX : MEAN; i < GIVEN; i++) {
        if (!mine[i]) continue;
        if (memcmp(mine[i]->at, (char *)given[i]->at + (size_t)row * mine[i]->bytes, mine[i]->bytes))
            fail("row %ld alone gives other bits than in its batch (%s)", (long)row, backward ? "backward" : "forward");
    }
}

static void one_case(uint64_t seed, int64_t number, const int *isas, int count_isas) {
    state = seed * 0xd1342543de82ef95u + (uint64_t)number;
    draw();
    struct call c = {.type = (int)below(TYPES), .isa = isas[below(count_isas)], .rows = below(MOST_ROWS + 1)};
    c.statistics = statistics_of(c.type);
    c.width = some_width();
    c.end = c.rows;
    if (chance(40)) {
        c.begin = below(c.rows + 1);
        c.end = c.begin + below(c.rows - c.begin + 1);
    }
    static const int divisors[] = {ROOT, ROOT, RELEASED, LENGTH, 0};
    int flags = divisors[below(5)] | (chance(70) ? CENTER : 0) | (chance(40) ? PHI : 0);
    flags |= (chance(25) ? DETACH_MEAN : 0) | (chance(35) ? DETACH_STD : 0);
    if ((flags & DIVISOR) == RELEASED && c.width == 1) c.width = 2;
    const double eps = chance(15) ? 0 : chance(50) ? 1e-5 : pow(10, uniform(-12, 0));
    const double scale = uniform(0.1, 3), k = chance(20) ? 0 : uniform(0, 2);
    const int affine = (int)below(3), residual = chance(40), streams = chance(50);
    const int64_t entries = c.rows * c.width;
    c.n = (struct norm){.rows = c.rows, .width = c.width, .flags = flags, .type = c.type};
    c.n.eps = eps, c.n.scale = scale, c.n.k = k;
    snprintf(words, sizeof words,
             "seed %llu case %ld: %s %s rows %ld [%ld, %ld) width %ld flags %d eps %g scale %g k %g affine %d "
             "residual %d streams %d",
             (unsigned long long)seed, (long)number, names[c.type], known[c.isa], (long)c.rows, (long)c.begin,
             (long)c.end, (long)c.width, flags, eps, scale, k, affine, residual, streams);
    if (!normscope_use(known[c.isa])) fail("it does not run here any more");
    normscope_around = streams ? 0 : INT64_MAX;
    cases_of[c.type][c.isa]++;

    c.x = make(entries, c.type);
    fill(c.x, c.rows, c.width, some_kind());
    c.n.x = seal(c.x);
    if (residual) {
        c.residual = make(entries, c.type);
        fill(c.residual, c.rows, c.width, some_kind());
        c.n.residual = seal(c.residual);
        c.n.sum = at(c.sum = make(entries, c.type));
    }
    if (affine) {
        c.weight = make(c.width, c.statistics);
        for (int64_t i = 0; i < c.width; i++) put(c.weight->at, c.statistics, i, 2 + gauss());
        c.n.weight = seal(c.weight);
    }
    if (affine == 2) {
        c.bias = make(c.width, c.statistics);
        fill(c.bias, 1, c.width, GAUSS);
        c.n.bias = seal(c.bias);
    }
    c.n.z = at(c.z = make(entries, c.type));
    if (flags & CENTER) c.n.mean = at(c.mean = make(c.rows, c.statistics));
    c.n.square = at(c.square = make(c.rows, c.statistics));
    normscope_forward(&c.n, c.begin, c.end);
    check_forward(&c);
    if (c.end > c.begin) same_alone(&c, c.begin + below(c.end - c.begin), 0);

    /* The backward pass gets the formula's own moments, rounded: its errors alone are measured. */
    struct call b = {.type = c.type, .statistics = c.statistics, .isa = c.isa, .rows = c.rows, .width = c.width,
                     .begin = c.begin, .end = c.end, .weight = c.weight, .n = c.n};
    b.n.bias = b.n.residual = b.n.x = NULL;
    b.n.sum = b.n.z = b.n.mean = NULL;
    int gains = chance(60);
    const int reads = ((flags & DIVISOR) && !(flags & DETACH_STD)) || (flags & PHI) || (gains && affine);
    if (reads || chance(30)) {
        b.x = make(entries, c.type);
        fill(b.x, c.rows, c.width, some_kind());
        b.n.x = seal(b.x);
        if (flags & CENTER) b.mean = make(c.rows, c.statistics);
        /* Whoever wants a bias's gradient without a weight gives a weight of ones. */
        gains = gains && affine;
    }
    b.square = make(c.rows, c.statistics);
    for (int64_t row = 0; row < c.rows; row++) {
        struct moments s = moments_of(&c, (b.x ? b.x : c.x)->at, row);
        put(b.square->at, c.statistics, row, s.square);
        if (b.mean) put(b.mean->at, c.statistics, row, s.mean);
    }
    b.n.square = seal(b.square);
    if (b.mean) b.n.mean = seal(b.mean);
    b.dz = make(entries, c.type);
    fill(b.dz, c.rows, c.width, chance(70) ? GAUSS : chance(80) ? TINY : some_kind());
    b.n.dz = seal(b.dz);
    if (chance(40)) {
        b.dsum = make(entries, c.type);
        fill(b.dsum, c.rows, c.width, GAUSS);
        b.n.dsum = seal(b.dsum);
    }
    b.n.dx = at(b.dx = make(entries, c.type));
    struct array *before[2] = {NULL, NULL};
    if (gains)
        for (int i = 0; i < 2; i++) {
            struct array *to = i ? (b.dbias = make(c.width, c.statistics)) : (b.dweight = make(c.width, c.statistics));
            fill(to, 1, c.width, GAUSS);
            before[i] = make(c.width, c.statistics);
            memcpy(before[i]->at, to->at, to->bytes);
        }
    size_t length = strlen(words);
    snprintf(words + length, sizeof words - length, "; backward with%s%s%s%s", b.x ? " x" : "", b.dsum ? " dsum" : "",
             b.weight ? " weight" : "", gains ? " dweight and dbias" : "");
    normscope_backward(&b.n, b.begin, b.end, at(b.dweight), at(b.dbias));
    check_backward(&b, before[0], before[1]);
    if (b.end > b.begin) same_alone(&b, b.begin + below(b.end - b.begin), 1);

    if (chance(20)) {
        const int64_t parts = 1 + below(5);
        struct array *partial = make(parts * c.width, c.statistics), *kept = make(parts * c.width, c.statistics);
        fill(partial, parts, c.width, GAUSS);
        memcpy(kept->at, partial->at, partial->bytes);
        normscope_reduce(partial->at, parts, c.width, c.type);
        for (int64_t i = 0; i < c.width; i++) {
            real sum = 0, size = 0;
            for (int64_t row = 0; row < parts; row++) {
                sum += get(kept->at, c.statistics, row * c.width + i);
                size += fabsl(get(kept->at, c.statistics, row * c.width + i));
            }
            compare(&c, "reduced", partial, i, sum, (real)parts * u_of(&c) * size, 0);
        }
    }
    free_all();
}

static void last_words(void) {
    fprintf(stderr, "fuzz: died in\n  %s\n", words);
}

#ifdef __SANITIZE_ADDRESS__
void __sanitizer_set_death_callback(void (*)(void));
#else
static void died(int what) {
    last_words();
    signal(what, SIG_DFL);
    raise(what);
}
#endif

int main(int argc, char **argv) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_set_death_callback(last_words);
#else
    signal(SIGSEGV, died);
    signal(SIGBUS, died);
    signal(SIGILL, died);
#endif
    if (argc < 3) {
        fprintf(stderr, "usage: fuzz SEED CASES [ONE]\n");
        return 2;
    }
    const uint64_t seed = strtoull(argv[1], NULL, 10);
    const int64_t cases = strtoll(argv[2], NULL, 10);
    int isas[KNOWN], count = 0;
    for (int i = 0; i < KNOWN; i++)
        if (normscope_use(known[i])) isas[count++] = i;
    if (argc > 3) one_case(seed, strtoll(argv[3], NULL, 10), isas, count);
    else
        for (int64_t i = 0; i < cases; i++) one_case(seed, i, isas, count);
    printf("%lld cases", argc > 3 ? 1LL : (long long)cases);
    for (int type = 0; type < TYPES; type++) {
        printf("; %s", names[type]);
        for (int i = 0; i < count; i++) printf(" %s %lld", known[isas[i]], (long long)cases_of[type][isas[i]]);
        printf(", worst %.2Lf of the bound (%s)", worst[type], worst_words[type]);
    }
    printf("; %lld entries, %lld more without a bound\n", (long long)bounded, (long long)unbounded);
    return 0;
}
