/* Kernels of prefixes that arrive in pieces: the same bits however they are cut. */
#include "tests/support/check.h"

#include <float.h>
#include <math.h>
#include <gsl/gsl_errno.h>
#include "common/isa.h"
#include "common/random.h"
#include "tests/support/gram_ref.h"

static const double RTOL_ROUNDOFF = 2e-14;
static const double RTOL_CANCELLATION = NTK_MAX_CANCELLATION * 4.0 * DBL_EPSILON;

static const enum prefix_signs LAWS[] = { PREFIX_SIGNS_RANDOM, PREFIX_SIGNS_POSITIVE, PREFIX_SIGNS_MIRRORED };

/* Adds tokens [first, last). */
static int add(struct ntk_moments *m, const struct gram_case *c, size_t first, size_t last)
{
    const gsl_matrix_const_view W = gsl_matrix_const_submatrix(c->W, first, 0, last - first, c->d);
    const gsl_vector_const_view signs = gsl_vector_const_subvector(c->signs, first, last - first);
    return ntk_moments_add(m, &W.matrix, &signs.vector);
}

static struct ntk_moments *moments_of(const struct gram_case *c, enum prefix_signs law, enum ntk_kernel kernel,
                                      size_t first, size_t last, int threads)
{
    struct ntk_moments *m = ntk_moments_alloc(c->X, law, kernel, threads);
    assert_non_null(m);
    if (last > first) assert_int_equal(add(m, c, first, last), GSL_SUCCESS);
    return m;
}

/* Tokens in odd pieces, with kernels asked for in between, on any number of threads,
 * beyond a leaf of the tree: bits of all at once. */
static void test_pieces(void **state)
{
    (void)state;
    const size_t m = 2 * NTK_MOMENTS_LEAF + 777;
    const enum isa before = isa_current();
    struct gram_case c = gram_case_make(3, 2, m, PREFIX_SIGNS_RANDOM, 0.7, 1);
    gsl_matrix *want = gsl_matrix_alloc(6, 6);
    static const size_t cuts[] = { 0, 1, 255, 256, 300, 5000, 16383, 16384, 16385, 40, 0 };
    for (enum isa isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        if (isa_force(isa)) continue;
        struct ntk_moments *whole = moments_of(&c, PREFIX_SIGNS_RANDOM, NTK_FULL, 0, m, 1);
        assert_int_equal(ntk_moments_gram(whole, NTK_FULL, want, NULL), GSL_SUCCESS);
        ntk_moments_free(whole);
        struct ntk_moments *pieces = moments_of(&c, PREFIX_SIGNS_RANDOM, NTK_FULL, 0, 0, 3);
        size_t first = 0;
        for (size_t u = 0; u < sizeof cuts / sizeof *cuts; u++) {
            const size_t last = u + 1 < sizeof cuts / sizeof *cuts && first + cuts[u] < m ? first + cuts[u] : m;
            if (last > first) assert_int_equal(add(pieces, &c, first, last), GSL_SUCCESS);
            first = last;
            if (last) assert_int_equal(ntk_moments_gram(pieces, u % 2 ? NTK_KEY : NTK_FULL, c.gram, NULL), GSL_SUCCESS);
        }
        assert_int_equal(first, m);
        assert_int_equal(ntk_moments_count(pieces), m);
        assert_int_equal(ntk_moments_gram(pieces, NTK_FULL, c.gram, NULL), GSL_SUCCESS);
        CHECK_SAME_BITS(c.gram->data, want->data, 36);
        ntk_moments_free(pieces);
    }
    isa_force(before);
    gsl_matrix_free(want);
    gram_case_free(&c);
}

/* Parts summed apart and merged: bits of one after another; also when the parts had
 * different powers of two in common. */
static void test_merge(void **state)
{
    (void)state;
    const size_t leaf = NTK_MOMENTS_LEAF, m = 5 * leaf + 1234;
    struct gram_case c = gram_case_make(2, 2, m, PREFIX_SIGNS_POSITIVE, 0.9, 1);
    for (size_t r = 2 * leaf; r < 4 * leaf; r++) gsl_matrix_set(c.W, r, 0, gsl_matrix_get(c.W, r, 0) + 150.0);
    gsl_matrix *want = gsl_matrix_alloc(4, 4);
    struct ntk_moments *whole = moments_of(&c, PREFIX_SIGNS_POSITIVE, NTK_FULL, 0, m, 1);
    assert_int_equal(ntk_moments_gram(whole, NTK_FULL, want, NULL), GSL_SUCCESS);

    struct ntk_moments *a = moments_of(&c, PREFIX_SIGNS_POSITIVE, NTK_FULL, 0, 2 * leaf, 2);
    struct ntk_moments *b = moments_of(&c, PREFIX_SIGNS_POSITIVE, NTK_FULL, 2 * leaf, 4 * leaf, 1);
    struct ntk_moments *last = moments_of(&c, PREFIX_SIGNS_POSITIVE, NTK_FULL, 4 * leaf, m, 1);
    struct ntk_moments *none = moments_of(&c, PREFIX_SIGNS_POSITIVE, NTK_FULL, 0, 0, 1);
    assert_int_equal(ntk_moments_merge(a, none), GSL_SUCCESS);
    assert_int_equal(ntk_moments_merge(a, b), GSL_SUCCESS);
    assert_int_equal(ntk_moments_merge(a, last), GSL_SUCCESS);
    assert_int_equal(ntk_moments_count(a), m);
    assert_int_equal(ntk_moments_gram(a, NTK_FULL, c.gram, NULL), GSL_SUCCESS);
    CHECK_SAME_BITS(c.gram->data, want->data, 16);

    /* What would give other bits is refused: a part in progress, a misplaced one. */
    assert_int_equal(ntk_moments_merge(a, b), GSL_EINVAL);
    struct ntk_moments *one = moments_of(&c, PREFIX_SIGNS_POSITIVE, NTK_FULL, 0, leaf, 1);
    assert_int_equal(ntk_moments_merge(one, b), GSL_EINVAL);
    struct ntk_moments *key = moments_of(&c, PREFIX_SIGNS_POSITIVE, NTK_KEY, 0, 0, 1);
    assert_int_equal(ntk_moments_merge(key, b), GSL_EINVAL);
    gsl_matrix_scale(c.X, 1.1);
    struct ntk_moments *other = moments_of(&c, PREFIX_SIGNS_POSITIVE, NTK_FULL, 0, 0, 1);
    assert_int_equal(ntk_moments_merge(other, b), GSL_EINVAL);

    struct ntk_moments *all[] = { whole, a, b, last, none, one, key, other };
    for (size_t u = 0; u < sizeof all / sizeof *all; u++) ntk_moments_free(all[u]);
    gsl_matrix_free(want);
    gram_case_free(&c);
}

/* All laws and kernels against the definition; moments for NTK_KEY give the bits of
 * those that serve both kernels. */
static void test_kernels(void **state)
{
    (void)state;
    for (int law = 0; law < 3; law++) {
        struct gram_case c = gram_case_make(4, 5, 298, LAWS[law], 0.7, 6);
        const size_t added = LAWS[law] == PREFIX_SIGNS_MIRRORED ? c.m / 2 : c.m;
        struct ntk_moments *full = moments_of(&c, LAWS[law], NTK_FULL, 0, added, 1);
        struct ntk_moments *key = moments_of(&c, LAWS[law], NTK_KEY, 0, added, 1);
        gsl_matrix *alone = gsl_matrix_alloc(20, 20);
        gsl_matrix *K = gram_ref(c.W, c.signs, c.X, NTK_FULL), *H = gram_ref(c.W, c.signs, c.X, NTK_KEY);
        double cancellation = NAN;
        assert_int_equal(ntk_moments_gram(full, NTK_FULL, c.gram, &cancellation), GSL_SUCCESS);
        CHECK_MATRIX_CLOSE(c.gram, K, RTOL_ROUNDOFF);
        CHECK_LESS(cancellation, 30.0);
        assert_int_equal(ntk_moments_gram(full, NTK_KEY, c.gram, NULL), GSL_SUCCESS);
        CHECK_MATRIX_CLOSE(c.gram, H, RTOL_ROUNDOFF);
        assert_int_equal(ntk_moments_gram(key, NTK_KEY, alone, &cancellation), GSL_SUCCESS);
        CHECK_SAME_BITS(alone->data, c.gram->data, 400);
        CHECK_LESS(cancellation, 30.0);
        assert_int_equal(ntk_moments_gram(key, NTK_FULL, c.gram, NULL), GSL_EINVAL);
        ntk_moments_free(full);
        ntk_moments_free(key);
        gsl_matrix_free(alone);
        gsl_matrix_free(K);
        gsl_matrix_free(H);
        gram_case_free(&c);
    }
}

/* The cancellation bounds the error: over tokens ever nearer to one point it grows
 * as the square of their distance, and so does the error, below 4 eps times it. */
static void test_cancellation(void **state)
{
    (void)state;
    double before = 0.0;
    for (int power = 0; power < 6; power++) {
        struct gram_case c = gram_case_make(4, 3, 200, PREFIX_SIGNS_POSITIVE, 0.9, 6);
        for (size_t r = 0; r < c.m; r++)
            for (size_t k = 0; k < c.d; k++)
                gsl_matrix_set(c.W, r, k, 1.3 + (double)k + pow(10.0, -power) * gsl_matrix_get(c.W, r, k));
        struct ntk_moments *m = moments_of(&c, PREFIX_SIGNS_POSITIVE, NTK_KEY, 0, c.m, 1);
        gsl_matrix *want = gram_ref(c.W, c.signs, c.X, NTK_KEY);
        double cancellation = NAN;
        assert_int_equal(ntk_moments_gram(m, NTK_KEY, c.gram, &cancellation), GSL_SUCCESS);
        CHECK_MATRIX_CLOSE(c.gram, want, 4.0 * DBL_EPSILON * cancellation + RTOL_ROUNDOFF);
        if (power > 1) CHECK_CLOSE(cancellation / before, 100.0, 0.5, 0.0);
        before = cancellation;
        /* There ntk_gram takes the other route. */
        assert_int_equal(ntk_gram(c.W, c.signs, c.X, NTK_KEY, c.gram, 1), GSL_SUCCESS);
        CHECK_MATRIX_CLOSE(c.gram, want, RTOL_CANCELLATION);
        ntk_moments_free(m);
        gsl_matrix_free(want);
        gram_case_free(&c);
    }
    CHECK_LESS(NTK_MAX_CANCELLATION, before);
}

/* Nested random prefixes: a row does not depend on the rows before it, and is the
 * kernel of prefix_draw's prefix. */
static void test_sweep(void **state)
{
    (void)state;
    static const size_t lens[] = { 2, 256, 1000, 1024, 9000, 36000 };
    for (int law = 0; law < 3; law++) {
        struct gram_case all = gram_case_make(3, 2, 36000, LAWS[law], 0.7, 21);
        struct ntk_sweep *sweep = ntk_sweep_alloc(all.X, 5, 21, LAWS[law], 0.7, NTK_FULL, 2);
        assert_non_null(sweep);
        gsl_matrix *alone = gsl_matrix_alloc(6, 6);
        for (size_t u = 0; u < sizeof lens / sizeof *lens; u++) {
            struct gram_case c = gram_case_make(3, 2, lens[u], LAWS[law], 0.7, 21);
            for (int key = 0; key < 2; key++) {
                const enum ntk_kernel kernel = key ? NTK_KEY : NTK_FULL;
                assert_int_equal(ntk_sweep_step(sweep, lens[u], kernel, all.gram), GSL_SUCCESS);
                struct ntk_sweep *single = ntk_sweep_alloc(all.X, 5, 21, LAWS[law], 0.7, NTK_FULL, 1);
                assert_int_equal(ntk_sweep_step(single, lens[u], kernel, alone), GSL_SUCCESS);
                CHECK_SAME_BITS(all.gram->data, alone->data, 36);
                ntk_sweep_free(single);
                assert_int_equal(ntk_gram_syrk(c.W, c.signs, c.X, kernel, c.gram, 1), GSL_SUCCESS);
                CHECK_MATRIX_CLOSE(all.gram, c.gram, RTOL_ROUNDOFF);
            }
            gram_case_free(&c);
        }
        assert_int_equal(ntk_sweep_step(sweep, 1024, NTK_FULL, all.gram), GSL_EINVAL);
        assert_int_equal(ntk_sweep_step(sweep, 36001, NTK_FULL, all.gram),
                         LAWS[law] == PREFIX_SIGNS_MIRRORED ? GSL_EINVAL : GSL_SUCCESS);
        ntk_sweep_free(sweep);
        gsl_matrix_free(alone);
        gram_case_free(&all);
    }
    /* A frozen prefix, all mass on a few tokens: the other route, the same kernel. */
    struct gram_case c = gram_case_make(3, 4, 500, PREFIX_SIGNS_RANDOM, 300.0, 21);
    struct ntk_sweep *sweep = ntk_sweep_alloc(c.X, 5, 21, PREFIX_SIGNS_RANDOM, 300.0, NTK_KEY, 2);
    gsl_matrix *want = gram_ref(c.W, c.signs, c.X, NTK_KEY);
    assert_int_equal(ntk_sweep_step(sweep, 500, NTK_KEY, c.gram), GSL_SUCCESS);
    CHECK_MATRIX_CLOSE(c.gram, want, RTOL_CANCELLATION);
    ntk_sweep_free(sweep);
    gsl_matrix_free(want);
    gram_case_free(&c);
}

static void test_refusals(void **state)
{
    (void)state;
    struct gram_case c = gram_case_make(2, 3, 300, PREFIX_SIGNS_RANDOM, 0.7, 3);
    gsl_matrix *small = gsl_matrix_alloc(5, 6);
    struct ntk_moments *m = moments_of(&c, PREFIX_SIGNS_RANDOM, NTK_FULL, 0, 0, 1);
    assert_int_equal(ntk_moments_gram(m, NTK_FULL, c.gram, NULL), GSL_EINVAL);
    assert_int_equal(add(m, &c, 0, 300), GSL_SUCCESS);
    assert_int_equal(ntk_moments_gram(m, NTK_FULL, small, NULL), GSL_EBADLEN);
    const gsl_vector_view short_signs = gsl_vector_subvector(c.signs, 0, 299);
    assert_int_equal(ntk_moments_add(m, c.W, &short_signs.vector), GSL_EBADLEN);
    const gsl_matrix_view narrow = gsl_matrix_submatrix(c.W, 0, 0, 300, 2);
    assert_int_equal(ntk_moments_add(m, &narrow.matrix, c.signs), GSL_EBADLEN);
    /* Signs of another law change nothing. */
    struct ntk_moments *positive = moments_of(&c, PREFIX_SIGNS_POSITIVE, NTK_FULL, 0, 0, 1);
    assert_int_equal(add(positive, &c, 0, 300), GSL_EINVAL);
    assert_int_equal(ntk_moments_count(positive), 0);
    gsl_vector_set(c.signs, 299, 0.999);
    assert_int_equal(add(m, &c, 0, 300), GSL_EINVAL);
    gsl_vector_set(c.signs, 299, 1.0);
    assert_int_equal(ntk_moments_count(m), 300);
    /* What is refused in the middle stays refused. */
    gsl_matrix_set(c.W, 7, 1, 1e9);
    assert_int_equal(add(m, &c, 0, 300), GSL_ERANGE);
    assert_int_equal(ntk_moments_gram(m, NTK_FULL, c.gram, NULL), GSL_ERANGE);
    struct ntk_moments *fresh = moments_of(&c, PREFIX_SIGNS_RANDOM, NTK_FULL, 0, 0, 1);
    gsl_matrix_set(c.W, 7, 1, NAN);
    assert_int_equal(add(fresh, &c, 0, 300), GSL_EDOM);
    assert_int_equal(add(fresh, &c, 50, 100), GSL_EDOM);

    struct ntk_sweep *sweep = ntk_sweep_alloc(c.X, 1, 0, PREFIX_SIGNS_RANDOM, -0.5, NTK_FULL, 1);
    assert_int_equal(ntk_sweep_step(sweep, 10, NTK_FULL, c.gram), GSL_EDOM);
    assert_int_equal(ntk_sweep_step(sweep, 0, NTK_FULL, c.gram), GSL_EINVAL);
    ntk_sweep_free(sweep);
    ntk_moments_free(m);
    ntk_moments_free(positive);
    ntk_moments_free(fresh);
    gsl_matrix_free(small);
    gram_case_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),       cmocka_unit_test(test_merge), cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_cancellation), cmocka_unit_test(test_sweep), cmocka_unit_test(test_refusals),
    };
    gsl_set_error_handler_off();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
