#include "cli/prefix_files.h"

#include <math.h>

int cli_read_prefix(const struct cli_common *cfg, const char *path, const char *sign_path, size_t dim,
                    gsl_matrix **W, gsl_vector **signs)
{
    *W = NULL;
    *signs = NULL;
    int code = cli_read_matrix(cfg, path, W);
    if (code) return code;
    const size_t m = (*W)->size1;
    if ((*W)->size2 != dim)
        return cli_fail(cfg, EXIT_DATA, "%s: tokens have dimension %zu, inputs %zu", path, (*W)->size2, dim);
    if (!sign_path) {
        if (!(*signs = gsl_vector_alloc(m))) return cli_fail(cfg, EXIT_FAILED, "out of memory");
        gsl_vector_set_all(*signs, 1.0);
        return 0;
    }
    if ((code = cli_read_vector(cfg, sign_path, signs))) return code;
    if ((*signs)->size != m)
        return cli_fail(cfg, EXIT_DATA, "%s: has %zu signs for %zu tokens", sign_path, (*signs)->size, m);
    for (size_t r = 0; r < m; r++) {
        const double a = gsl_vector_get(*signs, r);
        if (fabs(a) != 1.0) return cli_fail(cfg, EXIT_DATA, "%s: sign %zu is %g, not 1 or -1", sign_path, r, a);
    }
    return 0;
}
