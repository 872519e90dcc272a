/* Comparisons of doubles for cmocka, whose own narrow to float and let NaN pass. */
#ifndef TESTS_SUPPORT_CHECK_H
#define TESTS_SUPPORT_CHECK_H
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <gsl/gsl_matrix.h>

/* |got - want| <= atol + rtol |want|, false when either is not finite. Tests use it
 * to show that a checker rejects a planted error. */
bool is_close(double got, double want, double rtol, double atol);

/* ||got - want||_F / ||want||_F (||got||_F when want = 0); NaN when the shapes differ. */
double relative_error(const gsl_matrix *got, const gsl_matrix *want);

void check_close(double got, double want, double rtol, double atol, const char *what,
                 const char *file, int line);
void check_all_close(const double *got, const double *want, size_t n, double rtol, double atol,
                     const char *what, const char *file, int line);
void check_matrix_close(const gsl_matrix *got, const gsl_matrix *want, double rtol,
                        const char *what, const char *file, int line);
void check_less(double got, double bound, const char *what, const char *file, int line);
void check_same_bits(const double *a, const double *b, size_t n, const char *what,
                     const char *file, int line);

#define CHECK_CLOSE(got, want, rtol, atol) \
    check_close((got), (want), (rtol), (atol), #got, __FILE__, __LINE__)
/* Arrays of n doubles, entry by entry. */
#define CHECK_ALL_CLOSE(got, want, n, rtol, atol) \
    check_all_close((got), (want), (n), (rtol), (atol), #got, __FILE__, __LINE__)
/* Matrices, relative Frobenius error at most rtol. */
#define CHECK_MATRIX_CLOSE(got, want, rtol) \
    check_matrix_close((got), (want), (rtol), #got, __FILE__, __LINE__)
/* got < bound, refusing NaN. */
#define CHECK_LESS(got, bound) check_less((got), (bound), #got, __FILE__, __LINE__)
#define CHECK_SAME_BITS(a, b, n) check_same_bits((a), (b), (n), #a, __FILE__, __LINE__)

#endif
