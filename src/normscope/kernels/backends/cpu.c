/* The norm family on the CPU: rows of float, double, bfloat16 or float16, forward and backward (see formula.py).
 *
 * Independent of torch and of threads: a call processes the rows from begin to end, and calls may be concurrent.
 * Compiled once per instruction set, with -DISA=its name, and once with -DTABLE=1 for the table that selects one. */

#include "cpu.h"

#include <stddef.h>
#include <string.h>

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define PASTE3_(a, b, c) a##b##c
#define PASTE3(a, b, c) PASTE3_(a, b, c)
#define PASTE4_(a, b, c, d) a##b##_##c##_##d
#define PASTE4(a, b, c, d) PASTE4_(a, b, c, d)

#ifdef TABLE

#define TYPES_OF(direction, isa)                                                                                    \
    normscope_##direction##_f32_##isa, normscope_##direction##_f64_##isa, normscope_##direction##_bf16_##isa,       \
        normscope_##direction##_f16_##isa
#define DECLARE(isa)                                  \
    extern forward_function TYPES_OF(forward, isa);   \
    extern backward_function TYPES_OF(backward, isa);
#define ENTRY(isa) {#isa, {TYPES_OF(forward, isa)}, {TYPES_OF(backward, isa)}}

DECLARE(base)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
DECLARE(avx512bf16)
#endif

static const struct table {
    const char *isa;
    forward_function *forward[TYPES];
    backward_function *backward[TYPES];
} tables[] = {
#if defined(__x86_64__)
    ENTRY(avx512bf16), ENTRY(avx512), ENTRY(avx2),
#endif
    ENTRY(base),
};

enum { TABLES = sizeof tables / sizeof *tables };

static int runs_here(const char *isa) {
#if defined(__x86_64__)
    /* Every processor with these two has F16C, which not every compiler can query. */
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!strcmp(isa, "avx2")) return avx2;
    if (!strcmp(isa, "avx512")) return avx512;
    if (!strcmp(isa, "avx512bf16")) return avx512 && __builtin_cpu_supports("avx512bf16");
#endif
    return !strcmp(isa, "base");
}

static const struct table *chosen;

/* Size in bytes from which an output bypasses the caches: this is faster on AMD's processors if the output would not
 * stay in the caches until it is read, and never was on the Intel processor that was measured (docs/guides/kernels.md). */
int64_t normscope_around = INT64_MAX;

/* Select an instruction set, or the best one for NULL; return its name, or NULL if it does not run here. */
const char *normscope_use(const char *isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    normscope_around = __builtin_cpu_is("amd") ? 1 << 24 : INT64_MAX;
#endif
    for (int i = 0; i < TABLES; i++)
        if ((!isa || !strcmp(isa, tables[i].isa)) && runs_here(tables[i].isa)) return (chosen = &tables[i])->isa;
    return NULL;
}

void normscope_forward(const struct norm *n, int64_t begin, int64_t end) {
    chosen->forward[n->type](n, begin, end);
}

void normscope_backward(const struct norm *n, int64_t begin, int64_t end, void *dweight, void *dbias) {
    chosen->backward[n->type](n, begin, end, dweight, dbias);
}

/* Add count partial sums of width entries pairwise, into the first. */
void normscope_reduce(void *partial, int64_t count, int64_t width, int type) {
    for (int64_t step = 1; step < count; step *= 2)
        for (int64_t row = 0; row + step < count; row += 2 * step)
            for (int64_t i = row * width; i < (row + 1) * width; i++)
                if (type == FLOAT64) ((double *)partial)[i] += ((double *)partial)[i + step * width];
                else ((float *)partial)[i] += ((float *)partial)[i + step * width];
}

#else

#include "cpu_vector.h"

/* Number of rows that are processed together in each pass, to overlap the reduction of one row with the loads of the
 * next: as many as fit in the first-level cache. */
#define MOST 4
#define CACHE 8192
#define BLOCK(entries) ((entries) * (int64_t)sizeof(T) * MOST <= CACHE ? MOST : 1)

/* Whether the output bypasses the caches: on processors where that is faster, for large outputs with aligned rows. */
#define AROUND(n, to) \
    ((n)->rows * (n)->width * (int64_t)sizeof(T) >= normscope_around && !((uintptr_t)(to) % 64) && !((n)->width * sizeof(T) % 64))
#if defined(__x86_64__)
#define FENCE _mm_sfence();
#else
#define FENCE ;
#endif
extern int64_t normscope_around;

/* A row whose sum of squares is above MOST_f32 or MOST_f64 is FAR: its squares are those of the row times DOWN, which
 * formula.py calls SCALE. Below it 1 / (sum of squares) is no subnormal number. */
#define MOST_f32 0x1p126f
#define DOWN_f32 0x1p-76f
#define MOST_f64 0x1p1022
#define DOWN_f64 0x1p-600

#define TYPE f32
#define STATISTICS f32
#define EXACT 1
#include "cpu_rows.h"
#undef TYPE
#undef EXACT

#define TYPE bf16
#define EXACT 0
#include "cpu_rows.h"
#undef TYPE

#define TYPE f16
#include "cpu_rows.h"
#undef TYPE
#undef STATISTICS
#undef EXACT

#define TYPE f64
#define STATISTICS f64
#define EXACT 1
#include "cpu_rows.h"

#endif
