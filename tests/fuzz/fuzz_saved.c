#include "common/hash.h"
#include "prefix_ntk/ntk.h"
#include "prefix_ntk/summary.h"
#include "tests/support/fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD_DIM = 2, VALUE_DIM = 3, NUM_SAMPLES = 2 };

static const char edit[] = "\x28\x00\x01\x68\x00\xff", none[] = "";
const struct fuzz_seed fuzz_seeds[] = { { edit, sizeof edit - 1 }, { none, 0 } };
const size_t fuzz_num_seeds = 2;

static feature_map *map;
static struct attn_fold *fold;
static struct ntk_moments *moments;

static void start(void)
{
    static const double K[] = { 0.7, -1.3, 0.2, 0.9 }, V[] = { 0.3, 0.1, -0.8, 1.1, 0.6, -0.4 };
    static double X[] = { 0.6, 0.8, -0.8, 0.6 }, W[] = { 0.7, -1.3, 0.2, 0.9 }, a[] = { 1.0, -1.0 };
    gsl_matrix_view x = gsl_matrix_view_array(X, NUM_SAMPLES, 2), w = gsl_matrix_view_array(W, 2, 2);
    gsl_vector_view s = gsl_vector_view_array(a, 2);
    if (feature_parse("taylor:2", HEAD_DIM, 0.0, 0, NULL, &map) || attn_fold_alloc(map, VALUE_DIM, &fold)) abort();
    if (attn_fold_add_f64(fold, 2, K, HEAD_DIM, V, VALUE_DIM, 1, NULL)) abort();
    moments = ntk_moments_alloc(&x.matrix, PREFIX_SIGNS_RANDOM, NTK_FULL, 1);
    if (!moments || ntk_moments_add(moments, &w.matrix, &s.vector)) abort();
}

/* Three bytes an edit: where (two), and what. Then the sums are sealed again, so that more than the checksum is
 * tried. */
static void edited(unsigned char *sums, size_t size, const uint8_t *bytes, size_t count, int sealed)
{
    for (size_t i = 0; i + 3 <= count; i += 3) sums[(bytes[i] | (size_t)bytes[i + 1] << 8) % size] = bytes[i + 2];
    const uint64_t hash = hash_bytes(HASH_START, sums, size - sizeof hash);
    if (sealed) memcpy(sums + size - sizeof hash, &hash, sizeof hash);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (!fold) start();
    const size_t sizes[2] = { attn_fold_saved_size(fold), ntk_moments_saved_size(moments) };
    for (int sealed = 0; sealed < 2; sealed++)
        for (int m = 0; m < 2; m++) {
            /* Cut off, too, where the first byte says so; the copy has its own size. */
            unsigned char *sums = malloc(sizes[m]);
            if (!sums) return 0;
            if (m ? ntk_moments_save_bytes(moments, sums, sizes[m]) : attn_fold_save(fold, sums, sizes[m])) abort();
            edited(sums, sizes[m], bytes, size, sealed);
            const size_t length = size && bytes[0] == 0xff ? bytes[size - 1] % sizes[m] : sizes[m];
            unsigned char *copy = malloc(length ? length : 1);
            if (!copy) abort();
            memcpy(copy, sums, length);
            if (m) (void)ntk_moments_load_bytes(moments, copy, length);
            else (void)attn_fold_load(fold, copy, length);
            free(copy);
            free(sums);
            if (sizes[m] != (m ? ntk_moments_saved_size(moments) : attn_fold_saved_size(fold))) {
                /* Taken in with another number of lanes: start anew. */
                attn_fold_free(fold);
                feature_map_free(map);
                ntk_moments_free(moments);
                fold = NULL;
                return 0;
            }
        }
    return 0;
}
