/* Degree a polynomial needs for relative error eps of e^s on [-b, b]: Taylor, Chebyshev, best, beside
 * Taylor's guarantee and the Aggarwal-Alman order. Ledger F65. */
#include <math.h>
#include <string.h>

#include <gsl/gsl_errno.h>

#include "approximation/approx_theory.h"
#include "cli/cli.h"
#include "prefix_ntk/feature.h"

static const char columns[] = "bound,log10_eps,taylor,cheb,minimax,taylor_guarantee,aggarwal_alman";

/* Smallest degree of the family with relative error at most eps, 0 when none up to 64 has it (or a
 * double cannot show it). */
static size_t degree_needed(enum feature_family family, double bound, double eps)
{
    for (size_t g = 0; g <= FEATURE_MAX_DEGREE; g++) {
        double value[FEATURE_MAX_DEGREE + 2], error = INFINITY;
        const struct feature_spec spec = { family, g };
        const int status = feature_polynomial(&spec, bound, value, NULL, &error);
        if (!status && error <= eps) return g;
    }
    return 0;
}

static struct interval range_of(struct interval now, double x)
{
    now.lo = now.n ? fmin(now.lo, x) : x;
    now.hi = now.n ? fmax(now.hi, x) : x;
    now.value = (now.value * (double)now.n + x) / (double)(now.n + 1);
    now.n++;
    return now;
}

int main(int argc, char **argv)
{
    static const double bounds[] = { 0.25, 0.5, 1.0, 2.0, 4.0, 8.0 };
    struct cli_common cfg;
    static const struct argp_option none[] = { { 0 } };
    cli_parse(argc, argv, "Degrees that polynomials need for the exponential.", none, NULL, NULL, &cfg);
    cli_outputs_begin(&cfg);
    struct table *t = table_open(&cfg, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "relative error 10^log10_eps of e^s on [-bound, bound]; an empty cell: below what double precision "
                  "shows");
    struct interval ratio = { 0 }, taylor_ratio = { 0 };
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        for (int e = -1; e >= -8; e--) {
            const double b = bounds[i], eps = pow(10.0, e), order = aggarwal_alman_rate(b, -log(eps));
            const size_t taylor = degree_needed(FEATURE_TAYLOR, b, eps), cheb = degree_needed(FEATURE_CHEB, b, eps);
            const size_t best = degree_needed(FEATURE_MINIMAX, b, eps), guarantee = taylor_degree_bound(b, log(eps));
            table_num(t, b);
            table_num(t, e);
            const size_t measured[3] = { taylor, cheb, best };
            for (size_t k = 0; k < 3; k++) {
                if (measured[k]) table_int(t, measured[k]);
                else table_empty(t);
            }
            table_int(t, guarantee);
            table_num(t, order);
            table_end_row(t);
            if (best) ratio = range_of(ratio, (double)best / order);
            if (best && taylor) taylor_ratio = range_of(taylor_ratio, (double)taylor / (double)best);
        }
    int code = table_close(t, EXIT_DONE);
    if (code) return cli_outputs_end(&cfg, code);
    struct verdicts *v = verdicts_open(&cfg, "polynomial_degree");
    verdicts_add(v, "F65", "minimax", ratio);
    verdicts_add(v, "F65", "taylor", taylor_ratio);
    return cli_outputs_end(&cfg, verdicts_close(v, code));
}
