#include "processes/kernels.h"
#include "processes/processes.h"

#include <stdlib.h>
#include <gsl/gsl_errno.h>

/* The largest aligned subtree that begins at leaf `first` and does not reach beyond `last`, in leaves. */
static size_t subtree(size_t first, size_t last)
{
    size_t leaves = 1;
    while (first % (2 * leaves) == 0 && first + 2 * leaves <= last) leaves *= 2;
    return leaves;
}

static int send_moments(const struct ntk_moments *moments)
{
    const size_t size = ntk_moments_state_size(moments);
    double *state = malloc(size * sizeof *state);
    if (!state) return GSL_ENOMEM;
    ntk_moments_save(moments, state);
    int status = processes_send(0, &size, sizeof size);
    if (!status) status = processes_send(0, state, size * sizeof *state);
    free(state);
    return status;
}

static int receive_moments(int from, struct ntk_moments *part)
{
    size_t size = 0;
    if (processes_receive(from, &size, sizeof size)) return GSL_EFAILED;
    double *state = malloc(size * sizeof *state);
    if (!state) return GSL_ENOMEM;
    int status = processes_receive(from, state, size * sizeof *state);
    if (!status) status = ntk_moments_load(part, state, size);
    free(state);
    return status;
}

/* The subtrees of process `rank` among leaves [first, last): computed and sent by itself, received by process 0. */
static int exchange(struct ntk_sweep *sweep, struct ntk_moments *part, int rank, size_t first, size_t last)
{
    size_t begin, end;
    processes_range(last - first, rank, &begin, &end);
    int status = GSL_SUCCESS;
    for (size_t leaf = first + begin, leaves; leaf < first + end && !status; leaf += leaves) {
        leaves = subtree(leaf, first + end);
        if (part) {
            status = receive_moments(rank, part);
            /* Failed sums make the sweep fail as they would have here, and no message is left unread. */
            if (!status) (void)ntk_moments_merge(ntk_sweep_moments(sweep), part);
        } else {
            (void)ntk_sweep_part(sweep, leaf * NTK_MOMENTS_LEAF, leaves * NTK_MOMENTS_LEAF);
            status = send_moments(ntk_sweep_moments(sweep));
        }
    }
    return status;
}

int shared_sweep_step(struct ntk_sweep *sweep, size_t count, size_t prefix_len, enum prefix_signs law,
                      enum ntk_kernel kernel, struct ntk_moments *part, gsl_matrix *gram)
{
    const size_t twins = law == PREFIX_SIGNS_MIRRORED ? 2 : 1;
    const size_t first = (count / twins + NTK_MOMENTS_LEAF - 1) / NTK_MOMENTS_LEAF;
    const size_t last = prefix_len / twins / NTK_MOMENTS_LEAF;
    if (processes_rank()) return first < last ? exchange(sweep, NULL, processes_rank(), first, last) : GSL_SUCCESS;
    if (processes_count() > 1 && first < last) {
        /* The leaf in progress, if there is one, and the first range. */
        size_t begin, end;
        processes_range(last - first, 0, &begin, &end);
        int status = ntk_sweep_extend(sweep, (first + end) * NTK_MOMENTS_LEAF * twins);
        if (status == GSL_EINVAL) return status;
        status = GSL_SUCCESS;
        for (int rank = 1; rank < processes_count() && !status; rank++)
            status = exchange(sweep, part, rank, first, last);
        if (status) return status;
    }
    return ntk_sweep_step(sweep, prefix_len, kernel, gram);
}
