/* Independent tasks on several threads.
 *
 * State: the process keeps the threads it has needed so far, asleep between calls (at most
 * 255; none before the first call on two threads). They block all signals. A child made by
 * fork begins without them and makes its own. */
#ifndef COMMON_PARALLEL_H
#define COMMON_PARALLEL_H
#include <stddef.h>

/* Calls run(context, task, thread) for every task 0..num_tasks-1, on at most
 * num_threads threads (thread < num_threads), in no fixed order but started from task 0
 * up: put the long ones first. Tasks may not depend on each other. Returns when all
 * are done. With one thread (or one task) everything runs in the caller, which takes
 * whatever no other thread has begun: a thread that the system keeps from running delays
 * nothing but a task it is in the middle of, and one that cannot be made is not missed.
 * Any number of threads may call at once, tasks too. */
void parallel_for(size_t num_tasks, int num_threads, void (*run)(void *context, size_t task, int thread),
                  void *context);

/* For OpenMP regions: num_threads, or 1 in a child made by fork. The runtime of the parent, whoever
 * used it, believes its threads to be there and would wait for them without end. */
int parallel_openmp_threads(int num_threads);

#endif
