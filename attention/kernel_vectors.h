/* One vector of float32 per instruction set (GCC vector extensions) and what the attention kernels do
 * with it. Include from *_kernel.c only. */
#ifndef ATTENTION_KERNEL_VECTORS_H
#define ATTENTION_KERNEL_VECTORS_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/isa.h"

#if defined(ISA_AVX512)
#include <immintrin.h>
enum { VW = 16, NV = 4 };
#define WIDTH 16
#elif defined(ISA_AVX2)
#include <immintrin.h>
enum { VW = 8, NV = 2 };
#define WIDTH 8
#elif defined(ISA_NEON)
enum { VW = 4, NV = 4 };        /* 24 sums of 32 registers */
#define WIDTH 4
#else
enum { VW = 4, NV = 2 };
#define WIDTH 4
#endif

typedef float vf __attribute__((vector_size(4 * WIDTH)));
typedef int32_t vi __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t vu __attribute__((vector_size(4 * WIDTH)));
typedef float vf_any __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE vf load(const float *p) { return *(const vf_any *)p; }
INLINE void store(float *p, vf x) { *(vf_any *)p = x; }
INLINE vf splat(float x) { return x - (vf){ 0 }; }
INLINE vi splat_int(int32_t x) { return x - (vi){ 0 }; }
INLINE size_t least(size_t a, size_t b) { return a < b ? a : b; }
INLINE size_t round16(size_t n) { return (n + 15) / 16 * 16; }

/* mask (all ones or zero per lane) ? a : b. */
INLINE vf choose(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

INLINE vf vmax(vf a, vf b)
{
#if defined(ISA_AVX512)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(ISA_AVX2)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

INLINE vi lane_index(void)
{
    vi x;
    for (int i = 0; i < VW; i++) x[i] = i;
    return x;
}

INLINE float horizontal_sum(vf x)
{
#if defined(ISA_AVX512)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = 0.0f;
    for (int i = 0; i < VW; i++) sum += x[i];
    return sum;
#endif
}

INLINE float horizontal_max(vf x)
{
#if defined(ISA_AVX512)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float max = x[0];
    for (int i = 1; i < VW; i++) max = x[i] > max ? x[i] : max;
    return max;
#endif
}

/* 2^x for x up to 0 and a little above: relative error 1e-7; 0 far below, where the
 * float32 sum it enters cannot see it; NaN stays NaN, -inf gives 0. */
INLINE vf vexp2(vf x)
{
#if defined(ISA_AVX512)
    /* 2^f on [0, 1), best relative error 8.2e-8 with p(0) = 1, then 2^floor(x). */
    const vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = splat(0x1.e974fa8e82295p-10f);
    p = p * f + splat(0x1.27785516df8e9p-7f);
    p = p * f + splat(0x1.c91ce6429c3fap-5f);
    p = p * f + splat(0x1.ebdb56d7f848fp-3f);
    p = p * f + splat(0x1.62e4ba8ec91e6p-1f);
    p = p * f + splat(1.0f);
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    /* Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. */
    const vf magic = splat(0x1.8p23f), n = x + magic, f = x - (n - magic);
    vf p = splat(0x1.43fffc90db59cp-13f);
    p = p * f + splat(0x1.5f48c04f62e50p-10f);
    p = p * f + splat(0x1.3b2a1b7152befp-7f);
    p = p * f + splat(0x1.c6aecc669b6ddp-5f);
    p = p * f + splat(0x1.ebfbe045f4d3cp-3f);
    p = p * f + splat(0x1.62e430d034702p-1f);
    p = p * f + splat(1.0f);
    /* Unsigned: for a NaN the sum wraps, and the last line puts it right. */
    const vi bits = (vi)((vu)p + ((vu)n << 23));
    return (vf)((bits & ~(x <= splat(-125.0f))) | (x != x));
#endif
}

/* Whether every lane of a mask is set. */
INLINE int every_lane(vi mask)
{
#if defined(ISA_AVX512)
    return _mm512_movepi32_mask((__m512i)mask) == 0xffff;
#elif defined(ISA_AVX2)
    return _mm256_movemask_ps((__m256)mask) == 0xff;
#else
    int all = -1;
    for (int i = 0; i < VW; i++) all &= mask[i];
    return all != 0;
#endif
}

INLINE vf vceil(vf x)
{
#if defined(ISA_AVX512)
    return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
#elif defined(ISA_AVX2)
    return (vf)_mm256_ceil_ps((__m256)x);
#else
    for (int i = 0; i < VW; i++) x[i] = ceilf(x[i]);
    return x;
#endif
}

/* to = by * from, n numbers; to may be from. */
INLINE void scaled(float *to, const float *from, float by, size_t n)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) store(to + i, by * load(from + i));
    for (; i < n; i++) to[i] = by * from[i];
}

/* to += by * from. */
INLINE void add_scaled(float *to, const float *from, float by, size_t n)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) store(to + i, load(to + i) + by * load(from + i));
    for (; i < n; i++) to[i] += by * from[i];
}

/* Whether every number of `rows` rows of n is finite. */
static __attribute__((unused)) int all_finite(const float *x, ptrdiff_t row, size_t rows, size_t n)
{
    vf sum = { 0 };
    float rest = 0.0f;
    for (size_t r = 0; r < rows; r++, x += row) {
        size_t i = 0;
        for (; i + VW <= n; i += VW) sum += load(x + i) * 0.0f;
        for (; i < n; i++) rest += x[i] * 0.0f;
    }
    return horizontal_sum(sum) + rest == 0.0f;
}

/* 2^e as a float, saturating to 0 and inf. */
INLINE float power_of_two(int e)
{
    if (e < -126) return e < -149 ? 0.0f : ldexpf(1.0f, e);
    if (e > 127) return INFINITY;
    union { uint32_t bits; float value; } u = { (uint32_t)(e + 127) << 23 };
    return u.value;
}

/* sum_i a_i b_i. */
static __attribute__((unused)) double dot(const float *a, const float *b, size_t n)
{
    vf sum = { 0 };
    size_t i = 0;
    for (; i + VW <= n; i += VW) sum += load(a + i) * load(b + i);
    double total = horizontal_sum(sum);
    for (; i < n; i++) total += (double)a[i] * (double)b[i];
    return total;
}

/* elu(x root) + 1. */
INLINE vf elu1(vf x, float root)
{
    const vf z = x * root;
    const vi positive = z > (vf){ 0 };
    const vf e = vexp2(choose(positive, (vf){ 0 }, z) * 0x1.715476p+0f);
    return choose(positive, z + 1.0f, e);
}

/* Of one row, padded with 0 to a multiple of 16. */
INLINE void elu1_row(const float *x, size_t head_dim, size_t padded, float root, float *phi)
{
    size_t c = 0;
    for (; c + VW <= head_dim; c += VW) store(phi + c, elu1(load(x + c), root));
    if (c == padded) return;
    float rest[16] = { 0 };
    const size_t left = head_dim - c;
    if (left) memcpy(rest, x + c, left * sizeof *rest);
    for (size_t i = 0; i < left; i += VW) store(rest + i, elu1(load(rest + i), root));
    for (size_t i = left; i < 16; i++) rest[i] = 0.0f;
    memcpy(phi + c, rest, (padded - c) * sizeof *rest);
}

/* Two vectors exchanging the off-diagonal t x t blocks of every 2t x 2t block: lane lists for
 * __builtin_shufflevector. */
#if WIDTH == 16
#define LANES(f, t) f(0, t), f(1, t), f(2, t), f(3, t), f(4, t), f(5, t), f(6, t), f(7, t), \
                      f(8, t), f(9, t), f(10, t), f(11, t), f(12, t), f(13, t), f(14, t), f(15, t)
#elif WIDTH == 8
#define LANES(f, t) f(0, t), f(1, t), f(2, t), f(3, t), f(4, t), f(5, t), f(6, t), f(7, t)
#else
#define LANES(f, t) f(0, t), f(1, t), f(2, t), f(3, t)
#endif
#define FIRST(lane, t) (((lane) & (t)) ? WIDTH + (lane) - (t) : (lane))
#define SECOND(lane, t) (((lane) & (t)) ? WIDTH + (lane) : (lane) + (t))

/* One stage exchanges the off-diagonal t x t blocks of every 2t x 2t block. */
#define STAGE(t)                                                            \
    do {                                                                    \
        UNROLL for (int i = 0; i < VW; i++)                                 \
            if (!(i & (t))) {                                               \
                const vf a = x[i], b = x[i + (t)];                          \
                x[i] = __builtin_shufflevector(a, b, LANES(FIRST, t));      \
                x[i + (t)] = __builtin_shufflevector(a, b, LANES(SECOND, t)); \
            }                                                               \
    } while (0)

INLINE void transpose_square(vf x[VW])
{
#if WIDTH == 16
    STAGE(8);
#endif
#if WIDTH >= 8
    STAGE(4);
#endif
    STAGE(2);
    STAGE(1);
}

/* x[i] = row i of `count` rows of `cols` numbers, 0 beyond either. */
INLINE void load_square(const float *from, ptrdiff_t row, size_t count, size_t cols, vf x[VW])
{
    if (count == VW && cols == VW) {
        UNROLL for (int i = 0; i < VW; i++) x[i] = load(from + i * row);
        return;
    }
    float square[VW * VW];
    memset(square, 0, sizeof square);
    for (size_t i = 0; i < count; i++) memcpy(square + i * VW, from + (ptrdiff_t)i * row, cols * sizeof *square);
    UNROLL for (int i = 0; i < VW; i++) x[i] = load(square + i * VW);
}

#endif
