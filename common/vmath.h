/* Vector arithmetic for kernel files, in double: one vector type per instruction
 * set (GCC vector extensions) and exp on it. Include from *_kernel.c only. */
#ifndef THEORY_VMATH_H
#define THEORY_VMATH_H
#include <stdint.h>
#if defined(ISA_AVX512)
#include <immintrin.h>
#endif

#if defined(ISA_AVX512)
#define VMATH_LANES 8
#elif defined(ISA_AVX2)
#define VMATH_LANES 4
#else                           /* NEON, SSE2, or pairs of scalars */
#define VMATH_LANES 2
#endif

typedef double vdouble __attribute__((vector_size(8 * VMATH_LANES)));
typedef int64_t vint64 __attribute__((vector_size(8 * VMATH_LANES)));

/* e^t for x = j ln 2 + t with |t| <= ln 2 / 2, j an integer, x log2(e) rounded:
 * 1 + t + t^2 q(t) with q of degree 10 of least relative error of e^t (below 1e-18;
 * exchange on the weighted error). */
static inline __attribute__((always_inline)) vdouble vmath_exp_rest(vdouble x, vdouble j)
{
    vdouble t = x - j * 0x1.62e42fee00000p-1;    /* ln 2, high part: j times it is exact */
    t = t - j * 0x1.a39ef35793c76p-33;
    const vdouble t2 = t * t, t4 = t2 * t2;
    const vdouble q0 = t * 0x1.555555555555bp-3 + 0x1.0000000000000p-1;
    const vdouble q1 = t * 0x1.111111110ec5cp-7 + 0x1.5555555555503p-5;
    const vdouble q2 = t * 0x1.a01a01b37e959p-13 + 0x1.6c16c16c3049dp-10;
    const vdouble q3 = t * 0x1.71ddf02003ca2p-19 + 0x1.a01a01368bdbap-16;
    const vdouble q4 = t * 0x1.af6be91bf2dcep-26 + 0x1.27e5b44c1d3b5p-22;
    const vdouble low = t2 * q1 + q0, middle = t2 * q3 + q2;
    const vdouble high = t2 * 0x1.1e3d25faa04a9p-29 + q4;
    return 1.0 + (t2 * (t4 * (t4 * high + middle) + low) + t);
}

/* e^x 2^-k for integers k, within 1 ulp: 0 when that is below 2^-1022, never to be
 * used above 2^1023; NaN stays NaN. Scaling is exact: for k = 0 and any other k the
 * results differ by 2^k and nothing else. |x| up to 2^20. */
static inline __attribute__((always_inline)) vdouble vmath_exp_scaled(vdouble x, vdouble k)
{
    const double magic = 0x1.8p52;               /* adding it rounds to an integer */
    const vdouble j = (x * 0x1.71547652b82fep0 + magic) - magic;
    const vdouble p = vmath_exp_rest(x, j);
    /* 2^e: e + 1023 lands in the low bits of a double, then in the exponent field. */
    const vdouble e = j - k;
    const vint64 tiny = e < -1021.0;
    const vint64 power = (vint64)(e + (magic + 1023.0)) << 52;
    return (vdouble)((vint64)(p * (vdouble)power) & ~tiny);
}

/* e^x, x <= 709; 0 below -708 (-infinity too); NaN stays NaN. */
static inline __attribute__((always_inline)) vdouble vmath_exp(vdouble x)
{
#if defined(ISA_AVX512)
    const __mmask8 counts = _mm512_cmp_pd_mask((__m512d)x, _mm512_set1_pd(-708.0), _CMP_NLT_UQ);
    const vdouble j = (vdouble)_mm512_roundscale_pd((__m512d)(x * 0x1.71547652b82fep0), 0);
    return (vdouble)_mm512_maskz_scalef_pd(counts, (__m512d)vmath_exp_rest(x, j), (__m512d)j);
#else
    const vint64 tiny = x < -708.0;
    return (vdouble)((vint64)vmath_exp_scaled(x, (vdouble){ 0 }) & ~tiny);
#endif
}

/* The larger of each pair; b where a is NaN. */
static inline __attribute__((always_inline)) vdouble vmath_max(vdouble a, vdouble b)
{
    const vint64 larger = a > b;
    return (vdouble)(((vint64)a & larger) | ((vint64)b & ~larger));
}

#endif
