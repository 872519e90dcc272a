/* A long prompt in a decoder's cache, replaced head by head: fewer tokens, cluster means, summaries (Z, k),
 * mixtures. Ledger F90-F98. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_errno.h>
#include <jansson.h>

#include "approximation/prompt.h"
#include "approximation/prompt_distill.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"
#include "common/hash.h"
#include "common/input_file.h"
#include "data/folder.h"
#include "data/json_file.h"
#include "transformer/decoder.h"

static const char about[] =
    "What a decoder predicts after a long prompt when the keys and values of every layer and head are replaced by "
    "fewer tokens, cluster means, a summary (Z, k), or tokens with a summary of the rest.";
static const char columns[] =
    "method,layer,tokens,feature,fit,bytes,bytes_share,kl_mean,kl_ci_lo,kl_ci_hi,agree_mean,dropped,"
                              "err_rel,score_std,prefix_mass,num_documents";

/* LEDGER_LEN: the length of the prompts that the ledger speaks of. */
enum { MAX_QUESTIONS = 3, CLUSTER_STEPS = 8, LEDGER_LEN = 512 };
/* Training: questions of other documents, those of a step, tokens kept, and the rank of Z that takes their bytes. */
enum { DISTILL_TEXTS = 24, DISTILL_BATCH = 6, DISTILL_TOKENS = 33, DISTILL_RANK = 10 };
static const double DISTILL_RATE = 0.003;

struct config {
    struct cli_common c;
    const char *dataset, *backbone;
    size_t num_documents, prompt_len;
    bool second_order;
    size_t distill;
};

static const struct cli_option options[] = {
    { "dataset", CLI_TEXT(struct config, dataset), .value = "boolq", .arg = "NAME", .group = 1,
      .doc = "whose passages make the prompts" },
    { "backbone", CLI_TEXT(struct config, backbone), .value = "smollm2-135m", .arg = "NAME", .group = 1,
      .doc = "smollm2-135m, a FILE.gguf, or a folder" },
    { "num-documents", CLI_SIZE(struct config, num_documents), .min = 2, .max = 4096, .value = "8", .group = 1,
      .doc = "prompts" },
    { "prompt-len", CLI_SIZE(struct config, prompt_len), .min = 256, .max = 1 << 16, .value = "512", .arg = "M",
      .group = 1, .doc = "tokens of a prompt" },
    { "second-order", CLI_FLAG(struct config, second_order), .group = 1,
      .doc = "also the plug-in of taylor:2, which takes the bytes of 1089 tokens" },
    { "distill", CLI_SIZE(struct config, distill), .min = 1, .max = 100000, .group = 1,
      .doc = "only what is trained for N steps: keys and values, and a summary, of equal bytes, on next-token "
        "distributions of questions of other documents" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    return strcmp(((const struct config *)config)->dataset,
                  "boolq") ? "--dataset: only boolq has passages and questions" : NULL;
}

/* ---- methods ---------------------------------------------------------------------------------- */

enum kind { NONE, LAST, SINK, MOST, CLUSTERS, PLUGIN, FITTED, MIXED, CHOICE, BUDGET, BUDGET_TOKENS };
enum feature { NO_FEATURE, ELU1, TAYLOR1, TAYLOR2, NUM_FEATURES };
static const char *const feature_names[NUM_FEATURES] = { "", "elu1", "taylor:1", "taylor:2" };
static const char *const kind_names[] = { "none", "last", "first 4 and last", "most attended", "clusters", "plug-in",
                                          "fitted",
                                          "most attended and fitted", "choice", "budget", "budget of tokens" };

/* CHOICE: per head the better of two others, by their numbers in this list. BUDGET: what each head gets is chosen for
 * the
 * least total error with the bytes of `tokens` tokens a head; BUDGET_TOKENS: of tokens alone. */
struct method { enum kind kind; size_t tokens; enum feature feature; int centred, either, other; };

static const struct method methods[] = {
    { NONE, 0, NO_FEATURE, 0, 0, 0 },
    { LAST, 33, NO_FEATURE, 0, 0, 0 }, { LAST, 132, NO_FEATURE, 0, 0, 0 },
    { SINK, 33, NO_FEATURE, 0, 0, 0 }, { SINK, 132, NO_FEATURE, 0, 0, 0 },
    { MOST, 8, NO_FEATURE, 0, 0, 0 }, { MOST, 33, NO_FEATURE, 0, 0, 0 }, { MOST, 66, NO_FEATURE, 0, 0, 0 },
    { MOST, 132, NO_FEATURE, 0, 0, 0 },
    { CLUSTERS, 33, NO_FEATURE, 0, 0, 0 }, { CLUSTERS, 132, NO_FEATURE, 0, 0, 0 },
    { PLUGIN, 0, ELU1, 0, 0, 0 }, { PLUGIN, 0, TAYLOR1, 0, 0, 0 }, { PLUGIN, 0, TAYLOR1, 1, 0, 0 },
    { FITTED, 0, ELU1, 0, 0, 0 }, { FITTED, 0, TAYLOR1, 1, 0, 0 },
    { MIXED, 33, ELU1, 0, 0, 0 }, { MIXED, 99, ELU1, 0, 0, 0 },
    { CHOICE, 33, ELU1, 0, 6, 14 }, { CHOICE, 66, ELU1, 0, 7, 16 },
    { BUDGET, 33, ELU1, 0, 0, 0 }, { BUDGET, 66, ELU1, 0, 0, 0 }, { BUDGET_TOKENS, 33, NO_FEATURE, 0, 0, 0 },
    { PLUGIN, 0, TAYLOR2, 1, 0, 0 },
};
enum { ALL_METHODS = sizeof methods / sizeof *methods, AT_LAST33 = 1, AT_SINK33 = 3, AT_MOST33 = 6, AT_MOST66,
       AT_MOST132, AT_CLUSTERS33,
       AT_ELU1 = 11, AT_LINEAR = 13, AT_FITTED, AT_MIXED33 = 16, AT_MIXED99, AT_CHOICE33, AT_CHOICE66,
       AT_BUDGET33, AT_BUDGET66, AT_BUDGET_TOKENS };

/* ---- documents ---------------------------------------------------------------------------------------- */

/* A prompt of exactly prompt_len tokens, and questions about passages that stand in it whole. */
struct document {
    int32_t *prompt, *questions[MAX_QUESTIONS];
    size_t lengths[MAX_QUESTIONS], num_questions, rows;     /* rows: tokens of all questions */
};

struct study {
    const struct config *cfg;
    struct decoder *decoder;
    struct document *documents;
    feature_map *maps[NUM_FEATURES];
    uint64_t text_hash;             /* of the lines read */
    size_t num_methods, num_heads, group, max_rows, max_question;   /* num_heads: layers times key/value heads */
    /* Per document, made by read_document: */
    struct decoder_run **runs;      /* the prompt in its cache */
    double **Q, **shift, **mass, **num;
    /* (num_heads, group rows, dim), (num_heads, group rows), ... of the questions */
    float **logprobs;               /* (rows, vocabulary) with the whole prompt */
};

static int append_tokens(const struct decoder *d, const char *text, int32_t *ids, size_t *count, size_t room,
                         struct reason why)
{
    int32_t *more;
    size_t n;
    const int status = bpe_encode(d->bpe, text, strlen(text), &more, &n, why);
    if (status) return status;
    const size_t take = n < room - *count ? n : room - *count;
    memcpy(ids + *count, more, take * sizeof *ids);
    *count += take;
    free(more);
    return take < n ? GSL_EBADLEN : GSL_SUCCESS;
}

/* One line of the file: its passage joins the prompt; its question joins when the passage fitted whole. */
static int add_row(const struct study *s, const json_t *row, struct document *d, size_t *count, struct reason why)
{
    const char *passage = json_string_value(json_object_get(row, "passage")),
        *question = json_string_value(json_object_get(row, "question"));
    if (!passage || !question) return refuse(why, GSL_EINVAL, "a line without passage or question");
    const size_t m = s->cfg->prompt_len;
    int status = append_tokens(s->decoder, passage, d->prompt, count, m, why);
    if (!status) status = append_tokens(s->decoder, "\n\n", d->prompt, count, m, why);
    if (status == GSL_EBADLEN) return GSL_SUCCESS;
    if (status || d->num_questions == MAX_QUESTIONS) return status;
    char *text = cli_text("Question: %s?\nAnswer:", question);
    if (!text) return refuse(why, GSL_ENOMEM, "out of memory");
    status = bpe_encode(s->decoder->bpe, text, strlen(text), &d->questions[d->num_questions],
                        &d->lengths[d->num_questions], why);
    free(text);
    if (!status) d->rows += d->lengths[d->num_questions++];
    return status;
}

static int read_documents(struct study *s, FILE *file, struct reason why)
{
    char *line = NULL;
    size_t room = 0;
    int status = GSL_SUCCESS;
    for (size_t i = 0; i < s->cfg->num_documents && !status; i++) {
        struct document *d = &s->documents[i];
        size_t count = 0;
        if (!(d->prompt = calloc(s->cfg->prompt_len, sizeof *d->prompt)))
            status = refuse(why, GSL_ENOMEM, "out of memory");
        while (!status && count < s->cfg->prompt_len) {
            json_t *row = NULL;
            errno = 0;
            const bool got = getline(&line, &room, file) > 0;
            if (got) status = json_text_read(line, strlen(line), &row, why);
            else if (feof(file)) status = refuse(why, GSL_EINVAL, "too few lines");
            else status = refuse(why, REASON_SYSTEM, "%s", strerror(errno ? errno : EIO));
            if (!status) status = add_row(s, row, d, &count, why);
            if (got) s->text_hash = hash_bytes(s->text_hash, line, strlen(line));
            json_decref(row);
        }
        if (!status && !d->num_questions) status = refuse(why, GSL_EINVAL, "a passage longer than the prompt");
        if (d->rows > s->max_rows) s->max_rows = d->rows;
        for (size_t j = 0; j < d->num_questions; j++)
            if (d->lengths[j] > s->max_question) s->max_question = d->lengths[j];
    }
    free(line);
    return status;
}

/* ---- with the whole prompt ------------------------------------------------------------------------------- */

/* Queries of one question and what they see of its own text, to row `at` of the document. */
static int keep_queries(struct study *s, size_t doc, const float *queries, size_t at, size_t n)
{
    const struct decoder_config *c = &s->decoder->config;
    const size_t dim = c->head_dim, total = s->documents[doc].rows, m = s->cfg->prompt_len;
    for (size_t head = 0; head < s->num_heads; head++) {
        const size_t layer = head / c->kv_heads, g = head % c->kv_heads;
        const float *K = decoder_run_keys(s->runs[doc], layer, g) + m * dim,
            *V = decoder_run_values(s->runs[doc], layer, g) + m * dim;
        for (size_t h = 0; h < s->group; h++)
            for (size_t i = 0; i < n; i++) {
                const size_t row = (head * s->group + h) * total + at + i;
                const float *q = queries + ((layer * c->num_heads + g * s->group + h) * n + i) * dim;
                for (size_t e = 0; e < dim; e++) s->Q[doc][row * dim + e] = (double)q[e];
                struct attn_sums one = { 1, dim, s->shift[doc] + row, s->mass[doc] + row, s->num[doc] + row * dim };
                const struct decoder_piece own = { .len = i + 1, .K = K, .V = V };
                const int status = prompt_piece_sums(&own, s->Q[doc] + row * dim, 1, dim, &one);
                if (status) return status;
            }
    }
    return GSL_SUCCESS;
}

static int read_document(struct study *s, size_t doc)
{
    const struct decoder_config *c = &s->decoder->config;
    const struct document *d = &s->documents[doc];
    const size_t rows = s->num_heads * s->group * d->rows;
    s->Q[doc] = malloc(rows * c->head_dim * sizeof(double));
    s->num[doc] = malloc(rows * c->head_dim * sizeof(double));
    s->shift[doc] = malloc(rows * sizeof(double));
    s->mass[doc] = malloc(rows * sizeof(double));
    s->logprobs[doc] = malloc(d->rows * c->vocab_size * sizeof(float));
    float *queries = malloc(c->num_layers * c->num_heads * s->max_question * c->head_dim * sizeof *queries);
    float *hidden = malloc(s->max_question * c->hidden * sizeof *hidden);
    int status = GSL_ENOMEM;
    if (!s->Q[doc] || !s->num[doc] || !s->shift[doc] || !s->mass[doc] || !s->logprobs[doc] || !queries || !hidden)
        goto done;
    if ((status = decoder_run_alloc(s->decoder, NULL, s->cfg->prompt_len + s->max_question, 256, 1, &s->runs[doc])))
        goto done;
    status = decoder_read(s->runs[doc], d->prompt, s->cfg->prompt_len, NULL);
    decoder_run_record(s->runs[doc], queries);
    for (size_t j = 0, at = 0; j < d->num_questions && !status; at += d->lengths[j++]) {
        decoder_run_rewind(s->runs[doc], s->cfg->prompt_len);
        status = decoder_read(s->runs[doc], d->questions[j], d->lengths[j], hidden);
        if (status) break;
        decoder_logits(s->decoder, hidden, d->lengths[j], s->logprobs[doc] + at * c->vocab_size, 1);
        for (size_t i = 0; i < d->lengths[j]; i++)
            decoder_log_softmax(s->logprobs[doc] + (at + i) * c->vocab_size, c->vocab_size);
        status = keep_queries(s, doc, queries, at, d->lengths[j]);
    }
done:
    if (s->runs[doc]) decoder_run_record(s->runs[doc], NULL);
    free(queries);
    free(hidden);
    return status;
}

/* ---- what stands in for it ------------------------------------------------------------------------------------ */

/* The queries of head `head` in documents [first, end) other than `leave`, copied together. */
static int gather(const struct study *s, size_t head, size_t first, size_t end, size_t leave, struct prompt_queries *q)
{
    const size_t dim = s->decoder->config.head_dim;
    *q = (struct prompt_queries){ 0 };
    for (size_t doc = first; doc < end; doc++) q->n += doc == leave ? 0 : s->group * s->documents[doc].rows;
    double *Q = malloc(q->n * dim * sizeof *Q);
    q->Q = Q;
    if (!Q || attn_sums_alloc(&q->input, q->n, dim)) {
        free(Q);
        return GSL_ENOMEM;
    }
    for (size_t doc = first, at = 0; doc < end; doc++) {
        if (doc == leave) continue;
        const size_t n = s->group * s->documents[doc].rows, from = head * n;
        memcpy(Q + at * dim, s->Q[doc] + from * dim, n * dim * sizeof *Q);
        memcpy(q->input.num + at * dim, s->num[doc] + from * dim, n * dim * sizeof *Q);
        memcpy(q->input.shift + at, s->shift[doc] + from, n * sizeof *Q);
        memcpy(q->input.mass + at, s->mass[doc] + from, n * sizeof *Q);
        at += n;
    }
    return GSL_SUCCESS;
}

static void queries_free(struct prompt_queries *q)
{
    free((double *)q->Q);
    attn_sums_free(&q->input);
}

/* One head of one document while its pieces are made. */
struct bench {
    struct prompt prompt;
    struct prompt_queries others, own;
    struct attn_sums others_prefix, own_prefix, approx;
    double *share;
};

/* Errors of a piece on the queries of the other documents, or its own. */
static int piece_errors(struct bench *b, const struct decoder_piece *p, int own, struct approx_errors *out)
{
    const struct prompt_queries *q = own ? &b->own : &b->others;
    b->approx.num_queries = q->n;
    const int status = prompt_piece_sums(p, q->Q, q->n, b->prompt.dim, &b->approx);
    return status ? status : approx_compare(&q->input, own ? &b->own_prefix : &b->others_prefix, &b->approx, out, NULL);
}

static int is_made(enum kind kind) { return kind != CHOICE && kind != BUDGET && kind != BUDGET_TOKENS; }

/* Tokens by their places: the last ones, or with the first four. */
static void place_tokens(const struct method *m, size_t len, size_t *index)
{
    const size_t first = m->kind == SINK ? 4 : 0;
    for (size_t i = 0; i < m->tokens; i++) index[i] = i < first ? i : len - m->tokens + i;
}

static int make_piece(const struct study *s, struct bench *b, const struct method *m, struct prompt_piece *out)
{
    size_t index[256];
    const feature_map *map = s->maps[m->feature];
    struct prompt_piece tokens = { 0 };
    int status = GSL_SUCCESS;
    switch (m->kind) {
    case LAST: case SINK:
        place_tokens(m, b->prompt.len, index);
        return prompt_keep(&b->prompt, index, m->tokens, out);
    case MOST:
        status = prompt_most(b->share, b->prompt.len, m->tokens, index);
        return status ? status : prompt_keep(&b->prompt, index, m->tokens, out);
    case CLUSTERS: return prompt_cluster(&b->prompt, m->tokens, CLUSTER_STEPS, out);
    case PLUGIN: return prompt_fold(&b->prompt, map, m->centred, out);
    case FITTED: return prompt_fit(&b->prompt, map, m->centred, NULL, &b->others, &b->others_prefix, out);
    case MIXED:
        status = prompt_most(b->share, b->prompt.len, m->tokens, index);
        if (!status) status = prompt_keep(&b->prompt, index, m->tokens, &tokens);
        if (!status)
            status = prompt_fit(&b->prompt, map, m->centred, &tokens.piece, &b->others, &b->others_prefix, out);
        prompt_piece_free(&tokens);
        return status;
    default: return GSL_SUCCESS;
    }
}

/* The numbers of a document: per method KL, agreement, share of questions dropped, then per head. */
enum { PER_METHOD = 3, PER_HEAD = 4 };
/* per head: score_std, mass, errors of the fitted summary and of 33 tokens */

/* Pieces (methods, heads) of one head; error (methods, heads) their mean squared errors on the queries of other
 * documents, scale (heads) the mean square of the output itself. */
static int make_head(struct study *s, size_t doc, size_t head, struct prompt_piece *pieces, double *error,
                     double *scale,
                     double *out)
{
    const struct decoder_config *c = &s->decoder->config;
    const size_t dim = c->head_dim, len = s->cfg->prompt_len;
    struct bench b = { .prompt = { len, dim, decoder_run_keys(s->runs[doc], head / c->kv_heads, head % c->kv_heads),
                                   decoder_run_values(s->runs[doc], head / c->kv_heads, head % c->kv_heads) } };
    int status = gather(s, head, 0, s->cfg->num_documents, doc, &b.others);
    if (!status) status = gather(s, head, doc, doc + 1, SIZE_MAX, &b.own);
    if (!status) status = attn_sums_alloc(&b.others_prefix, b.others.n, dim)
        | attn_sums_alloc(&b.own_prefix, b.own.n, dim) |
                          attn_sums_alloc(&b.approx, b.others.n + b.own.n, dim);
    if (!status && !(b.share = malloc(len * sizeof *b.share))) status = GSL_ENOMEM;
    if (!status) status = prompt_sums(&b.prompt, &b.others, &b.others_prefix, b.share);
    if (!status) status = prompt_sums(&b.prompt, &b.own, &b.own_prefix, NULL);
    if (!status) status = prompt_spread(&b.prompt, &b.own, &out[0], &out[1]);
    for (size_t i = 0; i < s->num_methods && !status; i++) {
        struct prompt_piece *piece = &pieces[i * s->num_heads + head];
        struct approx_errors errors;
        if (!is_made(methods[i].kind)) continue;
        status = make_piece(s, &b, &methods[i], piece);
        if (!status) status = piece_errors(&b, &piece->piece, 0, &errors);
        if (status) break;
        error[i * s->num_heads + head] = errors.num_nonpositive ? INFINITY : errors.abs_rms * errors.abs_rms;
        scale[head] = errors.out_rms * errors.out_rms;
        if (i != AT_FITTED && i != AT_MOST33) continue;
        status = piece_errors(&b, &piece->piece, 1, &errors);
        out[i == AT_FITTED ? 2 : 3] = errors.num_nonpositive ? INFINITY : errors.err_rel;
    }
    b.approx.num_queries = b.others.n + b.own.n;
    free(b.share);
    queries_free(&b.others);
    queries_free(&b.own);
    attn_sums_free(&b.others_prefix);
    attn_sums_free(&b.own_prefix);
    attn_sums_free(&b.approx);
    return status;
}

/* ---- what each head gets ------------------------------------------------------------------------------------- */

/* Of one head. */
static size_t method_bytes(const struct study *s, const struct method *m)
{
    const struct decoder_piece piece = { .len = m->tokens,
                                         .log_weight = m->kind == CLUSTERS ? (const float[1]){ 0 } : NULL,
                                         .map = m->kind >= CHOICE ? NULL : s->maps[m->feature],
                                             .centre = m->centred ? (const float[1]){ 0 } : NULL };
    return prompt_piece_bytes(&piece, s->decoder->config.head_dim);
}

/* The candidate of least error / unit + price * bytes; the first of equals. */
static size_t best_at(const struct study *s, const double *error, size_t head, double unit, double price,
                      int tokens_only)
{
    static const size_t candidates[] = { 0, AT_MOST33 - 1, AT_MOST33, AT_MOST66, AT_MOST132, AT_FITTED, AT_MIXED33,
                                         AT_MIXED99 };
    size_t best = 0;
    double least = INFINITY;
    for (size_t i = 0; i < (tokens_only ? 5 : sizeof candidates / sizeof *candidates); i++) {
        const size_t m = candidates[i];
        const double cost = error[m * s->num_heads + head] / unit + price * (double)method_bytes(s, &methods[m]);
        if (cost < least) {
            least = cost;
            best = m;
        }
    }
    return best;
}

/* Fills `chosen` (heads) at a price per byte; errors count relative to the mean square of the output over the heads of
 * a
 * layer. Returns the bytes. */
static double buy(const struct study *s, const double *error, const double *scale, double price, int tokens_only,
                  size_t *chosen)
{
    const size_t kv = s->decoder->config.kv_heads;
    double spent = 0.0;
    for (size_t head = 0; head < s->num_heads; head++) {
        double unit = 0.0;
        for (size_t g = 0; g < kv; g++) unit += scale[head / kv * kv + g] / (double)kv;
        chosen[head] = best_at(s, error, head, unit, price, tokens_only);
        spent += (double)method_bytes(s, &methods[chosen[head]]);
    }
    return spent;
}

/* The least total error that a price per byte (found by bisection) gives within the budget. */
static void spend(const struct study *s, const double *error, const double *scale, const struct method *m,
                  size_t *chosen)
{
    const double budget = (double)(s->num_heads * m->tokens * 2 * s->decoder->config.head_dim * sizeof(float));
    double low = 0.0, high = 1.0;           /* high: within the budget */
    for (int step = 0; step < 60; step++) {
        const double price = 0.5 * (low + high);
        if (buy(s, error, scale, price, m->kind == BUDGET_TOKENS, chosen) <= budget) high = price;
        else low = price;
    }
    buy(s, error, scale, high, m->kind == BUDGET_TOKENS, chosen);
}

/* The method whose piece each head takes under method i. */
static void choose(const struct study *s, const double *error, const double *scale, size_t i, size_t *chosen)
{
    const struct method *m = &methods[i];
    for (size_t head = 0; head < s->num_heads; head++) {
        chosen[head] = i;
        if (m->kind != CHOICE) continue;
        const double either = error[(size_t)m->either * s->num_heads + head];
        const double other = error[(size_t)m->other * s->num_heads + head];
        chosen[head] = (size_t)(other < either ? m->other : m->either);
    }
    if (m->kind == BUDGET || m->kind == BUDGET_TOKENS) spend(s, error, scale, m, chosen);
}

/* ---- what follows ------------------------------------------------------------------------------------------- */

static double divergence(const float *p, const float *q, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)(expf(p[i]) * (p[i] - q[i]));
    return sum;
}

/* KL and agreement over the questions of a document with a prefix, summed over rows; GSL_EDOM: some D is not positive.
 * */
static int ask(const struct study *s, size_t doc, size_t question, size_t at, struct decoder_run *run, float *hidden,
               float *logits,
               double out[PER_METHOD])
{
    const struct decoder_config *c = &s->decoder->config;
    const size_t n = s->documents[doc].lengths[question], vocab = c->vocab_size;
    decoder_run_rewind(run, 0);
    const int status = decoder_read(run, s->documents[doc].questions[question], n, hidden);
    if (status) return status;
    decoder_logits(s->decoder, hidden, n, logits, 1);
    for (size_t i = 0; i < n; i++) {
        const float *p = s->logprobs[doc] + (at + i) * vocab;
        decoder_log_softmax(logits + i * vocab, vocab);
        out[0] += divergence(p, logits + i * vocab, vocab) / (double)s->documents[doc].rows;
        out[1] += (double)(decoder_argmax(p, vocab) == decoder_argmax(logits + i * vocab,
                                                                      vocab)) / (double)s->documents[doc].rows;
    }
    return GSL_SUCCESS;
}

static int ask_all(const struct study *s, size_t doc, const struct decoder_piece *pieces,
                   const struct decoder_piece *nothing,
                   float *hidden, float *logits, double out[PER_METHOD])
{
    const struct document *d = &s->documents[doc];
    const struct decoder_prefix prefix = { DECODER_ROTATED, s->cfg->prompt_len, pieces },
        none = { DECODER_ROTATED, s->cfg->prompt_len, nothing };
    struct decoder_run *run;
    int status = decoder_run_alloc(s->decoder, &prefix, s->max_question, s->max_question, 1, &run);
    if (status) return status;
    out[0] = out[1] = out[2] = 0.0;
    for (size_t j = 0, at = 0; j < d->num_questions && !status; at += d->lengths[j++]) {
        decoder_run_rewind(run, 0);
        decoder_run_set_prefix(run, &prefix);
        status = ask(s, doc, j, at, run, hidden, logits, out);
        if (status != GSL_EDOM) continue;
        out[2] += 1.0 / (double)d->num_questions;
        decoder_run_set_prefix(run, &none);
        status = ask(s, doc, j, at, run, hidden, logits, out);
    }
    decoder_run_free(run);
    return status;
}

static int run_document(struct study *s, size_t doc, double *row)
{
    const struct decoder_config *c = &s->decoder->config;
    const size_t heads = s->num_heads;
    struct prompt_piece *pieces = calloc(s->num_methods * heads, sizeof *pieces);
    struct decoder_piece *views = calloc(2 * heads, sizeof *views);
    double *error = calloc((s->num_methods + 1) * heads, sizeof *error);
    size_t *chosen = calloc(heads, sizeof *chosen);
    float *hidden = malloc(s->max_question * c->hidden * sizeof *hidden);
    float *logits = malloc(s->max_question * c->vocab_size * sizeof *logits);
    int status = pieces && views && error && chosen && hidden && logits ? GSL_SUCCESS : GSL_ENOMEM;
    double *scale = error ? error + s->num_methods * heads : NULL;
    for (size_t head = 0; head < heads && !status; head++)
        status = make_head(s, doc, head, pieces, error, scale, row + PER_METHOD * s->num_methods + PER_HEAD * head);
    for (size_t i = 0; i < s->num_methods && !status; i++) {
        choose(s, error, scale, i, chosen);
        for (size_t head = 0; head < heads; head++) views[head] = pieces[chosen[head] * heads + head].piece;
        status = ask_all(s, doc, views, views + heads, hidden, logits, row + PER_METHOD * i);
    }
    for (size_t i = 0; pieces && i < s->num_methods * heads; i++) prompt_piece_free(&pieces[i]);
    free(pieces);
    free(views);
    free(error);
    free(chosen);
    free(hidden);
    free(logits);
    return status;
}

/* ---- trained pieces --------------------------------------------------------------------------------------------- */

/* Rows of --distill: no prompt, the most attended tokens, those trained on, a trained summary of as many bytes. */
enum { TRAINED_NONE, TRAINED_START, TRAINED_TOKENS, TRAINED_SUMMARY, NUM_TRAINED };
static const char *const trained_names[NUM_TRAINED] = { "none", "most attended", "trained tokens", "trained summary" };

/* Questions of other documents, at most DISTILL_TEXTS, from the next document on. */
static size_t other_questions(const struct study *s, size_t doc, struct prompt_text texts[DISTILL_TEXTS], size_t *rows)
{
    size_t n = 0;
    *rows = 0;
    for (size_t k = 1; k < s->cfg->num_documents; k++) {
        const struct document *d = &s->documents[(doc + k) % s->cfg->num_documents];
        for (size_t j = 0; j < d->num_questions && n < DISTILL_TEXTS; j++) {
            texts[n++] = (struct prompt_text){ d->questions[j], d->lengths[j] };
            *rows += d->lengths[j];
        }
    }
    return n;
}

static int run_trained(const struct study *s, size_t doc, const struct decoder_piece *start,
                       const struct decoder_piece *nothing, float *hidden, float *logits, double *row)
{
    struct prompt_text texts[DISTILL_TEXTS];
    size_t rows;
    const size_t n = other_questions(s, doc, texts, &rows);
    float *logprobs = malloc(rows * s->decoder->config.vocab_size * sizeof *logprobs);
    if (!logprobs) return GSL_ENOMEM;
    int status = prompt_teach(s->decoder, s->runs[doc], s->cfg->prompt_len, texts, n, logprobs, 1);
    for (int kind = TRAINED_TOKENS; kind < NUM_TRAINED && !status; kind++) {
        const int tokens = kind == TRAINED_TOKENS;
        struct prompt_distill_options o = { .adapter = adapter_defaults(tokens ? ADAPTER_PTUNING : ADAPTER_NTK),
                                            .positions = s->cfg->prompt_len, .steps = s->cfg->distill,
                                            .batch = DISTILL_BATCH, .lr = DISTILL_RATE, .seed = s->cfg->c.seed + doc,
                                            .num_threads = 1 };
        struct prompt_distilled *trained;
        double loss[2];
        o.adapter.prefix_len = DISTILL_TOKENS;
        o.adapter.z_rank = tokens ? 0 : DISTILL_RANK;
        status = prompt_distill(s->decoder, &o, tokens ? start : NULL, texts, n, logprobs, &trained, loss);
        if (status) break;
        status = ask_all(s, doc, prompt_distilled_pieces(trained), nothing, hidden, logits, row + PER_METHOD * kind);
        prompt_distilled_free(trained);
    }
    free(logprobs);
    return status;
}

/* The most attended tokens of each head, by questions of other documents; then what is trained from them. */
static int distill_document(struct study *s, size_t doc, double *row)
{
    const size_t heads = s->num_heads;
    struct prompt_piece *pieces = calloc(s->num_methods * heads, sizeof *pieces);
    struct decoder_piece *views = calloc(2 * heads, sizeof *views);
    double *error = calloc((s->num_methods + 1) * heads, sizeof *error), unused[PER_HEAD];
    float *hidden = malloc(s->max_question * s->decoder->config.hidden * sizeof *hidden);
    float *logits = malloc(s->max_question * s->decoder->config.vocab_size * sizeof *logits);
    int status = pieces && views && error && hidden && logits ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t head = 0; head < heads && !status; head++) {
        status = make_head(s, doc, head, pieces, error, error + s->num_methods * heads, unused);
        views[head] = pieces[AT_MOST33 * heads + head].piece;
    }
    const struct decoder_piece *nothing = views + heads;
    if (!status) status = ask_all(s, doc, nothing, nothing, hidden, logits, row + PER_METHOD * TRAINED_NONE);
    if (!status) status = ask_all(s, doc, views, nothing, hidden, logits, row + PER_METHOD * TRAINED_START);
    if (!status) status = run_trained(s, doc, views, nothing, hidden, logits, row);
    for (size_t i = 0; pieces && i < s->num_methods * heads; i++) prompt_piece_free(&pieces[i]);
    free(pieces);
    free(views);
    free(error);
    free(hidden);
    free(logits);
    return status;
}

/* ---- results ------------------------------------------------------------------------------------------------ */

static void add_method(struct table *t, const struct study *s, const struct units *work, size_t i, double *x)
{
    const size_t n = s->cfg->num_documents;
    const struct method *m = &methods[i];
    double agree = 0.0, dropped = 0.0;
    char feature[32];
    snprintf(feature, sizeof feature, "%s%s", feature_names[m->feature], m->centred ? "@centred" : "");
    for (size_t doc = 0; doc < n; doc++) {
        const double *row = units_row(work, doc) + PER_METHOD * i;
        x[doc] = row[0];
        agree += row[1] / (double)n;
        dropped += row[2] / (double)n;
    }
    const struct interval kl = cli_mean(x, n, 0.95);
    const size_t bytes = s->num_heads * method_bytes(s, m),
        whole = s->num_heads * s->cfg->prompt_len * 2 * s->decoder->config.head_dim * sizeof(float);
    table_text(t, kind_names[m->kind]);
    table_empty(t);
    table_int(t, m->tokens);
    table_text(t, feature);
    table_text(t, m->kind == PLUGIN ? "plug-in" : m->feature ? "least squares" : "");
    table_int(t, bytes);
    table_num(t, (double)bytes / (double)whole);
    table_interval(t, kl);
    table_num(t, agree);
    table_num(t, dropped);
    for (int k = 0; k < 3; k++) table_empty(t);
    table_int(t, n);
    table_end_row(t);
}

/* Means over documents and the heads of a layer. */
static void add_layer(struct table *t, const struct study *s, const struct units *work, size_t layer, size_t number,
                      const char *name)
{
    const size_t kv = s->decoder->config.kv_heads, n = s->cfg->num_documents;
    double mean[PER_HEAD] = { 0 };
    for (size_t doc = 0; doc < n; doc++)
        for (size_t g = 0; g < kv; g++)
            for (size_t k = 0; k < PER_HEAD; k++)
                mean[k] += units_row(work, doc)[PER_METHOD * s->num_methods + PER_HEAD * (layer * kv + g)
                                                + k] / (double)(n * kv);
    table_text(t, name);
    table_int(t, layer);
    for (int k = 0; k < 10; k++) table_empty(t);
    table_num(t, mean[number]);
    table_num(t, mean[0]);
    table_num(t, mean[1]);
    table_int(t, n);
    table_end_row(t);
}

static int write_table(const struct study *s, const struct units *work, double *x)
{
    struct table *t = table_open(&s->cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "kl: nats per token, next token after the whole prompt against its replacement, mean over tokens of "
                  "the questions; 95%% Student t over documents");
    table_note(t, "agree: share of tokens with the same likeliest successor; dropped: share of questions where D was "
                  "not positive and the prompt was left out");
    table_note(t, "rows with a layer: means over its heads; err_rel: error of attention over the effect of the prompt, "
                  "own questions; score_std, prefix_mass of the whole prompt");
    for (size_t i = 0; i < s->num_methods; i++) add_method(t, s, work, i, x);
    for (size_t layer = 0; layer < s->decoder->config.num_layers; layer++) {
        add_layer(t, s, work, layer, 2, "fitted");
        add_layer(t, s, work, layer, 3, "most attended");
    }
    return table_close(t, EXIT_DONE);
}

/* Geometric mean over documents of KL(a) / KL(b). */
static struct interval ratio(const struct study *s, const struct units *work, size_t a, size_t b, double *x)
{
    for (size_t doc = 0; doc < s->cfg->num_documents; doc++)
        x[doc] = log(units_row(work, doc)[PER_METHOD * a] / units_row(work, doc)[PER_METHOD * b]);
    const struct interval i = cli_mean(x, s->cfg->num_documents, 0.999);
    return (struct interval){ exp(i.value), exp(i.lo), exp(i.hi), i.n };
}

static double rank_of(const double *row, size_t count, size_t head, size_t k)
{
    double rank = 0.0;
    for (size_t i = 0; i < count; i++)
        rank += row[PER_HEAD * i + k] < row[PER_HEAD * head + k] ? 1.0 : row[PER_HEAD * i + k] == row[PER_HEAD * head
            + k] ? 0.5 : 0.0;
    return rank;
}

/* Spearman's correlation over heads of numbers k and l, per document. */
static struct interval correlation(const struct study *s, const struct units *work, size_t k, size_t l, double *x)
{
    const double middle = 0.5 * (double)s->num_heads;
    for (size_t doc = 0; doc < s->cfg->num_documents; doc++) {
        const double *row = units_row(work, doc) + PER_METHOD * s->num_methods;
        double kl = 0.0, kk = 0.0, ll = 0.0;
        for (size_t head = 0; head < s->num_heads; head++) {
            const double a = rank_of(row, s->num_heads, head, k) - middle,
                b = rank_of(row, s->num_heads, head, l) - middle;
            kl += a * b;
            kk += a * a;
            ll += b * b;
        }
        x[doc] = kl / sqrt(kk * ll);
    }
    return cli_mean(x, s->cfg->num_documents, 0.999);
}

static int write_verdicts(const struct study *s, const struct units *work, double *x)
{
    static const struct { const char *claim, *row; size_t over, under; } rows[] = {
        { "F90", "elu1", AT_ELU1, 0 }, { "F90", "linear", AT_LINEAR, 0 },
        { "F91", "none", AT_FITTED, 0 }, { "F91", "evict", AT_FITTED, AT_MOST33 },
        { "F92", "bytes-66", AT_MIXED33, AT_MOST66 }, { "F92", "bytes-132", AT_MIXED99, AT_MOST132 },
        { "F93", "sink", AT_LAST33, AT_SINK33 }, { "F94", "quarter", AT_MOST132, 0 },
        { "F95", "clusters", AT_CLUSTERS33, AT_MOST33 },
        { "F96", "bytes-33", AT_CHOICE33, AT_MOST33 }, { "F96", "bytes-66", AT_CHOICE66, AT_MOST66 },
        { "F98", "bytes-33", AT_BUDGET33, AT_MOST33 }, { "F98", "bytes-66", AT_BUDGET66, AT_MOST66 },
        { "F98", "summaries", AT_BUDGET33, AT_BUDGET_TOKENS },
    };
    struct verdicts *v = verdicts_open(&s->cfg->c, "long_prompt");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (s->cfg->prompt_len != LEDGER_LEN) verdicts_not_tested(v, rows[i].claim, rows[i].row);
        else verdicts_add(v, rows[i].claim, rows[i].row, ratio(s, work, rows[i].over, rows[i].under, x));
    }
    if (s->cfg->prompt_len != LEDGER_LEN) verdicts_not_tested(v, "F97", "spread");
    else verdicts_add(v, "F97", "spread", correlation(s, work, 0, 2, x));
    return verdicts_close(v, EXIT_DONE);
}

static int write_trained(const struct study *s, const struct units *work, double *x)
{
    const size_t n = s->cfg->num_documents, dim = s->decoder->config.head_dim, r = feature_dim(s->maps[ELU1]);
    const size_t token = 2 * dim * sizeof(float), kept = s->num_heads * DISTILL_TOKENS * token;
    const size_t summary = s->num_heads * s->group * (DISTILL_RANK * (r + dim) + r) * sizeof(float);
    const size_t bytes[NUM_TRAINED] = { 0, kept, kept, summary };
    struct table *t = table_open(&s->cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "trained for %zu steps of %d questions of other documents; rate %g; Z of rank %d per query head",
               s->cfg->distill, DISTILL_BATCH, DISTILL_RATE, DISTILL_RANK);
    for (size_t i = 0; i < NUM_TRAINED; i++) {
        double agree = 0.0, dropped = 0.0;
        for (size_t doc = 0; doc < n; doc++) {
            const double *row = units_row(work, doc) + PER_METHOD * i;
            x[doc] = row[0];
            agree += row[1] / (double)n;
            dropped += row[2] / (double)n;
        }
        const struct interval kl = cli_mean(x, n, 0.95);
        table_text(t, trained_names[i]);
        table_empty(t);
        table_int(t, bytes[i] == kept && i != TRAINED_SUMMARY ? DISTILL_TOKENS : 0);
        table_text(t, i == TRAINED_SUMMARY ? feature_names[ELU1] : "");
        table_text(t, i >= TRAINED_TOKENS ? "distilled" : "");
        table_int(t, bytes[i]);
        table_num(t, (double)bytes[i] / (double)(s->num_heads * s->cfg->prompt_len * token));
        table_interval(t, kl);
        table_num(t, agree);
        table_num(t, dropped);
        for (int k = 0; k < 3; k++) table_empty(t);
        table_int(t, n);
        table_end_row(t);
    }
    return table_close(t, EXIT_DONE);
}

static int trained_verdicts(const struct study *s, const struct units *work, double *x)
{
    static const struct { const char *row; size_t over, under; } rows[] = {
        { "trained-tokens", TRAINED_TOKENS, TRAINED_START }, { "trained-summary", TRAINED_SUMMARY, TRAINED_START },
        { "trained-equal", TRAINED_SUMMARY, TRAINED_TOKENS },
    };
    struct verdicts *v = verdicts_open(&s->cfg->c, "long_prompt_distilled");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (s->cfg->prompt_len != LEDGER_LEN) verdicts_not_tested(v, "F91", rows[i].row);
        else verdicts_add(v, "F91", rows[i].row, ratio(s, work, rows[i].over, rows[i].under, x));
    }
    return verdicts_close(v, EXIT_DONE);
}

/* ---- the program -------------------------------------------------------------------------------------------- */

static void study_close(struct study *s)
{
    for (size_t i = 0; i < s->cfg->num_documents; i++) {
        if (s->documents) {
            free(s->documents[i].prompt);
            for (size_t j = 0; j < MAX_QUESTIONS; j++) free(s->documents[i].questions[j]);
        }
        if (s->runs) decoder_run_free(s->runs[i]);
        if (s->Q) free(s->Q[i]), free(s->num[i]), free(s->shift[i]), free(s->mass[i]);
        if (s->logprobs) free(s->logprobs[i]);
    }
    free(s->documents);
    free(s->runs);
    free(s->Q);
    free(s->logprobs);
    for (size_t i = 0; i < NUM_FEATURES; i++) feature_map_free(s->maps[i]);
    decoder_free(s->decoder);
}

static int study_open(struct study *s)
{
    const struct cli_common *c = &s->cfg->c;
    const size_t n = s->cfg->num_documents;
    char folder[PATH_MAX], path[PATH_MAX + 32], line[PATH_MAX + 256];
    const struct reason why = { line, sizeof line };
    int status = decoder_open(s->cfg->backbone, NULL, &s->decoder, why);
    if (status) return cli_fail(c, cli_input_code(status), "%s", line);
    const struct decoder_config *config = &s->decoder->config;
    s->num_heads = config->num_layers * config->kv_heads;
    s->group = config->num_heads / config->kv_heads;
    s->num_methods = s->cfg->distill ? AT_MOST33 + 1 : ALL_METHODS - (s->cfg->second_order ? 0 : 1);
    s->documents = calloc(n, sizeof *s->documents);
    s->runs = calloc(n, sizeof *s->runs);
    s->Q = calloc(4 * n, sizeof *s->Q);
    s->logprobs = calloc(n, sizeof *s->logprobs);
    if (!s->documents || !s->runs || !s->Q || !s->logprobs) return cli_fail(c, EXIT_FAILED, "out of memory");
    s->shift = s->Q + n;
    s->mass = s->shift + n;
    s->num = s->mass + n;
    for (size_t i = 1; i < NUM_FEATURES && !status; i++)
        status = feature_parse(feature_names[i], config->head_dim, 0.0, 1, NULL, &s->maps[i]);
    if (status) return cli_status(c, status, "feature maps");
    data_folder(s->cfg->dataset, folder);
    snprintf(path, sizeof path, "%s/combined.jsonl", folder);
    FILE *file = fopen(path, "r");
    if (!file && input_file_status(errno) != GSL_EFAILED)
        return cli_fail(c, EXIT_FAILED, "%s: %s", path, strerror(errno));
    if (!file) return cli_fail(c, EXIT_DATA, "%s: cannot be read (data/fetch.sh %s fetches it)", path, s->cfg->dataset);
    status = read_documents(s, file, why);
    fclose(file);
    if (status) return cli_bad_input(c, status, path, line);
    if (s->cfg->prompt_len + s->max_question > config->max_positions)
        return cli_fail(c, EXIT_USAGE, "--prompt-len: %zu and a question exceed the %zu positions of the model",
                        s->cfg->prompt_len, config->max_positions);
    const double kv = 8.0 * (double)(s->num_heads * config->head_dim * s->cfg->prompt_len);
    const double rows = (double)s->max_rows * (4.0 * (double)config->vocab_size
                                               + 16.0 * (double)(s->num_heads * s->group * config->head_dim));
    return cli_memory(c, 4.0 * (double)s->decoder->num_weights + (double)n * (kv + rows)
                      + 4.0 * (double)c->threads * kv, "the model and the prompts");
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, about, options, shard, check, &cfg.c);
    struct study s = { .cfg = &cfg, .text_hash = HASH_START };
    int code = study_open(&s), status = GSL_SUCCESS;
    struct units *work = NULL;
    if (!code) {
        const uint64_t weights = hash_bytes(s.text_hash, s.decoder->weights,
                                            s.decoder->num_weights * sizeof *s.decoder->weights);
        char *identity = cli_text("%s %s %016llx %zu %zu %d %zu", cfg.dataset, cfg.backbone,
                                  (unsigned long long)weights, cfg.num_documents, cfg.prompt_len, cfg.second_order,
                                  cfg.distill);
        const size_t width = cfg.distill ? PER_METHOD * NUM_TRAINED : PER_METHOD * s.num_methods + PER_HEAD *
            s.num_heads;
        work = units_open(&cfg.c, identity, "documents", cfg.num_documents, width, 0.0);
        free(identity);
        if (!work) code = EXIT_FAILED;
    }
    if (!code) {
#pragma omp parallel for schedule(dynamic) num_threads(cfg.c.threads)
        for (size_t i = 0; i < cfg.num_documents; i++) {
            const int own = cli_interrupted() ? GSL_SUCCESS : read_document(&s, i);
            if (own)
#pragma omp atomic write
                status = own;
        }
        code = cli_interrupted();
        if (!code) code = cli_status(&cfg.c, status, "reading the prompts");
    }
    if (!code) {
#pragma omp parallel for schedule(dynamic) num_threads(cfg.c.threads)
        for (size_t i = 0; i < cfg.num_documents; i++) {
            double *row = units_begin(work, i);
            if (row) units_end(work, i, cfg.distill ? distill_document(&s, i, row) : run_document(&s, i, row));
        }
        code = units_status(work);
    }
    double *x = code ? NULL : malloc(cfg.num_documents * sizeof *x);
    if (!code && !x) code = cli_fail(&cfg.c, EXIT_FAILED, "out of memory");
    if (!code) code = cfg.distill ? write_trained(&s, work, x) : write_table(&s, work, x);
    if (!code) code = cfg.distill ? trained_verdicts(&s, work, x) : write_verdicts(&s, work, x);
    free(x);
    study_close(&s);
    return work ? units_close(work, code) : code;
}
