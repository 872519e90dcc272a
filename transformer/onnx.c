#include "transformer/onnx.h"

#include "common/input_file.h"
#include "transformer/tensors_internal.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
enum { ONNX_FLOAT = 1, MAX_NAME = 512 };

/* A stretch of the file still to be read. */
struct span { const unsigned char *at, *end; };

struct field { unsigned number, wire; uint64_t value; struct span bytes; };

static int read_varint(struct span *s, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (s->at == s->end) return GSL_EINVAL;
        const unsigned char byte = *s->at++;
        *value |= (uint64_t)(byte & 127) << shift;
        if (!(byte & 128)) return GSL_SUCCESS;
    }
    return GSL_EINVAL;
}

/* The next field of a message; s->at == s->end is its end and the caller's to check. */
static int read_field(struct span *s, struct field *f)
{
    uint64_t key, length;
    if (read_varint(s, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX) return GSL_EINVAL;
    f->number = (unsigned)(key >> 3);
    f->wire = (unsigned)(key & 7);
    f->value = 0;
    f->bytes = (struct span){ NULL, NULL };
    switch (f->wire) {
    case WIRE_VARINT: return read_varint(s, &f->value);
    case WIRE_FIXED64: length = 8; break;
    case WIRE_FIXED32: length = 4; break;
    case WIRE_BYTES:
        if (read_varint(s, &length)) return GSL_EINVAL;
        break;
    default: return GSL_EINVAL;
    }
    if (length > (uint64_t)(s->end - s->at)) return GSL_EINVAL;
    f->bytes = (struct span){ s->at, s->at + length };
    s->at += length;
    return GSL_SUCCESS;
}

static int add_dim(struct tensor *t, uint64_t dim, uint64_t *size)
{
    if (t->rank == 4 || dim > (uint64_t)1 << 40 || (dim && *size > ((uint64_t)1 << 40) / dim)) return GSL_EINVAL;
    t->dims[t->rank++] = (size_t)dim;
    *size *= dim;
    return GSL_SUCCESS;
}

/* Dimensions come one a field or packed. */
static int add_dims(struct tensor *t, const struct field *f, uint64_t *size)
{
    if (f->wire == WIRE_VARINT) return add_dim(t, f->value, size);
    if (f->wire != WIRE_BYTES) return GSL_EINVAL;
    struct span s = f->bytes;
    while (s.at < s.end) {
        uint64_t dim;
        if (read_varint(&s, &dim) || add_dim(t, dim, size)) return GSL_EINVAL;
    }
    return GSL_SUCCESS;
}

/* One TensorProto; t->data stays NULL when it is none we keep. */
static int read_tensor(struct span s, struct tensor *t, struct reason why)
{
    struct span name = { NULL, NULL }, raw = { NULL, NULL };
    uint64_t size = 1, type = 0;
    struct field f;
    while (s.at < s.end) {
        if (read_field(&s, &f)) return refuse(why, GSL_EINVAL, "a malformed tensor");
        if (f.number == 1 && add_dims(t, &f, &size))
            return refuse(why, GSL_EINVAL, "a tensor of more than four or of absurd dimensions");
        if (f.number == 2 && f.wire == WIRE_VARINT) type = f.value;
        if (f.number == 8 && f.wire == WIRE_BYTES) name = f.bytes;
        if (f.number == 9 && f.wire == WIRE_BYTES) raw = f.bytes;
    }
    if (type != ONNX_FLOAT || !raw.at || !name.at) return GSL_SUCCESS;
    const size_t length = (size_t)(name.end - name.at);
    if (length > MAX_NAME || memchr(name.at, 0, length)) return refuse(why, GSL_EINVAL, "a tensor's name is no name");
    if ((uint64_t)(raw.end - raw.at) != 4 * size)
        return refuse(why, GSL_EINVAL, "tensor %.*s: %zu bytes for %llu numbers", (int)(length < 80 ? length : 80),
                      (const char *)name.at, (size_t)(raw.end - raw.at), (unsigned long long)size);
    t->name = strndup((const char *)name.at, length);
    t->data = malloc(size ? (size_t)size * sizeof *t->data : 1);
    if (!t->name || !t->data) return refuse(why, GSL_ENOMEM, "out of memory");
    if (size) memcpy(t->data, raw.at, 4 * (size_t)size);
    for (size_t i = 0; i < size; i++)
        if (!isfinite(t->data[i])) return refuse(why, GSL_EDOM, "tensor %.80s: number %zu is not finite", t->name, i);
    return GSL_SUCCESS;
}

static int read_graph(struct span s, struct tensors *out, struct reason why)
{
    struct field f;
    int status = GSL_SUCCESS;
    while (s.at < s.end && !status) {
        if (read_field(&s, &f)) return refuse(why, GSL_EINVAL, "a malformed graph");
        if (f.number != 5 || f.wire != WIRE_BYTES) continue;
        struct tensor t = { 0 };
        status = read_tensor(f.bytes, &t, why);
        if (!status && t.data && tensors_find(out, t.name))
            status = refuse(why, GSL_EINVAL, "tensor %.80s: twice", t.name);
        if (!status && t.data) {
            status = tensors_append(out, &t);
            if (!status) continue;
            refuse(why, status, "out of memory");
        }
        free(t.name);
        free(t.data);
    }
    return status;
}

static int read_model(struct span s, struct tensors *out, struct reason why)
{
    struct field f;
    int graphs = 0;
    while (s.at < s.end) {
        if (read_field(&s, &f)) return refuse(why, GSL_EINVAL, "not an ONNX model (malformed at its top)");
        if (f.number != 7 || f.wire != WIRE_BYTES) continue;
        const int status = graphs++ ? refuse(why, GSL_EINVAL, "more than one graph") : read_graph(f.bytes, out, why);
        if (status) return status;
    }
    return graphs ? GSL_SUCCESS : refuse(why, GSL_EINVAL, "not an ONNX model (no graph)");
}

int onnx_read(const char *path, struct tensors **out, struct reason why)
{
    size_t size;
    unsigned char *bytes;
    int status = input_file_whole(path, &bytes, &size, why);
    if (status) return status;
    struct tensors *tensors = calloc(1, sizeof *tensors);
    status = tensors ? read_model((struct span){ bytes, bytes + size }, tensors, why)
                     : refuse(why, GSL_ENOMEM, "out of memory");
    free(bytes);
    if (status) tensors_free(tensors);
    else *out = tensors;
    return status;
}
