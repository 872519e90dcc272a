/* The constants of the convergence theorem over random problems of many sizes: what its conditions
 * promise, and how its hidden factors poly(n, d) e^{O(B)} grow (T4, T5, T8, T11, T12). */
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"
#include "prefix_ntk/prefix_descent.h"
#include "prefix_ntk/prefix_fit.h"

static const char doc[] = "Independent random problems over a grid of numbers of samples, dimensions and sigma, each "
                          "with inputs, targets and a prefix of "
                          "its own: descent to 1e-20 of the initial loss at a given prefix length and at (||K*||_2 / "
                          "lambda_min(H*))^2, the step sizes that "
                          "are stable, and the factors poly(n, d) e^{O(B)} of the theorem, with their exponents in n, "
                          "d and sigma. Random signs.";
static const char columns[] =
    "num_samples,dim,sigma,trial,prefix_len,lambda_key,lambda_max,close_factor,shift_factor,steps_factor,critical_step,"
    "critical_units,needed_factor,"
    "run,steps,steps_pred,steps_bound,prefix_len_theorem,run_theorem,steps_theorem,prefix_len_needed";

struct config {
    struct cli_common c;
    size_t *num_samples, num_ns, *dims, num_dims, num_sigmas, *prefix_lens, num_lens, num_trials;
    double *sigmas, max_work;
};

static const struct cli_option options[] = {
    KERNEL_GRID(struct config, "2,3,4", "4,6,8", "0.5,0.7,1"),
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 1, .max = 1u << 20,
      .value = "256,1024,4096", .group = 1, .doc = "prefix lengths m of the descents, by turns" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 16, .value = "6", .group = 1,
      .doc = "problems per cell" },
    { "max-work", CLI_DOUBLE(struct config, max_work), .value = "1e8", .arg = "W", .group = 1,
      .doc = "a descent with more tokens times predicted steps is not begun" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

/* How a descent ends: the last is known before it begins. */
enum run_end { REACHED, FAILED, CAPPED, TOO_LONG, NUM_ENDS };
static const char *const end_names[NUM_ENDS] = { "reached", "failed", "capped", "too-long" };

enum {
    LAMBDA_KEY,
    LAMBDA_MAX,
    CLOSE,
    SHIFT,
    GROWTH,
    CRITICAL,
    CRITICAL_UNITS,
    STEP_FACTOR,
    STABLE,
    RUN,
    STEPS,
    STEPS_PRED,
    STEPS_BOUND,
    STEPS_FACTOR,
    THEOREM_LEN,
    THEOREM_RUN,
    THEOREM_STEPS,
    NEEDED_LEN,
    NUM_RESULTS
};

#define TARGET_RATIO 1e-20
#define NEEDED_RATIO 1e-6
/* A descent may take this many times the steps predicted from its initial kernel. */
#define STEPS_CAP 4.0
enum { CLOSE_LEN = 4096, CLOSE_PREFIXES = 4, SHIFT_LEN = 256, STEP_LEN = 512, NEEDED_STEPS = 20000, MAX_LEN = 1 << 20 };
#define MAX_STEPS 1e6

/* A problem: its cell, and the number of its random streams. */
struct problem { size_t n, d, number, len; double sigma, lambda_key; gsl_matrix *X, *Y, *H; };

static struct problem problem_at(const struct config *cfg, size_t unit)
{
    struct problem p = { .number = unit };
    p.len = cfg->prefix_lens[unit % cfg->num_trials % cfg->num_lens];
    size_t cell = unit / cfg->num_trials;
    p.sigma = cfg->sigmas[cell % cfg->num_sigmas];
    cell /= cfg->num_sigmas;
    p.d = cfg->dims[cell % cfg->num_dims];
    p.n = cfg->num_samples[cell / cfg->num_dims];
    return p;
}

static void problem_free(struct problem *p)
{
    gsl_matrix_free(p->X);
    gsl_matrix_free(p->Y);
    gsl_matrix_free(p->H);
}

/* The problem's prefix number `which`, of length m. */
static int draw(const struct config *cfg, const struct problem *p, size_t which, size_t m, gsl_matrix **W,
                gsl_vector **signs)
{
    *W = gsl_matrix_alloc(m, p->d);
    *signs = gsl_vector_alloc(m);
    if (!*W || !*signs) return GSL_ENOMEM;
    return prefix_draw(cfg->c.seed, p->number * CLOSE_PREFIXES + which, PREFIX_SIGNS_RANDOM, p->sigma, *W, *signs, 1);
}

struct run { enum run_end end; double steps, pred, bound, rate; };

/* Descent with step 1/(m lambda_max(K_m)) to `target` of the initial loss, for at most STEPS_CAP times the
 * predicted steps and max_steps; not begun when it is predicted to take more work or steps. */
static int run_descent(const struct config *cfg, const struct problem *p, size_t m, double target, double max_steps,
                       struct run *run)
{
    const size_t nd = p->n * p->d;
    gsl_matrix *K = gsl_matrix_alloc(nd, nd), *W = NULL;
    gsl_vector *signs = NULL;
    struct prefix_descent *descent = NULL;
    struct prefix_linear *linear = NULL;
    *run = (struct run){ TOO_LONG, NAN, NAN, NAN, NAN };
    int status = K ? draw(cfg, p, 0, m, &W, &signs) : GSL_ENOMEM;
    if (!status) status = prefix_descent_alloc(W, signs, p->X, NULL, p->Y, 1, &descent);
    if (!status) status = ntk_gram(W, signs, p->X, NTK_FULL, K, 1);
    if (!status) status = prefix_linear_alloc(K, prefix_descent_residual(descent), &linear);
    if (status) goto done;
    const double start = prefix_descent_loss(descent);
    run->rate = 1.0 / linear->eigenvalues[nd - 1];
    run->pred = prefix_linear_steps(linear, run->rate, target * start);
    run->bound = 2.0 * log(1.0 / target) / (run->rate * p->lambda_key);
    if (!(run->pred * (double)m <= cfg->max_work) || run->pred > max_steps) goto done;
    const double most = fmin(ceil(STEPS_CAP * run->pred), max_steps);
    bool diverged = false;
    for (run->steps = 0.0; run->steps < most && !diverged && prefix_descent_loss(descent) > target * start;
         run->steps += 1.0) {
        diverged = prefix_descent_step(descent, run->rate / (double)m) != GSL_SUCCESS;
        if (cli_interrupted()) { status = GSL_FAILURE; goto done; }
    }
    run->end = diverged ? FAILED : prefix_descent_loss(descent) <= target * start ? REACHED : CAPPED;
done:
    prefix_linear_free(linear);
    prefix_descent_free(descent);
    gsl_vector_free(signs);
    gsl_matrix_free(W);
    gsl_matrix_free(K);
    return status;
}

/* T4: 16 m ||H_m - H*||_2^2 / ||H*||_2^2, the m (lambda/||H*||_2)^2 at which ||H_m - H*||_2 = lambda/4, as m^{-1/2}
 * from CLOSE_LEN tokens; mean over prefixes. */
static int close_factor(const struct config *cfg, const struct problem *p, double *factor)
{
    const size_t nd = p->n * p->d;
    gsl_matrix *H = gsl_matrix_alloc(nd, nd);
    gsl_vector *w = gsl_vector_alloc(nd);
    int status = H && w ? GSL_SUCCESS : GSL_ENOMEM;
    double norm = NAN;
    if (!status) status = ntk_eigenvalues(p->H, w);
    if (!status) norm = gsl_vector_get(w, nd - 1);
    *factor = 0.0;
    for (size_t which = 0; which < CLOSE_PREFIXES && !status; which++) {
        gsl_matrix *W = NULL;
        gsl_vector *signs = NULL;
        status = draw(cfg, p, which, CLOSE_LEN, &W, &signs);
        if (!status) status = ntk_gram(W, signs, p->X, NTK_KEY, H, 1);
        if (!status) status = gsl_matrix_sub(H, p->H);
        if (!status) status = ntk_eigenvalues(H, w);
        if (!status)
            *factor += 16.0 * CLOSE_LEN * pow(fmax(-gsl_vector_get(w, 0), gsl_vector_get(w, nd - 1)) / norm, 2.0)
                       / CLOSE_PREFIXES;
        gsl_vector_free(signs);
        gsl_matrix_free(W);
    }
    gsl_vector_free(w);
    gsl_matrix_free(H);
    return status;
}

/* T4: the second difference over sigma = 1, 1.5, 2 of ln C^2, to which the m needed is proportional at given
 * ||H*||_F/lambda; e^{O(B)} with B proportional to sigma leaves it at most 0. */
static int growth_in_sigma(const struct problem *p, double *second)
{
    static const double sigmas[] = { 1.0, 1.5, 2.0 }, weights[] = { 1.0, -2.0, 1.0 };
    int status = GSL_SUCCESS;
    *second = 0.0;
    for (int s = 0; s < 3 && !status; s++) {
        double constant;
        status = ntk_error_constant(p->X, sigmas[s], PREFIX_SIGNS_RANDOM, NTK_KEY, &constant, NULL);
        if (!status) *second += weights[s] * 2.0 * log(constant);
    }
    return status;
}

/* T5: ||H(W) - H(W_0)||_F / (R ||H*||_F) for the worst shift found, R = 0.05. */
static int shift_factor(const struct config *cfg, const struct problem *p, double *factor)
{
    const double radius = 0.05;
    gsl_matrix *W0 = NULL, *W = gsl_matrix_alloc(SHIFT_LEN, p->d);
    gsl_vector *signs = NULL;
    int status = W ? draw(cfg, p, 1, SHIFT_LEN, &W0, &signs) : GSL_ENOMEM;
    if (!status) {
        samples_sphere(cfg->c.seed, RANDOM_PERTURBATION, p->number, 0, W);
        gsl_matrix_scale(W, radius);
        gsl_matrix_add(W, W0);
        status = ntk_adversarial_shift(W0, signs, p->X, NTK_KEY, radius, 8, W, factor, 1);
        double squares = 0.0;
        for (size_t i = 0; i < p->H->size1 * p->H->size2; i++) squares += p->H->data[i] * p->H->data[i];
        *factor /= radius * sqrt(squares);
    }
    gsl_vector_free(signs);
    gsl_matrix_free(W);
    gsl_matrix_free(W0);
    return status;
}

/* Whether no step of `steps` with eta m = rate leaves the loss above its start. (Step by step the rounding of a
 * loss that has reached its floor would decide.) */
static int is_stable(const struct problem *p, const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *Y,
                     double rate, size_t steps, bool *stable)
{
    struct prefix_descent *descent = NULL;
    int status = prefix_descent_alloc(W, signs, p->X, NULL, Y, 1, &descent);
    const double start = status ? NAN : prefix_descent_loss(descent);
    *stable = true;
    for (size_t t = 0; t < steps && !status && *stable; t++)
        *stable = prefix_descent_step(descent, rate / (double)W->size1) == GSL_SUCCESS
                  && prefix_descent_loss(descent) <= start;
    prefix_descent_free(descent);
    return status;
}

/* T11: the largest stable eta m by bisection, for a residual of norm 1e-5 along the top eigenvector of K_m; that in
 * units of 1/lambda_max(K_m); and whether eta m = lambda_min(H*)/(n d)^2 keeps the loss of the problem itself below its
 * start. */
static int step_sizes(const struct config *cfg, const struct problem *p, double *critical, double *units,
                      double *stable_below)
{
    const size_t nd = p->n * p->d;
    gsl_matrix *K = gsl_matrix_alloc(nd, nd), *Y = gsl_matrix_alloc(p->n, p->d), *W = NULL;
    gsl_vector *signs = NULL;
    struct prefix_linear *linear = NULL;
    bool stable = false;
    int status = K && Y ? draw(cfg, p, 2, STEP_LEN, &W, &signs) : GSL_ENOMEM;
    if (!status) status = ntk_gram(W, signs, p->X, NTK_FULL, K, 1);
    if (!status) status = prefix_model_forward(W, signs, p->X, Y, 1);
    if (!status) status = prefix_linear_alloc(K, Y, &linear);
    if (!status) status = is_stable(p, W, signs, p->Y, p->lambda_key / (double)(nd * nd), 200, &stable);
    if (!status) {
        *stable_below = stable;
        for (size_t i = 0; i < nd; i++) Y->data[i] += 1e-5 * gsl_matrix_get(linear->vectors, i, nd - 1);
        double lo = 0.5 / linear->eigenvalues[nd - 1], hi = 16.0 * lo;
        for (int round = 0; round < 20 && !status; round++) {
            const double middle = 0.5 * (lo + hi);
            status = is_stable(p, W, signs, Y, middle, 60, &stable);
            if (stable) lo = middle;
            else hi = middle;
        }
        *critical = 0.5 * (lo + hi);
        *units = *critical * linear->eigenvalues[nd - 1];
    }
    prefix_linear_free(linear);
    gsl_vector_free(signs);
    gsl_matrix_free(W);
    gsl_matrix_free(Y);
    gsl_matrix_free(K);
    return status;
}

/* T12: the shortest of the lengths n, 1.5 n, 2 n, 3 n, 4 n, 6 n, ... with which NEEDED_STEPS steps reach NEEDED_RATIO
 * of the loss. */
static int needed_len(const struct config *cfg, const struct problem *p, double *len)
{
    enum { DOUBLINGS = 10 };
    int status = GSL_SUCCESS;
    *len = NAN;
    for (size_t step = 0; step < 2 * DOUBLINGS && !status && isnan(*len); step++) {
        const size_t m = (p->n << step / 2) * (step % 2 ? 3 : 2) / 2;
        struct run run;
        status = run_descent(cfg, p, m, NEEDED_RATIO, NEEDED_STEPS, &run);
        if (run.end == REACHED) *len = (double)m;
    }
    return status;
}

static int run_unit(const void *context, size_t unit, double *out)
{
    const struct config *cfg = context;
    struct problem p = problem_at(cfg, unit);
    const size_t nd = p.n * p.d;
    gsl_vector *w = gsl_vector_alloc(nd);
    p.X = gsl_matrix_alloc(p.n, p.d);
    p.Y = gsl_matrix_alloc(p.n, p.d);
    p.H = gsl_matrix_alloc(nd, nd);
    for (int i = 0; i < NUM_RESULTS; i++) out[i] = NAN;
    int status = w && p.X && p.Y && p.H ? GSL_SUCCESS : GSL_ENOMEM;
    struct run run;
    if (status) goto done;
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, p.number, 0, p.X);
    samples_sphere(cfg->c.seed, RANDOM_TARGETS, p.number, 0, p.Y);
    status = ntk_limit(p.X, p.X, p.sigma, PREFIX_SIGNS_RANDOM, NTK_FULL, p.H);
    if (!status) status = ntk_eigenvalues(p.H, w);
    if (status) goto done;
    out[LAMBDA_MAX] = gsl_vector_get(w, nd - 1);
    status = ntk_limit(p.X, p.X, p.sigma, PREFIX_SIGNS_RANDOM, NTK_KEY, p.H);
    if (!status) status = ntk_lambda_min(p.H, &out[LAMBDA_KEY]);
    p.lambda_key = out[LAMBDA_KEY];
    if (!status) status = close_factor(cfg, &p, &out[CLOSE]);
    if (!status) status = growth_in_sigma(&p, &out[GROWTH]);
    if (!status) status = shift_factor(cfg, &p, &out[SHIFT]);
    if (!status) status = step_sizes(cfg, &p, &out[CRITICAL], &out[CRITICAL_UNITS], &out[STABLE]);
    /* T11: what stands in place of poly(n, d) e^{O(B)} where the theorem's step is the largest stable one. */
    out[STEP_FACTOR] = out[LAMBDA_KEY] / out[CRITICAL];
    if (!status) status = needed_len(cfg, &p, &out[NEEDED_LEN]);
    if (!status) status = run_descent(cfg, &p, p.len, TARGET_RATIO, MAX_STEPS, &run);
    if (status) goto done;
    out[RUN] = run.end;
    out[STEPS] = run.steps;
    out[STEPS_PRED] = run.pred;
    out[STEPS_BOUND] = run.bound;
    out[STEPS_FACTOR] = run.steps * run.rate * out[LAMBDA_KEY] / log((double)nd / TARGET_RATIO);
    const double wanted = ceil(pow(out[LAMBDA_MAX] / out[LAMBDA_KEY], 2.0));
    out[THEOREM_LEN] = fmax(wanted, (double)p.n);
    out[THEOREM_RUN] = TOO_LONG;
    if (!(wanted <= MAX_LEN)) goto done;
    status = run_descent(cfg, &p, (size_t)out[THEOREM_LEN], TARGET_RATIO, MAX_STEPS, &run);
    out[THEOREM_RUN] = run.end;
    out[THEOREM_STEPS] = run.steps;
done:
    problem_free(&p);
    gsl_vector_free(w);
    return status;
}

struct study { const struct config *cfg; struct units *work; size_t count; };

static int write_table(const struct study *s)
{
    const struct config *cfg = s->cfg;
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t,
               "one row a problem; lambda_key: lambda_min(H*); lambda_max: of K*; close_factor: 16 m (||H_m - "
               "H*||_2/||H*||_2)^2 at m=%d; "
               "shift_factor: ||H(W)-H(W_0)||_F / (R ||H*||_F), worst shift found, R=0.05, m=%d; steps_factor: steps "
               "times m eta lambda_key / "
               "ln(n d / %g); critical_step: largest stable eta m, units: times lambda_max(K_m); needed_factor: "
               "prefix_len_needed times "
               "(lambda_key/lambda_max)^2",
               CLOSE_LEN, SHIFT_LEN, TARGET_RATIO);
    table_note(t,
               "run: descent to %g of the initial loss, eta = 1/(m lambda_max(K_m)), at most %g times steps_pred; "
               "too-long: not begun; "
               "steps_bound: 2 ln(1/%g)/(m eta lambda_key); theorem: the same at m = (lambda_max/lambda_key)^2; "
               "needed: shortest that reaches %g in %d steps",
               TARGET_RATIO, STEPS_CAP, TARGET_RATIO, NEEDED_RATIO, NEEDED_STEPS);
    for (size_t u = 0; u < s->count; u++) {
        const struct problem p = problem_at(cfg, u);
        const double *r = units_row(s->work, u);
        table_int(t, p.n);
        table_int(t, p.d);
        table_num(t, p.sigma);
        table_int(t, u % cfg->num_trials);
        table_int(t, p.len);
        const double numbers[] = { r[LAMBDA_KEY],     r[LAMBDA_MAX],
                                   r[CLOSE],          r[SHIFT],
                                   r[STEPS_FACTOR],   r[CRITICAL],
                                   r[CRITICAL_UNITS], r[NEEDED_LEN] * pow(r[LAMBDA_KEY] / r[LAMBDA_MAX], 2.0) };
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) table_num(t, numbers[i]);
        table_text(t, end_names[(int)r[RUN]]);
        for (int i = STEPS; i <= STEPS_BOUND; i++) table_num(t, r[i]);
        table_num(t, r[THEOREM_LEN]);
        table_text(t, end_names[(int)r[THEOREM_RUN]]);
        table_num(t, r[THEOREM_STEPS]);
        table_num(t, r[NEEDED_LEN]);
        table_end_row(t);
    }
    return table_close(t, 0);
}

/* Exponents of a factor in n and d and its rate in sigma, by least squares over the problems where it is
 * known: ln factor = a + b ln n + c ln d + e sigma. */
static void write_exponents(const struct study *s, struct verdicts *v, const char *claim, int which, bool per_lambda2)
{
    static const char *const rows[] = { "exponent-n", "exponent-d", "rate-sigma" };
    enum { PARTS = 4 };
    double *x = cli_need(malloc(s->count * PARTS * sizeof *x)), *y = cli_need(malloc(s->count * sizeof *y));
    struct interval parts[PARTS];
    size_t known = 0;
    for (size_t u = 0; u < s->count; u++) {
        const double *r = units_row(s->work, u),
                     value = r[which] * (per_lambda2 ? pow(r[LAMBDA_KEY] / r[LAMBDA_MAX], 2.0) : 1.0);
        const struct problem p = problem_at(s->cfg, u);
        if (!(value > 0.0) || !isfinite(value)) continue;
        memcpy(x + known * PARTS, (const double[]) { 1.0, log((double)p.n), log((double)p.d), p.sigma },
               PARTS * sizeof *x);
        y[known++] = log(value);
    }
    if (cli_need_memory(stats_regression(x, y, known, PARTS, 0.999, parts)))
        for (int i = 0; i < PARTS; i++) parts[i] = (struct interval){ NAN, NAN, NAN, known };
    for (int i = 1; i < PARTS; i++) verdicts_add(v, claim, rows[i - 1], parts[i]);
    free(y);
    free(x);
}

/* T11: slope of ln(critical eta m) in ln lambda_min(H*) over problems of the same cell. */
static struct interval slope_in_lambda(const struct study *s)
{
    const size_t trials = s->cfg->num_trials;
    double *x = cli_need(malloc(s->count * sizeof *x)), *y = cli_need(malloc(s->count * sizeof *y));
    for (size_t first = 0; first < s->count; first += trials) {
        double mean_x = 0.0, mean_y = 0.0;
        for (size_t u = first; u < first + trials; u++) {
            mean_x += log(units_row(s->work, u)[LAMBDA_KEY]) / (double)trials;
            mean_y += log(units_row(s->work, u)[CRITICAL]) / (double)trials;
        }
        for (size_t u = first; u < first + trials; u++) {
            x[u] = log(units_row(s->work, u)[LAMBDA_KEY]) - mean_x;
            y[u] = log(units_row(s->work, u)[CRITICAL]) - mean_y;
        }
    }
    struct interval slope = { NAN, NAN, NAN, s->count };
    double intercept;
    if (stats_line(x, y, s->count, 0.999, &slope, &intercept)) slope = (struct interval){ NAN, NAN, NAN, s->count };
    free(y);
    free(x);
    return slope;
}

static int write_verdicts(const struct study *s)
{
    const struct config *cfg = s->cfg;
    if (!cfg->c.verdicts) return 0;
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    double ends[2][NUM_ENDS] = { { 0.0 } }, within = 0.0, stable = 0.0;
    size_t long_runs = 0;
    double *x = cli_need(malloc(s->count * sizeof *x));
    for (size_t u = 0; u < s->count; u++) {
        const double *r = units_row(s->work, u);
        ends[0][(int)r[RUN]] += 1.0;
        ends[1][(int)r[THEOREM_RUN]] += 1.0;
        within += (int)r[RUN] == REACHED && r[STEPS] <= r[STEPS_BOUND];
        stable += r[STABLE];
        const bool longest = problem_at(cfg, u).len == cfg->prefix_lens[cfg->num_lens - 1];
        if (longest && (int)r[RUN] == REACHED) x[long_runs++] = r[STEPS] / r[STEPS_PRED];
    }
    struct interval rate = { NAN, NAN, NAN, 0 };
    const double count = (double)s->count;
    for (int which = 0; which < 2; which++) {
        const char *claim = which ? "T12" : "T8";
        const double begun = count - ends[which][TOO_LONG];
        if (stats_rate(ends[which][REACHED], begun, 0.999, &rate)) rate = (struct interval){ NAN, NAN, NAN, 0 };
        verdicts_add(v, claim, "reaches", rate);
        if (stats_rate(ends[which][CAPPED], begun, 0.999, &rate)) rate = (struct interval){ NAN, NAN, NAN, 0 };
        verdicts_add(v, claim, "capped", rate);
        stats_rate(ends[which][TOO_LONG], count, 0.999, &rate);
        verdicts_add(v, claim, "too-long", rate);
    }
    if (stats_rate(within, count - ends[0][TOO_LONG], 0.999, &rate)) rate = (struct interval){ NAN, NAN, NAN, 0 };
    verdicts_add(v, "T8", "within-bound", rate);
    verdicts_add(v, "T8", "steps-linear", cli_mean(x, long_runs, 0.999));
    stats_rate(stable, count, 0.999, &rate);
    verdicts_add(v, "T11", "sufficient", rate);
    verdicts_add(v, "T11", "necessary", slope_in_lambda(s));
    for (size_t u = 0; u < s->count; u++) x[u] = units_row(s->work, u)[GROWTH];
    verdicts_add(v, "T4", "growth-sigma", cli_mean(x, s->count, 0.999));
    for (size_t u = 0; u < s->count; u++) x[u] = units_row(s->work, u)[CRITICAL_UNITS];
    verdicts_add(v, "F23", "critical", cli_mean(x, s->count, 0.999));
    write_exponents(s, v, "T4", CLOSE, false);
    write_exponents(s, v, "T5", SHIFT, false);
    write_exponents(s, v, "T8", STEPS_FACTOR, false);
    write_exponents(s, v, "T11", STEP_FACTOR, false);
    write_exponents(s, v, "T12", NEEDED_LEN, true);
    free(x);
    return verdicts_close(v, 0);
}

/* What the largest problem takes, with the longest prefix that is ever trained. */
static double unit_bytes(const struct study *s)
{
    double most = 0.0;
    for (size_t u = 0; u < s->count; u++) {
        const struct problem p = problem_at(s->cfg, u);
        const double nd = (double)(p.n * p.d);
        most = fmax(most, (double)prefix_descent_bytes(MAX_LEN, p.d, p.n, 1)
                              + (double)ntk_gram_workspace(p.n, p.d, MAX_LEN, 1)
                              + sizeof(double) * (8.0 * nd * nd + (double)MAX_LEN * (double)(p.d + 1)));
    }
    return most;
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, NULL, &cfg.c);
    struct study s = { .cfg = &cfg, .count = cfg.num_ns * cfg.num_dims * cfg.num_sigmas * cfg.num_trials };
    const struct units_study study = { .what = "problems", .count = s.count, .width = NUM_RESULTS,
                                       .unit_bytes = unit_bytes(&s), .last_first = true, .unit = run_unit };
    char *identity = cli_identity(options, &cfg.c);
    int code = units_work(&cfg.c, identity, &study, &cfg, &s.work);
    free(identity);
    if (!code) code = write_verdicts(&s);
    if (!code) code = write_table(&s);
    return units_close(s.work, code);
}
