/* The classifier alone. */
#include "transformer/encoder.h"

const struct adapter_ops adapter_head = { .name = "head", .summary = "the linear classifier alone" };
