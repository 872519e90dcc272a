/* What each family of backbones calls its tensors: shared by reading and writing. */
#ifndef TRANSFORMER_BACKBONE_NAMING_H
#define TRANSFORMER_BACKBONE_NAMING_H
#include <stdbool.h>

#include "transformer/backbone.h"

/* One canonical tensor, what a family calls it, and its size: letters of backbone_extent, '-' a vector (hidden). */
struct naming { const char *canonical, *source, *size; };

struct family {
    const char *model_type;             /* of config.json, also the prefix its tensors may have */
    enum backbone_kind kind;
    const struct naming *globals, *block;
    bool pre_norm, layer_scale, has_types, relative;
    size_t position_offset;
};

extern const struct family backbone_families[];     /* ended by model_type NULL */

/* Whether a family with these flags has the global tensor. */
bool family_has(const struct family *family, const struct naming *global);

/* h hidden, m MLP, v vocabulary, p positions, t types, q patches and class token, c channels patch^2, b buckets, a
 * heads. */
size_t backbone_extent(const struct backbone_config *config, char letter);

#endif
