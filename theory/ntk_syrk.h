/* The SYRK route over tokens by number: ntk_gram_syrk without the prefix in memory. */
#ifndef THEORY_NTK_SYRK_H
#define THEORY_NTK_SYRK_H
#include "prefix_ntk/ntk.h"
#include "theory/prefix_tokens.h"

int ntk_syrk_tokens(const struct prefix_tokens *tokens, const gsl_matrix *X, enum ntk_kernel kernel,
                    gsl_matrix *gram, int num_threads);

size_t ntk_syrk_bytes(size_t num_samples, size_t dim);

#endif
