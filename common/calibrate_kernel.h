/* Fused multiply-add chains, one pair per instruction set. Each runs `steps` steps,
 * adds something to *sink (so that nothing is optimised away) and returns the
 * number of floating-point operations done. */
#ifndef COMMON_CALIBRATE_KERNEL_H
#define COMMON_CALIBRATE_KERNEL_H

typedef double calibrate_chain(long steps, double *sink);

calibrate_chain calibrate_chain_f32_portable, calibrate_chain_f64_portable;
calibrate_chain calibrate_chain_f32_avx2, calibrate_chain_f64_avx2;
calibrate_chain calibrate_chain_f32_avx512, calibrate_chain_f64_avx512;
calibrate_chain calibrate_chain_f32_neon, calibrate_chain_f64_neon;

#endif
