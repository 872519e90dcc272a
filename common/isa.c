#include "common/isa.h"

#include <gsl/gsl_errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#if SIZE_MAX < UINT64_MAX
#error "sizes of arrays and files are 64-bit here: 32-bit machines are not supported"
#endif

static const char *const names[] = { "portable", "avx2", "avx512", "neon" };
enum { NUM_ISAS = sizeof names / sizeof *names, UNDECIDED = -1 };

/* Written at most to one value by everyone who finds it undecided, so a race
 * between threads is harmless. */
static atomic_int current = UNDECIDED;

const char *isa_name(enum isa isa)
{
    return (unsigned)isa < NUM_ISAS ? names[isa] : "unknown";
}

#if defined(__x86_64__)
/* Not every compiler's __builtin_cpu_supports knows the name. */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}
#endif

int isa_available(enum isa isa)
{
    switch (isa) {
    case ISA_ID_PORTABLE:
        return 1;
#if defined(__x86_64__)
    case ISA_ID_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    case ISA_ID_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
#elif defined(__aarch64__)
    case ISA_ID_NEON:
        return 1;                       /* part of every such CPU */
#endif
    default:
        return 0;
    }
}

/* The set PREFIX_NTK_ISA names: UNDECIDED when unset, NUM_ISAS when it names none. */
static int named_by_environment(void)
{
    const char *value = getenv("PREFIX_NTK_ISA");
    if (!value) return UNDECIDED;
    for (int i = 0; i < NUM_ISAS; i++)
        if (!strcmp(value, names[i])) return i;
    return NUM_ISAS;
}

int isa_environment_status(void)
{
    const int named = named_by_environment();
    if (named == UNDECIDED) return GSL_SUCCESS;
    if (named == NUM_ISAS) return GSL_EINVAL;
    return isa_available((enum isa)named) ? GSL_SUCCESS : GSL_EUNSUP;
}

enum isa isa_current(void)
{
    int isa = atomic_load_explicit(&current, memory_order_relaxed);
    if (isa != UNDECIDED) return (enum isa)isa;
    isa = named_by_environment();
    if (isa == UNDECIDED || isa == NUM_ISAS || !isa_available((enum isa)isa))
        for (isa = NUM_ISAS - 1; !isa_available((enum isa)isa); isa--) {}
    atomic_store_explicit(&current, isa, memory_order_relaxed);
    return (enum isa)isa;
}

int isa_force(enum isa isa)
{
    if (!isa_available(isa)) return GSL_EUNSUP;
    atomic_store_explicit(&current, (int)isa, memory_order_relaxed);
    return GSL_SUCCESS;
}
