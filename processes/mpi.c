/* Processes by MPI, of which this is the only file that knows. */
#include "processes/processes.h"

#include <mpi.h>
#include <time.h>
#include <gsl/gsl_errno.h>

enum { PIECE = 1 << 30, TAG = 1 };      /* MPI counts in int */

static int rank, count = 1;
static int started, lost;               /* lost: a message failed */
static int (*stop_asked)(void);

int processes_built(void) { return 1; }

int processes_start(int *argc, char ***argv, int (*stop)(void))
{
    int provided;
    stop_asked = stop;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) return GSL_EFAILED;
    started = 1;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &count);
    return GSL_SUCCESS;
}

int processes_end(int code)
{
    if (!started) return code;
    /* Finalising would wait for processes that wait for this one. One that was stopped leaves the others to mpirun. */
    if (lost) return stop_asked && stop_asked() ? code : processes_abort(code);
    started = 0;
    MPI_Finalize();
    return code;
}

int processes_abort(int code)
{
    if (started && count > 1) MPI_Abort(MPI_COMM_WORLD, code);
    return code;
}

int processes_rank(void) { return rank; }
int processes_count(void) { return count; }

/* Until the message is through: at once, then asking now and then. A message that is not leaves `lost` set. */
static int wait_for(MPI_Request *request)
{
    lost = 1;
    long pause_ns = 1000;
    for (int round = 0;; round++) {
        int done = 0;
        if (MPI_Test(request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return GSL_EFAILED;
        if (done) {
            lost = 0;
            return GSL_SUCCESS;
        }
        if (round < 200) continue;
        if (stop_asked && stop_asked()) return GSL_EFAILED;
        nanosleep(&(struct timespec){ 0, pause_ns }, NULL);
        if (pause_ns < 500000) pause_ns += pause_ns / 4;
    }
}

int processes_send(int to, const void *data, size_t bytes)
{
    const char *at = data;
    for (size_t left = bytes; left;) {
        const int piece = left < PIECE ? (int)left : PIECE;
        MPI_Request request;
        const int started_well = MPI_Isend(at, piece, MPI_BYTE, to, TAG, MPI_COMM_WORLD, &request) == MPI_SUCCESS;
        if (!started_well || wait_for(&request)) return GSL_EFAILED;
        at += piece;
        left -= (size_t)piece;
    }
    return GSL_SUCCESS;
}

int processes_receive(int from, void *data, size_t bytes)
{
    char *at = data;
    for (size_t left = bytes; left;) {
        const int piece = left < PIECE ? (int)left : PIECE;
        MPI_Request request;
        const int started_well = MPI_Irecv(at, piece, MPI_BYTE, from, TAG, MPI_COMM_WORLD, &request) == MPI_SUCCESS;
        if (!started_well || wait_for(&request)) return GSL_EFAILED;
        at += piece;
        left -= (size_t)piece;
    }
    return GSL_SUCCESS;
}

/* Along a binary tree: process r has it from r minus its highest bit. */
int processes_broadcast(void *data, size_t bytes)
{
    int bit = 1;
    while (bit <= rank) bit *= 2;
    int status = rank ? processes_receive(rank - bit / 2, data, bytes) : GSL_SUCCESS;
    for (; bit < count && !status; bit *= 2)
        if (rank + bit < count) status = processes_send(rank + bit, data, bytes);
    return status;
}

int processes_barrier(void)
{
    char token = 0;
    int status = GSL_SUCCESS;
    for (int other = 1; other < count && !rank && !status; other++) status = processes_receive(other, &token, 1);
    if (rank) status = processes_send(0, &token, 1);
    return status ? status : processes_broadcast(&token, 1);
}
