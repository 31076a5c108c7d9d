/* Vectors of the instruction set that this file is compiled for: AVX-512, AVX2, NEON, or the baseline.
 *
 * f32: LANES floats.  f64: LANES / 2 doubles.  Each storage type X has load_X(p), store_X(p, v), and load_X_part,
 * store_X_part for the first n entries only: nothing beyond them is read or written, and the other lanes are zero. */

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))
/* Without masks, a part is copied entry by entry: rare, and not worth inlining into every loop. */
#define SELDOM static __attribute__((noinline, unused))

typedef float f32 __attribute__((vector_size(4 * LANES)));
typedef double f64 __attribute__((vector_size(4 * LANES)));
typedef uint32_t u32 __attribute__((vector_size(4 * LANES)));
typedef int32_t i32 __attribute__((vector_size(4 * LANES)));
typedef int64_t i64 __attribute__((vector_size(4 * LANES)));
typedef uint16_t u16 __attribute__((vector_size(2 * LANES)));

typedef float stored_f32;
typedef double stored_f64;
typedef uint16_t stored_bf16, stored_f16;
enum { lanes_f32 = LANES, lanes_f64 = LANES / 2 };

INLINE float root_f32(float value) { return __builtin_sqrtf(value); }
INLINE double root_f64(double value) { return __builtin_sqrt(value); }

/* ---- a b + c and c - a b, rounded once if the processor can; nothing else is contracted (-ffp-contract=off), so that
 * all copies of a loop round equally ---- */

#if defined(__AVX512F__)
INLINE f32 fma_f32(f32 a, f32 b, f32 c) { return (f32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE f64 fma_f64(f64 a, f64 b, f64 c) { return (f64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
INLINE f32 less_f32(f32 c, f32 a, f32 b) { return (f32)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE f64 less_f64(f64 c, f64 a, f64 b) { return (f64)_mm512_fnmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif defined(__AVX2__)
INLINE f32 fma_f32(f32 a, f32 b, f32 c) { return (f32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE f64 fma_f64(f64 a, f64 b, f64 c) { return (f64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
INLINE f32 less_f32(f32 c, f32 a, f32 b) { return (f32)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE f64 less_f64(f64 c, f64 a, f64 b) { return (f64)_mm256_fnmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#elif defined(__aarch64__)
INLINE f32 fma_f32(f32 a, f32 b, f32 c) { return (f32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE f64 fma_f64(f64 a, f64 b, f64 c) { return (f64)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
INLINE f32 less_f32(f32 c, f32 a, f32 b) { return (f32)vfmsq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE f64 less_f64(f64 c, f64 a, f64 b) { return (f64)vfmsq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
#else
INLINE f32 fma_f32(f32 a, f32 b, f32 c) { return a * b + c; }
INLINE f64 fma_f64(f64 a, f64 b, f64 c) { return a * b + c; }
INLINE f32 less_f32(f32 c, f32 a, f32 b) { return c - a * b; }
INLINE f64 less_f64(f64 c, f64 a, f64 b) { return c - a * b; }
#endif

/* ---- sums of all lanes, in an order that depends only on the instruction set ---- */

#if defined(__AVX512F__)
INLINE float total_f32(f32 v) { return _mm512_reduce_add_ps((__m512)v); }
INLINE double total_f64(f64 v) { return _mm512_reduce_add_pd((__m512d)v); }
#elif defined(__AVX2__)
INLINE float total_f32(f32 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE double total_f64(f64 v) {
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128((__m256d)v), _mm256_extractf128_pd((__m256d)v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}
#else
INLINE float total_f32(f32 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
INLINE double total_f64(f64 v) { return v[0] + v[1]; }
#endif

/* ---- storage: float, double ---- */

INLINE f32 load_f32(const float *p) { f32 v; memcpy(&v, p, sizeof v); return v; }
INLINE void store_f32(float *p, f32 v) { memcpy(p, &v, sizeof v); }
INLINE f64 load_f64(const double *p) { f64 v; memcpy(&v, p, sizeof v); return v; }
INLINE void store_f64(double *p, f64 v) { memcpy(p, &v, sizeof v); }

#if defined(__AVX512F__)
INLINE f32 load_f32_part(const float *p, int n) { return (f32)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void store_f32_part(float *p, f32 v, int n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
INLINE f64 load_f64_part(const double *p, int n) { return (f64)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p); }
INLINE void store_f64_part(double *p, f64 v, int n) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
}
#else
SELDOM f32 load_f32_part(const float *p, int n) {
    f32 v = {0};
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
}
SELDOM void store_f32_part(float *p, f32 v, int n) { for (int i = 0; i < n; i++) p[i] = v[i]; }
SELDOM f64 load_f64_part(const double *p, int n) {
    f64 v = {0};
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
}
SELDOM void store_f64_part(double *p, f64 v, int n) { for (int i = 0; i < n; i++) p[i] = v[i]; }
#endif

/* ---- storage: bfloat16, the upper half of a float, rounded to nearest even ---- */

INLINE f32 widen_bf16(u16 h) { return (f32)(__builtin_convertvector(h, u32) << 16); }
INLINE u16 narrow_bf16(f32 v) {
#if defined(__AVX512BF16__)
    return (u16)_mm512_cvtneps_pbh((__m512)v);
#else
    u32 bits = (u32)v;
    u32 rounded = bits + 0x7fff + ((bits >> 16) & 1);
    u32 nan = (u32)(v != v);
    u32 chosen = (rounded & ~nan) | ((bits | 0x400000) & nan);
    return __builtin_convertvector(chosen >> 16, u16);
#endif
}

/* ---- storage: float16 ---- */

#if defined(__AVX512F__)
INLINE f32 widen_f16(u16 h) { return (f32)_mm512_cvtph_ps((__m256i)h); }
INLINE u16 narrow_f16(f32 v) { return (u16)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__AVX2__)
INLINE f32 widen_f16(u16 h) { return (f32)_mm256_cvtph_ps((__m128i)h); }
INLINE u16 narrow_f16(f32 v) { return (u16)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__aarch64__)
INLINE f32 widen_f16(u16 h) { return (f32)vcvt_f32_f16((float16x4_t)h); }
INLINE u16 narrow_f16(f32 v) { return (u16)vcvt_f16_f32((float32x4_t)v); }
#else
INLINE f32 widen_f16(u16 h) {
    u32 bits = __builtin_convertvector(h, u32);
    /* The biases of the exponents differ by 112; the product is exact, including subnormal numbers. */
    f32 scaled = (f32)((bits & 0x7fff) << 13) * 0x1p112f;
    u32 special = (u32)((bits & 0x7c00) == 0x7c00);
    return (f32)(((u32)scaled | (special & 0x7f800000)) | ((bits & 0x8000) << 16));
}
SELDOM u16 narrow_f16(f32 v) {
    u16 out;
    for (int i = 0; i < LANES; i++) {
        float one = v[i];
        uint32_t bits;
        memcpy(&bits, &one, 4);
        uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff, half;
        if (magnitude > 0x7f800000) half = 0x7e00;
        else if (magnitude >= 0x477ff000) half = 0x7c00; /* 65520 and above round to infinity */
        else if (magnitude >= 0x38800000) half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
        else { /* subnormal: after adding 0.5, the last bits of the sum are the rounded result */
            float positive, sum;
            memcpy(&positive, &magnitude, 4);
            sum = positive + 0.5f;
            memcpy(&half, &sum, 4);
            half -= 0x3f000000;
        }
        out[i] = (uint16_t)(half | sign);
    }
    return out;
}
#endif

#if defined(__AVX512F__)
INLINE u16 load_u16_part(const uint16_t *p, int n) {
    return (u16)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p);
}
INLINE void store_u16_part(uint16_t *p, u16 v, int n) {
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)v);
}
#else
SELDOM u16 load_u16_part(const uint16_t *p, int n) {
    u16 v = {0};
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
}
SELDOM void store_u16_part(uint16_t *p, u16 v, int n) { for (int i = 0; i < n; i++) p[i] = v[i]; }
#endif

INLINE u16 load_u16(const uint16_t *p) { u16 v; memcpy(&v, p, sizeof v); return v; }
INLINE void store_u16(uint16_t *p, u16 v) { memcpy(p, &v, sizeof v); }
#define HALVES(type)                                                                                             \
    INLINE f32 load_##type(const uint16_t *p) { return widen_##type(load_u16(p)); }                             \
    INLINE f32 load_##type##_part(const uint16_t *p, int n) { return widen_##type(load_u16_part(p, n)); }        \
    INLINE void store_##type(uint16_t *p, f32 v) { store_u16(p, narrow_##type(v)); }                            \
    INLINE void store_##type##_part(uint16_t *p, f32 v, int n) { store_u16_part(p, narrow_##type(v), n); }
HALVES(bf16)
HALVES(f16)
#undef HALVES

/* ---- two vectors at once: load2 in a fixed, unspecified order; store2 in order ---- */

#define PAIRS(type, V, T, n)                                                                          \
    INLINE void load2_##type(const T *p, V *a, V *b) { *a = load_##type(p); *b = load_##type(p + n); }
PAIRS(f32, f32, float, LANES)
PAIRS(f64, f64, double, LANES / 2)
PAIRS(f16, f32, uint16_t, LANES)
#undef PAIRS
/* Even entries are the lower halves of 32-bit words, odd entries the upper halves. */
INLINE void load2_bf16(const uint16_t *p, f32 *a, f32 *b) {
    u32 both;
    memcpy(&both, p, sizeof both);
    *a = (f32)(both << 16);
    *b = (f32)(both & 0xffff0000);
}

/* ---- entries of two vectors, added to a and b ---- */

#define PAIRS(type, V, T)                                              \
    INLINE void add2_##type(const T *p, V *a, V *b) {                  \
        V v, w;                                                        \
        load2_##type(p, &v, &w);                                       \
        *a += v;                                                       \
        *b += w;                                                       \
    }
PAIRS(f32, f32, float)
PAIRS(f64, f64, double)
PAIRS(f16, f32, uint16_t)
#if defined(__AVX512BF16__)
INLINE void add2_bf16(const uint16_t *p, f32 *a, f32 *b) {
    /* A dot product with ones adds adjacent entries without a conversion. */
    *a = (f32)_mm512_dpbf16_ps((__m512)*a, (__m512bh)_mm512_loadu_si512(p), (__m512bh)_mm512_set1_epi16(0x3f80));
    (void)b;
}
#else
PAIRS(bf16, f32, uint16_t)
#endif
#undef PAIRS

/* around: bypass the caches, for outputs larger than these; p must be aligned to a vector. */
#if defined(__AVX512F__)
INLINE void pass_by(void *p, f32 v) { _mm512_stream_ps((float *)p, (__m512)v); }
INLINE void pass_by_half(void *p, u16 v) { _mm256_stream_si256((__m256i *)p, (__m256i)v); }
#elif defined(__AVX2__)
INLINE void pass_by(void *p, f32 v) { _mm256_stream_ps((float *)p, (__m256)v); }
INLINE void pass_by_half(void *p, u16 v) { _mm_stream_si128((__m128i *)p, (__m128i)v); }
#else
INLINE void pass_by(void *p, f32 v) { memcpy(p, &v, sizeof v); }
INLINE void pass_by_half(void *p, u16 v) { memcpy(p, &v, sizeof v); }
#endif

INLINE void store2_f32(float *p, f32 a, f32 b, int around) {
    if (around) {
        pass_by(p, a);
        pass_by(p + LANES, b);
    } else {
        store_f32(p, a);
        store_f32(p + LANES, b);
    }
}
INLINE void store2_f64(double *p, f64 a, f64 b, int around) {
    if (around) {
        pass_by(p, (f32)a);
        pass_by(p + LANES / 2, (f32)b);
    } else {
        store_f64(p, a);
        store_f64(p + LANES / 2, b);
    }
}
INLINE void store2_u16(uint16_t *p, u16 a, u16 b, int around) {
    if (around) {
        pass_by_half(p, a);
        pass_by_half(p + LANES, b);
    } else {
        store_u16(p, a);
        store_u16(p + LANES, b);
    }
}
INLINE void store2_f16(uint16_t *p, f32 a, f32 b, int around) { store2_u16(p, narrow_f16(a), narrow_f16(b), around); }
INLINE void store2_bf16(uint16_t *p, f32 a, f32 b, int around) {
#if defined(__AVX512BF16__)
    f32 both = (f32)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
    if (around) pass_by(p, both);
    else memcpy(p, &both, sizeof both);
#else
    store2_u16(p, narrow_bf16(a), narrow_bf16(b), around);
#endif
}

/* ---- lanes below n; the others are zero ---- */

INLINE f32 first_f32(f32 v, int n) {
    i32 index;
    for (int i = 0; i < LANES; i++) index[i] = i;
    return (f32)((i32)v & (index < n));
}
INLINE f64 first_f64(f64 v, int n) {
    i64 index;
    for (int i = 0; i < LANES / 2; i++) index[i] = i;
    return (f64)((i64)v & (index < (int64_t)n));
}
