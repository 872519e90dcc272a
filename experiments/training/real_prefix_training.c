/* A real prefix end to end: keys and values of their own, no signs, no factor m, trained by Adam (T14). */
#include "cli/data_sets.h"
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"
#include "prefix_ntk/attention.h"
#include "transformer/adamw.h"

static const char doc[] = "Prefix tuning of one attention head as it is done in practice: trainable keys and values "
                          "(m, d) each, in one softmax with input "
                          "tokens, T = softmax(Q [K_P; K]^T / sqrt d) [V_P; V], fitted to a smooth teacher by Adam; "
                          "loss on the training queries and on "
                          "unseen ones by prefix length.";
static const char columns[] = "prefix_len,num_data,num_trials,start_mean,train_mean,train_ci_lo,train_ci_hi,heldout_"
                              "mean,heldout_ci_lo,heldout_ci_hi";

struct config {
    struct cli_common c;
    size_t num_samples, dim, seq_len, num_test, *prefix_lens, num_lens, num_data, num_trials, num_steps;
    double step_size;
    bool tables;
};

static const struct cli_option options[] = {
    { "num-samples", CLI_SIZE(struct config, num_samples), .min = 1, .max = 1u << 16, .value = "32", .group = 1,
      .doc = "training queries" },
    { "dim", CLI_SIZE(struct config, dim), .min = 1, .max = 1024, .value = "8", .arg = "D", .group = 1,
      .doc = "head dimension" },
    { "seq-len", CLI_SIZE(struct config, seq_len), .min = 1, .max = 1u << 16, .value = "8", .arg = "L", .group = 1,
      .doc = "input tokens" },
    { "num-test", CLI_SIZE(struct config, num_test), .min = 1, .max = 1u << 16, .value = "64", .group = 1,
      .doc = "unseen queries" },
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 1, .max = 1u << 20,
      .value = "1,4,16,64,256", .group = 1, .doc = "prefix lengths m" },
    DATA_SETS_NUM(struct config, "4", "data sets drawn, each with input tokens and a teacher of its own"),
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 16, .value = "2", .group = 1,
      .doc = "starts of the prefix for each" },
    { "num-steps", CLI_SIZE(struct config, num_steps), .min = 1, .max = 1u << 30, .value = "1000", .arg = "T",
      .group = 1, .doc = "steps of Adam" },
    { "step-size", CLI_DOUBLE(struct config, step_size), .value = "0.01", .arg = "ETA", .group = 1,
      .doc = "of Adam" },
    { "tables", CLI_FLAG(struct config, tables), .group = 2,
      .doc = "also write OUT_variance.csv: standard deviations between data sets and between starts",
      .same_units = true },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

/* Losses over that of F = 0: at the start on the training queries, at the end on them and on unseen ones. */
enum { START, TRAIN, HELDOUT, NUM_RESULTS };

/* One layer: queries (n, d) of length sqrt d, their targets, the input tokens' keys and values (seq_len, d), the prefix
 * and its gradients (m, d) each, and what a pass leaves. */
struct layer {
    size_t n, d, seq_len, m;
    float *q, *k, *v, *prefix_k, *prefix_v, *dprefix_k, *dprefix_v, *out, *d_out;
    double *y;
    attn_row *rows;
};

static void layer_free(struct layer *l)
{
    float *all[] = { l->q, l->k, l->v, l->prefix_k, l->prefix_v, l->dprefix_k, l->dprefix_v, l->out, l->d_out };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free(l->y);
    free(l->rows);
}

static void fill_normal(const struct config *cfg, enum random_purpose purpose, size_t trial, float *out, size_t count)
{
    double *x = cli_need(malloc(count * sizeof *x));
    random_normal(cfg->c.seed, purpose, trial, 0, x, count);
    for (size_t i = 0; i < count; i++) out[i] = (float)x[i];
    free(x);
}

/* Training queries first, then the unseen ones; y = tanh(2 A x) / sqrt d on unit inputs, A Gaussian. */
static int layer_fill(const struct config *cfg, size_t data, size_t trial, size_t m, struct layer *l)
{
    const size_t all = cfg->num_samples + cfg->num_test, d = cfg->dim, tokens = cfg->seq_len;
    *l = (struct layer){ .n = cfg->num_samples, .d = d, .seq_len = tokens, .m = m };
    l->q = malloc(all * d * sizeof *l->q);
    l->y = malloc(all * d * sizeof *l->y);
    l->out = malloc(all * d * sizeof *l->out);
    l->d_out = malloc(all * d * sizeof *l->d_out);
    l->rows = malloc(all * sizeof *l->rows);
    l->k = malloc(tokens * d * sizeof *l->k);
    l->v = malloc(tokens * d * sizeof *l->v);
    float **prefix[] = { &l->prefix_k, &l->prefix_v, &l->dprefix_k, &l->dprefix_v };
    bool ok = l->q && l->y && l->out && l->d_out && l->rows && l->k && l->v;
    for (size_t i = 0; i < 4; i++) ok = (*prefix[i] = malloc(m * d * sizeof **prefix[i])) && ok;
    gsl_matrix *X = gsl_matrix_alloc(all, d), *A = gsl_matrix_alloc(d, d);
    if (ok && X && A) {
        samples_sphere(cfg->c.seed, RANDOM_INPUTS, data, 0, X);
        random_normal(cfg->c.seed, RANDOM_WEIGHTS, data, 0, A->data, d * d);
        gsl_matrix_view Y = gsl_matrix_view_array(l->y, all, d);
        gsl_blas_dgemm(CblasNoTrans, CblasTrans, 2.0, X, A, 0.0, &Y.matrix);
        for (size_t i = 0; i < all * d; i++) {
            l->y[i] = tanh(l->y[i]) / sqrt((double)d);
            l->q[i] = (float)(X->data[i] * sqrt((double)d));
        }
        fill_normal(cfg, RANDOM_TOKENS, 2 * data, l->k, tokens * d);
        fill_normal(cfg, RANDOM_TOKENS, 2 * data + 1, l->v, tokens * d);
        /* The prefixes of a start are nested. */
        fill_normal(cfg, RANDOM_STARTS, 2 * trial, l->prefix_k, m * d);
        fill_normal(cfg, RANDOM_STARTS, 2 * trial + 1, l->prefix_v, m * d);
    }
    gsl_matrix_free(A);
    gsl_matrix_free(X);
    return ok && X && A ? GSL_SUCCESS : GSL_ENOMEM;
}

/* Outputs of queries first .. first + count, and the loss over that of F = 0; leaves d_out = F - y. */
static int layer_loss(struct layer *l, size_t first, size_t count, double *loss)
{
    const struct attn_shape shape = {
        .batch = 1, .heads = 1, .kv_heads = 1, .len_q = count, .len_k = l->seq_len, .head_dim = l->d
    };
    const struct attn_prefix prefix = { l->m, attn_dense_in(l->prefix_k, 1, l->m, l->d),
                                        attn_dense_in(l->prefix_v, 1, l->m, l->d), NULL };
    const int status = attn_exact_forward(
        &shape, (float)(1.0 / sqrt((double)l->d)), attn_dense_in(l->q + first * l->d, 1, count, l->d),
        attn_dense_in(l->k, 1, l->seq_len, l->d), attn_dense_in(l->v, 1, l->seq_len, l->d), &prefix,
        attn_dense_out(l->out, 1, count, l->d), l->rows, NULL, 0, 1, NULL);
    double sum = 0.0, zero = 0.0;
    for (size_t i = 0; i < count * l->d; i++) {
        const double y = l->y[first * l->d + i], rest = l->out[i] - y;
        l->d_out[i] = (float)rest;
        sum += rest * rest;
        zero += y * y;
    }
    *loss = sum / zero;
    return status;
}

/* Gradients of the training loss in the prefix, after layer_loss of the training queries. */
static int layer_backward(struct layer *l)
{
    const struct attn_shape shape = {
        .batch = 1, .heads = 1, .kv_heads = 1, .len_q = l->n, .len_k = l->seq_len, .head_dim = l->d
    };
    const struct attn_prefix prefix = { l->m, attn_dense_in(l->prefix_k, 1, l->m, l->d),
                                        attn_dense_in(l->prefix_v, 1, l->m, l->d), NULL };
    const struct attn_exact_grads grads = { .prefix_k = attn_dense_out(l->dprefix_k, 1, l->m, l->d),
                                            .prefix_v = attn_dense_out(l->dprefix_v, 1, l->m, l->d) };
    return attn_exact_backward(&shape, (float)(1.0 / sqrt((double)l->d)), attn_dense_in(l->q, 1, l->n, l->d),
                               attn_dense_in(l->k, 1, l->seq_len, l->d), attn_dense_in(l->v, 1, l->seq_len, l->d),
                               &prefix, attn_dense_in(l->out, 1, l->n, l->d), (const attn_row *)l->rows,
                               attn_dense_in(l->d_out, 1, l->n, l->d), &grads, NULL, 0, 1);
}

static size_t num_trials(const struct config *cfg) { return cfg->num_data * cfg->num_trials; }

static int run_unit(const void *context, size_t unit, double *out)
{
    const struct config *cfg = context;
    const size_t trial = unit % num_trials(cfg), m = cfg->prefix_lens[unit / num_trials(cfg)];
    struct layer l;
    struct adamw *adam = NULL;
    struct adamw_options adam_options = adamw_defaults();
    adam_options.weight_decay = adam_options.clip = 0.0;
    int status = layer_fill(cfg, trial / cfg->num_trials, trial, m, &l);
    struct parameter parameters[] = {
        { .name = "prefix_k", .value = l.prefix_k, .grad = l.dprefix_k, .rows = m, .cols = l.d },
        { .name = "prefix_v", .value = l.prefix_v, .grad = l.dprefix_v, .rows = m, .cols = l.d } };
    if (!status) status = adamw_alloc(parameters, 2, &adam_options, &adam);
    double loss = NAN;
    for (size_t step = 0; step < cfg->num_steps && !status; step++) {
        status = layer_loss(&l, 0, l.n, &loss);
        if (step == 0) out[START] = loss;
        if (!status) status = layer_backward(&l);
        if (!status) status = adamw_step(adam, cfg->step_size, cfg->step_size, 1, NULL);
        if (cli_interrupted()) status = GSL_FAILURE;
    }
    if (!status) status = layer_loss(&l, 0, l.n, &out[TRAIN]);
    if (!status) status = layer_loss(&l, l.n, cfg->num_test, &out[HELDOUT]);
    adamw_free(adam);
    layer_free(&l);
    return status;
}

struct study { const struct config *cfg; struct units *work; };

static struct units_grid grid_of(const struct study *s)
{
    return (struct units_grid){ s->work, 1, s->cfg->num_lens, num_trials(s->cfg), s->cfg->prefix_lens };
}

static int write_table(const struct study *s)
{
    const struct config *cfg = s->cfg;
    const struct units_grid grid = grid_of(s);
    const struct data_sets sets = { cfg->num_data, cfg->num_trials };
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t,
               "num_samples=%zu dim=%zu seq_len=%zu num_test=%zu num_steps=%zu step_size=%g; losses over that of F = "
               "0, before the first and "
               "after the last step; ci: 95%% Student t over data sets; num_trials: starts of each",
               cfg->num_samples, cfg->dim, cfg->seq_len, cfg->num_test, cfg->num_steps, cfg->step_size);
    for (size_t i = 0; i < cfg->num_lens; i++) {
        table_int(t, cfg->prefix_lens[i]);
        table_int(t, cfg->num_data);
        table_int(t, cfg->num_trials);
        for (int which = START; which < NUM_RESULTS; which++) {
            const struct interval mean = data_spread_at(&grid, 0, i, which, sets, 0.95).mean;
            table_num(t, mean.value);
            if (which == START) continue;
            table_num(t, mean.lo);
            table_num(t, mean.hi);
        }
        table_end_row(t);
    }
    return table_close(t, 0);
}

static int write_verdicts(const struct study *s, struct data_rows *v)
{
    const struct units_grid grid = grid_of(s);
    const struct data_sets sets = { s->cfg->num_data, s->cfg->num_trials };
    data_rows_spread(v, "T14", "real-train", data_spread_slope(&grid, 0, TRAIN, sets, 0.999));
    data_rows_spread(v, "T14", "real-heldout", data_spread_slope(&grid, 0, HELDOUT, sets, 0.999));
    return data_rows_close(v, 0);
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, NULL, &cfg.c);
    struct study s = { .cfg = &cfg };
    struct data_rows *v = data_rows_open(&cfg.c, cfg.tables);
    const size_t longest = cli_largest(cfg.prefix_lens, cfg.num_lens);
    const double unit = sizeof(double) * (double)cfg.dim
                        * (8.0 * (double)longest + 4.0 * (double)(cfg.num_samples + cfg.num_test + cfg.seq_len));
    char *identity = cli_identity(options, &cfg.c);
    const struct units_study study = { .what = "trainings", .count = cfg.num_lens * num_trials(&cfg),
                                       .width = NUM_RESULTS,
                                       .unit_bytes = unit, .last_first = true, .unit = run_unit };
    int code = units_work(&cfg.c, identity, &study, &cfg, &s.work);
    free(identity);
    if (!code) code = write_verdicts(&s, v);
    else data_rows_close(v, code);
    if (!code) code = write_table(&s);
    return units_close(s.work, code);
}
