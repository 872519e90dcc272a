#include "approximation/prompt.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prefix_ntk/summary.h"

enum { BLOCK = 128 };               /* queries at a time */

void prompt_piece_free(struct prompt_piece *piece)
{
    if (!piece) return;
    free(piece->owned);
    *piece = (struct prompt_piece){ 0 };
}

size_t prompt_piece_bytes(const struct decoder_piece *p, size_t dim)
{
    const size_t r = p->map ? feature_dim(p->map) : 0;
    return sizeof(float) * (p->len * (2 * dim + (p->log_weight ? 1 : 0)) + r * (dim + 1) + (p->centre ? dim : 0));
}

/* Room for tokens and a summary; the arrays follow each other in `owned`. */
static int alloc_piece(size_t dim, size_t len, int weighted, const feature_map *map, int centred,
                       struct prompt_piece *out)
{
    const size_t r = map ? feature_dim(map) : 0;
    float *at = calloc(len * (2 * dim + 1) + r * (dim + 1) + dim + 1, sizeof *at);
    *out = (struct prompt_piece){ .owned = at };
    if (!at) return GSL_ENOMEM;
    struct decoder_piece *p = &out->piece;
    p->len = len;
    p->K = at;
    at += len * dim;
    p->V = at;
    at += len * dim;
    p->log_weight = weighted ? at : NULL;
    at += len;
    p->map = map;
    p->summaries = 1;
    p->Z = at;
    at += r * dim;
    p->k = at;
    at += r;
    p->centre = centred ? at : NULL;
    return GSL_SUCCESS;
}

/* ---- sums ------------------------------------------------------------------------------------------------- */

static double *widen(const float *x, size_t n)
{
    double *wide = malloc((n + 1) * sizeof *wide);
    for (size_t i = 0; wide && i < n; i++) wide[i] = (double)x[i];
    return wide;
}

/* Scores of rows [first, first + n): S (n, len). */
static void scores(const double *Q, size_t n, const double *K, size_t len, size_t dim, double *S)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)len, (int)dim, 1.0 / sqrt((double)dim), Q,
                (int)dim, K,
                (int)dim, 0.0, S, (int)len);
}

/* sum_j w_j e^{s_j} (v_j, 1), relative to the largest exponent of each row; probs (n, len) gets the terms. */
static int token_sums(const double *Q, size_t n, size_t dim, const double *K, const double *V, const float *log_weight,
                      size_t len,
                      struct attn_sums *out, size_t first, double *probs)
{
    scores(Q, n, K, len, dim, probs);
    for (size_t i = 0; i < n; i++) {
        double *s = probs + i * len, top = -INFINITY, mass = 0.0;
        for (size_t j = 0; j < len; j++) {
            if (log_weight) s[j] += (double)log_weight[j];
            if (!(s[j] <= top)) top = s[j];
        }
        for (size_t j = 0; j < len; j++) s[j] -= top;
        approx_exp(len, s, s);
        for (size_t j = 0; j < len; j++) mass += s[j];
        if (!isfinite(top) || !isfinite(mass)) return GSL_EDOM;
        out->shift[first + i] = top;
        out->mass[first + i] = mass;
    }
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)dim, (int)len, 1.0, probs, (int)len, V,
                (int)dim, 0.0,
                out->num + first * dim, (int)dim);
    return GSL_SUCCESS;
}

int prompt_sums(const struct prompt *prompt, const struct prompt_queries *q, struct attn_sums *out, double *share)
{
    const size_t len = prompt->len, dim = prompt->dim;
    double *K = widen(prompt->K, len * dim), *V = widen(prompt->V, len * dim),
        *probs = malloc(BLOCK * len * sizeof *probs);
    int status = K && V && probs ? GSL_SUCCESS : GSL_ENOMEM;
    if (share) memset(share, 0, len * sizeof *share);
    for (size_t at = 0; at < q->n && !status; at += BLOCK) {
        const size_t n = q->n - at < BLOCK ? q->n - at : BLOCK;
        status = token_sums(q->Q + at * dim, n, dim, K, V, NULL, len, out, at, probs);
        for (size_t i = 0; i < n && share && !status; i++) {
            const double lp = attn_sums_log_mass(out, at + i), la = attn_sums_log_mass(&q->input, at + i);
            const double top = fmax(lp, la), total = top + log(exp(lp - top) + exp(la - top));
            cblas_daxpy((int)len, exp(out->shift[at + i] - total), probs + i * len, 1, share, 1);
        }
    }
    free(K);
    free(V);
    free(probs);
    return status;
}

int prompt_spread(const struct prompt *prompt, const struct prompt_queries *q, double *score_std, double *mass)
{
    const size_t len = prompt->len, dim = prompt->dim;
    double *K = widen(prompt->K, len * dim), *S = malloc(len * sizeof *S);
    const int status = K && S ? GSL_SUCCESS : GSL_ENOMEM;
    *score_std = *mass = 0.0;
    for (size_t i = 0; i < q->n && !status; i++) {
        double sum = 0.0, square = 0.0, top = -INFINITY, p = 0.0;
        scores(q->Q + i * dim, 1, K, len, dim, S);
        for (size_t j = 0; j < len; j++) {
            sum += S[j];
            if (S[j] > top) top = S[j];
        }
        for (size_t j = 0; j < len; j++) square += (S[j] - sum / (double)len) * (S[j] - sum / (double)len);
        for (size_t j = 0; j < len; j++) S[j] -= top;
        approx_exp(len, S, S);
        for (size_t j = 0; j < len; j++) p += S[j];
        *score_std += sqrt(square / (double)len) / (double)q->n;
        *mass += 1.0 / (1.0 + exp(attn_sums_log_mass(&q->input, i) - log(p) - top)) / (double)q->n;
    }
    free(K);
    free(S);
    return status;
}

/* into += from, in the frame of the larger shift. */
static void add_sums(struct attn_sums *into, const struct attn_sums *from)
{
    for (size_t i = 0; i < into->num_queries; i++) {
        const double top = fmax(into->shift[i], from->shift[i]);
        const double a = exp(into->shift[i] - top), b = exp(from->shift[i] - top);
        into->mass[i] = a * into->mass[i] + b * from->mass[i];
        for (size_t c = i * into->dim; c < (i + 1) * into->dim; c++) into->num[c] = a * into->num[c] + b * from->num[c];
        into->shift[i] = top;
    }
}

/* <q_i, centre> scale */
static void centre_scores(const double *Q, size_t n, size_t dim, const float *centre, double *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = 0.0;
        for (size_t c = 0; c < dim && centre; c++) out[i] += Q[i * dim + c] * (double)centre[c] / sqrt((double)dim);
    }
}

static int summary_sums(const struct decoder_piece *p, const double *Q, size_t n, size_t dim, struct attn_sums *out)
{
    const size_t r = feature_dim(p->map);
    double *phi = malloc(n * r * sizeof *phi), *Z = widen(p->Z, r * dim), *k = widen(p->k, r);
    int status = phi && Z && k ? feature_forward_f64(p->map, FEATURE_QUERY, n, Q, dim, phi, r, NULL, 1,
                                                     NULL) : GSL_ENOMEM;
    if (!status) {
        summary_apply(phi, r, Z, k, out);
        centre_scores(Q, n, dim, p->centre, out->shift);
    }
    free(phi);
    free(Z);
    free(k);
    return status;
}

int prompt_piece_sums(const struct decoder_piece *p, const double *Q, size_t n, size_t dim, struct attn_sums *out)
{
    struct attn_sums summary = { 0 };
    double *K = widen(p->K, p->len * dim), *V = widen(p->V, p->len * dim),
        *probs = malloc((n * p->len + 1) * sizeof *probs);
    int status = K && V && probs ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t i = 0; i < n; i++) out->shift[i] = out->mass[i] = 0.0;
    memset(out->num, 0, n * dim * sizeof *out->num);
    if (!status && p->len) status = token_sums(Q, n, dim, K, V, p->log_weight, p->len, out, 0, probs);
    if (!status && p->map && !p->len) status = summary_sums(p, Q, n, dim, out);
    if (!status && p->map && p->len && !(status = attn_sums_alloc(&summary, n, dim))) {
        status = summary_sums(p, Q, n, dim, &summary);
        add_sums(out, &summary);
    }
    attn_sums_free(&summary);
    free(K);
    free(V);
    free(probs);
    return status;
}

/* ---- fewer tokens ----------------------------------------------------------------------------------------------- */

int prompt_keep(const struct prompt *prompt, const size_t *index, size_t count, struct prompt_piece *out)
{
    const size_t dim = prompt->dim;
    const int status = alloc_piece(dim, count, 0, NULL, 0, out);
    for (size_t i = 0; i < count && !status; i++) {
        memcpy(out->owned + i * dim, prompt->K + index[i] * dim, dim * sizeof(float));
        memcpy(out->owned + (count + i) * dim, prompt->V + index[i] * dim, dim * sizeof(float));
    }
    return status;
}

struct ranked { double share; size_t index; };

static int by_share(const void *a, const void *b)
{
    const struct ranked *left = a, *right = b;
    if (left->share != right->share) return left->share < right->share ? 1 : -1;
    return (left->index > right->index) - (left->index < right->index);
}

static int by_index(const void *a, const void *b)
{
    const size_t left = *(const size_t *)a, right = *(const size_t *)b;
    return (left > right) - (left < right);
}

int prompt_most(const double *share, size_t len, size_t count, size_t *index)
{
    if (count > len) return GSL_EINVAL;
    struct ranked *all = malloc(len * sizeof *all);
    if (!all) return GSL_ENOMEM;
    for (size_t i = 0; i < len; i++) all[i] = (struct ranked){ share[i], i };
    qsort(all, len, sizeof *all, by_share);
    for (size_t i = 0; i < count; i++) index[i] = all[i].index;
    qsort(index, count, sizeof *index, by_index);
    free(all);
    return GSL_SUCCESS;
}

/* The nearest mean of each key: the largest <k, c> - |c|^2 / 2. */
static void assign(const struct prompt *prompt, const float *means, size_t count, float *work, size_t *nearest)
{
    const size_t len = prompt->len, dim = prompt->dim;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)len, (int)count, (int)dim, 1.0f, prompt->K, (int)dim,
                means, (int)dim,
                0.0f, work, (int)count);
    for (size_t c = 0; c < count; c++) {
        const float half = 0.5f * cblas_sdot((int)dim, means + c * dim, 1, means + c * dim, 1);
        for (size_t i = 0; i < len; i++) work[i * count + c] -= half;
    }
    for (size_t i = 0; i < len; i++) nearest[i] = (size_t)decoder_argmax(work + i * count, count);
}

int prompt_cluster(const struct prompt *prompt, size_t count, size_t iterations, struct prompt_piece *out)
{
    const size_t len = prompt->len, dim = prompt->dim;
    if (!count || count > len) return GSL_EINVAL;
    int status = alloc_piece(dim, count, 1, NULL, 0, out);
    float *work = malloc(len * count * sizeof *work), *K = out->owned, *V = K ? K + count * dim : NULL;
    size_t *nearest = malloc(len * sizeof *nearest), *members = malloc(count * sizeof *members);
    if (!status && (!work || !nearest || !members)) status = GSL_ENOMEM;
    for (size_t c = 0; c < count && !status; c++)
        memcpy(K + c * dim, prompt->K + c * len / count * dim, dim * sizeof *K);
    for (size_t step = 0; step <= iterations && !status; step++) {
        assign(prompt, K, count, work, nearest);
        memset(members, 0, count * sizeof *members);
        for (size_t i = 0; i < len; i++) members[nearest[i]]++;
        memset(V, 0, count * dim * sizeof *V);
        /* A cluster without members keeps its place, with the weight 0. */
        for (size_t c = 0; c < count; c++)
            if (members[c]) memset(K + c * dim, 0, dim * sizeof *K);
        for (size_t i = 0; i < len; i++) {
            const float share = 1.0f / (float)members[nearest[i]];
            cblas_saxpy((int)dim, share, prompt->K + i * dim, 1, K + nearest[i] * dim, 1);
            cblas_saxpy((int)dim, share, prompt->V + i * dim, 1, V + nearest[i] * dim, 1);
        }
        for (size_t c = 0; c < count; c++) out->owned[2 * count * dim + c] = members[c] ? logf((float)members[c])
            : -1e30f;
    }
    free(work);
    free(nearest);
    free(members);
    return status;
}

/* ---- summaries -----------------------------------------------------------------------------------------------------
 * */

/* The mean key into the piece; NULL when it is not centred. */
static const float *set_centre(const struct prompt *prompt, struct prompt_piece *out)
{
    float *centre = (float *)out->piece.centre;     /* within out->owned */
    for (size_t c = 0; c < prompt->dim && centre; c++) {
        double sum = 0.0;
        for (size_t i = 0; i < prompt->len; i++) sum += (double)prompt->K[i * prompt->dim + c];
        centre[c] = (float)(sum / (double)prompt->len);
    }
    return centre;
}

int prompt_fold(const struct prompt *prompt, const feature_map *map, int centred, struct prompt_piece *out)
{
    const size_t len = prompt->len, dim = prompt->dim;
    struct attn_fold *fold = NULL;
    int status = alloc_piece(dim, 0, 0, map, centred, out);
    float *K = malloc(len * dim * sizeof *K);
    if (!status && !K) status = GSL_ENOMEM;
    if (!status) {
        const float *centre = set_centre(prompt, out);
        for (size_t i = 0; i < len * dim; i++) K[i] = prompt->K[i] - (centre ? centre[i % dim] : 0.0f);
        status = attn_fold_alloc(map, dim, &fold);
    }
    if (!status) status = attn_fold_add_f32(fold, len, K, dim, prompt->V, dim, 1, NULL);
    if (!status) status = attn_fold_read_f32(fold, (float *)out->piece.Z, (float *)out->piece.k, NULL);
    attn_fold_free(fold);
    free(K);
    return status;
}

/* The problem of the tokens left out: rest = prefix - tokens, and the tokens join the input. In the frame of
 * the centre. */
static int rest_problem(const struct decoder_piece *tokens, const struct prompt_queries *q, size_t dim,
                        const double *centre,
                        struct attn_sums *input, struct attn_sums *rest)
{
    struct attn_sums kept = { 0 };
    int status = tokens ? attn_sums_alloc(&kept, q->n, dim) : GSL_SUCCESS;
    if (!status && tokens) status = prompt_piece_sums(tokens, q->Q, q->n, dim, &kept);
    if (!status && tokens) {
        add_sums(input, &kept);
        for (size_t i = 0; i < q->n; i++) {
            const double factor = exp(kept.shift[i] - rest->shift[i]);
            /* What rounding leaves of a rest of no mass is no mass. */
            rest->mass[i] = fmax(rest->mass[i] - factor * kept.mass[i], 1e-12 * rest->mass[i]);
            for (size_t c = i * dim; c < (i + 1) * dim; c++) rest->num[c] -= factor * kept.num[c];
        }
    }
    for (size_t i = 0; i < q->n; i++) {
        input->shift[i] -= centre[i];
        rest->shift[i] -= centre[i];
    }
    attn_sums_free(&kept);
    return status;
}

static int copy_sums(const struct attn_sums *from, struct attn_sums *to)
{
    const int status = attn_sums_alloc(to, from->num_queries, from->dim);
    if (status) return status;
    memcpy(to->shift, from->shift, from->num_queries * sizeof *to->shift);
    memcpy(to->mass, from->mass, from->num_queries * sizeof *to->mass);
    memcpy(to->num, from->num, from->num_queries * from->dim * sizeof *to->num);
    return GSL_SUCCESS;
}

int prompt_fit(const struct prompt *prompt, const feature_map *map, int centred, const struct decoder_piece *tokens,
               const struct prompt_queries *q, const struct attn_sums *prefix, struct prompt_piece *out)
{
    const size_t dim = prompt->dim, r = feature_dim(map), len = tokens ? tokens->len : 0;
    struct attn_sums input = { 0 }, rest = { 0 };
    double *phi = malloc(q->n * r * sizeof *phi), *Zk = malloc(r * (dim + 1) * sizeof *Zk),
        *shift = malloc(q->n * sizeof *shift);
    int status = alloc_piece(dim, len, 0, map, centred, out);
    if (!status && (!phi || !Zk || !shift)) status = GSL_ENOMEM;
    if (!status) status = copy_sums(&q->input, &input);
    if (!status) status = copy_sums(prefix, &rest);
    if (status) goto done;
    centre_scores(q->Q, q->n, dim, set_centre(prompt, out), shift);
    if ((status = rest_problem(tokens, q, dim, shift, &input, &rest))) goto done;
    if ((status = feature_forward_f64(map, FEATURE_QUERY, q->n, q->Q, dim, phi, r, NULL, 1, NULL))) goto done;
    const struct summary_problem problem = { r, phi, &input, &rest };
    status = summary_fit_lstsq(&problem, feature_is_positive(map), Zk, Zk + r * dim);
    if (len) {
        memcpy((float *)out->piece.K, tokens->K, len * dim * sizeof(float));
        memcpy((float *)out->piece.V, tokens->V, len * dim * sizeof(float));
    }
    for (size_t i = 0; i < r * (dim + 1) && !status; i++) ((float *)out->piece.Z)[i] = (float)Zk[i];
    /* Without a usable fit the summary is left out. */
    if (status == GSL_EDOM) {
        out->failed = 1;
        out->piece.map = NULL;
        status = GSL_SUCCESS;
    }
done:
    free(phi);
    free(Zk);
    free(shift);
    attn_sums_free(&input);
    attn_sums_free(&rest);
    return status;
}
