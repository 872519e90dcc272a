#include "transformer/parameters.h"

#include <gsl/gsl_errno.h>
#include <stdlib.h>
#include <string.h>

float *parameters_array(struct parameters *p, size_t n)
{
    if (p->num_owned == p->owned_room) {
        const size_t room = p->owned_room ? 2 * p->owned_room : 64;
        void **more = realloc(p->owned, room * sizeof *more);
        if (!more) return NULL;
        p->owned = more;
        p->owned_room = room;
    }
    float *array = calloc(n ? n : 1, sizeof *array);
    if (!array) return NULL;
    p->owned[p->num_owned++] = array;
    p->owned_bytes += n * sizeof *array;
    return array;
}

int parameters_add(struct parameters *p, const char *name, float *value, float *grad, size_t rows, size_t cols,
                   int decay, enum parameter_group group)
{
    if (p->count == p->room) {
        const size_t room = p->room ? 2 * p->room : 64;
        struct parameter *more = realloc(p->list, room * sizeof *more);
        if (!more) return GSL_ENOMEM;
        p->list = more;
        p->room = room;
    }
    char *copy = strdup(name);
    if (!copy) return GSL_ENOMEM;
    p->list[p->count++] = (struct parameter){ copy, value, grad, rows, cols, decay, group };
    return GSL_SUCCESS;
}

size_t parameters_trainable(const struct parameters *p, enum parameter_group group)
{
    size_t n = 0;
    for (size_t i = 0; i < p->count; i++)
        if (p->list[i].group == group && p->list[i].grad) n += p->list[i].rows * p->list[i].cols;
    return n;
}

void parameters_free(struct parameters *p)
{
    for (size_t i = 0; i < p->count; i++) free((char *)p->list[i].name);
    free(p->list);
    for (size_t i = 0; i < p->num_owned; i++) free(p->owned[i]);
    free(p->owned);
    *p = (struct parameters){ .list = NULL };
}
