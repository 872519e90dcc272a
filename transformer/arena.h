/* Aligned pieces of one block of memory: measured first with base NULL, then handed out. */
#ifndef TRANSFORMER_ARENA_H
#define TRANSFORMER_ARENA_H
#include <stddef.h>

enum { ARENA_ALIGN = 64 };

struct arena { char *base; size_t used; };

/* NULL while measuring, and for 0 bytes. */
static inline void *arena_take(struct arena *arena, size_t bytes)
{
    void *piece = arena->base && bytes ? arena->base + arena->used : NULL;
    arena->used += (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    return piece;
}

static inline float *arena_floats(struct arena *arena, size_t count)
{
    return arena_take(arena, count * sizeof(float));
}

#endif
