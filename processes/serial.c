/* One process: the stand-in of a build without MPI. */
#include "processes/processes.h"

#include <gsl/gsl_errno.h>

int processes_start(int *argc, char ***argv, int (*stop)(void))
{
    (void)argc;
    (void)argv;
    (void)stop;
    return GSL_SUCCESS;
}

int processes_built(void) { return 0; }
int processes_end(int code) { return code; }
int processes_abort(int code) { return code; }
int processes_rank(void) { return 0; }
int processes_count(void) { return 1; }

/* There is nobody to talk to. */
int processes_send(int to, const void *data, size_t bytes)
{
    (void)to;
    (void)data;
    (void)bytes;
    return GSL_EFAILED;
}

int processes_receive(int from, void *data, size_t bytes)
{
    (void)from;
    (void)data;
    (void)bytes;
    return GSL_EFAILED;
}

int processes_broadcast(void *data, size_t bytes)
{
    (void)data;
    (void)bytes;
    return GSL_SUCCESS;
}

int processes_barrier(void) { return GSL_SUCCESS; }
