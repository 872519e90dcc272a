/* A decoder over a user's own text: log-probabilities of its tokens, greedy continuation. */
#include "cli/text_file.h"

#include <limits.h>
#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "common/atomic_file.h"
#include "transformer/adapter_files.h"
#include "transformer/decoder_adapter.h"

static const char doc[] =
    "Reads a text with a Llama-shaped language model: log-probabilities of its tokens, and greedy continuation.\v"
    "The text is the file as it stands, a last newline included; without one, the model's start token. "
    "log-probabilities: number i is log p(token i+1 | tokens 0..i), one fewer than the tokens. The continuation goes "
    "to --out as it is made and ends early at the model's end token. Speed and peak memory go to stderr.";

/* Tokens read at a time, and rows of logits at a time. */
enum { CHUNK = 512, LOGIT_ROWS = 64 };

struct config {
    struct cli_common c;
    const char *backbone, *text, *adapter, *logprobs_out, *tokens_out, *generated_out;
    size_t generate;
};

enum { KEY_BACKBONE = 1, KEY_TEXT, KEY_LOGPROBS_OUT, KEY_TOKENS_OUT, KEY_GENERATE, KEY_GENERATED_OUT, KEY_ADAPTER };

static const struct argp_option options[] = {
    { "backbone", KEY_BACKBONE, "NAME", 0,
      "smollm2-135m, a FILE.gguf of a Llama-shaped model, or a Hugging Face folder (default smollm2-135m)", 1 },
    { "text", KEY_TEXT, "FILE", 0,
      "text in UTF-8; special tokens are read as they are spelt (default the start token alone)", 1 },
    { "prefix-adapter", KEY_ADAPTER, "DIR", 0, "what finetune wrote, LoRA or a prefix (PEFT), or a summary (Z, k)", 1 },
    { "logprobs-out", KEY_LOGPROBS_OUT, "FILE", 0, "write the log-probabilities, float32 NPY", 2 },
    { "tokens-out", KEY_TOKENS_OUT, "FILE", CLI_TABLE, "write the ids of the text's tokens, one row of CSV", 2 },
    { "generate", KEY_GENERATE, "N", 0, "tokens to continue the text by (default 0)", 3 },
    { "generated-out", KEY_GENERATED_OUT, "FILE", CLI_TABLE, "write the ids of the continuation, one row of CSV", 3 },
    { "out", CLI_COMMON, "FILE", CLI_TABLE, "where the continuation goes (default -: standard output)", 0 },
    CLI_NO_VERDICTS,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_BACKBONE: cfg->backbone = arg; return 0;
    case KEY_TEXT: cfg->text = arg; return 0;
    case KEY_ADAPTER: cfg->adapter = arg; return 0;
    case KEY_LOGPROBS_OUT: cfg->logprobs_out = arg; return 0;
    case KEY_TOKENS_OUT: cfg->tokens_out = arg; return 0;
    case KEY_GENERATE: return cli_parse_size(state, key, arg, 0, 1 << 20, &cfg->generate);
    case KEY_GENERATED_OUT: cfg->generated_out = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *config)
{
    const struct config *cfg = config;
    if (!cfg->generate && !cfg->logprobs_out && !cfg->tokens_out)
        return "--generate, --logprobs-out, --tokens-out: one of them is needed";
    if (cli_given("out") && !cfg->generate) return "--out: has no effect without --generate";
    if (cfg->generated_out && !cfg->generate) return "--generated-out: needs --generate";
    if ((cfg->logprobs_out || cfg->tokens_out) && !cfg->text) return "--logprobs-out, --tokens-out: need --text";
    return NULL;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- input --------------------------------------------------------------------------------- */

struct prompt { int32_t *ids; size_t count; };

static int read_prompt(const struct config *cfg, const struct decoder *decoder, const struct decoder_prefix *prefix,
                       struct prompt *prompt)
{
    char *text = NULL, line[256];
    size_t len = 0;
    int code = cfg->text ? text_file_input(&cfg->c, cfg->text, INT32_MAX / 8, &text, &len) : EXIT_DONE;
    if (code) goto done;
    int status = bpe_encode(decoder->bpe, text, len, &prompt->ids, &prompt->count,
                            (struct reason){ line, sizeof line });
    if (status) code = cli_fail(&cfg->c, cli_input_code(status), "%s: %s", cfg->text, line);
    const int starts = decoder->bos >= 0 && (decoder->add_bos || (!prompt->count && cfg->generate));
    if (!code && starts) {
        int32_t *longer = realloc(prompt->ids, (prompt->count + 1) * sizeof *longer);
        if (!longer) {
            code = cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
        } else {
            memmove(longer + 1, longer, prompt->count * sizeof *longer);
            longer[0] = decoder->bos;
            prompt->ids = longer;
            prompt->count++;
        }
    }
    if (!code && !prompt->count && cfg->generate)
        code = cli_fail(&cfg->c, EXIT_DATA, "an empty text, and the model has no start token");
    const size_t most = decoder->config.max_positions - (prefix ? prefix->positions : 0);
    if (!code && (prompt->count > most || cfg->generate > most - prompt->count))
        code = cli_fail(&cfg->c, EXIT_DATA, "%s: %zu tokens and %zu to come exceed the %zu positions of the model",
                        cfg->text ? cfg->text : cfg->backbone, prompt->count, cfg->generate, most);
done:
    free(text);
    return code;
}

/* ---- work ------------------------------------------------------------------------------------ */

/* One row of ids. */
static int write_ids(const struct config *cfg, const char *path, const int32_t *ids, size_t count)
{
    return text_file_write_ids(&cfg->c, path, ids, (const size_t[]){ 0, count }, 1);
}

/* Reads the prompt; logprobs NULL: not wanted. last (vocab_size): the logits after its last token. */
static int read_through(const struct config *cfg, const struct decoder *decoder, struct decoder_run *run,
                        const struct prompt *prompt, float *logprobs, float *last)
{
    const size_t hidden_size = decoder->config.hidden, vocab = decoder->config.vocab_size;
    float *hidden = malloc(CHUNK * hidden_size * sizeof *hidden), *logits = malloc(LOGIT_ROWS * vocab * sizeof *logits);
    int code = hidden && logits ? EXIT_DONE : cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    for (size_t at = 0; at < prompt->count && !code; at += CHUNK) {
        const size_t n = prompt->count - at < CHUNK ? prompt->count - at : CHUNK;
        code = cli_status(&cfg->c, decoder_read(run, prompt->ids + at, n, hidden), "reading the text");
        for (size_t i = 0; i < n && logprobs && !code; i += LOGIT_ROWS) {
            const size_t rows = n - i < LOGIT_ROWS ? n - i : LOGIT_ROWS;
            decoder_logits(decoder, hidden + i * hidden_size, rows, logits, cfg->c.threads);
            for (size_t r = 0; r < rows && at + i + r + 1 < prompt->count; r++) {
                decoder_log_softmax(logits + r * vocab, vocab);
                logprobs[at + i + r] = logits[r * vocab + (size_t)prompt->ids[at + i + r + 1]];
            }
        }
        if (!code && at + n == prompt->count)
            decoder_logits(decoder, hidden + (n - 1) * hidden_size, 1, last, cfg->c.threads);
        if (!code) code = cli_interrupted();
    }
    free(hidden);
    free(logits);
    return code;
}

/* Writes each token as it is found. *count: how many there were. */
static int generate(const struct config *cfg, const struct decoder *decoder, struct decoder_run *run, float *logits,
                    FILE *stream, int32_t *made, size_t *count)
{
    float *hidden = malloc(decoder->config.hidden * sizeof *hidden);
    int code = hidden ? EXIT_DONE : cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    for (*count = 0; *count < cfg->generate && !code;) {
        const int32_t id = decoder_argmax(logits, decoder->config.vocab_size);
        if (id == decoder->eos) break;
        size_t len;
        const char *bytes = bpe_bytes(decoder->bpe, id, &len);
        made[(*count)++] = id;
        /* The end of the output says why a write failed. */
        if (fwrite(bytes, 1, len, stream) != len || fflush(stream)) break;
        if (*count < cfg->generate) {
            code = cli_status(&cfg->c, decoder_read(run, &id, 1, hidden), "continuing the text");
            if (!code) decoder_logits(decoder, hidden, 1, logits, cfg->c.threads);
        }
        if (!code) code = cli_interrupted();
    }
    free(hidden);
    return code;
}

static void say_speed(const struct config *cfg, size_t read, double read_s, size_t made, double made_s)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    if (cfg->c.quiet) return;
    fprintf(stderr, "%s: read %zu tokens, %.1f a second", cfg->c.program, read,
            read_s > 0.0 ? (double)read / read_s : 0.0);
    if (cfg->generate) fprintf(stderr, "; made %zu, %.1f a second", made, made_s > 0.0 ? (double)made / made_s : 0.0);
    fprintf(stderr, "; peak memory %.0f MB\n", (double)usage.ru_maxrss / 1024.0);
}

static int continue_text(const struct config *cfg, const struct decoder *decoder, struct decoder_run *run,
                         float *logits, size_t *count)
{
    char why[256];
    struct atomic_file *file;
    int32_t *made = malloc(cfg->generate * sizeof *made);
    if (!made) return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    int code = atomic_file_open(cfg->c.out, &file, why, sizeof why) ? cli_fail(&cfg->c, EXIT_FAILED, "%s: %s",
                                                                               cfg->c.out, why) : EXIT_DONE;
    if (code) goto done;
    code = generate(cfg, decoder, run, logits, atomic_file_stream(file), made, count);
    if (code) {
        atomic_file_discard(file);
        goto done;
    }
    if (atomic_file_descriptor(cfg->c.out) >= 0 && isatty(atomic_file_descriptor(cfg->c.out)))
        fputc('\n', atomic_file_stream(file));
    if (atomic_file_finish(file, cfg->c.out, why, sizeof why))
        code = cli_fail(&cfg->c, EXIT_FAILED, "%s: %s", cfg->c.out, why);
    if (!code && cfg->generated_out) code = write_ids(cfg, cfg->generated_out, made, *count);
done:
    free(made);
    return code;
}

static int work(const struct config *cfg, const struct decoder *decoder, const struct decoder_prefix *prefix,
                const struct prompt *prompt)
{
    const size_t vocab = decoder->config.vocab_size, room = prompt->count + cfg->generate;
    const size_t count = prompt->count ? prompt->count - 1 : 0;
    struct decoder_run *run = NULL;
    int code = cli_memory(&cfg->c, (double)decoder_run_bytes(&decoder->config, room ? room : 1,
                                                             room < CHUNK ? room : CHUNK, cfg->c.threads) +
                                       4.0 * (double)decoder->num_weights + 4.0 * (double)(vocab * (LOGIT_ROWS + 1)),
                                           "the model and its cache");
    if (code) return code;
    float *logprobs = cfg->logprobs_out ? malloc((count + 1) * sizeof *logprobs) : NULL,
        *last = malloc(vocab * sizeof *last);
    if (!last || (cfg->logprobs_out && !logprobs) || decoder_run_alloc(decoder, prefix, room ? room : 1, CHUNK,
                                                                       cfg->c.threads, &run)) {
        code = cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
        goto done;
    }
    const double start = now();
    code = cfg->logprobs_out || cfg->generate ? read_through(cfg, decoder, run, prompt, logprobs, last) : EXIT_DONE;
    const double middle = now();
    size_t made = 0;
    if (!code && cfg->generate) code = continue_text(cfg, decoder, run, last, &made);
    if (!code) say_speed(cfg, decoder_run_length(run) ? prompt->count : 0, middle - start, made, now() - middle);
    if (!code && logprobs) code = cli_write_array(&cfg->c, cfg->logprobs_out, logprobs, NULL, 1, &count);
    if (!code && cfg->tokens_out) code = write_ids(cfg, cfg->tokens_out, prompt->ids, prompt->count);
done:
    decoder_run_free(run);
    free(logprobs);
    free(last);
    return code;
}

/* The decoder with its adapter: one of the two that finetune or others wrote. */
struct adapted {
    struct decoder_adapter *prefix;
    struct decoder_model *model;
    struct decoder_view *view;
};

static int open_adapted(const struct config *cfg, const struct decoder *decoder, struct adapted *a, struct reason why)
{
    struct adapter_description d = { .num_classes = 0 };
    char line[256];
    const struct reason inner = { line, sizeof line };
    const int described = !adapter_files_read(cfg->adapter, &d, inner);
    if (!described || (!d.is_decoder && d.options.method != ADAPTER_LORA))
        return decoder_adapter_open(cfg->adapter, decoder, &a->prefix, why);
    const enum decoder_rotation rotation = d.unrotated ? DECODER_UNROTATED : DECODER_ROTATED;
    const struct decoder_model_options o = { d.options, rotation, d.is_decoder ? d.num_classes : 0, cfg->c.seed, 0 };
    adapter_description_free(&d);
    if (decoder->half_pairs && !d.is_decoder && o.adapter.targets & (1u << PROJ_Q | 1u << PROJ_K))
        return refuse(why, GSL_EINVAL, "%.200s: LoRA of q or k of a Hugging Face folder is not read", cfg->adapter);
    int status = decoder_model_alloc(decoder, &o, &a->model, inner);
    if (!status) status = adapter_files_load_decoder(cfg->adapter, a->model, inner);
    if (!status && (status = decoder_model_view(a->model, &a->view))) refuse(inner, status, "out of memory");
    return status ? refuse(why, status, "%.200s: %s", cfg->adapter, line) : GSL_SUCCESS;
}

int main(int argc, char **argv)
{
    struct config cfg = { .backbone = "smollm2-135m" };
    cli_parse(argc, argv, doc, options, parse, check, &cfg.c);
    char line[PATH_MAX + 256];
    const struct reason why = { line, sizeof line };
    struct decoder *decoder = NULL;
    struct adapted adapted = { NULL, NULL, NULL };
    struct prompt prompt = { 0 };
    int status = decoder_open(cfg.backbone, NULL, &decoder, why);
    if (!status && cfg.adapter) status = open_adapted(&cfg, decoder, &adapted, why);
    const struct decoder *used = adapted.view ? &adapted.view->decoder : decoder;
    const struct decoder_prefix *prefix = adapted.view ? adapted.view->prefix
                                          : adapted.prefix ? decoder_adapter_prefix(adapted.prefix) : NULL;
    int code = status ? cli_fail(&cfg.c, cli_input_code(status), "%s", line) : EXIT_DONE;
    if (!code) code = read_prompt(&cfg, used, prefix, &prompt);
    if (!code) {
        cli_outputs_begin(&cfg.c);
        code = cli_outputs_end(&cfg.c, work(&cfg, used, prefix, &prompt));
    }
    free(prompt.ids);
    decoder_view_free(adapted.view);
    decoder_model_free(adapted.model);
    decoder_adapter_free(adapted.prefix);
    decoder_free(decoder);
    return code;
}
