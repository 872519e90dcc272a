/* Folds and kernel moments as bytes: pieces of two processes combine, and nothing damaged or
 * foreign is taken. */
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/isa.h"
#include "common/random.h"
#include "prefix_ntk/ntk.h"
#include "prefix_ntk/summary.h"
#include "prefix_ntk/version.h"
#include "tests/support/check.h"
#include "tests/support/gram_ref.h"
#include "tests/support/scratch.h"

static const double RTOL_SUM = 1e-12;           /* two orders of a sum of some hundred doubles */

enum { DIM = 4, VALUE_DIM = 3, TOKENS = 700, CUT = 300, LEAF = NTK_MOMENTS_LEAF };
static const char *const specs[] = { "elu1", "taylor:3", "cheb:4", "minimax:3", "split:2", "favor:6", "favor-orth:5" };

struct bytes { void *data; size_t size; };

static void write_file(const char *path, struct bytes b)
{
    FILE *file = fopen(path, "w");
    if (!file || fwrite(b.data, 1, b.size, file) != b.size || fclose(file)) _exit(2);
}

static struct bytes read_file(const char *path)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    struct bytes b = { malloc(1 << 24), 0 };
    b.size = fread(b.data, 1, 1 << 24, file);
    fclose(file);
    return b;
}

static feature_map *make_map(const char *spec, uint64_t seed)
{
    feature_map *map;
    assert_int_equal(feature_parse(spec, DIM, 2.0, seed, NULL, &map), GSL_SUCCESS);
    return map;
}

static struct attn_fold *make_fold(const feature_map *map, size_t value_dim, size_t first, size_t last)
{
    struct attn_fold *fold;
    double *x = malloc((TOKENS + 1) * (DIM + VALUE_DIM) * sizeof *x);
    random_normal(5, RANDOM_OTHER, 0, 0, x, TOKENS * (DIM + VALUE_DIM));
    assert_int_equal(attn_fold_alloc(map, value_dim, &fold), GSL_SUCCESS);
    const double *K = x + first * DIM, *V = x + TOKENS * DIM + first * value_dim;
    assert_int_equal(attn_fold_add_f64(fold, last - first, K, DIM, V, value_dim, 1, NULL), GSL_SUCCESS);
    free(x);
    return fold;
}

static struct bytes save_fold(const struct attn_fold *fold)
{
    struct bytes b = { NULL, attn_fold_saved_size(fold) };
    b.data = malloc(b.size);
    assert_int_equal(attn_fold_save(fold, b.data, b.size), GSL_SUCCESS);
    return b;
}

/* Runs `make` in a process of its own, which leaves its bytes in the file. */
static void in_process(struct bytes (*make)(const void *), const void *argument, const char *path)
{
    const pid_t child = fork();
    if (!child) {
        write_file(path, make(argument));
        _exit(0);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

struct part { const char *spec; size_t first, last; };

static struct bytes fold_part(const void *argument)
{
    const struct part *part = argument;
    return save_fold(make_fold(make_map(part->spec, 3), VALUE_DIM, part->first, part->last));
}

static void folds_of_two_processes(void **state)
{
    const char *const path[2] = { scratch_path(*state, "first.fold"), scratch_path(*state, "second.fold") };
    for (size_t s = 0; s < sizeof specs / sizeof *specs; s++) {
        const struct part parts[2] = { { specs[s], 0, CUT }, { specs[s], CUT, TOKENS } };
        feature_map *map = make_map(specs[s], 3), *again = make_map(specs[s], 3);
        assert_true(feature_map_equal(map, again));
        struct attn_fold *whole = make_fold(map, VALUE_DIM, 0, TOKENS), *sum, *part;
        assert_int_equal(attn_fold_alloc(map, VALUE_DIM, &sum), GSL_SUCCESS);
        assert_int_equal(attn_fold_alloc(again, VALUE_DIM, &part), GSL_SUCCESS);
        for (int p = 0; p < 2; p++) {
            in_process(fold_part, &parts[p], path[p]);
            const struct bytes b = read_file(path[p]);
            assert_int_equal(attn_fold_load(part, b.data, b.size), GSL_SUCCESS);
            assert_int_equal(attn_fold_count(part), parts[p].last - parts[p].first);
            assert_int_equal(attn_fold_merge(sum, part), GSL_SUCCESS);
            free(b.data);
        }
        const size_t r = feature_dim(map);
        double *Z = malloc(2 * r * (VALUE_DIM + 1) * sizeof *Z), *want = Z + r * (VALUE_DIM + 1);
        assert_int_equal(attn_fold_read_f64(sum, Z, Z + r * VALUE_DIM, NULL), GSL_SUCCESS);
        assert_int_equal(attn_fold_read_f64(whole, want, want + r * VALUE_DIM, NULL), GSL_SUCCESS);
        for (size_t i = 0; i < r * (VALUE_DIM + 1); i++) CHECK_CLOSE(Z[i], want[i], RTOL_SUM, RTOL_SUM);
        free(Z);
        attn_fold_free(whole); attn_fold_free(sum); attn_fold_free(part);
        feature_map_free(map); feature_map_free(again);
    }
}

/* A fold that was loaded goes on as the saved one does. */
static void same_bits(void **state)
{
    (void)state;
    feature_map *map = make_map("favor:6", 3);
    struct attn_fold *fold = make_fold(map, VALUE_DIM, 0, CUT), *later = make_fold(map, VALUE_DIM, 0, 1);
    double K[9 * DIM], V[9 * VALUE_DIM];
    random_normal(6, RANDOM_OTHER, 0, 0, K, 9 * DIM);
    random_normal(6, RANDOM_OTHER, 0, 1, V, 9 * VALUE_DIM);
    struct bytes b = save_fold(fold);
    assert_int_equal(attn_fold_load(later, b.data, b.size), GSL_SUCCESS);
    free(b.data);
    struct bytes ends[2];
    struct attn_fold *const both[2] = { fold, later };
    for (int f = 0; f < 2; f++) {
        assert_int_equal(attn_fold_add_f64(both[f], 9, K, DIM, V, VALUE_DIM, 1, NULL), GSL_SUCCESS);
        ends[f] = save_fold(both[f]);
    }
    assert_int_equal(ends[0].size, ends[1].size);
    assert_memory_equal(ends[0].data, ends[1].data, ends[0].size);
    free(ends[0].data); free(ends[1].data);
    attn_fold_free(fold); attn_fold_free(later);
    feature_map_free(map);
}

/* ---- damage ------------------------------------------------------------------------- */

typedef int load_fn(void *into, const void *bytes, size_t size);
static int load_fold(void *into, const void *bytes, size_t size) { return attn_fold_load(into, bytes, size); }
static int load_moments(void *into, const void *bytes, size_t size)
{
    return ntk_moments_load_bytes(into, bytes, size);
}

/* Every byte changed in three ways, every length but the right one. */
static void refuses_damage(load_fn *load, void *into, struct bytes b)
{
    unsigned char *at = b.data;
    for (size_t i = 0; i < b.size; i++) {
        const unsigned char flips[] = { 1, 0x80, 0xff };
        for (int f = 0; f < 3; f++) {
            at[i] ^= flips[f];
            const int status = load(into, b.data, b.size);
            if (status != GSL_ESANITY) fail_msg("byte %zu of %zu changed: status %d", i, b.size, status);
            at[i] ^= flips[f];
        }
    }
    for (size_t size = 0; size < b.size; size++) assert_int_equal(load(into, b.data, size), GSL_ESANITY);
    void *longer = calloc(1, b.size + 8);
    memcpy(longer, b.data, b.size);
    assert_int_equal(load(into, longer, b.size + 8), GSL_ESANITY);
    /* The bytes of a machine of the other order: the mark is turned, so are all sums. */
    memcpy(longer, b.data, b.size);
    memcpy((char *)longer + 8, (const char[]){ 0x0a, 0x0b, 0x0c, 0x0d }, 4);
    assert_int_equal(load(into, longer, b.size), GSL_ESANITY);
    free(longer);
}

static void damaged_folds(void **state)
{
    (void)state;
    feature_map *map = make_map("taylor:1", 3);
    struct attn_fold *fold = make_fold(map, 2, 0, CUT), *into = make_fold(map, 2, CUT, TOKENS);
    struct bytes b = save_fold(fold), before = save_fold(into), after;
    refuses_damage(load_fold, into, b);
    after = save_fold(into);
    assert_memory_equal(before.data, after.data, before.size);
    assert_int_equal(attn_fold_load(into, b.data, b.size), GSL_SUCCESS);
    assert_int_equal(attn_fold_load(into, NULL, b.size), GSL_EINVAL);
    assert_int_equal(attn_fold_save(into, b.data, b.size - 1), GSL_EINVAL);
    assert_int_equal(attn_fold_save(into, NULL, b.size), GSL_EINVAL);
    free(b.data); free(before.data); free(after.data);
    attn_fold_free(fold); attn_fold_free(into);
    feature_map_free(map);
}

static void foreign_folds(void **state)
{
    (void)state;
    feature_map *map = make_map("favor:6", 3);
    struct attn_fold *fold = make_fold(map, VALUE_DIM, 0, CUT);
    const struct bytes b = save_fold(fold);
    feature_map *others[5] = { make_map("favor:6", 4), make_map("favor:7", 3), make_map("favor-orth:6", 3),
                               make_map("taylor:2", 3) };
    assert_int_equal(feature_parse("favor:6", DIM + 1, 0.0, 3, NULL, &others[4]), GSL_SUCCESS);
    for (int o = 0; o < 5; o++) {
        struct attn_fold *other;
        assert_false(feature_map_equal(map, others[o]));
        assert_int_equal(attn_fold_alloc(others[o], VALUE_DIM, &other), GSL_SUCCESS);
        assert_int_equal(attn_fold_load(other, b.data, b.size), GSL_EINVAL);
        assert_int_equal(attn_fold_merge(other, fold), GSL_EBADLEN);
        attn_fold_free(other);
        feature_map_free(others[o]);
    }
    /* The same map, another width of the values. */
    struct attn_fold *wider = make_fold(map, VALUE_DIM - 1, 0, 2);
    assert_int_equal(attn_fold_load(wider, b.data, b.size), GSL_EINVAL);
    attn_fold_free(wider);
    /* The bound is part of a map. */
    feature_map *narrow, *wide;
    assert_int_equal(feature_parse("cheb:3", DIM, 1.0, 1, NULL, &narrow), GSL_SUCCESS);
    assert_int_equal(feature_parse("cheb:3", DIM, 1.5, 1, NULL, &wide), GSL_SUCCESS);
    assert_false(feature_map_equal(narrow, wide));
    feature_map_free(narrow); feature_map_free(wide);
    attn_fold_free(fold);
    free(b.data);
    feature_map_free(map);
}

/* ---- moments ---------------------------------------------------------------------------- */

struct token_range { const struct gram_case *c; enum ntk_kernel kernel; size_t first, last; };

static struct ntk_moments *make_moments(const struct token_range *part)
{
    const struct gram_case *c = part->c;
    struct ntk_moments *m = ntk_moments_alloc(c->X, PREFIX_SIGNS_RANDOM, part->kernel, 1);
    assert_non_null(m);
    if (part->last == part->first) return m;
    const gsl_matrix_const_view W = gsl_matrix_const_submatrix(c->W, part->first, 0, part->last - part->first, c->d);
    const gsl_vector_const_view signs = gsl_vector_const_subvector(c->signs, part->first, part->last - part->first);
    assert_int_equal(ntk_moments_add(m, &W.matrix, &signs.vector), GSL_SUCCESS);
    return m;
}

static struct bytes save_moments(const struct ntk_moments *m)
{
    struct bytes b = { NULL, ntk_moments_saved_size(m) };
    b.data = malloc(b.size);
    assert_int_equal(ntk_moments_save_bytes(m, b.data, b.size), GSL_SUCCESS);
    return b;
}

static struct bytes moments_part(const void *argument) { return save_moments(make_moments(argument)); }

/* Tokens of one process and then another: bits of all at once. */
static void moments_of_two_processes(void **state)
{
    const char *const path[2] = { scratch_path(*state, "first.moments"), scratch_path(*state, "second.moments") };
    enum { M = 2 * LEAF + 777 };
    struct gram_case c = gram_case_make(3, 2, M, PREFIX_SIGNS_RANDOM, 0.7, 1);
    const struct token_range all = { &c, NTK_FULL, 0, M }, none = { &c, NTK_FULL, 0, 0 };
    const struct token_range parts[2] = { { &c, NTK_FULL, 0, 2 * LEAF }, { &c, NTK_FULL, 2 * LEAF, M } };
    struct ntk_moments *whole = make_moments(&all), *sum = make_moments(&none), *part = make_moments(&none);
    for (int p = 0; p < 2; p++) {
        in_process(moments_part, &parts[p], path[p]);
        const struct bytes b = read_file(path[p]);
        assert_int_equal(ntk_moments_load_bytes(part, b.data, b.size), GSL_SUCCESS);
        assert_int_equal(ntk_moments_merge(sum, part), GSL_SUCCESS);
        free(b.data);
    }
    gsl_matrix *want = gsl_matrix_alloc(6, 6);
    assert_int_equal(ntk_moments_count(sum), M);
    assert_int_equal(ntk_moments_gram(whole, NTK_FULL, want, NULL), GSL_SUCCESS);
    assert_int_equal(ntk_moments_gram(sum, NTK_FULL, c.gram, NULL), GSL_SUCCESS);
    CHECK_SAME_BITS(c.gram->data, want->data, 36);
    gsl_matrix_free(want);
    ntk_moments_free(whole); ntk_moments_free(sum); ntk_moments_free(part);
    gram_case_free(&c);
}

static void damaged_and_foreign_moments(void **state)
{
    (void)state;
    struct gram_case c = gram_case_make(1, 1, 3, PREFIX_SIGNS_RANDOM, 0.7, 1);
    struct gram_case other = gram_case_make(1, 1, 3, PREFIX_SIGNS_RANDOM, 0.7, 2);
    const struct token_range range = { &c, NTK_KEY, 0, 3 }, none = { &c, NTK_KEY, 0, 0 }, full = { &c, NTK_FULL, 0, 0 };
    const struct token_range elsewhere = { &other, NTK_KEY, 0, 0 };
    struct ntk_moments *m = make_moments(&range), *into = make_moments(&none), *whole = make_moments(&full);
    struct ntk_moments *foreign = make_moments(&elsewhere);
    struct bytes b = save_moments(m);
    refuses_damage(load_moments, into, b);
    assert_int_equal(ntk_moments_count(into), 0);
    assert_int_equal(ntk_moments_load_bytes(whole, b.data, b.size), GSL_EINVAL);
    assert_int_equal(ntk_moments_load_bytes(foreign, b.data, b.size), GSL_EINVAL);
    assert_int_equal(ntk_moments_load_bytes(into, NULL, b.size), GSL_EINVAL);
    assert_int_equal(ntk_moments_save_bytes(m, b.data, b.size + 8), GSL_EINVAL);
    /* A fold is not moments. */
    feature_map *map = make_map("elu1", 1);
    struct attn_fold *fold = make_fold(map, 2, 0, 2);
    const struct bytes f = save_fold(fold);
    assert_int_equal(ntk_moments_load_bytes(into, f.data, f.size), GSL_EINVAL);
    assert_int_equal(attn_fold_load(fold, b.data, b.size), GSL_EINVAL);
    /* Sums of another instruction set have other low bits. */
    const enum isa before = isa_current();
    if (before != ISA_ID_PORTABLE) {
        assert_int_equal(isa_force(ISA_ID_PORTABLE), GSL_SUCCESS);
        struct ntk_moments *portable = make_moments(&none);
        assert_int_equal(ntk_moments_load_bytes(portable, b.data, b.size), GSL_EINVAL);
        ntk_moments_free(portable);
        isa_force(before);
    }
    assert_int_equal(ntk_moments_load_bytes(into, b.data, b.size), GSL_SUCCESS);
    assert_int_equal(ntk_moments_count(into), 3);
    free(f.data); free(b.data);
    attn_fold_free(fold);
    feature_map_free(map);
    ntk_moments_free(m); ntk_moments_free(into); ntk_moments_free(whole); ntk_moments_free(foreign);
    gram_case_free(&c); gram_case_free(&other);
}

/* The library tells its version at run time. */
static void version(void **state)
{
    (void)state;
    assert_string_equal(prefix_ntk_version(), PREFIX_NTK_VERSION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version),
        cmocka_unit_test(folds_of_two_processes),
        cmocka_unit_test(same_bits),
        cmocka_unit_test(damaged_folds),
        cmocka_unit_test(foreign_folds),
        cmocka_unit_test(moments_of_two_processes),
        cmocka_unit_test(damaged_and_foreign_moments),
    };
    return cmocka_run_group_tests_name("saved", tests, scratch_setup, scratch_teardown);
}
