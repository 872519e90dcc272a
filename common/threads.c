#include "common/threads.h"

#include <cblas.h>
#include <limits.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

size_t memory_available(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t limit = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : SIZE_MAX;
    struct rlimit space;
    if (!getrlimit(RLIMIT_AS, &space) && space.rlim_cur != RLIM_INFINITY)
        limit = smaller(limit, (size_t)space.rlim_cur);
    return smaller(limit, cgroup_limit());
}
