#include "approximation/prompt_distill.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "transformer/adamw.h"

static const double WARMUP = 0.1;

struct prompt_distilled { struct decoder_model *model; struct decoder_view *view; };

void prompt_distilled_free(struct prompt_distilled *d)
{
    if (!d) return;
    decoder_view_free(d->view);
    decoder_model_free(d->model);
    free(d);
}

const struct decoder_piece *prompt_distilled_pieces(const struct prompt_distilled *d)
{
    return d->view->prefix->pieces;
}

int prompt_teach(const struct decoder *d, struct decoder_run *run, size_t prompt_len, const struct prompt_text *texts,
                 size_t num_texts, float *logprobs, int num_threads)
{
    const size_t hidden_size = d->config.hidden, vocab = d->config.vocab_size;
    size_t longest = 0;
    for (size_t i = 0; i < num_texts; i++)
        if (texts[i].len > longest) longest = texts[i].len;
    float *hidden = malloc((longest * hidden_size + 1) * sizeof *hidden);
    int status = hidden ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t i = 0; i < num_texts && !status; i++) {
        decoder_run_rewind(run, prompt_len);
        if ((status = decoder_read(run, texts[i].ids, texts[i].len, hidden))) break;
        decoder_logits(d, hidden, texts[i].len, logprobs, num_threads);
        for (size_t k = 0; k < texts[i].len; k++, logprobs += vocab) decoder_log_softmax(logprobs, vocab);
    }
    decoder_run_rewind(run, prompt_len);
    free(hidden);
    return status;
}

/* Arrays of a step: the texts of the batch, packed, and what each row is to predict. */
struct step {
    size_t *offsets, *rows;
    int32_t *ids;
    float *logprobs;
};

static int step_alloc(struct step *s, size_t batch, size_t rows, size_t vocab)
{
    *s = (struct step){ malloc((batch + 1) * sizeof *s->offsets), malloc(rows * sizeof *s->rows),
                        malloc(rows * sizeof *s->ids), malloc(rows * vocab * sizeof *s->logprobs) };
    return s->offsets && s->rows && s->ids && s->logprobs ? GSL_SUCCESS : GSL_ENOMEM;
}

static void step_free(struct step *s)
{
    free(s->offsets);
    free(s->rows);
    free(s->ids);
    free(s->logprobs);
}

/* Texts first, first + 1, ... of the order, which goes round. */
static struct decoder_batch pack(struct step *s, const struct prompt_text *texts, const size_t *starts,
                                 const size_t *order,
                                 size_t num_texts, size_t first, size_t batch, const float *logprobs, size_t vocab)
{
    s->offsets[0] = 0;
    for (size_t k = 0; k < batch; k++) {
        const size_t i = order[(first + k) % num_texts], at = s->offsets[k];
        s->offsets[k + 1] = at + texts[i].len;
        memcpy(s->ids + at, texts[i].ids, texts[i].len * sizeof *s->ids);
        memcpy(s->logprobs + at * vocab, logprobs + starts[i] * vocab, texts[i].len * vocab * sizeof *s->logprobs);
    }
    for (size_t r = 0; r < s->offsets[batch]; r++) s->rows[r] = r;
    return (struct decoder_batch){ .num_seqs = batch, .offsets = s->offsets, .ids = s->ids };
}

static int start_from(struct decoder_model *m, const struct decoder_config *c, const struct decoder_piece *start,
                      size_t len)
{
    const size_t width = c->kv_heads * c->head_dim, dim = c->head_dim;
    float *K = malloc(2 * len * width * sizeof *K), *V = K ? K + len * width : NULL;
    int status = K ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t l = 0; l < c->num_layers && !status; l++) {
        for (size_t g = 0; g < c->kv_heads; g++) {
            const struct decoder_piece *p = &start[l * c->kv_heads + g];
            if (p->len != len || p->log_weight) status = GSL_EINVAL;
            for (size_t j = 0; j < len && !status; j++) {
                memcpy(K + j * width + g * dim, p->K + j * dim, dim * sizeof *K);
                memcpy(V + j * width + g * dim, p->V + j * dim, dim * sizeof *V);
            }
        }
        if (!status) status = decoder_model_set_prefix(m, l, K, V, len);
    }
    free(K);
    return status;
}

/* Fisher-Yates. */
static void shuffle(size_t *order, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) order[i] = i;
    for (size_t i = n; i > 1; i--) {
        const size_t j = random_index(seed, RANDOM_STARTS, 0, i, i), x = order[i - 1];
        order[i - 1] = order[j];
        order[j] = x;
    }
}

static int train(struct decoder_model *m, const struct prompt_distill_options *o, const struct prompt_text *texts,
                 const size_t *starts, const size_t *order, size_t n, const float *logprobs, struct step *s,
                     double loss[2])
{
    const size_t vocab = decoder_model_base(m)->config.vocab_size, batch = o->batch < n ? o->batch : n;
    struct adamw_options adam = adamw_defaults();
    struct adamw *adamw = NULL;
    adam.weight_decay = 0.0;
    int status = adamw_alloc(decoder_model_parameters(m), decoder_model_num_parameters(m), &adam, &adamw);
    struct decoder_batch b = pack(s, texts, starts, order, n, 0, batch, logprobs, vocab);
    if (!status) status = decoder_model_calibrate(m, &b);
    for (size_t i = 0; i < o->steps && !status; i++) {
        b = pack(s, texts, starts, order, n, i * batch, batch, logprobs, vocab);
        const struct decoder_targets t = { .count = b.offsets[batch], .rows = s->rows, .logprobs = s->logprobs };
        status = decoder_model_forward(m, &b, 1);
        if (!status) status = decoder_model_loss(m, &t, 1, &loss[i > 0], NULL, NULL);
        if (!status && !isfinite(loss[i > 0])) status = GSL_EDOM;
        if (!status) status = decoder_model_backward(m);
        const double lr = o->lr * lr_factor(SCHEDULE_LINEAR, WARMUP, i, o->steps);
        if (!status) status = adamw_step(adamw, lr, lr, o->num_threads, NULL);
        if (!status) decoder_model_after_update(m);
    }
    adamw_free(adamw);
    return status;
}

int prompt_distill(const struct decoder *decoder, const struct prompt_distill_options *o,
                   const struct decoder_piece *start,
                   const struct prompt_text *texts, size_t num_texts, const float *logprobs,
                       struct prompt_distilled **out,
                   double loss[2])
{
    char line[160];
    const int tokens = o->adapter.method == ADAPTER_PTUNING;
    if (!num_texts || !o->steps || !o->batch || (tokens ? !start : o->adapter.method != ADAPTER_NTK)) return GSL_EINVAL;
    size_t longest = 0;
    struct prompt_distilled *d = calloc(1, sizeof *d);
    size_t *starts = calloc(num_texts + 1, sizeof *starts), *order = calloc(num_texts, sizeof *order);
    struct step s = { .offsets = NULL };
    int status = d && starts && order ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t i = 0; i < num_texts && !status; i++) {
        starts[i + 1] = starts[i] + texts[i].len;
        if (texts[i].len > longest) longest = texts[i].len;
    }
    const struct decoder_model_options options = { .adapter = o->adapter, .rotation = DECODER_ROTATED, .seed = o->seed,
                                                   .positions = o->positions };
    if (!status) status = decoder_model_alloc(decoder, &options, &d->model, (struct reason){ line, sizeof line });
    if (!status) status = decoder_model_reserve(d->model, o->batch * longest, longest, 1, o->num_threads);
    if (!status && tokens) status = start_from(d->model, &decoder->config, start, o->adapter.prefix_len);
    if (!status) status = step_alloc(&s, o->batch, o->batch * longest, decoder->config.vocab_size);
    if (!status) {
        shuffle(order, num_texts, o->seed);
        status = train(d->model, o, texts, starts, order, num_texts, logprobs, &s, loss);
    }
    if (!status) status = decoder_model_view(d->model, &d->view);
    step_free(&s);
    free(starts);
    free(order);
    if (status) prompt_distilled_free(d);
    else *out = d;
    return status;
}
