#include "transformer/adamw_kernel.h"

#include <math.h>

#include "common/isa.h"

void ISA_NAME(adamw_update)(size_t n, const struct adamw_coefficients *c, const float *restrict grad, float *restrict m,
                            float *restrict v, float *restrict value)
{
    const float b1 = c->beta1, b2 = c->beta2, scale = c->scale, rate = c->rate, root = c->root_correction, eps = c->eps,
        keep = c->keep;
    for (size_t i = 0; i < n; i++) {
        const float g = scale * grad[i];
        m[i] = b1 * m[i] + (1.0f - b1) * g;
        v[i] = b2 * v[i] + (1.0f - b2) * g * g;
        value[i] = keep * value[i] - rate * m[i] / (sqrtf(v[i]) * root + eps);
    }
}

double ISA_NAME(adamw_square)(size_t n, const float *x)
{
    enum { LANES = 16 };
    double lanes[LANES] = { 0 }, sum = 0.0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) lanes[l] += (double)x[i + l] * (double)x[i + l];
    for (; i < n; i++) sum += (double)x[i] * (double)x[i];
    for (size_t l = 0; l < LANES; l++) sum += lanes[l];
    return sum;
}
