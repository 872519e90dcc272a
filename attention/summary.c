/* Plug-in summaries: streamed, merged, differentiated. */
#include "prefix_ntk/summary.h"

#include <cblas.h>
#include <float.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "attention/call.h"
#include "attention/feature_internal.h"
#include "attention/linear_state.h"
#include "common/parallel.h"
#include "common/saved.h"

enum { MAX_LANES = 8, ALIGN = 64 };

/* Beyond it a block of values overflows size_t on the threads there may be. */
#define MAX_VALUE_DIM ((size_t)1 << 44)

struct attn_fold {
    const feature_map *map;
    size_t value_dim, lanes;
    size_t count, next_block;
    struct linear_state lane[MAX_LANES];
    double *store;                          /* the lanes, one after another */
};

/* Fewer lanes for very large sums: what is lost is parallelism, not memory. */
static size_t lane_count(size_t state_doubles)
{
    const size_t lanes = ((size_t)1 << 23) / (state_doubles ? state_doubles : 1);
    return lanes > MAX_LANES ? MAX_LANES : lanes ? lanes : 1;
}

size_t attn_fold_block(const feature_map *map)
{
    const size_t rows = ((size_t)1 << 18) / (map->feat_dim ? map->feat_dim : 1);
    return rows > 256 ? 256 : rows < 16 ? 16 : rows;
}

size_t attn_fold_bytes(size_t feat_dim, size_t value_dim)
{
    size_t state, bytes;
    if (__builtin_mul_overflow(feat_dim, value_dim + 1, &state) || value_dim + 1 == 0) return SIZE_MAX;
    if (__builtin_mul_overflow(state, lane_count(state) * sizeof(double), &bytes)) return SIZE_MAX;
    return bytes;
}

int attn_fold_alloc(const feature_map *map, size_t value_dim, struct attn_fold **out)
{
    *out = NULL;
    if (!feature_is_explicit(map)) return GSL_EUNSUP;
    if (value_dim == 0) return GSL_EINVAL;
    const size_t bytes = attn_fold_bytes(map->feat_dim, value_dim);
    if (bytes == SIZE_MAX) return GSL_EOVRFLW;
    struct attn_fold *fold = calloc(1, sizeof *fold);
    if (fold) fold->store = malloc(bytes);
    if (!fold || !fold->store) {
        free(fold);
        return GSL_ENOMEM;
    }
    const size_t state = map->feat_dim * (value_dim + 1);
    fold->map = map;
    fold->value_dim = value_dim;
    fold->lanes = lane_count(state);
    for (size_t l = 0; l < fold->lanes; l++)
        fold->lane[l] = (struct linear_state){ map->feat_dim, value_dim, 0.0, fold->store + l * state };
    attn_fold_reset(fold);
    *out = fold;
    return GSL_SUCCESS;
}

void attn_fold_free(struct attn_fold *fold)
{
    if (!fold) return;
    free(fold->store);
    free(fold);
}

void attn_fold_reset(struct attn_fold *fold)
{
    fold->count = fold->next_block = 0;
    for (size_t l = 0; l < fold->lanes; l++) linear_state_clear(&fold->lane[l]);
}

size_t attn_fold_count(const struct attn_fold *fold)
{
    return fold->count;
}

int attn_fold_merge(struct attn_fold *into, const struct attn_fold *from)
{
    if (into->value_dim != from->value_dim || !feature_map_equal(into->map, from->map)) return GSL_EBADLEN;
    for (size_t l = 0; l < into->lanes; l++) linear_state_merge(&into->lane[l], &from->lane[l]);
    into->count += from->count;
    into->next_block += from->next_block;
    return GSL_SUCCESS;
}

/* ---- as bytes -------------------------------------------------------------------- */

static size_t state_numbers(const struct attn_fold *fold)
{
    return fold->lanes * fold->map->feat_dim * (fold->value_dim + 1);
}

enum { SAVED_FAMILY, SAVED_ORDER, SAVED_DIM, SAVED_FEATURES, SAVED_VALUES, SAVED_LANES, SAVED_TOKENS, SAVED_BLOCKS };

static void sizes_of(const struct attn_fold *fold, uint64_t sizes[SAVED_SIZES])
{
    const feature_map *map = fold->map;
    const uint64_t all[SAVED_SIZES] = { (uint64_t)map->spec.family, map->spec.order, map->dim, map->feat_dim,
                                        fold->value_dim,
                                        fold->lanes, fold->count, fold->next_block };
    memcpy(sizes, all, sizeof all);
}

size_t attn_fold_saved_size(const struct attn_fold *fold)
{
    return saved_size(fold->lanes + state_numbers(fold));
}

int attn_fold_save(const struct attn_fold *fold, void *bytes, size_t size)
{
    if (!bytes || size != attn_fold_saved_size(fold) || (uintptr_t)bytes % sizeof(double)) return GSL_EINVAL;
    double *numbers = saved_numbers(bytes);
    uint64_t sizes[SAVED_SIZES];
    for (size_t l = 0; l < fold->lanes; l++) numbers[l] = fold->lane[l].scale;
    memcpy(numbers + fold->lanes, fold->store, state_numbers(fold) * sizeof *numbers);
    sizes_of(fold, sizes);
    saved_seal(bytes, size, "fold", feature_map_identity(fold->map), sizes);
    return GSL_SUCCESS;
}

int attn_fold_load(struct attn_fold *fold, const void *bytes, size_t size)
{
    uint64_t sizes[SAVED_SIZES], own[SAVED_SIZES];
    if (!bytes) return GSL_EINVAL;
    const int status = saved_check(bytes, size, "fold", feature_map_identity(fold->map), sizes);
    if (status) return status;
    sizes_of(fold, own);
    if (memcmp(sizes, own, SAVED_TOKENS * sizeof *sizes) || size != attn_fold_saved_size(fold)) return GSL_EINVAL;
    const char *numbers = (const char *)bytes + SAVED_HEAD;
    for (size_t l = 0; l < fold->lanes; l++) memcpy(&fold->lane[l].scale, numbers + l * sizeof(double), sizeof(double));
    memcpy(fold->store, numbers + fold->lanes * sizeof(double), state_numbers(fold) * sizeof(double));
    fold->count = sizes[SAVED_TOKENS];
    fold->next_block = sizes[SAVED_BLOCKS];
    return GSL_SUCCESS;
}

/* ---- tokens ----------------------------------------------------------------------- */

/* Per thread: keys in double, values with the unit column, log-scales, features and
 * mass features or their gradients, gradients in the keys, the features' own scratch. */
static size_t scratch_doubles(const feature_map *map, size_t value_dim)
{
    return attn_fold_block(map) * (2 * map->dim + 2 * (value_dim + 1) + 1 + 3 * map->feat_dim);
}

static size_t thread_bytes(const feature_map *map, size_t value_dim)
{
    const size_t bytes = scratch_doubles(map, value_dim) * sizeof(double) + feature_workspace(map, 1);
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

size_t attn_fold_workspace(const feature_map *map, size_t value_dim, int num_threads)
{
    const size_t threads = num_threads > 1 ? (size_t)num_threads : 1;
    if (value_dim > MAX_VALUE_DIM) return SIZE_MAX;
    return thread_bytes(map, value_dim) * (threads < MAX_LANES ? threads : MAX_LANES) + ALIGN;
}

/* The lanes' sum, pairwise in a fixed order. Lane 0 of `lane` is overwritten. */
static void add_lanes(struct linear_state *lane, size_t lanes)
{
    for (size_t step = 1; step < lanes; step *= 2)
        for (size_t l = 0; l + step < lanes; l += 2 * step) linear_state_merge(&lane[l], &lane[l + step]);
}

/* The sum of all lanes in fresh memory (the fold goes on being added to). */
static int read_state(const struct attn_fold *fold, struct linear_state *sum)
{
    const size_t state = fold->map->feat_dim * (fold->value_dim + 1);
    struct linear_state lane[MAX_LANES];
    double *copy = malloc(state * fold->lanes * sizeof *copy);
    if (!copy) return GSL_ENOMEM;
    memcpy(copy, fold->store, state * fold->lanes * sizeof *copy);
    for (size_t l = 0; l < fold->lanes; l++) {
        lane[l] = fold->lane[l];
        lane[l].Zk = copy + l * state;
    }
    add_lanes(lane, fold->lanes);
    *sum = lane[0];
    return GSL_SUCCESS;
}

static char *aligned(void *work)
{
    return (char *)(((uintptr_t)work + ALIGN - 1) / ALIGN * ALIGN);
}

#define REAL float
#define NAME(f) f##_f32
#define SMALLEST ((double)FLT_MIN)
#include "attention/summary_rows.h"
#undef REAL
#undef NAME
#undef SMALLEST

#define REAL double
#define NAME(f) f##_f64
#define SMALLEST DBL_MIN
#include "attention/summary_rows.h"
#undef REAL
#undef NAME
#undef SMALLEST
