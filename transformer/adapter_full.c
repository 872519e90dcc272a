/* Full fine-tuning: the model trains the backbone's own weights. */
#include "transformer/encoder.h"

const struct adapter_ops adapter_full = {
    .name = "full", .summary = "every weight of the blocks chosen (all: embeddings and final norm too)",
    .trains_backbone = 1, .changes_blocks = 1
};
