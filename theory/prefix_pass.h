/* Passes over the tokens of a prefix: softmax sums, loss gradient, update.
 *
 * The tokens are cut into two halves, each half into chunks, each chunk into blocks,
 * as a function of prefix_len alone; chunk sums are merged pairwise within a half
 * and the halves last. Results therefore do not depend on the number of threads,
 * and a mirrored prefix cancels to exactly 0. Scratch is one block per thread. */
#ifndef THEORY_PREFIX_PASS_H
#define THEORY_PREFIX_PASS_H
#include <stddef.h>
#include <gsl/gsl_matrix.h>
#include <gsl/gsl_vector.h>
#include "theory/prefix_pass_kernel.h"

struct pass_kernels {
    pass_accumulate_fn *accumulate;
    pass_accumulate_shifted_fn *accumulate_shifted;
    pass_gradient_fn *gradient;
    pass_load_fn *load;
    pass_update_fn *update;
};

struct prefix_pass {
    struct pass_kernels kernels;
    size_t prefix_len, dim, dim_pad, num_samples;
    int num_threads;
    double *X;                 /* (num_samples, dim), packed                       */
    double *XR;                /* (2 num_samples, dim): x_i and R_i by turns        */
    double *offset, *c;        /* (num_samples): of the gradient                    */
    double *signs;             /* (prefix_len)                                      */
    /* Softmax sums of the last pass: max_r s_ir, sum_r e^{s_ir - top_i}, and the
     * same weighted by a_r w_r, (num_samples, dim_pad). */
    double *top, *mass, *sum;
    size_t num_chunks, chunk_len, half[3], first_chunk[3];
    double *partial, *scratch;
    size_t partial_size, scratch_size;
    size_t own_first, own_last;/* the chunks worked on: all of them unless shared     */
    size_t *merged;            /* (num_chunks): size of the subtree a chunk was merged into; NULL: not shared */
};

/* Bytes of a pass. */
size_t prefix_pass_bytes(size_t prefix_len, size_t dim, size_t num_samples, int num_threads);

struct prefix_pass *prefix_pass_alloc(const gsl_vector *signs, const gsl_matrix *X, int num_threads);
void prefix_pass_free(struct prefix_pass *p);

/* Fills top, mass, sum for the tokens W (rows of length ld): with running maxima when
 * shift is NULL, else with top_i = shift_i given, to the same bits as the descent
 * that made W used it. GSL_EDOM when a mass is not finite (a NaN or an overflow in W). */
int prefix_pass_sums(struct prefix_pass *p, const double *W, size_t ld, const double *shift);

/* ---- tokens shared by processes --------------------------------------------------
 *
 * Each process has a pass over the whole prefix and works on a range of its chunks,
 * which it cuts into subtrees of the tree above. Sums of subtrees go to one process, as
 * prefix_pass_parts_size numbers from the one that read them there; it merges what
 * is left of the tree, and the others take over top, mass, sum: the same bits. */

/* Chunks of process `rank` of `count`; GSL_ENOMEM. */
int prefix_pass_share(struct prefix_pass *p, int rank, int count);
/* The tokens of those chunks, first .. last. */
void prefix_pass_tokens(const struct prefix_pass *p, int rank, int count, size_t *first, size_t *last);
size_t prefix_pass_parts_size(const struct prefix_pass *p, int rank, int count);
void prefix_pass_parts_read(struct prefix_pass *p, int rank, int count, double *parts);
void prefix_pass_parts_write(struct prefix_pass *p, int rank, int count, const double *parts);
/* What prefix_pass_sums and _descend do on this process's chunks, and all the rest. */
void prefix_pass_sums_begin(struct prefix_pass *p, const double *W, size_t ld, const double *shift);
void prefix_pass_descend_begin(struct prefix_pass *p, const double *R, const double *c, const double *lse,
                               double step_size, double *W, size_t ld);
int prefix_pass_merge(struct prefix_pass *p);
/* Whether the sums of a descent stand; else running maxima are called for. */
int prefix_pass_in_range(const struct prefix_pass *p);

/* The gradient  dw_r = m sum_i S_ir [ a_r R_i + x_i (a_r <R_i,w_r> - c_i) ]  for the
 * softmax S_ir = e^{s_ir - lse_i}; R (num_samples, dim) packed, c and lse
 * (num_samples). With dW it is written there (leading dimension ld_dW) and W
 * stays; else W <- W - step_size dw, and top, mass, sum are those of the new W, with
 * shift lse (*shifted = 1), or with running maxima after a step so large that this
 * left the range of a double (0). */
void prefix_pass_gradient(struct prefix_pass *p, const double *R, const double *c, const double *lse,
                          const double *W, size_t ld, double *dW, size_t ld_dW);
int prefix_pass_descend(struct prefix_pass *p, const double *R, const double *c, const double *lse,
                        double step_size, double *W, size_t ld, int *shifted);

#endif
