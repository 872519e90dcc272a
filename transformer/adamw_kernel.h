/* The update of AdamW, one per instruction set. */
#ifndef TRANSFORMER_ADAMW_KERNEL_H
#define TRANSFORMER_ADAMW_KERNEL_H
#include <stddef.h>

/* What is the same for all numbers of a parameter in one step. */
struct adamw_coefficients {
    float scale;                    /* of the gradient (clipping) */
    float beta1, beta2;
    float rate;                     /* lr / (1 - beta1^t) */
    float root_correction;          /* 1 / sqrt(1 - beta2^t) */
    float eps;
    float keep;                     /* 1 - lr weight_decay */
};

typedef void adamw_update(size_t n, const struct adamw_coefficients *c, const float *grad, float *m, float *v,
                          float *value);
typedef double adamw_square(size_t n, const float *x);

/* m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, value = keep value - rate m / (sqrt(v) correction + eps). */
adamw_update adamw_update_portable, adamw_update_avx2, adamw_update_avx512, adamw_update_neon;
/* sum x^2, in double, in a fixed order. */
adamw_square adamw_square_portable, adamw_square_avx2, adamw_square_avx512, adamw_square_neon;

#endif
