/* A task as a backbone reads it: tokens or pixels of every example, and, when asked for, what leaves the frozen lower
 * blocks. Made once, used by any number of trainings. */
#ifndef TRANSFORMER_INPUTS_H
#define TRANSFORMER_INPUTS_H
#include "data/tasks.h"
#include "transformer/backbone.h"
#include "transformer/model.h"

struct inputs_options {
    size_t max_len;                 /* text: tokens at most, specials included; 0: 128 or what the backbone takes */
    size_t image_size;              /* images are resized to this square; 0: inputs_default_image_size */
};

struct inputs;

/* Task and backbone must outlive it. GSL_EINVAL a text task for an image backbone or the reverse, a size that is no
 * multiple of the patch, a backbone without vocabulary; codes of wordpiece_open; GSL_ENOMEM. */
int inputs_alloc(const struct backbone *backbone, const struct task *task, const struct inputs_options *options,
                 struct inputs **out, struct reason why);
void inputs_free(struct inputs *inputs);                    /* accepts NULL */

/* The backbone's own size up to 64 pixels; else seven patches (98 pixels for a patch of 14). */
size_t inputs_default_image_size(const struct backbone *backbone);

const struct task *inputs_task(const struct inputs *inputs);
size_t inputs_count(const struct inputs *inputs, enum task_split split);
/* Rows of the longest example, and of the `seqs` longest of any split together: what model_reserve asks for. */
size_t inputs_max_len(const struct inputs *inputs);
size_t inputs_max_rows(const struct inputs *inputs, size_t seqs);
/* Mean rows per example of a split. */
double inputs_mean_len(const struct inputs *inputs, enum task_split split);

/* ---- frozen lower blocks ----------------------------------------------------------------------------------- */

/* Bytes inputs_cache would hold for the splits whose bits (1 << split) are set. */
size_t inputs_cache_bytes(const struct inputs *inputs, unsigned splits);
/* Keeps the input of block `layer` of the untouched base model for these splits; a cache of the same layer is extended,
 * of another replaced. The model must be reserved for batch_seqs sequences of inputs_max_rows. GSL_ENOMEM and codes of
 * model_hidden. */
int inputs_cache(struct inputs *inputs, struct model *model, size_t layer, unsigned splits, size_t batch_seqs);

/* Whether all these splits are cached at a block no higher than `highest`. */
int inputs_is_cached(const struct inputs *inputs, size_t highest, unsigned splits);

/* ---- batches ----------------------------------------------------------------------------------------------------- */

/* Arrays of one batch, made once. */
struct inputs_batch {
    struct batch batch;             /* set by inputs_gather */
    int32_t *labels;                /* (num_seqs) */
    size_t *offsets;
    float *hidden, *pixels;
    int32_t *ids, *types;
};
int inputs_batch_alloc(const struct inputs *inputs, size_t max_seqs, struct inputs_batch *out);
void inputs_batch_free(struct inputs_batch *b);             /* accepts a zeroed struct */

/* Examples index[0..num_seqs-1] of a split: their rows at the cached block when the split is in the cache and that
 * block is no higher than `highest` (0: not from the cache), else from the beginning. Concurrent calls with batches of
 * their own may run as long as the cache does not change. */
void inputs_gather(const struct inputs *inputs, enum task_split split, const size_t *index, size_t num_seqs,
                   size_t highest, struct inputs_batch *b);

/* Pixels (channels, size, size), normalised, of one image (height, width, channels) of bytes: bilinear between pixel
 * centres, grey repeated, colours to grey by Rec. 601. */
void inputs_image(const struct backbone_config *config, const unsigned char *image, size_t height, size_t width,
                  size_t channels, size_t size, float *pixels);

#endif
