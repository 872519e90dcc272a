#include "common/parallel.h"

#include <omp.h>
#include <stdatomic.h>

/* ThreadSanitizer does not see the synchronisation inside libgomp, which is not built
 * for it, and would report every fork and join as a race. These two say that what
 * precedes the fork happens before the tasks, and the tasks before what follows the
 * join; races between tasks are still found. */
#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define HAPPENS_BEFORE(address) __tsan_release(address)
#define HAPPENS_AFTER(address) __tsan_acquire(address)
/* The compiler hands `shared` over in a struct that is read before HAPPENS_AFTER. */
#define HANDS_OVER __attribute__((no_sanitize("thread")))
#else
#define HAPPENS_BEFORE(address) ((void)(address))
#define HAPPENS_AFTER(address) ((void)(address))
#define HANDS_OVER
#endif

/* What the threads share travels by one pointer that each reads after HAPPENS_AFTER. */
struct batch {
    size_t num_tasks;
    void (*run)(void *context, size_t task, int thread);
    void *context;
    atomic_size_t next;
};

static __attribute__((noinline)) void work_off(struct batch *batch, int thread)
{
    for (;;) {
        const size_t task = atomic_fetch_add_explicit(&batch->next, 1, memory_order_relaxed);
        if (task >= batch->num_tasks) return;
        batch->run(batch->context, task, thread);
    }
}

HANDS_OVER void parallel_for(size_t num_tasks, int num_threads, void (*run)(void *context, size_t task, int thread),
                             void *context)
{
    if ((size_t)num_threads > num_tasks) num_threads = (int)num_tasks;
    if (num_threads <= 1) {
        for (size_t task = 0; task < num_tasks; task++) run(context, task, 0);
        return;
    }
    static _Atomic(struct batch *) none;    /* an address to synchronise on */
    struct batch batch = { .num_tasks = num_tasks, .run = run, .context = context };
    atomic_init(&batch.next, 0);
    struct batch *shared = &batch;
    HAPPENS_BEFORE(&none);
#pragma omp parallel num_threads(num_threads) firstprivate(shared)
    {
        HAPPENS_AFTER(&none);
        work_off(shared, omp_get_thread_num());
        HAPPENS_BEFORE(&none);
    }
    HAPPENS_AFTER(&none);
}
