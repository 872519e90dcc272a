#include "transformer/lm_train.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_MAX_LEN = 256, MOST_CLASSES = 64 };

/* Examples one after the other: the tokens read, and which of them come after `learned` (the first row whose
 * successor is learned). */
struct texts {
    size_t *offsets;                /* (count + 1) of rows */
    size_t *learned;                /* (count) rows from the start */
    int32_t *ids;                   /* (rows + count): with the last token, which is only learned */
    float *cache;                   /* (rows, hidden) at block cache_layer, or NULL */
};

struct lm_inputs {
    const struct decoder *decoder;
    const struct task *task;
    int classifier;
    size_t max_len, longest, cache_layer;
    int32_t class_ids[MOST_CLASSES];
    struct texts splits[NUM_TASK_SPLITS];
};

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Row i of the ids of an example begins here: every example has one token more than rows. */
static size_t id_at(const struct texts *t, size_t i) { return t->offsets[i] + i; }
static size_t length(const struct texts *t, size_t i) { return t->offsets[i + 1] - t->offsets[i]; }

/* ---- tokens --------------------------------------------------------------------------------------------- */

static char *prompt_of(const struct task *task, const struct task_set *set, size_t i)
{
    char *text = NULL;
    const char *first = set->texts[i], *second = set->texts2 ? set->texts2[i] : NULL;
    int n;
    if (task->answers) n = asprintf(&text, "Question: %s\nAnswer:", first);
    else if (second) n = asprintf(&text, "%s\n\nQuestion: %s?\nAnswer:", second, first);
    else n = asprintf(&text, "%s\nAnswer:", first);
    return n < 0 ? NULL : text;
}

/* Tokens of " WORD". */
static int encode_word(const struct decoder *d, const char *word, int32_t **ids, size_t *count, struct reason why)
{
    char *text;
    if (asprintf(&text, " %s", word) < 0) return refuse(why, GSL_ENOMEM, "out of memory");
    const int status = bpe_encode(d->bpe, text, strlen(text), ids, count, why);
    free(text);
    return status;
}

/* The tokens of one example from `ids` on, at most max_len + 1, the last `num_learned` learned; its number of rows. */
static int add_example(struct lm_inputs *in, struct texts *t, size_t i, const int32_t *prompt, size_t num_prompt,
                       const int32_t *answer, size_t num_learned, struct reason why)
{
    const int end = in->task->answers;
    const size_t learned = num_learned + (size_t)end, room = in->max_len + 1;
    if (learned >= room) return refuse(why, GSL_EINVAL, "an answer of %zu tokens, %zu fit", learned, in->max_len);
    const size_t kept = least(num_prompt, room - learned), rows = kept + learned - 1, start = id_at(t, i);
    int32_t *grown = realloc(t->ids, (start + rows + 1) * sizeof *grown);
    if (!grown) return refuse(why, GSL_ENOMEM, "out of memory");
    t->ids = grown;
    memcpy(t->ids + start, prompt + num_prompt - kept, kept * sizeof *t->ids);
    memcpy(t->ids + start + kept, answer, num_learned * sizeof *t->ids);
    if (end) t->ids[start + rows] = in->decoder->eos;
    t->offsets[i + 1] = t->offsets[i] + rows;
    t->learned[i] = kept - 1;
    if (rows > in->longest) in->longest = rows;
    return GSL_SUCCESS;
}

static int tokenize(struct lm_inputs *in, enum task_split split, struct reason why)
{
    const struct task_set *set = &in->task->sets[split];
    struct texts *t = &in->splits[split];
    t->offsets = calloc(set->count + 1, sizeof *t->offsets);
    t->learned = calloc(set->count + 1, sizeof *t->learned);
    int status = t->offsets && t->learned ? GSL_SUCCESS : refuse(why, GSL_ENOMEM, "out of memory");
    for (size_t i = 0; i < set->count && !status; i++) {
        int32_t *prompt = NULL, *answer = NULL;
        size_t num_prompt, num_answer = 1;
        char *text = prompt_of(in->task, set, i);
        status = text ? bpe_encode(in->decoder->bpe, text, strlen(text), &prompt, &num_prompt, why)
                      : refuse(why, GSL_ENOMEM, "out of memory");
        if (!status && in->task->answers) status = encode_word(in->decoder, set->texts2[i], &answer, &num_answer, why);
        if (!status)
            status = add_example(in, t, i, prompt, num_prompt, answer ? answer : &in->class_ids[set->labels[i]],
                                 num_answer, why);
        free(text);
        free(prompt);
        free(answer);
    }
    return status;
}

/* The first tokens of the classes' names. */
static int name_classes(struct lm_inputs *in, struct reason why)
{
    const size_t n = in->task->num_classes;
    if (n > MOST_CLASSES) return refuse(why, GSL_EINVAL, "more than %d classes", MOST_CLASSES);
    for (size_t c = 0; c < n; c++) {
        int32_t *ids;
        size_t count;
        const int status = encode_word(in->decoder, in->task->class_names[c], &ids, &count, why);
        if (status) return status;
        in->class_ids[c] = count ? ids[0] : 0;
        free(ids);
        for (size_t k = 0; k < c && !in->classifier; k++)
            if (in->class_ids[k] == in->class_ids[c])
                return refuse(why, GSL_EINVAL,
                              "classes %.40s and %.40s begin with one token: a classifier tells them apart",
                              in->task->class_names[k], in->task->class_names[c]);
    }
    return GSL_SUCCESS;
}

int lm_inputs_alloc(const struct decoder *decoder, const struct task *task, size_t max_len, int classifier,
                    struct lm_inputs **out, struct reason why)
{
    if (task->modality != TASK_TEXT) return refuse(why, GSL_EINVAL, "task %.40s is of images, the backbone is not",
                                                   task->name);
    if (task->answers && classifier) return refuse(why, GSL_EINVAL, "task %.40s has answers, not classes", task->name);
    if (!decoder->bpe || (task->answers && decoder->eos < 0))
        return refuse(why, GSL_EINVAL, "the decoder has no tokens, or none that ends a text");
    if (max_len > decoder->config.max_positions)
        return refuse(why, GSL_EINVAL, "%zu tokens, the decoder takes %zu", max_len, decoder->config.max_positions);
    struct lm_inputs *in = calloc(1, sizeof *in);
    if (!in) return refuse(why, GSL_ENOMEM, "out of memory");
    *in = (struct lm_inputs){ .decoder = decoder, .task = task, .classifier = classifier,
                              .max_len = max_len ? max_len : least(DEFAULT_MAX_LEN, decoder->config.max_positions) };
    int status = task->answers ? GSL_SUCCESS : name_classes(in, why);
    for (int split = 0; split < NUM_TASK_SPLITS && !status; split++) status = tokenize(in, (enum task_split)split, why);
    if (status) lm_inputs_free(in);
    else *out = in;
    return status;
}

void lm_inputs_free(struct lm_inputs *in)
{
    if (!in) return;
    for (int split = 0; split < NUM_TASK_SPLITS; split++) {
        free(in->splits[split].offsets);
        free(in->splits[split].learned);
        free(in->splits[split].ids);
        free(in->splits[split].cache);
    }
    free(in);
}

const struct task *lm_inputs_task(const struct lm_inputs *in) { return in->task; }
size_t lm_inputs_max_len(const struct lm_inputs *in) { return in->longest; }
size_t lm_inputs_num_classes(const struct lm_inputs *in) { return in->classifier ? in->task->num_classes : 0; }

double lm_inputs_mean_len(const struct lm_inputs *in, enum task_split split)
{
    const size_t count = in->task->sets[split].count;
    return (double)in->splits[split].offsets[count] / (double)count;
}

/* ---- batches -------------------------------------------------------------------------------------------------- */

/* One batch and what its rows are to predict. */
struct lm_batch {
    struct decoder_batch batch;
    struct decoder_targets targets;
    size_t *offsets, *rows, *first;     /* first (seqs + 1): the targets of each example */
    int32_t *ids, *target_ids;
    float *hidden;
};

static void batch_free(struct lm_batch *b)
{
    free(b->offsets);
    free(b->rows);
    free(b->first);
    free(b->ids);
    free(b->target_ids);
    free(b->hidden);
}

/* Room for `seqs` examples. Candidates: every class of a task of classes is asked for. */
static int batch_alloc(const struct lm_inputs *in, size_t seqs, struct lm_batch *b)
{
    const size_t rows = seqs * in->longest, candidates = rows + seqs * in->task->num_classes;
    *b = (struct lm_batch){ .offsets = malloc((seqs + 1) * sizeof *b->offsets),
                            .rows = malloc((candidates + 1) * sizeof *b->rows),
                            .first = malloc((seqs + 1) * sizeof *b->first), .ids = malloc((rows + 1) * sizeof *b->ids),
                            .target_ids = malloc((candidates + 1) * sizeof *b->target_ids),
                            .hidden = malloc((rows * in->decoder->config.hidden + 1) * sizeof *b->hidden) };
    if (b->offsets && b->rows && b->first && b->ids && b->target_ids && b->hidden) return GSL_SUCCESS;
    batch_free(b);
    return GSL_ENOMEM;
}

/* Examples index[0..n-1]; highest: the cache is used when its block lies no higher. all_classes: each class is a
 * target. */
static void gather(const struct lm_inputs *in, enum task_split split, const size_t *index, size_t n, size_t highest,
                   int all_classes, struct lm_batch *b)
{
    const struct texts *t = &in->splits[split];
    const size_t h = in->decoder->config.hidden, classes = in->task->num_classes;
    const int cached = t->cache && in->cache_layer <= highest;
    size_t count = 0;
    b->offsets[0] = b->first[0] = 0;
    for (size_t k = 0; k < n; k++) {
        const size_t i = index[k], len = length(t, i), to = b->offsets[k];
        const int32_t *ids = t->ids + id_at(t, i);
        b->offsets[k + 1] = to + len;
        if (cached) memcpy(b->hidden + to * h, t->cache + t->offsets[i] * h, len * h * sizeof *b->hidden);
        else memcpy(b->ids + to, ids, len * sizeof *ids);
        for (size_t c = 0; all_classes && c < classes; c++) {
            b->rows[count] = to + len - 1;
            b->target_ids[count++] = in->class_ids[c];
        }
        for (size_t row = t->learned[i]; !all_classes && row < len; row++) {
            b->rows[count] = to + row;
            b->target_ids[count++] = in->classifier ? in->task->sets[split].labels[i] : ids[row + 1];
        }
        b->first[k + 1] = count;
    }
    b->targets = (struct decoder_targets){ .count = count, .rows = b->rows, .ids = b->target_ids };
    b->batch = (struct decoder_batch){ .num_seqs = n, .offsets = b->offsets, .ids = cached ? NULL : b->ids,
                                       .hidden = cached ? b->hidden : NULL, .first_layer = cached ? in->cache_layer :
                                           0 };
}

/* ---- evaluation ------------------------------------------------------------------------------------------------- */

int lm_reserve(struct decoder_model *model, const struct lm_inputs *in, size_t batch, int training, int num_threads)
{
    return decoder_model_reserve(model, batch * in->longest, in->longest, training, num_threads);
}

/* Of one batch: adds to the sums of losses and of their number. */
static int evaluate_batch(struct decoder_model *model, const struct lm_inputs *in, enum task_split split,
                          const size_t *index, size_t n, struct lm_batch *b, double *losses, int32_t *likeliest,
                          int32_t *predicted, double *sum, size_t *count)
{
    const size_t highest = decoder_model_first_trained_layer(model), classes = in->task->num_classes;
    const int named = !in->task->answers && !in->classifier;
    double mean;
    gather(in, split, index, n, highest, 0, b);
    int status = decoder_model_forward(model, &b->batch, 0);
    if (!status) status = decoder_model_loss(model, &b->targets, 0, &mean, losses, likeliest);
    if (status) return status;
    for (size_t k = 0; k < b->targets.count; k++) *sum += losses[k];
    *count += b->targets.count;
    for (size_t k = 0; k < n; k++) {
        predicted[k] = in->classifier ? likeliest[b->first[k]] : 1;
        for (size_t i = b->first[k]; in->task->answers && i < b->first[k + 1]; i++)
            if (likeliest[i] != b->target_ids[i]) predicted[k] = 0;
    }
    if (!named) return GSL_SUCCESS;
    gather(in, split, index, n, highest, 1, b);
    if ((status = decoder_model_loss(model, &b->targets, 0, &mean, losses, NULL))) return status;
    for (size_t k = 0; k < n; k++) {
        predicted[k] = 0;
        for (size_t c = 1; c < classes; c++)
            if (losses[k * classes + c] < losses[k * classes + (size_t)predicted[k]]) predicted[k] = (int32_t)c;
    }
    return GSL_SUCCESS;
}

int lm_evaluate(struct decoder_model *model, struct lm_inputs *in, enum task_split split, size_t batch,
                struct evaluation *out, int32_t *predicted)
{
    const struct task_set *set = &in->task->sets[split];
    const size_t seqs = batch, candidates = seqs * (in->longest + in->task->num_classes);
    struct lm_batch b = { .offsets = NULL };
    size_t *index = malloc(seqs * sizeof *index), right = 0, tokens = 0;
    double *losses = malloc(candidates * sizeof *losses), sum = 0.0;
    int32_t *likeliest = malloc(candidates * sizeof *likeliest), *own = malloc(seqs * sizeof *own);
    int status = index && losses && likeliest && own ? batch_alloc(in, seqs, &b) : GSL_ENOMEM;
    const int allocated = !status;
    for (size_t i = 0; i < set->count && !status; i += seqs) {
        const size_t n = least(seqs, set->count - i);
        for (size_t k = 0; k < n; k++) index[k] = i + k;
        status = evaluate_batch(model, in, split, index, n, &b, losses, likeliest, own, &sum, &tokens);
        for (size_t k = 0; k < n && !status; k++) {
            right += in->task->answers ? own[k] == 1 : own[k] == set->labels[i + k];
            if (predicted) predicted[i + k] = own[k];
        }
    }
    if (allocated) batch_free(&b);
    free(index);
    free(losses);
    free(likeliest);
    free(own);
    if (!status) *out = (struct evaluation){ sum / (double)tokens, (double)right / (double)set->count, set->count };
    return status;
}

/* ---- training
 * ------------------------------------------------------------------------------------------------------ */

struct tuning {
    struct decoder_model *model;
    struct lm_inputs *in;
    struct train_options options;
    struct lm_batch batch;
};

size_t lm_inputs_cache_bytes(const struct lm_inputs *in)
{
    size_t rows = 0;
    for (int split = 0; split < NUM_TASK_SPLITS; split++) rows +=
        in->splits[split].offsets[in->task->sets[split].count];
    return rows * in->decoder->config.hidden * sizeof(float);
}

static int fill_cache(struct lm_inputs *in, struct decoder_model *model, size_t layer, size_t seqs, struct lm_batch *b,
                      size_t *index)
{
    const size_t h = in->decoder->config.hidden;
    int status = GSL_SUCCESS;
    for (int split = 0; split < NUM_TASK_SPLITS && !status; split++) {
        struct texts *texts = &in->splits[split];
        const size_t count = in->task->sets[split].count;
        free(texts->cache);
        texts->cache = NULL;
        float *cache = malloc((texts->offsets[count] * h + 1) * sizeof *cache);
        if (!cache) return GSL_ENOMEM;
        for (size_t i = 0; i < count && !status; i += seqs) {
            const size_t n = least(seqs, count - i);
            for (size_t k = 0; k < n; k++) index[k] = i + k;
            gather(in, (enum task_split)split, index, n, 0, 0, b);
            status = decoder_model_hidden(model, &b->batch, layer, cache + texts->offsets[i] * h);
        }
        if (status) free(cache);
        else texts->cache = cache;
    }
    in->cache_layer = layer;
    return status;
}

int lm_inputs_cache(struct lm_inputs *in, size_t layer, size_t batch, int num_threads)
{
    char line[128];
    /* A classifier, so that nothing is copied. */
    const struct decoder_model_options plain = { .adapter = adapter_defaults(ADAPTER_HEAD), .num_classes = 1 };
    struct decoder_model *model = NULL;
    struct lm_batch b = { .offsets = NULL };
    size_t *index = malloc(batch * sizeof *index);
    int status = index ? decoder_model_alloc(in->decoder, &plain, &model, (struct reason){ line, sizeof line }) :
        GSL_ENOMEM;
    if (!status) status = lm_reserve(model, in, batch, 0, num_threads);
    if (!status && !(status = batch_alloc(in, batch, &b))) {
        status = fill_cache(in, model, layer, batch, &b, index);
        batch_free(&b);
    }
    decoder_model_free(model);
    free(index);
    return status;
}

static int prepare(void *context, const size_t *order, size_t n)
{
    struct tuning *t = context;
    const size_t layer = decoder_model_first_trained_layer(t->model);
    const int has = t->in->splits[TASK_TEST].cache && t->in->cache_layer <= layer;
    int status = GSL_SUCCESS;
    if (layer && !has && lm_inputs_cache_bytes(t->in) <= t->options.cache_bytes)
        status = lm_inputs_cache(t->in, layer, t->options.batch, t->options.num_threads);
    if (status) return status;
    gather(t->in, TASK_TRAIN, order, least(n, t->options.batch), layer, 0, &t->batch);
    return decoder_model_calibrate(t->model, &t->batch.batch);
}

static int step(void *context, const size_t *index, size_t n, double *loss)
{
    struct tuning *t = context;
    gather(t->in, TASK_TRAIN, index, n, decoder_model_first_trained_layer(t->model), 0, &t->batch);
    int status = decoder_model_forward(t->model, &t->batch.batch, 1);
    if (!status) status = decoder_model_loss(t->model, &t->batch.targets, 1, loss, NULL, NULL);
    if (status) return status;
    return isfinite(*loss) ? decoder_model_backward(t->model) : GSL_EDOM;
}

static int evaluate(void *context, struct evaluation *out)
{
    struct tuning *t = context;
    return lm_evaluate(t->model, t->in, TASK_VALIDATION, t->options.batch, out, NULL);
}

static void after_update(void *context) { decoder_model_after_update(((struct tuning *)context)->model); }

static void close_tuning(void *context)
{
    batch_free(&((struct tuning *)context)->batch);
    free(context);
}

size_t lm_train_bytes(const struct decoder_model *model, const struct lm_inputs *in,
                      const struct train_options *options)
{
    const size_t seqs = options->batch, cache = lm_inputs_cache_bytes(in);
    size_t trained = 0;
    for (int group = PARAM_HEAD; group <= PARAM_BACKBONE; group++)
        trained += decoder_model_trainable(model, (enum parameter_group)group);
    size_t bytes = decoder_model_bytes(model, seqs * in->longest, in->longest, 1, options->num_threads);
    if (bytes == SIZE_MAX) return bytes;
    bytes += (options->keep_best ? 3 : 2) * trained * sizeof(float);
    if (decoder_model_first_trained_layer(model) && cache <= options->cache_bytes) bytes += cache;
    return bytes;
}

int lm_train_alloc(struct decoder_model *model, struct lm_inputs *in, const struct train_options *options,
                   struct train **out, struct reason why)
{
    const size_t seqs = options->batch;
    struct tuning *t = calloc(1, sizeof *t);
    if (!t) return refuse(why, GSL_ENOMEM, "out of memory");
    *t = (struct tuning){ .model = model, .in = in, .options = *options };
    int status = lm_reserve(model, in, options->batch, 1, options->num_threads);
    if (!status) status = batch_alloc(in, seqs, &t->batch);
    if (status) {
        free(t);
        return refuse(why, status, status == GSL_ENOMEM ? "out of memory" : "%s", gsl_strerror(status));
    }
    const struct train_target target = { .context = t, .parameters = decoder_model_parameters(model),
                                         .num_parameters = decoder_model_num_parameters(model),
                                         .count = in->task->sets[TASK_TRAIN].count, .prepare = prepare, .step = step,
                                         .evaluate = evaluate, .after_update = after_update, .close = close_tuning };
    return train_alloc_target(&target, options, out, why);
}

/* ---- decoding
 * ---------------------------------------------------------------------------------------------------------- */

/* The first word behind the last "####", else the first word. */
static void final_word(const char *text, char word[64])
{
    const char *at = text, *mark;
    while ((mark = strstr(at, "####"))) at = mark + 4;
    at += strspn(at, " \n\t");
    snprintf(word, 64, "%.*s", (int)strcspn(at, " \n\t"), at);
}

/* The continuation of one prompt as text. */
static int continue_text(const struct decoder_view *view, struct decoder_run *run, const int32_t *prompt, size_t n,
                         size_t max_new, float *hidden, float *logits, int num_threads, char *text, size_t room)
{
    const struct decoder *d = &view->decoder;
    size_t used = 0;
    text[0] = '\0';
    decoder_run_rewind(run, 0);
    int status = decoder_read(run, prompt, n, hidden);
    const float *last = hidden + (n - 1) * d->config.hidden;
    for (size_t made = 0; !status && made < max_new; made++) {
        decoder_logits(d, last, 1, logits, num_threads);
        const int32_t id = decoder_argmax(logits, d->config.vocab_size);
        size_t len;
        const char *bytes = bpe_bytes(d->bpe, id, &len);
        if (id == d->eos || used + len + 1 > room) break;
        memcpy(text + used, bytes, len);
        used += len;
        text[used] = '\0';
        if (made + 1 < max_new) status = decoder_read(run, &id, 1, hidden);
        last = hidden;
    }
    return status;
}

int lm_decode(struct decoder_model *model, const struct lm_inputs *in, enum task_split split, size_t max_new,
              int32_t *right, int num_threads)
{
    const struct texts *t = &in->splits[split];
    const struct task_set *set = &in->task->sets[split];
    const size_t room = 16 * max_new + 1, hidden_size = in->decoder->config.hidden;
    if (!in->task->answers) return GSL_EINVAL;
    struct decoder_view *view = NULL;
    struct decoder_run *run = NULL;
    char *text = malloc(room), want[64], got[64];
    float *hidden = malloc((in->longest + 1) * hidden_size * sizeof *hidden);
    float *logits = malloc(in->decoder->config.vocab_size * sizeof *logits);
    int status = text && hidden && logits ? decoder_model_view(model, &view) : GSL_ENOMEM;
    if (!status)
        status = decoder_run_alloc(&view->decoder, view->prefix, in->longest + max_new, in->longest, num_threads, &run);
    for (size_t i = 0; i < set->count && !status; i++) {
        status = continue_text(view, run, t->ids + id_at(t, i), t->learned[i] + 1, max_new, hidden, logits, num_threads,
                               text, room);
        final_word(set->texts2[i], want);
        final_word(text, got);
        right[i] = !strcmp(want, got);
    }
    decoder_run_free(run);
    decoder_view_free(view);
    free(text);
    free(hidden);
    free(logits);
    return status;
}
