/* Vector arithmetic for kernel files, in double: one vector type per instruction
 * set (GCC vector extensions) and exp on it. Include from *_kernel.c only. */
#ifndef THEORY_VMATH_H
#define THEORY_VMATH_H
#include <stdint.h>

#if defined(ISA_AVX512)
#define VMATH_LANES 8
#elif defined(ISA_AVX2)
#define VMATH_LANES 4
#else
#define VMATH_LANES 2
#endif

typedef double vdouble __attribute__((vector_size(8 * VMATH_LANES)));
typedef int64_t vint64 __attribute__((vector_size(8 * VMATH_LANES)));

/* e^x to 1.5 ulp for -708 <= x <= 709; smaller x (-infinity too) give 0,
 * larger ones are not for this routine; NaN stays NaN.
 *
 * x = j ln 2 + t with |t| <= ln 2 / 2: Taylor's polynomial of degree 13 leaves
 * t^14/14! < 5e-18, and 2^j goes into the exponent field. */
static inline __attribute__((always_inline)) vdouble vmath_exp(vdouble x)
{
    const double magic = 0x1.8p52;               /* adding it rounds to an integer */
    const vint64 tiny = x < -708.0;
    const vdouble shifted = x * 0x1.71547652b82fep0 + magic;
    const vdouble j = shifted - magic;
    vdouble t = x - j * 0x1.62e42fefa3800p-1;    /* ln 2, high part: j times it is exact */
    t = t - j * 0x1.ef35793c76730p-45;
    vdouble p = t * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
    p = p * t + 1.0 / 39916800.0;
    p = p * t + 1.0 / 3628800.0;
    p = p * t + 1.0 / 362880.0;
    p = p * t + 1.0 / 40320.0;
    p = p * t + 1.0 / 5040.0;
    p = p * t + 1.0 / 720.0;
    p = p * t + 1.0 / 120.0;
    p = p * t + 1.0 / 24.0;
    p = p * t + 1.0 / 6.0;
    p = p * t + 0.5;
    p = p * t + 1.0;
    p = p * t + 1.0;
    return (vdouble)(((vint64)p + ((vint64)shifted << 52)) & ~tiny);
}

/* The larger of each pair; b where a is NaN. */
static inline __attribute__((always_inline)) vdouble vmath_max(vdouble a, vdouble b)
{
    const vint64 larger = a > b;
    return (vdouble)(((vint64)a & larger) | ((vint64)b & ~larger));
}

#endif
