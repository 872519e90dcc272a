#include "transformer/adapter_files.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/atomic_file.h"
#include "data/json_file.h"
#include "transformer/backbone.h"
#include "transformer/tensors.h"

enum { NAME_ROOM = 256, LINE = 256 };

/* ---- names of modules --------------------------------------------------------------------------------------- */

static const char *const projection_names[NUM_PROJECTIONS] = { "q", "k", "v", "o", "fc1", "fc2" };
static const char *const bert_modules[NUM_PROJECTIONS] = { "attention.self.query", "attention.self.key",
                                                           "attention.self.value", "attention.output.dense",
                                                           "intermediate.dense", "output.dense" };
static const char *const mpnet_modules[NUM_PROJECTIONS] = { "attention.attn.q", "attention.attn.k", "attention.attn.v",
                                                            "attention.attn.o", "intermediate.dense", "output.dense" };
static const char *const vit_modules[NUM_PROJECTIONS] = { "attention.attention.query", "attention.attention.key",
                                                          "attention.attention.value", "attention.output.dense",
                                                          "intermediate.dense", "output.dense" };

/* gate and up are one matrix here: no module of PEFT's. */
static const char *const llama_modules[NUM_PROJECTIONS] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                                            "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj" };

/* What is written or filled: a model or a decoder's. */
struct owner {
    struct model *model;                /* one of the two */
    struct decoder_model *decoder;
    const struct adapter_options *options;
    struct parameter *parameters;
    size_t num_parameters, num_layers, hidden, num_heads, kv_width, num_classes;
    const char *base, *blocks;          /* blocks: what precedes ".L.MODULE" */
    const char *const *modules;
};

static struct owner owner_of_model(struct model *m)
{
    const struct backbone *b = model_backbone(m);
    const enum backbone_kind kind = b->config.kind;
    return (struct owner){ .model = m, .options = model_options(m), .parameters = model_parameters(m),
                           .num_parameters = model_num_parameters(m), .num_layers = model_num_layers(m),
                           .hidden = model_hidden_size(m), .num_heads = b->config.num_heads,
                           .kv_width = model_hidden_size(m), .num_classes = model_num_classes(m), .base = b->name,
                           .blocks = "encoder.layer", .modules = kind == BACKBONE_BERT ? bert_modules
                                                                 : kind == BACKBONE_MPNET ? mpnet_modules
                                                                     : vit_modules };
}

static struct owner owner_of_decoder(struct decoder_model *m, const char *base)
{
    const struct decoder_model_options *o = decoder_model_options(m);
    const struct decoder_config *c = &decoder_model_base(m)->config;
    return (struct owner){ .decoder = m, .options = &o->adapter, .parameters = decoder_model_parameters(m),
                           .num_parameters = decoder_model_num_parameters(m), .num_layers = c->num_layers,
                           .hidden = c->hidden, .num_heads = c->num_heads, .kv_width = c->kv_heads * c->head_dim,
                           .num_classes = o->num_classes, .base = base, .blocks = "model.layers",
                           .modules = llama_modules };
}

/* Whether the prefix is written as PEFT's prompt_embeddings: of a decoder, one of all blocks without an MLP whose keys
 * turn as those of its file do. */
static bool has_prompt(const struct owner *w)
{
    const struct adapter_options *o = w->options;
    if (o->method != ADAPTER_PTUNING || w->model) return o->method == ADAPTER_PTUNING;
    return !o->reparameterise && !o->first_layer && (size_t)o->last_layer + 1 == w->num_layers &&
           !decoder_model_base(w->decoder)->half_pairs;
}

static const float *prefix_rows(const struct owner *w, size_t layer, int value)
{
    return w->model ? model_prefix_rows(w->model, layer, value) : decoder_model_prefix_rows(w->decoder, layer, value);
}

static const struct { enum adapter_method method; const char *type; } peft_types[] = {
    { ADAPTER_LORA, "LORA" }, { ADAPTER_PTUNING, "PREFIX_TUNING" }, { ADAPTER_NTK, "NTK_ATTENTION" },
    { ADAPTER_PREFIX_PLUS, "PREFIX_PLUS" },
    { ADAPTER_TIED_PREFIX, "TIED_PREFIX" }, { ADAPTER_FULL, "FULL" }, { ADAPTER_HEAD, "HEAD" },
};

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Opens DIR/NAME, lets `body` write, puts it in place. */
static int write_file(const char *dir, const char *name, int (*body)(FILE *stream, void *context), void *context,
                      struct reason why)
{
    char path[PATH_MAX], cause[LINE];
    struct atomic_file *file;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return refuse(why, GSL_EINVAL, "%s: the path is too long", name);
    int status = atomic_file_open(path, &file, cause, sizeof cause);
    if (status) return refuse(why, status, "%s: %s", path, cause);
    if ((status = body(atomic_file_stream(file), context))) {
        refuse(why, status, "%s: %s", path, status == GSL_ENOMEM ? "out of memory" : strerror(errno));
        atomic_file_discard(file);
        return status;
    }
    status = atomic_file_finish(file, path, cause, sizeof cause);
    return status ? refuse(why, status, "%s: %s", path, cause) : GSL_SUCCESS;
}

static int write_json(FILE *stream, void *json)
{
    return json_dumpf(json, stream, JSON_INDENT(2)) || fputc('\n', stream) == EOF ? GSL_EFAILED : GSL_SUCCESS;
}

struct tensor_list { struct tensor *list; size_t count, room; bool failed; };

/* flat: a single row is a vector. */
static void list_add(struct tensor_list *l, const char *name, float *data, size_t rows, size_t cols, bool flat)
{
    flat = flat && rows == 1;
    if (l->count == l->room) {
        const size_t room = l->room ? 2 * l->room : 64;
        struct tensor *grown = realloc(l->list, room * sizeof *grown);
        if (!grown) {
            l->failed = true;
            return;
        }
        l->list = grown;
        l->room = room;
    }
    char *own = strdup(name);
    if (!own) l->failed = true;
    else l->list[l->count++] = (struct tensor){ .name = own, .rank = flat ? 1 : 2,
                                                .dims = { flat ? cols : rows, cols, 0, 0 }, .data = data };
}

static void list_free(struct tensor_list *l)
{
    for (size_t i = 0; i < l->count; i++) free(l->list[i].name);
    free(l->list);
}

static int write_tensors(FILE *stream, void *context)
{
    static const char *const metadata[] = { "format", "pt", NULL };
    const struct tensor_list *l = context;
    return l->failed ? GSL_ENOMEM : tensors_write(stream, l->list, l->count, metadata);
}

/* layer.3.q.lora_A -> base_model.model.encoder.layer.3.attention.self.query.lora_A.weight; false: it is none of
 * LoRA's. */
static bool lora_name(const struct owner *w, const char *name, char *out)
{
    size_t layer;
    char projection[8], side[8];
    if (sscanf(name, "layer.%zu.%7[a-z0-9].lora_%7s", &layer, projection, side) != 3) return false;
    for (int p = 0; p < NUM_PROJECTIONS; p++)
        if (!strcmp(projection, projection_names[p])) {
            snprintf(out, NAME_ROOM, "base_model.model.%s.%zu.%s.lora_%s.weight", w->blocks, layer, w->modules[p],
                     side);
            return true;
        }
    return false;
}

/* Keys and values of all blocks side by side, (prefix_len, 2 layers kv_width); NULL without memory. */
static float *gather_prefix(const struct owner *w, size_t *cols)
{
    const size_t h = w->kv_width, layers = w->num_layers, m = w->options->prefix_len;
    *cols = 2 * layers * h;
    float *all = calloc(m * *cols, sizeof *all);
    for (size_t l = 0; all && l < layers; l++)
        for (int value = 0; value < 2; value++) {
            const float *from = prefix_rows(w, l, value);
            for (size_t r = 0; from && r < m; r++)
                memcpy(all + r * *cols + (2 * l + (size_t)value) * h, from + r * h, h * sizeof *all);
        }
    return all;
}

static json_t *config_of(const struct owner *w, enum model_pool pool, const char *const *class_names)
{
    const struct adapter_options *o = w->options;
    const char *type = "";
    for (size_t i = 0; i < sizeof peft_types / sizeof *peft_types; i++)
        if (peft_types[i].method == o->method) type = peft_types[i].type;
    json_t *names = json_array();
    for (size_t c = 0; c < w->num_classes; c++) json_array_append_new(names, json_string(class_names[c]));
    json_t *own = json_pack("{s:s, s:s, s:i, s:i, s:f, s:f, s:s, s:f, s:i, s:s, s:f, s:b, s:b, s:b, s:I, s:o}",
                            "method", adapter_method_name(o->method), "pool", pool == POOL_CLS ? "cls" : "mean",
                            "first_layer", o->first_layer, "last_layer", o->last_layer, "alpha", o->alpha, "init_scale",
                            o->init_scale, "feature", o->feature, "bound", o->bound, "z_rank", (int)o->z_rank, "k_mode",
                            adapter_k_mode_name(o->k_mode), "start_mass", o->start_mass, "units", o->units, "whiten",
                                o->whiten, "shift_positions",
                            o->shift_positions, "num_layers", (json_int_t)w->num_layers, "class_names", names);
    /* As a word: JSON's integers are signed. */
    char seed[32];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)o->feature_seed);
    if (own) json_object_set_new(own, "feature_seed", json_string(seed));
    if (own && o->reparameterise) json_object_set_new(own, "mlp_dim", json_integer((json_int_t)o->mlp_dim));
    if (own && w->decoder)
        json_object_set_new(own, "rotation", json_string(decoder_model_options(w->decoder)->rotation == DECODER_ROTATED
                                                             ? "rotated" : "unrotated"));
    json_t *config = json_pack("{s:s, s:s, s:b, s:s, s:o}", "peft_type", type, "base_model_name_or_path", w->base,
                               "inference_mode", 1, "task_type", w->decoder ? "CAUSAL_LM" : "FEATURE_EXTRACTION",
                               "prefix_ntk", own);
    if (!config) return NULL;
    if (o->method == ADAPTER_LORA) {
        json_t *targets = json_array();
        for (int p = 0; p < NUM_PROJECTIONS; p++)
            if (o->targets & 1u << p) json_array_append_new(targets, json_string(w->modules[p]));
        json_t *layers = json_array();
        for (int l = o->first_layer; l <= o->last_layer; l++) json_array_append_new(layers, json_integer(l));
        json_object_update_new(config, json_pack("{s:I, s:f, s:o, s:o, s:f, s:s, s:b}", "r", (json_int_t)o->rank,
                                                 "lora_alpha", o->alpha, "target_modules", targets,
                                                 "layers_to_transform", layers, "lora_dropout", 0.0, "bias", "none",
                                                 "fan_in_fan_out", 0));
    }
    if (o->method == ADAPTER_PTUNING || o->method == ADAPTER_TIED_PREFIX)
        json_object_update_new(config, json_pack("{s:I, s:I, s:I, s:I, s:I, s:b, s:I}", "num_virtual_tokens",
                                                 (json_int_t)o->prefix_len, "token_dim", (json_int_t)w->kv_width,
                                                 "num_attention_heads", (json_int_t)w->num_heads, "num_layers",
                                                 (json_int_t)w->num_layers, "num_transformer_submodules", (json_int_t)1,
                                                 "prefix_projection", 0, "encoder_hidden_size", (json_int_t)w->hidden));
    return config;
}

static int write_values(const char *dir, const struct owner *w, struct reason why)
{
    struct tensor_list adapter = { NULL, 0, 0, false }, head = { NULL, 0, 0, false };
    struct parameter *p = w->parameters;
    const bool prompt = has_prompt(w);
    float *prefix = NULL;
    for (size_t i = 0; i < w->num_parameters; i++) {
        char name[NAME_ROOM];
        if (p[i].group == PARAM_HEAD && strncmp(p[i].name, "output.", 7)) {
            snprintf(name, sizeof name, "classifier.%s", strrchr(p[i].name, '.') + 1);
            list_add(&head, name, p[i].value, p[i].rows, p[i].cols, true);
        } else if (!prompt) {
            const bool lora = lora_name(w, p[i].name, name);
            if (!lora) snprintf(name, sizeof name, "%s", p[i].name);
            list_add(&adapter, name, p[i].value, p[i].rows, p[i].cols, !lora);
        }
    }
    if (prompt) {
        size_t cols;
        prefix = gather_prefix(w, &cols);
        if (!prefix) adapter.failed = true;
        else list_add(&adapter, "prompt_embeddings", prefix, w->options->prefix_len, cols, false);
    }
    int status = write_file(dir, "adapter_model.safetensors", write_tensors, &adapter, why);
    if (!status && (w->model || head.count)) status = write_file(dir, "head.safetensors", write_tensors, &head, why);
    free(prefix);
    list_free(&adapter);
    list_free(&head);
    return status;
}

static int write_owner(const char *dir, const struct owner *w, enum model_pool pool, const char *const *class_names,
                       struct reason why)
{
    if (mkdir(dir, 0777) && errno != EEXIST) return refuse(why, GSL_EFAILED, "%s: %s", dir, strerror(errno));
    json_t *config = config_of(w, pool, class_names);
    if (!config) return refuse(why, GSL_ENOMEM, "out of memory");
    int status = write_values(dir, w, why);
    if (!status) status = write_file(dir, "adapter_config.json", write_json, config, why);
    json_decref(config);
    return status;
}

int adapter_files_write(const char *dir, struct model *model, enum model_pool pool, const char *const *class_names,
                        struct reason why)
{
    const struct owner owner = owner_of_model(model);
    return write_owner(dir, &owner, pool, class_names, why);
}

int adapter_files_write_decoder(const char *dir, struct decoder_model *model, const char *base,
                                const char *const *class_names, struct reason why)
{
    const struct owner owner = owner_of_decoder(model, base);
    return write_owner(dir, &owner, POOL_MEAN, class_names, why);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static int load_config(const char *dir, json_t **out, struct reason why)
{
    char path[PATH_MAX];
    char line[160];
    if (snprintf(path, sizeof path, "%s/adapter_config.json", dir) >= (int)sizeof path)
        return refuse(why, GSL_EINVAL, "the path is too long");
    const int status = json_object_read(path, out, (struct reason){ line, sizeof line });
    return status ? refuse(why, status, "%.150s: %s", path, line) : GSL_SUCCESS;
}

static size_t size_of(const json_t *config, const char *key, size_t missing)
{
    const json_t *value = json_object_get(config, key);
    if (!value) return missing;
    const json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
    return n >= 0 && n <= 1 << 24 ? (size_t)n : 0;
}

/* "attention.self.query", "query", "q_proj", ... -> its projection, -1: none. The end of the name decides. */
static int projection_of(const char *module)
{
    static const struct { const char *end; enum projection p; } ends[] = {
        { "attention.output.dense", PROJ_O }, { "intermediate.dense", PROJ_FC1 }, { "output.dense", PROJ_FC2 },
        { "query", PROJ_Q }, { "key", PROJ_K },
        { "value", PROJ_V }, { "attn.q", PROJ_Q }, { "attn.k", PROJ_K }, { "attn.v", PROJ_V }, { "attn.o", PROJ_O },
        { "q_proj", PROJ_Q }, { "k_proj", PROJ_K }, { "v_proj", PROJ_V }, { "o_proj", PROJ_O },
        { "gate_up_proj", PROJ_FC1 },
        { "down_proj", PROJ_FC2 },
    };
    const size_t n = strlen(module);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const size_t m = strlen(ends[i].end);
        if (n >= m && !strcmp(module + n - m, ends[i].end)) return (int)ends[i].p;
    }
    return -1;
}

/* More blocks than any model has. */
enum { MAX_BLOCKS = 10000 };

/* One number, or a range of blocks in any order; null for all. */
static int read_layers(const json_t *layers, struct adapter_options *o, struct reason why)
{
    const size_t count = json_is_integer(layers) ? 1 : json_array_size(layers);
    json_int_t least = INT_MAX, most = -1;
    bool good = count <= MAX_BLOCKS && (!layers || json_is_null(layers) || json_is_integer(layers)
                                        || json_is_array(layers));
    if (!good) return refuse(why, GSL_EINVAL, "adapter_config.json: layers_to_transform is no range of blocks");
    for (size_t i = 0; i < count; i++) {
        const json_t *number = json_is_integer(layers) ? layers : json_array_get(layers, i);
        const json_int_t l = json_is_integer(number) ? json_integer_value(number) : -1;
        good = good && l >= 0 && l < MAX_BLOCKS;
        if (l < least) least = l;
        if (l > most) most = l;
        for (size_t k = 0; k < i; k++) good = good && !json_equal(json_array_get(layers, k), number);
    }
    if (!count) return GSL_SUCCESS;
    if (!good || (size_t)(most - least) + 1 != count)
        return refuse(why, GSL_EINVAL, "adapter_config.json: layers_to_transform is no range of blocks");
    o->first_layer = (int)least;
    o->last_layer = (int)most;
    return GSL_SUCCESS;
}

/* What PEFT's LoRA may do and this one does not. */
static int refuse_variants(const json_t *config, struct reason why)
{
    static const char *const keys[] = { "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *value = json_object_get(config, keys[i]);
        if (json_is_true(value) || json_object_size(value))
            return refuse(why, GSL_EINVAL, "adapter_config.json: %s is not supported", keys[i]);
    }
    const char *bias = json_string_value(json_object_get(config, "bias"));
    return bias && strcmp(bias, "none")
        ? refuse(why, GSL_EINVAL, "adapter_config.json: bias %.40s is not supported", bias) : GSL_SUCCESS;
}

static int read_lora(const json_t *config, struct adapter_options *o, struct reason why)
{
    const int status = refuse_variants(config, why);
    if (status) return status;
    o->rank = size_of(config, "r", 0);
    o->alpha = json_number_value(json_object_get(config, "lora_alpha"));
    o->targets = 0;
    const json_t *targets = json_object_get(config, "target_modules");
    for (size_t i = 0; i < json_array_size(targets); i++) {
        const char *module = json_string_value(json_array_get(targets, i));
        const int p = module ? projection_of(module) : -1;
        if (p < 0)
            return refuse(why, GSL_EINVAL, "adapter_config.json: target module %.40s is not known", module ? module
                          : "?");
        o->targets |= 1u << p;
    }
    if (!o->rank || !o->targets || !(o->alpha > 0.0))
        return refuse(why, GSL_EINVAL, "adapter_config.json: r, lora_alpha or target_modules makes no sense");
    return read_layers(json_object_get(config, "layers_to_transform"), o, why);
}

/* The number of a block, or ADAPTER_LAYER_DEFAULT. */
static bool block_of(const json_t *own, const char *key, int *out)
{
    const json_t *value = json_object_get(own, key);
    const json_int_t block = json_is_integer(value) ? json_integer_value(value) : value ? MAX_BLOCKS : 0;
    if (block < ADAPTER_LAYER_DEFAULT || block >= MAX_BLOCKS) return false;
    *out = (int)block;
    return true;
}

static int read_own(const json_t *own, struct adapter_description *d, struct reason why)
{
    struct adapter_options *o = &d->options;
    const char *pool = json_string_value(json_object_get(own, "pool")),
        *feature = json_string_value(json_object_get(own, "feature")),
               *k_mode = json_string_value(json_object_get(own, "k_mode"));
    if (!pool || !feature || !k_mode || strlen(feature) >= sizeof o->feature
        || adapter_k_mode_parse(k_mode, &o->k_mode) ||
        (strcmp(pool, "cls") && strcmp(pool, "mean")))
        return refuse(why, GSL_EINVAL, "adapter_config.json: prefix_ntk: pool, feature or k_mode makes no sense");
    strcpy(o->feature, feature);
    d->pool = strcmp(pool, "cls") ? POOL_MEAN : POOL_CLS;
    if (!block_of(own, "first_layer", &o->first_layer) || !block_of(own, "last_layer", &o->last_layer))
        return refuse(why, GSL_EINVAL, "adapter_config.json: prefix_ntk: first_layer or last_layer makes no sense");
    o->bound = json_number_value(json_object_get(own, "bound"));
    o->z_rank = size_of(own, "z_rank", 0);
    o->start_mass = json_number_value(json_object_get(own, "start_mass"));
    o->units = json_is_true(json_object_get(own, "units"));
    o->whiten = json_is_true(json_object_get(own, "whiten"));
    const char *seed = json_string_value(json_object_get(own, "feature_seed"));
    o->feature_seed = seed ? strtoull(seed, NULL, 10) : 0;
    o->shift_positions = json_is_true(json_object_get(own, "shift_positions"));
    o->init_scale = json_number_value(json_object_get(own, "init_scale"));
    o->mlp_dim = size_of(own, "mlp_dim", 0);
    o->reparameterise = json_object_get(own, "mlp_dim") && json_object_get(own, "rotation");
    const char *rotation = json_string_value(json_object_get(own, "rotation"));
    d->is_decoder = rotation != NULL;
    d->unrotated = rotation && !strcmp(rotation, "unrotated");
    const json_t *names = json_object_get(own, "class_names");
    d->class_names = calloc(json_array_size(names) + 1, sizeof *d->class_names);
    if (!d->class_names) return refuse(why, GSL_ENOMEM, "out of memory");
    for (size_t c = 0; c < json_array_size(names); c++) {
        const char *name = json_string_value(json_array_get(names, c));
        if (!name) return refuse(why, GSL_EINVAL, "adapter_config.json: class_names are no words");
        if (!(d->class_names[c] = strdup(name))) return refuse(why, GSL_ENOMEM, "out of memory");
        d->num_classes++;
    }
    return GSL_SUCCESS;
}

int adapter_files_read(const char *dir, struct adapter_description *out, struct reason why)
{
    json_t *config;
    int status = load_config(dir, &config, why);
    if (status) return status;
    const char *type = json_string_value(json_object_get(config, "peft_type"));
    struct adapter_description d = { .pool = POOL_MEAN };
    size_t known = 0;
    while (type && known < sizeof peft_types / sizeof *peft_types && strcmp(type, peft_types[known].type)) known++;
    if (!type || known == sizeof peft_types / sizeof *peft_types)
        status = refuse(why, GSL_EINVAL, "adapter_config.json: peft_type %.40s is not known", type ? type : "(none)");
    if (!status) {
        d.options = adapter_defaults(peft_types[known].method);
        if (d.options.method == ADAPTER_LORA) status = read_lora(config, &d.options, why);
        if (d.options.method == ADAPTER_PTUNING || d.options.method == ADAPTER_TIED_PREFIX) {
            d.options.prefix_len = size_of(config, "num_virtual_tokens", 0);
            /* PEFT's prefixes take the first positions of a text. */
            d.options.shift_positions = d.options.method == ADAPTER_PTUNING;
            if (!d.options.prefix_len)
                status = refuse(why, GSL_EINVAL, "adapter_config.json: num_virtual_tokens makes no sense");
        }
    }
    const json_t *own = json_object_get(config, "prefix_ntk");
    if (!status && own) status = read_own(own, &d, why);
    json_decref(config);
    if (status) adapter_description_free(&d);
    else *out = d;
    return status;
}

void adapter_description_free(struct adapter_description *d)
{
    for (size_t c = 0; d->class_names && c < d->num_classes; c++) free(d->class_names[c]);
    free(d->class_names);
    d->class_names = NULL;
    d->num_classes = 0;
}

/* By its end: PEFT puts base_model.model. and perhaps bert. before a name. */
static const struct tensor *find_by_end(const struct tensors *file, const char *name)
{
    const size_t n = strlen(name);
    for (size_t i = 0; file && i < tensors_count(file); i++) {
        const struct tensor *t = tensors_at(file, i);
        const size_t m = strlen(t->name);
        if (m >= n && !strcmp(t->name + m - n, name) && (m == n || t->name[m - n - 1] == '.')) return t;
    }
    return NULL;
}

static int take_tensor(const struct tensors *file, const char *name, float *value, size_t rows, size_t cols,
                       struct reason why)
{
    const struct tensor *t = find_by_end(file, name);
    if (!t) return refuse(why, GSL_EINVAL, "tensor %.120s is missing", name);
    if (tensor_size(t) != rows * cols || (t->rank > 1 && t->dims[0] != rows))
        return refuse(why, GSL_EINVAL, "tensor %.120s has another shape than (%zu, %zu)", name, rows, cols);
    memcpy(value, t->data, rows * cols * sizeof *value);
    return GSL_SUCCESS;
}

static int load_prefix(const struct tensors *file, const struct owner *w, struct reason why)
{
    const size_t h = w->kv_width, layers = w->num_layers, m = w->options->prefix_len, cols = 2 * layers * h;
    const struct tensor *t = find_by_end(file, "prompt_embeddings");
    if (!t) t = find_by_end(file, "embedding.weight");
    if (!t) return refuse(why, GSL_EINVAL, "tensor prompt_embeddings is missing");
    /* A model that ends early takes the blocks it has. */
    if (t->rank != 2 || t->dims[0] != m || t->dims[1] < cols || t->dims[1] % (2 * h))
        return refuse(why, GSL_EINVAL, "tensor prompt_embeddings has another shape than (%zu, %zu)", m, cols);
    float *K = malloc(2 * m * h * sizeof *K), *V = K ? K + m * h : NULL;
    if (!K) return refuse(why, GSL_ENOMEM, "out of memory");
    int status = GSL_SUCCESS;
    for (size_t l = 0; l < layers && !status; l++) {
        if (!prefix_rows(w, l, 0)) continue;
        for (size_t r = 0; r < m; r++) {
            memcpy(K + r * h, t->data + r * t->dims[1] + 2 * l * h, h * sizeof *K);
            memcpy(V + r * h, t->data + r * t->dims[1] + (2 * l + 1) * h, h * sizeof *V);
        }
        status = w->model ? model_set_prefix(w->model, l, K, V, m) : decoder_model_set_prefix(w->decoder, l, K, V, m);
        if (status) refuse(why, status, "a prefix cannot be put into this model");
    }
    free(K);
    return status;
}

static int load_values(const struct tensors *adapter, const struct tensors *head, const struct owner *w,
                       struct reason why)
{
    struct parameter *p = w->parameters;
    const bool prompt = has_prompt(w);
    int status = prompt ? load_prefix(adapter, w, why) : GSL_SUCCESS;
    for (size_t i = 0; i < w->num_parameters && !status; i++) {
        char name[NAME_ROOM];
        if (p[i].group == PARAM_HEAD && strncmp(p[i].name, "output.", 7)) {
            snprintf(name, sizeof name, "classifier.%s", strrchr(p[i].name, '.') + 1);
            status = take_tensor(head ? head : adapter, name, p[i].value, p[i].rows, p[i].cols, why);
        } else if (!prompt) {
            const bool lora = lora_name(w, p[i].name, name);
            if (!lora) snprintf(name, sizeof name, "%s", p[i].name);
            /* Without what PEFT puts before it. */
            const char *key = lora ? name + strlen("base_model.model.") : name;
            status = take_tensor(adapter, key, p[i].value, p[i].rows, p[i].cols, why);
        }
    }
    if (!status && w->model) model_after_update(w->model);
    if (!status && w->decoder) decoder_model_after_update(w->decoder);
    return status;
}

static int load_owner(const char *dir, const struct owner *w, struct reason why)
{
    char path[PATH_MAX], cause[LINE];
    struct tensors *adapter = NULL, *head = NULL;
    if (snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir) >= (int)sizeof path)
        return refuse(why, GSL_EINVAL, "the path is too long");
    int status = tensors_read(path, &adapter, (struct reason){ cause, sizeof cause });
    if (status) return refuse(why, status, "adapter_model.safetensors: %s", cause);
    struct stat st;
    snprintf(path, sizeof path, "%s/head.safetensors", dir);
    if (!stat(path, &st) && (status = tensors_read(path, &head, (struct reason){ cause, sizeof cause })))
        refuse(why, status, "head.safetensors: %s", cause);
    if (!status) status = load_values(adapter, head, w, why);
    tensors_free(head);
    tensors_free(adapter);
    return status;
}

int adapter_files_load(const char *dir, struct model *model, struct reason why)
{
    const struct owner owner = owner_of_model(model);
    return load_owner(dir, &owner, why);
}

int adapter_files_load_decoder(const char *dir, struct decoder_model *model, struct reason why)
{
    const struct owner owner = owner_of_decoder(model, "");
    return load_owner(dir, &owner, why);
}
