/* The empirical kernels from their definition, in long double and plain loops. */
#ifndef TESTS_SUPPORT_GRAM_REF_H
#define TESTS_SUPPORT_GRAM_REF_H
#include "prefix_ntk/ntk.h"

/* dF_k(x_i)/dw_r, all of it (NTK_FULL) or the key-path term alone, into
 * J[((i d + k) m + r) d + c]. */
void jacobian_ref(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                  enum ntk_kernel kernel, long double *J);

/* (1/m) J J^T, newly allocated. */
gsl_matrix *gram_ref(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                     enum ntk_kernel kernel);

/* Inputs of norm about 1 and a prefix drawn by the law, newly allocated. */
struct gram_case {
    size_t n, d, m;
    gsl_matrix *X, *W, *gram;       /* gram: room for a result */
    gsl_vector *signs;
};
struct gram_case gram_case_make(size_t n, size_t d, size_t m, enum prefix_signs law, double sigma,
                                uint64_t trial);
void gram_case_free(struct gram_case *c);

#endif
