#include "tests/support/check.h"

#include <math.h>
#include <string.h>

bool is_close(double got, double want, double rtol, double atol)
{
    return isfinite(want) && fabs(got - want) <= atol + rtol * fabs(want);
}

double relative_error(const gsl_matrix *got, const gsl_matrix *want)
{
    if (got->size1 != want->size1 || got->size2 != want->size2) return NAN;
    double difference = 0.0, scale = 0.0;
    for (size_t i = 0; i < want->size1; i++)
        for (size_t j = 0; j < want->size2; j++) {
            const double w = gsl_matrix_get(want, i, j), g = gsl_matrix_get(got, i, j);
            difference += (g - w) * (g - w);
            scale += w * w;
        }
    return scale > 0.0 || isnan(scale) ? sqrt(difference / scale) : sqrt(difference);
}

void check_close(double got, double want, double rtol, double atol, const char *what,
                 const char *file, int line)
{
    if (is_close(got, want, rtol, atol)) return;
    print_error("%s = %.17g, expected %.17g within %.3g + %.3g of it (off by %.3g)\n", what, got,
                want, atol, rtol, got - want);
    _fail(file, line);
}

void check_all_close(const double *got, const double *want, size_t n, double rtol, double atol,
                     const char *what, const char *file, int line)
{
    for (size_t i = 0; i < n; i++) {
        if (is_close(got[i], want[i], rtol, atol)) continue;
        print_error("%s: entry %zu of %zu is %.17g, expected %.17g within %.3g + %.3g of it "
                    "(off by %.3g)\n", what, i, n, got[i], want[i], atol, rtol, got[i] - want[i]);
        _fail(file, line);
    }
}

void check_matrix_close(const gsl_matrix *got, const gsl_matrix *want, double rtol,
                        const char *what, const char *file, int line)
{
    const double error = relative_error(got, want);
    if (error <= rtol) return;
    print_error("%s (%zu, %zu) against (%zu, %zu): relative Frobenius error %.17g above %.3g\n",
                what, got->size1, got->size2, want->size1, want->size2, error, rtol);
    _fail(file, line);
}

void check_less(double got, double bound, const char *what, const char *file, int line)
{
    if (got < bound) return;
    print_error("%s = %.17g is not below %.17g\n", what, got, bound);
    _fail(file, line);
}

void check_same_bits(const double *a, const double *b, size_t n, const char *what,
                     const char *file, int line)
{
    for (size_t i = 0; i < n; i++) {
        if (!memcmp(a + i, b + i, sizeof *a)) continue;
        print_error("%s: entry %zu of %zu differs: %.17g and %.17g\n", what, i, n, a[i], b[i]);
        _fail(file, line);
    }
}
