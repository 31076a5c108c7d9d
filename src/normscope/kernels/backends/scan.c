/* Recurrent nets on the CPU: the rows of a step, and products with packed matrices.
 *
 * Compiled once per instruction set, with -DISA=its name, and once with -DTABLE=1 for the table that selects one. */

#include "scan.h"

#include <math.h>
#include <string.h>

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define PASTE3_(a, b, c) a##b##c
#define PASTE3(a, b, c) PASTE3_(a, b, c)
#define PASTE4_(a, b, c, d) a##b##_##c##_##d
#define PASTE4(a, b, c, d) PASTE4_(a, b, c, d)

#ifdef TABLE

#define DECLARE(isa) extern const struct scan_functions PASTE4(normscope_, scan, f32, isa), \
    PASTE4(normscope_, scan, f64, isa), PASTE4(normscope_, scan, bf16, isa);
#define ENTRY(isa) {#isa, {&PASTE4(normscope_, scan, f32, isa), &PASTE4(normscope_, scan, f64, isa), \
    &PASTE4(normscope_, scan, bf16, isa)}}

DECLARE(base)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
DECLARE(avx512bf16)
#endif

forward_function *normscope_norm_forward;
backward_function *normscope_norm_backward;

/* Give the kernels the addresses of those of norms; return the functions for a type on an instruction set, or NULL. */
const struct scan_functions *normscope_scan(const char *isa, int type, forward_function *forward,
                                            backward_function *backward) {
    static const struct {
        const char *isa;
        const struct scan_functions *of[3];
    } tables[] = {
#if defined(__x86_64__)
        ENTRY(avx512bf16), ENTRY(avx512), ENTRY(avx2),
#endif
        ENTRY(base),
    };
    normscope_norm_forward = forward;
    normscope_norm_backward = backward;
    for (unsigned i = 0; i < sizeof tables / sizeof *tables; i++)
        if (!strcmp(isa, tables[i].isa) && type <= BFLOAT16) return tables[i].of[type];
    return NULL;
}

#else

#include "cpu_vector.h"

extern forward_function *normscope_norm_forward;
extern backward_function *normscope_norm_backward;
#define norm_forward normscope_norm_forward
#define norm_backward normscope_norm_backward

/* Rows of a product that are computed together: with three vectors of columns they fill the registers. */
#if defined(__AVX512F__)
#define TALL 8
#define MASKS 1 /* a part of a vector costs no more than all of it */
#else
#define TALL 4
#define MASKS 0
#endif

enum { type_of_f32 = FLOAT32, type_of_f64 = FLOAT64 };

INLINE float widen_one_f32(float value) { return value; }
INLINE double widen_one_f64(double value) { return value; }
INLINE float widen_one_bf16(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

INLINE f32 choose_f32(i32 mask, f32 a, f32 b) { return (f32)(((i32)a & mask) | ((i32)b & ~mask)); }
INLINE f64 choose_f64(i64 mask, f64 a, f64 b) { return (f64)(((i64)a & mask) | ((i64)b & ~mask)); }

/* Transpose a square of vectors: each pass interleaves those of the upper half with those of the lower one. */
#define TRANSPOSED(V, I, N)                                                                        \
    INLINE void PASTE(transpose_, V)(V square[N]) {                                                \
        I low, high;                                                                               \
        for (int i = 0; i < N; i++) low[i] = i / 2 + i % 2 * N, high[i] = (N + i) / 2 + i % 2 * N; \
        for (int pass = 1; pass < N; pass *= 2) {                                                  \
            V next[N];                                                                             \
            for (int i = 0; i < N / 2; i++) {                                                      \
                next[2 * i] = __builtin_shuffle(square[i], square[i + N / 2], low);                \
                next[2 * i + 1] = __builtin_shuffle(square[i], square[i + N / 2], high);           \
            }                                                                                      \
            memcpy(square, next, sizeof next);                                                     \
        }                                                                                          \
    }
TRANSPOSED(f32, i32, LANES)
TRANSPOSED(f64, i64, LANES / 2)

/* e^x for |x| <= 88: Cephes (S. Moshier), expf. */
INLINE f32 exp_f32(f32 x) {
    const f32 magic = (f32){0} + 0x1.8p23f;
    const f32 shifted = fma_f32(x, (f32){0} + 1.44269504f, magic), n = shifted - magic;
    f32 r = less_f32(x, n, (f32){0} + 0.693359375f), p = (f32){0} + 1.9875691500e-4f;
    r = less_f32(r, n, (f32){0} + -2.12194440e-4f);
    p = fma_f32(p, r, (f32){0} + 1.3981999507e-3f);
    p = fma_f32(p, r, (f32){0} + 8.3334519073e-3f);
    p = fma_f32(p, r, (f32){0} + 4.1665795894e-2f);
    p = fma_f32(p, r, (f32){0} + 1.6666665459e-1f);
    p = fma_f32(p, r, (f32){0} + 5.0000001201e-1f);
    p = fma_f32(p, r * r, r) + 1.0f;
    return p * (f32)(((u32)shifted << 23) + 0x3f800000u);
}

INLINE f32 clamp_f32(f32 x, float most) {
    x = choose_f32(x < most, x, choose_f32(x >= most, (f32){0} + most, x)); /* NaN stays */
    return choose_f32(x < -most, (f32){0} - most, x);
}

INLINE f32 sigmoid_f32(f32 x) { return 1.0f / (1.0f + exp_f32(-clamp_f32(x, 87.0f))); }

INLINE f32 tanh_f32(f32 x) {
    const i32 sign = (i32)x & (int32_t)0x80000000;
    const f32 size = (f32)((i32)x & 0x7fffffff), z = x * x;
    const f32 large = 1.0f - 2.0f / (exp_f32(2.0f * clamp_f32(size, 43.0f)) + 1.0f);
    f32 p = (f32){0} + -5.70498872745e-3f;
    p = fma_f32(p, z, (f32){0} + 2.06390887954e-2f);
    p = fma_f32(p, z, (f32){0} + -5.37397155531e-2f);
    p = fma_f32(p, z, (f32){0} + 1.33314422036e-1f);
    p = fma_f32(p, z, (f32){0} + -3.33332819422e-1f);
    return choose_f32(size < 0.625f, fma_f32(p * z, x, x), (f32)((i32)large | sign));
}

INLINE f64 sigmoid_f64(f64 x) {
    for (int i = 0; i < LANES / 2; i++) x[i] = 1.0 / (1.0 + exp(-x[i]));
    return x;
}
INLINE f64 tanh_f64(f64 x) {
    for (int i = 0; i < LANES / 2; i++) x[i] = tanh(x[i]);
    return x;
}

#define TYPE f32
#define STATISTICS f32
#include "scan_rows.h"
#undef TYPE

#define TYPE bf16
#include "scan_rows.h"
#undef TYPE
#undef STATISTICS

#define TYPE f64
#define STATISTICS f64
#include "scan_rows.h"

#endif
