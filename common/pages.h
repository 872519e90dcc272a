/* Memory for large arrays, which are read faster from large pages: where the system has them, they are asked for. */
#ifndef COMMON_PAGES_H
#define COMMON_PAGES_H
#include <stddef.h>

/* Bytes at a multiple of 64 (of a large page where one is full), to be freed with free(). NULL: no
 * memory. */
void *pages_alloc(size_t bytes);

#endif
