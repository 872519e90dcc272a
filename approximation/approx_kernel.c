/* e^x over an array, written so that the compiler vectorises it. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "approximation/approx_kernel.h"

/* Adding 1.5 2^52 leaves the rounded integer in the low bits of the sum. */
static const double round_magic = 0x1.8p52;

void ISA_NAME(approx_exp)(size_t n, const double *x, double *y)
{
    for (size_t i = 0; i < n; i++) {
        const double v = x[i];
        double c = v < -708.0 ? -708.0 : v;
        c = c > 709.0 ? 709.0 : c;
        const double shifted = c * 0x1.71547652b82fep0 + round_magic;
        const double q = shifted - round_magic;
        /* ln 2 in two parts: the first has trailing zeros, so q ln2_hi is exact. */
        double t = c - q * 0x1.62e42fefa0000p-1;
        t = t - q * 0x1.cf79abc9e3b3ap-40;
        /* Taylor to degree 13 on |t| <= ln(2)/2: remainder below 2^-57. */
        double p = 1.0 / 6227020800.0;
        p = p * t + 1.0 / 479001600.0;
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
        int64_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        /* 2^(q-1), doubled below, so that q = 1024 does not overflow the exponent. */
        bits = (int64_t)((uint64_t)(bits + 1022) << 52);
        double half;
        memcpy(&half, &bits, sizeof half);
        double r = p * half * 2.0;
        r = v < -708.0 ? 0.0 : r;
        r = v > 709.0 ? (double)__builtin_inf() : r;
        y[i] = v == v ? r : v;
    }
}
