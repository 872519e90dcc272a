/* Adapter directories in the layout of Hugging Face PEFT: adapter_config.json, adapter_model.safetensors, and
 * beside them head.safetensors with the classifier (classifier.weight, classifier.bias).
 *
 *   lora         peft_type LORA: r, lora_alpha, target_modules; base_model.model.<module>.lora_A.weight (r, in) and
 *                lora_B.weight (out, r), module encoder.layer.L.attention.self.query and so on
 *   ptuning      peft_type PREFIX_TUNING: prompt_embeddings (prefix_len, 2 num_layers hidden), columns of block L:
 *   its keys,
 *                then its values; a prefix made by an MLP is written as what it gives
 *   others       peft_type NTK_ATTENTION, PREFIX_PLUS, TIED_PREFIX, FULL, HEAD: parameters under the names of model.h
 *
 * prefix_ntk (an object of the config) has what PEFT does not know: options, pool, classes; a directory PEFT made has
 * none, and its classifier may lie in adapter_model.safetensors. In front of a text PEFT's prefix takes the first
 * prefix_len positions (shift_positions); one written here says whether it does. docs/adapters.md. */
#ifndef TRANSFORMER_ADAPTER_FILES_H
#define TRANSFORMER_ADAPTER_FILES_H
#include "transformer/decoder_model.h"
#include "transformer/model.h"

struct adapter_description {
    struct adapter_options options;
    enum model_pool pool;
    size_t num_classes;                 /* 0: not said */
    char **class_names;                 /* (num_classes) or NULL; owned */
    int is_decoder, unrotated;          /* whether it says it is a decoder's, and which rotation */
};

/* Writes the directory (made when missing), each file whole or not at all. GSL_EFAILED, GSL_ENOMEM, GSL_EUNSUP: a
 * prefix of some blocks only cannot be said in PEFT's layout; one line in *why. */
int adapter_files_write(const char *dir, struct model *model, enum model_pool pool, const char *const *class_names,
                        struct reason why);

/* What the directory says of itself. GSL_EFAILED, GSL_EINVAL, GSL_ENOMEM. */
int adapter_files_read(const char *dir, struct adapter_description *out, struct reason why);
void adapter_description_free(struct adapter_description *d);   /* accepts a zeroed struct */

/* Takes the values into a model made with those options. GSL_EINVAL a tensor is missing or of another shape. */
int adapter_files_load(const char *dir, struct model *model, struct reason why);

/* The same of a decoder, `base` its name: LoRA's modules are model.layers.L.self_attn.q_proj and so on (gate and up,
 * one matrix here, gate_up_proj); prompt_embeddings (prefix_len, 2 num_layers kv_heads head_dim) where every block of
 * a GGUF decoder has a prefix of its own; else parameters under the names of decoder_model.h. */
int adapter_files_write_decoder(const char *dir, struct decoder_model *model, const char *base,
                                const char *const *class_names, struct reason why);
int adapter_files_load_decoder(const char *dir, struct decoder_model *model, struct reason why);

#endif
