/* How fast the kernel of a prefix approaches its limit as the prefix grows (T2). */
#include "cli/data_sets.h"
#include "cli/kernels.h"
#include "cli/option_table.h"
#include "cli/samples.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_errno.h>
#include "common/threads.h"
#include "processes/kernels.h"
#include "processes/processes.h"

static const char doc[] =
    "Relative error of the empirical kernel of a prefix against its infinite-prefix limit, "
    "||K_m - K*||_F / ||K*||_F, by prefix length, with the error predicted from the limit alone.";
static const char columns[] = "kernel,signs,prefix_len,num_trials,rel_err_mean,rel_err_ci_lo,rel_err_ci_hi,"
                              "rel_err_rms,rel_err_pred,lambda_min_mean,lambda_min_limit";

struct config {
    struct cli_common c;
    struct samples_options samples;
    double sigma;
    int *kernels, *laws;
    size_t num_kernels, num_laws, *prefix_lens, num_lens, num_data, num_trials;
    bool tables;
    const char *prefix, *sign_values, *prefix_out, *signs_out, *limit_out, *gram_out;
};

static const struct cli_option options[] = {
    SAMPLES_INPUTS(struct config, samples),
    { "sigma", CLI_DOUBLE(struct config, sigma), .value = "0.5", .arg = "S", .group = 1,
      .doc = "standard deviation of a token's entries" },
    { "kernel", CLI_CHOICES(struct config, kernels, num_kernels), .names = cli_kernel_names, .value = "full",
      .group = 1, .doc = "full, key" },
    { "signs", CLI_CHOICES(struct config, laws, num_laws), .names = cli_sign_names, .value = "random", .group = 1,
      .doc = "random, positive, mirrored" },
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 1, .max = SIZE_MAX / 4096, .group = 1,
      .doc = "prefix lengths m (default 256,1024,4096,16384; all of --prefix)" },
    { "num-data", CLI_SIZE(struct config, num_data), .min = 1, .max = 1u << 16, .value = "1", .group = 1,
      .doc = "data sets drawn; output files are of the first" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 20, .value = "16", .group = 1,
      .doc = "prefixes drawn for each data set; those of one trial are nested", .same_units = true },
    { "prefix", CLI_TEXT(struct config, prefix), .group = 2, .doc = "tokens w_r, (m, d), instead of drawing them",
      .same_units = true },
    { "sign-values", CLI_TEXT(struct config, sign_values), .group = 2,
      .doc = "their signs, (m), each 1 or -1; needed unless --signs positive", .same_units = true },
    { "prefix-out", CLI_TEXT(struct config, prefix_out), .group = 2,
      .doc = "write the tokens of trial 0, longest prefix", .same_units = true },
    { "sign-values-out", CLI_TEXT(struct config, signs_out), .group = 2, .doc = "write their signs",
      .same_units = true },
    { "limit-out", CLI_TEXT(struct config, limit_out), .group = 2, .doc = "write the limit kernel, (n d, n d)",
      .same_units = true },
    { "tables", CLI_FLAG(struct config, tables), .group = 2,
      .doc = "also write OUT_variance.csv: standard deviations between data sets and between prefixes",
      .same_units = true },
    { "gram-out", CLI_TEXT(struct config, gram_out), .group = 2,
      .doc = "write the kernel of trial 0, longest prefix", .same_units = true },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    static char wrong[96];
    for (size_t l = 0; l < cfg->num_laws; l++)
        for (size_t i = 0; i < cfg->num_lens && (!cfg->prefix || cli_given("prefix-len")); i++)
            if (cfg->laws[l] == PREFIX_SIGNS_MIRRORED && cfg->prefix_lens[i] % 2) {
                snprintf(wrong, sizeof wrong, "--prefix-len: %zu is odd, which --signs mirrored cannot split",
                         cfg->prefix_lens[i]);
                return wrong;
            }
    const size_t combinations = cfg->num_laws * cfg->num_kernels;
    if ((cfg->limit_out || cfg->gram_out) && combinations > 1)
        return "--limit-out, --gram-out: need one --kernel and one --signs";
    if ((cfg->prefix_out || cfg->signs_out) && cfg->num_laws > 1)
        return "--prefix-out, --sign-values-out: need one --signs";
    if (cfg->sign_values && !cfg->prefix) return "--sign-values: needs --prefix";
    if (cfg->prefix && cfg->num_laws > 1) return "--prefix: needs one --signs";
    if (cfg->prefix && !cfg->sign_values && cfg->laws[0] != PREFIX_SIGNS_POSITIVE)
        return "--prefix: needs --sign-values unless --signs positive";
    if (cfg->prefix && cli_given("num-trials") && cfg->num_trials != 1) return "--num-trials: --prefix is one trial";
    if (cfg->num_data > 1 && (cfg->prefix || cfg->samples.inputs))
        return "--num-data: --inputs and --prefix are one data set";
    if (cfg->samples.targets_out && cfg->samples.inputs) return "--targets-out: --inputs come without targets";
    return samples_check(&cfg->samples, false);
}

/* One combination of kernel and sign law: what the limit says. The limit itself is as large as a kernel and
 * is made again, some rows at a time, where it is needed. */
struct target {
    bool known;
    double norm, lambda_min, constant;
};

struct data {
    gsl_matrix *X;
    struct target target[2][3];         /* by kernel and law */
};

struct study {
    const struct config *cfg;
    struct data *data;
    const gsl_matrix *X, *W;            /* X: of the first data set; W and signs: from files, or NULL */
    const gsl_vector *signs;
    size_t *lens, num_lens;             /* distinct, ascending */
    double *results;                    /* law, trial, kernel, length: error, lambda_min */
    struct journal *journal;
};

enum { NUM_RESULTS = 2 };

static size_t num_trials(const struct config *cfg) { return cfg->num_data * cfg->num_trials; }
static struct data_sets sets_of(const struct config *cfg)
{
    return (struct data_sets){ cfg->num_data, cfg->num_trials };
}

static double *result_of(const struct study *s, size_t law, size_t trial, size_t kernel, size_t len)
{
    const struct config *cfg = s->cfg;
    return s->results +
           (((law * num_trials(cfg) + trial) * cfg->num_kernels + kernel) * s->num_lens + len) * NUM_RESULTS;
}

/* ||K_m - K*||_F, K* = 0 understood for K NULL: ||K*||_F; a GSL code. */
static int distance(const struct config *cfg, const gsl_matrix *X, enum ntk_kernel kernel, enum prefix_signs law,
                    const gsl_matrix *K, double *out)
{
    const size_t d = X->size2, size = X->size1 * d;
    gsl_matrix *rows = gsl_matrix_alloc(d, size);
    double sum = 0.0;
    int status = rows ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t i = 0; i < X->size1 && !status; i++) {
        gsl_matrix_const_view one = gsl_matrix_const_submatrix(X, i, 0, 1, d);
        status = ntk_limit(&one.matrix, X, cfg->sigma, law, kernel, rows);
        for (size_t k = 0; k < d && !status; k++)
            for (size_t j = 0; j < size; j++) {
                const double x = (K ? gsl_matrix_get(K, i * d + k, j) : 0.0) - gsl_matrix_get(rows, k, j);
                sum += x * x;
            }
    }
    gsl_matrix_free(rows);
    *out = sqrt(sum);
    return status;
}

/* The limits of every combination; exit code. */
static int fill_targets(const struct config *cfg, struct data *data)
{
    const gsl_matrix *X = data->X;
    const size_t size = X->size1 * X->size2;
    for (size_t k = 0; k < cfg->num_kernels; k++)
        for (size_t l = 0; l < cfg->num_laws; l++) {
            struct target *t = &data->target[cfg->kernels[k]][cfg->laws[l]];
            if (t->known) continue;
            const enum prefix_signs law = (enum prefix_signs)cfg->laws[l];
            const enum ntk_kernel kernel = (enum ntk_kernel)cfg->kernels[k];
            int status = distance(cfg, X, kernel, law, NULL, &t->norm);
            if (status == GSL_EDOM)
                return cli_fail(&cfg->c, EXIT_FAILED,
                                "--sigma: the limit kernel of these inputs is beyond the range of a double");
            if (!(t->norm > 0.0))
                cli_warn(&cfg->c, "warning: the limit of the %s kernel is 0: no relative error",
                         cli_kernel_names[kernel]);
            gsl_matrix *limit = status ? NULL : gsl_matrix_alloc(size, size);
            if (!status && !limit) status = GSL_ENOMEM;
            if (!status) status = ntk_limit(X, X, cfg->sigma, law, kernel, limit);
            if (!status) status = ntk_lambda_min_in_place(limit, cfg->c.threads, &t->lambda_min);
            gsl_matrix_free(limit);
            if (status) return cli_status(&cfg->c, status, "limit kernel");
            if (cli_need_memory(ntk_error_constant(X, cfg->sigma, law, kernel, &t->constant, NULL))) t->constant = NAN;
            t->known = true;
        }
    return 0;
}

/* ---- one trial, shared by the processes of the run ------------------------------------------ */

/* What process 0 has the others do: begin a trial, help with a step to a length, end with a code. */
enum { DO_TRIAL, DO_STEP, DO_END };
struct order { size_t what, law, trial, count, len; };     /* a step from count tokens to len */

/* GSL_EFAILED: the message failed. */
static int give_order(struct order order)
{
    return processes_count() > 1 ? processes_broadcast(&order, sizeof order) : GSL_SUCCESS;
}

static struct ntk_sweep *sweep_of(const struct study *s, size_t law, size_t trial, int num_threads)
{
    const struct config *cfg = s->cfg;
    bool full = false;
    for (size_t k = 0; k < cfg->num_kernels; k++) full = full || cfg->kernels[k] == NTK_FULL;
    return ntk_sweep_alloc(s->data[trial / cfg->num_trials].X, cfg->c.seed, trial, (enum prefix_signs)cfg->laws[law],
                           cfg->sigma, full ? NTK_FULL : NTK_KEY, num_threads);
}

/* What the other processes do until they are told to end; exit code. A process that failed already (code) ends
 * with that where process 0 ended, too, and ends all of them where it did not. */
static int take_orders(const struct study *s, int code)
{
    struct ntk_sweep *sweep = NULL;
    for (;;) {
        struct order order;
        if (processes_broadcast(&order, sizeof order)) {
            code = cli_alone(&s->cfg->c);
            break;
        }
        if (order.what == DO_END) {
            code = (int)order.len;
            break;
        }
        if (code) return processes_abort(code);
        if (order.what == DO_TRIAL) {
            ntk_sweep_free(sweep);
            if (!(sweep = sweep_of(s, order.law, order.trial, s->cfg->c.threads))) return processes_abort(EXIT_FAILED);
            continue;
        }
        const enum prefix_signs law = (enum prefix_signs)s->cfg->laws[order.law];
        const int status = shared_sweep_step(sweep, order.count, order.len, law, NTK_FULL, NULL, NULL);
        if (status == GSL_EFAILED) {
            code = cli_alone(&s->cfg->c);
            break;
        }
        if (status) return processes_abort(EXIT_FAILED);
    }
    ntk_sweep_free(sweep);
    return code;
}

/* ---- what a kill within a trial leaves ---------------------------------------------------------- */

/* Seconds between two saves; numbers beyond which a state is not worth its writing. */
static const double SAVE_EVERY_S = 5.0;
enum { SAVE_MOST = 1 << 25, PIECE = 8 * NTK_MOMENTS_LEAF };

/* A trial in work: of `unit` results out[], those of the first `lens` lengths are there. */
struct trial { char key[64]; struct ntk_sweep *sweep; size_t twins, lens, unit; double *out, saved_s; };

static size_t tokens_of(const struct trial *t)
{
    return ntk_moments_count(ntk_sweep_moments(t->sweep)) * t->twins;
}

/* A GSL code; GSL_FAILURE when the line was printed. */
static int save(const struct study *s, struct trial *t)
{
    struct ntk_moments *moments = ntk_sweep_moments(t->sweep);
    const size_t state = ntk_moments_state_size(moments), size = 1 + t->unit + state;
    t->saved_s = cli_clock_s();
    if (size > SAVE_MOST) return GSL_SUCCESS;
    double *saved = malloc(size * sizeof *saved);
    if (!saved) return GSL_ENOMEM;
    saved[0] = (double)t->lens;
    memcpy(saved + 1, t->out, t->unit * sizeof *saved);
    ntk_moments_save(moments, saved + 1 + t->unit);
    const int failed = journal_save(s->journal, t->key, saved, size);
    free(saved);
    return failed ? GSL_FAILURE : GSL_SUCCESS;
}

/* Goes on from the last save, where there is one. */
static void load(const struct study *s, struct trial *t)
{
    const size_t size = journal_saved_size(s->journal, t->key);
    double *saved = size > 1 + t->unit && size <= SAVE_MOST ? malloc(size * sizeof *saved) : NULL;
    struct ntk_moments *moments = ntk_sweep_moments(t->sweep);
    if (saved && journal_saved(s->journal, t->key, saved, size)) {
        if (ntk_moments_load(moments, saved + 1 + t->unit, size - 1 - t->unit)) {
            ntk_moments_clear(moments);
        } else {
            t->lens = (size_t)saved[0];
            memcpy(t->out, saved + 1, t->unit * sizeof *saved);
        }
    }
    free(saved);
}

/* Adds the tokens up to a length in pieces, between which the state is saved. What fails here fails again in the step
 * that follows, which knows what to do. */
static int extend(const struct study *s, struct trial *t, size_t len)
{
    int status = GSL_SUCCESS;
    for (size_t count; (count = tokens_of(t)) < len && !status;) {
        const size_t piece = PIECE * t->twins;
        if (ntk_sweep_extend(t->sweep, len - count > piece ? count + piece : len)) break;
        if (cli_clock_s() - t->saved_s > SAVE_EVERY_S || cli_interrupted()) status = save(s, t);
        if (cli_interrupted()) break;
    }
    return status;
}

/* Trial `trial` of one law, all lengths and kernels; a GSL code. */
static int run_trial(struct study *s, size_t law, size_t trial, int num_threads)
{
    const struct config *cfg = s->cfg;
    const enum prefix_signs which = (enum prefix_signs)cfg->laws[law];
    const struct data *data = &s->data[trial / cfg->num_trials];
    const size_t size = s->X->size1 * s->X->size2, unit = cfg->num_kernels * s->num_lens * NUM_RESULTS;
    struct trial t = { .twins = which == PREFIX_SIGNS_MIRRORED ? 2 : 1, .unit = unit,
                       .out = result_of(s, law, trial, 0, 0), .saved_s = cli_clock_s() };
    snprintf(t.key, sizeof t.key, "%s/%zu", cli_sign_names[which], trial);
    if (journal_get(s->journal, t.key, t.out, unit)) return GSL_SUCCESS;
    const bool shared = processes_count() > 1 && !s->W;
    gsl_matrix *K = gsl_matrix_alloc(size, size);
    struct ntk_sweep *sweep = s->W ? NULL : sweep_of(s, law, trial, num_threads);
    struct ntk_sweep *other = shared ? sweep_of(s, law, trial, num_threads) : NULL;
    int status = !K || (!s->W && !sweep) || (shared && !other) ? GSL_ENOMEM : GSL_SUCCESS;
    if (!status && shared) status = give_order((struct order){ DO_TRIAL, law, trial, 0, 0 });
    t.sweep = sweep;
    if (!status && sweep) load(s, &t);
    while (t.lens < s->num_lens && !status && !cli_interrupted()) {
        const size_t i = t.lens;
        if (sweep && !shared) status = extend(s, &t, s->lens[i]);
        for (size_t k = 0; k < cfg->num_kernels && !status && !cli_interrupted(); k++) {
            const enum ntk_kernel kernel = (enum ntk_kernel)cfg->kernels[k];
            if (sweep) {
                const size_t before = k ? s->lens[i] : tokens_of(&t);
                if (shared && !k) status = give_order((struct order){ DO_STEP, law, trial, before, s->lens[i] });
                struct ntk_moments *part = other ? ntk_sweep_moments(other) : NULL;
                if (!status) status = shared_sweep_step(sweep, before, s->lens[i], which, kernel, part, K);
            } else {
                gsl_matrix_const_view W = gsl_matrix_const_submatrix(s->W, 0, 0, s->lens[i], s->W->size2);
                gsl_vector_const_view a = gsl_vector_const_subvector(s->signs, 0, s->lens[i]);
                status = ntk_gram(&W.matrix, &a.vector, s->X, kernel, K, num_threads);
            }
            double *result = result_of(s, law, trial, k, i);
            if (!status) status = distance(cfg, data->X, kernel, which, K, &result[0]);
            if (!status) result[0] /= data->target[kernel][which].norm;
            if (!status) status = ntk_lambda_min_in_place(K, num_threads, &result[1]);
        }
        if (status || cli_interrupted()) break;
        t.lens = i + 1;
        if (sweep && t.lens < s->num_lens && cli_clock_s() - t.saved_s > SAVE_EVERY_S) status = save(s, &t);
    }
    ntk_sweep_free(other);
    ntk_sweep_free(sweep);
    gsl_matrix_free(K);
    if (!status && !cli_interrupted() && journal_put(s->journal, t.key, t.out, unit)) status = GSL_FAILURE;
    if (!status && !cli_interrupted()) journal_forget(s->journal, t.key);
    return status;
}

/* Every trial of every law, side by side as far as memory allows; exit code. */
static int run_trials(struct study *s)
{
    const struct config *cfg = s->cfg;
    const size_t units = cfg->num_laws * num_trials(cfg);
    const size_t n = s->X->size1, d = s->X->size2, longest = s->lens[s->num_lens - 1];
    const double kernels = (double)(n * d) * (double)(n * d) * sizeof(double);
    double moments = 0.0;
    for (size_t l = 0; l < cfg->num_laws; l++)
        moments = fmax(moments, s->W ? (double)ntk_gram_workspace(n, d, longest, cfg->c.threads)
                                     : (double)ntk_moments_bytes(n, d, (enum prefix_signs)cfg->laws[l], NTK_FULL,
                                                                 longest));
    const double shared = (double)units * (double)(cfg->num_kernels * s->num_lens) * NUM_RESULTS * sizeof(double);
    /* The processes of a run share each trial: sums received, and the message they came in. */
    if (processes_count() > 1) moments += 1.5 * (double)ntk_moments_bytes(n, d, PREFIX_SIGNS_RANDOM, NTK_FULL, 0);
    /* The kernel, some rows of the limit, what the smallest eigenvalue takes, and a state with its record. */
    const double each = moments + kernels + 256.0 * (double)(n * d) * sizeof(double)
                      + fmin(2.0 * sizeof(double) * SAVE_MOST, moments);
    const size_t most_at_once = processes_count() > 1 ? 1 : units;
    size_t side_by_side = units < (size_t)cfg->c.threads ? units : (size_t)cfg->c.threads;
    if (side_by_side > most_at_once) side_by_side = most_at_once;
    while (side_by_side > 1 && shared + each * (double)side_by_side > 0.5 * (double)memory_available())
        side_by_side--;
    int code = cli_memory(&cfg->c, shared + each * (double)side_by_side, "the kernel");
    /* Tokens are streamed, yet a prefix the machine could not even hold is a slip of the pen, not a run to wait for. */
    if (!code) code = cli_memory(&cfg->c, (double)longest * (double)(d + 1) * sizeof(double), "the longest prefix");
    if (code) return code;
    for (size_t i = 0; i < cfg->num_data; i++)
        if ((code = fill_targets(cfg, &s->data[i]))) return code;
    if (!(s->results = calloc(units * cfg->num_kernels * s->num_lens * NUM_RESULTS, sizeof *s->results)))
        return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");

    struct progress *progress = progress_start(&cfg->c, "trials", (double)units);
    const int inner = cfg->c.threads / (int)side_by_side;
    int status = GSL_SUCCESS;
    size_t done = 0;
    omp_set_max_active_levels(2);
#pragma omp parallel for schedule(dynamic) num_threads((int)side_by_side)
    for (size_t u = 0; u < units; u++) {
        int failed;
#pragma omp atomic read
        failed = status;
        if (failed || cli_interrupted() || !cli_is_mine(&cfg->c, u)) continue;
        const int mine = run_trial(s, u / num_trials(cfg), u % num_trials(cfg), inner > 1 ? inner : 1);
        if (mine) {
#pragma omp atomic write
            status = mine;
        }
        size_t now;
#pragma omp atomic capture
        now = ++done;
        progress_to(progress, (double)now);
    }
    progress_end(progress);
    if (status == GSL_EFAILED && processes_count() > 1) return cli_alone(&cfg->c);
    if (cli_interrupted()) return cli_interrupted();
    if (status == GSL_FAILURE) return EXIT_FAILED;      /* said already */
    code = cli_status(&cfg->c, status, "empirical kernel");
    return !code && cfg->c.num_shards ? EXIT_SHARD : code;
}

/* Means over the data sets of what their limits say. */
static struct target target_of(const struct study *s, int kernel, int law)
{
    struct target mean = { 0 };
    for (size_t i = 0; i < s->cfg->num_data; i++) {
        mean.constant += s->data[i].target[kernel][law].constant / (double)s->cfg->num_data;
        mean.lambda_min += s->data[i].target[kernel][law].lambda_min / (double)s->cfg->num_data;
    }
    return mean;
}

static int write_table(const struct study *s)
{
    const struct config *cfg = s->cfg;
    double *x = cli_need(malloc(num_trials(cfg) * sizeof *x));
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) { free(x); return EXIT_FAILED; }
    table_note(t, "num_samples=%zu dim=%zu sigma=%.17g num_data=%zu", s->X->size1, s->X->size2, cfg->sigma,
               cfg->num_data);
    table_note(t, "rel_err: ||K_m - K*||_F / ||K*||_F; ci: 95%% Student t over data sets (over trials where there is "
                  "one); pred: C / sqrt(m), of "
                  "the rms (T2)");
    for (size_t k = 0; k < cfg->num_kernels; k++)
        for (size_t l = 0; l < cfg->num_laws; l++)
            for (size_t i = 0; i < cfg->num_lens; i++) {
                const struct target target = target_of(s, cfg->kernels[k], cfg->laws[l]);
                const size_t len = cli_index_of(s->lens, s->num_lens, cfg->prefix_lens[i]);
                double squares = 0.0;
                table_text(t, cli_kernel_names[cfg->kernels[k]]);
                table_text(t, cli_sign_names[cfg->laws[l]]);
                table_int(t, cfg->prefix_lens[i]);
                table_int(t, cfg->num_trials);
                for (size_t r = 0; r < num_trials(cfg); r++) {
                    x[r] = result_of(s, l, r, k, len)[0];
                    squares += x[r] * x[r];
                }
                const struct interval mean = data_spread_mean(x, sets_of(cfg), 0.95).mean;
                table_interval(t, mean);
                table_num(t, sqrt(squares / (double)num_trials(cfg)));
                table_num(t, target.constant / sqrt((double)cfg->prefix_lens[i]));
                for (size_t r = 0; r < num_trials(cfg); r++) x[r] = result_of(s, l, r, k, len)[1];
                table_num(t, data_spread_mean(x, sets_of(cfg), 0.95).mean.value);
                table_num(t, target.lambda_min);
                table_end_row(t);
            }
    free(x);
    return table_close(t, 0);
}

/* T2 for each combination: the slope of log error in log m within each trial, and the
 * rms error times sqrt(m) over C, at the lengths of the upper half of the list. */
static int write_verdicts(const struct study *s, struct data_rows *v)
{
    const struct config *cfg = s->cfg;
    char row[64];
    const size_t trials = num_trials(cfg), upper = s->num_lens / 2;
    double *x = cli_need(malloc(s->num_lens * sizeof *x)), *y = cli_need(malloc(trials * s->num_lens * sizeof *y));
    double *square = cli_need(malloc(trials * sizeof *square));
    const char *prefix = cfg->samples.dataset ? cfg->samples.dataset : "";
    for (size_t k = 0; k < cfg->num_kernels; k++)
        for (size_t l = 0; l < cfg->num_laws; l++) {
            const char *kernel = cli_kernel_names[cfg->kernels[k]], *law = cli_sign_names[cfg->laws[l]];
            for (size_t i = 0; i < s->num_lens; i++) x[i] = (double)s->lens[i];
            for (size_t r = 0; r < trials; r++) {
                const double constant = s->data[r / cfg->num_trials].target[cfg->kernels[k]][cfg->laws[l]].constant;
                square[r] = 0.0;
                for (size_t i = 0; i < s->num_lens; i++) {
                    const double error = result_of(s, l, r, k, i)[0];
                    y[r * s->num_lens + i] = error;
                    if (i >= upper)
                        square[r] += error * error * x[i] / (constant * constant) / (double)(s->num_lens - upper);
                }
            }
            snprintf(row, sizeof row, "%s%sslope-%s-%s", prefix, *prefix ? "-" : "", kernel, law);
            data_rows_spread(v, "T2", row, data_spread_exponent(x, y, s->num_lens, sets_of(cfg), 0.999));
            struct data_spread ratio = data_spread_mean(square, sets_of(cfg), 0.999);
            ratio.mean = (struct interval){ sqrt(ratio.mean.value), sqrt(fmax(ratio.mean.lo, 0.0)), sqrt(ratio.mean.hi),
                                            ratio.mean.n };
            snprintf(row, sizeof row, "%s%sconstant-%s-%s", prefix, *prefix ? "-" : "", kernel, law);
            data_rows_spread(v, "T2", row, ratio);
        }
    free(square);
    free(y);
    free(x);
    return data_rows_close(v, 0);
}

/* Prefix, limit and kernel asked for as arrays. */
static int write_arrays(const struct study *s)
{
    const struct config *cfg = s->cfg;
    const size_t m = s->lens[s->num_lens - 1], d = s->X->size2, size = s->X->size1 * d;
    const enum prefix_signs law = (enum prefix_signs)cfg->laws[0];
    const enum ntk_kernel kernel = (enum ntk_kernel)cfg->kernels[0];
    int code = 0;
    if (cfg->samples.inputs_out) code = cli_write_matrix(&cfg->c, cfg->samples.inputs_out, s->X);
    if (!code && cfg->limit_out) {
        gsl_matrix *limit = gsl_matrix_alloc(size, size);
        code = cli_status(&cfg->c, limit ? ntk_limit(s->X, s->X, cfg->sigma, law, kernel, limit) : GSL_ENOMEM,
                          "limit kernel");
        if (!code) code = cli_write_matrix(&cfg->c, cfg->limit_out, limit);
        gsl_matrix_free(limit);
    }
    if (code || !(cfg->prefix_out || cfg->signs_out || cfg->gram_out)) return code;
    if ((code = cli_memory(&cfg->c, (double)m * (double)(d + 1) * sizeof(double) +
                           (double)ntk_gram_workspace(s->X->size1, d, m, cfg->c.threads), "the longest prefix")))
        return code;
    gsl_matrix *W = gsl_matrix_alloc(m, d), *K = gsl_matrix_alloc(size, size);
    gsl_vector *a = gsl_vector_alloc(m);
    int status = W && K && a ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status && s->W) {
        gsl_matrix_const_view first = gsl_matrix_const_submatrix(s->W, 0, 0, m, d);
        gsl_vector_const_view signs = gsl_vector_const_subvector(s->signs, 0, m);
        gsl_matrix_memcpy(W, &first.matrix);
        gsl_vector_memcpy(a, &signs.vector);
    } else if (!status) {
        status = prefix_draw(cfg->c.seed, 0, law, cfg->sigma, W, a, cfg->c.threads);
    }
    if (!status && cfg->gram_out) status = ntk_gram(W, a, s->X, kernel, K, cfg->c.threads);
    code = cli_status(&cfg->c, status, "the longest prefix");
    if (!code && cfg->gram_out) code = cli_write_matrix(&cfg->c, cfg->gram_out, K);
    if (!code && cfg->prefix_out) code = cli_write_matrix(&cfg->c, cfg->prefix_out, W);
    if (!code && cfg->signs_out) code = cli_write_vector(&cfg->c, cfg->signs_out, a);
    gsl_vector_free(a);
    gsl_matrix_free(K);
    gsl_matrix_free(W);
    return code;
}

/* The prefix of the files, checked against the law; exit code. */
static int read_prefix(struct config *cfg, const gsl_matrix *X, gsl_matrix **W, gsl_vector **signs)
{
    int code = cli_read_matrix(&cfg->c, cfg->prefix, W);
    if (code) return code;
    const size_t m = (*W)->size1, d = X->size2;
    if ((*W)->size2 != d)
        return cli_fail(&cfg->c, EXIT_DATA, "%s: tokens have dimension %zu, inputs %zu", cfg->prefix, (*W)->size2, d);
    if (cfg->sign_values) {
        if ((code = cli_read_vector(&cfg->c, cfg->sign_values, signs))) return code;
    } else {
        if (!(*signs = gsl_vector_alloc(m))) return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
        gsl_vector_set_all(*signs, 1.0);
    }
    if ((*signs)->size != m)
        return cli_fail(&cfg->c, EXIT_DATA, "%s: has %zu signs for %zu tokens", cfg->sign_values, (*signs)->size, m);
    for (size_t r = 0; r < m; r++) {
        const double a = gsl_vector_get(*signs, r);
        if (fabs(a) != 1.0)
            return cli_fail(&cfg->c, EXIT_DATA, "%s: sign %zu is %g, not 1 or -1", cfg->sign_values, r, a);
        if (a < 0.0 && cfg->laws[0] == PREFIX_SIGNS_POSITIVE)
            return cli_fail(&cfg->c, EXIT_DATA, "%s: sign %zu is -1 with --signs positive", cfg->sign_values, r);
    }
    if (!cli_given("prefix-len")) { cfg->prefix_lens[0] = m; cfg->num_lens = 1; }
    for (size_t i = 0; i < cfg->num_lens; i++)
        if (cfg->prefix_lens[i] > m || (cfg->laws[0] == PREFIX_SIGNS_MIRRORED && cfg->prefix_lens[i] != m))
            return cli_fail(&cfg->c, EXIT_USAGE, "--prefix-len: %zu where --prefix has %zu tokens", cfg->prefix_lens[i],
                            m);
    if (cfg->laws[0] == PREFIX_SIGNS_MIRRORED && m % 2)
        return cli_fail(&cfg->c, EXIT_DATA, "%s: %zu tokens, which --signs mirrored cannot split", cfg->prefix, m);
    for (size_t r = 0; r < m / 2 && cfg->laws[0] == PREFIX_SIGNS_MIRRORED; r++)
        for (size_t k = 0; k < d; k++)
            if (gsl_matrix_get(*W, r, k) != gsl_matrix_get(*W, r + m / 2, k) ||
                gsl_vector_get(*signs, r) != -gsl_vector_get(*signs, r + m / 2))
                return cli_fail(&cfg->c, EXIT_DATA, "%s: token %zu has no mirror image of opposite sign", cfg->prefix,
                                r);
    cfg->num_trials = 1;
    return 0;
}

/* Everything a trial's numbers depend on besides the seed; the caller frees. */
static char *identity_of(const struct study *s)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f) return NULL;
    fprintf(f, "%016llx %.17g %zu %zu", (unsigned long long)cli_checksum(s->X), s->cfg->sigma, s->cfg->num_data,
            s->cfg->num_data > 1 ? s->cfg->num_trials : 0);
    if (s->W) {
        gsl_matrix_const_view signs = gsl_matrix_const_view_vector(s->signs, 1, s->signs->size);
        fprintf(f, " %016llx %016llx", (unsigned long long)cli_checksum(s->W),
                (unsigned long long)cli_checksum(&signs.matrix));
    }
    for (size_t k = 0; k < s->cfg->num_kernels; k++) fprintf(f, " %s", cli_kernel_names[s->cfg->kernels[k]]);
    for (size_t i = 0; i < s->num_lens; i++) fprintf(f, " %zu", s->lens[i]);
    if (fclose(f)) { free(text); return NULL; }
    return text;
}

int main(int argc, char **argv)
{
    static size_t default_lens[] = { 256, 1024, 4096, 16384 };
    static struct config cfg = { .samples = { .num_samples = 16, .dim = 8 }, .prefix_lens = default_lens,
                                 .num_lens = 4 };
    if (processes_start(&argc, &argv, cli_interrupted)) return EXIT_FAILED;
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);

    /* Files asked for are written at the end: a failed run leaves none. */
    struct samples_options samples = cfg.samples;
    samples.inputs_out = samples.targets_out = NULL;
    gsl_matrix *Y = NULL, *W = NULL;
    gsl_vector *signs = NULL;
    struct study s = { .cfg = &cfg, .data = cli_need(calloc(cfg.num_data, sizeof *s.data)) };
    int code = samples_load(&cfg.c, &samples, 0, &s.data->X, cfg.samples.targets_out ? &Y : NULL);
    for (size_t i = 1; i < cfg.num_data && !code; i++) code = samples_load(&cfg.c, &samples, i, &s.data[i].X, NULL);
    const gsl_matrix *X = s.data->X;
    if (!code && cfg.prefix) code = read_prefix(&cfg, X, &W, &signs);
    s.X = X;
    if (code) goto done;
    cli_warn_duplicates(&cfg.c, X, cfg.samples.inputs ? cfg.samples.inputs : "inputs");
    s.W = W;
    s.signs = signs;
    if (processes_rank()) goto done;
    struct data_rows *v = data_rows_open(&cfg.c, cfg.tables);
    code = EXIT_FAILED;
    s.lens = cli_sorted_sizes(cfg.prefix_lens, cfg.num_lens, &s.num_lens);

    char *identity = identity_of(&s);
    s.journal = identity ? journal_open(&cfg.c, identity) : NULL;
    free(identity);
    if (s.journal) code = run_trials(&s);
    if (!code) code = write_arrays(&s);
    if (!code && cfg.samples.targets_out) code = cli_write_matrix(&cfg.c, cfg.samples.targets_out, Y);
    if (!code) code = write_verdicts(&s, v);
    else data_rows_close(v, code);
    if (!code) code = write_table(&s);
    if (s.journal) code = journal_close(s.journal, code);
done:
    if (processes_rank()) code = take_orders(&s, code);
    else (void)give_order((struct order){ .what = DO_END, .len = (size_t)code });
    free(s.results);
    free(s.lens);
    gsl_vector_free(signs);
    gsl_matrix_free(W);
    gsl_matrix_free(Y);
    for (size_t i = 0; i < cfg.num_data; i++) gsl_matrix_free(s.data[i].X);
    free(s.data);
    return processes_end(code);
}
