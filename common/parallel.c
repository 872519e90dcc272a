/* A batch of tasks is a slot of static memory. Its ticket says how many tasks nobody has
 * taken and how many threads may still join; taking a task is one compare-and-swap, and a
 * batch ends when all that were taken are done. So nobody waits for a thread that has not
 * begun, and one that looks at a slot late finds an empty ticket or a newer batch's task,
 * both of which are as they should be. */
#define _POSIX_C_SOURCE 200809L
#include "common/parallel.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    SLOTS = 32,               /* batches at once; beyond, callers work alone */
    MAX_WORKERS = 255,
    IDLE_SPINS = 4000,        /* looks at the slots before a thread without work sleeps */
    WAIT_SPINS = 2000         /* the same for a caller whose last tasks are running */
};

/* ticket = seats << 48 | left. */
#define SEAT ((uint64_t)1 << 48)
#define LEFT(ticket) ((ticket) & (SEAT - 1))

struct slot {
    atomic_bool taken, waiting;
    _Atomic uint64_t ticket;
    atomic_size_t done;                                       /* tasks that workers have finished */
    size_t num_tasks;
    unsigned num_threads;
    void (*run)(void *context, size_t task, int thread);
    void *context;
};

static struct {
    struct slot slots[SLOTS];
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    atomic_uint epoch, sleepers, workers;
    atomic_bool forked;
} pool = { .lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER, .finished = PTHREAD_COND_INITIALIZER };

static void before_fork(void) { pthread_mutex_lock(&pool.lock); }
static void parent_after_fork(void) { pthread_mutex_unlock(&pool.lock); }

/* Only the thread that forked exists here. */
static void child_after_fork(void)
{
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.work, NULL);
    pthread_cond_init(&pool.finished, NULL);
    for (size_t i = 0; i < SLOTS; i++) {
        atomic_store(&pool.slots[i].ticket, 0);
        atomic_store(&pool.slots[i].taken, false);
        atomic_store(&pool.slots[i].waiting, false);
    }
    atomic_store(&pool.sleepers, 0);
    atomic_store(&pool.workers, 0);
    atomic_store(&pool.forked, true);
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(before_fork, parent_after_fork, child_after_fork);
}

static void breathe(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Takes the next task of the slot, as a new member of the batch when `join`. The ticket it was taken by,
 * or 0. */
static uint64_t take(struct slot *slot, bool join)
{
    uint64_t ticket = atomic_load_explicit(&slot->ticket, memory_order_relaxed);
    while (LEFT(ticket) && (!join || ticket >= SEAT))
        if (atomic_compare_exchange_weak_explicit(&slot->ticket, &ticket, ticket - 1 - (join ? SEAT : 0),
                                                  memory_order_acq_rel, memory_order_relaxed))
            return ticket;
    return 0;
}

/* From the task of `ticket` on, until none is left. How many were run. */
static size_t work_off(struct slot *slot, uint64_t ticket, int thread)
{
    size_t count = 0;
    for (; ticket; ticket = take(slot, false), count++)
        slot->run(slot->context, slot->num_tasks - (size_t)LEFT(ticket), thread);
    return count;
}

/* Helps every batch that has a seat. Whether there was one. */
static bool help(void)
{
    bool helped = false;
    for (size_t i = 0; i < SLOTS; i++) {
        struct slot *slot = &pool.slots[i];
        const uint64_t ticket = take(slot, true);
        if (!ticket) continue;
        helped = true;
        /* Seats are numbered 1 .. num_threads-1; 0 is the caller. */
        const size_t count = work_off(slot, ticket, (int)(slot->num_threads - (unsigned)(ticket >> 48)));
        atomic_fetch_add(&slot->done, count);
        if (!atomic_load(&slot->waiting)) continue;
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.finished);
        pthread_mutex_unlock(&pool.lock);
    }
    return helped;
}

static void *worker(void *unused)
{
    (void)unused;
    for (;;) {
        const unsigned epoch = atomic_load(&pool.epoch);
        unsigned spins = 0;
        while (spins < IDLE_SPINS) {
            if (help()) spins = 0;
            else spins++;
            breathe();
            if (atomic_load_explicit(&pool.epoch, memory_order_relaxed) != epoch) break;
        }
        if (atomic_load(&pool.epoch) != epoch) {
            help();
            continue;
        }
        pthread_mutex_lock(&pool.lock);
        atomic_fetch_add(&pool.sleepers, 1);
        while (atomic_load(&pool.epoch) == epoch) pthread_cond_wait(&pool.work, &pool.lock);
        atomic_fetch_sub(&pool.sleepers, 1);
        pthread_mutex_unlock(&pool.lock);
    }
    return NULL;
}

/* Makes threads until there are `wanted`, as far as the system allows. */
static void grow(unsigned wanted)
{
    sigset_t all, before;
    pthread_mutex_lock(&pool.lock);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (atomic_load(&pool.workers) < wanted) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, NULL)) break;
        pthread_detach(thread);
        atomic_fetch_add(&pool.workers, 1);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_unlock(&pool.lock);
}

static struct slot *open_slot(void)
{
    for (size_t i = 0; i < SLOTS; i++)
        if (!atomic_load_explicit(&pool.slots[i].taken, memory_order_relaxed) &&
            !atomic_exchange(&pool.slots[i].taken, true))
            return &pool.slots[i];
    return NULL;
}

static void wake(unsigned wanted)
{
    atomic_fetch_add(&pool.epoch, 1);
    if (!atomic_load(&pool.sleepers)) return;
    pthread_mutex_lock(&pool.lock);
    for (; wanted; wanted--) pthread_cond_signal(&pool.work);
    pthread_mutex_unlock(&pool.lock);
}

static void wait_for(struct slot *slot, size_t count)
{
    for (int spins = 0; spins < WAIT_SPINS; spins++) {
        if (atomic_load_explicit(&slot->done, memory_order_acquire) == count) return;
        breathe();
    }
    atomic_store(&slot->waiting, true);
    pthread_mutex_lock(&pool.lock);
    while (atomic_load(&slot->done) != count) pthread_cond_wait(&pool.finished, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    atomic_store(&slot->waiting, false);
}

void parallel_for(size_t num_tasks, int num_threads, void (*run)(void *context, size_t task, int thread),
                  void *context)
{
    if ((size_t)(num_threads > 0 ? num_threads : 1) > num_tasks) num_threads = (int)num_tasks;
    if (num_threads > MAX_WORKERS + 1) num_threads = MAX_WORKERS + 1;
    struct slot *slot = NULL;
    if (num_threads > 1 && num_tasks < SEAT) slot = open_slot();
    if (!slot) {
        for (size_t task = 0; task < num_tasks; task++) run(context, task, 0);
        return;
    }
    const unsigned helpers = (unsigned)num_threads - 1;
    if (atomic_load(&pool.workers) < helpers) grow(helpers);
    slot->num_tasks = num_tasks;
    slot->num_threads = (unsigned)num_threads;
    slot->run = run;
    slot->context = context;
    atomic_store_explicit(&slot->done, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->ticket, helpers * SEAT + (uint64_t)num_tasks, memory_order_release);
    wake(helpers);
    const size_t own = work_off(slot, take(slot, false), 0);
    wait_for(slot, num_tasks - own);
    atomic_store(&slot->taken, false);
}

int parallel_openmp_threads(int num_threads)
{
    return atomic_load(&pool.forked) ? 1 : num_threads;
}
