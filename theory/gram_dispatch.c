#include "common/isa.h"
#include "theory/gram_kernel.h"

const struct gram_kernels *gram_kernels_of(enum isa isa)
{
#define KERNELS(isa) &gram_kernels_##isa
    static const struct gram_kernels *const all[] = ISA_TABLE(KERNELS);
    return (size_t)isa < sizeof all / sizeof *all ? all[isa] : NULL;
}

const struct gram_kernels *gram_kernels_current(void) { return gram_kernels_of(isa_current()); }
