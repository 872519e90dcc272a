/* Fine-tunes a pretrained backbone on a task by one of seven methods, or evaluates an adapter. */
#include "cli/folder.h"
#include "cli/train_state.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/atomic_file.h"
#include "common/hash.h"
#include "common/input_file.h"
#include "transformer/adapter_files.h"
#include "transformer/backbone.h"
#include "transformer/lm_train.h"

static const char doc[] =
    "Fine-tunes a pretrained backbone on a task: NTK-Attention beside full fine-tuning, LoRA, P-Tuning V2 and others. "
    "Writes "
    "curve.csv, result.json, predictions.csv and adapter/ into the folder --out; the same command resumes after a "
    "kill.";

/* Options' keys lie above the characters, which argp would take for short names. */
enum { MAX_KEY = 320 };

struct config {
    struct cli_common c;
    const char *backbone, *task, *train_file, *test_file, *adapter;
    int method, pool, schedule, list, rotation, output, given[MAX_KEY];
    size_t decode;
    struct adapter_options a;
    struct train_options t;
    size_t train_size, validation_size, test_size, max_len, image_size, num_epochs;
    double lr, head_lr;
    int has_lr, has_head_lr, has_epochs;
};

enum { KEY_BACKBONE = 256, KEY_TASK, KEY_TRAIN, KEY_TEST, KEY_METHOD, KEY_RANK, KEY_ALPHA, KEY_TARGETS, KEY_PREFIX_LEN,
       KEY_INIT_SCALE, KEY_MLP, KEY_SHIFT, KEY_FEATURE, KEY_BOUND, KEY_Z_RANK, KEY_K_MODE, KEY_START_MASS, KEY_UNITS,
           KEY_WHITEN, KEY_LR, KEY_HEAD_LR, KEY_EPOCHS, KEY_BATCH, KEY_TRAIN_SIZE, KEY_VALIDATION_SIZE,
       KEY_TEST_SIZE, KEY_MAX_LEN, KEY_IMAGE_SIZE, KEY_LAYERS, KEY_POOL, KEY_SCHEDULE, KEY_WARMUP, KEY_DECAY, KEY_CLIP,
           KEY_SMOOTHING, KEY_EVAL_EVERY,
       KEY_KEEP, KEY_ADAPTER, KEY_LIST, KEY_ROTATION, KEY_OUTPUT, KEY_DECODE };
_Static_assert((int)KEY_DECODE < (int)MAX_KEY, "every key has its place in given");

static const struct argp_option options[] = {
    { "backbone", KEY_BACKBONE, "NAME|DIR", 0,
      "pretrained model: a name of --list, or a Hugging Face folder (default vit-fashion)", 1 },
    { "task", KEY_TASK, "NAME", 0, "task of --list (default shapes)", 1 },
    { "train", KEY_TRAIN, "FILE", 0, "own data: CSV with columns text[,text2],label, or X.npy with y.npy", 1 },
    { "test", KEY_TEST, "FILE", 0, "its test set", 1 },
    { "method", KEY_METHOD, "NAME", 0, "full, head, lora, ptuning, tied-prefix, ntk, prefix-plus (default ntk)", 2 },
    { "rank", KEY_RANK, "R", 0, "lora: rank (default 8)", 2 },
    { "alpha", KEY_ALPHA, "A", 0, "lora: scale alpha / rank (default 16)", 2 },
    { "targets", KEY_TARGETS, "LIST", 0, "lora: of q, k, v, o, fc1, fc2, or all (default q,v)", 2 },
    { "prefix-len", KEY_PREFIX_LEN, "M", 0, "ptuning, tied-prefix: tokens (default 16)", 2 },
    { "init-scale", KEY_INIT_SCALE, "S", 0, "ptuning, tied-prefix: standard deviation at the start (default 0.02)", 2 },
    { "reparameterise", KEY_MLP, "D", 0, "ptuning: prefix made by an MLP of inner width D", 2 },
    { "shift-positions", KEY_SHIFT, "0|1", 0,
      "ptuning of texts: the prefix takes the first positions, as in PEFT (default 0)", 2 },
    { "feature", KEY_FEATURE, "NAME", 0,
      "ntk, prefix-plus: elu1, taylor:G, cheb:G, minimax:G, split:G, favor:R, favor-orth:R (default elu1)", 2 },
    { "bound", KEY_BOUND, "B", 0, "ntk, prefix-plus: interval of cheb and minimax (default 4)", 2 },
    { "z-rank", KEY_Z_RANK, "R", 0, "ntk, prefix-plus: rank of Z, 0 for full (default 0)", 2 },
    { "k-mode", KEY_K_MODE, "NAME", 0, "ntk: log (k = exp theta), linear, zero, tied (default log)", 2 },
    { "start-mass", KEY_START_MASS, "X", 0, "ntk: mass of the summary at the start (default 0.01)", 2 },
    { "units", KEY_UNITS, "0|1", 0, "ntk: Z and k in units of the mean of A 1 (default 1)", 2 },
    { "whiten", KEY_WHITEN, "0|1", 0,
      "ntk, prefix-plus: Z in the basis in which the features of the first batch are white (default 0)", 2 },
    { "layers", KEY_LAYERS, "A-B", 0, "blocks that are adapted, counted from 0 (default all in use)", 2 },
    { "lr", KEY_LR, "X", 0, "learning rate of adapter or backbone (default by method)", 3 },
    { "head-lr", KEY_HEAD_LR, "X", 0, "learning rate of the classifier (default 0.001)", 3 },
    { "epochs", KEY_EPOCHS, "N", 0, "passes over the training set, 0 to evaluate only (default 5)", 3 },
    { "batch", KEY_BATCH, "N", 0, "examples per step (default 16)", 3 },
    { "schedule", KEY_SCHEDULE, "NAME", 0, "constant, linear, cosine (default linear)", 3 },
    { "warmup", KEY_WARMUP, "X", 0, "share of the steps with a rising rate (default 0.06)", 3 },
    { "weight-decay", KEY_DECAY, "X", 0, "decoupled weight decay (default 0.01)", 3 },
    { "clip", KEY_CLIP, "X", 0, "largest norm of a gradient, 0 for none (default 1)", 3 },
    { "label-smoothing", KEY_SMOOTHING, "X", 0, "share spread over all classes (default 0)", 3 },
    { "eval-every", KEY_EVAL_EVERY, "N", 0,
      "steps between evaluations on the validation set, 0 for once an epoch (default 0)", 3 },
    { "keep", KEY_KEEP, "NAME", 0, "last, or best by validation accuracy (default last)", 3 },
    { "train-size", KEY_TRAIN_SIZE, "N", 0, "training examples, balanced by class, 0 for all (default 0)", 4 },
    { "validation-size", KEY_VALIDATION_SIZE, "N", 0, "validation examples, 0 for all (default 1000 at most)", 4 },
    { "test-size", KEY_TEST_SIZE, "N", 0, "test examples, 0 for all (default 0)", 4 },
    { "max-len", KEY_MAX_LEN, "N", 0, "text: tokens at most (default 128)", 4 },
    { "image-size", KEY_IMAGE_SIZE, "N", 0, "images are resized to N pixels (default the backbone's, or seven patches)",
      4 },
    { "pool", KEY_POOL, "NAME", 0, "cls or mean of what the classifier reads (default mean for text, cls for images)",
      4 },
    { "rotation", KEY_ROTATION, "NAME", 0,
      "decoders: whether prefixes and summaries meet the query rotated or unrotated (default rotated)", 4 },
    { "output", KEY_OUTPUT, "NAME", 0,
      "decoders, tasks of classes: tokens (the first token of a class's name) or classifier (default tokens)", 4 },
    { "decode", KEY_DECODE, "N", 0,
      "decoders, tasks of answers: accuracy on the test set is that of the final number of N tokens decoded greedily, "
      "0: of "
                                    "the whole answer (default 0)", 4 },
    { "adapter", KEY_ADAPTER, "DIR", 0, "adapter to evaluate (with --epochs 0)", 5 },
    { "list", KEY_LIST, NULL, 0, "print methods, backbones and tasks", 5 },
    { "out", CLI_COMMON, "DIR", 0, "where curve.csv, result.json, predictions.csv and adapter/ go (required)", 0 },
    CLI_NO_VERDICTS,
    { 0 }
};

static const char *const method_names[] = { "full", "head", "lora", "ptuning", "tied-prefix", "ntk", "prefix-plus",
                                            NULL };
static const char *const pool_names[] = { "cls", "mean", NULL };
static const char *const schedule_names[] = { "constant", "linear", "cosine", NULL };
static const char *const rotation_names[] = { "rotated", "unrotated", NULL };
static const char *const output_names[] = { "tokens", "classifier", NULL };
static const char *const keep_names[] = { "last", "best", NULL };
static const char *const switch_names[] = { "0", "1", NULL };

/* One line per option. */
static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    int flag = 0, choice = 0, status;
    if (key > 0 && key < MAX_KEY) cfg->given[key] = 1;
    switch (key) {
    case KEY_BACKBONE: cfg->backbone = arg; return 0;
    case KEY_TASK: cfg->task = arg; return 0;
    case KEY_TRAIN: cfg->train_file = arg; return 0;
    case KEY_TEST: cfg->test_file = arg; return 0;
    case KEY_METHOD: return cli_parse_choice(state, key, arg, method_names, &cfg->method);
    case KEY_RANK: return cli_parse_size(state, key, arg, 1, 4096, &cfg->a.rank);
    case KEY_ALPHA: return cli_parse_double(state, key, arg, 0.0, &cfg->a.alpha);
    case KEY_TARGETS:
        if (adapter_targets_parse(arg, &cfg->a.targets))
            argp_failure(state, EXIT_USAGE, 0, "--targets: %s is not a list of q, k, v, o, fc1, fc2", arg);
        return 0;
    case KEY_PREFIX_LEN: return cli_parse_size(state, key, arg, 1, 1u << 20, &cfg->a.prefix_len);
    case KEY_INIT_SCALE: return cli_parse_double(state, key, arg, 0.0, &cfg->a.init_scale);
    case KEY_MLP:
        cfg->a.reparameterise = 1;
        return cli_parse_size(state, key, arg, 1, 1u << 16, &cfg->a.mlp_dim);
    case KEY_SHIFT: return cli_parse_choice(state, key, arg, switch_names, &cfg->a.shift_positions);
    case KEY_FEATURE:
        if (strlen(arg) >= sizeof cfg->a.feature) argp_failure(state, EXIT_USAGE, 0, "--feature: %s is too long", arg);
        strcpy(cfg->a.feature, arg);
        return 0;
    case KEY_BOUND: return cli_parse_double(state, key, arg, 0.0, &cfg->a.bound);
    case KEY_Z_RANK: return cli_parse_size(state, key, arg, 0, 4096, &cfg->a.z_rank);
    case KEY_K_MODE:
        cli_parse_choice(state, key, arg, adapter_k_mode_names, &choice);
        cfg->a.k_mode = (enum adapter_k_mode)choice;
        return 0;
    case KEY_START_MASS: return cli_parse_double(state, key, arg, 0.0, &cfg->a.start_mass);
    case KEY_UNITS: return cli_parse_choice(state, key, arg, switch_names, &cfg->a.units);
    case KEY_WHITEN: return cli_parse_choice(state, key, arg, switch_names, &cfg->a.whiten);
    case KEY_LAYERS: return cli_parse_range(state, key, arg, &cfg->a.first_layer, &cfg->a.last_layer);
    case KEY_LR: cfg->has_lr = 1; return cli_parse_double(state, key, arg, 0.0, &cfg->lr);
    case KEY_HEAD_LR: cfg->has_head_lr = 1; return cli_parse_double(state, key, arg, 0.0, &cfg->head_lr);
    case KEY_EPOCHS: cfg->has_epochs = 1; return cli_parse_size(state, key, arg, 0, 100000, &cfg->num_epochs);
    case KEY_BATCH: return cli_parse_size(state, key, arg, 1, 4096, &cfg->t.batch);
    case KEY_SCHEDULE: return cli_parse_choice(state, key, arg, schedule_names, &cfg->schedule);
    case KEY_WARMUP: return cli_parse_double(state, key, arg, -1e-300, &cfg->t.warmup);
    case KEY_DECAY: return cli_parse_double(state, key, arg, -1e-300, &cfg->t.weight_decay);
    case KEY_CLIP: return cli_parse_double(state, key, arg, -1e-300, &cfg->t.clip);
    case KEY_SMOOTHING: return cli_parse_double(state, key, arg, -1e-300, &cfg->t.label_smoothing);
    case KEY_EVAL_EVERY: return cli_parse_size(state, key, arg, 0, 1u << 30, &cfg->t.eval_every);
    case KEY_KEEP:
        status = cli_parse_choice(state, key, arg, keep_names, &flag);
        cfg->t.keep_best = flag;
        return status;
    case KEY_TRAIN_SIZE: return cli_parse_size(state, key, arg, 0, 1u << 30, &cfg->train_size);
    case KEY_VALIDATION_SIZE: return cli_parse_size(state, key, arg, 0, 1u << 30, &cfg->validation_size);
    case KEY_TEST_SIZE: return cli_parse_size(state, key, arg, 0, 1u << 30, &cfg->test_size);
    case KEY_MAX_LEN: return cli_parse_size(state, key, arg, 8, 1u << 16, &cfg->max_len);
    case KEY_IMAGE_SIZE: return cli_parse_size(state, key, arg, 1, 4096, &cfg->image_size);
    case KEY_POOL: return cli_parse_choice(state, key, arg, pool_names, &cfg->pool);
    case KEY_ADAPTER: cfg->adapter = arg; return 0;
    case KEY_LIST: cfg->list = 1; return 0;
    case KEY_ROTATION: return cli_parse_choice(state, key, arg, rotation_names, &cfg->rotation);
    case KEY_OUTPUT: return cli_parse_choice(state, key, arg, output_names, &cfg->output);
    case KEY_DECODE: return cli_parse_size(state, key, arg, 0, 4096, &cfg->decode);
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* Methods an option acts on, as bits; 0: all. */
static unsigned methods_of(int key)
{
    enum { LORA = 1u << ADAPTER_LORA, PREFIX = 1u << ADAPTER_PTUNING | 1u << ADAPTER_TIED_PREFIX,
           SUMMARY = 1u << ADAPTER_NTK | 1u << ADAPTER_PREFIX_PLUS };
    switch (key) {
    case KEY_RANK: case KEY_ALPHA: case KEY_TARGETS: return LORA;
    case KEY_PREFIX_LEN: case KEY_INIT_SCALE: return PREFIX;
    case KEY_MLP: case KEY_SHIFT: return 1u << ADAPTER_PTUNING;
    case KEY_FEATURE: case KEY_BOUND: case KEY_Z_RANK: case KEY_WHITEN: return SUMMARY;
    case KEY_K_MODE: case KEY_START_MASS: case KEY_UNITS: return 1u << ADAPTER_NTK;
    case KEY_LAYERS: return ~(1u << ADAPTER_HEAD);
    case KEY_LR: return ~(1u << ADAPTER_HEAD);
    default: return 0;
    }
}

/* Options of the training itself. */
static int is_of_training(int key)
{
    return key == KEY_LR || key == KEY_HEAD_LR || (key >= KEY_SCHEDULE && key <= KEY_KEEP);
}

/* Summaries that have no interval, and a k that starts from nothing. */
static const char *check_summary(const struct config *cfg)
{
    struct feature_spec spec;
    const int known = !feature_spec_parse(cfg->a.feature, &spec);
    if (cfg->given[KEY_BOUND] && (!cfg->given[KEY_FEATURE] || (known && !feature_needs_bound(&spec))))
        return "--bound: has no effect with this --feature";
    if (cfg->given[KEY_START_MASS] && (cfg->a.k_mode == ADAPTER_K_ZERO || cfg->a.k_mode == ADAPTER_K_LINEAR))
        return "--start-mass: has no effect with this --k-mode";
    return NULL;
}

static const char *check(void *config)
{
    struct config *cfg = config;
    static char line[160];
    if (cfg->list && cli_given("out")) return "--out: has no effect with --list";
    if (cfg->list) return NULL;
    if (cfg->task && (cfg->train_file || cfg->test_file)) return "--task: given together with --train and --test";
    if (!cfg->train_file != !cfg->test_file) return "--train and --test: one without the other";
    if (cfg->adapter && (!cfg->has_epochs || cfg->num_epochs)) return "--adapter: evaluates only, with --epochs 0";
    if (!strcmp(cfg->c.out, "-")) return "--out: a folder is required";
    if (cfg->t.warmup >= 1.0) return "--warmup: not below 1";
    if (cfg->t.label_smoothing >= 1.0) return "--label-smoothing: not below 1";
    for (const struct argp_option *o = options; o->name; o++) {
        if (o->key >= MAX_KEY) continue;
        const unsigned methods = methods_of(o->key);
        if (cfg->given[o->key] && is_of_training(o->key) && cfg->has_epochs && !cfg->num_epochs) {
            snprintf(line, sizeof line, "--%s: has no effect with --epochs 0", o->name);
            return line;
        }
        if (!cfg->given[o->key] || !methods) continue;
        snprintf(line, sizeof line, "--%s: has no effect with %s", o->name, cfg->adapter ? "--adapter"
                 : method_names[cfg->method]);
        if (cfg->adapter || !(methods & 1u << cfg->method)) return line;
    }
    if (cfg->adapter && cfg->given[KEY_METHOD]) return "--method: the adapter says it";
    return check_summary(cfg);
}

/* ---- listing ---------------------------------------------------------------------------------------------- */

static int print_list(const struct config *cfg)
{
    size_t n;
    printf("methods\n");
    for (int m = 0; m < NUM_ADAPTER_METHODS; m++)
        printf("  %-20s %s\n", adapter_method_name(m), adapter_method_summary(m));
    printf("backbones\n");
    const struct backbone_entry *b = backbone_list(&n);
    for (size_t i = 0; i < n; i++) printf("  %-20s %s\n", b[i].name, b[i].summary);
    printf("  %-20s %s\n", "smollm2-135m",
           "SmolLM2-135M-Instruct, a decoder: 30 blocks, 576 wide (weights from 4 bits); or a FILE.gguf, a folder of "
           "model_type llama");
    printf("tasks\n");
    const struct task_entry *t = task_list(&n);
    for (size_t i = 0; i < n; i++) printf("  %-20s %s\n", t[i].name, t[i].summary);
    return cli_stdout(&cfg->c);
}

/* ---- one run ------------------------------------------------------------------------------------------------- */

struct run {
    struct config *cfg;
    struct backbone *backbone;          /* an encoder's, or */
    struct decoder *decoder;
    struct task *task;
    struct inputs *inputs;
    struct model *model;
    struct lm_inputs *texts;            /* a decoder's */
    struct decoder_model *lm;
    struct train *train;
    enum model_pool pool;
    struct train_state state;
    struct folder folder, adapter;
    char adapter_path[PATH_MAX];
    struct evaluation test, validation;
    int32_t *predicted;
};

static int fail_data(const struct config *cfg, int status, const char *what, const char *line)
{
    return cli_fail(&cfg->c, cli_input_code(status), "%s%s%s", what, *what ? ": " : "", line);
}

/* Hash of the program and the machine's arithmetic, the weights and vocabulary, the examples, the adapter and the
 * options. */
static int make_key(struct run *r)
{
    static const char *const files[] = { "adapter_config.json", "adapter_model.safetensors", "head.safetensors" };
    const struct config *cfg = r->cfg;
    char path[PATH_MAX], line[PATH_MAX + 256];
    const struct reason why = { line, sizeof line };
    uint64_t hash;
    const int error = journal_identity(&cfg->c, "", &hash);
    if (error) return cli_fail(&cfg->c, EXIT_FAILED, "the program: %s", strerror(error));
    int status = GSL_SUCCESS;
    if (r->decoder) hash = hash_bytes(hash, r->decoder->weights, r->decoder->num_weights * sizeof *r->decoder->weights);
    else status = backbone_hash(r->backbone, &hash, why);
    for (size_t i = 0; cfg->adapter && i < sizeof files / sizeof *files && !status; i++) {
        snprintf(path, sizeof path, "%s/%s", cfg->adapter, files[i]);
        if (!i || !access(path, F_OK)) status = input_file_hash(path, &hash, why);
    }
    if (status) return fail_data(cfg, status, "", line);
    for (size_t c = 0; c < r->task->num_classes; c++)
        hash = hash_bytes(hash, r->task->class_names[c], strlen(r->task->class_names[c]) + 1);
    hash = hash_bytes(hash, &r->task->checksum, sizeof r->task->checksum);
    for (int i = 1; i < cfg->c.argc; i++) {
        const char *word = cfg->c.argv[i];
        /* What does not change a number. */
        static const char *const silent[] = { "--threads", "--out", "--quiet" };
        int skip = 0;
        for (size_t s = 0; s < sizeof silent / sizeof *silent; s++) {
            const size_t n = strlen(silent[s]);
            if (!strncmp(word, silent[s], n) && (!word[n] || word[n] == '=')) skip = word[n] || s == 2 ? 1 : 2;
        }
        if (skip) i += skip - 1;
        else hash = hash_bytes(hash, word, strlen(word) + 1);
    }
    snprintf(r->state.key, sizeof r->state.key, "%016llx", (unsigned long long)hash);
    return EXIT_DONE;
}

static char *in_folder(const struct run *r, const char *name, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/%s", r->cfg->c.out, name);
    return path;
}

/* Whether the folder holds this very result. */
static int is_done(const struct run *r)
{
    char path[PATH_MAX];
    json_error_t error;
    json_t *json = json_load_file(in_folder(r, "result.json", path), 0, &error);
    const char *key = json_string_value(json_object_get(json, "key"));
    const int done = key && !strcmp(key, r->state.key) && !access(in_folder(r, "predictions.csv", path), R_OK) &&
                     !access(in_folder(r, "curve.csv", path), R_OK) &&
                     (!r->cfg->num_epochs || !access(in_folder(r, "adapter/adapter_config.json", path), R_OK));
    json_decref(json);
    return done;
}

/* Options of the one kind of backbone with the other: their effect would be none. */
static int check_kind(const struct config *cfg, int is_decoder)
{
    static const int encoders[] = { KEY_IMAGE_SIZE, KEY_POOL, KEY_SHIFT, KEY_SMOOTHING, 0 };
    static const int decoders[] = { KEY_ROTATION, KEY_OUTPUT, KEY_DECODE, 0 };
    for (const int *key = is_decoder ? encoders : decoders; *key; key++)
        for (const struct argp_option *o = options; o->name && cfg->given[*key]; o++)
            if (o->key == *key)
                return cli_fail(&cfg->c, EXIT_USAGE, "--%s: has no effect with %s", o->name, cfg->backbone);
    return 0;
}

static int open_decoder(struct run *r, const struct task_options *to)
{
    struct config *cfg = r->cfg;
    char line[512];
    const struct reason why = { line, sizeof line };
    int status = decoder_open(cfg->backbone, NULL, &r->decoder, why);
    if (!status) status = task_open(cfg->train_file ? NULL : cfg->task ? cfg->task : "shapes", to, &r->task, why);
    if (!status) status = lm_inputs_alloc(r->decoder, r->task, cfg->max_len, cfg->output, &r->texts, why);
    return status ? fail_data(cfg, status, "", line) : 0;
}

static int open_all(struct run *r)
{
    struct config *cfg = r->cfg;
    char line[512];
    const struct reason why = { line, sizeof line };
    const struct task_options to = { cfg->train_file, cfg->test_file, cfg->train_size, cfg->validation_size,
                                     cfg->test_size, cfg->c.seed };
    const int is_decoder = decoder_is(cfg->backbone), code = check_kind(cfg, is_decoder);
    if (code || is_decoder) return code ? code : open_decoder(r, &to);
    int status = backbone_open(cfg->backbone, &r->backbone, why);
    if (status) return fail_data(cfg, status, cfg->backbone, line);
    const int images = r->backbone->config.kind == BACKBONE_VIT;
    if (images && cfg->given[KEY_MAX_LEN])
        return cli_fail(&cfg->c, EXIT_USAGE, "--max-len: has no effect with %s, a backbone of images", cfg->backbone);
    if (!images && cfg->given[KEY_IMAGE_SIZE])
        return cli_fail(&cfg->c, EXIT_USAGE, "--image-size: has no effect with %s, a backbone of texts", cfg->backbone);
    const char *name = cfg->train_file ? NULL : cfg->task ? cfg->task : "shapes";
    if ((status = task_open(name, &to, &r->task, why))) return fail_data(cfg, status, "", line);
    const struct inputs_options io = { cfg->max_len, cfg->image_size };
    if ((status = inputs_alloc(r->backbone, r->task, &io, &r->inputs, why))) return fail_data(cfg, status, "", line);
    return 0;
}

static int make_decoder_model(struct run *r)
{
    struct config *cfg = r->cfg;
    char line[512];
    const struct reason why = { line, sizeof line };
    struct adapter_description d = { .num_classes = 0 };
    int status = cfg->adapter ? adapter_files_read(cfg->adapter, &d, why) : GSL_SUCCESS;
    if (status) return fail_data(cfg, status, cfg->adapter, line);
    if (cfg->adapter) {
        cfg->a = d.options;
        cfg->method = d.options.method;
        if (!cfg->given[KEY_ROTATION]) cfg->rotation = d.unrotated;
        const size_t classes = d.num_classes;
        adapter_description_free(&d);
        if (classes != lm_inputs_num_classes(r->texts))
            return cli_fail(&cfg->c, EXIT_DATA, "%s: made for %zu classes, the task and --output have %zu",
                            cfg->adapter, classes, lm_inputs_num_classes(r->texts));
    }
    const struct decoder_model_options o = { cfg->a, (enum decoder_rotation)cfg->rotation,
                                             lm_inputs_num_classes(r->texts), cfg->c.seed, 0 };
    status = decoder_model_alloc(r->decoder, &o, &r->lm, why);
    if ((status == GSL_EINVAL || status == GSL_EUNSUP) && !cfg->adapter)
        return cli_fail(&cfg->c, EXIT_USAGE, "%s", line);
    if (status) return fail_data(cfg, status, cfg->adapter ? cfg->adapter : cfg->backbone, line);
    const int code = cli_memory(&cfg->c, (double)lm_train_bytes(r->lm, r->texts, &cfg->t), "this training");
    if (code) return code;
    if (cfg->adapter && (status = adapter_files_load_decoder(cfg->adapter, r->lm, why)))
        return fail_data(cfg, status, cfg->adapter, line);
    return 0;
}

static int make_model(struct run *r)
{
    if (r->decoder) return make_decoder_model(r);
    struct config *cfg = r->cfg;
    char line[512];
    const struct reason why = { line, sizeof line };
    struct adapter_description d = { .num_classes = 0 };
    int status;
    r->pool = cfg->pool >= 0 ? (enum model_pool)cfg->pool : model_default_pool(r->backbone);
    if (cfg->adapter) {
        if ((status = adapter_files_read(cfg->adapter, &d, why))) return fail_data(cfg, status, cfg->adapter, line);
        if (d.num_classes && d.num_classes != r->task->num_classes) {
            const int code = cli_fail(&cfg->c, EXIT_DATA, "%s: made for %zu classes, the task has %zu", cfg->adapter,
                                      d.num_classes, r->task->num_classes);
            adapter_description_free(&d);
            return code;
        }
        cfg->a = d.options;
        cfg->method = d.options.method;
        if (d.num_classes && cfg->pool < 0) r->pool = d.pool;
        adapter_description_free(&d);
    }
    status = model_alloc(r->backbone, &cfg->a, r->task->num_classes, r->pool, 0, cfg->c.seed, &r->model, why);
    if (status == GSL_EINVAL && !cfg->adapter) return cli_fail(&cfg->c, EXIT_USAGE, "%s", line);
    if (status) return fail_data(cfg, status, status == GSL_EINVAL ? cfg->adapter : cfg->backbone, line);
    const struct backbone_config *c = &r->backbone->config;
    const size_t shift = cfg->a.shift_positions && r->task->modality == TASK_TEXT ? cfg->a.prefix_len : 0;
    if (shift && shift + c->position_offset + inputs_max_len(r->inputs) > c->max_positions)
        return cli_fail(&cfg->c, EXIT_USAGE,
                        "--max-len: %zu tokens behind a prefix of %zu, the backbone has %zu positions",
                        inputs_max_len(r->inputs), shift, c->max_positions - c->position_offset);
    const size_t bytes = train_bytes(r->model, r->inputs, &cfg->t);
    const int code = cli_memory(&cfg->c, (double)bytes, "this training");
    if (code) return code;
    if (cfg->adapter && (status = adapter_files_load(cfg->adapter, r->model, why)))
        return fail_data(cfg, status, cfg->adapter, line);
    return 0;
}

static int run_training(struct run *r)
{
    const struct config *cfg = r->cfg;
    char line[256];
    const struct reason why = { line, sizeof line };
    int status = r->lm ? lm_train_alloc(r->lm, r->texts, &cfg->t, &r->train, why) : train_alloc(r->model, r->inputs,
        &cfg->t, &r->train, why);
    if (status) return cli_fail(&cfg->c, EXIT_FAILED, "%s", line);
    train_state_load(&r->state, r->train);
    const int code = train_state_run(&r->state, r->train, method_names[cfg->method]);
    if (!code) train_finish(r->train);
    return code;
}

static int evaluate_decoder(struct run *r)
{
    const struct config *cfg = r->cfg;
    const struct task_set *set = &r->task->sets[TASK_TEST];
    int status = r->train ? GSL_SUCCESS : lm_reserve(r->lm, r->texts, cfg->t.batch, 0, cfg->c.threads);
    r->predicted = malloc((set->count + 1) * sizeof *r->predicted);
    if (!r->predicted) status = GSL_ENOMEM;
    if (!status) status = lm_evaluate(r->lm, r->texts, TASK_VALIDATION, cfg->t.batch, &r->validation, NULL);
    if (!status) status = lm_evaluate(r->lm, r->texts, TASK_TEST, cfg->t.batch, &r->test, r->predicted);
    if (!status && r->task->answers && cfg->decode) {
        size_t right = 0;
        status = lm_decode(r->lm, r->texts, TASK_TEST, cfg->decode, r->predicted, cfg->c.threads);
        for (size_t i = 0; i < set->count && !status; i++) right += (size_t)r->predicted[i];
        r->test.accuracy = (double)right / (double)set->count;
    }
    return cli_status(&cfg->c, status, "the evaluation");
}

static int evaluate(struct run *r)
{
    if (r->lm) return evaluate_decoder(r);
    const struct config *cfg = r->cfg;
    const size_t seqs = cfg->t.batch > 32 ? cfg->t.batch : 32;
    int status = GSL_SUCCESS;
    if (!r->train)
        status = model_reserve(r->model, inputs_max_rows(r->inputs, seqs), seqs, inputs_max_len(r->inputs), 0,
                               cfg->c.threads);
    r->predicted = malloc((inputs_count(r->inputs, TASK_TEST) + 1) * sizeof *r->predicted);
    if (!r->predicted) status = GSL_ENOMEM;
    if (!status)
        status = train_evaluate(r->model, r->inputs, TASK_VALIDATION, cfg->t.batch, &r->validation, NULL, NULL);
    if (!status) status = train_evaluate(r->model, r->inputs, TASK_TEST, cfg->t.batch, &r->test, r->predicted, NULL);
    return cli_status(&cfg->c, status, "the evaluation");
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

static int write_curve(const struct run *r)
{
    char path[PATH_MAX];
    struct table *t = table_open(&r->cfg->c, in_folder(r, "curve.csv", path),
                                 "step,time_s,train_loss,val_loss,val_accuracy");
    if (!t) return EXIT_FAILED;
    table_note(t, "train_loss: mean over the steps since the row before; time_s: seconds of training, evaluations left "
                  "out");
    const struct curve_row *rows;
    const size_t n = r->train ? train_curve(r->train, &rows) : 0;
    for (size_t i = 0; i < n; i++) {
        table_int(t, rows[i].step);
        table_num(t, rows[i].time_s);
        table_num(t, rows[i].train_loss);
        table_num(t, rows[i].val_loss);
        table_num(t, rows[i].val_accuracy);
        table_end_row(t);
    }
    return table_close(t, 0);
}

static int write_predictions(const struct run *r)
{
    char path[PATH_MAX];
    struct table *t = table_open(&r->cfg->c, in_folder(r, "predictions.csv", path), "index,label,predicted");
    if (!t) return EXIT_FAILED;
    const struct task_set *set = &r->task->sets[TASK_TEST];
    for (size_t i = 0; i < set->count; i++) {
        table_int(t, i);
        table_text(t, r->task->answers ? "right" : r->task->class_names[set->labels[i]]);
        table_text(t, r->task->answers ? r->predicted[i] ? "right" : "wrong" : r->task->class_names[r->predicted[i]]);
        table_end_row(t);
    }
    return table_close(t, 0);
}

static const struct adapter_options *options_of(const struct run *r)
{
    return r->lm ? &decoder_model_options(r->lm)->adapter : model_options(r->model);
}

static size_t trainable(const struct run *r, enum parameter_group group)
{
    return r->lm ? decoder_model_trainable(r->lm, group) : model_trainable(r->model, group);
}

static json_t *result_of(const struct run *r)
{
    const struct config *cfg = r->cfg;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const struct adapter_options *a = options_of(r);
    const size_t head = trainable(r, PARAM_HEAD), all = head + trainable(r, PARAM_ADAPTER) + trainable(r,
        PARAM_BACKBONE);
    json_t *options_used = json_pack(
        "{s:I, s:f, s:I, s:f, s:s, s:I, s:f, s:i, s:i, s:f, s:f, s:I, s:I, s:s, s:f, s:f, s:f, s:I, s:I, s:I, s:s}",
        "rank", (json_int_t)a->rank, "alpha", a->alpha, "prefix_len", (json_int_t)a->prefix_len, "init_scale",
        a->init_scale, "feature", a->feature, "z_rank", (json_int_t)a->z_rank, "start_mass", a->start_mass,
            "first_layer", a->first_layer, "last_layer", a->last_layer, "lr", cfg->t.lr, "head_lr", cfg->t.head_lr,
            "epochs",
        (json_int_t)cfg->num_epochs, "batch", (json_int_t)cfg->t.batch, "schedule", schedule_names[cfg->t.schedule],
        "warmup", cfg->t.warmup, "weight_decay", cfg->t.weight_decay, "clip", cfg->t.clip, "train_size",
        (json_int_t)r->task->sets[TASK_TRAIN].count, "max_len",
        (json_int_t)(r->lm ? lm_inputs_max_len(r->texts) : inputs_max_len(r->inputs)), "threads",
        (json_int_t)cfg->c.threads, "k_mode", adapter_k_mode_name(a->k_mode));
    return json_pack("{s:s, s:s, s:s, s:I, s:f, s:f, s:I, s:f, s:f, s:I, s:I, s:I, s:f, s:I, s:s, s:o}", "backbone",
                     cfg->backbone, "task", r->task->name, "method", adapter_method_name(a->method), "seed",
                         (json_int_t)cfg->c.seed, "test_accuracy", r->test.accuracy, "test_loss", r->test.loss,
                     "test_count", (json_int_t)r->test.count, "val_accuracy", r->validation.accuracy, "val_loss",
                     r->validation.loss, "trainable_params", (json_int_t)all, "head_params", (json_int_t)head, "steps",
                         (json_int_t)(r->train ? train_steps_done(r->train) : 0), "step_time_s",
                     r->train ? train_step_time(r->train) : 0.0, "peak_rss_bytes", (json_int_t)usage.ru_maxrss * 1024,
                         "key", r->state.key, "options", options_used);
}

/* result.json comes last: with its key the folder is complete. */
static int write_result(const struct run *r)
{
    char path[PATH_MAX], cause[256] = "out of memory";
    struct atomic_file *file;
    json_t *json = result_of(r);
    int status = json ? atomic_file_open(in_folder(r, "result.json", path), &file, cause, sizeof cause) : GSL_ENOMEM;
    if (!status) {
        const int bad = json_dumpf(json, atomic_file_stream(file), JSON_INDENT(2))
            || fputc('\n', atomic_file_stream(file)) == EOF;
        /* Why a write failed is the file's to say; without one the text could not be made. */
        if (!bad || ferror(atomic_file_stream(file))) status = atomic_file_finish(file, path, cause, sizeof cause);
        else {
            status = GSL_ENOMEM;
            snprintf(cause, sizeof cause, "out of memory");
            atomic_file_discard(file);
        }
    }
    json_decref(json);
    return status ? cli_fail(&r->cfg->c, EXIT_FAILED, "%s: %s", json ? path : "result.json", cause) : EXIT_DONE;
}

static int write_adapter(struct run *r)
{
    char line[512];
    int code = folder_open(&r->cfg->c, r->adapter_path, &r->adapter);
    if (code) return code;
    const struct reason why = { line, sizeof line };
    const char *const *names = (const char *const *)r->task->class_names;
    const int status = r->lm ? adapter_files_write_decoder(r->adapter_path, r->lm, r->cfg->backbone, names, why)
                             : adapter_files_write(r->adapter_path, r->model, r->pool, names, why);
    return status ? cli_fail(&r->cfg->c, EXIT_FAILED, "%s", line) : EXIT_DONE;
}

static int write_all(struct run *r)
{
    cli_outputs_begin(&r->cfg->c);
    int code = write_curve(r);
    if (!code) code = write_predictions(r);
    if (!code && r->train) code = write_adapter(r);
    if (!code) code = write_result(r);
    code = cli_outputs_end(&r->cfg->c, code);
    if (!code) train_state_remove(&r->state);
    return code;
}

static void report(const struct run *r)
{
    const struct config *cfg = r->cfg;
    int32_t majority;
    const double share = task_majority(r->task, &majority);
    if (cfg->c.quiet) return;
    const size_t head = trainable(r, PARAM_HEAD);
    fprintf(stderr, "%s on %s: test accuracy %.4f of %zu (majority %.4f), validation %.4f; %zu trainable parameters "
                    "and %zu of the head\n",
            method_names[cfg->method], r->task->name, r->test.accuracy, r->test.count, share, r->validation.accuracy,
            trainable(r, PARAM_ADAPTER) + trainable(r, PARAM_BACKBONE), head);
}

static void close_all(struct run *r, int code)
{
    folder_close(&r->adapter, code);
    folder_close(&r->folder, code);
    free(r->predicted);
    train_free(r->train);
    model_free(r->model);
    inputs_free(r->inputs);
    decoder_model_free(r->lm);
    lm_inputs_free(r->texts);
    task_free(r->task);
    backbone_free(r->backbone);
    decoder_free(r->decoder);
}

int main(int argc, char **argv)
{
    static struct config cfg = { .backbone = "vit-fashion", .method = ADAPTER_NTK, .pool = -1,
                                 .schedule = SCHEDULE_LINEAR, .validation_size = 1000 };
    cfg.t = train_defaults(ADAPTER_HEAD);
    cfg.a = adapter_defaults(ADAPTER_NTK);
    cfg.num_epochs = cfg.t.epochs;
    cli_parse(argc, argv, doc, options, parse, check, &cfg.c);
    if (cfg.list) return print_list(&cfg);
    /* As train_defaults: near what the searches chose. */
    static const double white_lr = 1e-2;
    const struct train_options defaults = train_defaults((enum adapter_method)cfg.method);
    cfg.a.method = (enum adapter_method)cfg.method;
    if (!cfg.given[KEY_BOUND]) cfg.a.bound = 4.0;
    cfg.t.lr = cfg.has_lr ? cfg.lr : cfg.a.whiten ? white_lr : defaults.lr;
    cfg.t.head_lr = cfg.has_head_lr ? cfg.head_lr : defaults.head_lr;
    cfg.t.schedule = (enum lr_schedule)cfg.schedule;
    cfg.t.epochs = cfg.num_epochs ? cfg.num_epochs : 1;
    cfg.t.seed = cfg.c.seed;
    cfg.t.num_threads = cfg.c.threads;
    struct run r = { .cfg = &cfg };
    in_folder(&r, "adapter", r.adapter_path);
    int code = folder_check(&cfg.c, cfg.c.out);
    if (!code) code = train_state_init(&r.state, &cfg.c, cfg.c.out, ".finetune.state");
    if (!code) code = open_all(&r);
    if (!code) code = make_key(&r);
    if (!code && is_done(&r)) {
        cli_warn(&cfg.c, "%s: unchanged", cfg.c.out);
        close_all(&r, code);
        return EXIT_DONE;
    }
    if (!code) code = make_model(&r);
    if (!code) code = folder_open(&cfg.c, cfg.c.out, &r.folder);
    if (!code && cfg.num_epochs) code = run_training(&r);
    if (!code) code = evaluate(&r);
    if (!code) code = write_all(&r);
    if (!code) report(&r);
    close_all(&r, code);
    return code;
}
