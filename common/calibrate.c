#include "common/calibrate.h"

#include <cblas.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>
#include "common/calibrate_kernel.h"
#include "common/isa.h"

enum { GEMM_SIZE = 768 };
static const double ROUND_S = 0.02;

double calibrate_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double calibrate_median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return 0.5 * (x[(n - 1) / 2] + x[n / 2]);
}

struct chains { calibrate_chain *f32, *f64; };

static struct chains chains_current(void)
{
#define KERNELS(isa) { calibrate_chain_f32_##isa, calibrate_chain_f64_##isa }
    static const struct chains all[] = ISA_TABLE(KERNELS);
    return all[isa_current()];
}

/* Best rate over rounds of equal length; all threads run the same round at once and
 * the round ends with the last of them. */
static double chain_rate(calibrate_chain *chain, int num_threads, double seconds)
{
    double sink = 0.0;
    const long probe = 1 << 16;
    const double before = calibrate_now_s();
    chain(probe, &sink);
    const double probe_s = calibrate_now_s() - before;
    const long steps = probe_s > 0.0 ? (long)((double)probe * ROUND_S / probe_s) + 1 : probe;
    const int rounds = (int)(seconds / ROUND_S) + 2;
    double best = 0.0;
    for (int round = 0; round < rounds; round++) {
        double flops = 0.0;
        const double start = calibrate_now_s();
#pragma omp parallel num_threads(num_threads) reduction(+ : flops, sink)
        flops += chain(steps, &sink);
        const double rate = flops / (calibrate_now_s() - start);
        if (rate > best) best = rate;
    }
    volatile double kept = sink;
    (void)kept;
    return best;
}

double calibrate_fma_f32(int num_threads, double seconds)
{
    return chain_rate(chains_current().f32, num_threads, seconds);
}

double calibrate_fma_f64(int num_threads, double seconds)
{
    return chain_rate(chains_current().f64, num_threads, seconds);
}

/* One product per thread and round, on matrices of its own. */
static double gemm_rate(size_t element, int num_threads, double seconds)
{
    const size_t n = GEMM_SIZE, per_thread = 3 * n * n;
    char *matrices = malloc((size_t)num_threads * per_thread * element);
    if (!matrices) return 0.0;
    for (size_t i = 0; i < (size_t)num_threads * per_thread; i++) {
        const double value = 0.7 - 1.3 * (double)(i % 7) / 7.0;
        if (element == sizeof(float)) ((float *)matrices)[i] = (float)value;
        else ((double *)matrices)[i] = value;
    }
    double best = 0.0;
    const double end = calibrate_now_s() + seconds;
    for (int round = 0; round < 3 || calibrate_now_s() < end; round++) {
        const double start = calibrate_now_s();
#pragma omp parallel for num_threads(num_threads) schedule(static, 1)
        for (int t = 0; t < num_threads; t++) {
            char *base = matrices + (size_t)t * per_thread * element;
            if (element == sizeof(float)) {
                float *a = (float *)base;
                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, GEMM_SIZE, GEMM_SIZE, GEMM_SIZE,
                            1.0f, a, GEMM_SIZE, a + n * n, GEMM_SIZE, 0.0f, a + 2 * n * n, GEMM_SIZE);
            } else {
                double *a = (double *)base;
                cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, GEMM_SIZE, GEMM_SIZE, GEMM_SIZE,
                            1.0, a, GEMM_SIZE, a + n * n, GEMM_SIZE, 0.0, a + 2 * n * n, GEMM_SIZE);
            }
        }
        const double flops = 2.0 * (double)num_threads * (double)n * (double)n * (double)n;
        const double rate = flops / (calibrate_now_s() - start);
        if (rate > best) best = rate;
    }
    free(matrices);
    return best;
}

double calibrate_sgemm(int num_threads, double seconds)
{
    return gemm_rate(sizeof(float), num_threads, seconds);
}

double calibrate_dgemm(int num_threads, double seconds)
{
    return gemm_rate(sizeof(double), num_threads, seconds);
}
