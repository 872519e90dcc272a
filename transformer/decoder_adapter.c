#include "transformer/decoder_adapter.h"

#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/json_file.h"
#include "transformer/tensors.h"

struct decoder_adapter {
    struct decoder_prefix prefix;
    struct decoder_piece *pieces;   /* (num_layers, kv_heads) */
    struct tensors *tensors;        /* Z and k lie there */
    feature_map *map;
    float *tokens;                  /* K, then V: (num_layers, kv_heads, prefix_len, head_dim) each */
};

void decoder_adapter_free(struct decoder_adapter *adapter)
{
    if (!adapter) return;
    free(adapter->pieces);
    free(adapter->tokens);
    tensors_free(adapter->tensors);
    feature_map_free(adapter->map);
    free(adapter);
}

const struct decoder_prefix *decoder_adapter_prefix(const struct decoder_adapter *adapter) { return &adapter->prefix; }

/* ---- the configuration -------------------------------------------------------------------------------- */

struct description { int is_prefix, unrotated; long long positions, num_tokens; double bound; char feature[32]; };

static int describe(const json_t *root, struct description *d, struct reason why)
{
    const json_t *own = json_object_get(root, "prefix_ntk"), *positions = json_object_get(own, "positions");
    const json_t *tokens = json_object_get(root, "num_virtual_tokens"), *bound = json_object_get(own, "bound");
    const char *type = json_string_value(json_object_get(root, "peft_type")),
        *feature = json_string_value(json_object_get(own, "feature"));
    const char *rotation = json_string_value(json_object_get(own, "rotation"));
    d->is_prefix = type && !strcmp(type, "PREFIX_TUNING");
    if (!d->is_prefix && (!type || strcmp(type, "NTK_ATTENTION")))
        return refuse(why, GSL_EINVAL, "peft_type is neither PREFIX_TUNING nor NTK_ATTENTION");
    d->unrotated = rotation && !strcmp(rotation, "unrotated");
    if (rotation && !d->unrotated && strcmp(rotation, "rotated"))
        return refuse(why, GSL_EINVAL, "rotation is neither rotated nor unrotated");
    d->positions = positions ? json_is_integer(positions) ? json_integer_value(positions) : -2 : -1;
    d->num_tokens = tokens ? json_is_integer(tokens) ? json_integer_value(tokens) : -2 : -1;
    if (d->positions < -1 || d->num_tokens < -1 || d->positions > INT_MAX)
        return refuse(why, GSL_EINVAL, "positions or num_virtual_tokens is no number of tokens");
    d->bound = bound ? json_number_value(bound) : 0.0;
    snprintf(d->feature, sizeof d->feature, "%s", feature ? feature : "elu1");
    return GSL_SUCCESS;
}

static int read_config(const char *path, struct description *d, struct reason why)
{
    json_t *root;
    int status = json_object_read(path, &root, why);
    if (status) return status;
    status = describe(root, d, why);
    json_decref(root);
    return status;
}

/* ---- the arrays ------------------------------------------------------------------------------------------- */

/* One row of a head's keys from halves to adjacent pairs. */
static void pair_row(float *row, size_t dim, float *work)
{
    memcpy(work, row, dim * sizeof *row);
    for (size_t i = 0; i < dim; i++) row[i] = work[i % 2 * (dim / 2) + i / 2];
}

static int take_prefix(struct decoder_adapter *a, const struct decoder *decoder, const struct description *d,
                       struct reason why)
{
    const struct decoder_config *c = &decoder->config;
    const size_t dim = c->head_dim, heads = c->num_layers * c->kv_heads;
    const struct tensor *t = tensors_find(a->tensors, "prompt_embeddings");
    if (!t) return refuse(why, GSL_EINVAL, "no tensor prompt_embeddings");
    if (t->rank != 2 || !t->dims[0] || t->dims[1] != 2 * heads * dim)
        return refuse(why, GSL_EINVAL,
                      "prompt_embeddings is not (prefix length, %zu), 2 blocks kv_heads head_dim of the model",
                          2 * heads * dim);
    const size_t m = t->dims[0];
    if (d->num_tokens >= 0 && (size_t)d->num_tokens != m)
        return refuse(why, GSL_EINVAL, "prompt_embeddings has %zu rows, num_virtual_tokens is %lld", m, d->num_tokens);
    float *work = malloc(dim * sizeof *work);
    if (!(a->tokens = malloc(2 * heads * m * dim * sizeof *a->tokens)) || !work) {
        free(work);
        return refuse(why, GSL_ENOMEM, "out of memory");
    }
    float *K = a->tokens, *V = K + heads * m * dim;
    for (size_t head = 0; head < heads; head++) {
        const size_t layer = head / c->kv_heads, g = head % c->kv_heads;
        for (size_t j = 0; j < m; j++) {
            const float *row = t->data + j * 2 * heads * dim;
            float *k = K + (head * m + j) * dim;
            memcpy(k, row + (2 * layer * c->kv_heads + g) * dim, dim * sizeof *k);
            memcpy(V + (head * m + j) * dim, row + ((2 * layer + 1) * c->kv_heads + g) * dim, dim * sizeof *k);
            if (decoder->half_pairs) pair_row(k, dim, work);
        }
        a->pieces[head] = (struct decoder_piece){ .len = m, .K = K + head * m * dim, .V = V + head * m * dim };
    }
    free(work);
    a->prefix.positions = d->positions < 0 ? m : (size_t)d->positions;
    return GSL_SUCCESS;
}

static int take_layer(struct decoder_adapter *a, const struct decoder_config *c, size_t layer, size_t *found,
                      struct reason why)
{
    char name[2][40];
    const size_t r = feature_dim(a->map), group = c->num_heads / c->kv_heads;
    snprintf(name[0], sizeof name[0], "layer.%zu.Z", layer);
    snprintf(name[1], sizeof name[1], "layer.%zu.k", layer);
    const struct tensor *Z = tensors_find(a->tensors, name[0]), *k = tensors_find(a->tensors, name[1]);
    if (!Z && !k) return GSL_SUCCESS;
    if (!Z || !k) return refuse(why, GSL_EINVAL, "%s without %s", name[!Z], name[!k]);
    const size_t heads = Z->dims[0];
    if (Z->rank != 3 || k->rank != 2 || (heads != c->num_heads && heads != c->kv_heads) || Z->dims[1] != r ||
        Z->dims[2] != c->head_dim ||
        k->dims[0] != heads || k->dims[1] != r)
        return refuse(why, GSL_EINVAL,
                      "%s, %s: not (%zu or %zu heads, %zu features, %zu) and the same without the last", name[0],
                      name[1],
                      c->num_heads, c->kv_heads, r, c->head_dim);
    const size_t each = heads == c->num_heads ? group : 1;
    for (size_t g = 0; g < c->kv_heads; g++)
        a->pieces[layer * c->kv_heads + g] = (struct decoder_piece){ .map = a->map, .summaries = each,
                                                                     .Z = Z->data + g * each * r * c->head_dim,
                                                                     .k = k->data + g * each * r };
    *found += 2;
    return GSL_SUCCESS;
}

static int take_summaries(struct decoder_adapter *a, const struct decoder *decoder, const struct description *d,
                          struct reason why)
{
    size_t found = 0;
    if (decoder->half_pairs) return refuse(why, GSL_EINVAL, "summaries are read for GGUF models only");
    int status = feature_parse(d->feature, decoder->config.head_dim, d->bound, 0, NULL, &a->map);
    if (status) return refuse(why, GSL_EINVAL, "feature %s: %s", d->feature, feature_strerror(status));
    if (!feature_is_explicit(a->map)) return refuse(why, GSL_EINVAL, "feature %s: too many features", d->feature);
    for (size_t layer = 0; layer < decoder->config.num_layers && !status; layer++)
        status = take_layer(a, &decoder->config, layer, &found, why);
    if (!status && found != tensors_count(a->tensors))
        status = refuse(why, GSL_EINVAL, "a tensor other than layer.L.Z and layer.L.k of the model's blocks");
    a->prefix.positions = d->positions < 0 ? 0 : (size_t)d->positions;
    return status;
}

static int check_finite(const struct tensors *tensors, struct reason why)
{
    for (size_t i = 0; i < tensors_count(tensors); i++) {
        const struct tensor *t = tensors_at(tensors, i);
        size_t count = 1;
        for (size_t k = 0; k < t->rank; k++) count *= t->dims[k];
        for (size_t k = 0; k < count; k++)
            if (!isfinite(t->data[k])) return refuse(why, GSL_EINVAL, "%s: number %zu is not finite", t->name, k);
    }
    return GSL_SUCCESS;
}

int decoder_adapter_open(const char *dir, const struct decoder *decoder, struct decoder_adapter **out,
                         struct reason why)
{
    char path[PATH_MAX], line[256] = "";
    const struct reason inner = { line, sizeof line };
    struct description d;
    *out = NULL;
    struct decoder_adapter *a = calloc(1, sizeof *a);
    struct decoder_piece *pieces = calloc(decoder->config.num_layers * decoder->config.kv_heads, sizeof *pieces);
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    int status = a && pieces ? read_config(path, &d, inner) : refuse(inner, GSL_ENOMEM, "out of memory");
    if (a) a->pieces = pieces;
    else free(pieces);
    if (!status) {
        snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
        status = tensors_read(path, &a->tensors, inner);
    }
    if (!status) status = check_finite(a->tensors, inner);
    if (!status) status = d.is_prefix ? take_prefix(a, decoder, &d, inner) : take_summaries(a, decoder, &d, inner);
    if (!status && a->prefix.positions > decoder->config.max_positions)
        status = refuse(inner, GSL_EINVAL, "more positions than the %zu of the model", decoder->config.max_positions);
    if (status) {
        decoder_adapter_free(a);
        return refuse(why, status, "%.200s: %s", path, line);
    }
    a->prefix.rotation = d.unrotated ? DECODER_UNROTATED : DECODER_ROTATED;
    a->prefix.pieces = a->pieces;
    *out = a;
    return GSL_SUCCESS;
}
