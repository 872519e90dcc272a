#include "processes/descent.h"
#include "processes/processes.h"

#include <stdlib.h>
#include <gsl/gsl_errno.h>
#include "theory/descent_parts.h"

struct shared_descent {
    struct prefix_descent *descent;
    double *buffer;              /* parts of one process, or the sums */
};

void shared_descent_free(struct shared_descent *shared)
{
    if (!shared) return;
    free(shared->buffer);
    free(shared);
}

int shared_descent_alloc(struct prefix_descent *descent, struct shared_descent **out)
{
    const int count = processes_count();
    struct shared_descent *shared = calloc(1, sizeof *shared);
    *out = NULL;
    if (!shared) return GSL_ENOMEM;
    size_t most = descent_sums_size(descent);
    for (int rank = 0; rank < count; rank++)
        if (descent_parts_size(descent, rank, count) > most) most = descent_parts_size(descent, rank, count);
    shared->descent = descent;
    shared->buffer = malloc(most * sizeof *shared->buffer);
    if (!shared->buffer || (count > 1 && descent_share(descent, processes_rank(), count))) {
        shared_descent_free(shared);
        return GSL_ENOMEM;
    }
    *out = shared;
    return GSL_SUCCESS;
}

/* Parts to process 0, merged sums to all. */
static int exchange(struct shared_descent *shared)
{
    struct prefix_descent *descent = shared->descent;
    const int count = processes_count(), rank = processes_rank();
    const size_t sums = descent_sums_size(descent) * sizeof(double);
    int status = GSL_SUCCESS;
    if (rank) {
        descent_parts_read(descent, rank, count, shared->buffer);
        status = processes_send(0, shared->buffer, descent_parts_size(descent, rank, count) * sizeof(double));
    } else {
        descent_parts_read(descent, 0, count, NULL);
        for (int other = 1; other < count && !status; other++) {
            const size_t parts = descent_parts_size(descent, other, count) * sizeof(double);
            status = processes_receive(other, shared->buffer, parts);
            if (!status) descent_parts_write(descent, other, count, shared->buffer);
        }
        descent_merge(descent);
        descent_sums_read(descent, shared->buffer);
    }
    if (!status) status = processes_broadcast(shared->buffer, sums);
    if (!status) descent_sums_write(descent, shared->buffer);
    return status;
}

int shared_descent_step(struct shared_descent *shared, double step_size)
{
    if (processes_count() == 1) return prefix_descent_step(shared->descent, step_size);
    descent_begin(shared->descent, step_size);
    int status = exchange(shared);
    if (!status) status = descent_end(shared->descent);
    if (status != GSL_CONTINUE) return status;
    descent_again(shared->descent);
    status = exchange(shared);
    return status ? status : descent_end(shared->descent);
}

int shared_descent_gather(struct shared_descent *shared)
{
    const int count = processes_count();
    const size_t d = prefix_descent_prefix(shared->descent)->size2;
    size_t first, last;
    if (processes_rank()) {
        const double *W = descent_tokens(shared->descent, processes_rank(), count, &first, &last);
        return processes_send(0, W + first * d, (last - first) * d * sizeof *W);
    }
    int status = GSL_SUCCESS;
    for (int other = 1; other < count && !status; other++) {
        double *W = descent_tokens(shared->descent, other, count, &first, &last);
        status = processes_receive(other, W + first * d, (last - first) * d * sizeof *W);
    }
    return status;
}
