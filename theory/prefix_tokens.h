/* Tokens by number, from a stored prefix or straight from the random streams, so
 * that passes over a long prefix need a block of it at a time. */
#ifndef THEORY_PREFIX_TOKENS_H
#define THEORY_PREFIX_TOKENS_H
#include "prefix_ntk/prefix_model.h"

struct prefix_tokens {
    size_t prefix_len, dim;
    const gsl_matrix *W;            /* stored; NULL: drawn, with what follows */
    const gsl_vector *signs;
    uint64_t seed, trial;
    enum prefix_signs law;
    double sigma;
};

/* Tokens [first, first + count) into W (count, dim) and signs (count). Mirrored and
 * drawn: token r + prefix_len/2 repeats r with the opposite sign. */
void prefix_tokens_read(const struct prefix_tokens *tokens, size_t first, size_t count, double *W,
                        double *signs);

#endif
