/* A pretrained encoder: its configuration and weights under canonical names.
 *
 *   layer.L.{q,k,v,o,fc1,fc2}.{weight,bias}   (out, in), (out): y = x W^T + b
 *   layer.L.{norm1,norm2}.{weight,bias}       post-norm (BERT, MPNet): norm1 follows attention, norm2 the MLP;
 *                                             pre-norm (ViT): norm1 precedes attention, norm2 the MLP
 *   layer.L.{scale1,scale2}                   layer scale (hidden)
 *   embed.token (vocab, hidden)  embed.position (positions, hidden)  embed.type (types, hidden)
 *   embed.norm.{weight,bias}  embed.cls (hidden)  embed.patch.{weight,bias}: (hidden, channels patch patch), (hidden)
 *   final_norm.{weight,bias}  relative_bias (buckets, heads)
 *
 * embed.position of an image model: row 0 the class token, then position_grid^2 patches by rows. */
#ifndef TRANSFORMER_BACKBONE_H
#define TRANSFORMER_BACKBONE_H
#include <stddef.h>
#include <stdint.h>

#include "common/reason.h"
#include "transformer/tensors.h"

enum backbone_kind { BACKBONE_VIT, BACKBONE_BERT, BACKBONE_MPNET };

struct backbone_config {
    enum backbone_kind kind;
    size_t hidden, num_layers, num_heads, mlp_dim;
    double norm_eps;
    int pre_norm, layer_scale;
    /* text */
    size_t vocab_size, max_positions, position_offset, type_vocab, relative_buckets;
    /* image */
    size_t image_size, patch_size, channels, position_grid;
    float mean[3], std[3];
    size_t default_first_layer, default_last_layer;     /* blocks used by default */
};

struct backbone {
    char *name;
    struct backbone_config config;
    struct tensor *tensors;         /* canonical names */
    size_t num_tensors;
    void *file;                     /* what the data lie in, freed by file_free; NULL: each tensor owns its data */
    void (*file_free)(void *file);
    char *vocab_path;               /* text: the vocabulary, or NULL */
};

/* A known backbone: its name and a line about it; committed: its weights are in the repository. */
struct backbone_entry { const char *name, *summary; int committed; };
const struct backbone_entry *backbone_list(size_t *count);

/* NAME (of backbone_list, looked for by data/folder.h) or a Hugging Face directory: config.json with model_type bert,
 * mpnet, vit or dinov2, model.safetensors, for text vocab.txt. GSL_EFAILED a file cannot be read, GSL_EINVAL it is not
 * what it should be or not there, GSL_EDOM a weight is not finite, GSL_ENOMEM; one line in *why. */
int backbone_open(const char *name_or_dir, struct backbone **out, struct reason why);
void backbone_free(struct backbone *backbone);                                           /* accepts NULL */

/* Goes on with a hash over weights, configuration and vocabulary. Codes of input_file_hash. */
int backbone_hash(const struct backbone *backbone, uint64_t *hash, struct reason why);

/* By canonical name; NULL: none. */
const struct tensor *backbone_tensor(const struct backbone *backbone, const char *name);

/* Writes a Hugging Face directory that backbone_open reads back: config.json, model.safetensors, and for images
 * preprocessor_config.json. Of the families bert and vit. GSL_EFAILED, GSL_ENOMEM, GSL_EUNSUP another family; one line
 * in *why. */
int backbone_write(const char *dir, const struct backbone *backbone, struct reason why);

/* Random weights of a configuration, for pretraining and tests: matrices N(0, 0.02^2), biases 0, norms 1 and 0, layer
 * scale 1; jitter widens every standard deviation (that of biases and norms from 0). A function of the seed.
 * GSL_ENOMEM. */
int backbone_random(const struct backbone_config *config, double jitter, uint64_t seed, struct backbone **out);

#endif
