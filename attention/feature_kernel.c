/* Row kernels of the feature maps, compiled once per instruction set. */
#include "attention/feature_internal.h"
#include "common/isa.h"

#include <stdint.h>
#include <string.h>

/* e^x = 2^n e^r, n = round(x log2 e), r = x - n ln 2 in two pieces, e^r by its
 * Taylor polynomial (|r| <= ln 2 / 2), and 2^n in two factors so that results down
 * to the denormals are right. n comes out of the low bits of x log2 e + 1.5 2^p,
 * which rounds to an integer without any conversion instruction. */
static inline float exp_32(float x)
{
    const float big = 12582912.0f;                            /* 1.5 2^23 */
    x = x < -110.0f ? -110.0f : x;
    x = x > 89.0f ? 89.0f : x;
    const float shifted = x * 1.44269504f + big;
    const float n = shifted - big;
    const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits -= 0x4b400000;
    const int32_t half = bits >> 1, low = (half + 127) << 23, high = (bits - half + 127) << 23;
    float a, b;
    memcpy(&a, &low, sizeof a);
    memcpy(&b, &high, sizeof b);
    return p * a * b;
}

static inline double exp_64(double x)
{
    const double big = 6755399441055744.0;                    /* 1.5 2^52 */
    x = x < -760.0 ? -760.0 : x;
    x = x > 710.0 ? 710.0 : x;
    const double shifted = x * 1.4426950408889634 + big;
    const double n = shifted - big;
    const double r = (x - n * 0.69314718036912382) - n * 1.9082149292705877e-10;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    int64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits -= 0x4338000000000000;
    /* A shift of signed 64-bit lanes needs AVX-512: halve by adding before shifting. */
    const int64_t half = (int64_t)((uint64_t)(bits + 4096) >> 1) - 2048;
    const int64_t low = (int64_t)((uint64_t)(half + 1023) << 52);
    const int64_t high = (int64_t)((uint64_t)(bits - half + 1023) << 52);
    double a, b;
    memcpy(&a, &low, sizeof a);
    memcpy(&b, &high, sizeof b);
    return p * a * b;
}

#define REAL float
#define NAME(f) f##_32
#define ROOT root32
#include "attention/feature_kernel_rows.h"
#undef REAL
#undef NAME
#undef ROOT

#define REAL double
#define NAME(f) f##_64
#define ROOT root64
#include "attention/feature_kernel_rows.h"
#undef REAL
#undef NAME
#undef ROOT

static double max_64(size_t n, const double *x)
{
    double most = x[0];
#pragma omp simd reduction(max : most)
    for (size_t i = 1; i < n; i++) most = x[i] > most ? x[i] : most;
    return most;
}

const struct feature_kernels ISA_NAME(feature_kernels);
const struct feature_kernels ISA_NAME(feature_kernels) = {
    .elu1_32 = elu1_32, .elu1_64 = elu1_64,
    .elu1_back_32 = elu1_back_32, .elu1_back_64 = elu1_back_64,
    .monomial_32 = monomial_32, .monomial_64 = monomial_64,
    .monomial_back_32 = monomial_back_32, .monomial_back_64 = monomial_back_64,
    .exp_32 = exp_rows_32, .exp_64 = exp_rows_64,
    .weigh_32 = weigh_32, .weigh_64 = weigh_64,
    .max_64 = max_64, .max_abs_32 = max_abs_32, .max_abs_64 = max_abs_64,
    .finite_32 = finite_32, .finite_64 = finite_64,
};
