/* The list of a model's or an adapter's parameters, and the arrays it owns. */
#ifndef TRANSFORMER_PARAMETERS_H
#define TRANSFORMER_PARAMETERS_H
#include "transformer/model.h"

struct parameters {
    struct parameter *list;                 /* (count); names are owned */
    size_t count, room;
    void **owned;                           /* arrays of parameters_array */
    size_t num_owned, owned_room, owned_bytes;
};

/* n zeros that parameters_free frees; NULL: no memory. */
float *parameters_array(struct parameters *p, size_t n);
/* Takes a copy of the name; value and grad stay the caller's, or of parameters_array. GSL_ENOMEM. */
int parameters_add(struct parameters *p, const char *name, float *value, float *grad, size_t rows, size_t cols,
                   int decay, enum parameter_group group);
/* Trained numbers of a group. */
size_t parameters_trainable(const struct parameters *p, enum parameter_group group);
void parameters_free(struct parameters *p);

#endif
