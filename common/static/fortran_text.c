/* The one function of Fortran's run-time library that OpenBLAS's LAPACK calls, for programs
 * linked statically where that library is not installed; weak, so that it gives way to it.
 * An archive of its own has it. */
#include <stddef.h>
#include <string.h>

void _gfortran_concat_string(size_t to_len, char *to, size_t a_len, const char *a, size_t b_len, const char *b);

/* to = a // b, filled with blanks or cut. */
__attribute__((weak, visibility("default")))
void _gfortran_concat_string(size_t to_len, char *to, size_t a_len, const char *a, size_t b_len, const char *b)
{
    const size_t first = a_len < to_len ? a_len : to_len, second = b_len < to_len - first ? b_len : to_len - first;
    memcpy(to, a, first);
    memcpy(to + first, b, second);
    memset(to + first + second, ' ', to_len - first - second);
}
