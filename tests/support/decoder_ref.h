/* A trained decoder in double, plain loops over the equations of decoder.h, decoder_model.h and adapter.h: the
 * reference of its tests. Weights are a table of named arrays that a test may change. */
#ifndef TESTS_SUPPORT_DECODER_REF_H
#define TESTS_SUPPORT_DECODER_REF_H
#include "transformer/decoder_model.h"

struct decoder_ref_array { char *name; double *data; size_t n; };

struct decoder_ref {
    struct decoder_config config;
    struct decoder_model_options options;
    int tied;
    struct decoder_ref_array *arrays;
    size_t num_arrays;
};

/* Copies the decoder's weights and the model's parameters (those override). Aborts without memory. */
void decoder_ref_open(struct decoder_ref *ref, struct decoder_model *model);
void decoder_ref_close(struct decoder_ref *ref);

/* NULL: no array of that name. */
double *decoder_ref_array(const struct decoder_ref *ref, const char *name);

/* Mean loss of the targets; losses (count) may be NULL. The batch has ids. */
double decoder_ref_loss(const struct decoder_ref *ref, const struct decoder_batch *batch,
                        const struct decoder_targets *targets, double *losses);

/* Mean over rows of the mass that query head `head` of block `layer` sees of its text, no adapter. */
double decoder_ref_mass(const struct decoder_ref *ref, const struct decoder_batch *batch, size_t layer, size_t head);

/* M (feat_dim, feat_dim): mean over rows of w^2 phi(q) phi(q)^T, q the queries that meet a summary, w = 1 or,
 * `divided`, one over the mass of the text seen; no adapter. Returns the mean square of an entry of the head's
 * attention. */
double decoder_ref_moment(const struct decoder_ref *ref, const struct decoder_batch *batch, size_t layer, size_t head,
                          int divided, double *M);

#endif
