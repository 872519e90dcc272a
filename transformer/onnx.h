/* The initialisers of an ONNX model as tensors: ModelProto.graph (7) > GraphProto.initializer (5) > TensorProto
 * dims (1), data_type (2), name (8), raw_data (9). Nodes are not read. */
#ifndef TRANSFORMER_ONNX_H
#define TRANSFORMER_ONNX_H
#include "transformer/tensors.h"

/* float32 initialisers with raw data; those of other types or without are left aside. GSL_EFAILED cannot be opened,
 * REASON_SYSTEM the system failed, GSL_EINVAL malformed or of more than four dimensions, GSL_EDOM a number is not
 * finite, GSL_ENOMEM; one line in *why. */
int onnx_read(const char *path, struct tensors **out, struct reason why);

#endif
