/* Trainable numbers and memory of a summary (Z, k) on real model shapes, beside prefixes and low-rank
 * updates, and where they break even. Ledger M3, F64. */
#include <gsl/gsl_errno.h>

#include "cli/cli.h"
#include "prefix_ntk/feature.h"

static const char columns[] =
    "model,layers,heads,kv_heads,head_dim,hidden,method,setting,numbers,share_of_summary,bytes_f32";

/* Shapes of well-known models. */
struct shape { const char *name; size_t layers, heads, kv_heads, head_dim, hidden; };
static const struct shape shapes[] = {
    { "ViT-B/16", 12, 12, 12, 64, 768 },
    { "decoder 6B (28 x 32 x 128)", 28, 32, 32, 128, 4096 },
    { "decoder 1B (grouped heads)", 16, 32, 8, 64, 2048 },
};
enum { NUM_SHAPES = sizeof shapes / sizeof *shapes };

/* Numbers of (Z, k) per head, from the features the library itself lists; 0 on failure. */
static double summary_numbers(const char *feature, size_t d, size_t *r)
{
    feature_map *map;
    if (cli_need_memory(feature_parse(feature, d, 1.0, 0, NULL, &map))) return 0.0;
    *r = feature_dim(map);
    feature_map_free(map);
    return (double)*r * (double)d + (double)*r;
}

static void row(struct table *t, const struct shape *s, const char *method, const char *setting, double numbers,
                double summary)
{
    table_text(t, s->name);
    table_int(t, s->layers);
    table_int(t, s->heads);
    table_int(t, s->kv_heads);
    table_int(t, s->head_dim);
    table_int(t, s->hidden);
    table_text(t, method);
    table_text(t, setting);
    table_num(t, numbers);
    table_num(t, numbers / summary);
    table_num(t, 4.0 * numbers);
    table_end_row(t);
}

static const char *const features[] = { "elu1", "taylor:1", "taylor:2" };
static const size_t prefix_lens[] = { 10, 20, 50, 100, 200 }, ranks[] = { 4, 8, 16, 32 };
static const char *const prefix_names[] = { "m = 10", "m = 20", "m = 50", "m = 100", "m = 200" };
static const char *const rank_names[] = { "rank 4", "rank 8", "rank 16", "rank 32" };

struct breakeven { double prefix_len, lora_rank; };

static struct breakeven write_shape(struct table *t, const struct shape *s)
{
    const double layers = (double)s->layers, d = (double)s->head_dim, h = (double)s->hidden;
    const double heads = (double)s->heads, kv = (double)s->kv_heads;
    size_t r;
    /* A summary is of queries' features and of values: one per query head (queries differ only in phi(q),
     * so grouped heads share one per key-value head). */
    const double summary = layers * kv * summary_numbers("elu1", s->head_dim, &r);
    for (size_t f = 0; f < sizeof features / sizeof *features; f++)
        row(t, s, "NTK-Attention", features[f], layers * kv * summary_numbers(features[f], s->head_dim, &r), summary);
    row(t, s, "cumulant summary", "mean and covariances", layers * kv * (2 * d + d * d + d * (d + 1) / 2 + 1), summary);
    for (size_t i = 0; i < sizeof prefix_lens / sizeof *prefix_lens; i++) {
        row(t, s, "prefix K_P and V_P", prefix_names[i], layers * kv * 2 * d * (double)prefix_lens[i], summary);
        row(t, s, "tied prefix P", prefix_names[i], layers * h * (double)prefix_lens[i], summary);
    }
    /* Updates of W_Q (h x heads d) and W_V (h x kv d). */
    const double per_rank = layers * (h + heads * d + h + kv * d);
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++)
        row(t, s, "LoRA on W_Q and W_V", rank_names[i], per_rank * (double)ranks[i], summary);
    const struct breakeven at = { summary / (layers * kv * 2 * d), summary / per_rank };
    row(t, s, "break-even", "prefix length", at.prefix_len, summary);
    row(t, s, "break-even", "tied prefix length", summary / (layers * h), summary);
    row(t, s, "break-even", "LoRA rank", at.lora_rank, summary);
    return at;
}

static void decide(struct verdicts *v, const char *claim, const char *slug, double x)
{
    verdicts_add(v, claim, slug, (struct interval){ x, x, x, 1 });
}

int main(int argc, char **argv)
{
    struct cli_common cfg;
    static const struct argp_option none[] = { { 0 } };
    cli_parse(argc, argv, "Numbers a summary, a prefix and low-rank updates take on real model shapes.", none, NULL,
              NULL, &cfg);
    cli_outputs_begin(&cfg);
    struct table *t = table_open(&cfg, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "numbers: trainable parameters; share_of_summary: over those of NTK-Attention with elu1; rows "
                  "break-even: the setting at which they are equal");
    struct breakeven vit = { 0 };
    for (size_t i = 0; i < NUM_SHAPES; i++) {
        const struct breakeven at = write_shape(t, &shapes[i]);
        if (i == 0) vit = at;
    }
    int code = table_close(t, EXIT_DONE);
    if (code) return cli_outputs_end(&cfg, code);
    struct verdicts *v = verdicts_open(&cfg, "parameter_count");
    const size_t d = shapes[0].head_dim;
    const double v1 = (double)d * (double)d + (double)d;
    size_t r;
    decide(v, "M3", "v1-elu1", summary_numbers("elu1", d, &r) / v1);
    const double taylor2 = summary_numbers("taylor:2", d, &r);
    decide(v, "M3", "v1-taylor2", taylor2 / v1);
    decide(v, "M3", "v2-taylor2", taylor2 / ((double)r * (double)d + (double)r));
    decide(v, "F64", "prefix", vit.prefix_len);
    decide(v, "F64", "lora", vit.lora_rank);
    return cli_outputs_end(&cfg, verdicts_close(v, code));
}
