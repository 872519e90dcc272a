/* Independent tasks on several threads. */
#ifndef COMMON_PARALLEL_H
#define COMMON_PARALLEL_H
#include <stddef.h>

/* Calls run(context, task, thread) for every task 0..num_tasks-1, on at most
 * num_threads threads (thread < num_threads), in no fixed order but started from task 0
 * up: put the long ones first. Tasks may not depend on each other. Returns when all
 * are done. With one thread (or one task) everything runs in the caller. */
void parallel_for(size_t num_tasks, int num_threads, void (*run)(void *context, size_t task, int thread),
                  void *context);

#endif
