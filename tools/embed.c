/* Vectors of texts or images from a pretrained backbone: what its blocks hold, pooled or token by token. */
#include "cli/text_file.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/npy.h"
#include "transformer/backbone.h"
#include "transformer/inputs.h"
#include "transformer/model.h"
#include "transformer/wordpiece.h"

static const char doc[] =
    "Embeds texts or images by a pretrained backbone: one row of --out per line of text or image, or per token with "
    "--pool none.\v"
    "Nothing is normalised: rows are what leaves the block, `final` including the last norm of a pre-norm model. The "
    "mean "
    "is over all tokens of a text, specials included, and over the patches of an image. Images are not resized.";

enum { BATCH = 32, POOL_NONE = 2 };

struct config {
    struct cli_common c;
    const char *backbone, *text, *images, *tokens_out;
    size_t layer, max_len;              /* layer MODEL_FINAL: the end */
    int pool;
};

enum { KEY_BACKBONE = 1, KEY_TEXT, KEY_IMAGES, KEY_LAYER, KEY_POOL, KEY_MAX_LEN, KEY_TOKENS_OUT };

static const struct argp_option options[] = {
    { "backbone", KEY_BACKBONE, "NAME|DIR", 0,
      "vit-fashion, minilm, ..., or a Hugging Face folder (default minilm with --text, vit-fashion with --images)", 1 },
    { "text", KEY_TEXT, "FILE", 0, "texts in UTF-8, one a line", 1 },
    { "images", KEY_IMAGES, "X.npy", 0,
      "(n,h,w) or (n,h,w,3): bytes 0..255 or floats 0..1, of a size divisible by the patch", 1 },
    { "layer", KEY_LAYER, "L|final", 0, "block, counted from 0, whose output is taken (default final)", 2 },
    { "pool", KEY_POOL, "NAME", 0, "cls, mean or none (default mean)", 2 },
    { "max-len", KEY_MAX_LEN, "N", 0, "tokens of a text at most, specials included (default what the backbone takes)",
      2 },
    { "tokens-out", KEY_TOKENS_OUT, "FILE", CLI_TABLE, "write the ids of the tokens, one row of CSV per text", 3 },
    { "out", CLI_COMMON, "FILE", 0, "where the rows go, .npy or .csv (required)", 0 },
    CLI_NO_VERDICTS,
    { 0 }
};

static const char *const pool_names[] = { "cls", "mean", "none", NULL };

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_BACKBONE: cfg->backbone = arg; return 0;
    case KEY_TEXT: cfg->text = arg; return 0;
    case KEY_IMAGES: cfg->images = arg; return 0;
    case KEY_LAYER:
        if (strcmp(arg, "final")) return cli_parse_size(state, key, arg, 0, 1000, &cfg->layer);
        cfg->layer = MODEL_FINAL;
        return 0;
    case KEY_POOL: return cli_parse_choice(state, key, arg, pool_names, &cfg->pool);
    case KEY_MAX_LEN: return cli_parse_size(state, key, arg, 3, 1u << 16, &cfg->max_len);
    case KEY_TOKENS_OUT: cfg->tokens_out = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *config)
{
    struct config *cfg = config;
    if (!cfg->text == !cfg->images) return "--text, --images: one of them is needed";
    if (cfg->images && cfg->tokens_out) return "--tokens-out: has no effect with --images";
    if (cfg->images && cfg->max_len) return "--max-len: has no effect with --images";
    if (!strcmp(cfg->c.out, "-")) return "--out: a file is required";
    if (!cfg->backbone) cfg->backbone = cfg->text ? "minilm" : "vit-fashion";
    return NULL;
}

/* ---- input ------------------------------------------------------------------------------------------------ */

/* Sequences one after the other: tokens, or pixels (count, channels, height, width), normalised. */
struct sequences {
    size_t count, longest, height, width;
    size_t *offsets;                    /* (count + 1) */
    int32_t *ids;
    float *pixels;
};

static void sequences_free(struct sequences *s)
{
    free(s->offsets);
    free(s->ids);
    free(s->pixels);
}

/* Cuts the text into lines in place, without their ends and a byte order mark. */
static int cut_lines(const struct config *cfg, char *text, size_t len, char ***lines, size_t *count)
{
    size_t room = 1, n = 0;
    for (size_t i = 0; i < len; i++) room += text[i] == '\n';
    if (!(*lines = malloc(room * sizeof **lines)))
        return cli_fail(&cfg->c, EXIT_FAILED, "%s: out of memory", cfg->text);
    char *at = text, *end = text + len;
    if (len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) at += 3;
    while (at < end) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        if (memchr(at, '\0', (size_t)(stop - at)))
            return cli_fail(&cfg->c, EXIT_DATA, "%s: line %zu: a NUL", cfg->text, n + 1);
        *stop = '\0';
        if (stop > at && stop[-1] == '\r') stop[-1] = '\0';
        utf8proc_int32_t code;
        for (const char *c = at; *c;) {
            const utf8proc_ssize_t step = utf8proc_iterate((const utf8proc_uint8_t *)c, -1, &code);
            if (step <= 0) return cli_fail(&cfg->c, EXIT_DATA, "%s: line %zu: not UTF-8", cfg->text, n + 1);
            c += step;
        }
        (*lines)[n++] = at;
        at = stop + 1;
    }
    *count = n;
    return n ? EXIT_DONE : cli_fail(&cfg->c, EXIT_DATA, "%s: no line of text", cfg->text);
}

static int encode_lines(const struct config *cfg, const struct wordpiece *w, size_t max_len, char *const *lines,
                        struct sequences *s)
{
    size_t room = 0, at = 0;
    if (!(s->offsets = calloc(s->count + 1, sizeof *s->offsets))) return GSL_ENOMEM;
    for (size_t i = 0; i < s->count; i++) {
        if (room - at < max_len) {
            room = 2 * room + max_len;
            int32_t *grown = realloc(s->ids, room * sizeof *grown);
            if (!grown) return GSL_ENOMEM;
            s->ids = grown;
        }
        size_t len;
        const int status = wordpiece_encode(w, lines[i], NULL, max_len, s->ids + at, NULL, &len);
        if (status) return status;
        if (len == max_len && !cfg->max_len)
            cli_warn(&cfg->c, "%s: line %zu: perhaps cut at the %zu tokens the backbone takes", cfg->text, i + 1, len);
        at += len;
        s->offsets[i + 1] = at;
        if (len > s->longest) s->longest = len;
    }
    return GSL_SUCCESS;
}

static int read_texts(const struct config *cfg, const struct backbone *b, struct sequences *s)
{
    const size_t most = b->config.max_positions - b->config.position_offset, max_len = cfg->max_len ? cfg->max_len
        : most;
    char line[512], *text = NULL, **lines = NULL;
    size_t len = 0;
    struct wordpiece *w = NULL;
    if (max_len > most)
        return cli_fail(&cfg->c, EXIT_USAGE, "--max-len: %zu tokens, the backbone takes %zu", max_len, most);
    if (!b->vocab_path) return cli_fail(&cfg->c, EXIT_DATA, "%s: has no vocabulary (vocab.txt)", cfg->backbone);
    int status = wordpiece_open(b->vocab_path, &w, (struct reason){ line, sizeof line });
    if (status) return cli_bad_input(&cfg->c, status, cfg->backbone, line);
    int code = EXIT_DONE;
    if (wordpiece_size(w) > b->config.vocab_size)
        code = cli_fail(&cfg->c, EXIT_DATA, "%s: vocab.txt has %zu tokens, the backbone %zu", cfg->backbone,
                        wordpiece_size(w), b->config.vocab_size);
    if (!code) code = text_file_input(&cfg->c, cfg->text, SIZE_MAX - 1, &text, &len);
    if (!code) code = cut_lines(cfg, text, len, &lines, &s->count);
    if (!code && (status = encode_lines(cfg, w, max_len, lines, s)))
        code = cli_fail(&cfg->c, EXIT_FAILED, "%s: %s", cfg->text, status == GSL_ENOMEM ? "out of memory"
                        : gsl_strerror(status));
    wordpiece_free(w);
    free(lines);
    free(text);
    return code;
}

/* Channel `to` of pixel `at`, as 0..1: grey serves every channel; colours become grey by Rec. 601. */
static double pixel(const double *at, size_t channels, size_t to, size_t wanted, double unit)
{
    if (channels == 1) return unit * at[0];
    if (wanted == 3) return unit * at[to];
    return unit * (0.299 * at[0] + 0.587 * at[1] + 0.114 * at[2]);
}

static int check_images(const struct config *cfg, const struct backbone_config *c, const struct npy *a)
{
    const int bytes = !strcmp(a->type, "|u1"), floats = strchr(a->type, 'f') != NULL;
    if (!bytes && !floats)
        return cli_fail(&cfg->c, EXIT_DATA, "%s: numbers of type %s, not bytes or floats", cfg->images, a->type);
    if ((a->rank != 3 && a->rank != 4) || (a->rank == 4 && a->shape[3] != 3) || !a->size)
        return cli_fail(&cfg->c, EXIT_DATA, "%s: not of shape (n, h, w) or (n, h, w, 3)", cfg->images);
    if (a->shape[1] % c->patch_size || a->shape[2] % c->patch_size)
        return cli_fail(&cfg->c, EXIT_DATA, "%s: images of %zu x %zu, not divisible by the patch, %zu", cfg->images,
                        a->shape[1], a->shape[2], c->patch_size);
    for (size_t i = 0; floats && i < a->size; i++)
        if (!(a->f64[i] >= 0.0 && a->f64[i] <= 1.0))
            return cli_fail(&cfg->c, EXIT_DATA, "%s: %g is not a pixel value 0..1", cfg->images, a->f64[i]);
    return EXIT_DONE;
}

static int read_images(const struct config *cfg, const struct backbone *b, struct sequences *s)
{
    const struct backbone_config *c = &b->config;
    char why[256];
    struct npy a;
    const int status = npy_read_numbers(cfg->images, &a, why, sizeof why);
    if (status) return cli_bad_input(&cfg->c, status, cfg->images, why);
    int code = check_images(cfg, c, &a);
    if (code) goto done;
    const size_t channels = a.rank == 4 ? 3 : 1, plane = a.shape[1] * a.shape[2];
    const double unit = strcmp(a.type, "|u1") ? 1.0 : 1.0 / 255.0;
    *s = (struct sequences){ .count = a.shape[0], .height = a.shape[1], .width = a.shape[2],
                             .longest = 1 + a.shape[1] / c->patch_size * (a.shape[2] / c->patch_size) };
    s->offsets = malloc((s->count + 1) * sizeof *s->offsets);
    s->pixels = malloc(s->count * c->channels * plane * sizeof *s->pixels);
    if (!s->offsets || !s->pixels) {
        code = cli_fail(&cfg->c, EXIT_FAILED, "%s: out of memory", cfg->images);
        goto done;
    }
    for (size_t i = 0; i <= s->count; i++) s->offsets[i] = i * s->longest;
    for (size_t i = 0; i < s->count * plane; i++)
        for (size_t k = 0; k < c->channels; k++) {
            const double x = pixel(a.f64 + i * channels, channels, k, c->channels, unit);
            s->pixels[(i / plane * c->channels + k) * plane + i % plane] = (float)((x - c->mean[k]) / c->std[k]);
        }
done:
    npy_free(&a);
    return code;
}

/* ---- work ------------------------------------------------------------------------------------------------------ */

/* hidden: room for a batch of rows. out (count, hidden), or all rows with --pool none. */
static int embed(const struct config *cfg, struct model *model, const struct sequences *s, float *hidden, float *out)
{
    const struct backbone_config *c = &model_backbone(model)->config;
    const size_t h = c->hidden, layer = cfg->layer == MODEL_FINAL ? MODEL_FINAL : cfg->layer + 1;
    const size_t image = c->channels * s->height * s->width;
    size_t offsets[BATCH + 1];
    struct progress *p = progress_start(&cfg->c, "embedding", (double)s->count);
    int code = EXIT_DONE;
    for (size_t i = 0; i < s->count && !code; i += BATCH) {
        const size_t n = s->count - i < BATCH ? s->count - i : BATCH, first = s->offsets[i];
        for (size_t k = 0; k <= n; k++) offsets[k] = s->offsets[i + k] - first;
        struct batch batch = { .num_seqs = n, .offsets = offsets };
        if (s->ids) {
            batch.ids = s->ids + first;
        } else {
            batch.pixels = s->pixels + i * image;
            batch.image_h = s->height;
            batch.image_w = s->width;
        }
        float *rows = cfg->pool == POOL_NONE ? out + first * h : hidden;
        code = cli_status(&cfg->c, model_hidden(model, &batch, layer, rows), "the backbone");
        if (!code && cfg->pool != POOL_NONE)
            model_pool_rows(rows, offsets, n, h, (enum model_pool)cfg->pool, s->pixels != NULL, out + i * h);
        progress_to(p, (double)(i + n));
        if (!code) code = cli_interrupted();
    }
    progress_end(p);
    return code;
}

static size_t most_rows(const struct sequences *s)
{
    size_t most = 0;
    for (size_t i = 0; i < s->count; i += BATCH) {
        const size_t n = s->count - i < BATCH ? s->count - i : BATCH, rows = s->offsets[i + n] - s->offsets[i];
        if (rows > most) most = rows;
    }
    return most;
}

static int write_all(const struct config *cfg, const struct sequences *s, const float *out, size_t rows, size_t hidden)
{
    cli_outputs_begin(&cfg->c);
    int code = cfg->tokens_out ? text_file_write_ids(&cfg->c, cfg->tokens_out, s->ids, s->offsets, s->count)
        : EXIT_DONE;
    if (!code) code = cli_write_array(&cfg->c, cfg->c.out, out, NULL, 2, (const size_t[]){ rows, hidden });
    return cli_outputs_end(&cfg->c, code);
}

static int work(const struct config *cfg, const struct backbone *b, const struct sequences *s)
{
    const struct adapter_options none = adapter_defaults(ADAPTER_HEAD);
    const size_t h = b->config.hidden, batch_rows = most_rows(s), out_rows = cfg->pool == POOL_NONE
        ? s->offsets[s->count] : s->count;
    char line[512];
    struct model *model = NULL;
    float *hidden = NULL, *out = NULL;
    int status = model_alloc(b, &none, 0, POOL_MEAN, b->config.num_layers, cfg->c.seed, &model,
                             (struct reason){ line, sizeof line });
    if (status) return cli_bad_input(&cfg->c, status, cfg->backbone, line);
    int code = cli_memory(&cfg->c, (double)model_bytes(model, batch_rows, BATCH, s->longest, 0, cfg->c.threads) +
                                       4.0 * (double)(batch_rows + out_rows) * (double)h, "the backbone and its rows");
    if (code) goto done;
    hidden = malloc(batch_rows * h * sizeof *hidden);
    out = malloc(out_rows * h * sizeof *out);
    status = hidden && out ? model_reserve(model, batch_rows, BATCH, s->longest, 0, cfg->c.threads) : GSL_ENOMEM;
    code = cli_status(&cfg->c, status, "the backbone");
    if (!code) code = embed(cfg, model, s, hidden, out);
    if (!code) code = write_all(cfg, s, out, out_rows, h);
done:
    free(out);
    free(hidden);
    model_free(model);
    return code;
}

int main(int argc, char **argv)
{
    static struct config cfg = { .layer = MODEL_FINAL, .pool = POOL_MEAN };
    cli_parse(argc, argv, doc, options, parse, check, &cfg.c);
    char line[512];
    struct backbone *b = NULL;
    struct sequences s = { .count = 0 };
    const int status = backbone_open(cfg.backbone, &b, (struct reason){ line, sizeof line });
    int code = status ? cli_bad_input(&cfg.c, status, cfg.backbone, line) : EXIT_DONE;
    if (!code && !cfg.text != (b->config.kind == BACKBONE_VIT))
        code = cli_fail(&cfg.c, EXIT_USAGE, "--%s: %s is a backbone of %s", cfg.text ? "text" : "images", cfg.backbone,
                        cfg.text ? "images" : "texts");
    if (!code && cfg.layer != MODEL_FINAL && cfg.layer >= b->config.num_layers)
        code = cli_fail(&cfg.c, EXIT_USAGE, "--layer: %zu, the blocks of %s are 0..%zu", cfg.layer, cfg.backbone,
                        b->config.num_layers - 1);
    if (!code) code = cfg.text ? read_texts(&cfg, b, &s) : read_images(&cfg, b, &s);
    if (!code) code = work(&cfg, b, &s);
    sequences_free(&s);
    backbone_free(b);
    return code;
}
