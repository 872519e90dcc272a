/* Loss curves of gradient descent on prefixes of growing length (T8). */
#include "cli/kernels.h"
#include "cli/prefix_files.h"
#include "cli/samples.h"
#include "cli/option_table.h"
#include "cli/summary.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <omp.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include "common/threads.h"
#include "prefix_ntk/prefix_descent.h"
#include "processes/descent.h"
#include "processes/processes.h"

static const char doc[] =
    "Full-batch gradient descent on a prefix, W <- W - step_size dL/dW with L = 1/2 sum ||F - y||^2, by prefix "
    "length, beside the linearised dynamics (I - step_size m K)^t of the initial kernel.";
static const char columns[] =
    "prefix_len,trial,signs,step_size,num_steps,kernel_time,reached,loss_initial,loss_final,loss_linearised,"
    "steps_pred,steps_bound_key,lambda_min,lambda_max,drift,movement_rms,movement_max";
static const char curve_columns[] = "prefix_len,trial,step,kernel_time,loss,loss_linearised";

struct config {
    struct cli_common c;
    struct samples_options samples;
    double sigma, step_size, stop_loss, stop_ratio;      /* step_size 0: auto */
    int law;
    size_t *prefix_lens, num_lens, num_trials, num_steps;
    bool tables;
    const char *prefix, *sign_values, *at, *pred_out, *prefix_out, *signs_out, *curve_out;
};

/* A number >= 0, or a usage error. */
static error_t parse_loss(struct argp_state *state, int key, const char *arg, double *out)
{
    char *end;
    errno = 0;
    if (strtod(arg, &end) == 0.0 && end != arg && !*end && !errno) {
        *out = 0.0;
        return 0;
    }
    return cli_parse_double(state, key, arg, 0.0, out);
}

static int parse_stop_loss(struct argp_state *state, int key, char *arg, void *config)
{
    return parse_loss(state, key, arg, &((struct config *)config)->stop_loss);
}

static int parse_stop_ratio(struct argp_state *state, int key, char *arg, void *config)
{
    return parse_loss(state, key, arg, &((struct config *)config)->stop_ratio);
}

static int parse_step_size(struct argp_state *state, int key, char *arg, void *config)
{
    struct config *cfg = config;
    cfg->step_size = 0.0;
    return strcmp(arg, "auto") ? cli_parse_double(state, key, arg, 0.0, &cfg->step_size) : 0;
}

static const struct cli_option options[] = {
    SAMPLES_INPUTS(struct config, samples),
    SAMPLES_TARGETS(struct config, samples),
    { "sigma", CLI_DOUBLE(struct config, sigma), .value = "0.5", .arg = "S", .group = 1,
      .doc = "standard deviation of a token's entries" },
    { "signs", CLI_CHOICE(struct config, law), .names = cli_sign_names, .value = "random", .arg = "LAW",
      .group = 1, .doc = "random, positive or mirrored" },
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 1, .max = SIZE_MAX / 4096, .group = 1,
      .doc = "prefix lengths m (default 256,1024,4096; all of --prefix)" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 20, .value = "1", .group = 1,
      .doc = "prefixes drawn; those of one trial are nested", .same_units = true },
    { "step-size", CLI_CUSTOM(parse_step_size), .arg = "ETA", .group = 1,
      .doc = "of W <- W - eta dL/dW, or auto = 1/(m lambda_max(K(0))) (default auto)" },
    { "num-steps", CLI_SIZE(struct config, num_steps), .max = (size_t)1 << 40, .value = "1000", .arg = "T",
      .group = 1, .doc = "steps at most" },
    { "stop-loss", CLI_CUSTOM(parse_stop_loss), .arg = "L", .group = 1,
      .doc = "stop at this loss (default 0)" },
    { "stop-ratio", CLI_CUSTOM(parse_stop_ratio), .arg = "Q", .group = 1,
      .doc = "stop at this share of the initial loss (default 0)" },
    { "prefix", CLI_TEXT(struct config, prefix), .group = 2, .doc = "tokens w_r, (m, d), instead of drawing them",
      .same_units = true },
    { "sign-values", CLI_TEXT(struct config, sign_values), .group = 2,
      .doc = "their signs, (m), each 1 or -1; needed unless --signs positive", .same_units = true },
    { "at", CLI_TEXT(struct config, at), .group = 2, .doc = "unseen inputs, (n2, d)", .same_units = true },
    { "pred-out", CLI_TEXT(struct config, pred_out), .group = 2,
      .doc = "write the outputs there, trial 0, longest prefix", .same_units = true },
    { "prefix-out", CLI_TEXT(struct config, prefix_out), .group = 2,
      .doc = "write the trained tokens, trial 0, longest prefix", .same_units = true },
    { "sign-values-out", CLI_TEXT(struct config, signs_out), .group = 2, .doc = "write their signs",
      .same_units = true },
    { "curve-out", CLI_TEXT(struct config, curve_out), .flags = CLI_TABLE, .group = 2,
      .doc = "write the loss curves: every early step, then a growing stride, and the last", .same_units = true },
    { "tables", CLI_FLAG(struct config, tables), .group = 2, .doc = "the same as --curve-out OUT_curve.csv",
      .same_units = true },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    static char wrong[96];
    for (size_t i = 0; i < cfg->num_lens && !cfg->prefix; i++)
        if (cfg->law == PREFIX_SIGNS_MIRRORED && cfg->prefix_lens[i] % 2) {
            snprintf(wrong, sizeof wrong, "--prefix-len: %zu is odd, which --signs mirrored cannot split",
                     cfg->prefix_lens[i]);
            return wrong;
        }
    if (cfg->sign_values && !cfg->prefix) return "--sign-values: needs --prefix";
    if (cfg->prefix && !cfg->sign_values && cfg->law != PREFIX_SIGNS_POSITIVE)
        return "--prefix: needs --sign-values unless --signs positive";
    if (cfg->prefix && cli_given("prefix-len")) return "--prefix-len: --prefix has a length of its own";
    if (cfg->prefix && cli_given("num-trials") && cfg->num_trials != 1) return "--num-trials: --prefix is one trial";
    if (!cfg->at != !cfg->pred_out) return "--at and --pred-out: need each other";
    return samples_check(&cfg->samples, true);
}

enum { DENSE_STEPS = 64, SPECTRUM_MAX = 2048 };
enum { STEP_SIZE, NUM_STEPS, REACHED, LOSS_INITIAL, LOSS_FINAL, LOSS_LINEARISED, STEPS_PRED, STEPS_BOUND_KEY,
       LAMBDA_MIN, LAMBDA_MAX, DRIFT, MOVEMENT_RMS, MOVEMENT_MAX, CURVE_ROWS, NUM_RESULTS };

/* The recorded steps: all up to DENSE_STEPS, then 3 % apart. */
static size_t next_recorded(size_t step)
{
    return step < DENSE_STEPS ? step + 1 : step + step * 3 / 100;
}

static size_t recorded_at_most(size_t num_steps)
{
    size_t rows = 2;                                     /* step 0 and a last one off the grid */
    for (size_t step = 0; step < num_steps; step = next_recorded(step)) rows++;
    return rows;
}

struct study {
    const struct config *cfg;
    const gsl_matrix *X, *Y, *given;       /* given: tokens of --prefix or NULL */
    const gsl_vector *given_signs;
    double lambda_key;                     /* lambda_min(H*), NaN when not positive or unknown */
    size_t *lens, num_lens, curve_max, unit;   /* lens ascending; unit: numbers per (length, trial) */
    double *results;                       /* (num_lens, num_trials, unit): NUM_RESULTS, then step, loss, linearised */
    gsl_matrix *trained;                   /* trial 0, longest prefix, once known */
    gsl_vector *trained_signs;
    struct journal *journal;
    struct progress *progress;
    double work_done;                      /* tokens times steps of all descents */
};

static double *unit_of(const struct study *s, size_t len, size_t trial)
{
    return s->results + (len * s->cfg->num_trials + trial) * s->unit;
}

/* lambda_max of a symmetric PSD matrix too large for its whole spectrum. */
static double largest_eigenvalue(const gsl_matrix *K)
{
    const size_t size = K->size1;
    gsl_vector *x = cli_need(gsl_vector_alloc(size)), *y = cli_need(gsl_vector_alloc(size));
    double value = NAN;
    for (size_t i = 0; i < size; i++) gsl_vector_set(x, i, 1.0 + 0.3 * sin(1.7 * (double)i));
    for (int round = 0; round < 500; round++) {
        gsl_vector_scale(x, 1.0 / gsl_blas_dnrm2(x));
        gsl_blas_dsymv(CblasUpper, 1.0, K, x, 0.0, y);
        const double last = value;
        value = gsl_blas_dnrm2(y);
        if (fabs(value - last) <= 1e-10 * value) break;
        gsl_vector_memcpy(x, y);
    }
    gsl_vector_free(x);
    gsl_vector_free(y);
    return value;
}

static double squared_distance(const gsl_matrix *A, const gsl_matrix *B)
{
    double sum = 0.0;
    for (size_t i = 0; i < A->size1 * A->size2; i++) sum += (A->data[i] - B->data[i]) * (A->data[i] - B->data[i]);
    return sum;
}

/* ---- one descent, shared by the processes of the run --------------------------------------- */

/* What process 0 has the others do: begin a descent, go on from a state, step, send the tokens, end with a code. */
enum { DO_DESCENT, DO_LOAD, DO_STEP, DO_GATHER, DO_END };
struct order { size_t what, len, trial; double step_size; };

/* GSL_EFAILED: the message failed. */
static int give_order(struct order order)
{
    return processes_count() > 1 ? processes_broadcast(&order, sizeof order) : GSL_SUCCESS;
}

/* The tokens a descent starts from, those of the files or drawn; a GSL code. */
static int start_of(const struct study *s, size_t trial, gsl_matrix *W0, gsl_vector *signs, int num_threads)
{
    const struct config *cfg = s->cfg;
    if (!s->given)
        return prefix_draw(cfg->c.seed, trial, (enum prefix_signs)cfg->law, cfg->sigma, W0, signs, num_threads);
    gsl_matrix_memcpy(W0, s->given);
    gsl_vector_memcpy(signs, s->given_signs);
    return GSL_SUCCESS;
}

/* Another process's part of a descent. */
struct helper { gsl_matrix *W0; gsl_vector *signs; struct prefix_descent *descent; struct shared_descent *shared; };

static void helper_free(struct helper *h)
{
    shared_descent_free(h->shared);
    prefix_descent_free(h->descent);
    gsl_vector_free(h->signs);
    gsl_matrix_free(h->W0);
    *h = (struct helper){ NULL };
}

/* Follows an order other than DO_END; a GSL code. */
static int help(const struct study *s, struct helper *h, struct order order)
{
    const int threads = s->cfg->c.threads;
    int status = GSL_SUCCESS;
    if (order.what == DO_DESCENT) {
        const size_t m = s->lens[order.len];
        helper_free(h);
        h->W0 = gsl_matrix_alloc(m, s->X->size2);
        h->signs = gsl_vector_alloc(m);
        status = h->W0 && h->signs ? start_of(s, order.trial, h->W0, h->signs, threads) : GSL_ENOMEM;
        if (!status) status = prefix_descent_alloc(h->W0, h->signs, s->X, NULL, s->Y, threads, &h->descent);
        if (!status) status = shared_descent_alloc(h->descent, &h->shared);
    } else if (order.what == DO_LOAD) {
        const size_t size = prefix_descent_state_size(h->descent) * sizeof(double);
        double *state = malloc(size);
        status = state ? processes_broadcast(state, size) : GSL_ENOMEM;
        if (!status) status = prefix_descent_load(h->descent, state);
        free(state);
    } else if (order.what == DO_STEP) {
        status = shared_descent_step(h->shared, order.step_size);
        if (status != GSL_EFAILED) status = GSL_SUCCESS;          /* a divergence is process 0's to report */
    } else {
        status = shared_descent_gather(h->shared);
    }
    return status;
}

/* What the other processes do until they are told to end; exit code. A process that failed already (code) ends
 * with that where process 0 ended, too, and ends all of them where it did not. */
static int take_orders(const struct study *s, int code)
{
    struct helper h = { NULL };
    for (;;) {
        struct order order;
        int status = processes_broadcast(&order, sizeof order);
        if (!status && order.what == DO_END) {
            code = (int)order.len;
            break;
        }
        if (!status && code) return processes_abort(code);
        if (!status) status = help(s, &h, order);
        if (status && status != GSL_EFAILED) return processes_abort(EXIT_FAILED);
        if (status) {
            code = cli_alone(&s->cfg->c);
            break;
        }
    }
    helper_free(&h);
    return code;
}

/* The state of a descent from the tokens of all processes, saved; a GSL code, GSL_FAILURE when the line was printed. */
static int save(const struct study *s, const char *key, struct shared_descent *shared,
                const struct prefix_descent *descent, double *saved, size_t size)
{
    if (give_order((struct order){ .what = DO_GATHER }) || shared_descent_gather(shared)) return GSL_EFAILED;
    prefix_descent_save(descent, saved + s->unit + 1);
    return journal_save(s->journal, key, saved, size) ? GSL_FAILURE : GSL_SUCCESS;
}

/* One descent; a GSL code, or GSL_FAILURE after an interrupt or a failed save. */
static int descend(struct study *s, size_t len, size_t trial, const gsl_matrix *W0, const gsl_vector *signs,
                   int num_threads)
{
    const struct config *cfg = s->cfg;
    const size_t m = W0->size1, d = W0->size2, nd = s->X->size1 * d;
    double *result = unit_of(s, len, trial), *curve = result + NUM_RESULTS;
    gsl_matrix *K = gsl_matrix_alloc(nd, nd), *K_end = gsl_matrix_alloc(nd, nd), *W = gsl_matrix_alloc(m, d);
    struct prefix_descent *descent = NULL;
    struct shared_descent *shared = NULL;
    struct prefix_linear *linear = NULL;
    size_t saved_size = 0;
    double *saved = NULL;
    char key[64];
    snprintf(key, sizeof key, "descent %zu %zu", m, trial);
    int status = GSL_ENOMEM;
    if (!K || !K_end || !W) goto done;
    if ((status = prefix_descent_alloc(W0, signs, s->X, NULL, s->Y, num_threads, &descent))) goto done;
    if ((status = give_order((struct order){ .what = DO_DESCENT, .len = len, .trial = trial }))) goto done;
    if ((status = shared_descent_alloc(descent, &shared))) goto done;
    /* What a kill leaves: the numbers so far, the step, the state. */
    saved_size = s->unit + 1 + prefix_descent_state_size(descent);
    if (!(saved = malloc(saved_size * sizeof *saved))) { status = GSL_ENOMEM; goto done; }
    if ((status = ntk_gram(W0, signs, s->X, NTK_FULL, K, num_threads))) goto done;
    if (nd <= SPECTRUM_MAX && (status = prefix_linear_alloc(K, prefix_descent_residual(descent), &linear))) goto done;

    for (size_t i = 0; i < s->unit; i++) result[i] = NAN;
    result[LAMBDA_MIN] = linear ? linear->eigenvalues[0] : NAN;
    result[LAMBDA_MAX] = linear ? linear->eigenvalues[nd - 1] : largest_eigenvalue(K);
    const double step_size = cfg->step_size > 0.0 ? cfg->step_size : 1.0 / ((double)m * result[LAMBDA_MAX]);
    const double rate = step_size * (double)m, start = prefix_descent_loss(descent);
    const double target = fmax(cfg->stop_loss, cfg->stop_ratio * start);
    result[STEP_SIZE] = step_size;
    result[LOSS_INITIAL] = start;
    if (linear && target > 0.0) result[STEPS_PRED] = prefix_linear_steps(linear, rate, target);
    if (target > 0.0) result[STEPS_BOUND_KEY] = 2.0 * log(start / target) / (rate * s->lambda_key);

    size_t step = 0, rows = 0, record = 0;
    if (journal_saved(s->journal, key, saved, saved_size)) {
        memcpy(result, saved, s->unit * sizeof *result);
        step = (size_t)saved[s->unit];
        rows = (size_t)result[CURVE_ROWS];
        if ((status = prefix_descent_load(descent, saved + s->unit + 1))) goto done;
        if ((status = give_order((struct order){ .what = DO_LOAD }))) goto done;
        const size_t state_bytes = (saved_size - s->unit - 1) * sizeof *saved;
        if (processes_count() > 1 && (status = processes_broadcast(saved + s->unit + 1, state_bytes))) goto done;
        while (record <= step) record = next_recorded(record);
    }
    double saved_at_s = cli_clock_s();
    size_t counted = 0;
    bool diverged = false;
    for (;; step++) {
        const double loss = prefix_descent_loss(descent);
        const bool last = diverged || step == cfg->num_steps || loss <= target;
        if (!diverged && (step == record || last)) {
            curve[3 * rows] = (double)step;
            curve[3 * rows + 1] = loss;
            curve[3 * rows + 2] = linear ? prefix_linear_loss(linear, rate, (double)step) : NAN;
            rows++;
            if (step == record) record = next_recorded(step);
        }
        if (last) break;
        if (step % 16 == 0) {
            double done;
#pragma omp atomic capture
            done = s->work_done += (double)m * (double)(step - counted);
            counted = step;
            progress_to(s->progress, done);
            const double now_s = cli_clock_s();
            if (cli_interrupted() || now_s - saved_at_s > 2.0) {
                result[CURVE_ROWS] = (double)rows;
                memcpy(saved, result, s->unit * sizeof *result);
                saved[s->unit] = (double)step;
                /* The row of this step is written already: go on behind it. */
                saved_at_s = now_s;
                status = save(s, key, shared, descent, saved, saved_size);
                if (!status && cli_interrupted()) status = GSL_FAILURE;
                if (status) goto done;
            }
        }
        if ((status = give_order((struct order){ .what = DO_STEP, .step_size = step_size }))) goto done;
        status = shared_descent_step(shared, step_size);
        if (status == GSL_EFAILED) goto done;
        diverged = status != GSL_SUCCESS;
        status = GSL_SUCCESS;
    }
    if ((status = give_order((struct order){ .what = DO_GATHER }))) goto done;
    if ((status = shared_descent_gather(shared))) goto done;
    result[NUM_STEPS] = (double)step;
    result[CURVE_ROWS] = (double)rows;
    result[REACHED] = !diverged && prefix_descent_loss(descent) <= target;
    if (!diverged) {
        const gsl_matrix *end = prefix_descent_prefix(descent);
        result[LOSS_FINAL] = prefix_descent_loss(descent);
        result[LOSS_LINEARISED] = linear ? prefix_linear_loss(linear, rate, (double)step) : NAN;
        if ((status = ntk_gram(end, signs, s->X, NTK_FULL, K_end, num_threads))) goto done;
        double norm = 0.0;
        for (size_t i = 0; i < nd * nd; i++) norm += K->data[i] * K->data[i];
        result[DRIFT] = sqrt(squared_distance(K_end, K) / norm);
        if ((status = prefix_movement(end, W0, &result[MOVEMENT_RMS], &result[MOVEMENT_MAX]))) goto done;
        gsl_matrix_memcpy(W, end);
    }
    snprintf(key, sizeof key, "%zu %zu", m, trial);
    if (trial == 0 && len == s->num_lens - 1 && (cfg->pred_out || cfg->prefix_out)) {
        if (diverged) { status = GSL_EDOM; goto done; }
        if (journal_put(s->journal, "trained", W->data, m * d)) { status = GSL_FAILURE; goto done; }
        s->trained = W;
        W = NULL;
    }
    status = journal_put(s->journal, key, result, s->unit) ? GSL_FAILURE : GSL_SUCCESS;
    snprintf(key, sizeof key, "descent %zu %zu", m, trial);
    journal_forget(s->journal, key);
#pragma omp atomic
    s->work_done += (double)m * (double)(cfg->num_steps - counted);     /* what need not be done any more */
done:
    free(saved);
    prefix_linear_free(linear);
    shared_descent_free(shared);
    prefix_descent_free(descent);
    gsl_matrix_free(W);
    gsl_matrix_free(K_end);
    gsl_matrix_free(K);
    return status;
}

/* One descent, or what is known of it; a GSL code as descend's. */
static int run_unit(struct study *s, size_t len, size_t trial, int num_threads)
{
    const struct config *cfg = s->cfg;
    const size_t m = s->lens[len], d = s->X->size2;
    const bool wanted = trial == 0 && len == s->num_lens - 1 && (cfg->pred_out || cfg->prefix_out || cfg->signs_out);
    char key[64];
    snprintf(key, sizeof key, "%zu %zu", m, trial);
    bool known = journal_get(s->journal, key, unit_of(s, len, trial), s->unit);
    if (known && !wanted) return GSL_SUCCESS;
    gsl_matrix *W0 = gsl_matrix_alloc(m, d);
    gsl_vector *signs = gsl_vector_alloc(m);
    int status = W0 && signs ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) status = start_of(s, trial, W0, signs, num_threads);
    if (!status && known && (cfg->pred_out || cfg->prefix_out)) {
        /* An earlier run that was not asked for the trained tokens has not kept them: once more. */
        gsl_matrix *trained = gsl_matrix_alloc(m, d);
        if (!trained) status = GSL_ENOMEM;
        else if ((known = journal_get(s->journal, "trained", trained->data, m * d))) s->trained = trained;
        else gsl_matrix_free(trained);
    }
    if (!status && !known) {
        status = descend(s, len, trial, W0, signs, num_threads);
    }
    if (!status && wanted) {
        s->trained_signs = signs;
        signs = NULL;
    }
    gsl_matrix_free(W0);
    gsl_vector_free(signs);
    return status;
}

/* All lengths and trials, the longest first: side by side, or, when there are fewer of
 * them than threads, each on several; exit code. */
static int run(struct study *s)
{
    const struct config *cfg = s->cfg;
    const size_t n = s->X->size1, d = s->X->size2, longest = s->lens[s->num_lens - 1],
        units = s->num_lens * cfg->num_trials;
    const double nd = (double)(n * d), threads = (double)cfg->c.threads;
    const double each = sizeof(double) * ((nd <= SPECTRUM_MAX ? 6.0 : 2.0) * nd * nd + 4.0 * (double)longest * (double)d
                                          + (double)s->unit)
                      + (double)prefix_descent_bytes(longest, d, n, cfg->c.threads)
                      + (double)ntk_gram_workspace(n, d, longest, cfg->c.threads);
    const double shared = sizeof(double) * (double)units * (double)s->unit;
    size_t side_by_side = (double)units < threads ? units : (size_t)cfg->c.threads;
    if (processes_count() > 1) side_by_side = 1;        /* they share each descent */
    while (side_by_side > 1 && shared + each * (double)side_by_side > 0.5 * (double)memory_available()) side_by_side--;
    int code = cli_memory(&cfg->c, shared + each * (double)side_by_side, "the longest prefix");
    if (code) return code;
    if (!(s->results = calloc(units * s->unit, sizeof(double)))) return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    double total = 0.0;
    for (size_t i = 0; i < s->num_lens; i++)
        total += (double)s->lens[i] * (double)cfg->num_steps * (double)cfg->num_trials;
    s->progress = progress_start(&cfg->c, "descent", total);
    const int inner = cfg->c.threads / (int)side_by_side;
    int status = GSL_SUCCESS;
    omp_set_max_active_levels(2);
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)side_by_side)
    for (size_t u = 0; u < units; u++) {
        int failed;
#pragma omp atomic read
        failed = status;
        if (failed || cli_interrupted() || !cli_is_mine(&cfg->c, u)) continue;
        const int mine = run_unit(s, s->num_lens - 1 - u / cfg->num_trials, u % cfg->num_trials, inner);
        if (mine) {
#pragma omp atomic write
            status = mine;
        }
    }
    progress_end(s->progress);
    if (status == GSL_EFAILED && processes_count() > 1) return cli_alone(&cfg->c);
    if (cli_interrupted()) return cli_interrupted();
    if (status == GSL_FAILURE) return EXIT_FAILED;      /* said already */
    if (status == GSL_EDOM) return cli_fail(&cfg->c, EXIT_FAILED, "--step-size: descent diverged: nothing to write");
    code = cli_status(&cfg->c, status, "descent");
    return !code && cfg->c.num_shards ? EXIT_SHARD : code;
}

static int write_curve(const struct study *s)
{
    const struct config *cfg = s->cfg;
    if (!cfg->curve_out) return 0;
    struct table *t = table_open(&cfg->c, cfg->curve_out, curve_columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "kernel_time: m step_size step; loss_linearised: (I - step_size m K)^step on the initial residual, K "
                  "at initialisation");
    for (size_t i = 0; i < cfg->num_lens; i++)
        for (size_t r = 0; r < cfg->num_trials; r++) {
            const size_t len = cli_index_of(s->lens, s->num_lens, cfg->prefix_lens[i]);
            const double *result = unit_of(s, len, r), *curve = result + NUM_RESULTS;
            for (size_t row = 0; row < (size_t)result[CURVE_ROWS]; row++, curve += 3) {
                table_int(t, cfg->prefix_lens[i]);
                table_int(t, r);
                table_int(t, (uint64_t)curve[0]);
                table_num(t, (double)cfg->prefix_lens[i] * result[STEP_SIZE] * curve[0]);
                table_num(t, curve[1]);
                table_num(t, curve[2]);
                table_end_row(t);
            }
        }
    return table_close(t, 0);
}

static int write_table(const struct study *s)
{
    const struct config *cfg = s->cfg;
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "num_samples=%zu dim=%zu sigma=%.17g num_steps=%zu stop_loss=%.17g stop_ratio=%.17g", s->X->size1,
               s->X->size2, cfg->sigma, cfg->num_steps, cfg->stop_loss, cfg->stop_ratio);
    table_note(t, "reached: loss <= max(stop_loss, stop_ratio loss_initial); steps_pred: by the linearised dynamics; "
                  "steps_bound_key: 2 ln(loss_initial/target) / (m step_size lambda_min(H*)); lambda: of K at "
                  "initialisation; "
                  "drift: ||K(t)-K(0)||_F/||K(0)||_F; movement: of ||w_r(t)-w_r(0)||; empty final cells: diverged");
    for (size_t i = 0; i < cfg->num_lens; i++)
        for (size_t r = 0; r < cfg->num_trials; r++) {
            const double *result = unit_of(s, cli_index_of(s->lens, s->num_lens, cfg->prefix_lens[i]), r);
            table_int(t, cfg->prefix_lens[i]);
            table_int(t, r);
            table_text(t, s->given_signs && cfg->sign_values ? "given" : cli_sign_names[cfg->law]);
            table_num(t, result[STEP_SIZE]);
            table_int(t, (uint64_t)result[NUM_STEPS]);
            table_num(t, (double)cfg->prefix_lens[i] * result[STEP_SIZE] * result[NUM_STEPS]);
            table_int(t, (uint64_t)result[REACHED]);
            for (int c = LOSS_INITIAL; c <= MOVEMENT_MAX; c++) table_num(t, result[c]);
            table_end_row(t);
        }
    return table_close(t, 0);
}

static int write_arrays(const struct study *s, const gsl_matrix *X_at)
{
    const struct config *cfg = s->cfg;
    int code = 0;
    if (cfg->samples.inputs_out) code = cli_write_matrix(&cfg->c, cfg->samples.inputs_out, s->X);
    if (!code && cfg->samples.targets_out) code = cli_write_matrix(&cfg->c, cfg->samples.targets_out, s->Y);
    if (!code && cfg->prefix_out) code = cli_write_matrix(&cfg->c, cfg->prefix_out, s->trained);
    if (!code && cfg->signs_out) code = cli_write_vector(&cfg->c, cfg->signs_out, s->trained_signs);
    if (code || !cfg->pred_out) return code;
    gsl_matrix *F = gsl_matrix_alloc(X_at->size1, X_at->size2);
    if (!F) return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    code = cli_status(&cfg->c, prefix_model_forward(s->trained, s->trained_signs, X_at, F, cfg->c.threads), "outputs");
    if (!code) code = cli_write_matrix(&cfg->c, cfg->pred_out, F);
    gsl_matrix_free(F);
    return code;
}

/* Everything the numbers of a descent depend on besides the seed; the caller frees. */
static char *identity_of(const struct study *s)
{
    const struct config *cfg = s->cfg;
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f) return NULL;
    fprintf(f, "%016llx %016llx %s %.17g %.17g %.17g %.17g %zu", (unsigned long long)cli_checksum(s->X),
            (unsigned long long)cli_checksum(s->Y), cli_sign_names[cfg->law], cfg->sigma, cfg->step_size,
            cfg->stop_loss, cfg->stop_ratio, cfg->num_steps);
    if (s->given) {
        gsl_matrix_const_view signs = gsl_matrix_const_view_vector(s->given_signs, 1, s->given_signs->size);
        fprintf(f, " %016llx %016llx", (unsigned long long)cli_checksum(s->given),
                (unsigned long long)cli_checksum(&signs.matrix));
    }
    if (fclose(f)) { free(text); return NULL; }
    return text;
}

/* lambda_min(H*); NaN where it is not positive or the kernel is too large for a spectrum. */
static double limit_lambda(const struct config *cfg, const gsl_matrix *X)
{
    const size_t nd = X->size1 * X->size2;
    gsl_matrix *H = nd <= SPECTRUM_MAX ? cli_need(gsl_matrix_alloc(nd, nd)) : NULL;
    double lambda = NAN;
    if (H && (cli_need_memory(ntk_limit(X, X, cfg->sigma, (enum prefix_signs)cfg->law, NTK_KEY, H)) ||
              cli_need_memory(ntk_lambda_min(H, &lambda))))
        lambda = NAN;
    gsl_matrix_free(H);
    return lambda > 0.0 ? lambda : NAN;
}

int main(int argc, char **argv)
{
    static size_t default_lens[] = { 256, 1024, 4096 };
    struct config cfg = { .samples = { .num_samples = 16, .dim = 8 }, .prefix_lens = default_lens, .num_lens = 3 };
    if (processes_start(&argc, &argv, cli_interrupted)) return EXIT_FAILED;
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);

    char *curve = cfg.tables && !cfg.curve_out ? cli_side_path(&cfg.c, "curve") : NULL;
    if (curve) cfg.curve_out = curve;
    /* Files asked for are written at the end: a failed run leaves none. */
    struct samples_options samples = cfg.samples;
    samples.inputs_out = samples.targets_out = NULL;
    gsl_matrix *X = NULL, *Y = NULL, *W = NULL, *X_at = NULL;
    gsl_vector *signs = NULL;
    struct study s = { .cfg = &cfg, .lambda_key = NAN };
    int code = samples_load(&cfg.c, &samples, 0, &X, &Y);
    if (!code && cfg.prefix && !(code = cli_read_prefix(&cfg.c, cfg.prefix, cfg.sign_values, X->size2, &W, &signs))) {
        cfg.prefix_lens = &W->size1;
        cfg.num_lens = 1;
        cfg.num_trials = 1;
    }
    if (!code && cfg.at && !(code = cli_read_matrix(&cfg.c, cfg.at, &X_at)) && X_at->size2 != X->size2)
        code = cli_fail(&cfg.c, EXIT_DATA, "%s: inputs of dimension %zu, trained on %zu", cfg.at, X_at->size2,
                        X->size2);
    if (code) goto done;
    cli_warn_duplicates(&cfg.c, X, cfg.samples.inputs ? cfg.samples.inputs : "inputs");
    s.X = X;
    s.Y = Y;
    s.given = W;
    s.given_signs = signs;
    s.curve_max = recorded_at_most(cfg.num_steps);
    s.unit = NUM_RESULTS + 3 * s.curve_max;
    code = EXIT_FAILED;
    s.lens = cli_sorted_sizes(cfg.prefix_lens, cfg.num_lens, &s.num_lens);
    if (processes_rank()) {
        code = EXIT_DONE;
        goto done;
    }
    s.lambda_key = limit_lambda(&cfg, X);
    char *identity = identity_of(&s);
    s.journal = identity ? journal_open(&cfg.c, identity) : NULL;
    free(identity);
    if (!s.journal) goto done;
    code = run(&s);
    if (!code) code = write_arrays(&s, X_at);
    if (!code) code = write_curve(&s);
    if (!code) code = write_table(&s);
    code = journal_close(s.journal, code);
done:
    if (processes_rank()) code = take_orders(&s, code);
    else (void)give_order((struct order){ .what = DO_END, .len = (size_t)code });
    free(curve);
    gsl_matrix_free(s.trained);
    gsl_vector_free(s.trained_signs);
    free(s.results);
    free(s.lens);
    gsl_vector_free(signs);
    gsl_matrix_free(X_at);
    gsl_matrix_free(W);
    gsl_matrix_free(Y);
    gsl_matrix_free(X);
    return processes_end(code);
}
