/* What goes wrong in NTK-Attention as its authors released it, beside the library's own: a maximum taken before the
 * mask, a summary divided by e^max, k = |kappa| started at 0, and an error study whose approximate side still sees the
 * prefix. Ledger F41 to F44. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_errno.h>

#include "approximation/approx.h"
#include "approximation/source.h"
#include "approximation/study.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"
#include "common/random.h"
#include "prefix_ntk/attention.h"
#include "prefix_ntk/feature.h"

static const char columns[] = "form,score_std,share_of_rows_wrong,inputs_wrong,share_without_gradient,"
                              "inputs_without_gradient,num_trials";

struct config { struct cli_common c; size_t num_trials, adam_steps; };

static const struct cli_option options[] = {
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1 << 20, .value = "200", .doc = "trials" },
    { "adam-steps", CLI_SIZE(struct config, adam_steps), .min = 1, .max = 1 << 24, .value = "2000",
      .doc = "steps of Adam of k = |kappa|, in the first 24 trials" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

enum { DIM = 64, LEN = 128, PREFIX_LEN = 64, NUM_FIT = 256, NUM_TRAINED = 24 };

enum form { RELEASED_CAUSAL, OWN_CAUSAL, RELEASED_FULL, OWN_FULL, NUM_FORMS };
static const char *const form_names[] = { "released causal", "library causal", "released unmasked",
                                          "library unmasked" };
static const double spreads[] = { 1.0, 8.0, 64.0 };
enum { NUM_SPREADS = 3, USUAL = 0, AUTHORS = 2 };

/* Of a trial: by form and spread wrong rows, then rows whose gradient is not finite; of the training; of the error
 * study. */
enum { GRADIENTS = NUM_FORMS * NUM_SPREADS, MOVED = 2 * GRADIENTS, TRAINED_RATIO, IDENTITY, NUM_FIELDS };

/* A row of the output is wrong when it is not finite or this far off, relatively; float32 alone costs 1e-5 at spread
 * 64. */
static const double WRONG = 1e-2;

struct layer { float q[LEN * DIM], k[LEN * DIM], v[LEN * DIM], kp[PREFIX_LEN * DIM], vp[PREFIX_LEN * DIM], Z[DIM * DIM],
               kvec[DIM]; };

static float elu1(float x)
{
    const float z = x / sqrtf(sqrtf((float)DIM));
    return z > 0.0f ? z + 1.0f : expf(z);
}

static void draw(uint64_t seed, uint64_t trial, struct layer *x)
{
    float *const arrays[] = { x->q, x->k, x->v, x->kp, x->vp };
    const size_t counts[] = { LEN, LEN, LEN, PREFIX_LEN, PREFIX_LEN };
    for (size_t a = 0; a < sizeof arrays / sizeof *arrays; a++)
        for (size_t i = 0; i < counts[a]; i++) {
            double row[DIM];
            random_normal(seed, RANDOM_TOKENS, trial, a * LEN + i, row, DIM);
            for (size_t c = 0; c < DIM; c++) arrays[a][i * DIM + c] = (float)row[c];
        }
    memset(x->Z, 0, sizeof x->Z);
    memset(x->kvec, 0, sizeof x->kvec);
    for (size_t i = 0; i < PREFIX_LEN; i++)
        for (size_t j = 0; j < DIM; j++) {
            const float phi = elu1(x->kp[i * DIM + j]);
            x->kvec[j] += phi;
            for (size_t c = 0; c < DIM; c++) x->Z[j * DIM + c] += phi * x->vp[i * DIM + c];
        }
}

static float score(const float *q, const float *k)
{
    float sum = 0.0f;
    for (size_t c = 0; c < DIM; c++) sum += q[c] * k[c];
    return sum / sqrtf((float)DIM);
}

/* Row i in double: what every form should give. */
static void reference(const struct layer *x, size_t i, size_t visible, double *out)
{
    double s[LEN], top = -INFINITY, phi[DIM], mass = 0.0;
    for (size_t j = 0; j < visible; j++) {
        s[j] = 0.0;
        for (size_t c = 0; c < DIM; c++) s[j] += (double)x->q[i * DIM + c] * x->k[j * DIM + c] / sqrt((double)DIM);
        top = fmax(top, s[j]);
    }
    for (size_t j = 0; j < DIM; j++) {
        const double z = x->q[i * DIM + j] / sqrt(sqrt((double)DIM));
        phi[j] = z > 0.0 ? z + 1.0 : exp(z);
        mass += phi[j] * x->kvec[j];
    }
    const double shift = fmax(top, log(mass)), share = exp(-shift);
    double D = mass * share;
    for (size_t c = 0; c < DIM; c++) {
        out[c] = 0.0;
        for (size_t j = 0; j < DIM; j++) out[c] += share * phi[j] * x->Z[j * DIM + c];
    }
    for (size_t j = 0; j < visible; j++) {
        const double e = exp(s[j] - shift);
        D += e;
        for (size_t c = 0; c < DIM; c++) out[c] += e * x->v[j * DIM + c];
    }
    for (size_t c = 0; c < DIM; c++) out[c] /= D;
}

/* Row i in float32 as released, M the maximum over all keys, hidden or not, and E = e^M:
 *   T = (sum e^{s - M} v + (phi Z) / E) / (sum e^{s - M} + (phi k) / E), sums over the visible.
 * Returns whether the slope through E is finite: that of a quotient is (phi k) / E / E, that of the exponential E. */
static bool released(const struct layer *x, size_t i, size_t visible, float *out)
{
    float s[LEN], top = -INFINITY, mass = 0.0f, D = 0.0f;
    for (size_t j = 0; j < LEN; j++) {
        s[j] = score(x->q + i * DIM, x->k + j * DIM);
        top = fmaxf(top, s[j]);
    }
    for (size_t c = 0; c < DIM; c++) out[c] = 0.0f;
    for (size_t j = 0; j < visible; j++) {
        const float e = expf(s[j] - top);
        D += e;
        for (size_t c = 0; c < DIM; c++) out[c] += e * x->v[j * DIM + c];
    }
    const float E = expf(top);
    float values[DIM] = { 0.0f };
    for (size_t j = 0; j < DIM; j++) {
        const float phi = elu1(x->q[i * DIM + j]);
        mass += phi * x->kvec[j];
        for (size_t c = 0; c < DIM; c++) values[c] += phi * x->Z[j * DIM + c];
    }
    D += mass / E;
    for (size_t c = 0; c < DIM; c++) out[c] = (out[c] + values[c] / E) / D;
    return isfinite(mass / E / E * E);
}

static bool is_wrong(const float *got, const double *want)
{
    double off = 0.0, size = 0.0;
    for (size_t c = 0; c < DIM; c++) {
        off += (got[c] - want[c]) * (got[c] - want[c]);
        size += want[c] * want[c];
    }
    return !(sqrt(off) <= WRONG * sqrt(size));
}

/* Rows of the library's gradient in q that are not finite, that of sum(T). */
static int own_gradient(const struct layer *x, const feature_map *map, const struct attn_shape *shape,
                        const struct attn_summary *summary, double *bad)
{
    float *work = malloc(3 * LEN * DIM * sizeof *work);
    attn_row *rows = malloc(LEN * sizeof *rows);
    int status = work && rows && map ? GSL_SUCCESS : GSL_ENOMEM;
    float *out = work, *ones = work + LEN * DIM, *dq = ones + LEN * DIM;
    const float scale = 1.0f / sqrtf((float)DIM);
    const struct attn_in q = attn_dense_in(x->q, 1, LEN, DIM), k = attn_dense_in(x->k, 1, LEN, DIM),
        v = attn_dense_in(x->v, 1, LEN, DIM);
    const struct attn_ntk_grads grads = { .q = attn_dense_out(dq, 1, LEN, DIM) };
    if (!status)
        status = attn_ntk_forward(shape, scale, q, k, v, summary, attn_dense_out(out, 1, LEN, DIM), rows, NULL, 0, 1,
                                  NULL);
    for (size_t i = 0; i < LEN * DIM && !status; i++) ones[i] = 1.0f;
    if (!status)
        status = attn_ntk_backward(shape, scale, q, k, v, summary, attn_dense_in(out, 1, LEN, DIM), rows,
                                   attn_dense_in(ones, 1, LEN, DIM), &grads, NULL, 0, 1);
    for (size_t i = 0; i < LEN && !status; i++) {
        bool finite = true;
        for (size_t c = 0; c < DIM; c++) finite = finite && isfinite(dq[i * DIM + c]);
        *bad += !finite;
    }
    free(work);
    free(rows);
    return status;
}

/* Numbers of wrong rows and of rows without a finite gradient of each form at one spread. */
static int count_wrong(struct layer *x, const feature_map *map, size_t spread, double *out)
{
    float *own = malloc(LEN * DIM * sizeof *own), row[DIM];
    double want[DIM];
    int status = own ? GSL_SUCCESS : GSL_ENOMEM;
    for (enum form form = 0; form < NUM_FORMS && !status; form++) {
        const int causal = form == RELEASED_CAUSAL || form == OWN_CAUSAL;
        const bool library = form == OWN_CAUSAL || form == OWN_FULL;
        const struct attn_shape shape = { 1, 1, 1, LEN, LEN, DIM, causal, NULL };
        const struct attn_summary summary = { map, 1, attn_dense_in(x->Z, 1, DIM, DIM),
                                              attn_dense_in(x->kvec, 1, DIM, 1) };
        if (library)
            status = attn_ntk_forward(&shape, 1.0f / sqrtf((float)DIM), attn_dense_in(x->q, 1, LEN, DIM),
                                      attn_dense_in(x->k, 1, LEN, DIM), attn_dense_in(x->v, 1, LEN, DIM), &summary,
                                          attn_dense_out(own, 1, LEN, DIM), NULL, NULL, 0, 1, NULL);
        if (library && status == GSL_EDOM) status = GSL_SUCCESS;       /* a failed row is 0, which is wrong */
        double *wrong = &out[form * NUM_SPREADS + spread], *gradients = wrong + GRADIENTS;
        *wrong = *gradients = 0.0;
        if (library && !status) status = own_gradient(x, map, &shape, &summary, gradients);
        for (size_t i = 0; i < LEN && !status; i++) {
            const size_t visible = causal ? i + 1 : LEN;
            reference(x, i, visible, want);
            if (!library) *gradients += !released(x, i, visible, row);
            *wrong += is_wrong(library ? own + i * DIM : row, want);
        }
    }
    free(own);
    return status;
}

/* The error study whose approximate side has the prefix among its keys, at Z = k = 0: the largest difference from the
 * exact side. */
static int identity_error(const struct layer *x, const feature_map *map, double *out)
{
    enum { ALL = PREFIX_LEN + LEN };
    const float zero[DIM * DIM] = { 0 };
    float *work = malloc((2 * ALL + 2 * LEN) * DIM * sizeof *work);
    if (!work) return GSL_ENOMEM;
    float *k = work, *v = k + ALL * DIM, *exact = v + ALL * DIM, *approximate = exact + LEN * DIM;
    memcpy(k, x->kp, sizeof x->kp);
    memcpy(k + PREFIX_LEN * DIM, x->k, sizeof x->k);
    memcpy(v, x->vp, sizeof x->vp);
    memcpy(v + PREFIX_LEN * DIM, x->v, sizeof x->v);
    const float scale = 1.0f / sqrtf((float)DIM);
    const struct attn_in q = attn_dense_in(x->q, 1, LEN, DIM);
    const struct attn_shape shape = { 1, 1, 1, LEN, LEN, DIM, 0, NULL }, longer = { 1, 1, 1, LEN, ALL, DIM, 0, NULL };
    const struct attn_prefix prefix = { PREFIX_LEN, attn_dense_in(x->kp, 1, PREFIX_LEN, DIM),
                                        attn_dense_in(x->vp, 1, PREFIX_LEN, DIM), NULL };
    const struct attn_summary summary = { map, 1, attn_dense_in(zero, 1, DIM, DIM), attn_dense_in(zero, 1, DIM, 1) };
    int status = attn_exact_forward(&shape, scale, q, attn_dense_in(x->k, 1, LEN, DIM),
                                    attn_dense_in(x->v, 1, LEN, DIM), &prefix, attn_dense_out(exact, 1, LEN, DIM), NULL,
                                        NULL, 0, 1, NULL);
    if (!status)
        status = attn_ntk_forward(&longer, scale, q, attn_dense_in(k, 1, ALL, DIM), attn_dense_in(v, 1, ALL, DIM),
                                  &summary, attn_dense_out(approximate, 1, LEN, DIM), NULL, NULL, 0, 1, NULL);
    *out = 0.0;
    for (size_t i = 0; i < LEN * DIM && !status; i++) *out = fmax(*out, fabs((double)exact[i] - approximate[i]));
    free(work);
    return status;
}

/* elu1 trained by Adam from Z = k = 0 with k = |kappa| and with k itself, on NUM_FIT queries; judged on LEN others.
 * *moved: the largest |kappa| at the end; *ratio: the error of the first over that of the second. */
static int train_from_zero(const struct config *cfg, size_t trial, double *moved, double *ratio)
{
    enum { ALL = LEN + NUM_FIT, LONG = 1024 };
    const double scale = 1.0 / sqrt((double)DIM);
    struct source source = { 0 };
    struct attn_sums input = { 0 }, prefix = { 0 }, sums = { 0 };
    struct study_map map;
    struct approx_errors e[2];
    double *Q = malloc((ALL + 2 * LEN + 2 * LONG) * DIM * sizeof *Q), *K = Q + ALL * DIM, *V = K + LEN * DIM,
        *phi = NULL;
    double *Kp = V + LEN * DIM, *Vp = Kp + LONG * DIM, *Z = malloc(DIM * DIM * sizeof *Z), k[DIM];
    size_t r;
    int status = Q && Z ? source_init(&source, cfg->c.seed, trial, DIM, SOURCE_TIED, NULL, 0.0) : GSL_ENOMEM;
    if (!status) status = attn_sums_alloc(&input, ALL, DIM);
    if (!status) status = attn_sums_alloc(&prefix, ALL, DIM);
    if (!status) status = attn_sums_alloc(&sums, LEN, DIM);
    for (size_t first = 0; first < LONG && !status; first += SOURCE_BLOCK)
        status = source_prefix(&source, first, SOURCE_BLOCK, Kp + first * DIM, Vp + first * DIM);
    for (size_t first = 0; first < ALL && !status; first += LEN) {
        struct attn_sums in = { LEN, DIM, input.shift + first, input.mass + first, input.num + first * DIM };
        struct attn_sums p = { LEN, DIM, prefix.shift + first, prefix.mass + first, prefix.num + first * DIM };
        status = source_inputs(&source, first, LEN, Q + first * DIM, K, V);
        if (!status) status = attn_sums_exact(Q + first * DIM, K, V, LEN, scale, &in);
        if (!status) status = attn_sums_exact(Q + first * DIM, Kp, Vp, LONG, scale, &p);
    }
    if (!status && study_map_parse("elu1", &map)) status = GSL_ESANITY;
    if (!status) status = study_query_features(&map, Q, ALL, DIM, 0.0, cfg->c.seed, &phi, &r);
    for (int plain = 0; plain < 2 && !status; plain++) {
        const struct attn_sums fit_input = { NUM_FIT, DIM, input.shift + LEN, input.mass + LEN, input.num + LEN * DIM };
        const struct attn_sums fit_prefix = { NUM_FIT, DIM, prefix.shift + LEN, prefix.mass + LEN,
                                              prefix.num + LEN * DIM };
        const struct attn_sums judge_input = { LEN, DIM, input.shift, input.mass, input.num };
        const struct attn_sums judge_prefix = { LEN, DIM, prefix.shift, prefix.mass, prefix.num };
        const struct summary_problem problem = { r, phi + LEN * r, &fit_input, &fit_prefix };
        memset(Z, 0, DIM * DIM * sizeof *Z);
        memset(k, 0, sizeof k);
        status = summary_fit_adam(&problem, plain ? SUMMARY_LINEAR : SUMMARY_ABS, 1e-3, cfg->adam_steps, LEN, Z, k,
                                  NULL);
        if (status) break;
        summary_apply(phi, r, Z, k, &sums);
        status = approx_compare(&judge_input, &judge_prefix, &sums, &e[plain], NULL);
        for (size_t j = 0; j < DIM && !plain; j++) *moved = fmax(*moved, fabs(k[j]));
    }
    *ratio = e[0].err_rel / e[1].err_rel;
    source_free(&source);
    attn_sums_free(&input);
    attn_sums_free(&prefix);
    attn_sums_free(&sums);
    free(phi);
    free(Q);
    free(Z);
    return status;
}

static int run_unit(const void *context, size_t trial, double *out)
{
    const struct config *cfg = context;
    struct layer *x = malloc(sizeof *x);
    feature_map *map = NULL;
    int status = x ? feature_parse("elu1", DIM, 0.0, 0, NULL, &map) : GSL_ENOMEM;
    for (size_t s = 0; s < NUM_SPREADS && !status; s++) {
        draw(cfg->c.seed, trial, x);
        for (size_t i = 0; i < LEN * DIM; i++) x->q[i] *= (float)spreads[s];
        status = count_wrong(x, map, s, out);
        if (!status && s == USUAL) status = identity_error(x, map, &out[IDENTITY]);
    }
    out[MOVED] = 0.0;
    out[TRAINED_RATIO] = NAN;
    if (!status && trial < NUM_TRAINED) status = train_from_zero(cfg, trial, &out[MOVED], &out[TRAINED_RATIO]);
    feature_map_free(map);
    free(x);
    return status;
}

/* Trials in which `field`, a number of rows, is not 0; *share of all rows. */
static double inputs_wrong(const struct config *cfg, const struct units *work, size_t field, double *share)
{
    double count = 0.0;
    *share = 0.0;
    for (size_t t = 0; t < cfg->num_trials; t++) {
        count += units_row(work, t)[field] > 0.0;
        *share += units_row(work, t)[field] / (LEN * (double)cfg->num_trials);
    }
    return count;
}

static void decide(const void *context, const struct units *work, struct verdicts *v)
{
    const struct config *cfg = context;
    static const struct { const char *claim, *row; enum form form; size_t spread, from; } rates[] = {
        { "F41", "authors-spread", RELEASED_CAUSAL, AUTHORS, 0 }, { "F41", "usual-spread", RELEASED_CAUSAL, USUAL, 0 },
        { "F41", "library", OWN_CAUSAL, AUTHORS, 0 },             { "F42", "forward", RELEASED_FULL, AUTHORS, 0 },
        { "F42", "gradient", RELEASED_FULL, AUTHORS, GRADIENTS }, { "F42", "gradient-usual", RELEASED_FULL, USUAL,
                                                                    GRADIENTS },
        { "F42", "library", OWN_FULL, AUTHORS, 0 },               { "F42", "library-gradient", OWN_FULL, AUTHORS,
                                                                    GRADIENTS },
    };
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        struct interval rate;
        double share;
        const double wrong = inputs_wrong(cfg, work, rates[i].from + rates[i].form * NUM_SPREADS + rates[i].spread,
                                          &share);
        stats_rate(wrong, (double)cfg->num_trials, 0.999, &rate);
        verdicts_add(v, rates[i].claim, rates[i].row, rate);
    }
    const size_t trained = cfg->num_trials < NUM_TRAINED ? cfg->num_trials : NUM_TRAINED;
    double moved = 0.0, identity = 0.0, ratio[NUM_TRAINED];
    for (size_t t = 0; t < cfg->num_trials; t++) {
        moved = fmax(moved, units_row(work, t)[MOVED]);
        identity = fmax(identity, units_row(work, t)[IDENTITY]);
        if (t < trained) ratio[t] = units_row(work, t)[TRAINED_RATIO];
    }
    verdicts_add(v, "F43", "moved", (struct interval){ moved, moved, moved, trained });
    verdicts_add(v, "F43", "error", cli_mean(ratio, trained, 0.999));
    verdicts_add(v, "F44", "untrained", (struct interval){ identity, identity, identity, cfg->num_trials });
}

static void write_rows(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    table_note(t, "wrong: a row of the output not finite or more than 1 %% off; inputs_*: trials with such a row; "
                  "gradient: in q, as automatic differentiation has it; L = 128, d = 64, elu1, 64 prefix tokens");
    for (size_t f = 0; f < NUM_FORMS; f++)
        for (size_t s = 0; s < NUM_SPREADS; s++) {
            double share;
            const double wrong = inputs_wrong(cfg, work, f * NUM_SPREADS + s, &share);
            table_text(t, form_names[f]);
            table_num(t, spreads[s]);
            table_num(t, share);
            table_num(t, wrong);
            const double without = inputs_wrong(cfg, work, GRADIENTS + f * NUM_SPREADS + s, &share);
            table_num(t, share);
            table_num(t, without);
            table_int(t, cfg->num_trials);
            table_end_row(t);
        }
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, "What goes wrong in NTK-Attention as released, beside the library.", options, shard,
                    NULL, &cfg.c);
    const struct units_study study = {
        .stem = "released_kernel", .what = "trials", .columns = columns, .count = cfg.num_trials, .width = NUM_FIELDS,
        .unit_bytes = sizeof(struct layer) + 8.0 * DIM * (2.0 * 1024 + 16.0 * (LEN + NUM_FIT)), .unit = run_unit,
        .rows = write_rows, .decide = decide,
    };
    return units_run(&cfg.c, options, &study, &cfg);
}
