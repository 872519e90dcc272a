/* Pretrains a small ViT on a task of images, from nothing and a seed, and writes it as a Hugging Face folder. */
#include "cli/folder.h"
#include "cli/summary.h"
#include "cli/train_state.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transformer/backbone.h"

static const char doc[] =
    "Pretrains a small vision transformer (28x28 grey images, patches of 4) as a classifier of a task's images, from a "
    "seed, and "
    "writes config.json, preprocessor_config.json and model.safetensors into the folder --out: what the backbone "
    "vit-fashion is.";

struct config {
    struct cli_common c;
    const char *task;
    size_t hidden, num_layers, num_heads, mlp_dim, epochs, batch, train_size;
    double lr;
};

enum { KEY_TASK = 1, KEY_HIDDEN, KEY_LAYERS, KEY_HEADS, KEY_MLP, KEY_EPOCHS, KEY_BATCH, KEY_TRAIN_SIZE, KEY_LR };

static const struct argp_option options[] = {
    { "task", KEY_TASK, "NAME", 0, "fashion, mnist or shapes (default fashion)", 1 },
    { "hidden", KEY_HIDDEN, "H", 0, "width (default 96)", 1 },
    { "num-layers", KEY_LAYERS, "N", 0, "blocks (default 4)", 1 },
    { "num-heads", KEY_HEADS, "N", 0, "heads, dividing the width (default 3)", 1 },
    { "mlp-dim", KEY_MLP, "N", 0, "inner width of the MLP (default 384)", 1 },
    { "epochs", KEY_EPOCHS, "N", 0, "passes over the training set (default 10)", 2 },
    { "batch", KEY_BATCH, "N", 0, "images per step (default 64)", 2 },
    { "train-size", KEY_TRAIN_SIZE, "N", 0, "training images, 0 for all (default 0)", 2 },
    { "lr", KEY_LR, "X", 0, "peak learning rate of AdamW (default 0.001)", 2 },
    { "out", CLI_COMMON, "DIR", 0, "where the model goes (required)", 0 },
    CLI_NO_VERDICTS,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_TASK: cfg->task = arg; return 0;
    case KEY_HIDDEN: return cli_parse_size(state, key, arg, 1, 4096, &cfg->hidden);
    case KEY_LAYERS: return cli_parse_size(state, key, arg, 1, 100, &cfg->num_layers);
    case KEY_HEADS: return cli_parse_size(state, key, arg, 1, 256, &cfg->num_heads);
    case KEY_MLP: return cli_parse_size(state, key, arg, 1, 1u << 16, &cfg->mlp_dim);
    case KEY_EPOCHS: return cli_parse_size(state, key, arg, 1, 10000, &cfg->epochs);
    case KEY_BATCH: return cli_parse_size(state, key, arg, 1, 4096, &cfg->batch);
    case KEY_TRAIN_SIZE: return cli_parse_size(state, key, arg, 0, 1u << 30, &cfg->train_size);
    case KEY_LR: return cli_parse_double(state, key, arg, 0.0, &cfg->lr);
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *config)
{
    const struct config *cfg = config;
    if (!strcmp(cfg->c.out, "-")) return "--out: a folder is required";
    return cfg->hidden % cfg->num_heads ? "--num-heads: does not divide --hidden" : NULL;
}

/* Mean and deviation of the training images' pixels, as 0..1. */
static void pixel_statistics(const struct task *task, struct backbone_config *c)
{
    const struct task_set *set = &task->sets[TASK_TRAIN];
    const size_t n = set->count * task->height * task->width;
    double sum = 0.0, square = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += set->images[i];
        square += (double)set->images[i] * set->images[i];
    }
    const double mean = sum / (double)n;
    /* Six digits, as the folder keeps them. */
    c->mean[0] = (float)(round(1e6 * mean / 255.0) / 1e6);
    c->std[0] = (float)(round(1e6 * sqrt(square / (double)n - mean * mean) / 255.0) / 1e6);
}

/* The trained values take the place of the random ones. */
static int take_values(struct backbone *b, struct model *model)
{
    for (size_t i = 0; i < b->num_tensors; i++) {
        const struct parameter *p = model_parameter(model, b->tensors[i].name);
        if (!p) return GSL_EINVAL;
        memcpy(b->tensors[i].data, p->value, p->rows * p->cols * sizeof *p->value);
    }
    return GSL_SUCCESS;
}

/* Fills in what the training depends on. */
static int make_key(const struct config *cfg, const struct task *task, struct train_state *state)
{
    char *text = cli_text("%s %016llx %zu %zu %zu %zu %zu %zu %zu %.17g", task->name,
                          (unsigned long long)task->checksum, cfg->hidden, cfg->num_layers, cfg->num_heads,
                          cfg->mlp_dim, cfg->epochs, cfg->batch, cfg->train_size, cfg->lr);
    uint64_t hash;
    const int error = journal_identity(&cfg->c, text, &hash);
    free(text);
    if (error) return cli_fail(&cfg->c, EXIT_FAILED, "the program: %s", strerror(error));
    snprintf(state->key, sizeof state->key, "%016llx", (unsigned long long)hash);
    return EXIT_DONE;
}

static int train(const struct config *cfg, const struct task *task, const struct train_state *state, struct backbone *b)
{
    char line[512];
    const struct reason why = { line, sizeof line };
    const struct adapter_options adapter = adapter_defaults(ADAPTER_FULL);
    const struct inputs_options io = { 0, 0 };
    struct train_options to = train_defaults(ADAPTER_FULL);
    to.lr = to.head_lr = cfg->lr;
    to.epochs = cfg->epochs;
    to.batch = cfg->batch;
    to.weight_decay = 0.05;
    to.seed = cfg->c.seed;
    to.schedule = SCHEDULE_COSINE;
    to.num_threads = cfg->c.threads;
    struct inputs *inputs = NULL;
    struct model *model = NULL;
    struct train *t = NULL;
    struct evaluation test;
    int code = 0, status = inputs_alloc(b, task, &io, &inputs, why);
    if (!status) status = model_alloc(b, &adapter, task->num_classes, POOL_CLS, 0, cfg->c.seed, &model, why);
    if (!status && (code = cli_memory(&cfg->c, (double)train_bytes(model, inputs, &to), "this training"))) goto done;
    if (!status) status = train_alloc(model, inputs, &to, &t, why);
    if (status) {
        code = cli_fail(&cfg->c, EXIT_FAILED, "%s", line);
        goto done;
    }
    train_state_load(state, t);
    code = train_state_run(state, t, "pretraining");
    if (!code)
        code = cli_status(&cfg->c, train_evaluate(model, inputs, TASK_TEST, cfg->batch, &test, NULL, NULL),
                          "the evaluation");
    if (!code && !cfg->c.quiet)
        fprintf(stderr, "%s: test accuracy %.4f of %zu\n", task->name, test.accuracy, test.count);
    if (!code) code = cli_status(&cfg->c, take_values(b, model), "the weights");
done:
    train_free(t);
    model_free(model);
    inputs_free(inputs);
    return code;
}

int main(int argc, char **argv)
{
    static struct config cfg = { .task = "fashion", .hidden = 96, .num_layers = 4, .num_heads = 3, .mlp_dim = 384,
                                 .epochs = 10, .batch = 64, .lr = 1e-3 };
    char line[512];
    const struct reason why = { line, sizeof line };
    cli_parse(argc, argv, doc, options, parse, check, &cfg.c);
    struct folder folder = { .path = NULL };
    struct train_state state;
    struct task *task = NULL;
    struct backbone *b = NULL;
    const struct task_options to = { .train_size = cfg.train_size, .validation_size = 1000, .seed = cfg.c.seed };
    int code = folder_check(&cfg.c, cfg.c.out);
    if (!code) code = train_state_init(&state, &cfg.c, cfg.c.out, ".pretrain.state");
    int status = code ? GSL_SUCCESS : task_open(cfg.task, &to, &task, why);
    if (status) code = cli_fail(&cfg.c, cli_input_code(status), "%s", line);
    if (!code && (task->modality != TASK_IMAGE || task->channels != 1 || task->height != 28))
        code = cli_fail(&cfg.c, EXIT_USAGE, "--task: not of grey images of 28 x 28");
    if (!code) code = make_key(&cfg, task, &state);
    struct backbone_config c = { .kind = BACKBONE_VIT, .hidden = cfg.hidden, .num_layers = cfg.num_layers,
                                 .num_heads = cfg.num_heads, .mlp_dim = cfg.mlp_dim,
                                 .norm_eps = 1e-6, .pre_norm = 1, .image_size = 28, .patch_size = 4, .channels = 1,
                                 .position_grid = 7,
                                 .default_last_layer = cfg.num_layers - 1 };
    if (!code) {
        pixel_statistics(task, &c);
        code = cli_status(&cfg.c, backbone_random(&c, 0.0, cfg.c.seed, &b), "the start");
    }
    if (!code) code = folder_open(&cfg.c, cfg.c.out, &folder);
    if (!code) code = train(&cfg, task, &state, b);
    if (!code) {
        cli_outputs_begin(&cfg.c);
        status = backbone_write(cfg.c.out, b, why);
        code = cli_outputs_end(&cfg.c, status ? cli_fail(&cfg.c, EXIT_FAILED, "%s", line) : EXIT_DONE);
    }
    if (!code) train_state_remove(&state);
    folder_close(&folder, code);
    backbone_free(b);
    task_free(task);
    return code;
}
