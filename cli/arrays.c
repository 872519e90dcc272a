#include "cli/cli.h"

#include "common/array_file.h"
#include "common/reason.h"

#include <gsl/gsl_errno.h>
#include <string.h>

/* Too large for the machine is a failure of the run, anything else bad data. */
int cli_input_code(int status)
{
    return status == GSL_ENOMEM || status == REASON_SYSTEM ? EXIT_FAILED : EXIT_DATA;
}

int cli_bad_input(const struct cli_common *cfg, int status, const char *path, const char *why)
{
    return cli_fail(cfg, cli_input_code(status), "%s: %s", path, why);
}

static int read_array(const struct cli_common *cfg, const char *path, struct npy *a)
{
    char why[256];
    const int status = array_file_read(path, 0, a, why, sizeof why);
    return status ? cli_bad_input(cfg, status, path, why) : EXIT_DONE;
}

int cli_read_matrix(const struct cli_common *cfg, const char *path, gsl_matrix **out)
{
    struct npy a;
    int code = read_array(cfg, path, &a);
    if (code) return code;
    gsl_matrix *m = NULL;
    if (a.rank != 2) {
        code = cli_fail(cfg, EXIT_DATA, "%s: has %zu dimensions where a matrix is wanted", path, a.rank);
    } else if (!a.size) {
        code = cli_fail(cfg, EXIT_DATA, "%s: an empty matrix (%zu, %zu)", path, a.shape[0], a.shape[1]);
    } else if (!(m = gsl_matrix_alloc(a.shape[0], a.shape[1]))) {
        code = cli_bad_input(cfg, GSL_ENOMEM, path, "out of memory");
    } else {
        memcpy(m->data, a.f64, a.size * sizeof *a.f64);
        *out = m;
    }
    npy_free(&a);
    return code;
}

int cli_read_vector(const struct cli_common *cfg, const char *path, gsl_vector **out)
{
    struct npy a;
    int code = read_array(cfg, path, &a);
    if (code) return code;
    /* A CSV file has rows and columns; a vector is one of either. */
    const bool one_line = array_file_format(path) == ARRAY_CSV && (a.shape[0] == 1 || a.shape[1] == 1);
    gsl_vector *v = NULL;
    if (a.rank != 1 && !one_line) {
        code = cli_fail(cfg, EXIT_DATA, "%s: has %zu dimensions where a vector is wanted", path, a.rank);
    } else if (!a.size) {
        code = cli_fail(cfg, EXIT_DATA, "%s: an empty vector", path);
    } else if (!(v = gsl_vector_alloc(a.size))) {
        code = cli_bad_input(cfg, GSL_ENOMEM, path, "out of memory");
    } else {
        memcpy(v->data, a.f64, a.size * sizeof *a.f64);
        *out = v;
    }
    npy_free(&a);
    return code;
}

int cli_write_matrix(const struct cli_common *cfg, const char *path, const gsl_matrix *m)
{
    gsl_matrix *packed = NULL;
    const double *data = m->data;
    if (m->tda != m->size2) {
        packed = gsl_matrix_alloc(m->size1, m->size2);
        if (!packed) return cli_fail(cfg, EXIT_FAILED, "%s: out of memory", path);
        gsl_matrix_memcpy(packed, m);
        data = packed->data;
    }
    const int code = cli_write_array(cfg, path, NULL, data, 2, (const size_t[]){ m->size1, m->size2 });
    gsl_matrix_free(packed);
    return code;
}

int cli_write_vector(const struct cli_common *cfg, const char *path, const gsl_vector *v)
{
    const gsl_vector row = *v;
    gsl_vector *packed = NULL;
    const double *data = row.data;
    if (row.stride != 1) {
        packed = gsl_vector_alloc(row.size);
        if (!packed) return cli_fail(cfg, EXIT_FAILED, "%s: out of memory", path);
        gsl_vector_memcpy(packed, v);
        data = packed->data;
    }
    const int code = cli_write_array(cfg, path, NULL, data, 1, &row.size);
    gsl_vector_free(packed);
    return code;
}
