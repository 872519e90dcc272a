/* What a token of a decoder costs behind a prompt of m tokens: its keys and values in front of the text, a summary
 * (Z, k) in their place, or nothing (F99). */
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/option_table.h"
#include "cli/summary.h"
#include "common/calibrate.h"
#include "common/random.h"
#include "transformer/decoder.h"

static const char doc[] =
    "Times one step of decoding (a token read, the next one's logits) behind prompts of several lengths: exact keys "
    "and values, a summary of them, none. All take turns in each round. Keys and values are random: the time does not "
    "depend on them.";
static const char columns[] =
    "method,prefix_len,threads,step_s,step_ci_lo,step_ci_hi,tokens_per_s,prefix_bytes,read_gb_per_s";

enum kind { NONE, SUMMARY, EXACT };
static const char *const kind_names[] = { "none", "summary", "exact" };
enum { MAX_ARMS = 64, MAX_ROUNDS = 1000, LEDGER_SHORT = 512, LEDGER_LONG = 8190 };

struct config {
    struct cli_common c;
    const char *backbone, *feature;
    size_t *prefix_lens, num_prefix_lens, num_rounds;
};

static const struct cli_option options[] = {
    { "backbone", CLI_TEXT(struct config, backbone), .value = "smollm2-135m", .arg = "NAME", .group = 1,
      .doc = "smollm2-135m, a FILE.gguf, or a folder" },
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_prefix_lens), .min = 1, .max = 1u << 20,
      .value = "512,2048,8190", .group = 1, .doc = "tokens of the prompt" },
    { "feature", CLI_TEXT(struct config, feature), .value = "elu1", .arg = "NAME", .group = 1,
      .doc = "feature map of the summary" },
    { "num-rounds", CLI_SIZE(struct config, num_rounds), .min = 3, .max = MAX_ROUNDS, .value = "15", .group = 1,
      .doc = "rounds" },
    { .name = NULL }
};

/* One thing that is timed, and its seconds in each round. */
struct arm {
    enum kind kind;
    size_t prefix_len;
    struct decoder_piece *pieces;
    struct decoder_prefix prefix;
    double seconds[MAX_ROUNDS];
};

struct bench {
    const struct config *cfg;
    struct decoder *decoder;
    feature_map *map;
    struct decoder_run *run;
    float *numbers, *hidden, *logits;       /* numbers: keys and values of the longest prompt, of Z and k */
    struct arm arms[MAX_ARMS];
    size_t num_arms;
};

/* Every head of a layer has rows of its own, as in a cache: the memory that is read is that of a prompt. */
static int add_arm(struct bench *b, enum kind kind, size_t m, const float *rows)
{
    const struct decoder_config *c = &b->decoder->config;
    const size_t heads = c->num_layers * c->kv_heads, dim = c->head_dim, r = feature_dim(b->map);
    struct arm *a = &b->arms[b->num_arms++];
    *a = (struct arm){ .kind = kind, .prefix_len = m, .pieces = calloc(heads, sizeof *a->pieces) };
    if (!a->pieces) return GSL_ENOMEM;
    for (size_t i = 0; i < heads; i++) {
        struct decoder_piece *p = &a->pieces[i];
        if (kind == EXACT) *p = (struct decoder_piece){ .len = m, .K = rows + 2 * i * m * dim, .V = rows +
            (2 * i + 1) * m * dim };
        if (kind == SUMMARY)
            *p = (struct decoder_piece){ .map = b->map, .summaries = 1, .Z = rows + i * r * (dim + 1),
                                         .k = rows + i * r * (dim + 1) + r * dim };
    }
    a->prefix = (struct decoder_prefix){ DECODER_ROTATED, m, a->pieces };
    return GSL_SUCCESS;
}

static int bench_open(struct bench *b)
{
    const struct config *cfg = b->cfg;
    const struct decoder_config *c = &b->decoder->config;
    const size_t heads = c->num_layers * c->kv_heads;
    size_t longest = 0;
    int status = feature_parse(cfg->feature, c->head_dim, 4.0, cfg->c.seed, NULL, &b->map);
    if (status) return status;
    for (size_t i = 0; i < cfg->num_prefix_lens; i++)
        if (cfg->prefix_lens[i] > longest) longest = cfg->prefix_lens[i];
    const size_t tokens = 2 * heads * longest * c->head_dim, summary = heads * feature_dim(b->map) * (c->head_dim + 1);
    const size_t n = tokens > summary ? tokens : summary;
    b->numbers = malloc(n * sizeof *b->numbers);
    b->hidden = malloc(c->hidden * sizeof *b->hidden);
    b->logits = malloc(c->vocab_size * sizeof *b->logits);
    if (!b->numbers || !b->hidden || !b->logits) return GSL_ENOMEM;
    /* Positive, so that a mass is. */
    double x[256];
    for (size_t i = 0; i < n; i += 256) {
        random_uniform(cfg->c.seed, RANDOM_OTHER, 1, i / 256, x, 256);
        for (size_t k = 0; k < 256 && i + k < n; k++) b->numbers[i + k] = (float)x[k];
    }
    status = add_arm(b, NONE, 0, b->numbers);
    for (size_t i = 0; i < cfg->num_prefix_lens && !status; i++) {
        status = add_arm(b, SUMMARY, cfg->prefix_lens[i], b->numbers);
        if (!status) status = add_arm(b, EXACT, cfg->prefix_lens[i], b->numbers);
    }
    return status ? status : decoder_run_alloc(b->decoder, NULL, 1, 1, cfg->c.threads, &b->run);
}

static int time_arm(struct bench *b, struct arm *a, size_t round)
{
    const int32_t id = 0;
    decoder_run_rewind(b->run, 0);
    decoder_run_set_prefix(b->run, a->kind == NONE ? NULL : &a->prefix);
    const double start = calibrate_now_s();
    const int status = decoder_read(b->run, &id, 1, b->hidden);
    if (!status) decoder_logits(b->decoder, b->hidden, 1, b->logits, b->cfg->c.threads);
    a->seconds[round] = calibrate_now_s() - start;
    return status;
}

static double prefix_bytes(const struct bench *b, const struct arm *a)
{
    const struct decoder_config *c = &b->decoder->config;
    const double heads = (double)(c->num_layers * c->kv_heads), dim = (double)c->head_dim;
    if (a->kind == NONE) return 0.0;
    return 4.0 * heads * (a->kind == EXACT ? 2.0 * (double)a->prefix_len * dim : (double)feature_dim(b->map) *
                          (dim + 1.0));
}

static int write_table(const struct bench *b)
{
    const struct config *cfg = b->cfg;
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t,
               "step_s: mean over %zu rounds, one token read and its logits; read_gb_per_s: weights and prefix over it",
               cfg->num_rounds);
    for (size_t i = 0; i < b->num_arms; i++) {
        const struct arm *a = &b->arms[i];
        const struct interval s = cli_mean(a->seconds, cfg->num_rounds, 0.95);
        const double bytes = prefix_bytes(b, a), weights = 4.0 * (double)b->decoder->num_weights;
        table_text(t, kind_names[a->kind]);
        table_int(t, a->prefix_len);
        table_int(t, (size_t)cfg->c.threads);
        table_interval(t, s);
        table_num(t, 1.0 / s.value);
        table_num(t, bytes);
        table_num(t, (bytes + weights) / s.value * 1e-9);
        table_end_row(t);
    }
    return table_close(t, EXIT_DONE);
}

static const struct arm *find(const struct bench *b, enum kind kind, size_t prefix_len)
{
    for (size_t i = 0; i < b->num_arms; i++)
        if (b->arms[i].kind == kind && b->arms[i].prefix_len == prefix_len) return &b->arms[i];
    return NULL;
}

/* Geometric mean over rounds of the ratio within a round. */
static void add_ratio(struct verdicts *v, const struct bench *b, const char *row, const struct arm *over,
                      const struct arm *under)
{
    double x[MAX_ROUNDS];
    if (!over || !under) {
        verdicts_not_tested(v, "F99", row);
        return;
    }
    for (size_t i = 0; i < b->cfg->num_rounds; i++) x[i] = log(over->seconds[i] / under->seconds[i]);
    const struct interval mean = cli_mean(x, b->cfg->num_rounds, 0.999);
    verdicts_add(v, "F99", row, (struct interval){ exp(mean.value), exp(mean.lo), exp(mean.hi), mean.n });
}

int main(int argc, char **argv)
{
    static struct config cfg = { 0 };
    static struct bench b = { .cfg = &cfg };
    char line[512];
    cli_parse_table(argc, argv, doc, options, NULL, NULL, &cfg.c);
    if (2 * cfg.num_prefix_lens + 1 > MAX_ARMS) return cli_fail(&cfg.c, EXIT_USAGE, "--prefix-len: too many");
    int status = decoder_open(cfg.backbone, NULL, &b.decoder, (struct reason){ line, sizeof line });
    if (status) return cli_fail(&cfg.c, status == GSL_ENOMEM ? EXIT_FAILED : EXIT_DATA, "%s", line);
    int code = cli_status(&cfg.c, bench_open(&b), "the prompts");
    /* The first round warms up. */
    for (size_t round = 0; round <= cfg.num_rounds && !code; round++) {
        for (size_t i = 0; i < b.num_arms && !code; i++)
            code = cli_status(&cfg.c, time_arm(&b, &b.arms[i], round ? round - 1 : 0), "a step");
        if (!code) code = cli_interrupted();
    }
    cli_outputs_begin(&cfg.c);
    if (!code) code = write_table(&b);
    struct verdicts *v = verdicts_open(&cfg.c, "decode_cost");
    const struct arm *exact = find(&b, EXACT, LEDGER_LONG);
    add_ratio(v, &b, "summary-flat", find(&b, SUMMARY, LEDGER_LONG), find(&b, SUMMARY, LEDGER_SHORT));
    add_ratio(v, &b, "exact-grows", exact, find(&b, SUMMARY, LEDGER_LONG));
    code = cli_outputs_end(&cfg.c, verdicts_close(v, code));
    for (size_t i = 0; i < b.num_arms; i++) free(b.arms[i].pieces);
    decoder_run_free(b.run);
    free(b.numbers);
    free(b.hidden);
    free(b.logits);
    feature_map_free(b.map);
    decoder_free(b.decoder);
    return code;
}
