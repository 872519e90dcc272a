#include "theory/prefix_tokens.h"

#include <math.h>
#include <string.h>
#include <gsl/gsl_errno.h>
#include "common/parallel.h"
#include "common/random.h"

void prefix_tokens_read(const struct prefix_tokens *tokens, size_t first, size_t count, double *W,
                        double *signs)
{
    const size_t d = tokens->dim, half = tokens->prefix_len / 2;
    for (size_t t = 0; t < count; t++, W += d) {
        const size_t r = first + t;
        if (tokens->W) {
            memcpy(W, gsl_matrix_const_ptr(tokens->W, r, 0), d * sizeof *W);
            signs[t] = gsl_vector_get(tokens->signs, r);
            continue;
        }
        const int twin = tokens->law == PREFIX_SIGNS_MIRRORED && r >= half;
        random_normal(tokens->seed, RANDOM_PREFIX, tokens->trial, twin ? r - half : r, W, d);
        for (size_t k = 0; k < d; k++) W[k] *= tokens->sigma;
        signs[t] = tokens->law == PREFIX_SIGNS_RANDOM
                       ? random_sign(tokens->seed, RANDOM_SIGNS, tokens->trial, r)
                       : twin ? -1.0 : 1.0;
    }
}

int prefix_draw(uint64_t seed, uint64_t trial, enum prefix_signs law, double sigma, gsl_matrix *W,
                gsl_vector *signs, int num_threads)
{
    const size_t m = W->size1, d = W->size2;
    if (signs->size != m) return GSL_EBADLEN;
    if (!(sigma > 0.0) || !isfinite(sigma)) return GSL_EDOM;
    const int mirrored = law == PREFIX_SIGNS_MIRRORED;
    if (mirrored && m % 2) return GSL_EINVAL;
    const struct prefix_tokens tokens = {
        .prefix_len = m, .dim = d, .seed = seed, .trial = trial, .law = law, .sigma = sigma
    };
    const size_t drawn = mirrored ? m / 2 : m;
    const int threads = drawn * d > 65536 ? parallel_openmp_threads(num_threads) : 1;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (size_t r = 0; r < drawn; r++) {
        double *w = gsl_matrix_ptr(W, r, 0), a;
        prefix_tokens_read(&tokens, r, 1, w, &a);
        gsl_vector_set(signs, r, a);
        if (mirrored) {
            memcpy(gsl_matrix_ptr(W, r + drawn, 0), w, d * sizeof *w);
            gsl_vector_set(signs, r + drawn, -a);
        }
    }
    return GSL_SUCCESS;
}
