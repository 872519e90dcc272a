/* safetensors: 8 bytes header length (little-endian), a JSON object of tensors, then their bytes without gaps or
 * overlaps. Nothing in the header is believed before it is checked against the file's size. */
#include "transformer/tensors.h"

#include "common/input_file.h"
#include "data/json_file.h"
#include "transformer/tensors_internal.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER = 100 << 20, MAX_NAME = 512 };

/* Where a tensor lies in the data part. */
struct extent { uint64_t begin, end; size_t index; };

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_SKIPPED };

static float from_half(uint16_t h)
{
    const int sign = h >> 15, exponent = h >> 10 & 31, fraction = h & 1023;
    double x;
    if (exponent == 31) x = fraction ? NAN : INFINITY;
    else if (exponent == 0) x = ldexp(fraction, -24);
    else x = ldexp(1024 + fraction, exponent - 25);
    return (float)(sign ? -x : x);
}

static float from_bfloat(uint16_t h)
{
    const uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static size_t dtype_bytes(const char *text, enum dtype *dtype)
{
    static const struct { const char *name; size_t bytes; enum dtype dtype; } known[] = {
        { "F32", 4, DTYPE_F32 }, { "F16", 2, DTYPE_F16 }, { "BF16", 2, DTYPE_BF16 }, { "I64", 8, DTYPE_SKIPPED },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(text, known[i].name)) {
            *dtype = known[i].dtype;
            return known[i].bytes;
        }
    return 0;
}

static int is_position_ids(const char *name)
{
    const char *dot = strrchr(name, '.');
    return !strcmp(dot ? dot + 1 : name, "position_ids");
}

/* Shape of one entry: rank, dims, and the number of elements. */
static int read_shape(const char *name, const json_t *shape, struct tensor *t, uint64_t *size, struct reason why)
{
    if (!json_is_array(shape) || json_array_size(shape) > 4)
        return refuse(why, GSL_EINVAL, "tensor %.80s: shape is not a list of at most 4 numbers", name);
    t->rank = json_array_size(shape);
    *size = 1;
    for (size_t i = 0; i < t->rank; i++) {
        const json_t *dim = json_array_get(shape, i);
        const json_int_t d = json_is_integer(dim) ? json_integer_value(dim) : -1;
        if (d < 0 || d > (json_int_t)1 << 40 || (d && *size > ((uint64_t)1 << 40) / (uint64_t)d))
            return refuse(why, GSL_EINVAL, "tensor %.80s: shape out of range", name);
        t->dims[i] = (size_t)d;
        *size *= (uint64_t)d;
    }
    return GSL_SUCCESS;
}

/* Reads `size` elements into t->data. */
static int read_data(FILE *file, uint64_t offset, uint64_t size, enum dtype dtype, struct tensor *t, struct reason why)
{
    t->data = malloc(size ? (size_t)size * sizeof *t->data : 1);
    if (!t->data) return refuse(why, GSL_ENOMEM, "out of memory");
    if (fseeko(file, (off_t)offset, SEEK_SET)) return refuse(why, REASON_SYSTEM, "%s", strerror(errno));
    const size_t width = dtype == DTYPE_F32 ? 4 : 2;
    /* Halves are read into the upper end of the array and widened from the front. */
    unsigned char *bytes = (unsigned char *)t->data + (size_t)size * (4 - width);
    const int status = input_file_read(file, bytes, (size_t)size * width, "truncated", why);
    if (status) return status;
    for (size_t i = 0; i < size; i++) {
        if (dtype != DTYPE_F32) {
            uint16_t h;
            memcpy(&h, bytes + 2 * i, sizeof h);
            t->data[i] = dtype == DTYPE_F16 ? from_half(h) : from_bfloat(h);
        }
        if (!isfinite(t->data[i])) return refuse(why, GSL_EDOM, "tensor %.80s: number %zu is not finite", t->name, i);
    }
    return GSL_SUCCESS;
}

static int by_begin(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int read_entry(const char *name, const json_t *entry, uint64_t data_bytes, struct tensor *t, enum dtype *dtype,
                      struct extent *extent, struct reason why)
{
    if (strlen(name) > MAX_NAME) return refuse(why, GSL_EINVAL, "a tensor's name is longer than %d bytes", MAX_NAME);
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    if (!json_is_object(entry) || !type || !json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !json_is_integer(json_array_get(offsets, 0)) || !json_is_integer(json_array_get(offsets, 1)))
        return refuse(why, GSL_EINVAL, "tensor %.80s: without dtype, shape or data_offsets", name);
    const size_t width = dtype_bytes(type, dtype);
    if (!width || (*dtype == DTYPE_SKIPPED && !is_position_ids(name)))
        return refuse(why, GSL_EINVAL, "tensor %.80s: dtype %.16s is not F32, F16 or BF16", name, type);
    uint64_t size = 0;
    const int status = read_shape(name, json_object_get(entry, "shape"), t, &size, why);
    if (status) return status;
    const json_int_t begin = json_integer_value(json_array_get(offsets, 0)),
        end = json_integer_value(json_array_get(offsets, 1));
    if (begin < 0 || end < begin || (uint64_t)end > data_bytes)
        return refuse(why, GSL_EINVAL, "tensor %.80s: data_offsets beyond the file", name);
    if ((uint64_t)(end - begin) != size * width)
        return refuse(why, GSL_EINVAL, "tensor %.80s: %lld bytes for %llu numbers", name, (long long)(end - begin),
                      (unsigned long long)size);
    extent->begin = (uint64_t)begin;
    extent->end = (uint64_t)end;
    return GSL_SUCCESS;
}

static int check_extents(struct extent *extents, size_t count, uint64_t data_bytes, struct reason why)
{
    uint64_t at = 0;
    qsort(extents, count, sizeof *extents, by_begin);
    for (size_t i = 0; i < count; i++) {
        if (extents[i].begin < at) return refuse(why, GSL_EINVAL, "tensors overlap");
        if (extents[i].begin > at) return refuse(why, GSL_EINVAL, "bytes that belong to no tensor");
        at = extents[i].end;
    }
    return at == data_bytes ? GSL_SUCCESS : refuse(why, GSL_EINVAL, "bytes that belong to no tensor");
}

static int read_all(FILE *file, const json_t *header, uint64_t data_start, uint64_t data_bytes, struct tensors *out,
                    struct reason why)
{
    const size_t entries = json_object_size(header);
    struct extent *extents = calloc(entries + 1, sizeof *extents);
    enum dtype *dtypes = calloc(entries + 1, sizeof *dtypes);
    out->list = calloc(entries + 1, sizeof *out->list);
    int status = extents && dtypes && out->list ? GSL_SUCCESS : refuse(why, GSL_ENOMEM, "out of memory");
    size_t count = 0, kept = 0;
    const char *name;
    json_t *entry;
    json_object_foreach((json_t *)(uintptr_t)header, name, entry) {
        if (status) break;
        if (!strcmp(name, "__metadata__")) continue;
        struct tensor *t = &out->list[count];
        status = read_entry(name, entry, data_bytes, t, &dtypes[count], &extents[count], why);
        extents[count].index = count;
        if (!status && !(t->name = strdup(name))) status = refuse(why, GSL_ENOMEM, "out of memory");
        count++;
    }
    out->count = count;
    if (!status) status = check_extents(extents, count, data_bytes, why);
    for (size_t i = 0; i < count && !status; i++) {
        struct tensor *t = &out->list[extents[i].index];
        const enum dtype dtype = dtypes[extents[i].index];
        if (dtype == DTYPE_SKIPPED) continue;
        status = read_data(file, data_start + extents[i].begin,
                           (extents[i].end - extents[i].begin) / (dtype == DTYPE_F32 ? 4 : 2), dtype, t, why);
    }
    /* What was skipped leaves the list. */
    for (size_t i = 0; i < count && !status; i++) {
        if (out->list[i].data) {
            out->list[kept++] = out->list[i];
        } else {
            free(out->list[i].name);
        }
    }
    if (!status) out->count = kept;
    free(dtypes);
    free(extents);
    return status;
}

/* The JSON header; *start is where the data begin. */
static int read_header(FILE *file, uint64_t file_bytes, json_t **header, uint64_t *start, struct reason why)
{
    unsigned char length[8];
    const int short_file = input_file_read(file, length, 8, "not a safetensors file (shorter than 8 bytes)", why);
    if (short_file) return short_file;
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | length[i];
    if (n < 2 || n > MAX_HEADER || n > file_bytes - 8)
        return refuse(why, GSL_EINVAL, "not a safetensors file (header of %llu bytes)", (unsigned long long)n);
    char *text = malloc((size_t)n);
    if (!text) return refuse(why, GSL_ENOMEM, "out of memory");
    int status = GSL_SUCCESS;
    char line[160];
    status = input_file_read(file, text, (size_t)n, "truncated header", why);
    if (!status && (status = json_text_read(text, (size_t)n, header, (struct reason){ line, sizeof line })))
        refuse(why, status, "header: %s", line);
    if (!status && !json_is_object(*header)) status = refuse(why, GSL_EINVAL, "header is not a JSON object");
    free(text);
    *start = 8 + n;
    return status;
}

int tensors_read(const char *path, struct tensors **out, struct reason why)
{
    uint64_t bytes, start = 0;
    FILE *file = input_file_open(path, &bytes, why.text, why.size);
    if (!file) return input_file_status(errno);
    json_t *header = NULL;
    struct tensors *tensors = calloc(1, sizeof *tensors);
    int status = tensors ? read_header(file, bytes, &header, &start, why) : refuse(why, GSL_ENOMEM, "out of memory");
    if (!status) status = read_all(file, header, start, bytes - start, tensors, why);
    json_decref(header);
    fclose(file);
    if (status) tensors_free(tensors);
    else *out = tensors;
    return status;
}

int tensors_append(struct tensors *tensors, const struct tensor *t)
{
    if (tensors->count == tensors->room) {
        const size_t room = tensors->room ? 2 * tensors->room : 64;
        struct tensor *grown = realloc(tensors->list, room * sizeof *grown);
        if (!grown) return GSL_ENOMEM;
        tensors->list = grown;
        tensors->room = room;
    }
    tensors->list[tensors->count++] = *t;
    return GSL_SUCCESS;
}

const struct tensor *tensors_find(const struct tensors *tensors, const char *name)
{
    for (size_t i = 0; i < tensors->count; i++)
        if (!strcmp(tensors->list[i].name, name)) return &tensors->list[i];
    return NULL;
}

size_t tensors_count(const struct tensors *tensors)
{
    return tensors->count;
}

const struct tensor *tensors_at(const struct tensors *tensors, size_t i)
{
    return i < tensors->count ? &tensors->list[i] : NULL;
}

void tensors_free(struct tensors *tensors)
{
    if (!tensors) return;
    for (size_t i = 0; tensors->list && i < tensors->count; i++) {
        free(tensors->list[i].name);
        free(tensors->list[i].data);
    }
    free(tensors->list);
    free(tensors);
}

size_t tensor_size(const struct tensor *t)
{
    size_t size = 1;
    for (size_t i = 0; i < t->rank; i++) size *= t->dims[i];
    return size;
}

static json_t *header_of(const struct tensor *list, size_t count, const char *const *metadata)
{
    json_t *header = json_object();
    json_t *notes = metadata && *metadata ? json_object() : NULL;
    int bad = !header;
    for (const char *const *m = metadata; notes && *m && !bad; m += 2)
        bad = json_object_set_new(notes, m[0], json_string(m[1]));
    if (notes && !bad) bad = json_object_set_new(header, "__metadata__", notes);
    size_t at = 0;
    for (size_t i = 0; i < count && !bad; i++) {
        json_t *shape = json_array();
        for (size_t r = 0; r < list[i].rank && !bad; r++)
            bad = json_array_append_new(shape, json_integer((json_int_t)list[i].dims[r]));
        const size_t end = at + 4 * tensor_size(&list[i]);
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                                  (json_int_t)at, (json_int_t)end);
        bad |= !entry || json_object_set_new(header, list[i].name, entry);
        at = end;
    }
    if (!bad) return header;
    json_decref(header);
    return NULL;
}

int tensors_write(FILE *stream, const struct tensor *list, size_t count, const char *const *metadata)
{
    json_t *header = header_of(list, count, metadata);
    char *text = header ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!text) return GSL_ENOMEM;
    /* Spaces after the header put the data at a multiple of 8. */
    const size_t used = strlen(text), padded = (used + 7) / 8 * 8;
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)padded >> 8 * i);
    int bad = fwrite(length, 1, 8, stream) != 8 || fwrite(text, 1, used, stream) != used ||
              fprintf(stream, "%*s", (int)(padded - used), "") != (int)(padded - used);
    free(text);
    for (size_t i = 0; i < count && !bad; i++) {
        const size_t size = tensor_size(&list[i]);
        bad = fwrite(list[i].data, sizeof(float), size, stream) != size;
    }
    return bad ? GSL_EFAILED : GSL_SUCCESS;
}
