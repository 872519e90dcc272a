/* GGUF v3 files: metadata and tensors, little-endian.
 *
 *   magic "GGUF", version, number of tensors, number of metadata pairs
 *   pairs    key, type, value; arrays hold scalars or strings, never arrays
 *   tensors  name, rank, dims (the fastest first), type, offset from the start of the data
 *   data     aligned to general.alignment (32), each tensor too
 *
 * Tensor types read: F32, F16, and per 32 numbers of a row
 *   Q8_0  fp16 d, 32 int8 q                x_i = d q_i
 *   Q4_1  fp16 d, fp16 m, 16 bytes         x_i = d q_i + m, q_i the low nibbles of the 16 bytes, then the high ones
 *
 * The file is mapped; it must not change while it is open. Every size, offset and length is checked
 * against the file before it is used; names and keys are unique. Codes: GSL_EFAILED cannot open,
 * GSL_EINVAL malformed or of a kind that is not read, GSL_ENOMEM; *why gets one line without the path. */
#ifndef TRANSFORMER_GGUF_H
#define TRANSFORMER_GGUF_H
#include <stddef.h>
#include <stdint.h>

#include "common/reason.h"

struct gguf;

/* Bytes inside the file, not terminated. */
struct gguf_text { const char *bytes; size_t len; };

enum gguf_kind { GGUF_F32 = 0, GGUF_F16 = 1, GGUF_Q4_1 = 3, GGUF_Q8_0 = 8 };

struct gguf_tensor {
    struct gguf_text name;
    enum gguf_kind kind;
    size_t rank, dims[4];           /* dims[0] the fastest; 1 beyond the rank */
    size_t count;                   /* numbers: the product of dims */
    const unsigned char *data;      /* inside the file */
};

int gguf_open(const char *path, struct gguf **out, struct reason why);
void gguf_free(struct gguf *gguf);                  /* accepts NULL */

/* ---- metadata: GSL_EINVAL when the key is missing or its value of another type --------------------- */

int gguf_has(const struct gguf *gguf, const char *key);
int gguf_size(const struct gguf *gguf, const char *key, size_t *value);       /* any integer >= 0 */
int gguf_number(const struct gguf *gguf, const char *key, double *value);     /* float32, float64; finite */
int gguf_flag(const struct gguf *gguf, const char *key, int *value);
int gguf_text(const struct gguf *gguf, const char *key, struct gguf_text *value);
/* An array of strings, of integers: *out is the caller's to free. GSL_ENOMEM. */
int gguf_texts(const struct gguf *gguf, const char *key, struct gguf_text **out, size_t *count);
int gguf_integers(const struct gguf *gguf, const char *key, int64_t **out, size_t *count);

/* ---- tensors ------------------------------------------------------------------------------------------ */

size_t gguf_num_tensors(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t i);
const struct gguf_tensor *gguf_tensor(const struct gguf *gguf, const char *name);   /* NULL: none */

/* Bytes of `count` numbers (a multiple of 32 for the quantised kinds) of a kind. */
size_t gguf_bytes(enum gguf_kind kind, size_t count);
/* out (count): the numbers as float32. */
void gguf_read(const struct gguf_tensor *tensor, float *out);
/* `count` numbers of a kind that lie at `data`. */
void gguf_dequantise(enum gguf_kind kind, const unsigned char *data, size_t count, float *out);
/* IEEE binary16, exactly. */
float gguf_half(uint16_t bits);

#endif
