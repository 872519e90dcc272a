#include "cli/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const cli_sign_names[] = { "random", "positive", "mirrored", NULL };
const char *const cli_kernel_names[] = { "full", "key", NULL };

void cli_stem(const struct cli_common *cfg, char *stem, size_t size)
{
    const char *slash = strrchr(cfg->out, '/'), *name = slash ? slash + 1 : cfg->out;
    const char *dot = strrchr(name, '.');
    const size_t len = dot ? (size_t)(dot - name) : strlen(name);
    if (!strcmp(cfg->out, "-") || len == 0) snprintf(stem, size, "%s", cfg->program);
    else snprintf(stem, size, "%.*s", (int)len, name);
}

/* FNV-1a over the shape and the bytes of every number. */
uint64_t cli_checksum(const gsl_matrix *M)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < M->size1; i++)
        for (size_t k = 0; k < M->size2; k++) {
            unsigned char bytes[sizeof(double)];
            const double x = gsl_matrix_get(M, i, k);
            memcpy(bytes, &x, sizeof x);
            for (size_t b = 0; b < sizeof bytes; b++) hash = (hash ^ bytes[b]) * UINT64_C(0x100000001b3);
        }
    return (hash ^ M->size1) * UINT64_C(0x100000001b3) ^ M->size2;
}

struct row { const double *x; size_t dim, index; };

static int compare_rows(const void *a, const void *b)
{
    const struct row *p = a, *q = b;
    for (size_t k = 0; k < p->dim; k++)
        if (p->x[k] != q->x[k]) return p->x[k] < q->x[k] ? -1 : 1;
    return (p->index > q->index) - (p->index < q->index);
}

void cli_warn_duplicates(const struct cli_common *cfg, const gsl_matrix *X, const char *name)
{
    struct row *rows = cli_need(malloc(X->size1 * sizeof *rows));
    for (size_t i = 0; i < X->size1; i++) rows[i] = (struct row){ gsl_matrix_const_ptr(X, i, 0), X->size2, i };
    qsort(rows, X->size1, sizeof *rows, compare_rows);
    size_t pairs = 0, first = 0, second = 0;
    for (size_t i = 1; i < X->size1; i++) {
        size_t k = 0;
        while (k < X->size2 && rows[i].x[k] == rows[i - 1].x[k]) k++;
        if (k < X->size2) continue;
        if (!pairs || rows[i - 1].index < first) { first = rows[i - 1].index; second = rows[i].index; }
        pairs++;
    }
    if (pairs)
        cli_warn(cfg, "warning: %s: rows %zu and %zu are equal (%zu repeated in all): the limit kernels are singular",
                 name, first, second, pairs);
    free(rows);
}

static int compare_sizes(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

size_t *cli_sorted_sizes(const size_t *list, size_t count, size_t *num_distinct)
{
    size_t *sorted = cli_need(malloc(count * sizeof *sorted));
    memcpy(sorted, list, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_sizes);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (!kept || sorted[i] != sorted[kept - 1]) sorted[kept++] = sorted[i];
    *num_distinct = kept;
    return sorted;
}

size_t cli_index_of(const size_t *sorted, size_t count, size_t value)
{
    size_t i = 0;
    while (i + 1 < count && sorted[i] != value) i++;
    return i;
}

struct interval cli_exact(double x, size_t n)
{
    return (struct interval){ x, x, x, n };
}

size_t cli_largest(const size_t *list, size_t count)
{
    size_t largest = 0;
    for (size_t i = 0; i < count; i++) largest = list[i] > largest ? list[i] : largest;
    return largest;
}

double cli_frobenius(const gsl_matrix *A)
{
    double sum = 0.0;
    for (size_t i = 0; i < A->size1 * A->size2; i++) sum += A->data[i] * A->data[i];
    return sqrt(sum);
}
