/* The kernel of a prefix at hand, and of nested random prefixes: pair moments where
 * they are accurate, the SYRK route elsewhere. */
#include "prefix_ntk/ntk.h"

#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_errno.h>
#include "common/parallel.h"
#include "theory/ntk_syrk.h"
#include "theory/prefix_tokens.h"

/* Above this dim the products of a token outgrow the caches, and the d^2/2 moments of
 * a pair the SYRK's features. */
enum { MAX_MOMENT_DIM = 256 };

/* ---- which sums a given prefix needs --------------------------------------------- */

static int is_mirrored(const gsl_matrix *W, const gsl_vector *signs)
{
    const size_t half = W->size1 / 2;
    if (W->size1 % 2) return 0;
    for (size_t r = 0; r < half; r++)
        if (gsl_vector_get(signs, r) != -gsl_vector_get(signs, r + half) ||
            memcmp(gsl_matrix_const_ptr(W, r, 0), gsl_matrix_const_ptr(W, r + half, 0), W->size2 * sizeof(double)))
            return 0;
    return 1;
}

/* 0 when some sign is not +-1, else 1 with the law that leaves out the most. */
static int find_law(const gsl_matrix *W, const gsl_vector *signs, enum prefix_signs *law)
{
    int positive = 1;
    for (size_t r = 0; r < signs->size; r++) {
        const double a = gsl_vector_get(signs, r);
        if (a != 1.0 && a != -1.0) return 0;
        positive &= a == 1.0;
    }
    *law = positive ? PREFIX_SIGNS_POSITIVE : is_mirrored(W, signs) ? PREFIX_SIGNS_MIRRORED : PREFIX_SIGNS_RANDOM;
    return 1;
}

size_t ntk_gram_workspace(size_t num_samples, size_t dim, size_t prefix_len, int num_threads)
{
    const size_t syrk = ntk_syrk_bytes(num_samples, dim);
    (void)num_threads;      /* threads share every buffer but a line of features */
    if (dim > MAX_MOMENT_DIM) return syrk;
    const size_t moments = ntk_moments_bytes(num_samples, dim, PREFIX_SIGNS_RANDOM, NTK_FULL, prefix_len);
    return moments > syrk ? moments : syrk;
}

int ntk_gram(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
             enum ntk_kernel kernel, gsl_matrix *gram, int num_threads)
{
    const size_t m = W->size1, d = W->size2, nd = X->size1 * d;
    if (!nd || !m || signs->size != m || X->size2 != d || gram->size1 != nd || gram->size2 != nd) return GSL_EBADLEN;
    enum prefix_signs law;
    if (d > MAX_MOMENT_DIM || !find_law(W, signs, &law)) return ntk_gram_syrk(W, signs, X, kernel, gram, num_threads);

    struct ntk_moments *moments = ntk_moments_alloc(X, law, kernel, num_threads);
    if (!moments) return GSL_ENOMEM;
    const size_t added = law == PREFIX_SIGNS_MIRRORED ? m / 2 : m;
    const gsl_matrix_const_view tokens = gsl_matrix_const_submatrix(W, 0, 0, added, d);
    const gsl_vector_const_view their = gsl_vector_const_subvector(signs, 0, added);
    double cancellation = 0.0;
    int status = ntk_moments_add(moments, &tokens.matrix, &their.vector);
    if (!status) status = ntk_moments_gram(moments, kernel, gram, &cancellation);
    ntk_moments_free(moments);
    if (status == GSL_ERANGE || (!status && !(cancellation < NTK_MAX_CANCELLATION)))
        return ntk_gram_syrk(W, signs, X, kernel, gram, num_threads);
    return status;
}

/* ---- nested random prefixes ---------------------------------------------------------- */

enum { DRAWN = 4096 };      /* tokens drawn at a time */

struct ntk_sweep {
    gsl_matrix *X, *W;
    gsl_vector *signs;
    struct prefix_tokens tokens;
    struct ntk_moments *moments;
    int num_threads;
};

struct ntk_sweep *ntk_sweep_alloc(const gsl_matrix *X, uint64_t seed, uint64_t trial,
                                  enum prefix_signs law, double sigma, enum ntk_kernel kernel,
                                  int num_threads)
{
    struct ntk_sweep *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->num_threads = num_threads > 1 ? num_threads : 1;
    s->tokens = (struct prefix_tokens){
        .dim = X->size2, .seed = seed, .trial = trial, .law = law, .sigma = sigma
    };
    s->moments = ntk_moments_alloc(X, law, kernel, num_threads);
    if (!s->moments) goto failed;
    s->X = gsl_matrix_alloc(X->size1, X->size2);
    s->W = gsl_matrix_alloc(DRAWN, X->size2);
    s->signs = gsl_vector_alloc(DRAWN);
    if (!s->X || !s->W || !s->signs) goto failed;
    gsl_matrix_memcpy(s->X, X);
    return s;
failed:
    ntk_sweep_free(s);
    return NULL;
}

void ntk_sweep_free(struct ntk_sweep *s)
{
    if (!s) return;
    gsl_matrix_free(s->X);
    gsl_matrix_free(s->W);
    gsl_vector_free(s->signs);
    ntk_moments_free(s->moments);
    free(s);
}

/* Adds tokens [count, wanted) of a prefix that is long enough. */
static int add_drawn(struct ntk_sweep *s, size_t count, size_t wanted)
{
    const size_t d = s->tokens.dim;
    int status = GSL_SUCCESS;
    while (count < wanted && !status) {
        const size_t len = wanted - count < DRAWN ? wanted - count : DRAWN;
#pragma omp parallel for num_threads(parallel_openmp_threads(s->num_threads)) schedule(static)
        for (size_t t = 0; t < len; t++)
            prefix_tokens_read(&s->tokens, count + t, 1, gsl_matrix_ptr(s->W, t, 0), gsl_vector_ptr(s->signs, t));
        const gsl_matrix_view W = gsl_matrix_submatrix(s->W, 0, 0, len, d);
        const gsl_vector_view signs = gsl_vector_subvector(s->signs, 0, len);
        status = ntk_moments_add(s->moments, &W.matrix, &signs.vector);
        count += len;
    }
    return status;
}

int ntk_sweep_extend(struct ntk_sweep *s, size_t prefix_len)
{
    const int mirrored = s->tokens.law == PREFIX_SIGNS_MIRRORED;
    const size_t wanted = mirrored ? prefix_len / 2 : prefix_len, count = ntk_moments_count(s->moments);
    if (!wanted || wanted < count || (mirrored && prefix_len % 2)) return GSL_EINVAL;
    if (!(s->tokens.sigma > 0.0)) return GSL_EDOM;
    s->tokens.prefix_len = prefix_len;
    return add_drawn(s, count, wanted);
}

int ntk_sweep_part(struct ntk_sweep *s, size_t first, size_t count)
{
    if (!(s->tokens.sigma > 0.0)) return GSL_EDOM;
    ntk_moments_clear(s->moments);
    /* Twins of mirrored tokens are never read: the prefix only has to be long enough. */
    s->tokens.prefix_len = 2 * (first + count);
    return add_drawn(s, first, first + count);
}

struct ntk_moments *ntk_sweep_moments(struct ntk_sweep *s)
{
    return s->moments;
}

int ntk_sweep_step(struct ntk_sweep *s, size_t prefix_len, enum ntk_kernel kernel, gsl_matrix *gram)
{
    double cancellation = 0.0;
    int status = ntk_sweep_extend(s, prefix_len);
    if (status == GSL_EINVAL) return status;
    if (!status) status = ntk_moments_gram(s->moments, kernel, gram, &cancellation);
    if (status == GSL_ERANGE || (!status && !(cancellation < NTK_MAX_CANCELLATION)))
        return ntk_syrk_tokens(&s->tokens, s->X, kernel, gram, s->num_threads);
    return status;
}
