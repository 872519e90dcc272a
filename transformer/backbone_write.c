#include <errno.h>
#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <math.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/atomic_file.h"
#include "transformer/backbone_naming.h"

enum { NAME_ROOM = 160 };

static json_t *config_of(const struct backbone *b, const struct family *f)
{
    const struct backbone_config *c = &b->config;
    json_t *json = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:f}", "model_type", f->model_type, "hidden_act", "gelu",
                             "hidden_size", (json_int_t)c->hidden, "num_hidden_layers", (json_int_t)c->num_layers,
                             "num_attention_heads", (json_int_t)c->num_heads, "intermediate_size",
                             (json_int_t)c->mlp_dim, "layer_norm_eps", c->norm_eps);
    json_t *more = c->kind == BACKBONE_VIT ? json_pack("{s:I, s:I, s:I}", "image_size", (json_int_t)c->image_size,
                                                       "patch_size", (json_int_t)c->patch_size, "num_channels",
                                                       (json_int_t)c->channels)
                                           : json_pack("{s:I, s:I, s:I}", "vocab_size", (json_int_t)c->vocab_size,
                                                       "max_position_embeddings", (json_int_t)c->max_positions,
                                                       "type_vocab_size", (json_int_t)c->type_vocab);
    if (json && more) json_object_update(json, more);
    json_decref(more);
    return json;
}

static json_t *preprocessor_of(const struct backbone *b)
{
    json_t *mean = json_array(), *std = json_array();
    for (size_t i = 0; i < b->config.channels; i++) {
        /* Six digits, as people write them. */
        json_array_append_new(mean, json_real(round(1e6 * (double)b->config.mean[i]) / 1e6));
        json_array_append_new(std, json_real(round(1e6 * (double)b->config.std[i]) / 1e6));
    }
    return json_pack("{s:o, s:o}", "image_mean", mean, "image_std", std);
}

/* Room for every tensor under its file name; data are borrowed. */
static int name_tensors(const struct backbone *b, const struct family *f, struct tensor *list, size_t *count)
{
    *count = b->num_tensors;
    for (size_t i = 0; i < b->num_tensors; i++) {
        const char *canonical = b->tensors[i].name, *end = strrchr(canonical, '.');
        size_t layer;
        int at = 0;
        char name[NAME_ROOM] = "";
        for (const struct naming *n = f->globals; n->canonical && !*name; n++)
            if (!strcmp(n->canonical, canonical)) snprintf(name, sizeof name, "%s", n->source);
        if (!*name && sscanf(canonical, "layer.%zu.%n", &layer, &at) == 1 && at) {
            for (const struct naming *n = f->block; n->canonical && !*name; n++) {
                const size_t length = strlen(n->canonical);
                if (strncmp(canonical + at, n->canonical, length)
                    || (canonical[(size_t)at + length] && canonical + at + length != end))
                    continue;
                snprintf(name, sizeof name, "encoder.layer.%zu.%s%s", layer, n->source, canonical[(size_t)at + length]
                         ? end : "");
            }
        }
        if (!*name) return GSL_EUNSUP;
        list[i] = b->tensors[i];
        if (!(list[i].name = strdup(name))) return GSL_ENOMEM;
    }
    return GSL_SUCCESS;
}

static int write_weights(FILE *stream, const struct backbone *b, const struct family *f)
{
    static const char *const metadata[] = { "format", "pt", NULL };
    struct tensor *list = calloc(b->num_tensors + 1, sizeof *list);
    size_t count = 0;
    int status = list ? name_tensors(b, f, list, &count) : GSL_ENOMEM;
    if (!status) status = tensors_write(stream, list, count, metadata);
    for (size_t i = 0; list && i < count; i++)
        if (list[i].name != b->tensors[i].name) free(list[i].name);
    free(list);
    return status;
}

/* One file: weights, or a JSON object (taken over). */
static int write_file(const char *dir, const char *name, json_t *json, const struct backbone *b, const struct family *f,
                      struct reason why)
{
    char path[PATH_MAX], cause[160];
    struct atomic_file *file;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return refuse(why, GSL_EINVAL, "the path is too long");
    int status = atomic_file_open(path, &file, cause, sizeof cause);
    if (!status) {
        FILE *stream = atomic_file_stream(file);
        if (!json) status = write_weights(stream, b, f);
        else if (json_dumpf(json, stream, JSON_INDENT(2)) || fputc('\n', stream) == EOF) status = GSL_EFAILED;
        if (status) {
            snprintf(cause, sizeof cause, "%s", status == GSL_EUNSUP ? "a tensor this family has no name for"
                     : strerror(errno));
            atomic_file_discard(file);
        } else {
            status = atomic_file_finish(file, path, cause, sizeof cause);
        }
    }
    json_decref(json);
    return status ? refuse(why, status, "%.200s: %s", path, cause) : GSL_SUCCESS;
}

int backbone_write(const char *dir, const struct backbone *b, struct reason why)
{
    const char *type = b->config.kind == BACKBONE_VIT && !b->config.layer_scale ? "vit"
        : b->config.kind == BACKBONE_BERT ? "bert" : NULL;
    const struct family *f = backbone_families;
    if (!type) return refuse(why, GSL_EUNSUP, "only backbones of the families bert and vit are written");
    while (strcmp(f->model_type, type)) f++;
    if (mkdir(dir, 0777) && errno != EEXIST) return refuse(why, GSL_EFAILED, "%.200s: %s", dir, strerror(errno));
    int status = write_file(dir, "model.safetensors", NULL, b, f, why);
    if (!status && b->config.kind == BACKBONE_VIT)
        status = write_file(dir, "preprocessor_config.json", preprocessor_of(b), b, f, why);
    if (!status) status = write_file(dir, "config.json", config_of(b, f), b, f, why);
    return status;
}
