/* Named float32 arrays, and the files they come from. */
#ifndef TRANSFORMER_TENSORS_H
#define TRANSFORMER_TENSORS_H
#include <stddef.h>
#include <stdio.h>

#include "common/reason.h"

struct tensor {
    char *name;
    size_t rank, dims[4];
    float *data;                /* C order */
};

/* Numbers in it: the product of its dims. */
size_t tensor_size(const struct tensor *t);

/* Owns its tensors (may map the file). */
struct tensors;

/* A .safetensors file: F32, F16, BF16 become float; I64 `position_ids` is skipped. GSL_EFAILED cannot
 * be opened, REASON_SYSTEM the system failed, GSL_EINVAL malformed, GSL_EDOM a number is not finite, GSL_ENOMEM; one
 * line in *why. */
int tensors_read(const char *path, struct tensors **out, struct reason why);
const struct tensor *tensors_find(const struct tensors *tensors, const char *name);     /* NULL: none */
size_t tensors_count(const struct tensors *tensors);
const struct tensor *tensors_at(const struct tensors *tensors, size_t i);
void tensors_free(struct tensors *tensors);                                              /* accepts NULL */

/* metadata: key, value, ..., NULL; NULL: none. */
int tensors_write(FILE *stream, const struct tensor *list, size_t count, const char *const *metadata);

#endif
