/* Tiny random backbones of the three kinds, and batches for them. */
#ifndef TESTS_SUPPORT_TINY_MODEL_H
#define TESTS_SUPPORT_TINY_MODEL_H
#include "transformer/backbone.h"
#include "transformer/model.h"

enum { TINY_CLASSES = 3, TINY_LAYERS = 2 };

/* Sizes all different; weights with a jitter, so that no number is special. Aborts without memory. */
struct backbone *tiny_backbone(enum backbone_kind kind, uint64_t seed);

/* A batch of num_seqs sequences with labels, ragged for text: lengths from a cycle 3 3 1 5 4. */
struct tiny_batch {
    struct batch batch;
    size_t *offsets;
    int32_t *ids, *types, *labels;
    float *pixels;
    size_t rows;
};
void tiny_batch_make(struct tiny_batch *batch, const struct backbone_config *config, size_t num_seqs, uint64_t seed);
void tiny_batch_free(struct tiny_batch *batch);

/* Moves every adapter parameter and the head away from special values (k of `linear` stays >= 0). */
void tiny_shake(struct model *model, double std, uint64_t seed);
void tiny_shake_parameters(struct parameter *parameters, size_t count, double std, uint64_t seed);

#endif
