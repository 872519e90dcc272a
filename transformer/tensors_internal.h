/* What the readers of tensor files share. */
#ifndef TRANSFORMER_TENSORS_INTERNAL_H
#define TRANSFORMER_TENSORS_INTERNAL_H
#include "transformer/tensors.h"

struct tensors { struct tensor *list; size_t count, room; };

/* Takes over t->name and t->data. GSL_ENOMEM: nothing was taken. */
int tensors_append(struct tensors *tensors, const struct tensor *t);

#endif
