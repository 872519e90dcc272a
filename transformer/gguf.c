#include "transformer/gguf.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/input_file.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF data is read as it lies");

enum { VERSION = 3, BLOCK = 32, MAX_RANK = 4, MAX_NAME = 65535, DEFAULT_ALIGNMENT = 32, MAX_ALIGNMENT = 1 << 20 };

/* Types of metadata values. */
enum type { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, NUM_TYPES };
static const unsigned char type_size[NUM_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

/* A value: `count` items of `type` from `at`, an array or (is_array false, count 1) one alone. */
struct pair {
    struct gguf_text key;
    enum type type;
    bool is_array;
    size_t count;
    const unsigned char *at;
};

struct gguf {
    unsigned char *bytes;
    size_t size;
    struct pair *pairs;             /* in the order of keys */
    size_t num_pairs;
    struct gguf_tensor *tensors;    /* as in the file */
    struct gguf_tensor **by_name;
    size_t num_tensors;
};

/* What is left of the file. */
struct cursor { const unsigned char *at; size_t left; };

static bool take(struct cursor *c, void *out, size_t size)
{
    if (c->left < size) return false;
    memcpy(out, c->at, size);
    c->at += size;
    c->left -= size;
    return true;
}

static bool take_text(struct cursor *c, struct gguf_text *text)
{
    uint64_t len;
    if (!take(c, &len, sizeof len) || len > c->left) return false;
    *text = (struct gguf_text){ (const char *)c->at, (size_t)len };
    c->at += len;
    c->left -= (size_t)len;
    return true;
}

static int compare_texts(struct gguf_text a, struct gguf_text b)
{
    const int order = memcmp(a.bytes, b.bytes, a.len < b.len ? a.len : b.len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_pairs(const void *a, const void *b)
{
    return compare_texts(((const struct pair *)a)->key, ((const struct pair *)b)->key);
}

static int compare_tensors(const void *a, const void *b)
{
    return compare_texts((*(struct gguf_tensor *const *)a)->name, (*(struct gguf_tensor *const *)b)->name);
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static int read_items(struct cursor *c, struct pair *pair, struct reason why)
{
    pair->at = c->at;
    if (pair->type == STRING) {
        struct gguf_text text;
        for (size_t i = 0; i < pair->count; i++)
            if (!take_text(c, &text)) return refuse(why, GSL_EINVAL, "a string runs beyond the end of the file");
        return GSL_SUCCESS;
    }
    size_t bytes;
    if (__builtin_mul_overflow(pair->count, (size_t)type_size[pair->type], &bytes) || bytes > c->left)
        return refuse(why, GSL_EINVAL, "a value runs beyond the end of the file");
    c->at += bytes;
    c->left -= bytes;
    return GSL_SUCCESS;
}

static int read_pair(struct cursor *c, struct pair *pair, struct reason why)
{
    uint32_t type;
    uint64_t count = 1;
    if (!take_text(c, &pair->key)) return refuse(why, GSL_EINVAL, "truncated metadata");
    if (!pair->key.len || pair->key.len > MAX_NAME) return refuse(why, GSL_EINVAL, "a key of %zu bytes", pair->key.len);
    if (!take(c, &type, sizeof type)) return refuse(why, GSL_EINVAL, "truncated metadata");
    pair->is_array = type == ARRAY;
    if (pair->is_array && (!take(c, &type, sizeof type) || !take(c, &count, sizeof count)))
        return refuse(why, GSL_EINVAL, "truncated metadata");
    if (pair->is_array && type == ARRAY) return refuse(why, GSL_EINVAL, "an array of arrays in the metadata");
    if (type >= NUM_TYPES) return refuse(why, GSL_EINVAL, "metadata of the unknown type %u", type);
    pair->type = (enum type)type;
    /* A string takes at least the eight bytes of its length. */
    if (count > c->left) return refuse(why, GSL_EINVAL, "an array runs beyond the end of the file");
    pair->count = (size_t)count;
    return read_items(c, pair, why);
}

static int read_pairs(struct gguf *g, struct cursor *c, struct reason why)
{
    if (!(g->pairs = calloc(g->num_pairs ? g->num_pairs : 1, sizeof *g->pairs)))
        return refuse(why, GSL_ENOMEM, "out of memory");
    for (size_t i = 0; i < g->num_pairs; i++) {
        const int status = read_pair(c, &g->pairs[i], why);
        if (status) return status;
    }
    if (g->num_pairs) qsort(g->pairs, g->num_pairs, sizeof *g->pairs, compare_pairs);
    for (size_t i = 1; i < g->num_pairs; i++)
        if (!compare_pairs(&g->pairs[i - 1], &g->pairs[i]))
            return refuse(why, GSL_EINVAL, "a key stands in the metadata twice");
    return GSL_SUCCESS;
}

size_t gguf_bytes(enum gguf_kind kind, size_t count)
{
    switch (kind) {
    case GGUF_F32: return 4 * count;
    case GGUF_F16: return 2 * count;
    case GGUF_Q4_1: return count / BLOCK * 20;
    case GGUF_Q8_0: return count / BLOCK * 34;
    }
    return 0;
}

static int read_tensor(struct cursor *c, struct gguf_tensor *t, uint64_t *offset, struct reason why)
{
    uint32_t rank, kind;
    if (!take_text(c, &t->name) || !take(c, &rank, sizeof rank))
        return refuse(why, GSL_EINVAL, "truncated list of tensors");
    if (!t->name.len || t->name.len > MAX_NAME)
        return refuse(why, GSL_EINVAL, "a tensor's name of %zu bytes", t->name.len);
    if (!rank || rank > MAX_RANK) return refuse(why, GSL_EINVAL, "a tensor of %u dimensions", rank);
    t->rank = rank;
    t->count = 1;
    for (size_t i = 0; i < MAX_RANK; i++) {
        uint64_t extent = 1;
        if (i < rank && !take(c, &extent, sizeof extent)) return refuse(why, GSL_EINVAL, "truncated list of tensors");
        if (!extent) return refuse(why, GSL_EINVAL, "an empty tensor");
        t->dims[i] = (size_t)extent;
        if (__builtin_mul_overflow(t->count, t->dims[i], &t->count) || t->count > SIZE_MAX / 8)
            return refuse(why, GSL_EINVAL, "a tensor of absurd shape");
    }
    if (!take(c, &kind, sizeof kind) || !take(c, offset, sizeof *offset))
        return refuse(why, GSL_EINVAL, "truncated list of tensors");
    if (kind != GGUF_F32 && kind != GGUF_F16 && kind != GGUF_Q4_1 && kind != GGUF_Q8_0)
        return refuse(why, GSL_EINVAL, "a tensor of type %u; F32 (0), F16 (1), Q4_1 (3) and Q8_0 (8) are read", kind);
    t->kind = (enum gguf_kind)kind;
    if ((t->kind == GGUF_Q4_1 || t->kind == GGUF_Q8_0) && t->dims[0] % BLOCK)
        return refuse(why, GSL_EINVAL, "a quantised tensor with rows of %zu, not a multiple of %d", t->dims[0], BLOCK);
    return GSL_SUCCESS;
}

static int read_alignment(const struct gguf *g, size_t *alignment, struct reason why)
{
    *alignment = DEFAULT_ALIGNMENT;
    if (!gguf_has(g, "general.alignment")) return GSL_SUCCESS;
    if (gguf_size(g, "general.alignment", alignment) || *alignment < 8 || *alignment > MAX_ALIGNMENT ||
        (*alignment & (*alignment - 1)))
        return refuse(why, GSL_EINVAL, "general.alignment is not a power of two between 8 and %d", MAX_ALIGNMENT);
    return GSL_SUCCESS;
}

/* From offsets to places in the file. */
static int place_tensors(struct gguf *g, const uint64_t *offsets, const struct cursor *c, struct reason why)
{
    size_t alignment;
    int status = read_alignment(g, &alignment, why);
    if (status) return status;
    const size_t header = g->size - c->left;
    const size_t start = (header + alignment - 1) / alignment * alignment;
    for (size_t i = 0; i < g->num_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        if (offsets[i] % alignment)
            return refuse(why, GSL_EINVAL, "a tensor's offset is not aligned to %zu", alignment);
        if (start > g->size || offsets[i] > g->size - start ||
            gguf_bytes(t->kind, t->count) > g->size - start - offsets[i])
            return refuse(why, GSL_EINVAL, "a tensor's data run beyond the end of the file");
        t->data = g->bytes + start + offsets[i];
    }
    return GSL_SUCCESS;
}

static int read_tensors(struct gguf *g, struct cursor *c, struct reason why)
{
    const size_t room = g->num_tensors ? g->num_tensors : 1;
    uint64_t *offsets = calloc(room, sizeof *offsets);
    g->tensors = calloc(room, sizeof *g->tensors);
    g->by_name = calloc(room, sizeof(struct gguf_tensor *));
    int status = offsets && g->tensors && g->by_name ? GSL_SUCCESS : refuse(why, GSL_ENOMEM, "out of memory");
    for (size_t i = 0; i < g->num_tensors && !status; i++) {
        g->by_name[i] = &g->tensors[i];
        status = read_tensor(c, &g->tensors[i], &offsets[i], why);
    }
    if (!status && g->num_tensors) qsort(g->by_name, g->num_tensors, sizeof(struct gguf_tensor *), compare_tensors);
    for (size_t i = 1; i < g->num_tensors && !status; i++)
        if (!compare_tensors(&g->by_name[i - 1], &g->by_name[i]))
            status = refuse(why, GSL_EINVAL, "two tensors have the same name");
    if (!status) status = place_tensors(g, offsets, c, why);
    free(offsets);
    return status;
}

static int parse(struct gguf *g, struct reason why)
{
    struct cursor c = { g->bytes, g->size };
    char magic[4];
    uint32_t version;
    uint64_t num_tensors, num_pairs;
    if (!take(&c, magic, sizeof magic) || memcmp(magic, "GGUF", 4))
        return refuse(why, GSL_EINVAL, "not a GGUF file: wrong magic");
    if (!take(&c, &version, sizeof version)) return refuse(why, GSL_EINVAL, "truncated header");
    if (version != VERSION) return refuse(why, GSL_EINVAL, "GGUF version %u; only %d is read", version, VERSION);
    if (!take(&c, &num_tensors, sizeof num_tensors) || !take(&c, &num_pairs, sizeof num_pairs))
        return refuse(why, GSL_EINVAL, "truncated header");
    /* A pair takes at least 13 bytes, a tensor 33: these bounds keep what is allocated in proportion to the file. */
    if (num_pairs > c.left / 13 || num_tensors > c.left / 33)
        return refuse(why, GSL_EINVAL, "more tensors or metadata than the file could hold");
    g->num_pairs = (size_t)num_pairs;
    g->num_tensors = (size_t)num_tensors;
    const int status = read_pairs(g, &c, why);
    return status ? status : read_tensors(g, &c, why);
}

int gguf_open(const char *path, struct gguf **out, struct reason why)
{
    *out = NULL;
    uint64_t size;
    FILE *file = input_file_open(path, &size, why.text, why.size);
    if (!file) return input_file_status(errno);
    struct gguf *g = calloc(1, sizeof *g);
    int status = g ? GSL_SUCCESS : refuse(why, GSL_ENOMEM, "out of memory");
    if (!status && (size < 24 || size > SIZE_MAX)) status = refuse(why, GSL_EINVAL, "not a GGUF file: too short");
    if (!status) {
        void *bytes = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fileno(file), 0);
        if (bytes == MAP_FAILED) {
            status = refuse(why, input_file_status(errno), "cannot be mapped: %s", strerror(errno));
        } else {
            g->bytes = bytes;
            g->size = (size_t)size;
            status = parse(g, why);
        }
    }
    fclose(file);
    if (status) gguf_free(g);
    else *out = g;
    return status;
}

void gguf_free(struct gguf *gguf)
{
    if (!gguf) return;
    if (gguf->bytes) munmap(gguf->bytes, gguf->size);
    free(gguf->pairs);
    free(gguf->tensors);
    free(gguf->by_name);
    free(gguf);
}

/* ---- metadata --------------------------------------------------------------------------------------------- */

static const struct pair *find(const struct gguf *g, const char *key)
{
    const struct pair wanted = { .key = { key, strlen(key) } };
    return g->num_pairs ? bsearch(&wanted, g->pairs, g->num_pairs, sizeof *g->pairs, compare_pairs) : NULL;
}

static const struct pair *find_one(const struct gguf *g, const char *key)
{
    const struct pair *pair = find(g, key);
    return pair && !pair->is_array ? pair : NULL;
}

int gguf_has(const struct gguf *gguf, const char *key)
{
    return find(gguf, key) != NULL;
}

/* Item i of integers; false for other types and beyond int64. */
static bool integer(const struct pair *pair, size_t i, int64_t *out)
{
    union { uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; uint64_t u64; int64_t i64; } x;
    const size_t size = type_size[pair->type];
    if (pair->type == F32 || pair->type == BOOL || pair->type == STRING || pair->type == F64) return false;
    memcpy(&x, pair->at + i * size, size);
    switch (pair->type) {
    case U8: *out = x.u8; return true;
    case I8: *out = x.i8; return true;
    case U16: *out = x.u16; return true;
    case I16: *out = x.i16; return true;
    case U32: *out = x.u32; return true;
    case I32: *out = x.i32; return true;
    case I64: *out = x.i64; return true;
    default: *out = (int64_t)x.u64; return x.u64 <= INT64_MAX;
    }
}

int gguf_size(const struct gguf *gguf, const char *key, size_t *value)
{
    const struct pair *pair = find_one(gguf, key);
    int64_t x;
    if (!pair || !integer(pair, 0, &x) || x < 0) return GSL_EINVAL;
    *value = (size_t)x;
    return GSL_SUCCESS;
}

int gguf_number(const struct gguf *gguf, const char *key, double *value)
{
    const struct pair *pair = find_one(gguf, key);
    float narrow;
    double wide;
    if (!pair || (pair->type != F32 && pair->type != F64)) return GSL_EINVAL;
    if (pair->type == F32) memcpy(&narrow, pair->at, sizeof narrow), wide = (double)narrow;
    else memcpy(&wide, pair->at, sizeof wide);
    if (!isfinite(wide)) return GSL_EINVAL;
    *value = wide;
    return GSL_SUCCESS;
}

int gguf_flag(const struct gguf *gguf, const char *key, int *value)
{
    const struct pair *pair = find_one(gguf, key);
    if (!pair || pair->type != BOOL || *pair->at > 1) return GSL_EINVAL;
    *value = *pair->at;
    return GSL_SUCCESS;
}

/* Takes the strings one after the other: their lengths were checked when the file was opened. */
static struct gguf_text next_text(const unsigned char **at)
{
    uint64_t len;
    memcpy(&len, *at, sizeof len);
    const struct gguf_text text = { (const char *)*at + sizeof len, (size_t)len };
    *at += sizeof len + len;
    return text;
}

int gguf_text(const struct gguf *gguf, const char *key, struct gguf_text *value)
{
    const struct pair *pair = find_one(gguf, key);
    if (!pair || pair->type != STRING) return GSL_EINVAL;
    const unsigned char *at = pair->at;
    *value = next_text(&at);
    return GSL_SUCCESS;
}

int gguf_texts(const struct gguf *gguf, const char *key, struct gguf_text **out, size_t *count)
{
    const struct pair *pair = find(gguf, key);
    if (!pair || !pair->is_array || pair->type != STRING) return GSL_EINVAL;
    struct gguf_text *all = calloc(pair->count ? pair->count : 1, sizeof *all);
    if (!all) return GSL_ENOMEM;
    const unsigned char *at = pair->at;
    for (size_t i = 0; i < pair->count; i++) all[i] = next_text(&at);
    *out = all;
    *count = pair->count;
    return GSL_SUCCESS;
}

int gguf_integers(const struct gguf *gguf, const char *key, int64_t **out, size_t *count)
{
    const struct pair *pair = find(gguf, key);
    if (!pair || !pair->is_array || pair->type == STRING) return GSL_EINVAL;
    int64_t *all = calloc(pair->count ? pair->count : 1, sizeof *all);
    if (!all) return GSL_ENOMEM;
    for (size_t i = 0; i < pair->count; i++)
        if (!integer(pair, i, &all[i])) {
            free(all);
            return GSL_EINVAL;
        }
    *out = all;
    *count = pair->count;
    return GSL_SUCCESS;
}

/* ---- tensors ------------------------------------------------------------------------------------------------ */

size_t gguf_num_tensors(const struct gguf *gguf) { return gguf->num_tensors; }
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t i) { return &gguf->tensors[i]; }

const struct gguf_tensor *gguf_tensor(const struct gguf *gguf, const char *name)
{
    struct gguf_tensor wanted = { .name = { name, strlen(name) } }, *key = &wanted;
    if (!gguf->num_tensors) return NULL;
    struct gguf_tensor *const *found = bsearch(&key, gguf->by_name, gguf->num_tensors, sizeof(struct gguf_tensor *),
                                               compare_tensors);
    return found ? *found : NULL;
}

float gguf_half(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float x;
    if (exponent == 31) x = fraction ? NAN : INFINITY;
    else if (!exponent) x = ldexpf((float)fraction, -24);
    else x = ldexpf((float)(1024 + fraction), exponent - 25);
    return bits >> 15 ? -x : x;
}

static float half_at(const unsigned char *at)
{
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return gguf_half(bits);
}

void gguf_dequantise(enum gguf_kind kind, const unsigned char *data, size_t count, float *out)
{
    switch (kind) {
    case GGUF_F32:
        memcpy(out, data, count * sizeof *out);
        return;
    case GGUF_F16:
        for (size_t i = 0; i < count; i++) out[i] = half_at(data + 2 * i);
        return;
    case GGUF_Q8_0:
        for (size_t at = 0; at < count; at += BLOCK, data += 34) {
            const float d = half_at(data);
            for (size_t i = 0; i < BLOCK; i++) out[at + i] = d * (float)(signed char)data[2 + i];
        }
        return;
    case GGUF_Q4_1:
        for (size_t at = 0; at < count; at += BLOCK, data += 20) {
            const float d = half_at(data), m = half_at(data + 2);
            for (size_t i = 0; i < BLOCK / 2; i++) {
                out[at + i] = d * (float)(data[4 + i] & 15) + m;
                out[at + BLOCK / 2 + i] = d * (float)(data[4 + i] >> 4) + m;
            }
        }
        return;
    }
}

void gguf_read(const struct gguf_tensor *tensor, float *out)
{
    gguf_dequantise(tensor->kind, tensor->data, tensor->count, out);
}
