/* A random attention problem: float32 arrays as the kernels take them and the same
 * numbers in double for attention_ref.h. */
#ifndef TESTS_SUPPORT_ATTENTION_CASE_H
#define TESTS_SUPPORT_ATTENTION_CASE_H
#include "prefix_ntk/attention.h"
#include "tests/support/attention_ref.h"

struct attn_case_spec {
    size_t batch, heads, kv_heads, len_q, len_k, head_dim, prefix_len;
    int causal, ragged;           /* ragged: key lengths that differ between batch entries */
    int interleaved;              /* (batch, len, heads, dim) with gaps instead of dense */
    double score_std;             /* standard deviation of the scores; 0: 1 */
    const char *feature;          /* NULL, or a map with a random summary */
};

struct attn_case {
    struct attn_shape shape;
    float scale;
    size_t prefix_len, feat_dim;
    struct attn_in q, k, v, d_out;
    struct attn_prefix prefix;
    struct attn_summary summary;
    struct attn_ref ref;          /* double copies */
    double *ref_d_out;
    /* How outputs are laid out: rows apart as those of q (of k and v, densely). */
    struct attn_out (*out_like_q)(const struct attn_case *c, float *data);
    size_t q_size;                /* floats out_like_q needs */
    size_t *lengths;
    void *blocks[64];             /* all that is to be freed */
    size_t num_blocks;
};

/* Aborts without memory: these are tests. */
void attn_case_make(const struct attn_case_spec *spec, unsigned seed, struct attn_case *c);
void attn_case_free(struct attn_case *c);

float *attn_case_floats(struct attn_case *c, size_t n);      /* zeroed, freed with the case */
double *attn_case_doubles(struct attn_case *c, size_t n);

/* max |x|. */
double attn_largest(const double *x, size_t n);

/* Largest |got - want| over a (batch, heads, len, dim) array against a dense one;
 * NaN when any difference is. */
double attn_deviation(struct attn_in got, const double *want, size_t batch, size_t heads, size_t len, size_t dim);

/* Largest |score| of any query and key (allowed or not). */
double attn_largest_score(const struct attn_ref *p);

#endif
