/* What a training step of every method costs, next to the matrix products this machine could do in the time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_errno.h>

#include "cli/cli.h"
#include "common/calibrate.h"
#include "common/random.h"
#include "transformer/adamw.h"
#include "transformer/backbone.h"
#include "transformer/model.h"
#include "transformer/ops.h"

static const char doc[] =
    "Times forward and backward of a training step of every method on random weights of three shapes (minilm, "
    "dinov2-s14 "
    "at 98 pixels, vit-fashion), with one thread and with all, and the share of OpenBLAS's measured peak that its "
    "counted "
    "operations reach; `update_s` is AdamW after it. `products` are the products of the projections of a full step "
    "alone. "
    "Times are medians over rounds.";
static const char columns[] =
    "shape,method,threads,num_seqs,rows,longest,num_rounds,forward_s,step_s,update_s,gflop,gflop_per_s,share_gemm,"
    "bytes";

struct config { struct cli_common common; size_t num_rounds; int *shapes, *methods; size_t num_shapes, num_methods; };
enum { OPT_NUM_ROUNDS = 1, OPT_SHAPE, OPT_METHOD };
static const char *const shape_names[] = { "minilm", "dinov2-s14", "vit-fashion", NULL };
static const char *const method_names[] = { "full", "head",        "lora",     "ptuning", "tied-prefix",
                                            "ntk",  "prefix-plus", "products", NULL };
enum { NUM_SHAPES = 3, NUM_METHODS = 8, PRODUCTS = NUM_METHODS - 1, MAX_SEQS = 64, CLASSES = 10 };

static const struct argp_option options[] = {
    { "num-rounds", OPT_NUM_ROUNDS, "K", 0, "Rounds (default 9)", 0 },
    { "shape", OPT_SHAPE, "LIST", 0, "Of minilm,dinov2-s14,vit-fashion (default all)", 0 },
    { "method", OPT_METHOD, "LIST", 0, "Of the seven methods and products (default all)", 0 },
    CLI_NO_VERDICTS,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case OPT_NUM_ROUNDS: return cli_parse_size(state, key, arg, 1, 999, &cfg->num_rounds);
    case OPT_SHAPE: return cli_parse_choice_list(state, key, arg, shape_names, &cfg->shapes, &cfg->num_shapes);
    case OPT_METHOD: return cli_parse_choice_list(state, key, arg, method_names, &cfg->methods, &cfg->num_methods);
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* ---- shapes ------------------------------------------------------------------------------------------- */

struct shape { struct backbone_config config; size_t num_seqs, image; };

static const struct shape shapes[NUM_SHAPES] = {
    { { .kind = BACKBONE_BERT, .hidden = 384, .num_layers = 6, .num_heads = 12, .mlp_dim = 1536, .norm_eps = 1e-12,
        .vocab_size = 30522, .max_positions = 512, .type_vocab = 2 }, 32, 0 },
    { { .kind = BACKBONE_VIT, .hidden = 384, .num_layers = 12, .num_heads = 6, .mlp_dim = 1536, .norm_eps = 1e-6,
        .pre_norm = 1, .layer_scale = 1, .image_size = 518, .patch_size = 14, .channels = 3, .position_grid = 37 },
      16, 98 },
    { { .kind = BACKBONE_VIT, .hidden = 96, .num_layers = 4, .num_heads = 3, .mlp_dim = 384, .norm_eps = 1e-6,
        .pre_norm = 1, .image_size = 28, .patch_size = 4, .channels = 1, .position_grid = 7 }, 64, 28 }
};

struct data {
    struct batch batch;
    size_t rows, longest, offsets[MAX_SEQS + 1];
    int32_t *ids;
    float *pixels;
    int32_t labels[MAX_SEQS];
};

/* Text: lengths 12 to 36 (mean 24), as sentences have. */
static int make_data(const struct shape *s, uint64_t seed, struct data *d)
{
    memset(d, 0, sizeof *d);
    const struct backbone_config *c = &s->config;
    d->batch.num_seqs = s->num_seqs;
    for (size_t i = 0; i < s->num_seqs; i++) {
        d->labels[i] = (int32_t)(i % CLASSES);
        const size_t len = s->image ? 1 + (s->image / c->patch_size) * (s->image / c->patch_size)
                                    : 12 + random_index(seed, RANDOM_INPUTS, 0, i, 25);
        d->offsets[i + 1] = d->offsets[i] + len;
        if (len > d->longest) d->longest = len;
    }
    d->rows = d->offsets[s->num_seqs];
    if (!s->image) {
        d->ids = malloc(d->rows * sizeof *d->ids);
        for (size_t i = 0; d->ids && i < d->rows; i++)
            d->ids[i] = (int32_t)random_index(seed, RANDOM_TOKENS, 0, i, c->vocab_size);
        d->batch.ids = d->ids;
        d->batch.offsets = d->offsets;
        return d->ids ? GSL_SUCCESS : GSL_ENOMEM;
    }
    const size_t n = s->num_seqs * c->channels * s->image * s->image;
    d->pixels = malloc(n * sizeof *d->pixels);
    for (size_t i = 0; d->pixels && i < n; i++) d->pixels[i] = 0.7f - 1.3f * (float)(i * 37 % 101) / 101.0f;
    d->batch.pixels = d->pixels;
    d->batch.image_h = d->batch.image_w = s->image;
    return d->pixels ? GSL_SUCCESS : GSL_ENOMEM;
}

/* ---- counted operations ---------------------------------------------------------------------------------- */

/* Of the projections of all blocks, once through. */
static double projection_flops(const struct shape *s, size_t rows)
{
    const double h = (double)s->config.hidden, mlp = (double)s->config.mlp_dim;
    return (double)s->config.num_layers * 2.0 * (double)rows * (4.0 * h * h + 2.0 * h * mlp);
}

/* Forward and backward of a step: projections once forward, once for the gradient of their inputs (not below the
 * lowest trained one), once for weights that are trained; attention 4 and 10 operations per pair and number. */
static double step_flops(const struct shape *s, const struct data *d, const struct adapter_options *o, double *forward)
{
    const double h = (double)s->config.hidden, layers = (double)s->config.num_layers, rows = (double)d->rows;
    const double head_dim = h / (double)s->config.num_heads;
    double pairs = 0.0, extra = 0.0, extra_back = 0.0;
    for (size_t i = 0; i < s->num_seqs; i++) {
        const double len = (double)(d->offsets[i + 1] - d->offsets[i]);
        pairs += len * len;
    }
    const double p = projection_flops(s, d->rows);
    switch (o->method) {
    case ADAPTER_LORA:
        extra = 2.0 * layers * 4.0 * rows * (double)o->rank * h;
        extra_back = 2.0 * extra;
        break;
    case ADAPTER_PTUNING: case ADAPTER_TIED_PREFIX:
        extra = layers * rows * (double)o->prefix_len * 4.0 * h;
        extra_back = 2.5 * extra;
        break;
    case ADAPTER_NTK: case ADAPTER_PREFIX_PLUS:
        extra = layers * rows * h * 2.0 * (head_dim + 1.0);     /* elu1: feat_dim = head_dim */
        extra_back = 2.0 * extra;
        break;
    default: break;
    }
    const double patches =
        s->image ? 2.0 * rows * h * (double)(s->config.channels * s->config.patch_size * s->config.patch_size) : 0.0;
    *forward = p + layers * pairs * 4.0 * h + extra + patches;
    if (o->method == ADAPTER_HEAD) return *forward;
    const double lowest = 2.0 * rows * 3.0 * h * h;              /* d(input) of q, k, v of the lowest block */
    double back = p + layers * pairs * 10.0 * h + extra_back;
    if (o->method == ADAPTER_FULL) back += p + patches;
    else back -= lowest;
    return *forward + back;
}

/* ---- timing ------------------------------------------------------------------------------------------------ */

struct timing { double forward_s, step_s, update_s; size_t bytes; };

static int time_step(const struct config *cfg, const struct backbone *b, const struct data *d,
                     const struct adapter_options *o, int threads, struct timing *out)
{
    struct model *m = NULL;
    struct adamw *adamw = NULL;
    const struct adamw_options defaults = adamw_defaults();
    char text[256] = "";
    double *times = malloc(3 * cfg->num_rounds * sizeof *times);
    float logits[MAX_SEQS * CLASSES], d_logits[MAX_SEQS * CLASSES];
    int status =
        times ? model_alloc(b, o, CLASSES, POOL_CLS, 0, cfg->common.seed, &m, (struct reason){ text, sizeof text })
              : GSL_ENOMEM;
    if (!status) status = model_reserve(m, d->rows, d->batch.num_seqs, d->longest, 1, threads);
    if (!status) status = adamw_alloc(model_parameters(m), model_num_parameters(m), &defaults, &adamw);
    for (size_t round = 0; round <= cfg->num_rounds && !status && !cli_interrupted(); round++) {
        const size_t at = round ? round - 1 : 0;
        const double start = calibrate_now_s();
        status = model_forward(m, &d->batch, logits, 1);
        times[at] = calibrate_now_s() - start;
        model_cross_entropy(logits, d->labels, d->batch.num_seqs, CLASSES, 0.0, d_logits, NULL);
        if (!status) status = model_backward(m, d_logits);
        const double stepped = calibrate_now_s();
        times[cfg->num_rounds + at] = stepped - start;
        if (!status) status = adamw_step(adamw, 1e-6, 1e-6, threads, NULL);
        if (!status) model_after_update(m);
        times[2 * cfg->num_rounds + at] = calibrate_now_s() - stepped;
    }
    if (!status) {
        out->forward_s = calibrate_median(times, (int)cfg->num_rounds);
        out->step_s = calibrate_median(times + cfg->num_rounds, (int)cfg->num_rounds);
        out->update_s = calibrate_median(times + 2 * cfg->num_rounds, (int)cfg->num_rounds);
        out->bytes = model_bytes(m, d->rows, d->batch.num_seqs, d->longest, 1, threads);
    }
    adamw_free(adamw);
    model_free(m);
    free(times);
    return status;
}

/* The three products of every projection of a full step, on arrays of one block. */
static int time_products(const struct config *cfg, const struct shape *s, const struct data *d, int threads,
                         struct timing *out)
{
    const size_t h = s->config.hidden, mlp = s->config.mlp_dim, rows = d->rows, wide = mlp > 3 * h ? mlp : 3 * h;
    const size_t sizes[4][2] = { { h, 3 * h }, { h, h }, { h, mlp }, { mlp, h } };
    float *x = calloc(2 * rows * wide + 2 * wide * wide, sizeof *x);
    double *times = malloc(cfg->num_rounds * sizeof *times);
    if (!x || !times) {
        free(x);
        free(times);
        return GSL_ENOMEM;
    }
    float *y = x + rows * wide, *w = y + rows * wide, *dw = w + wide * wide;
    for (size_t i = 0; i < rows * wide; i++) x[i] = 0.7f - 1.3f * (float)(i % 7) / 7.0f;
    for (size_t i = 0; i < wide * wide; i++) w[i] = 1e-3f * (float)(i % 11);
    for (size_t round = 0; round <= cfg->num_rounds; round++) {
        const double start = calibrate_now_s();
        for (size_t l = 0; l < s->config.num_layers; l++)
            for (size_t i = 0; i < 4; i++) {
                const size_t in = sizes[i][0], outs = sizes[i][1];
                ops_linear(rows, in, outs, x, in, w, y, outs, 0, NULL, threads);
                ops_linear_dx(rows, in, outs, 1.0f, y, outs, w, x, in, 0, NULL, threads);
                ops_linear_dW(rows, in, outs, 1.0f, y, outs, x, in, dw, threads);
            }
        times[round ? round - 1 : 0] = calibrate_now_s() - start;
    }
    *out = (struct timing){ NAN, calibrate_median(times, (int)cfg->num_rounds), NAN,
                            (2 * rows * wide + 2 * wide * wide) * sizeof *x };
    free(x);
    free(times);
    return GSL_SUCCESS;
}

static int bench_row(const struct config *cfg, struct table *t, const struct shape *s, const char *shape, int method,
                     const struct backbone *b, const struct data *d, int threads)
{
    struct timing time = { NAN, NAN, NAN, 0 };
    double flops = 3.0 * projection_flops(s, d->rows), forward;
    int status;
    if (method == PRODUCTS) status = time_products(cfg, s, d, threads, &time);
    else {
        const struct adapter_options o = adapter_defaults((enum adapter_method)method);
        flops = step_flops(s, d, &o, &forward);
        status = time_step(cfg, b, d, &o, threads, &time);
    }
    if (status) return status;
    const double peak = calibrate_sgemm(threads, 0.2);
    table_text(t, shape);
    table_text(t, method_names[method]);
    table_int(t, (uint64_t)threads);
    table_int(t, s->num_seqs);
    table_int(t, d->rows);
    table_int(t, d->longest);
    table_int(t, cfg->num_rounds);
    table_num(t, time.forward_s);
    table_num(t, time.step_s);
    table_num(t, time.update_s);
    table_num(t, flops * 1e-9);
    table_num(t, flops / time.step_s * 1e-9);
    table_num(t, flops / time.step_s / peak);
    table_int(t, time.bytes);
    table_end_row(t);
    return GSL_SUCCESS;
}

int main(int argc, char **argv)
{
    struct config cfg = { .num_rounds = 9 };
    int all[NUM_METHODS];
    for (int i = 0; i < NUM_METHODS; i++) all[i] = i;
    cli_parse(argc, argv, doc, options, parse, NULL, &cfg.common);
    if (!cfg.shapes) {
        cfg.shapes = all;
        cfg.num_shapes = NUM_SHAPES;
    }
    if (!cfg.methods) {
        cfg.methods = all;
        cfg.num_methods = NUM_METHODS;
    }
    struct table *t = table_open(&cfg.common, NULL, columns);
    int code = t ? 0 : EXIT_FAILED;
    for (size_t i = 0; i < cfg.num_shapes && !code; i++) {
        const struct shape *s = &shapes[cfg.shapes[i]];
        struct backbone *b = NULL;
        struct data d;
        int status = make_data(s, cfg.common.seed, &d);
        if (!status) status = backbone_random(&s->config, 0.0, cfg.common.seed, &b);
        for (size_t m = 0; m < cfg.num_methods && !status; m++)
            for (int k = 0; k < (cfg.common.threads > 1 ? 2 : 1) && !status && !cli_interrupted(); k++)
                status = bench_row(&cfg, t, s, shape_names[cfg.shapes[i]], cfg.methods[m], b, &d,
                                   k ? cfg.common.threads : 1);
        backbone_free(b);
        free(d.ids);
        free(d.pixels);
        code = cli_interrupted() ? cli_interrupted() : cli_status(&cfg.common, status, "a step");
    }
    return table_close(t, code);
}
