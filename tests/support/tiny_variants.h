/* One adapter of every kind for models of two blocks: what tests of models run through. */
#ifndef TESTS_SUPPORT_TINY_VARIANTS_H
#define TESTS_SUPPORT_TINY_VARIANTS_H
#include "transformer/adapter.h"

struct tiny_variant { const char *name; struct adapter_options options; };

enum { TINY_VARIANTS = 21 };
void tiny_variants(struct tiny_variant variants[TINY_VARIANTS]);

/* The one of that name; the test fails when there is none. */
const struct tiny_variant *tiny_variant_named(const struct tiny_variant variants[TINY_VARIANTS], const char *name);

/* The same sizes for any other: prefix length 5, rank 2, alpha 3, init_scale 0.7. */
struct adapter_options tiny_options(enum adapter_method method, const char *feature, enum adapter_k_mode mode,
                                    size_t z_rank);

#endif
