/* The two inner loops of a pass over prefix tokens, one block of tokens at a time.
 *
 * Tokens lie in vector lanes: wt is (dim, PASS_TOKENS), column r is a token; a
 * block with fewer tokens is filled up with w = 0, sign 0 and bias -infinity. */
#ifndef THEORY_PREFIX_PASS_KERNEL_H
#define THEORY_PREFIX_PASS_KERNEL_H
#include <stddef.h>
#include "common/isa.h"

enum {
    PASS_TOKENS = 32,     /* tokens of a block */
    PASS_SAMPLES = 24,    /* samples whose coefficients are held at a time */
    PASS_PAD = 8          /* columns of token rows and sums are padded to this */
};

/* A block of tokens and the sums it goes to. */
struct pass_sums {
    size_t n, dim, dim_pad;
    const double *X;                     /* (n, dim) */
    const double *wt, *bias, *rows;      /* rows (PASS_TOKENS, dim_pad) holds a_r w_r */
    const double *shift;                 /* (n): of the shifted kernel */
    double *weights;                     /* scratch (n, PASS_TOKENS) */
    double *top;                         /* (n): of the other */
    double *mass, *sum;                  /* (n), or (n, PASS_PAD) shifted; (n, dim_pad) */
};

/* Adds a block to the running softmax sums of every sample,
 *   top_i = max_r s_ir    mass_i = sum_r e^{s_ir - top_i}    sum_i = sum_r e^{s_ir - top_i} a_r w_r
 * with s_ir = <x_i, w_r> + bias_r. */
typedef void pass_accumulate_fn(const struct pass_sums *block);

/* The same with a given shift in place of the running maximum, so that nothing is
 * rescaled:  mass_i += sum_r e^{s_ir - shift_i}  and sum_i likewise. mass (n, PASS_PAD):
 * its row i is to be summed. */
typedef void pass_accumulate_shifted_fn(const struct pass_sums *block);

struct pass_gradient {
    size_t n, dim;
    const double *XR;                    /* (2 n, dim): rows 2i and 2i+1 are x_i and R_i */
    const double *offset, *c, *wt, *signs;
    double *coeff;                       /* scratch (2 PASS_SAMPLES, PASS_TOKENS) */
    double *dwt;
};

/* Loss gradient of a block, transposed:
 *   dwt_r = sum_i p_ir [ a_r R_i + (a_r <R_i,w_r> - c_i) x_i ],  p_ir = e^{s_ir - offset_i} */
typedef void pass_gradient_fn(const struct pass_gradient *block);

/* A full block of tokens from rows of W (leading dimension ld) into lanes, and their
 * a_r w_r into rows (PASS_TOKENS, dim_pad), whose padding stays as it is. */
typedef void pass_load_fn(size_t dim, size_t dim_pad, const double *W, size_t ld, const double *signs,
                          double *wt, double *rows);

/* w <- w - step_size dw in the lanes, back to the rows of W, and a_r w_r into rows. */
typedef void pass_update_fn(size_t dim, size_t dim_pad, double step_size, const double *dwt, const double *signs,
                            double *wt, double *W, size_t ld, double *rows);

/* out[i] = e^{x[i]}, for tests; n a multiple of 8. */
typedef void pass_exp_fn(const double *x, double *out, size_t n);

#define PASS_DECLARE(isa)                                                                  \
    pass_accumulate_fn ISA_PASTE(pass_accumulate, isa);                                    \
    pass_accumulate_shifted_fn ISA_PASTE(pass_accumulate_shifted, isa);                    \
    pass_gradient_fn ISA_PASTE(pass_gradient, isa);                                        \
    pass_load_fn ISA_PASTE(pass_load, isa);                                                \
    pass_update_fn ISA_PASTE(pass_update, isa);                                            \
    pass_exp_fn ISA_PASTE(pass_exp, isa);
PASS_DECLARE(portable)
PASS_DECLARE(avx2)
PASS_DECLARE(avx512)
PASS_DECLARE(neon)

#endif
