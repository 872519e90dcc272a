/* The processes of one run that exchange messages: their number and order, sending, receiving, broadcast, barrier.
 * Programs under mpirun, in a build with MPI=1, are several processes (mpi.c); in every other build, and without
 * mpirun, there is one (serial.c), and what follows costs nothing. Nothing else in this tree includes mpi.h. Calls
 * are the main thread's.
 * Status: GSL_SUCCESS; GSL_EFAILED when `stop` says so while a call waits, or another process is gone. Waiting
 * sleeps, so that more processes than cores do not take the time from each other. */
#ifndef PROCESSES_PROCESSES_H
#define PROCESSES_PROCESSES_H
#include <stddef.h>

/* Whether this build has messages. */
int processes_built(void);

/* First of all in main; stop (may be NULL) is asked while a call waits: not 0 ends it. */
int processes_start(int *argc, char ***argv, int (*stop)(void));

/* Last of all, when all processes end; returns code. After a message that failed, and by abort, which does not
 * return where there are others, they are ended without being asked. */
int processes_end(int code);
int processes_abort(int code);

int processes_rank(void);                  /* 0 .. count - 1; 0 writes what is written */
int processes_count(void);

int processes_send(int to, const void *data, size_t bytes);
int processes_receive(int from, void *data, size_t bytes);
int processes_broadcast(void *data, size_t bytes);         /* from process 0 to all; all of them call it */
int processes_barrier(void);

/* The part of `count` things, in order, that is process `rank`'s: first .. last. */
void processes_range(size_t count, int rank, size_t *first, size_t *last);

#endif
