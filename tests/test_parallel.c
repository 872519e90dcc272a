/* The pool of threads: every task once, on a thread of its own number, whoever calls, however
 * busy the machine, and after fork. */
#include <gsl/gsl_errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/parallel.h"
#include "prefix_ntk/attention.h"
#include "prefix_ntk/ntk.h"
#include "prefix_ntk/summary.h"
#include "tests/support/check.h"

enum { MAX_TASKS = 40, MAX_THREADS = 8 };

struct batch {
    size_t num_tasks;
    int num_threads, depth;
    unsigned work;
    atomic_int hits[MAX_TASKS], busy[MAX_THREADS], wrong;
};

static void run_batch(unsigned *seed, int depth, int *wrong);

static void task(void *context, size_t i, int thread)
{
    struct batch *b = context;
    if (i >= b->num_tasks || thread < 0 || thread >= b->num_threads) {
        atomic_store(&b->wrong, 1);
        return;
    }
    /* Two tasks on one thread number at once would share its scratch. */
    if (atomic_fetch_add(&b->busy[thread], 1)) atomic_store(&b->wrong, 1);
    atomic_fetch_add(&b->hits[i], 1);
    volatile unsigned sum = 0;
    for (unsigned n = 0; n < b->work; n++) sum += 7 * n;
    if (b->depth && i % 5 == 0) {
        unsigned seed = (unsigned)i;
        int wrong = 0;
        run_batch(&seed, b->depth - 1, &wrong);
        if (wrong) atomic_store(&b->wrong, 1);
    }
    atomic_fetch_sub(&b->busy[thread], 1);
}

/* Whether every task of the batch ran once. */
static int ran_once(const struct batch *b)
{
    for (size_t i = 0; i < MAX_TASKS; i++)
        if (b->hits[i] != (i < b->num_tasks)) return 0;
    return !b->wrong;
}

static void run_batch(unsigned *seed, int depth, int *wrong)
{
    struct batch b = { .num_tasks = 1 + (size_t)(rand_r(seed) % MAX_TASKS),
                       .num_threads = 1 + rand_r(seed) % MAX_THREADS,
                       .depth = depth, .work = (unsigned)(rand_r(seed) % 2000) };
    parallel_for(b.num_tasks, b.num_threads, task, &b);
    if (!ran_once(&b)) *wrong = 1;
    /* Long enough for the threads to fall asleep, now and then. */
    if (rand_r(seed) % 500 == 0) nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
}

static void *caller(void *argument)
{
    unsigned seed = *(unsigned *)argument;
    int wrong = 0;
    for (int i = 0; i < 2000; i++) run_batch(&seed, i % 7 == 0, &wrong);
    *(unsigned *)argument = (unsigned)wrong;
    return NULL;
}

static void many_callers(void **state)
{
    (void)state;
    enum { CALLERS = 4 };
    pthread_t thread[CALLERS];
    unsigned seed[CALLERS] = { 11, 12, 13, 14 };
    for (int c = 0; c < CALLERS; c++) assert_int_equal(pthread_create(&thread[c], NULL, caller, &seed[c]), 0);
    for (int c = 0; c < CALLERS; c++) {
        pthread_join(thread[c], NULL);
        assert_int_equal(seed[c], 0);
    }
    /* The check sees a task that ran twice, and one that did not. */
    struct batch b = { .num_tasks = 9, .num_threads = 3 };
    parallel_for(9, 3, task, &b);
    assert_true(ran_once(&b));
    b.hits[4]++;
    assert_false(ran_once(&b));
    b.hits[4] -= 2;
    assert_false(ran_once(&b));
}

static void edges(void **state)
{
    (void)state;
    struct batch b = { .num_tasks = 3, .num_threads = 3 };
    parallel_for(0, 4, task, &b);
    assert_int_equal(b.hits[0], 0);
    parallel_for(3, 100000, task, &b);
    assert_true(ran_once(&b));
    struct batch alone = { .num_tasks = 3, .num_threads = 1 };
    parallel_for(3, 0, task, &alone);
    assert_true(ran_once(&alone));
    assert_int_equal(parallel_openmp_threads(5), 5);
}

static void *spin(void *stop)
{
    while (!atomic_load((atomic_int *)stop)) continue;
    return NULL;
}

/* Threads that never yield on every core: a caller that waited for one that has not begun would
 * wait for the scheduler, some milliseconds a call. */
static void busy_neighbours(void **state)
{
    (void)state;
    enum { NEIGHBOURS = 6, CALLS = 3000 };
    pthread_t thread[NEIGHBOURS];
    atomic_int stop = 0;
    for (int n = 0; n < NEIGHBOURS; n++) assert_int_equal(pthread_create(&thread[n], NULL, spin, &stop), 0);
    unsigned seed = 5;
    int wrong = 0;
    for (int i = 0; i < CALLS; i++) run_batch(&seed, 0, &wrong);
    atomic_store(&stop, 1);
    for (int n = 0; n < NEIGHBOURS; n++) pthread_join(thread[n], NULL);
    assert_int_equal(wrong, 0);
}

/* 0 when a child that runs `call` leaves with 0 within a minute. */
static int in_child(int (*call)(void))
{
    const pid_t child = fork();
    if (!child) {
        alarm(60);
        _exit(call());
    }
    int status = -1;
    return waitpid(child, &status, 0) == child ? status : -1;
}

static int batches(void)
{
    unsigned seed = 3;
    int wrong = 0;
    for (int i = 0; i < 50; i++) run_batch(&seed, i % 3 == 0, &wrong);
    return wrong || parallel_openmp_threads(5) != 1;
}

static int grandchild(void) { return batches() || in_child(batches); }

static void *fork_often(void *argument)
{
    unsigned *seed = argument;
    int wrong = 0;
    for (int i = 0; i < 400; i++) run_batch(seed, i % 4 == 0, &wrong);
    *seed = (unsigned)wrong;
    return NULL;
}

static void forks(void **state)
{
    (void)state;
    unsigned seed = 21, other = 22;
    int wrong = 0;
    run_batch(&seed, 1, &wrong);
    pthread_t thread;
    /* While another thread is in the middle of calls. */
    assert_int_equal(pthread_create(&thread, NULL, fork_often, &other), 0);
    for (int i = 0; i < 20; i++) assert_int_equal(in_child(i % 2 ? batches : grandchild), 0);
    pthread_join(thread, NULL);
    run_batch(&seed, 1, &wrong);
    assert_int_equal(wrong, 0);
    assert_int_equal(other, 0);
}

/* One call of every kind of the library on two threads. */
static int library_calls(void)
{
    enum { H = 4, L = 64, D = 16, N = 6, M = 600 };
    static float x[H * L * D], out[H * L * D];
    for (size_t i = 0; i < H * L * D; i++) x[i] = sinf((float)i);
    const struct attn_shape s = { 1, H, H, L, L, D, 0, NULL };
    const struct attn_in in = attn_dense_in(x, H, L, D);
    int status = attn_exact_forward(&s, 0.25f, in, in, in, NULL, attn_dense_out(out, H, L, D), NULL, NULL, 0, 2, NULL);
    feature_map *map = NULL;
    struct attn_fold *fold = NULL;
    if (!status) status = feature_parse("favor:32", D, 0.0, 1, NULL, &map);
    if (!status) status = attn_fold_alloc(map, D, &fold);
    for (int i = 0; i < 8 && !status; i++) status = attn_fold_add_f32(fold, H * L, x, D, x, D, 2, NULL);
    attn_fold_free(fold);
    feature_map_free(map);
    gsl_matrix *W = gsl_matrix_alloc(M, 4), *X = gsl_matrix_alloc(N, 4), *K = gsl_matrix_alloc(4 * N, 4 * N);
    gsl_vector *signs = gsl_vector_alloc(M);
    if (!status) status = prefix_draw(1, 0, PREFIX_SIGNS_RANDOM, 0.5, W, signs, 2);
    for (size_t i = 0; i < N * 4; i++) X->data[i] = sin((double)i);
    if (!status) status = ntk_gram(W, signs, X, NTK_FULL, K, 2);
    if (!status) status = ntk_gram_syrk(W, signs, X, NTK_KEY, K, 2);
    gsl_matrix_free(W);
    gsl_matrix_free(X);
    gsl_matrix_free(K);
    gsl_vector_free(signs);
    return status;
}

static void library_after_fork(void **state)
{
    (void)state;
    assert_int_equal(library_calls(), GSL_SUCCESS);
    for (int i = 0; i < 3; i++) assert_int_equal(in_child(library_calls), 0);
    assert_int_equal(library_calls(), GSL_SUCCESS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(edges),
        cmocka_unit_test(many_callers),
        cmocka_unit_test(busy_neighbours),
        cmocka_unit_test(forks),
        cmocka_unit_test(library_after_fork),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
