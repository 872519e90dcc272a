/* One row of a partial result (attention.h): merged and finished. */
#ifndef ATTENTION_PARTIAL_H
#define ATTENTION_PARTIAL_H
#include <math.h>
#include <stdbool.h>
#include <stddef.h>

/* into = into + from for one row. */
static inline void merge_row(float *into, float into_row[2], const float *from, const float from_row[2], size_t d)
{
    const float shift = fmaxf(into_row[0], from_row[0]);
    if (from_row[0] == -INFINITY && from_row[1] == 0.0f) return;
    const float a = into_row[0] == -INFINITY ? 0.0f : exp2f(into_row[0] - shift), b = exp2f(from_row[0] - shift);
#pragma omp simd
    for (size_t c = 0; c < d; c++) into[c] = a * into[c] + b * from[c];
    into_row[0] = shift;
    into_row[1] = a * into_row[1] + b * from_row[1];
}

static inline bool normaliser_is_good(float mass) { return mass > 0.0f && mass < INFINITY; }

/* values / mass, or 0 and false where mass is not positive and finite. */
static inline bool finish_row(float *values, float mass, size_t d)
{
    const bool good = normaliser_is_good(mass);
    const float by = 1.0f / mass;
    for (size_t c = 0; c < d; c++) values[c] = good ? values[c] * by : 0.0f;
    return good;
}

#endif
