#include "common/threads.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <limits.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

int threads_setup(int wanted)
{
    openblas_set_num_threads(1);
    int count = wanted;
    if (count <= 0) {
        cpu_set_t cpus;
        count = sched_getaffinity(0, sizeof cpus, &cpus) ? 1 : CPU_COUNT(&cpus);
    }
    omp_set_dynamic(0);
    omp_set_num_threads(count);
    return count;
}

/* ---- what this process may have ------------------------------------------------- */

static pthread_mutex_t hold = PTHREAD_MUTEX_INITIALIZER;

static void *wait_for_release(void *unused)
{
    pthread_mutex_lock(&hold);
    pthread_mutex_unlock(&hold);
    return unused;
}

/* How many of `count` threads, this one included, can exist at once. OpenMP would end the
 * program where one cannot. */
static int creatable_threads(int count)
{
    pthread_t *made = malloc((size_t)count * sizeof *made);
    int others = 0;
    pthread_mutex_lock(&hold);
    while (made && others < count - 1 && !pthread_create(&made[others], NULL, wait_for_release, NULL)) others++;
    pthread_mutex_unlock(&hold);
    for (int i = 0; i < others; i++) pthread_join(made[i], NULL);
    free(made);
    return 1 + others;
}

/* OpenBLAS has one buffer for every thread that is in a call, mapped at the first. */
static const size_t BLAS_BUFFER = (size_t)128 << 20;
void *blas_memory_alloc(int unused) __attribute__((weak));
void blas_memory_free(void *buffer) __attribute__((weak));

/* Under a limit on the address space: has OpenBLAS map its buffers now, as many of `count`
 * as there is room for. */
static int mapped_blas_buffers(int count)
{
    struct rlimit space;
    if (getrlimit(RLIMIT_AS, &space) || space.rlim_cur == RLIM_INFINITY) return count;
    void **buffer = calloc((size_t)count, sizeof *buffer);
    int have = 0;
    for (; buffer && have < count; have++) {
        void *room = mmap(NULL, BLAS_BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                          0);
        if (room == MAP_FAILED) break;
        munmap(room, BLAS_BUFFER);
        if (blas_memory_alloc && blas_memory_free) buffer[have] = blas_memory_alloc(0);
    }
    for (int i = 0; i < have; i++)
        if (buffer[i]) blas_memory_free(buffer[i]);
    free(buffer);
    return have;
}

int threads_start(int *threads, char *why, size_t why_size)
{
    const int wanted = threads_setup(*threads), buffers = mapped_blas_buffers(wanted);
    snprintf(why, why_size, "%s", "");
    if (buffers < 1) {
        snprintf(why, why_size,
                 "OpenBLAS needs %zu MiB of address space for its buffer, more than the limit leaves (ulimit -v)",
                 BLAS_BUFFER >> 20);
        return GSL_ENOMEM;
    }
    const int count = creatable_threads(buffers);
    if (count < wanted)
        snprintf(why, why_size, "%d threads instead of %d: %s", count, wanted, count < buffers
                 ? "no more can be created" : "no address space for more buffers of OpenBLAS (ulimit -v)");
    *threads = count < wanted ? threads_setup(count) : wanted;
    return GSL_SUCCESS;
}

const char *threads_blas_config(void)
{
    return openblas_get_config();
}

const char *threads_blas_core(void)
{
    return openblas_get_corename();
}

/* The number a one-line file holds; SIZE_MAX when there is none ("max", no file). */
static size_t limit_in(const char *path)
{
    FILE *file = fopen(path, "re");
    unsigned long long value;
    const int found = file && fscanf(file, "%llu", &value) == 1;
    if (file) fclose(file);
    return found ? (size_t)value : SIZE_MAX;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The least memory limit of a control group and its ancestors below `root`. */
static size_t group_limit(const char *root, char *group, const char *file)
{
    size_t limit = SIZE_MAX;
    for (;;) {
        char path[PATH_MAX];
        const int len = snprintf(path, sizeof path, "%s%s/%s", root, group, file);
        if (len > 0 && (size_t)len < sizeof path) limit = smaller(limit, limit_in(path));
        char *slash = strrchr(group, '/');
        if (!slash) return limit;
        *slash = '\0';
    }
}

/* /proc/self/cgroup: "0::/path" (version 2) or "N:...,memory,...:/path" (version 1).
 * Inside a container the named path may lie outside the mounted tree; its limit is
 * then at the root, which the walk up ends with. */
static size_t cgroup_limit(void)
{
    size_t limit = SIZE_MAX;
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[PATH_MAX];
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = '\0';
        if (controllers[1] == '\0')
            limit = smaller(limit, group_limit("/sys/fs/cgroup", group, "memory.max"));
        else if (strstr(controllers, "memory"))
            limit = smaller(limit, group_limit("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes"));
    }
    if (file) fclose(file);
    return limit;
}

/* Pages of address space in use already. */
static size_t mapped_pages(void)
{
    const size_t pages = limit_in("/proc/self/statm");
    return pages == SIZE_MAX ? 0 : pages;
}

size_t memory_available(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t limit = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : SIZE_MAX;
    struct rlimit space;
    if (!getrlimit(RLIMIT_AS, &space) && space.rlim_cur != RLIM_INFINITY && page > 0) {
        const size_t used = mapped_pages() * (size_t)page;
        limit = smaller(limit, space.rlim_cur > used ? (size_t)space.rlim_cur - used : 0);
    }
    return smaller(limit, cgroup_limit());
}
