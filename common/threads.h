/* Threads: OpenMP outside, OpenBLAS at one thread inside. */
#ifndef COMMON_THREADS_H
#define COMMON_THREADS_H
#include <stddef.h>

/* Sets OpenBLAS to one thread and returns the number of threads to use:
 * `wanted` when positive, else the number of CPUs this process may run on. */
int threads_setup(int wanted);

/* For a program's start: threads_setup(*threads), but no more than this process may create
 * and OpenBLAS has address space for under a limit on it; *threads is then the number to
 * use. GSL_ENOMEM when not even one has: OpenBLAS would retry for ever at its first call.
 * why[why_size]: one line when it failed or there are fewer than wanted, else "". */
int threads_start(int *threads, char *why, size_t why_size);

const char *threads_blas_config(void);   /* "OpenBLAS 0.3.21 ..." */
const char *threads_blas_core(void);     /* "SkylakeX", ... what runs */

/* Physical memory this process may use, bytes (the machine and its cgroup). */
size_t memory_available(void);

#endif
