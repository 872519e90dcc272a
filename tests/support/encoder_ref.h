/* An encoder with an adapter in double, plain loops over the equations of model.h and adapter.h: the reference of
 * the transformer's tests. Weights are a table of named arrays that a test may change. */
#ifndef TESTS_SUPPORT_ENCODER_REF_H
#define TESTS_SUPPORT_ENCODER_REF_H
#include <stddef.h>

#include "transformer/backbone.h"
#include "transformer/model.h"

struct ref_array { char *name; double *data; size_t n; };

struct encoder_ref {
    struct backbone_config config;
    struct adapter_options options;
    enum model_pool pool;
    size_t num_classes, num_layers;
    uint64_t seed;
    struct ref_array *arrays;
    size_t num_arrays;
};

/* Copies the backbone's tensors and the model's parameters (those override). Aborts without memory. */
void encoder_ref_open(struct encoder_ref *ref, const struct backbone *backbone, struct model *model,
                      enum model_pool pool, uint64_t seed);
void encoder_ref_close(struct encoder_ref *ref);

/* NULL: no array of that name. */
double *encoder_ref_array(const struct encoder_ref *ref, const char *name);

/* logits (num_seqs, num_classes); hidden (rows, hidden) may be NULL: after the final norm. */
void encoder_ref_forward(const struct encoder_ref *ref, const struct batch *batch, double *logits, double *hidden);

/* Mean cross-entropy of the logits. */
double encoder_ref_loss(const struct encoder_ref *ref, const struct batch *batch, const int32_t *labels);

/* Rows of the batch. */
size_t encoder_ref_rows(const struct encoder_ref *ref, const struct batch *batch);

#endif
