#include "tests/support/tiny_variants.h"
#include "tests/support/check.h"

#include <string.h>

/* Fields of adapter_options beside those of tiny_options; no feature: elu1; last_layer is given from 1 on, 0: the
 * last. */
static const struct {
    const char *name;
    enum adapter_method method;
    const char *feature;
    enum adapter_k_mode k_mode;
    size_t z_rank;
    int first_layer, last_layer, mlp_dim, whiten;
    unsigned targets;
} table[TINY_VARIANTS] = {
    { .name = "full", .method = ADAPTER_FULL },
    { .name = "full, block 1", .method = ADAPTER_FULL, .first_layer = 1 },
    { .name = "head", .method = ADAPTER_HEAD },
    { .name = "lora q,v", .method = ADAPTER_LORA },
    { .name = "lora all", .method = ADAPTER_LORA, .targets = 63 },
    { .name = "lora k,o,fc1, block 1", .method = ADAPTER_LORA, .first_layer = 1,
      .targets = 1u << PROJ_K | 1u << PROJ_O | 1u << PROJ_FC1 },
    { .name = "ptuning", .method = ADAPTER_PTUNING },
    { .name = "ptuning mlp", .method = ADAPTER_PTUNING, .mlp_dim = 7 },
    { .name = "ptuning mlp, block 0", .method = ADAPTER_PTUNING, .mlp_dim = 7, .last_layer = 1 },
    { .name = "ptuning, block 0", .method = ADAPTER_PTUNING, .last_layer = 1 },
    { .name = "tied-prefix", .method = ADAPTER_TIED_PREFIX },
    { .name = "ntk log", .method = ADAPTER_NTK },
    { .name = "ntk linear", .method = ADAPTER_NTK, .k_mode = ADAPTER_K_LINEAR },
    { .name = "ntk zero, low rank", .method = ADAPTER_NTK, .k_mode = ADAPTER_K_ZERO, .z_rank = 2 },
    { .name = "ntk favor", .method = ADAPTER_NTK, .feature = "favor:6" },
    { .name = "ntk taylor, low rank", .method = ADAPTER_NTK, .feature = "taylor:2", .k_mode = ADAPTER_K_TIED,
      .z_rank = 3 },
    { .name = "prefix-plus", .method = ADAPTER_PREFIX_PLUS },
    { .name = "prefix-plus, block 0", .method = ADAPTER_PREFIX_PLUS, .last_layer = 1 },
    { .name = "prefix-plus taylor, low rank", .method = ADAPTER_PREFIX_PLUS, .feature = "taylor:1", .z_rank = 2 },
    { .name = "prefix-plus taylor, white", .method = ADAPTER_PREFIX_PLUS, .feature = "taylor:1", .whiten = 1 },
    { .name = "ntk log, low rank, white", .method = ADAPTER_NTK, .z_rank = 2, .whiten = 1 },
};

struct adapter_options tiny_options(enum adapter_method method, const char *feature, enum adapter_k_mode mode,
                                    size_t z_rank)
{
    struct adapter_options o = adapter_defaults(method);
    o.prefix_len = 5;
    o.rank = 2;
    o.alpha = 3.0;
    o.init_scale = 0.7;
    o.k_mode = mode;
    o.z_rank = z_rank;
    strcpy(o.feature, feature);
    return o;
}

void tiny_variants(struct tiny_variant v[TINY_VARIANTS])
{
    for (size_t i = 0; i < TINY_VARIANTS; i++) {
        struct adapter_options o = tiny_options(table[i].method, table[i].feature ? table[i].feature : "elu1",
                                                table[i].k_mode, table[i].z_rank);
        o.first_layer = table[i].first_layer;
        if (table[i].last_layer) o.last_layer = table[i].last_layer - 1;
        if (table[i].targets) o.targets = table[i].targets;
        if (table[i].mlp_dim) {
            o.reparameterise = 1;
            o.mlp_dim = (size_t)table[i].mlp_dim;
        }
        o.whiten = table[i].whiten;
        v[i] = (struct tiny_variant){ table[i].name, o };
    }
}

const struct tiny_variant *tiny_variant_named(const struct tiny_variant variants[TINY_VARIANTS], const char *name)
{
    for (size_t i = 0; i < TINY_VARIANTS; i++)
        if (!strcmp(variants[i].name, name)) return &variants[i];
    fail_msg("no variant \"%s\"", name);
    return NULL;
}
