/* The parts of attention linear in the length. Queries are taken in chunks: keys that a whole chunk sees are summed
 * into the state Zk = sum_j phi(k_j) [v_j, 1]^T, the fewer than a chunk that only some of its rows see are met one by
 * one.
 *
 * Keys carry log-scales l_j and the state its own; row i works in units of e^{M_i}, M_i the largest scale it sees, so
 * that neither end of favor's range is lost. The queries' scales cancel in N/D. */
#ifndef ATTENTION_LINEAR_PARTS_H
#define ATTENTION_LINEAR_PARTS_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "attention/call.h"
#include "attention/dense_sums.h"
#include "attention/feature_internal.h"
#include "attention/linear_state.h"
#include "prefix_ntk/attention_f64.h"
#include "prefix_ntk/linear.h"

enum { LINEAR_CHUNK = 64 };

/* A chunk of queries or keys, in double. */
struct linear_rows {
    size_t begin, count;
    double *x;                     /* (LINEAR_CHUNK, dim) */
    double *phi, *mass;            /* (LINEAR_CHUNK, feat_dim); mass: keys of maps whose sides differ */
    double *log_scale;             /* (LINEAR_CHUNK) */
    double *values;                /* keys: [v, 1], (LINEAR_CHUNK, dim + 1) */
    bool bad[LINEAR_CHUNK];               /* not finite; x (and values) are zeros instead */
};

struct linear_scratch {
    struct linear_state state;
    struct linear_rows q, k;
    double *num;                   /* (LINEAR_CHUNK, dim + 1): [N, D] or gradients of [v, 1] */
    double *pair, *pair_mass;      /* (LINEAR_CHUNK, LINEAR_CHUNK), queries by keys */
    double *dphi, *dmass, *dx;     /* backward */
    double *dnum, *unit;           /* backward, (len_q, dim + 1) and (len_q): gradients of [N, D] and M_i */
    void *feature;
};

/* One call. */
struct linear_job {
    const struct attn_shape *shape;
    const feature_map *map;
    const struct attn_summary *summary;   /* in float32, or ... */
    const struct attn_summary_f64 *wide; /* ... in double */
    size_t summary_heads;                 /* 0: no prefix */
    struct attn_in q, k, v;
    struct attn_out out;                  /* data NULL: not wanted */
    struct attn_in d_out;
    const struct attn_ntk_grads *grads;   /* NULL: forward */
    double *wide_dZk;                     /* as wide->Zk; NULL: not wanted */
    /* NTK-Attention: partial results of the input keys, and the rows of the whole. */
    const struct attn_dense *dense;
    attn_row *rows_out;
    bool differ;
    struct linear_scratch *threads;
    double *dZk;                          /* (batch, summary heads, feat_dim, dim + 1) */
    atomic_size_t first_bad;
    atomic_int status;                    /* the largest of any unit */
};

/* One query head of a call, in the scratch of a thread. */
struct linear_head {
    struct linear_job *job;
    struct linear_scratch *t;
    size_t b, h, kv, zh;
    size_t keys;                    /* input keys that exist for this batch entry */
};

/* How many input keys query i sees. */
static inline size_t linear_visible(const struct linear_head *head, size_t i)
{
    return visible_keys(head->job->shape, head->keys, i);
}


/* ---- chunks (linear_chunks.c) ------------------------------------------------------------- */

/* Loads queries [begin, begin + count) into t->q, rows that are not finite as zeros. */
int linear_load_queries(const struct linear_head *head, size_t begin, size_t count);

/* The same of keys and values, into t->k: one that is not finite counts as zeros. `poison`: its mass feature is NaN
 * instead, so that the rows that see it have no D; where those are known to be bad already, zeros do. */
int linear_load_keys(const struct linear_head *head, size_t begin, size_t count, bool poison);

/* state = (Z, k) of the head's summary, or nothing. */
void linear_start_state(const struct linear_head *head);

/* Adds the keys [from, to) to the state; the last of them stay loaded. */
int linear_add_keys(const struct linear_head *head, size_t from, size_t to, bool poison);

/* Inner products of the loaded queries with the loaded keys; the value and the mass side. */
void linear_make_pairs(const struct linear_head *head);

/* C (m, n) = beta C + A B^T or A B. */
void linear_gemm(int transpose, size_t m, size_t n, size_t depth, const double *A, size_t lda,
          const double *B, size_t ldb, double beta, double *C, size_t ldc);

/* ---- heads (linear_forward.c, linear_backward.c) ------------------------------------------- */

/* Writes the outputs. With `gradients`: from d_out to dN_i = G_i/D_i, dD_i = -<G_i, T_i>/D_i in t->dnum. Zero where D
 * is not positive. */
int linear_forward_head(const struct linear_head *head, bool gradients);

/* dQ, after forward_head. */
int linear_query_gradients(const struct linear_head *head);

/* dK, dV and the head's part of d(Z, k), after forward_head. `add`: an earlier query head of the group has written dK
 * and dV. */
int linear_key_gradients(const struct linear_head *head, bool add);

/* ---- calls (linear_call.c) ------------------------------------------------------------------ */

/* Fills in what the summary says of the call, in float32 or double. Codes of linear.h. */
int linear_set_up(struct linear_job *job, const struct attn_shape *s, const struct attn_summary *summary);
int linear_set_up_f64(struct linear_job *job, const struct attn_shape *s, const struct attn_summary_f64 *wide);

/* Bytes of workspace. */
size_t linear_bytes(struct linear_job *job, bool backward, int num_threads);

/* Runs a call that is set up; work NULL: a workspace of its own. */
int linear_run(struct linear_job *job, void *work, size_t work_bytes, int num_threads, struct attn_failure *failure);

#endif
