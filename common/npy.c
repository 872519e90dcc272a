#include "common/npy.h"

#include "common/array_file.h"
#include "common/atomic_file.h"
#include "common/input_file.h"
#include "common/reason.h"
#include "common/threads.h"

#include <errno.h>
#include <float.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "NPY data is read as it lies");

/* Headers of plain arrays have about 118 bytes; nothing honest comes near this. */
enum { MAX_HEADER = 1 << 16, CHUNK = 4096 };

static const char magic[6] = "\x93NUMPY";

/* ---- the header: a Python dictionary literal with three keys ----------------- */

static void skip_space(const char **p)
{
    while (**p == ' ' || **p == '\t' || **p == '\n' || **p == '\r') ++*p;
}

static bool take(const char **p, char c)
{
    skip_space(p);
    if (**p != c) return false;
    ++*p;
    return true;
}

static bool take_word(const char **p, const char *word)
{
    skip_space(p);
    const size_t len = strlen(word);
    if (strncmp(*p, word, len)) return false;
    *p += len;
    return true;
}

/* A quoted string without escapes, of printable characters, into text[size]. */
static bool take_string(const char **p, char *text, size_t size)
{
    skip_space(p);
    if (**p == 'u') ++*p;                  /* text of Python 2 */
    const char quote = **p;
    if (quote != '\'' && quote != '"') return false;
    size_t len = 0;
    for (++*p; **p && **p != quote; ++*p) {
        if (**p < ' ' || **p > '~' || **p == '\\' || len + 1 >= size) return false;
        text[len++] = **p;
    }
    text[len] = '\0';
    return take(p, quote);
}

/* "(3, 4)", "(3,)" or "()". */
static int take_shape(const char **p, struct npy *a, struct reason why)
{
    if (!take(p, '(')) return refuse(why, GSL_EINVAL, "malformed shape in the header");
    a->rank = 0;
    for (bool comma = true; !take(p, ')'); comma = take(p, ',')) {
        skip_space(p);
        if (**p == '-') return refuse(why, GSL_EINVAL, "negative size in the shape");
        if (!comma || **p < '0' || **p > '9')
            return refuse(why, GSL_EINVAL, "malformed shape in the header");
        if (a->rank == NPY_MAX_RANK)
            return refuse(why, GSL_EINVAL, "more than %d dimensions", NPY_MAX_RANK);
        size_t extent = 0;
        for (; **p >= '0' && **p <= '9'; ++*p)
            if (__builtin_mul_overflow(extent, (size_t)10, &extent) ||
                __builtin_add_overflow(extent, (size_t)(**p - '0'), &extent))
                return refuse(why, GSL_EINVAL, "absurd shape: a size beyond 2^64");
        if (**p == 'L') ++*p;              /* a long integer of Python 2 */
        a->shape[a->rank++] = extent;
    }
    return GSL_SUCCESS;
}

static bool is_integer(const char *type)
{
    static const char *const known[] = { "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8" };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(type, known[i])) return true;
    return false;
}

static int parse_header(const char *p, bool integers, struct npy *a, struct reason why)
{
    bool has_type = false, has_order = false, has_shape = false;
    if (!take(&p, '{')) return refuse(why, GSL_EINVAL, "malformed header: no dictionary");
    for (bool comma = true; !take(&p, '}'); comma = take(&p, ',')) {
        char key[32], type[32];
        if (!comma || !take_string(&p, key, sizeof key) || !take(&p, ':'))
            return refuse(why, GSL_EINVAL, "malformed header");
        if (!strcmp(key, "descr") && !has_type) {
            if (!take_string(&p, type, sizeof type))
                return refuse(why, GSL_EINVAL, "dtype is not a plain float32 or float64");
            if (strcmp(type, "<f4") && strcmp(type, "<f8") && !(integers && is_integer(type)))
                return refuse(why, GSL_EINVAL, "dtype '%s' is not little-endian float32 or float64%s", type,
                              integers ? ", nor an integer" : "");
            a->is_float32 = !strcmp(type, "<f4");
            snprintf(a->type, sizeof a->type, "%.7s", type);
            has_type = true;
        } else if (!strcmp(key, "fortran_order") && !has_order) {
            if (take_word(&p, "True"))
                return refuse(why, GSL_EINVAL, "Fortran order; only C order is read");
            if (!take_word(&p, "False")) return refuse(why, GSL_EINVAL, "malformed header: order");
            has_order = true;
        } else if (!strcmp(key, "shape") && !has_shape) {
            const int status = take_shape(&p, a, why);
            if (status) return status;
            has_shape = true;
        } else {
            return refuse(why, GSL_EINVAL, "malformed header: key '%s'", key);
        }
    }
    skip_space(&p);
    if (*p || !has_type || !has_order || !has_shape)
        return refuse(why, GSL_EINVAL, "malformed header");
    return GSL_SUCCESS;
}

/* Reads everything before the data; *data_size is what the file holds after it. */
static int read_header(FILE *file, uint64_t file_size, bool integers, struct npy *a, uint64_t *data_size,
                       struct reason why)
{
    unsigned char start[12];
    int status = input_file_read(file, start, 8, file_size ? "not an NPY file: too short" : "empty file", why);
    if (status) return status;
    if (memcmp(start, magic, sizeof magic))
        return refuse(why, GSL_EINVAL, "not an NPY file: wrong magic string");
    const int major = start[6];
    if ((major != 1 && major != 2) || start[7] != 0)
        return refuse(why, GSL_EINVAL, "NPY version %d.%d; versions 1.0 and 2.0 are read", major, start[7]);
    const size_t width = major == 1 ? 2 : 4;
    if ((status = input_file_read(file, start + 8, width, "truncated header", why))) return status;
    size_t len = start[8] | (size_t)start[9] << 8;
    if (major == 2) len |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    if (len > file_size - 8 - width) return refuse(why, GSL_EINVAL, "truncated header");
    if (len > MAX_HEADER) return refuse(why, GSL_EINVAL, "absurd header of %zu bytes", len);

    char *header = malloc(len + 1);
    if (!header) return refuse(why, GSL_ENOMEM, "out of memory");
    header[len] = '\0';
    status = input_file_read(file, header, len, "truncated header", why);
    if (!status && memchr(header, '\0', len)) status = refuse(why, GSL_EINVAL, "malformed header: zero byte");
    if (!status) status = parse_header(header, integers, a, why);
    free(header);
    *data_size = file_size - 8 - width - len;
    return status;
}

/* The number of elements, once shape and file agree. */
static int check_size(struct npy *a, uint64_t data_size, struct reason why)
{
    /* Zero extents must not hide an overflow of the others. */
    size_t count = 1, span = 1, bytes;
    bool empty = false;
    for (size_t i = 0; i < a->rank; i++) {
        if (a->shape[i] == 0) empty = true;
        else if (__builtin_mul_overflow(span, a->shape[i], &span))
            return refuse(why, GSL_EINVAL, "absurd shape: more than 2^64 elements");
    }
    count = empty ? 0 : span;
    const size_t width = (size_t)(a->type[2] - '0');
    if (__builtin_mul_overflow(span, sizeof(double), &bytes) || bytes > PTRDIFF_MAX)
        return refuse(why, GSL_EINVAL, "absurd shape: more than 2^64 bytes");
    const uint64_t need = (uint64_t)count * width;
    if (data_size < need)
        return refuse(why, GSL_EINVAL, "truncated: %llu bytes of data, the shape needs %llu",
                      (unsigned long long)data_size, (unsigned long long)need);
    if (data_size > need)
        return refuse(why, GSL_EINVAL, "%llu trailing bytes after the data",
                      (unsigned long long)(data_size - need));
    if (bytes > memory_available())
        return refuse(why, GSL_ENOMEM, "%zu elements are more than this machine's memory", count);
    a->size = count;
    return GSL_SUCCESS;
}

static int not_finite(struct reason why, double x, size_t index)
{
    return refuse(why, GSL_EDOM, "%s at element %zu", isnan(x) ? "NaN" : "Inf", index);
}

/* Number i of a chunk of the file's type. */
static double number_at(const struct npy *a, const unsigned char *chunk, size_t i)
{
#define RETURN_AS(number) do { number x; memcpy(&x, chunk + i * sizeof x, sizeof x); return (double)x; } while (0)
    const bool is_signed = a->type[1] == 'i';
    if (a->is_float32) RETURN_AS(float);
    if (a->type[1] == 'f') RETURN_AS(double);
    switch (a->type[2]) {
    case '1': if (is_signed) RETURN_AS(int8_t); RETURN_AS(uint8_t);
    case '2': if (is_signed) RETURN_AS(int16_t); RETURN_AS(uint16_t);
    case '4': if (is_signed) RETURN_AS(int32_t); RETURN_AS(uint32_t);
    default: if (is_signed) RETURN_AS(int64_t); RETURN_AS(uint64_t);
    }
#undef RETURN_AS
}

static int read_data(FILE *file, bool want_float32, struct npy *a, struct reason why)
{
    if (want_float32) a->f32 = malloc((a->size ? a->size : 1) * sizeof *a->f32);
    else a->f64 = malloc((a->size ? a->size : 1) * sizeof *a->f64);
    if (!a->f32 && !a->f64) return refuse(why, GSL_ENOMEM, "out of memory");

    const bool is_long = a->type[1] != 'f' && a->type[2] == '8';
    for (size_t at = 0; at < a->size;) {
        unsigned char chunk[CHUNK * sizeof(double)];
        const size_t width = (size_t)(a->type[2] - '0');
        const size_t count = a->size - at < CHUNK ? a->size - at : CHUNK;
        const int status = input_file_read(file, chunk, width * count, "truncated while it was read", why);
        if (status) return status;
        for (size_t i = 0; i < count; i++) {
            const double x = number_at(a, chunk, i);
            if (!isfinite(x)) return not_finite(why, x, at + i);
            if (is_long && fabs(x) > 9007199254740992.0)
                return refuse(why, GSL_EDOM, "%g at element %zu is beyond 2^53", x, at + i);
            if (!want_float32) {
                a->f64[at + i] = x;
            } else {
                a->f32[at + i] = (float)x;
                if (!isfinite(a->f32[at + i]))
                    return refuse(why, GSL_EDOM, "%g at element %zu is beyond float32", x, at + i);
            }
        }
        at += count;
    }
    return GSL_SUCCESS;
}

static int read_file(const char *path, bool want_float32, bool integers, struct npy *out, struct reason why)
{
    struct npy a = { 0 };
    *out = a;
    uint64_t file_size, data_size = 0;
    FILE *file = input_file_open(path, &file_size, why.text, why.size);
    if (!file) return input_file_status(errno);
    int status = read_header(file, file_size, integers, &a, &data_size, why);
    if (!status) status = check_size(&a, data_size, why);
    if (!status) status = read_data(file, want_float32, &a, why);
    fclose(file);
    if (status) npy_free(&a);
    else *out = a;
    return status;
}

int npy_read(const char *path, int want_float32, struct npy *out, char *why, size_t why_size)
{
    return read_file(path, want_float32 != 0, false, out, (struct reason){ why, why_size });
}

int npy_read_numbers(const char *path, struct npy *out, char *why, size_t why_size)
{
    return read_file(path, false, true, out, (struct reason){ why, why_size });
}

void npy_free(struct npy *a)
{
    if (!a) return;
    free(a->f64);
    free(a->f32);
    *a = (struct npy){ 0 };
}

/* ---- writing ------------------------------------------------------------------ */

static void put_npy(FILE *stream, const char *type, const void *data, size_t width, size_t count, size_t rank,
                    const size_t *shape)
{
    char header[128 + 24 * NPY_MAX_RANK], sizes[24 * NPY_MAX_RANK + 1] = "";
    size_t len = 0;
    for (size_t i = 0; i < rank; i++)
        len += (size_t)snprintf(sizes + len, sizeof sizes - len, i + 1 < rank ? "%zu, " : rank == 1 ? "%zu," : "%zu",
                                shape[i]);
    int text = snprintf(header, sizeof header,
                        "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", type, sizes);
    /* Spaces and a newline bring the start of the data to a multiple of 64 bytes. */
    while ((10 + text + 1) % 64) header[text++] = ' ';
    header[text++] = '\n';
    const unsigned char start[10] = { 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0,
                                      (unsigned char)(text & 0xff), (unsigned char)(text >> 8) };
    fwrite(start, 1, sizeof start, stream);
    fwrite(header, 1, (size_t)text, stream);
    if (count) fwrite(data, width, count, stream);
}

/* One line per row; a vector is a column. Read back, every number is the same. */
static void put_csv(FILE *stream, const float *f32, const double *f64, size_t count, size_t columns)
{
    for (size_t i = 0; i < count; i++) {
        if (f32) fprintf(stream, "%.9g", (double)f32[i]);
        else fprintf(stream, "%.17g", f64[i]);
        fputc((i + 1) % columns ? ',' : '\n', stream);
    }
}

static int count_elements(size_t rank, const size_t *shape, size_t *count, struct reason why)
{
    *count = 1;
    if (rank > NPY_MAX_RANK) return refuse(why, GSL_EINVAL, "more than %d dimensions", NPY_MAX_RANK);
    for (size_t i = 0; i < rank; i++)
        if (__builtin_mul_overflow(*count, shape[i], count))
            return refuse(why, GSL_EINVAL, "absurd shape");
    return GSL_SUCCESS;
}

int array_file_put(FILE *stream, const char *path, const float *f32, const double *f64, size_t rank,
                   const size_t *shape, char *why_text, size_t why_size)
{
    const struct reason why = { why_text, why_size };
    const bool csv = array_file_format(path) == ARRAY_CSV;
    size_t count;
    const int status = count_elements(rank, shape, &count, why);
    if (status) return status;
    if (csv && (rank < 1 || rank > 2))
        return refuse(why, GSL_EINVAL, "a CSV file has rows and columns, this array %zu dimensions (.npy holds it)",
                      rank);
    if (csv && !count) return refuse(why, GSL_EINVAL, "an empty array, which a CSV file cannot hold (.npy does)");
    for (size_t i = 0; i < count; i++) {
        const double x = f32 ? (double)f32[i] : f64[i];
        if (!isfinite(x)) return not_finite(why, x, i);
    }
    if (csv) put_csv(stream, f32, f64, count, rank == 2 ? shape[1] : 1);
    else put_npy(stream, f32 ? "<f4" : "<f8", f32 ? (const void *)f32 : f64, f32 ? sizeof *f32 : sizeof *f64, count,
                 rank, shape);
    return GSL_SUCCESS;
}

static int write_array(const char *path, const float *f32, const double *f64, size_t rank, const size_t *shape,
                       char *why, size_t why_size)
{
    struct atomic_file *file;
    int status = atomic_file_open(path, &file, why, why_size);
    if (status) return status;
    if (!(status = array_file_put(atomic_file_stream(file), path, f32, f64, rank, shape, why, why_size)))
        return atomic_file_commit(file, why, why_size);
    atomic_file_discard(file);
    return status;
}

int npy_write_f64(const char *path, const double *x, size_t rank, const size_t *shape, char *why, size_t why_size)
{
    return write_array(path, NULL, x, rank, shape, why, why_size);
}

int npy_write_f32(const char *path, const float *x, size_t rank, const size_t *shape, char *why, size_t why_size)
{
    return write_array(path, x, NULL, rank, shape, why, why_size);
}
