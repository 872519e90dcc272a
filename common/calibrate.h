/* What this machine does now: the peaks that benchmarks are shares of.
 *
 * Each runs its work for about `seconds` on num_threads threads at once and
 * returns the best of several short rounds, in floating-point operations per
 * second summed over the threads (a fused multiply-add counts as two). The
 * fused-multiply-add peak is of the instruction set in use (isa_current); gemm is
 * OpenBLAS at one thread per caller, square matrices beyond the L2 cache. */
#ifndef COMMON_CALIBRATE_H
#define COMMON_CALIBRATE_H

double calibrate_fma_f32(int num_threads, double seconds);
double calibrate_fma_f64(int num_threads, double seconds);
/* 0 when there is no memory for the matrices. */
double calibrate_sgemm(int num_threads, double seconds);
double calibrate_dgemm(int num_threads, double seconds);

/* Seconds on a monotonic clock, for timing rounds of one run. */
double calibrate_now_s(void);

/* Median of x[0..n), which is sorted in place; n >= 1. */
double calibrate_median(double *x, int n);

#endif
