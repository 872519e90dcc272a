#include "tests/support/decoder_ref.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prefix_ntk/feature.h"

static void *need(void *memory)
{
    if (!memory) abort();
    return memory;
}

/* ---- arrays ------------------------------------------------------------------------------------------------ */

double *decoder_ref_array(const struct decoder_ref *r, const char *name)
{
    for (size_t i = 0; i < r->num_arrays; i++)
        if (!strcmp(r->arrays[i].name, name)) return r->arrays[i].data;
    return NULL;
}

static void put(struct decoder_ref *r, const char *name, const float *from, size_t n)
{
    double *data = decoder_ref_array(r, name);
    if (!data) {
        r->arrays = need(realloc(r->arrays, (r->num_arrays + 1) * sizeof *r->arrays));
        data = need(malloc(n * sizeof *data));
        r->arrays[r->num_arrays++] = (struct decoder_ref_array){ need(strdup(name)), data, n };
    }
    for (size_t i = 0; i < n; i++) data[i] = (double)from[i];
}

static void put_layer(struct decoder_ref *r, size_t layer, const char *name, const float *from, size_t n)
{
    char text[64];
    snprintf(text, sizeof text, "layer.%zu.%s", layer, name);
    put(r, text, from, n);
}

static const double *at(const struct decoder_ref *r, size_t layer, const char *name)
{
    char text[64];
    snprintf(text, sizeof text, "layer.%zu.%s", layer, name);
    return decoder_ref_array(r, text);
}

void decoder_ref_open(struct decoder_ref *r, struct decoder_model *model)
{
    const struct decoder *d = decoder_model_base(model);
    *r = (struct decoder_ref){ .config = d->config, .options = *decoder_model_options(model),
                               .tied = d->output == d->embed };
    const struct decoder_config *c = &r->config;
    const size_t h = c->hidden, q = c->num_heads * c->head_dim, kv = c->kv_heads * c->head_dim, n = c->mlp_dim;
    put(r, "embed.token", d->embed, c->vocab_size * h);
    if (!r->tied) put(r, "output.weight", d->output, c->vocab_size * h);
    put(r, "final_norm.weight", d->final_norm, h);
    for (size_t l = 0; l < c->num_layers; l++) {
        const struct decoder_layer *w = &d->layers[l];
        put_layer(r, l, "norm1.weight", w->norm1, h);
        put_layer(r, l, "norm2.weight", w->norm2, h);
        put_layer(r, l, "q.weight", w->qkv, q * h);
        put_layer(r, l, "k.weight", w->qkv + q * h, kv * h);
        put_layer(r, l, "v.weight", w->qkv + (q + kv) * h, kv * h);
        put_layer(r, l, "o.weight", w->o, h * q);
        put_layer(r, l, "gate.weight", w->gate_up, n * h);
        put_layer(r, l, "up.weight", w->gate_up + n * h, n * h);
        put_layer(r, l, "down.weight", w->down, h * n);
    }
    for (size_t i = 0; i < decoder_model_num_parameters(model); i++) {
        const struct parameter *p = &decoder_model_parameters(model)[i];
        put(r, p->name, p->value, p->rows * p->cols);
    }
}

void decoder_ref_close(struct decoder_ref *r)
{
    for (size_t i = 0; i < r->num_arrays; i++) {
        free(r->arrays[i].name);
        free(r->arrays[i].data);
    }
    free(r->arrays);
}

/* ---- pieces ------------------------------------------------------------------------------------------------- */

static void norm(const double *x, const double *w, size_t n, double eps, double *y)
{
    double square = 0.0;
    for (size_t c = 0; c < n; c++) square += x[c] * x[c] / (double)n;
    for (size_t c = 0; c < n; c++) y[c] = x[c] / sqrt(square + eps) * w[c];
}

static void multiply(const double *W, const double *x, size_t rows, size_t cols, double *y)
{
    for (size_t i = 0; i < rows; i++) {
        y[i] = 0.0;
        for (size_t c = 0; c < cols; c++) y[i] += W[i * cols + c] * x[c];
    }
}

static void turn(double *x, size_t dim, double base, size_t position)
{
    for (size_t i = 0; i < dim / 2; i++) {
        const double angle = (double)position * pow(base, -2.0 * (double)i / (double)dim);
        const double a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos(angle) - b * sin(angle);
        x[2 * i + 1] = b * cos(angle) + a * sin(angle);
    }
}

/* y += (alpha / rank) B A x of a projection. */
static void add_lora(const struct decoder_ref *r, size_t layer, const char *projection, const double *x, size_t in,
                     size_t out, double *y)
{
    char name[2][32];
    for (int i = 0; i < 2; i++) snprintf(name[i], sizeof name[i], "%s.lora_%c", projection, "AB"[i]);
    const double *A = at(r, layer, name[0]), *B = at(r, layer, name[1]);
    const size_t rank = r->options.adapter.rank;
    for (size_t k = 0; A && k < rank; k++) {
        double low = 0.0;
        for (size_t c = 0; c < in; c++) low += A[k * in + c] * x[c];
        for (size_t i = 0; i < out; i++) y[i] += r->options.adapter.alpha / (double)rank * B[i * rank + k] * low;
    }
}

/* Keys and values (prefix_len, kv_width) of a block's prefix; 0: none. */
static int prefix_of(const struct decoder_ref *r, size_t layer, double *K, double *V)
{
    const struct decoder_config *c = &r->config;
    const size_t m = r->options.adapter.prefix_len, h = c->hidden, w = c->kv_heads * c->head_dim;
    const double *own = at(r, layer, "prefix_k"), *P = at(r, layer, "prefix"), *E = at(r, layer, "prefix_embedding");
    if (own) {
        memcpy(K, own, m * w * sizeof *K);
        memcpy(V, at(r, layer, "prefix_v"), m * w * sizeof *V);
        return 1;
    }
    for (size_t j = 0; P && j < m; j++) {
        multiply(at(r, layer, "k.weight"), P + j * h, w, h, K + j * w);
        multiply(at(r, layer, "v.weight"), P + j * h, w, h, V + j * w);
        for (size_t g = 0; r->options.rotation == DECODER_ROTATED && g < c->kv_heads; g++)
            turn(K + j * w + g * c->head_dim, c->head_dim, c->rope_base, j);
    }
    const size_t n = r->options.adapter.mlp_dim;
    double *inner = need(malloc((n + 2 * w + 1) * sizeof *inner)), *pair = inner + n;
    for (size_t j = 0; E && j < m; j++) {
        multiply(at(r, layer, "prefix_fc1.weight"), E + j * h, n, h, inner);
        for (size_t i = 0; i < n; i++) inner[i] = tanh(inner[i] + at(r, layer, "prefix_fc1.bias")[i]);
        multiply(at(r, layer, "prefix_fc2.weight"), inner, 2 * w, n, pair);
        for (size_t i = 0; i < 2 * w; i++) (i < w ? K : V)[j * w + i % w] = pair[i] +
            at(r, layer, "prefix_fc2.bias")[i];
    }
    free(inner);
    return P || E;
}

/* Of one head: num and mass of phi(q) (Z, k); the features with their scale. Returns whether there is a summary. */
static int summary_of(const struct decoder_ref *r, const feature_map *map, size_t layer, size_t head, const double *q,
                      double *num, double *mass)
{
    const struct adapter_options *o = &r->options.adapter;
    const size_t f_dim = feature_dim(map), d = r->config.head_dim;
    const double *Z = at(r, layer, "summary_Z"), *A = at(r, layer, "summary_Z_A"), *B = at(r, layer, "summary_Z_B");
    const double *unit = at(r, layer, "summary_unit"), u = unit ? unit[head] : 1.0;
    const double *log_k = at(r, layer, "summary_log_k"), *k = at(r, layer, "summary_k");
    const double *basis = at(r, layer, "summary_basis");
    if (!Z && !A) return 0;
    double *phi = need(malloc(2 * f_dim * sizeof *phi)), *white = basis ? phi + f_dim : phi;
    if (feature_forward_f64(map, FEATURE_QUERY, 1, q, d, phi, f_dim, NULL, 1, NULL)) abort();
    /* phi (basis Z') = (phi basis) Z'. */
    for (size_t f = 0; f < f_dim && basis; f++) {
        white[f] = 0.0;
        for (size_t g = 0; g < f_dim; g++) white[f] += phi[g] * basis[(head * f_dim + g) * f_dim + f];
    }
    for (size_t f = 0; f < f_dim; f++) {
        for (size_t e = 0; e < d; e++) {
            double z = Z ? Z[(head * f_dim + f) * d + e] : 0.0;
            for (size_t i = 0; A && i < o->z_rank; i++)
                z += A[(head * f_dim + f) * o->z_rank + i] * B[(head * o->z_rank + i) * d + e];
            num[e] += white[f] * u * z;
        }
        const size_t from = o->k_mode == ADAPTER_K_TIED ? f : head * f_dim + f;
        if (log_k) *mass += phi[f] * u * exp(log_k[from]);
        else if (k) *mass += phi[f] * u * k[from];
    }
    free(phi);
    return 1;
}

/* ---- one text --------------------------------------------------------------------------------------------------- */

struct heads { double *qkv, *raw; };            /* (n, width), turned and not */

static struct heads heads_of(const struct decoder_ref *r, size_t layer, const double *x, size_t n, size_t first)
{
    const struct decoder_config *c = &r->config;
    const size_t h = c->hidden, dim = c->head_dim, q = c->num_heads * dim, kv = c->kv_heads * dim, width = q + 2 * kv;
    struct heads s = { need(malloc(n * width * sizeof(double))), need(malloc(n * width * sizeof(double))) };
    double *normed = need(malloc(h * sizeof *normed));
    for (size_t i = 0; i < n; i++) {
        double *row = s.raw + i * width;
        norm(x + i * h, at(r, layer, "norm1.weight"), h, c->norm_eps, normed);
        multiply(at(r, layer, "q.weight"), normed, q, h, row);
        multiply(at(r, layer, "k.weight"), normed, kv, h, row + q);
        multiply(at(r, layer, "v.weight"), normed, kv, h, row + q + kv);
        add_lora(r, layer, "q", normed, h, q, row);
        add_lora(r, layer, "k", normed, h, kv, row + q);
        add_lora(r, layer, "v", normed, h, kv, row + q + kv);
        memcpy(s.qkv + i * width, row, width * sizeof *row);
        for (size_t g = 0; g < c->num_heads + c->kv_heads; g++)
            turn(s.qkv + i * width + g * dim, dim, c->rope_base, first + i);
    }
    free(normed);
    return s;
}

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0.0;
    for (size_t c = 0; c < n; c++) sum += a[c] * b[c];
    return sum;
}

/* context (n, q_width) of one block. */
static void attend(const struct decoder_ref *r, const feature_map *map, size_t layer, const struct heads *s, size_t n,
                   double *context)
{
    const struct decoder_config *c = &r->config;
    const size_t dim = c->head_dim, q_width = c->num_heads * dim, kv = c->kv_heads * dim, width = q_width + 2 * kv;
    const size_t m = r->options.adapter.prefix_len;
    const double scale = 1.0 / sqrt((double)dim);
    double *K = need(malloc((m * kv + 1) * sizeof *K)), *V = need(malloc((m * kv + 1) * sizeof *V));
    double *extra = need(malloc(dim * sizeof *extra));
    const int has_prefix = prefix_of(r, layer, K, V), plus = r->options.adapter.method == ADAPTER_PREFIX_PLUS;
    for (size_t i = 0; i < n; i++)
        for (size_t head = 0; head < c->num_heads; head++) {
            const size_t g = head / (c->num_heads / c->kv_heads);
            const double *q = s->qkv + i * width + head * dim;
            const double *q_front = (r->options.rotation == DECODER_ROTATED ? s->qkv : s->raw) + i * width + head * dim;
            double *num = context + i * q_width + head * dim, mass = 0.0, none = 0.0;
            memset(num, 0, dim * sizeof *num);
            memset(extra, 0, dim * sizeof *extra);
            for (size_t j = 0; j <= i; j++) {
                const double *k = s->qkv + j * width + q_width + g * dim, e = exp(dot(q, k, dim) * scale);
                mass += e;
                for (size_t t = 0; t < dim; t++) num[t] += e * k[kv + t];
            }
            for (size_t j = 0; has_prefix && j < m; j++) {
                const double e = exp(dot(q_front, K + j * kv + g * dim, dim) * scale);
                mass += e;
                for (size_t t = 0; t < dim; t++) num[t] += e * V[j * kv + g * dim + t];
            }
            if (map) summary_of(r, map, layer, head, q_front, plus ? extra : num, plus ? &none : &mass);
            for (size_t t = 0; t < dim; t++) num[t] = num[t] / mass + extra[t];
        }
    free(K);
    free(V);
    free(extra);
}

static void block(const struct decoder_ref *r, const feature_map *map, size_t layer, double *x, size_t n, size_t first)
{
    const struct decoder_config *c = &r->config;
    const size_t h = c->hidden, q_width = c->num_heads * c->head_dim, mlp = c->mlp_dim;
    struct heads s = heads_of(r, layer, x, n, first);
    double *context = need(malloc(n * q_width * sizeof *context)), *y = need(malloc((2 * h + 2 * mlp) * sizeof *y));
    double *normed = y + h, *gate = normed + h;
    attend(r, map, layer, &s, n, context);
    for (size_t i = 0; i < n; i++) {
        multiply(at(r, layer, "o.weight"), context + i * q_width, h, q_width, y);
        add_lora(r, layer, "o", context + i * q_width, q_width, h, y);
        for (size_t k = 0; k < h; k++) x[i * h + k] += y[k];
        norm(x + i * h, at(r, layer, "norm2.weight"), h, c->norm_eps, normed);
        multiply(at(r, layer, "gate.weight"), normed, mlp, h, gate);
        multiply(at(r, layer, "up.weight"), normed, mlp, h, gate + mlp);
        add_lora(r, layer, "fc1", normed, h, 2 * mlp, gate);
        for (size_t k = 0; k < mlp; k++) gate[k] = gate[k] / (1.0 + exp(-gate[k])) * gate[mlp + k];
        multiply(at(r, layer, "down.weight"), gate, h, mlp, y);
        add_lora(r, layer, "fc2", gate, mlp, h, y);
        for (size_t k = 0; k < h; k++) x[i * h + k] += y[k];
    }
    free(s.qkv);
    free(s.raw);
    free(context);
    free(y);
}

static double *embed(const struct decoder_ref *r, const struct decoder_batch *b)
{
    const size_t h = r->config.hidden, rows = b->offsets[b->num_seqs];
    double *x = need(malloc(rows * h * sizeof *x));
    for (size_t i = 0; i < rows; i++)
        memcpy(x + i * h, decoder_ref_array(r, "embed.token") + (size_t)b->ids[i] * h, h * sizeof *x);
    return x;
}

static double target_loss(const struct decoder_ref *r, const double *x, int32_t id, const float *logp)
{
    const struct decoder_config *c = &r->config;
    const size_t h = c->hidden, n = r->options.num_classes ? r->options.num_classes : c->vocab_size;
    const double *W = decoder_ref_array(r, r->options.num_classes ? "head.weight" : "output.weight");
    const double *bias = r->options.num_classes ? decoder_ref_array(r, "head.bias") : NULL;
    double *normed = need(malloc((h + n) * sizeof *normed)), *logits = normed + h, sum = 0.0, loss = 0.0;
    norm(x, decoder_ref_array(r, "final_norm.weight"), h, c->norm_eps, normed);
    multiply(W ? W : decoder_ref_array(r, "embed.token"), normed, n, h, logits);
    for (size_t k = 0; k < n; k++) sum += exp(logits[k] += bias ? bias[k] : 0.0);
    if (!logp) loss = log(sum) - logits[id];
    for (size_t k = 0; logp && k < n; k++) loss += exp((double)logp[k]) * ((double)logp[k] - logits[k] + log(sum));
    free(normed);
    return loss;
}

double decoder_ref_loss(const struct decoder_ref *r, const struct decoder_batch *b, const struct decoder_targets *t,
                        double *losses)
{
    const struct decoder_config *c = &r->config;
    const struct adapter_options *o = &r->options.adapter;
    const int prefix = o->method == ADAPTER_PTUNING || o->method == ADAPTER_TIED_PREFIX;
    const int summary = o->method == ADAPTER_NTK || o->method == ADAPTER_PREFIX_PLUS;
    feature_map *map = NULL;
    if (summary && feature_parse(o->feature, c->head_dim, o->bound, o->feature_seed, NULL, &map)) abort();
    double *x = embed(r, b), loss = 0.0;
    for (size_t s = 0; s < b->num_seqs; s++)
        for (size_t l = 0; l < c->num_layers; l++)
            block(r, map, l, x + b->offsets[s] * c->hidden, b->offsets[s + 1] - b->offsets[s],
                  prefix ? o->prefix_len : 0);
    for (size_t i = 0; i < t->count; i++) {
        const double one = target_loss(r, x + t->rows[i] * c->hidden, t->ids ? t->ids[i] : -1,
                                       t->ids ? NULL : t->logprobs + i * c->vocab_size);
        if (losses) losses[i] = one;
        loss += one / (double)t->count;
    }
    feature_map_free(map);
    free(x);
    return loss;
}

double decoder_ref_mass(const struct decoder_ref *r, const struct decoder_batch *b, size_t layer, size_t head)
{
    const struct decoder_config *c = &r->config;
    const size_t dim = c->head_dim, width = (c->num_heads + 2 * c->kv_heads) * dim;
    const size_t key = (c->num_heads + head / (c->num_heads / c->kv_heads)) * dim;
    struct decoder_ref plain = *r;
    plain.options.adapter.method = ADAPTER_HEAD;
    double *x = embed(r, b), sum = 0.0;
    for (size_t s = 0; s < b->num_seqs; s++) {
        double *text = x + b->offsets[s] * c->hidden;
        const size_t n = b->offsets[s + 1] - b->offsets[s];
        for (size_t l = 0; l < layer; l++) block(&plain, NULL, l, text, n, 0);
        struct heads h = heads_of(&plain, layer, text, n, 0);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++)
                sum += exp(dot(h.qkv + i * width + head * dim, h.qkv + j * width + key, dim) / sqrt((double)dim));
        free(h.qkv);
        free(h.raw);
    }
    const double mean = sum / (double)b->offsets[b->num_seqs];
    free(x);
    return mean;
}

double decoder_ref_moment(const struct decoder_ref *r, const struct decoder_batch *b, size_t layer, size_t head,
                          int divided, double *M)
{
    const struct decoder_config *c = &r->config;
    const struct adapter_options *o = &r->options.adapter;
    const size_t dim = c->head_dim, width = (c->num_heads + 2 * c->kv_heads) * dim, rows = b->offsets[b->num_seqs];
    const size_t key = (c->num_heads + head / (c->num_heads / c->kv_heads)) * dim, value = key + c->kv_heads * dim;
    struct decoder_ref plain = *r;
    feature_map *map;
    plain.options.adapter.method = ADAPTER_HEAD;
    if (feature_parse(o->feature, dim, o->bound, o->feature_seed, NULL, &map)) abort();
    const size_t f_dim = feature_dim(map);
    double *x = embed(r, b), *phi = need(malloc((f_dim + dim) * sizeof *phi)), *out = phi + f_dim, squares = 0.0;
    memset(M, 0, f_dim * f_dim * sizeof *M);
    for (size_t s = 0; s < b->num_seqs; s++) {
        double *text = x + b->offsets[s] * c->hidden;
        const size_t n = b->offsets[s + 1] - b->offsets[s];
        for (size_t l = 0; l < layer; l++) block(&plain, NULL, l, text, n, 0);
        struct heads h = heads_of(&plain, layer, text, n, 0);
        for (size_t i = 0; i < n; i++) {
            const double *q = h.qkv + i * width + head * dim;
            double mass = 0.0;
            memset(out, 0, dim * sizeof *out);
            for (size_t j = 0; j <= i; j++) {
                const double e = exp(dot(q, h.qkv + j * width + key, dim) / sqrt((double)dim));
                mass += e;
                for (size_t t = 0; t < dim; t++) out[t] += e * h.qkv[j * width + value + t];
            }
            for (size_t t = 0; t < dim; t++) squares += pow(out[t] / mass, 2.0) / (double)(rows * dim);
            const double *front = (r->options.rotation == DECODER_ROTATED ? h.qkv : h.raw) + i * width + head * dim;
            if (feature_forward_f64(map, FEATURE_QUERY, 1, front, dim, phi, f_dim, NULL, 1, NULL)) abort();
            for (size_t f = 0; f < f_dim * f_dim; f++)
                M[f] += phi[f / f_dim] * phi[f % f_dim] / (divided ? mass * mass : 1.0) / (double)rows;
        }
        free(h.qkv);
        free(h.raw);
    }
    feature_map_free(map);
    free(phi);
    free(x);
    return squares;
}
