#include "tests/support/encoder_ref.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prefix_ntk/feature.h"
#include "tests/support/feature_ref.h"

static double *zeros(size_t n)
{
    double *x = calloc(n ? n : 1, sizeof *x);
    if (!x) abort();
    return x;
}

/* ---- the table of weights ----------------------------------------------------------------------------- */

double *encoder_ref_array(const struct encoder_ref *ref, const char *name)
{
    for (size_t i = 0; i < ref->num_arrays; i++)
        if (!strcmp(ref->arrays[i].name, name)) return ref->arrays[i].data;
    return NULL;
}

static void put(struct encoder_ref *ref, const char *name, const float *data, size_t n)
{
    double *to = encoder_ref_array(ref, name);
    if (!to) {
        ref->arrays = realloc(ref->arrays, (ref->num_arrays + 1) * sizeof *ref->arrays);
        if (!ref->arrays) abort();
        to = zeros(n);
        ref->arrays[ref->num_arrays++] = (struct ref_array){ strdup(name), to, n };
    }
    for (size_t i = 0; i < n; i++) to[i] = data[i];
}

void encoder_ref_open(struct encoder_ref *ref, const struct backbone *backbone, struct model *model,
                      enum model_pool pool, uint64_t seed)
{
    *ref = (struct encoder_ref){ .config = backbone->config,
                                 .options = *model_options(model),
                                 .pool = pool,
                                 .num_classes = model_num_classes(model),
                                 .num_layers = model_num_layers(model),
                                 .seed = seed };
    for (size_t i = 0; i < backbone->num_tensors; i++) {
        const struct tensor *t = &backbone->tensors[i];
        put(ref, t->name, t->data, t->dims[0] * (t->rank > 1 ? t->dims[1] : 1));
    }
    for (size_t i = 0; i < model_num_parameters(model); i++) {
        const struct parameter *p = &model_parameters(model)[i];
        put(ref, p->name, p->value, p->rows * p->cols);
    }
}

void encoder_ref_close(struct encoder_ref *ref)
{
    for (size_t i = 0; i < ref->num_arrays; i++) {
        free(ref->arrays[i].name);
        free(ref->arrays[i].data);
    }
    free(ref->arrays);
}

static const double *get(const struct encoder_ref *ref, const char *format, ...) __attribute__((format(printf, 2, 3)));
static const double *get(const struct encoder_ref *ref, const char *format, ...)
{
    char name[64];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return encoder_ref_array(ref, name);
}

/* ---- pieces -------------------------------------------------------------------------------------------- */

/* y (rows, out) = x W^T + b */
static void linear(size_t rows, size_t in, size_t out, const double *x, const double *w, const double *b, double *y)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t o = 0; o < out; o++) {
            double sum = b ? b[o] : 0.0;
            for (size_t j = 0; j < in; j++) sum += x[i * in + j] * w[o * in + j];
            y[i * out + o] = sum;
        }
}

static void norm(size_t rows, size_t n, double eps, const double *x, const double *w, const double *b, double *y)
{
    for (size_t i = 0; i < rows; i++, x += n, y += n) {
        double mean = 0.0, var = 0.0;
        for (size_t j = 0; j < n; j++) mean += x[j] / (double)n;
        for (size_t j = 0; j < n; j++) var += (x[j] - mean) * (x[j] - mean) / (double)n;
        for (size_t j = 0; j < n; j++) y[j] = (x[j] - mean) / sqrt(var + eps) * w[j] + b[j];
    }
}

static int adapted(const struct encoder_ref *ref, size_t l, enum adapter_method method)
{
    return ref->options.method == method && l >= (size_t)ref->options.first_layer &&
           l <= (size_t)ref->options.last_layer;
}

/* A projection with LoRA's part. */
static void project(const struct encoder_ref *ref, size_t l, enum projection which, size_t rows, size_t in, size_t out,
                    const double *x, double *y)
{
    static const char *const names[] = { "q", "k", "v", "o", "fc1", "fc2" };
    const char *name = names[which];
    linear(rows, in, out, x, get(ref, "layer.%zu.%s.weight", l, name), get(ref, "layer.%zu.%s.bias", l, name), y);
    if (!adapted(ref, l, ADAPTER_LORA) || !(ref->options.targets >> which & 1)) return;
    const size_t rank = ref->options.rank;
    double *low = zeros(rows * rank), *add = zeros(rows * out);
    linear(rows, in, rank, x, get(ref, "layer.%zu.%s.lora_A", l, name), NULL, low);
    linear(rows, rank, out, low, get(ref, "layer.%zu.%s.lora_B", l, name), NULL, add);
    for (size_t i = 0; i < rows * out; i++) y[i] += ref->options.alpha / (double)rank * add[i];
    free(low);
    free(add);
}

/* ---- attention --------------------------------------------------------------------------------------------- */

/* What the adapter adds to attention: prefix rows (len, hidden), or Z (heads, r, d) and k (heads, r). */
struct extra { size_t len, feat; double *K, *V, *Z, *k, *omega; int beside; };

static void make_prefix(const struct encoder_ref *ref, size_t l, struct extra *x)
{
    const size_t m = ref->options.prefix_len, h = ref->config.hidden;
    x->len = m;
    x->K = zeros(m * h);
    x->V = zeros(m * h);
    if (ref->options.method == ADAPTER_TIED_PREFIX) {
        linear(m, h, h, get(ref, "layer.%zu.prefix", l), get(ref, "layer.%zu.k.weight", l),
               get(ref, "layer.%zu.k.bias", l), x->K);
        linear(m, h, h, get(ref, "layer.%zu.prefix", l), get(ref, "layer.%zu.v.weight", l),
               get(ref, "layer.%zu.v.bias", l), x->V);
    } else if (ref->options.reparameterise) {
        const size_t n = ref->options.mlp_dim ? ref->options.mlp_dim : h;
        double *inner = zeros(m * n), *pair = zeros(m * 2 * h);
        linear(m, h, n, get(ref, "layer.%zu.prefix_embedding", l), get(ref, "layer.%zu.prefix_fc1.weight", l),
               get(ref, "layer.%zu.prefix_fc1.bias", l), inner);
        for (size_t i = 0; i < m * n; i++) inner[i] = tanh(inner[i]);
        linear(m, n, 2 * h, inner, get(ref, "layer.%zu.prefix_fc2.weight", l), get(ref, "layer.%zu.prefix_fc2.bias", l),
               pair);
        for (size_t i = 0; i < m * h; i++) {
            x->K[i] = pair[i / h * 2 * h + i % h];
            x->V[i] = pair[i / h * 2 * h + h + i % h];
        }
        free(inner);
        free(pair);
    } else {
        memcpy(x->K, get(ref, "layer.%zu.prefix_k", l), m * h * sizeof(double));
        memcpy(x->V, get(ref, "layer.%zu.prefix_v", l), m * h * sizeof(double));
    }
}

static void make_summary(const struct encoder_ref *ref, size_t l, struct extra *x)
{
    const struct adapter_options *o = &ref->options;
    const size_t heads = ref->config.num_heads, d = ref->config.hidden / heads, rank = o->z_rank;
    feature_map *map;
    if (feature_parse(o->feature, d, o->bound, ref->seed, NULL, &map)) abort();
    const size_t r = x->feat = feature_dim(map);
    if (feature_omega(map)) {
        x->omega = zeros(r * d);
        memcpy(x->omega, feature_omega(map), r * d * sizeof(double));
    }
    feature_map_free(map);
    const double *unit = get(ref, "layer.%zu.summary_unit", l), *basis = get(ref, "layer.%zu.summary_basis", l);
    const double *Z = get(ref, "layer.%zu.summary_Z", l);
    const double *A = get(ref, "layer.%zu.summary_Z_A", l), *B = get(ref, "layer.%zu.summary_Z_B", l);
    const double *log_k = get(ref, "layer.%zu.summary_log_k", l), *k = get(ref, "layer.%zu.summary_k", l);
    const int tied = o->k_mode == ADAPTER_K_TIED;
    x->beside = o->method == ADAPTER_PREFIX_PLUS;
    x->Z = zeros(heads * r * d);
    x->k = zeros(heads * r);
    for (size_t a = 0; a < heads; a++)
        for (size_t f = 0; f < r; f++) {
            const double by = unit ? unit[a] : 1.0;
            x->k[a * r + f] = log_k ? by * exp(log_k[(tied ? 0 : a * r) + f]) : k ? by * k[a * r + f] : 0.0;
            for (size_t c = 0; c < d; c++) {
                double z = Z ? Z[(a * r + f) * d + c] : 0.0;
                for (size_t i = 0; !Z && i < rank; i++) z += A[(a * r + f) * rank + i] * B[(a * rank + i) * d + c];
                for (size_t g = 0; basis && g < r; g++)
                    x->Z[(a * r + g) * d + c] += by * basis[(a * r + g) * r + f] * z;
                if (!basis) x->Z[(a * r + f) * d + c] = by * z;
            }
        }
}

static void features(const struct encoder_ref *ref, const struct extra *x, const double *q, double *phi)
{
    const size_t d = ref->config.hidden / ref->config.num_heads;
    const double one[] = { 1.0, 1.0, 0.5 };
    if (x->omega) feature_ref_favor(q, d, x->feat, x->omega, phi);
    else if (!strcmp(ref->options.feature, "elu1")) feature_ref_elu1(q, d, phi);
    else feature_ref_monomials(q, d, (size_t)atoi(strchr(ref->options.feature, ':') + 1), one, 0, phi);
}

/* T5's buckets by the definition: exact below a quarter, then by equal steps of the logarithm to 128. */
static size_t bucket(long distance, size_t buckets)
{
    const size_t half = buckets / 2, exact = half / 2, n = (size_t)labs(distance);
    size_t b = n;
    if (n >= exact) {
        b = exact + (size_t)(log((double)n / (double)exact) / log(128.0 / (double)exact) * (double)(half - exact));
        if (b > half - 1) b = half - 1;
    }
    return b + (distance > 0 ? half : 0);
}

/* One query row of one head against keys begin..end-1. */
static void attend_row(const struct encoder_ref *ref, const struct extra *x, size_t head, size_t i, size_t begin,
                       size_t end, const double *q, const double *k, const double *v, double *out)
{
    const size_t h = ref->config.hidden, d = h / ref->config.num_heads, r = x->feat, at = head * d;
    const double *bias = ref->config.relative_buckets ? get(ref, "relative_bias") : NULL;
    double D = 0.0, *phi = zeros(r), *sum = zeros(d);
    for (size_t j = 0; j < x->len + (end - begin); j++) {
        const int input = j >= x->len;
        const size_t row = input ? begin + j - x->len : j;
        const double *key = input ? k : x->K, *value = input ? v : x->V;
        double s = 0.0;
        for (size_t c = 0; c < d; c++) s += q[i * h + at + c] * key[row * h + at + c] / sqrt((double)d);
        if (input && bias)
            s += bias[bucket((long)row - (long)i, ref->config.relative_buckets) * ref->config.num_heads + head];
        D += exp(s);
        for (size_t c = 0; c < d; c++) sum[c] += exp(s) * value[row * h + at + c];
    }
    if (r) features(ref, x, q + i * h + at, phi);
    for (size_t f = 0; f < r && !x->beside; f++) {
        D += phi[f] * x->k[head * r + f];
        for (size_t c = 0; c < d; c++) sum[c] += phi[f] * x->Z[(head * r + f) * d + c];
    }
    for (size_t c = 0; c < d; c++) {
        out[i * h + at + c] = sum[c] / D;
        for (size_t f = 0; f < r && x->beside; f++) out[i * h + at + c] += phi[f] * x->Z[(head * r + f) * d + c];
    }
    free(phi);
    free(sum);
}

static void attention(const struct encoder_ref *ref, size_t l, const struct batch *b, const size_t *offsets,
                      const double *q, const double *k, const double *v, double *out)
{
    struct extra x = { 0 };
    if (adapted(ref, l, ADAPTER_PTUNING) || adapted(ref, l, ADAPTER_TIED_PREFIX)) make_prefix(ref, l, &x);
    if (adapted(ref, l, ADAPTER_NTK) || adapted(ref, l, ADAPTER_PREFIX_PLUS)) make_summary(ref, l, &x);
    for (size_t s = 0; s < b->num_seqs; s++)
        for (size_t i = offsets[s]; i < offsets[s + 1]; i++)
            for (size_t head = 0; head < ref->config.num_heads; head++)
                attend_row(ref, &x, head, i, offsets[s], offsets[s + 1], q, k, v, out);
    free(x.K);
    free(x.V);
    free(x.Z);
    free(x.k);
    free(x.omega);
}

/* ---- blocks ---------------------------------------------------------------------------------------------------- */

static void block(const struct encoder_ref *ref, size_t l, const struct batch *b, const size_t *offsets, double *x)
{
    const struct backbone_config *c = &ref->config;
    const size_t rows = offsets[b->num_seqs], h = c->hidden, n = rows * h;
    const double *w1 = get(ref, "layer.%zu.norm1.weight", l), *b1 = get(ref, "layer.%zu.norm1.bias", l);
    const double *w2 = get(ref, "layer.%zu.norm2.weight", l), *b2 = get(ref, "layer.%zu.norm2.bias", l);
    const double *s1 = c->layer_scale ? get(ref, "layer.%zu.scale1", l) : NULL;
    const double *s2 = c->layer_scale ? get(ref, "layer.%zu.scale2", l) : NULL;
    double *in = zeros(n), *q = zeros(n), *k = zeros(n), *v = zeros(n), *t = zeros(n), *o = zeros(n);
    double *u = zeros(rows * c->mlp_dim);
    if (c->pre_norm) norm(rows, h, c->norm_eps, x, w1, b1, in);
    else memcpy(in, x, n * sizeof *in);
    project(ref, l, PROJ_Q, rows, h, h, in, q);
    project(ref, l, PROJ_K, rows, h, h, in, k);
    project(ref, l, PROJ_V, rows, h, h, in, v);
    attention(ref, l, b, offsets, q, k, v, t);
    project(ref, l, PROJ_O, rows, h, h, t, o);
    for (size_t i = 0; i < n; i++) x[i] += (s1 ? s1[i % h] : 1.0) * o[i];
    if (c->pre_norm) norm(rows, h, c->norm_eps, x, w2, b2, in);
    else {
        norm(rows, h, c->norm_eps, x, w1, b1, in);
        memcpy(x, in, n * sizeof *x);
    }
    project(ref, l, PROJ_FC1, rows, h, c->mlp_dim, in, u);
    for (size_t i = 0; i < rows * c->mlp_dim; i++) u[i] *= 0.5 * erfc(-u[i] / sqrt(2.0));
    project(ref, l, PROJ_FC2, rows, c->mlp_dim, h, u, o);
    for (size_t i = 0; i < n; i++) x[i] += (s2 ? s2[i % h] : 1.0) * o[i];
    if (!c->pre_norm) {
        memcpy(in, x, n * sizeof *x);
        norm(rows, h, c->norm_eps, in, w2, b2, x);
    }
    double *all[] = { in, q, k, v, t, o, u };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* ---- embeddings ------------------------------------------------------------------------------------------------- */

/* Cubic convolution kernel, a = -0.75. */
static double cubic(double x)
{
    const double a = -0.75;
    x = fabs(x);
    if (x <= 1.0) return (a + 2.0) * x * x * x - (a + 3.0) * x * x + 1.0;
    return x < 2.0 ? a * x * x * x - 5.0 * a * x * x + 8.0 * a * x - 4.0 * a : 0.0;
}

static double position_at(const struct encoder_ref *ref, size_t y, size_t x, size_t grid_h, size_t grid_w, size_t j)
{
    const long grid = (long)ref->config.position_grid;
    const double *p = get(ref, "embed.position");
    const double at_y = ((double)y + 0.5) * (double)grid / (double)grid_h - 0.5;
    const double at_x = ((double)x + 0.5) * (double)grid / (double)grid_w - 0.5;
    double sum = 0.0;
    for (long a = -3; a < grid + 3; a++)
        for (long b = -3; b < grid + 3; b++) {
            const long ya = a < 0 ? 0 : a >= grid ? grid - 1 : a, xb = b < 0 ? 0 : b >= grid ? grid - 1 : b;
            sum += cubic(at_y - (double)a) * cubic(at_x - (double)b) *
                   p[(1 + (size_t)(ya * grid + xb)) * ref->config.hidden + j];
        }
    return sum;
}

static void embed_image(const struct encoder_ref *ref, const struct batch *b, size_t s, double *x)
{
    const struct backbone_config *c = &ref->config;
    const size_t h = c->hidden, p = c->patch_size, gh = b->image_h / p, gw = b->image_w / p;
    const double *w = get(ref, "embed.patch.weight"), *bias = get(ref, "embed.patch.bias"),
                 *cls = get(ref, "embed.cls");
    for (size_t j = 0; j < h; j++) x[j] = cls[j] + get(ref, "embed.position")[j];
    for (size_t y = 0; y < gh; y++)
        for (size_t z = 0; z < gw; z++)
            for (size_t j = 0; j < h; j++) {
                double sum = bias[j] + position_at(ref, y, z, gh, gw, j);
                for (size_t i = 0; i < c->channels * p * p; i++) {
                    const size_t channel = i / (p * p), py = i / p % p, px = i % p;
                    sum += w[j * c->channels * p * p + i] *
                           b->pixels[((s * c->channels + channel) * b->image_h + y * p + py) * b->image_w + z * p + px];
                }
                x[(1 + y * gw + z) * h + j] = sum;
            }
}

static void embed_text(const struct encoder_ref *ref, const struct batch *b, double *x)
{
    const struct backbone_config *c = &ref->config;
    const size_t h = c->hidden, rows = b->offsets[b->num_seqs];
    double *sum = zeros(rows * h);
    const double *token = get(ref, "embed.token"), *position = get(ref, "embed.position"),
                 *type = get(ref, "embed.type");
    for (size_t s = 0; s < b->num_seqs; s++)
        for (size_t i = b->offsets[s]; i < b->offsets[s + 1]; i++)
            for (size_t j = 0; j < h; j++)
                sum[i * h + j] = token[(size_t)b->ids[i] * h + j] +
                                 position[(i - b->offsets[s] + c->position_offset) * h + j] +
                                 (type ? type[(b->type_ids ? (size_t)b->type_ids[i] : 0) * h + j] : 0.0);
    norm(rows, h, c->norm_eps, sum, get(ref, "embed.norm.weight"), get(ref, "embed.norm.bias"), x);
    free(sum);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static size_t image_rows(const struct encoder_ref *ref, const struct batch *b)
{
    return 1 + b->image_h / ref->config.patch_size * (b->image_w / ref->config.patch_size);
}

size_t encoder_ref_rows(const struct encoder_ref *ref, const struct batch *b)
{
    return b->pixels ? b->num_seqs * image_rows(ref, b) : b->offsets[b->num_seqs];
}

void encoder_ref_forward(const struct encoder_ref *ref, const struct batch *b, double *logits, double *hidden)
{
    const struct backbone_config *c = &ref->config;
    const size_t h = c->hidden, rows = encoder_ref_rows(ref, b);
    double *x = zeros(rows * h), *y = zeros(rows * h), *pooled = zeros(b->num_seqs * h);
    size_t *offsets = calloc(b->num_seqs + 1, sizeof *offsets);
    if (!offsets) abort();
    for (size_t s = 0; s <= b->num_seqs; s++) offsets[s] = b->pixels ? s * image_rows(ref, b) : b->offsets[s];
    if (b->pixels) for (size_t s = 0; s < b->num_seqs; s++) embed_image(ref, b, s, x + offsets[s] * h);
    else embed_text(ref, b, x);
    for (size_t l = 0; l < ref->num_layers; l++) block(ref, l, b, offsets, x);
    if (c->pre_norm) {
        norm(rows, h, c->norm_eps, x, get(ref, "final_norm.weight"), get(ref, "final_norm.bias"), y);
        memcpy(x, y, rows * h * sizeof *x);
    }
    for (size_t s = 0; s < b->num_seqs; s++) {
        const size_t from = offsets[s] + (ref->pool == POOL_MEAN && b->pixels ? 1 : 0);
        const size_t to = ref->pool == POOL_CLS ? from + 1 : offsets[s + 1];
        for (size_t i = from; i < to; i++)
            for (size_t j = 0; j < h; j++) pooled[s * h + j] += x[i * h + j] / (double)(to - from);
    }
    if (hidden) memcpy(hidden, x, rows * h * sizeof *x);
    if (logits)
        linear(b->num_seqs, h, ref->num_classes, pooled, get(ref, "head.weight"), get(ref, "head.bias"), logits);
    free(x);
    free(y);
    free(pooled);
    free(offsets);
}

double encoder_ref_loss(const struct encoder_ref *ref, const struct batch *b, const int32_t *labels)
{
    const size_t n = ref->num_classes;
    double *logits = zeros(b->num_seqs * n), loss = 0.0;
    encoder_ref_forward(ref, b, logits, NULL);
    for (size_t s = 0; s < b->num_seqs; s++) {
        double sum = 0.0;
        for (size_t c = 0; c < n; c++) sum += exp(logits[s * n + c] - logits[s * n + (size_t)labels[s]]);
        loss += log(sum) / (double)b->num_seqs;
    }
    free(logits);
    return loss;
}
