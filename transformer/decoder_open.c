/* Where the weights of a decoder come from. */
#include "transformer/decoder_internal.h"

#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/nearest.h"
#include "common/pages.h"
#include "common/random.h"
#include "data/folder.h"
#include "data/json_file.h"
#include "transformer/tensors.h"

enum { MAX_EXTENT = 1 << 24 };

/* ---- layout ----------------------------------------------------------------------------------------- */

/* Numbers of one block, and of the whole. */
static int count_weights(const struct decoder_config *c, int untied, size_t *per_layer, size_t *total)
{
    const double heads = (double)(c->num_heads + 2 * c->kv_heads) * (double)c->head_dim, hidden = (double)c->hidden;
    const double layer = hidden * (heads + (double)(c->num_heads * c->head_dim) + 3.0 * (double)c->mlp_dim + 2.0);
    const double all = layer * (double)c->num_layers + hidden * ((double)c->vocab_size * (untied ? 2.0 : 1.0) + 1.0);
    if (!(all < 1e15)) return GSL_EOVRFLW;
    *per_layer = (size_t)layer;
    *total = (size_t)all;
    return GSL_SUCCESS;
}

int decoder_place_weights(struct decoder *d, int untied)
{
    const struct decoder_config *c = &d->config;
    size_t per_layer, total;
    const int status = count_weights(c, untied, &per_layer, &total);
    if (status) return status;
    d->layers = calloc(c->num_layers, sizeof *d->layers);
    d->weights = pages_alloc(total * sizeof *d->weights);
    if (!d->layers || !d->weights) return GSL_ENOMEM;
    d->num_weights = total;
    const float *at = d->weights;
    d->embed = at;
    at += c->vocab_size * c->hidden;
    d->output = untied ? at : d->embed;
    at += untied ? c->vocab_size * c->hidden : 0;
    d->final_norm = at;
    at += c->hidden;
    for (size_t i = 0; i < c->num_layers; i++) {
        struct decoder_layer *w = &d->layers[i];
        w->norm1 = at;
        at += c->hidden;
        w->norm2 = at;
        at += c->hidden;
        w->qkv = at;
        at += (c->num_heads + 2 * c->kv_heads) * c->head_dim * c->hidden;
        w->o = at;
        at += c->hidden * c->num_heads * c->head_dim;
        w->gate_up = at;
        at += 2 * c->mlp_dim * c->hidden;
        w->down = at;
        at += c->hidden * c->mlp_dim;
    }
    return GSL_SUCCESS;
}

void decoder_free(struct decoder *decoder)
{
    if (!decoder) return;
    bpe_free(decoder->bpe);
    free(decoder->layers);
    free(decoder->weights);
    free(decoder);
}

static int check_config(const struct decoder_config *c, struct reason why)
{
    const size_t extents[] = { c->vocab_size, c->hidden, c->num_layers, c->num_heads, c->kv_heads, c->head_dim,
                               c->mlp_dim, c->max_positions };
    for (size_t i = 0; i < sizeof extents / sizeof *extents; i++)
        if (!extents[i] || extents[i] > MAX_EXTENT)
            return refuse(why, GSL_EINVAL, "a size of %zu in its configuration", extents[i]);
    if (c->num_heads % c->kv_heads)
        return refuse(why, GSL_EINVAL, "%zu key/value heads do not divide %zu heads", c->kv_heads, c->num_heads);
    if (c->head_dim % 2) return refuse(why, GSL_EINVAL, "an odd head dimension, %zu", c->head_dim);
    if (!(c->norm_eps > 0.0 && c->norm_eps < 1.0) || !(c->rope_base > 1.0))
        return refuse(why, GSL_EINVAL, "norm_eps or rope_base out of range");
    return GSL_SUCCESS;
}

/* ---- the matrices of a file -------------------------------------------------------------------------------- */

/* One of the two is set. */
struct source { const struct gguf *gguf; const struct tensors *tensors; };

/* The names of a matrix in a GGUF file and in a Hugging Face one; %zu the layer. */
struct names { const char *gguf, *tensors; };

static const struct names EMBED = { "token_embd.weight", "model.embed_tokens.weight" };
static const struct names OUTPUT = { "output.weight", "lm_head.weight" };
static const struct names FINAL_NORM = { "output_norm.weight", "model.norm.weight" };
static const struct names NORM1 = { "blk.%zu.attn_norm.weight", "model.layers.%zu.input_layernorm.weight" };
static const struct names NORM2 = { "blk.%zu.ffn_norm.weight", "model.layers.%zu.post_attention_layernorm.weight" };
static const struct names Q = { "blk.%zu.attn_q.weight", "model.layers.%zu.self_attn.q_proj.weight" };
static const struct names K = { "blk.%zu.attn_k.weight", "model.layers.%zu.self_attn.k_proj.weight" };
static const struct names V = { "blk.%zu.attn_v.weight", "model.layers.%zu.self_attn.v_proj.weight" };
static const struct names O = { "blk.%zu.attn_output.weight", "model.layers.%zu.self_attn.o_proj.weight" };
static const struct names GATE = { "blk.%zu.ffn_gate.weight", "model.layers.%zu.mlp.gate_proj.weight" };
static const struct names UP = { "blk.%zu.ffn_up.weight", "model.layers.%zu.mlp.up_proj.weight" };
static const struct names DOWN = { "blk.%zu.ffn_down.weight", "model.layers.%zu.mlp.down_proj.weight" };

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static void full_name(const struct source *s, struct names names, size_t layer, char text[128])
{
    snprintf(text, 128, s->gguf ? names.gguf : names.tensors, layer);
}
#pragma GCC diagnostic pop

/* A (rows, cols) matrix, or a vector (rows 1), into `to`. */
static int take(const struct source *s, struct names names, size_t layer, size_t rows, size_t cols, const float *place,
                struct reason why)
{
    char name[128];
    float *to = (float *)place;     /* a place in decoder->weights, which is ours to fill */
    full_name(s, names, layer, name);
    const struct gguf_tensor *packed = s->gguf ? gguf_tensor(s->gguf, name) : NULL;
    const struct tensor *plain = s->tensors ? tensors_find(s->tensors, name) : NULL;
    if (!packed && !plain) return refuse(why, GSL_EINVAL, "no tensor %s", name);
    const size_t rank = packed ? packed->rank : plain->rank, wanted = rows > 1 ? 2 : 1;
    const size_t count = rows * cols, last = packed ? packed->dims[0] : plain->dims[rank - 1];
    size_t size = 1;
    for (size_t i = 0; i < rank; i++) size *= packed ? packed->dims[i] : plain->dims[i];
    if (rank != wanted || last != cols || size != count)
        return refuse(why, GSL_EINVAL, "tensor %s is not of the shape its configuration says", name);
    if (packed) gguf_read(packed, to);
    else memcpy(to, plain->data, count * sizeof *to);
    for (size_t i = 0; i < count; i++)
        if (!isfinite(to[i])) return refuse(why, GSL_EINVAL, "tensor %s: number %zu is not finite", name, i);
    return GSL_SUCCESS;
}

/* Rows of each head from halves (x_i with x_{i + d/2}) to adjacent pairs. */
static int pair_rows(const float *place, size_t heads, size_t dim, size_t cols)
{
    float *W = (float *)place, *head = malloc(dim * cols * sizeof *head);
    if (!head) return GSL_ENOMEM;
    for (size_t h = 0; h < heads; h++, W += dim * cols) {
        memcpy(head, W, dim * cols * sizeof *head);
        for (size_t i = 0; i < dim; i++)
            memcpy(W + i * cols, head + (i % 2 * (dim / 2) + i / 2) * cols, cols * sizeof *head);
    }
    free(head);
    return GSL_SUCCESS;
}

static int take_layer(struct decoder *d, const struct source *s, size_t layer, struct reason why)
{
    const struct decoder_config *c = &d->config;
    const struct decoder_layer *w = &d->layers[layer];
    const size_t q = c->num_heads * c->head_dim, kv = c->kv_heads * c->head_dim, hidden = c->hidden;
    const float *k = w->qkv + q * hidden, *v = k + kv * hidden;
    int status = take(s, NORM1, layer, 1, hidden, w->norm1, why);
    if (!status) status = take(s, NORM2, layer, 1, hidden, w->norm2, why);
    if (!status) status = take(s, Q, layer, q, hidden, w->qkv, why);
    if (!status) status = take(s, K, layer, kv, hidden, k, why);
    if (!status) status = take(s, V, layer, kv, hidden, v, why);
    if (!status) status = take(s, O, layer, hidden, q, w->o, why);
    if (!status) status = take(s, GATE, layer, c->mlp_dim, hidden, w->gate_up, why);
    if (!status) status = take(s, UP, layer, c->mlp_dim, hidden, w->gate_up + c->mlp_dim * hidden, why);
    if (!status) status = take(s, DOWN, layer, hidden, c->mlp_dim, w->down, why);
    if (!status && s->tensors && (pair_rows(w->qkv, c->num_heads, c->head_dim, hidden) ||
                                  pair_rows(k, c->kv_heads, c->head_dim, hidden)))
        status = refuse(why, GSL_ENOMEM, "out of memory");
    return status;
}

static int take_all(struct decoder *d, const struct source *s, struct reason why)
{
    const struct decoder_config *c = &d->config;
    char name[128];
    full_name(s, OUTPUT, 0, name);
    const int untied = s->gguf ? gguf_tensor(s->gguf, name) != NULL : tensors_find(s->tensors, name) != NULL;
    int status = check_config(c, why);
    if (status) return status;
    if ((status = decoder_place_weights(d, untied))) return refuse(why, GSL_ENOMEM, "out of memory");
    status = take(s, EMBED, 0, c->vocab_size, c->hidden, d->embed, why);
    if (!status && untied) status = take(s, OUTPUT, 0, c->vocab_size, c->hidden, d->output, why);
    if (!status) status = take(s, FINAL_NORM, 0, 1, c->hidden, d->final_norm, why);
    for (size_t i = 0; i < c->num_layers && !status; i++) status = take_layer(d, s, i, why);
    return status;
}

/* ---- GGUF ------------------------------------------------------------------------------------------------------ */

/* An id among the metadata; -1: none. */
static int32_t token_id(const struct gguf *g, const char *key, size_t vocab_size)
{
    size_t id;
    return gguf_size(g, key, &id) || id >= vocab_size ? -1 : (int32_t)id;
}

static int configure(const struct gguf *g, struct decoder_config *c, struct reason why)
{
    struct gguf_text text;
    size_t rope_dim;
    if (gguf_text(g, "general.architecture", &text) || text.len != 5 || memcmp(text.bytes, "llama", 5))
        return refuse(why, GSL_EINVAL, "its architecture is not llama");
    int status = gguf_size(g, "llama.block_count", &c->num_layers) | gguf_size(g, "llama.embedding_length",
                                                                               &c->hidden) |
                 gguf_size(g, "llama.feed_forward_length", &c->mlp_dim) | gguf_size(g, "llama.context_length",
                     &c->max_positions) |
                 gguf_size(g, "llama.attention.head_count", &c->num_heads) |
                 gguf_number(g, "llama.attention.layer_norm_rms_epsilon", &c->norm_eps);
    if (status || !c->num_heads) return refuse(why, GSL_EINVAL, "its llama.* metadata lack a size");
    if (gguf_size(g, "llama.attention.head_count_kv", &c->kv_heads)) c->kv_heads = c->num_heads;
    if (gguf_size(g, "llama.attention.key_length", &c->head_dim)) c->head_dim = c->hidden / c->num_heads;
    if (gguf_number(g, "llama.rope.freq_base", &c->rope_base)) c->rope_base = 10000.0;
    if (gguf_size(g, "llama.rope.dimension_count", &rope_dim)) rope_dim = c->head_dim;
    if (!c->kv_heads || rope_dim != c->head_dim)
        return refuse(why, GSL_EINVAL, "no key/value heads, or a rotation of part of a head");
    if (gguf_has(g, "llama.rope.scaling.type") && (gguf_text(g, "llama.rope.scaling.type", &text) || text.len != 4 ||
                                                   memcmp(text.bytes, "none", 4)))
        return refuse(why, GSL_EINVAL, "a scaled rotation, which is not read");
    if (gguf_tensor(g, "rope_freqs.weight") || gguf_tensor(g, "blk.0.attn_q.bias") || gguf_has(g, "llama.expert_count"))
        return refuse(why, GSL_EINVAL, "frequency factors, biases or experts, which are not read");
    return GSL_SUCCESS;
}

static int open_gguf(const char *path, struct decoder *d, struct reason why)
{
    struct gguf *g = NULL;
    int status = gguf_open(path, &g, why);
    if (!status) status = configure(g, &d->config, why);
    if (!status) status = bpe_from_gguf(g, &d->bpe, why);
    if (!status) {
        d->config.vocab_size = bpe_size(d->bpe);
        d->bos = token_id(g, "tokenizer.ggml.bos_token_id", d->config.vocab_size);
        d->eos = token_id(g, "tokenizer.ggml.eos_token_id", d->config.vocab_size);
        if (gguf_flag(g, "tokenizer.ggml.add_bos_token", &d->add_bos)) d->add_bos = 0;
        status = take_all(d, &(struct source){ g, NULL }, why);
    }
    gguf_free(g);
    return status;
}

/* ---- Hugging Face ------------------------------------------------------------------------------------------------ */

static int json_size(const json_t *root, const char *key, size_t *out)
{
    const json_t *x = json_object_get(root, key);
    if (!json_is_integer(x) || json_integer_value(x) < 0) return GSL_EINVAL;
    *out = (size_t)json_integer_value(x);
    return GSL_SUCCESS;
}

static int32_t json_id(const json_t *root, const char *key, size_t vocab_size)
{
    size_t id;
    return json_size(root, key, &id) || id >= vocab_size ? -1 : (int32_t)id;
}

static int configure_json(const json_t *root, struct decoder *d, struct reason why)
{
    struct decoder_config *c = &d->config;
    const char *type = json_string_value(json_object_get(root, "model_type")),
        *act = json_string_value(json_object_get(root, "hidden_act"));
    const json_t *base = json_object_get(root, "rope_theta"), *scaling = json_object_get(root, "rope_scaling");
    if (!type || strcmp(type, "llama")) return refuse(why, GSL_EINVAL, "config.json: model_type is not llama");
    if ((act && strcmp(act, "silu")) || (scaling && !json_is_null(scaling)) ||
        json_is_true(json_object_get(root, "attention_bias")) ||
        json_is_true(json_object_get(root, "mlp_bias")))
        return refuse(why, GSL_EINVAL,
                      "config.json: another activation, a scaled rotation or biases, which are not read");
    c->norm_eps = json_number_value(json_object_get(root, "rms_norm_eps"));
    c->rope_base = base ? json_number_value(base) : 10000.0;
    if (json_size(root, "num_hidden_layers", &c->num_layers) || json_size(root, "hidden_size", &c->hidden) ||
        json_size(root, "intermediate_size", &c->mlp_dim) ||
            json_size(root, "max_position_embeddings", &c->max_positions) ||
        json_size(root, "num_attention_heads", &c->num_heads) || json_size(root, "vocab_size", &c->vocab_size) ||
            !c->num_heads)
        return refuse(why, GSL_EINVAL, "config.json: a size is missing");
    if (json_size(root, "num_key_value_heads", &c->kv_heads)) c->kv_heads = c->num_heads;
    if (json_size(root, "head_dim", &c->head_dim)) c->head_dim = c->hidden / c->num_heads;
    if (!c->kv_heads) return refuse(why, GSL_EINVAL, "config.json: no key/value heads");
    d->bos = json_id(root, "bos_token_id", c->vocab_size);
    d->eos = json_id(root, "eos_token_id", c->vocab_size);
    return GSL_SUCCESS;
}

static int open_directory(const char *folder, struct decoder *d, struct reason why)
{
    char path[4352], line[256] = "";
    const struct reason inner = { line, sizeof line };
    struct tensors *tensors = NULL;
    snprintf(path, sizeof path, "%s/config.json", folder);
    json_t *root;
    int status = json_object_read(path, &root, inner);
    if (status) return refuse(why, status, "config.json: %s", line);
    status = configure_json(root, d, why);
    json_decref(root);
    if (status) return status;
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    if ((status = bpe_from_json(path, &d->bpe, inner))) return refuse(why, status, "tokenizer.json: %s", line);
    if (bpe_size(d->bpe) > d->config.vocab_size)
        return refuse(why, GSL_EINVAL, "tokenizer.json: more tokens than the %zu of config.json", d->config.vocab_size);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    if ((status = tensors_read(path, &tensors, inner))) return refuse(why, status, "model.safetensors: %s", line);
    d->half_pairs = 1;
    status = take_all(d, &(struct source){ NULL, tensors }, why);
    tensors_free(tensors);
    return status;
}

int decoder_is(const char *name_or_path)
{
    char path[PATH_MAX + 16], mark[4] = "";
    struct stat st;
    if (!strcmp(name_or_path, "smollm2-135m")) return 1;
    if (strlen(name_or_path) >= PATH_MAX || stat(name_or_path, &st)) return 0;
    if (S_ISREG(st.st_mode)) {
        FILE *file = fopen(name_or_path, "rb");
        const int gguf = file && fread(mark, 4, 1, file) == 1 && !memcmp(mark, "GGUF", 4);
        if (file) fclose(file);
        return gguf;
    }
    json_error_t error;
    snprintf(path, sizeof path, "%s/config.json", name_or_path);
    json_t *root = S_ISDIR(st.st_mode) ? json_load_file(path, 0, &error) : NULL;
    const char *type = json_string_value(json_object_get(root, "model_type"));
    const int llama = type && !strcmp(type, "llama");
    json_decref(root);
    return llama;
}

int decoder_open(const char *name_or_path, const char *cache_dir, struct decoder **out, struct reason why)
{
    char folder[PATH_MAX], path[PATH_MAX + 16], line[512] = "";
    struct stat st;
    *out = NULL;
    static const char known[] = "smollm2-135m";
    const int named = !strcmp(name_or_path, known);
    struct nearest near = nearest_start(name_or_path, strlen(name_or_path));
    nearest_try(&near, known);
    if (!named && near.name && access(name_or_path, F_OK))
        return refuse(why, GSL_EINVAL, "%.200s: neither a decoder's name nor a file or folder; is it %s?", name_or_path,
                      known);
    if (!cache_dir) data_folder(known, folder);
    else snprintf(folder, sizeof folder, "%s/%s", cache_dir, known);
    if (named) snprintf(path, sizeof path, "%s/model.gguf", folder);
    else snprintf(path, sizeof path, "%s", name_or_path);
    struct decoder *d = calloc(1, sizeof *d);
    if (!d) return refuse(why, GSL_ENOMEM, "%s: out of memory", path);
    d->bos = d->eos = -1;
    const struct reason inner = { line, sizeof line };
    const int is_folder = !stat(path, &st) && S_ISDIR(st.st_mode);
    const int status = is_folder ? open_directory(path, d, inner) : open_gguf(path, d, inner);
    if (status) {
        decoder_free(d);
        return refuse(why, status, "%.200s: %s", path, line);
    }
    *out = d;
    return GSL_SUCCESS;
}

/* ---- random weights -------------------------------------------------------------------------- */

int decoder_random(const struct decoder_config *config, double scale, uint64_t seed, struct decoder **out)
{
    *out = NULL;
    char line[128];
    int status = check_config(config, (struct reason){ line, sizeof line });
    if (status) return status;
    struct decoder *d = calloc(1, sizeof *d);
    if (!d) return GSL_ENOMEM;
    d->config = *config;
    d->bos = d->eos = -1;
    double *x = NULL;
    if (!(status = decoder_place_weights(d, 0)) && !(x = malloc(d->num_weights * sizeof *x))) status = GSL_ENOMEM;
    if (!status) {
        const struct decoder_config *c = config;
        random_normal(seed, RANDOM_WEIGHTS, 0, 0, x, d->num_weights);
        for (size_t i = 0; i < d->num_weights; i++) d->weights[i] = (float)(scale * x[i] / sqrt((double)c->hidden));
        for (size_t layer = 0; layer < c->num_layers; layer++) {
            float *down = (float *)d->layers[layer].down, *norms = (float *)d->layers[layer].norm1;
            for (size_t i = 0; i < c->hidden * c->mlp_dim; i++)
                down[i] *= (float)sqrt((double)c->hidden / (double)c->mlp_dim);
            for (size_t i = 0; i < 2 * c->hidden; i++)
                norms[i] = (float)(1.0 + 0.1 * x[norms - d->weights + (ptrdiff_t)i]);
        }
        for (size_t i = 0; i < c->hidden; i++)
            ((float *)d->final_norm)[i] = (float)(1.0 + 0.1 * x[d->final_norm - d->weights + (ptrdiff_t)i]);
    }
    free(x);
    if (status) decoder_free(d);
    else *out = d;
    return status;
}
