/* A training step allocates nothing after model_reserve, and after the first touches no new page: malloc counted from
 * inside, page faults by the system. */
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "tests/support/check.h"
#include "tests/support/tiny_model.h"
#include "transformer/model.h"

static atomic_size_t num_allocations;

/* The sanitizers bring allocators of their own. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)
#define COUNTS 1
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
void *malloc(size_t n) { atomic_fetch_add(&num_allocations, 1); return __libc_malloc(n); }
void *calloc(size_t n, size_t size) { atomic_fetch_add(&num_allocations, 1); return __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { atomic_fetch_add(&num_allocations, 1); return __libc_realloc(p, n); }
#else
#define COUNTS 0
#endif

/* Page faults so far that needed no disk. */
static long faults(void)
{
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_minflt;
}

/* What the system itself may add in two steps: far below the pages of a plan of this size (about 100). */
static const long STRAY_FAULTS = 8;

static void test_no_allocation(void **state)
{
    (void)state;
    enum { SEQS = 20 };
    if (!COUNTS) skip();
    void *volatile probe = malloc(3);
    assert_int_not_equal(atomic_load(&num_allocations), 0);
    free(probe);
    for (int kind = BACKBONE_VIT; kind <= BACKBONE_MPNET; kind++)
        for (int method = 0; method < NUM_ADAPTER_METHODS; method++)
            for (int threads = 1; threads <= 2; threads++) {
                struct backbone *b = tiny_backbone((enum backbone_kind)kind, 5);
                struct tiny_batch t;
                tiny_batch_make(&t, &b->config, SEQS, 9);
                const struct adapter_options o = adapter_defaults((enum adapter_method)method);
                struct model *m;
                char text[200];
                assert_int_equal(
                    model_alloc(b, &o, TINY_CLASSES, POOL_CLS, 0, 1, &m, (struct reason){ text, sizeof text }), 0);
                assert_int_equal(model_reserve(m, t.rows, SEQS, 8, 1, threads), 0);
                float logits[SEQS * TINY_CLASSES], d_logits[SEQS * TINY_CLASSES];
                size_t before = 0;
                long faults_before = 0;
                /* The first step wakes the threads. */
                for (int step = 0; step < 3; step++) {
                    if (step == 1) {
                        before = atomic_load(&num_allocations);
                        faults_before = faults();
                    }
                    assert_int_equal(model_forward(m, &t.batch, logits, 1), 0);
                    model_cross_entropy(logits, t.labels, SEQS, TINY_CLASSES, 0.0, d_logits, NULL);
                    assert_int_equal(model_backward(m, d_logits), 0);
                    model_after_update(m);
                }
                const size_t made = atomic_load(&num_allocations) - before;
                if (made)
                    fail_msg("%s, kind %d, %d threads: %zu allocations in two steps", adapter_method_name(o.method),
                             kind, threads, made);
                const long new_pages = faults() - faults_before;
                if (new_pages > STRAY_FAULTS) fail_msg("%s: %ld page faults", adapter_method_name(o.method), new_pages);
                model_free(m);
                tiny_batch_free(&t);
                backbone_free(b);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_no_allocation) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
