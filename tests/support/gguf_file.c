#include "tests/support/gguf_file.h"
#include "tests/support/check.h"

#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { U32 = 4, I32 = 5, FLOAT = 6, STRING = 8, ARRAY = 9 };

void bytes_put(struct bytes *b, const void *data, size_t size)
{
    if (b->size + size > b->room) {
        b->room = 2 * (b->size + size) + 64;
        b->at = realloc(b->at, b->room);
        assert_non_null(b->at);
    }
    memcpy(b->at + b->size, data, size);
    b->size += size;
}

void bytes_u32(struct bytes *b, uint32_t x) { bytes_put(b, &x, sizeof x); }
void bytes_u64(struct bytes *b, uint64_t x) { bytes_put(b, &x, sizeof x); }

void bytes_text(struct bytes *b, const char *text)
{
    bytes_u64(b, strlen(text));
    bytes_put(b, text, strlen(text));
}

void bytes_pad(struct bytes *b, size_t multiple)
{
    while (b->size % multiple) bytes_put(b, "", 1);
}

void bytes_free(struct bytes *b)
{
    free(b->at);
    *b = (struct bytes){ 0 };
}

void bytes_write(const struct bytes *b, const char *path)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(b->at, 1, b->size, file), b->size);
    assert_int_equal(fclose(file), 0);
}

void gguf_put_head(struct bytes *b, uint64_t num_tensors, uint64_t num_pairs)
{
    bytes_put(b, "GGUF", 4);
    bytes_u32(b, 3);
    bytes_u64(b, num_tensors);
    bytes_u64(b, num_pairs);
}

void gguf_put_u32(struct bytes *b, const char *key, uint32_t x)
{
    bytes_text(b, key);
    bytes_u32(b, U32);
    bytes_u32(b, x);
}

void gguf_put_f32(struct bytes *b, const char *key, float x)
{
    bytes_text(b, key);
    bytes_u32(b, FLOAT);
    bytes_put(b, &x, sizeof x);
}

void gguf_put_text(struct bytes *b, const char *key, const char *text)
{
    bytes_text(b, key);
    bytes_u32(b, STRING);
    bytes_text(b, text);
}

static void put_array(struct bytes *b, const char *key, uint32_t type, size_t count)
{
    bytes_text(b, key);
    bytes_u32(b, ARRAY);
    bytes_u32(b, type);
    bytes_u64(b, count);
}

void gguf_put_texts(struct bytes *b, const char *key, const char *const *texts, size_t count)
{
    put_array(b, key, STRING, count);
    for (size_t i = 0; i < count; i++) bytes_text(b, texts[i]);
}

void gguf_put_i32s(struct bytes *b, const char *key, const int32_t *x, size_t count)
{
    put_array(b, key, I32, count);
    bytes_put(b, x, count * sizeof *x);
}

void gguf_put_tensor(struct bytes *b, const char *name, size_t rank, const size_t *dims, enum gguf_kind kind,
                     uint64_t offset)
{
    bytes_text(b, name);
    bytes_u32(b, (uint32_t)rank);
    for (size_t i = 0; i < rank; i++) bytes_u64(b, dims[i]);
    bytes_u32(b, (uint32_t)kind);
    bytes_u64(b, offset);
}

/* ---- vocabulary ------------------------------------------------------------------------------------ */

static void add_token(struct vocabulary *v, const char *text, int32_t type)
{
    v->tokens = realloc(v->tokens, (v->num_tokens + 1) * sizeof *v->tokens);
    v->types = realloc(v->types, (v->num_tokens + 1) * sizeof *v->types);
    assert_true(v->tokens && v->types);
    v->types[v->num_tokens] = type;
    assert_non_null(v->tokens[v->num_tokens++] = strdup(text));
}

struct vocabulary vocabulary_make(const char *const *merges, const char *const *specials)
{
    struct vocabulary v = { 0 };
    unsigned next = 256;
    for (unsigned byte = 0; byte < 256; byte++) {
        const int printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
        const unsigned code = printable ? byte : next++;
        const char one[] = { (char)code, 0 }, two[] = { (char)(0xc0 | code >> 6), (char)(0x80 | (code & 63)), 0 };
        add_token(&v, code < 128 ? one : two, 1);
    }
    for (; *merges; merges++) {
        char joined[64];
        const char *space = strchr(*merges, ' ');
        snprintf(joined, sizeof joined, "%.*s%s", (int)(space - *merges), *merges, space + 1);
        v.merges = realloc(v.merges, (v.num_merges + 1) * sizeof *v.merges);
        assert_non_null(v.merges);
        assert_non_null(v.merges[v.num_merges++] = strdup(*merges));
        add_token(&v, joined, 1);
    }
    for (; *specials; specials++) add_token(&v, *specials, 3);
    return v;
}

void vocabulary_free(struct vocabulary *v)
{
    for (size_t i = 0; i < v->num_tokens; i++) free(v->tokens[i]);
    for (size_t i = 0; i < v->num_merges; i++) free(v->merges[i]);
    free(v->tokens);
    free(v->merges);
    free(v->types);
}

/* ---- a model ------------------------------------------------------------------------------------------ */

struct entry { char name[64]; const float *data; size_t rows, cols; };

static size_t list_weights(const struct decoder *d, struct entry *list)
{
    const struct decoder_config *c = &d->config;
    const size_t q = c->num_heads * c->head_dim, kv = c->kv_heads * c->head_dim, h = c->hidden, m = c->mlp_dim;
    size_t count = 0;
    list[count++] = (struct entry){ "token_embd.weight", d->embed, c->vocab_size, h };
    list[count++] = (struct entry){ "output_norm.weight", d->final_norm, 1, h };
    for (size_t i = 0; i < c->num_layers; i++) {
        const struct decoder_layer *w = &d->layers[i];
        const struct { const char *name; const float *data; size_t rows, cols; } of_layer[] = {
            { "attn_norm", w->norm1, 1, h }, { "ffn_norm", w->norm2, 1, h }, { "attn_q", w->qkv, q, h },
            { "attn_k", w->qkv + q * h, kv, h }, { "attn_v", w->qkv + (q + kv) * h, kv, h },
            { "attn_output", w->o, h, q },
            { "ffn_gate", w->gate_up, m, h }, { "ffn_up", w->gate_up + m * h, m, h }, { "ffn_down", w->down, h, m },
        };
        for (size_t j = 0; j < sizeof of_layer / sizeof *of_layer; j++, count++) {
            snprintf(list[count].name, sizeof list[count].name, "blk.%zu.%s.weight", i, of_layer[j].name);
            list[count].data = of_layer[j].data;
            list[count].rows = of_layer[j].rows;
            list[count].cols = of_layer[j].cols;
        }
    }
    return count;
}

void gguf_put_model(struct bytes *b, const struct decoder *decoder, const struct vocabulary *v)
{
    const struct decoder_config *c = &decoder->config;
    struct entry *list = calloc(2 + 9 * c->num_layers, sizeof *list);
    assert_non_null(list);
    const size_t count = list_weights(decoder, list);
    gguf_put_head(b, count, 16);
    gguf_put_text(b, "general.architecture", "llama");
    gguf_put_u32(b, "llama.block_count", (uint32_t)c->num_layers);
    gguf_put_u32(b, "llama.context_length", (uint32_t)c->max_positions);
    gguf_put_u32(b, "llama.embedding_length", (uint32_t)c->hidden);
    gguf_put_u32(b, "llama.feed_forward_length", (uint32_t)c->mlp_dim);
    gguf_put_u32(b, "llama.attention.head_count", (uint32_t)c->num_heads);
    gguf_put_u32(b, "llama.attention.head_count_kv", (uint32_t)c->kv_heads);
    gguf_put_f32(b, "llama.attention.layer_norm_rms_epsilon", (float)c->norm_eps);
    gguf_put_f32(b, "llama.rope.freq_base", (float)c->rope_base);
    gguf_put_text(b, "tokenizer.ggml.model", "gpt2");
    gguf_put_text(b, "tokenizer.ggml.pre", "smollm");
    gguf_put_texts(b, "tokenizer.ggml.tokens", (const char *const *)v->tokens, v->num_tokens);
    gguf_put_texts(b, "tokenizer.ggml.merges", (const char *const *)v->merges, v->num_merges);
    gguf_put_i32s(b, "tokenizer.ggml.token_type", v->types, v->num_tokens);
    gguf_put_u32(b, "tokenizer.ggml.bos_token_id", (uint32_t)v->num_tokens - 2);
    gguf_put_u32(b, "tokenizer.ggml.eos_token_id", (uint32_t)v->num_tokens - 1);
    uint64_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        const size_t dims[] = { list[i].cols, list[i].rows };
        gguf_put_tensor(b, list[i].name, list[i].rows > 1 ? 2 : 1, dims, GGUF_F32, offset);
        offset += (list[i].rows * list[i].cols * 4 + 31) / 32 * 32;
    }
    for (size_t i = 0; i < count; i++) {
        bytes_pad(b, 32);
        bytes_put(b, list[i].data, list[i].rows * list[i].cols * 4);
    }
    free(list);
}

struct decoder *gguf_tiny_model(const char *path)
{
    static const char *const merges[] = { "h e", "l l", "he ll", NULL };
    static const char *const specials[] = { "<|s|>", "<|e|>", NULL };
    const struct decoder_config config = { .vocab_size = 261, .hidden = 32, .num_layers = 2, .num_heads = 4,
                                           .kv_heads = 2, .head_dim = 8, .mlp_dim = 48, .max_positions = 96,
                                           .norm_eps = 1e-5, .rope_base = 900.0 };
    struct vocabulary v = vocabulary_make(merges, specials);
    struct decoder *d;
    struct bytes b = { 0 };
    assert_int_equal(v.num_tokens, config.vocab_size);
    assert_int_equal(decoder_random(&config, 2.0, 20240614, &d), GSL_SUCCESS);
    gguf_put_model(&b, d, &v);
    bytes_write(&b, path);
    bytes_free(&b);
    vocabulary_free(&v);
    return d;
}
