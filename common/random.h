/* Counter-based random numbers (Random123, Philox4x64-10).
 *
 * Row `row` of trial `trial` is a function of (seed, purpose, trial, row) alone,
 * so prefixes of one trial are nested and neither grid, order, threads nor
 * processes change a number; the first numbers of a row do not depend on how many
 * are drawn. Gaussians consume a fixed number of counter values (Box-Muller), never a
 * rejection loop, and have the same bits on every machine. Thread-safe. */
#ifndef COMMON_RANDOM_H
#define COMMON_RANDOM_H
#include <stddef.h>
#include <stdint.h>

/* What a stream is drawn for: streams of different purposes are independent. */
enum random_purpose {
    RANDOM_PREFIX = 1, RANDOM_SIGNS, RANDOM_INPUTS, RANDOM_TARGETS, RANDOM_WEIGHTS,
    RANDOM_TOKENS, RANDOM_FEATURES, RANDOM_BOOTSTRAP, RANDOM_PERTURBATION, RANDOM_STARTS,
    RANDOM_OTHER
};

/* out[0..n): standard normals of row `row`. */
void random_normal(uint64_t seed, enum random_purpose purpose, uint64_t trial, uint64_t row,
                   double *out, size_t n);
/* out[0..n): uniforms in the open interval (0, 1). */
void random_uniform(uint64_t seed, enum random_purpose purpose, uint64_t trial, uint64_t row,
                    double *out, size_t n);
/* +1 or -1 with equal chance. */
double random_sign(uint64_t seed, enum random_purpose purpose, uint64_t trial, uint64_t row);
/* A number in 0..n-1 (n >= 1), for resampling. */
size_t random_index(uint64_t seed, enum random_purpose purpose, uint64_t trial, uint64_t row,
                    size_t n);

#endif
