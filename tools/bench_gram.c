/* How fast the empirical kernel is: pair moments (ntk_gram), the SYRK route, and
 * the Jacobian written out, next to what the machine can do in the same minute. */
#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>

#include "common/calibrate.h"
#include "common/random.h"
#include "cli/cli.h"
#include "prefix_ntk/ntk.h"

static const char doc[] =
    "Times the full kernel K of a random prefix, with one thread and with all: by pair moments (ntk_gram), by features "
    "and SYRK (ntk_gram_syrk), and by the explicit Jacobian. Contenders take turns; times are medians over rounds, "
    "operations are those each method needs, and shares are of the fused-multiply-add and dgemm peaks measured in the "
    "same rounds.";

/* A share compares rates; ratio_to_moments compares seconds per token. */
static const char columns[] =
    "contender,threads,num_samples,dim,prefix_len,num_rounds,time_s,ns_per_token,gflop,gflop_per_s,share_fma,"
    "share_dgemm,ratio_to_moments";

struct config {
    struct cli_common common;
    size_t num_samples, dim, prefix_len, num_rounds;
};

enum { OPT_NUM_SAMPLES = 1, OPT_DIM, OPT_PREFIX_LEN, OPT_NUM_ROUNDS };

static const struct argp_option options[] = {
    { "num-samples", OPT_NUM_SAMPLES, "N", 0, "Inputs n (64)", 0 },
    { "dim", OPT_DIM, "D", 0, "Their dimension d (16)", 0 },
    { "prefix-len", OPT_PREFIX_LEN, "M", 0, "Tokens m (262144)", 0 },
    { "num-rounds", OPT_NUM_ROUNDS, "K", 0, "Rounds (5)", 0 },
    CLI_NO_VERDICTS,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case OPT_NUM_SAMPLES: return cli_parse_size(state, key, arg, 1, 4096, &cfg->num_samples);
    case OPT_DIM: return cli_parse_size(state, key, arg, 1, 256, &cfg->dim);
    case OPT_PREFIX_LEN: return cli_parse_size(state, key, arg, 1, (size_t)1 << 30, &cfg->prefix_len);
    case OPT_NUM_ROUNDS: return cli_parse_size(state, key, arg, 1, 99, &cfg->num_rounds);
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* ---- the Jacobian written out ------------------------------------------------------ */

/* (1/m) J J^T with J (n d, d m) by blocks of tokens,
 * dF_k(x_i)/dw_r = m S_ir [ a_r e_k + (a_r w_rk - mu_ik) x_i ]. */
static int gram_by_jacobian(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X, gsl_matrix *gram,
                            int num_threads)
{
    enum { BLOCK_COLUMNS = 256, TILE = 256 };
    const size_t n = X->size1, d = X->size2, m = W->size1, nd = n * d, block = BLOCK_COLUMNS / d ? BLOCK_COLUMNS / d
        : 1;
    const size_t width = block * d, side = (nd + TILE - 1) / TILE;
    double *J = malloc(nd * width * sizeof *J), *S = malloc(n * m * sizeof *S);
    gsl_matrix *F = gsl_matrix_alloc(n, d);
    int status = J && S && F ? prefix_model_forward(W, signs, X, F, num_threads) : GSL_ENOMEM;
    if (status) goto done;
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (size_t i = 0; i < n; i++) {
        double top = -INFINITY, mass = 0.0, *s = S + i * m;
        for (size_t r = 0; r < m; r++) {
            s[r] = 0.0;
            for (size_t k = 0; k < d; k++) s[r] += gsl_matrix_const_ptr(W, r, 0)[k] * gsl_matrix_const_ptr(X, i, 0)[k];
            if (s[r] > top) top = s[r];
        }
        for (size_t r = 0; r < m; r++) mass += s[r] = exp(s[r] - top);
        for (size_t r = 0; r < m; r++) s[r] /= mass;
    }
    gsl_matrix_set_zero(gram);
    for (size_t first = 0; first < m; first += block) {
        const size_t len = m - first < block ? m - first : block;
#pragma omp parallel for num_threads(num_threads) schedule(static)
        for (size_t u = 0; u < nd; u++) {
            const size_t i = u / d, k = u % d;
            const double *x = gsl_matrix_const_ptr(X, i, 0), mu = gsl_matrix_get(F, i, k) / (double)m;
            for (size_t t = 0; t < len; t++) {
                const double a = gsl_vector_get(signs, first + t), scale = sqrt((double)m) * S[i * m + first + t];
                const double key = scale * (a * gsl_matrix_get(W, first + t, k) - mu);
                double *row = J + u * width + t * d;
                for (size_t c = 0; c < d; c++) row[c] = key * x[c];
                row[k] += scale * a;
            }
        }
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 1) collapse(2)
        for (size_t p = 0; p < side; p++)
            for (size_t q = 0; q < side; q++) {
                if (q < p) continue;
                const size_t r = p * TILE, c = q * TILE, rows = nd - r < TILE ? nd - r : TILE, cols = nd - c < TILE
                    ? nd - c : TILE;
                double *to = gsl_matrix_ptr(gram, r, c);
                if (p == q)
                    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, (int)rows, (int)(len * d), 1.0, J + r * width,
                                (int)width, 1.0, to, (int)gram->tda);
                else
                    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)cols, (int)(len * d), 1.0,
                                J + r * width, (int)width, J + c * width, (int)width, 1.0, to, (int)gram->tda);
            }
    }
    for (size_t u = 0; u < nd; u++)
        for (size_t v = 0; v < u; v++) gsl_matrix_set(gram, u, v, gsl_matrix_get(gram, v, u));
done:
    free(J);
    free(S);
    gsl_matrix_free(F);
    return status;
}

/* ---- contenders ----------------------------------------------------------------------- */

enum contender { MOMENTS, SYRK, JACOBIAN, NUM_CONTENDERS };
static const char *const names[] = { "moments", "syrk", "jacobian" };
enum { MAX_ROUNDS = 99 };

/* The Jacobian costs d times the SYRK: this much shorter a prefix is enough. */
static size_t length_of(const struct config *cfg, enum contender who)
{
    const size_t shorter = cfg->prefix_len / (8 * cfg->dim);
    return who == JACOBIAN && shorter ? shorter : cfg->prefix_len;
}

static double gflop_of(const struct config *cfg, enum contender who)
{
    const double n = (double)cfg->num_samples, d = (double)cfg->dim, m = (double)length_of(cfg, who);
    switch (who) {
    case MOMENTS: return 1e-9 * m * n * (n + 1.0) * (d * (d + 1.0) / 2.0 + 2.0 * d + 2.0);
    case SYRK: return 1e-9 * m * n * (d + 1.0) * (n * (d + 1.0) + 1.0);
    default: return 1e-9 * m * d * n * d * (n * d + 1.0);
    }
}

struct bench {
    gsl_matrix *X, *W, *gram;
    gsl_vector *signs;
    double time_s[NUM_CONTENDERS][MAX_ROUNDS], fma[MAX_ROUNDS], dgemm[MAX_ROUNDS];
};

static int one_round(const struct config *cfg, struct bench *b, int num_threads, size_t round)
{
    b->fma[round] = calibrate_fma_f64(num_threads, 0.1);
    b->dgemm[round] = calibrate_dgemm(num_threads, 0.1);
    for (int who = 0; who < NUM_CONTENDERS; who++) {
        const size_t m = length_of(cfg, who);
        const gsl_matrix_const_view W = gsl_matrix_const_submatrix(b->W, 0, 0, m, cfg->dim);
        const gsl_vector_const_view signs = gsl_vector_const_subvector(b->signs, 0, m);
        const double start = calibrate_now_s();
        const int status =
            who == MOMENTS ? ntk_gram(&W.matrix, &signs.vector, b->X, NTK_FULL, b->gram, num_threads)
            : who == SYRK  ? ntk_gram_syrk(&W.matrix, &signs.vector, b->X, NTK_FULL, b->gram, num_threads)
                           : gram_by_jacobian(&W.matrix, &signs.vector, b->X, b->gram, num_threads);
        b->time_s[who][round] = calibrate_now_s() - start;
        if (status) return status;
    }
    return GSL_SUCCESS;
}

static void write_rows(const struct config *cfg, struct bench *b, int num_threads, struct table *t)
{
    const int rounds = (int)cfg->num_rounds;
    const double fma = calibrate_median(b->fma, rounds), dgemm = calibrate_median(b->dgemm, rounds);
    double per_token[NUM_CONTENDERS];
    for (int who = 0; who < NUM_CONTENDERS; who++) {
        const size_t m = length_of(cfg, who);
        const double time_s = calibrate_median(b->time_s[who], rounds), gflop = gflop_of(cfg, who);
        per_token[who] = time_s / (double)m;
        table_text(t, names[who]);
        table_int(t, (uint64_t)num_threads);
        table_int(t, cfg->num_samples);
        table_int(t, cfg->dim);
        table_int(t, m);
        table_int(t, cfg->num_rounds);
        table_num(t, time_s);
        table_num(t, 1e9 * per_token[who]);
        table_num(t, gflop);
        table_num(t, gflop / time_s);
        table_num(t, 1e9 * gflop / time_s / fma);
        table_num(t, 1e9 * gflop / time_s / dgemm);
        table_num(t, per_token[who] / per_token[MOMENTS]);
        table_end_row(t);
    }
    /* The peaks themselves, in the same columns. */
    const double peaks[] = { fma, dgemm };
    for (int p = 0; p < 2; p++) {
        table_text(t, p ? "dgemm peak" : "fma peak");
        table_int(t, (uint64_t)num_threads);
        for (int empty = 0; empty < 7; empty++) table_empty(t);
        table_num(t, 1e-9 * peaks[p]);
        table_num(t, peaks[p] / fma);
        table_num(t, peaks[p] / dgemm);
        table_empty(t);
        table_end_row(t);
    }
}

int main(int argc, char **argv)
{
    struct config cfg = { .num_samples = 64, .dim = 16, .prefix_len = 262144, .num_rounds = 5 };
    cli_parse(argc, argv, doc, options, parse, NULL, &cfg.common);
    const size_t n = cfg.num_samples, d = cfg.dim, m = cfg.prefix_len;
    const double bytes = (double)ntk_gram_workspace(n, d, m, cfg.common.threads) +
                         8.0 * ((double)m * ((double)d + 1.0) + (double)n * (double)d * (double)n * (double)d);
    if (cli_memory(&cfg.common, bytes, "the kernel")) return EXIT_FAILED;

    static struct bench b;
    int status = GSL_ENOMEM, code = EXIT_FAILED;
    struct table *t = NULL;
    b.X = gsl_matrix_alloc(n, d);
    b.W = gsl_matrix_alloc(m, d);
    b.gram = gsl_matrix_alloc(n * d, n * d);
    b.signs = gsl_vector_alloc(m);
    if (b.X && b.W && b.gram && b.signs)
        status = prefix_draw(cfg.common.seed, 0, PREFIX_SIGNS_RANDOM, 0.7, b.W, b.signs, cfg.common.threads);
    if ((code = cli_status(&cfg.common, status, "the prefix"))) goto done;
    for (size_t i = 0; i < n; i++) random_normal(cfg.common.seed, RANDOM_INPUTS, 0, i, gsl_matrix_ptr(b.X, i, 0), d);
    gsl_matrix_scale(b.X, 1.0 / sqrt((double)d));

    if (!(t = table_open(&cfg.common, NULL, columns))) {
        code = EXIT_FAILED;
        goto done;
    }
    for (int threads = 1; !code && threads <= cfg.common.threads; threads += cfg.common.threads > 1
         ? cfg.common.threads - 1 : 1) {
        for (size_t round = 0; !code && round < cfg.num_rounds; round++)
            if (!(code = cli_interrupted()))
                code = cli_status(&cfg.common, one_round(&cfg, &b, threads, round), "the kernel");
        if (!code) write_rows(&cfg, &b, threads, t);
    }
    code = table_close(t, code);
done:
    gsl_matrix_free(b.X);
    gsl_matrix_free(b.W);
    gsl_matrix_free(b.gram);
    gsl_vector_free(b.signs);
    return code;
}
