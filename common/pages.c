#include "common/pages.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { LARGE_PAGE = 2 << 20, ALIGN = 64 };

void *pages_alloc(size_t bytes)
{
    const int large = bytes >= LARGE_PAGE;
    void *memory;
    if (posix_memalign(&memory, large ? LARGE_PAGE : ALIGN, bytes ? bytes : 1)) return NULL;
#ifdef MADV_HUGEPAGE
    /* A wish: whether it is granted changes no result. */
    if (large) madvise(memory, bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
#endif
    return memory;
}
