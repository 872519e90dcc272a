/* The instruction set of the kernels, chosen once at run time.
 *
 * Kernel files (*_kernel.c) are compiled once per instruction set with
 * -DISA=portable|avx2|avx512|neon (the machine's); ISA_NAME(f) is f_portable, f_avx2, .. */
#ifndef COMMON_ISA_H
#define COMMON_ISA_H

#define ISA_PASTE_(f, isa) f##_##isa
#define ISA_PASTE(f, isa) ISA_PASTE_(f, isa)
#define ISA_NAME(f) ISA_PASTE(f, ISA)

enum isa { ISA_ID_PORTABLE, ISA_ID_AVX2, ISA_ID_AVX512, ISA_ID_NEON };

/* The initialiser of a table by instruction set, `row(isa)` being the entry of one: how kernels are chosen.
 *   static const struct kernels all[] = ISA_TABLE(KERNELS_OF);
 *   return &all[isa_current()];                                                    */
#if defined(__x86_64__)
#define ISA_TABLE(row) { [ISA_ID_PORTABLE] = row(portable), [ISA_ID_AVX2] = row(avx2), [ISA_ID_AVX512] = row(avx512) }
#elif defined(__aarch64__)
#define ISA_TABLE(row) { [ISA_ID_PORTABLE] = row(portable), [ISA_ID_NEON] = row(neon) }
#else
#define ISA_TABLE(row) { [ISA_ID_PORTABLE] = row(portable) }
#endif

/* The set in use: the best the CPU has, or what PREFIX_NTK_ISA names. */
enum isa isa_current(void);

/* Forces a set (tests). GSL_EUNSUP when the CPU or the build lacks it. */
int isa_force(enum isa isa);

/* Whether this CPU and this build offer `isa`. */
int isa_available(enum isa isa);

/* 0 when PREFIX_NTK_ISA is unset or usable, GSL_EINVAL when it names no set,
 * GSL_EUNSUP when the CPU lacks it. Programs refuse to start on non-zero. */
int isa_environment_status(void);

const char *isa_name(enum isa isa);     /* "portable", "avx2", "avx512", "neon" */

#endif
