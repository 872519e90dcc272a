#include "transformer/inputs.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "transformer/wordpiece.h"

enum { DEFAULT_MAX_LEN = 128, SMALL_IMAGE = 64, PATCHES = 7 };
#define NO_LAYER ((size_t)-1)

struct split_rows {
    size_t *offsets;                /* (count + 1) */
    int32_t *ids, *types;           /* text */
    float *cache;                   /* (rows, hidden) or NULL */
};

struct inputs {
    const struct backbone *backbone;
    const struct task *task;
    size_t max_len, image_size, longest, layer;
    struct split_rows splits[NUM_TASK_SPLITS];
};

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

size_t inputs_default_image_size(const struct backbone *b)
{
    return b->config.image_size <= SMALL_IMAGE ? b->config.image_size : PATCHES * b->config.patch_size;
}

/* ---- preparing ------------------------------------------------------------------------------------------------ */

static int tokenize_split(struct inputs *in, const struct wordpiece *w, enum task_split split)
{
    const struct task_set *set = &in->task->sets[split];
    struct split_rows *s = &in->splits[split];
    size_t room = set->count * 16 + in->max_len, at = 0;
    s->ids = malloc(room * sizeof *s->ids);
    s->types = malloc(room * sizeof *s->types);
    if (!s->ids || !s->types) return GSL_ENOMEM;
    for (size_t i = 0; i < set->count; i++) {
        if (room - at < in->max_len) {
            room *= 2;
            int32_t *ids = realloc(s->ids, room * sizeof *ids);
            if (ids) s->ids = ids;
            int32_t *types = realloc(s->types, room * sizeof *types);
            if (types) s->types = types;
            if (!ids || !types) return GSL_ENOMEM;
        }
        size_t len;
        const int status = wordpiece_encode(w, set->texts[i], set->texts2 ? set->texts2[i] : NULL, in->max_len,
                                            s->ids + at, s->types + at, &len);
        if (status) return status;
        at += len;
        s->offsets[i + 1] = at;
        if (len > in->longest) in->longest = len;
    }
    return GSL_SUCCESS;
}

static int prepare_text(struct inputs *in, struct reason why)
{
    const struct backbone_config *c = &in->backbone->config;
    struct wordpiece *w;
    if (!in->backbone->vocab_path) return refuse(why, GSL_EINVAL, "the backbone has no vocabulary (vocab.txt)");
    int status = wordpiece_open(in->backbone->vocab_path, &w, why);
    if (status) return status;
    if (wordpiece_size(w) > c->vocab_size)
        status = refuse(why, GSL_EINVAL, "vocab.txt has %zu tokens, the backbone %zu", wordpiece_size(w),
                        c->vocab_size);
    for (int split = 0; split < NUM_TASK_SPLITS && !status; split++)
        if ((status = tokenize_split(in, w, (enum task_split)split)))
            refuse(why, status, status == GSL_ENOMEM ? "out of memory" : "max_len is too short");
    wordpiece_free(w);
    return status;
}

static int check_options(struct inputs *in, const struct inputs_options *o, struct reason why)
{
    const struct backbone_config *c = &in->backbone->config;
    if (in->task->answers)
        return refuse(why, GSL_EINVAL, "task %.40s wants answers written out: a decoder's", in->task->name);
    if ((in->task->modality == TASK_IMAGE) != (c->kind == BACKBONE_VIT))
        return refuse(why, GSL_EINVAL, "task %.40s is of %s, the backbone is not", in->task->name,
                      in->task->modality == TASK_IMAGE ? "images" : "texts");
    if (c->kind == BACKBONE_VIT) {
        in->image_size = o->image_size ? o->image_size : inputs_default_image_size(in->backbone);
        if (in->image_size % c->patch_size)
            return refuse(why, GSL_EINVAL, "image size %zu is no multiple of the patch, %zu", in->image_size,
                          c->patch_size);
        in->longest = 1 + (in->image_size / c->patch_size) * (in->image_size / c->patch_size);
        return GSL_SUCCESS;
    }
    const size_t most = c->max_positions - c->position_offset;
    in->max_len = o->max_len ? o->max_len : least(DEFAULT_MAX_LEN, most);
    if (in->max_len > most) return refuse(why, GSL_EINVAL, "%zu tokens, the backbone takes %zu", in->max_len, most);
    if (in->max_len < 8) return refuse(why, GSL_EINVAL, "fewer than 8 tokens");
    return GSL_SUCCESS;
}

int inputs_alloc(const struct backbone *backbone, const struct task *task, const struct inputs_options *options,
                 struct inputs **out, struct reason why)
{
    struct inputs *in = calloc(1, sizeof *in);
    if (!in) return refuse(why, GSL_ENOMEM, "out of memory");
    in->backbone = backbone;
    in->task = task;
    in->layer = NO_LAYER;
    int status = check_options(in, options, why);
    for (int split = 0; split < NUM_TASK_SPLITS && !status; split++) {
        const size_t count = task->sets[split].count;
        size_t *offsets = calloc(count + 1, sizeof *offsets);
        in->splits[split].offsets = offsets;
        if (!offsets) status = refuse(why, GSL_ENOMEM, "out of memory");
        else if (task->modality == TASK_IMAGE)
            for (size_t i = 0; i <= count; i++) offsets[i] = i * in->longest;
    }
    if (!status && task->modality == TASK_TEXT) status = prepare_text(in, why);
    if (status) inputs_free(in);
    else *out = in;
    return status;
}

static void drop_cache(struct inputs *in)
{
    for (int split = 0; split < NUM_TASK_SPLITS; split++) {
        free(in->splits[split].cache);
        in->splits[split].cache = NULL;
    }
    in->layer = NO_LAYER;
}

void inputs_free(struct inputs *in)
{
    if (!in) return;
    drop_cache(in);
    for (int split = 0; split < NUM_TASK_SPLITS; split++) {
        free(in->splits[split].offsets);
        free(in->splits[split].ids);
        free(in->splits[split].types);
    }
    free(in);
}

/* ---- sizes ------------------------------------------------------------------------------------------------------- */

const struct task *inputs_task(const struct inputs *in) { return in->task; }
size_t inputs_count(const struct inputs *in, enum task_split split) { return in->task->sets[split].count; }
size_t inputs_max_len(const struct inputs *in) { return in->longest; }

static size_t length_of(const struct inputs *in, enum task_split split, size_t i)
{
    return in->splits[split].offsets[i + 1] - in->splits[split].offsets[i];
}

size_t inputs_max_rows(const struct inputs *in, size_t seqs)
{
    /* The longest of any split: by how many examples have each length. */
    size_t most = 0;
    size_t *histogram = malloc((in->longest + 1) * sizeof *histogram);
    if (!histogram) return seqs * in->longest;
    for (int split = 0; split < NUM_TASK_SPLITS; split++) {
        memset(histogram, 0, (in->longest + 1) * sizeof *histogram);
        for (size_t i = 0; i < in->task->sets[split].count; i++) histogram[length_of(in, (enum task_split)split, i)]++;
        size_t left = seqs, rows = 0;
        for (size_t len = in->longest; len && left; len--) {
            const size_t take = least(left, histogram[len]);
            rows += take * len;
            left -= take;
        }
        if (rows > most) most = rows;
    }
    free(histogram);
    return most;
}

double inputs_mean_len(const struct inputs *in, enum task_split split)
{
    const size_t count = in->task->sets[split].count;
    return (double)in->splits[split].offsets[count] / (double)count;
}

/* ---- frozen lower blocks ----------------------------------------------------------------------------------------- */

static size_t split_bytes(const struct inputs *in, int split)
{
    return in->splits[split].offsets[in->task->sets[split].count] * in->backbone->config.hidden * sizeof(float);
}

size_t inputs_cache_bytes(const struct inputs *in, unsigned splits)
{
    size_t bytes = 0;
    for (int split = 0; split < NUM_TASK_SPLITS; split++)
        if (splits & 1u << split) bytes += split_bytes(in, split);
    return bytes;
}

static int fill_cache(struct inputs *in, struct model *model, size_t layer, enum task_split split, float *cache,
                      struct inputs_batch *b, size_t batch_seqs)
{
    const size_t count = in->task->sets[split].count, h = in->backbone->config.hidden;
    size_t index[1024];
    if (batch_seqs > 1024) batch_seqs = 1024;
    for (size_t i = 0; i < count; i += batch_seqs) {
        const size_t n = least(batch_seqs, count - i);
        for (size_t k = 0; k < n; k++) index[k] = i + k;
        inputs_gather(in, split, index, n, 0, b);
        const int status = model_hidden(model, &b->batch, layer, cache + in->splits[split].offsets[i] * h);
        if (status) return status;
    }
    return GSL_SUCCESS;
}

int inputs_is_cached(const struct inputs *in, size_t highest, unsigned splits)
{
    for (int split = 0; split < NUM_TASK_SPLITS; split++)
        if (splits & 1u << split && !in->splits[split].cache) return 0;
    return in->layer != NO_LAYER && in->layer <= highest;
}

int inputs_cache(struct inputs *in, struct model *model, size_t layer, unsigned splits, size_t batch_seqs)
{
    if (in->layer != layer) drop_cache(in);
    struct inputs_batch b = { .labels = NULL };
    int status = inputs_batch_alloc(in, batch_seqs, &b);
    for (int split = 0; split < NUM_TASK_SPLITS && !status; split++) {
        if (!(splits & 1u << split) || in->splits[split].cache) continue;
        float *cache = malloc(split_bytes(in, split) + 1);
        if (!cache) status = GSL_ENOMEM;
        else if ((status = fill_cache(in, model, layer, (enum task_split)split, cache, &b, batch_seqs))) free(cache);
        else in->splits[split].cache = cache;
    }
    inputs_batch_free(&b);
    if (!status) in->layer = layer;
    else drop_cache(in);
    return status;
}

/* ---- batches ----------------------------------------------------------------------------------------------------- */

int inputs_batch_alloc(const struct inputs *in, size_t max_seqs, struct inputs_batch *out)
{
    const struct backbone_config *c = &in->backbone->config;
    const size_t rows = inputs_max_rows(in, max_seqs), image = c->kind == BACKBONE_VIT
        ? c->channels * in->image_size * in->image_size : 0;
    *out = (struct inputs_batch){
        .labels = malloc((max_seqs + 1) * sizeof *out->labels),
        .offsets = malloc((max_seqs + 1) * sizeof *out->offsets),
        .hidden = malloc((rows * c->hidden + 1) * sizeof *out->hidden),
        .pixels = malloc((max_seqs * image + 1) * sizeof *out->pixels),
        .ids = malloc((rows + 1) * sizeof *out->ids), .types = malloc((rows + 1) * sizeof *out->types) };
    if (out->labels && out->offsets && out->hidden && out->pixels && out->ids && out->types) return GSL_SUCCESS;
    inputs_batch_free(out);
    return GSL_ENOMEM;
}

void inputs_batch_free(struct inputs_batch *b)
{
    free(b->labels);
    free(b->offsets);
    free(b->hidden);
    free(b->pixels);
    free(b->ids);
    free(b->types);
    *b = (struct inputs_batch){ .labels = NULL };
}

static double sample(const unsigned char *image, size_t height, size_t width, size_t channels, size_t channel, double y,
                     double x)
{
    const double top = floor(y), left = floor(x), fy = y - top, fx = x - left;
    double sum = 0.0;
    for (int dy = 0; dy < 2; dy++)
        for (int dx = 0; dx < 2; dx++) {
            double r = top + dy, c = left + dx;
            r = r < 0.0 ? 0.0 : r > (double)(height - 1) ? (double)(height - 1) : r;
            c = c < 0.0 ? 0.0 : c > (double)(width - 1) ? (double)(width - 1) : c;
            sum += (dy ? fy : 1.0 - fy) * (dx ? fx : 1.0 - fx) * image[((size_t)r * width + (size_t)c) * channels
                                                                       + channel];
        }
    return sum;
}

/* Channel `to` of the backbone at (y, x). */
static double value_at(const unsigned char *image, size_t height, size_t width, size_t channels, size_t to,
                       size_t wanted, double y, double x)
{
    static const double luma[3] = { 0.299, 0.587, 0.114 };
    if (channels == 1) return sample(image, height, width, 1, 0, y, x);
    if (wanted == 3) return sample(image, height, width, 3, to, y, x);
    double grey = 0.0;
    for (size_t c = 0; c < 3; c++) grey += luma[c] * sample(image, height, width, 3, c, y, x);
    return grey;
}

void inputs_image(const struct backbone_config *config, const unsigned char *image, size_t height, size_t width,
                  size_t channels, size_t size, float *pixels)
{
    const size_t wanted = config->channels, plane = size * size;
    for (size_t row = 0; row < size; row++)
        for (size_t col = 0; col < size; col++) {
            const double y = ((double)row + 0.5) * (double)height / (double)size - 0.5,
                x = ((double)col + 0.5) * (double)width / (double)size - 0.5;
            for (size_t c = 0; c < wanted; c++) {
                /* A grey image has one value for all channels. */
                const double v = c && channels == 1 ? 0.0
                    : value_at(image, height, width, channels, c, wanted, y, x) / 255.0;
                float *at = pixels + c * plane + row * size + col;
                *at = c && channels == 1
                    ? (pixels[row * size + col] * config->std[0] + config->mean[0] - config->mean[c]) / config->std[c]
                                         : ((float)v - config->mean[c]) / config->std[c];
            }
        }
}

void inputs_gather(const struct inputs *in, enum task_split split, const size_t *index, size_t num_seqs, size_t highest,
                   struct inputs_batch *b)
{
    const struct task_set *set = &in->task->sets[split];
    const struct split_rows *s = &in->splits[split];
    const struct backbone_config *c = &in->backbone->config;
    const int cached = s->cache && in->layer <= highest, images = c->kind == BACKBONE_VIT;
    const size_t h = c->hidden, image = in->task->height * in->task->width * in->task->channels,
        pixels = c->channels * in->image_size * in->image_size;
    b->offsets[0] = 0;
    for (size_t k = 0; k < num_seqs; k++) {
        const size_t from = s->offsets[index[k]], len = length_of(in, split, index[k]), to = b->offsets[k];
        b->offsets[k + 1] = to + len;
        b->labels[k] = set->labels[index[k]];
        if (cached) {
            memcpy(b->hidden + to * h, s->cache + from * h, len * h * sizeof(float));
        } else if (images) {
            inputs_image(c, set->images + index[k] * image, in->task->height, in->task->width, in->task->channels,
                         in->image_size, b->pixels + k * pixels);
        } else {
            memcpy(b->ids + to, s->ids + from, len * sizeof(int32_t));
            memcpy(b->types + to, s->types + from, len * sizeof(int32_t));
        }
    }
    b->batch = (struct batch){ .num_seqs = num_seqs, .offsets = b->offsets };
    if (cached) {
        b->batch.hidden = b->hidden;
        b->batch.first_layer = in->layer;
    } else if (images) {
        b->batch.pixels = b->pixels;
        b->batch.image_h = b->batch.image_w = in->image_size;
    } else {
        b->batch.ids = b->ids;
        b->batch.type_ids = c->type_vocab ? b->types : NULL;
    }
}
