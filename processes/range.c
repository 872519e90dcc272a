#include "processes/processes.h"

void processes_range(size_t count, int rank, size_t *first, size_t *last)
{
    const size_t processes = (size_t)processes_count(), r = (size_t)rank;
    /* Without overflow: the remainder goes to the first ones. */
    const size_t each = count / processes, more = count % processes;
    *first = r * each + (r < more ? r : more);
    *last = *first + each + (r < more);
}
