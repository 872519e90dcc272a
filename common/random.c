#include "common/random.h"

#include <Random123/philox.h>
#include <math.h>
#include <string.h>

/* Philox's key is (seed, purpose), its counter (trial, row, block): 256 bits leave
 * room for every coordinate at full width, so no two streams can overlap. */
static inline philox4x64_ctr_t block_of(philox4x64_key_t key, uint64_t trial, uint64_t row,
                                        uint64_t block)
{
    const philox4x64_ctr_t counter = { { trial, row, block, 0 } };
    return philox4x64(counter, key);
}

static inline philox4x64_key_t key_of(uint64_t seed, enum random_purpose purpose)
{
    const philox4x64_key_t key = { { seed, (uint64_t)purpose } };
    return key;
}

/* The 52 leading bits as an odd multiple of 2^-53: neither 0 nor 1 can occur. */
static inline double unit_of(uint64_t bits)
{
    const uint64_t in_one_two = (bits >> 12) | UINT64_C(0x3ff0000000000000);
    double x;
    memcpy(&x, &in_one_two, sizeof x);
    return (x - 1.0) + 0x1p-53;
}

/* Eight normals from eight words by Box-Muller: radius from words 0..3, direction
 * from words 4..7. Logarithm, sine and cosine are written out in elementary
 * operations, each rounded once, so that every machine, compiler and C library gives
 * the same bits. */
typedef double double4 __attribute__((vector_size(32)));
typedef uint64_t uint4 __attribute__((vector_size(32)));
typedef int64_t int4 __attribute__((vector_size(32)));
enum { LANES = 4, BATCH = 2 * LANES, WORDS = BATCH };

#define SELECT(mask, a, b) ((double4)(((int4)(a) & (mask)) | ((int4)(b) & ~(mask))))

/* One stretch of vector arithmetic without a branch. */
static inline void box_muller(const uint64_t words[WORDS], double out[BATCH])
{
    const uint4 one_bits = (uint4){ 0 } + UINT64_C(0x3ff0000000000000);
    const int4 sign_bit = (int4){ 0 } + INT64_MIN;
    uint4 a, b;
    memcpy(&a, words, sizeof a);
    memcpy(&b, words + LANES, sizeof b);

    /* u in (0, 1) as in unit_of. u = 2^e f with f in [sqrt(1/2), sqrt 2): adding the
     * distance from sqrt(1/2) to 1 to the bits makes the exponent field round there. */
    const double4 u = ((double4)((a >> 12) | one_bits) - 1.0) + 0x1p-53;
    const uint64_t half_root_bits = UINT64_C(0x3fe6a09e667f3bcd);
    const uint4 shifted = (uint4)u + (UINT64_C(0x3ff0000000000000) - half_root_bits);
    /* The exponent field (e + 1023) placed in the mantissa of 2^52 reads 2^52 + e + 1023. */
    const double4 e = (double4)((shifted >> 52) | UINT64_C(0x4330000000000000)) - (0x1p52 + 1023.0);
    const double4 f = (double4)((shifted & UINT64_C(0x000fffffffffffff)) + half_root_bits);

    /* log f = 2 artanh((f-1)/(f+1)), argument within 0.1716: the first omitted term
     * of the series is below 2^-56 of the sum. */
    const double4 s = (f - 1.0) / (f + 1.0), s2 = s * s;
    double4 series = (double4){ 0 } + 1.0 / 21.0;
    series = series * s2 + 1.0 / 19.0;
    series = series * s2 + 1.0 / 17.0;
    series = series * s2 + 1.0 / 15.0;
    series = series * s2 + 1.0 / 13.0;
    series = series * s2 + 1.0 / 11.0;
    series = series * s2 + 1.0 / 9.0;
    series = series * s2 + 1.0 / 7.0;
    series = series * s2 + 1.0 / 5.0;
    series = series * s2 + 1.0 / 3.0;
    const double4 log_f = 2.0 * s + 2.0 * s * (s2 * series);
    const double4 minus_two_log_u = -2.0 * (e * 0.693147180559945309417 + log_f);
    double4 radius;
    for (int i = 0; i < LANES; i++) radius[i] = sqrt(minus_two_log_u[i]);

    /* A direction within 45 degrees of the first axis, then 0..3 quarter turns: the
     * two leading bits of the word; the other bits give the angle. */
    const double4 fraction = ((double4)(((b << 2) >> 12) | one_bits) - 1.5) + 0x1p-53;
    const double4 angle = fraction * 1.57079632679489661923, t2 = angle * angle;
    double4 sine = (double4){ 0 } + 1.0 / 355687428096000.0;
    sine = sine * t2 - 1.0 / 1307674368000.0;
    sine = sine * t2 + 1.0 / 6227020800.0;
    sine = sine * t2 - 1.0 / 39916800.0;
    sine = sine * t2 + 1.0 / 362880.0;
    sine = sine * t2 - 1.0 / 5040.0;
    sine = sine * t2 + 1.0 / 120.0;
    sine = sine * t2 - 1.0 / 6.0;
    sine = angle + angle * (t2 * sine);
    double4 cosine = (double4){ 0 } + 1.0 / 20922789888000.0;
    cosine = cosine * t2 - 1.0 / 87178291200.0;
    cosine = cosine * t2 + 1.0 / 479001600.0;
    cosine = cosine * t2 - 1.0 / 3628800.0;
    cosine = cosine * t2 + 1.0 / 40320.0;
    cosine = cosine * t2 - 1.0 / 720.0;
    cosine = cosine * t2 + 1.0 / 24.0;
    cosine = cosine * t2 - 0.5;
    cosine = 1.0 + t2 * cosine;

    const int4 half_turn = (int4)b & sign_bit;
    const int4 quarter_turn = ((int4)(b << 1) & sign_bit) != 0;
    const double4 x = SELECT(quarter_turn, -sine, cosine), y = SELECT(quarter_turn, cosine, sine);
    const double4 first = radius * (double4)((int4)x ^ half_turn);
    const double4 second = radius * (double4)((int4)y ^ half_turn);
    memcpy(out, &first, sizeof first);
    memcpy(out + LANES, &second, sizeof second);
}

void random_normal(uint64_t seed, enum random_purpose purpose, uint64_t trial, uint64_t row,
                   double *out, size_t n)
{
    const philox4x64_key_t key = key_of(seed, purpose);
    for (size_t i = 0; i < n; i += BATCH) {
        uint64_t words[WORDS];
        for (size_t j = 0; j < 2; j++) {
            const philox4x64_ctr_t block = block_of(key, trial, row, 2 * (i / BATCH) + j);
            memcpy(words + 4 * j, block.v, sizeof block.v);
        }
        if (n - i >= BATCH) {
            box_muller(words, out + i);
        } else {
            double last[BATCH];
            box_muller(words, last);
            memcpy(out + i, last, (n - i) * sizeof *out);
        }
    }
}

void random_uniform(uint64_t seed, enum random_purpose purpose, uint64_t trial, uint64_t row,
                    double *out, size_t n)
{
    const philox4x64_key_t key = key_of(seed, purpose);
    for (size_t i = 0; i < n; i += 4) {
        const philox4x64_ctr_t block = block_of(key, trial, row, i / 4);
        for (size_t j = 0; j < 4 && i + j < n; j++) out[i + j] = unit_of(block.v[j]);
    }
}

double random_sign(uint64_t seed, enum random_purpose purpose, uint64_t trial, uint64_t row)
{
    return block_of(key_of(seed, purpose), trial, row, 0).v[0] >> 63 ? -1.0 : 1.0;
}

/* The high half of word * n: uniform up to n / 2^64, with no rejection. */
size_t random_index(uint64_t seed, enum random_purpose purpose, uint64_t trial, uint64_t row,
                    size_t n)
{
    const uint64_t word = block_of(key_of(seed, purpose), trial, row, 0).v[0];
    return (size_t)(((unsigned __int128)word * n) >> 64);
}
