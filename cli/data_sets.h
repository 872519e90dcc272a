/* Numbers measured on several data sets with several prefixes each, the prefix the faster index.
 *
 * The data set is the sampling unit: an interval is that of the means over its prefixes, taken over
 * data sets. Prefixes of one data set share its inputs; their spread says how much of a number is the
 * prefix's. With a single data set the prefixes are the unit, which says nothing of other data. */
#ifndef CLI_DATA_SETS_H
#define CLI_DATA_SETS_H
#include "cli/units.h"

struct data_sets { size_t num_data, num_prefixes; };

struct data_spread {
    struct interval mean;
    double sd_data;       /* of the data sets: what prefixes add to the spread of their means is taken out */
    double sd_prefix;     /* between the prefixes of one data set; NaN with one each */
    struct data_sets sets;
};

/* x (num_data, num_prefixes). A value that is not finite makes everything NaN: a diverged run is
 * never left out. */
struct data_spread data_spread_mean(const double *x, struct data_sets sets, double level);
/* Of the slope of log y in log x fitted within each prefix; y (num_data, num_prefixes, num_x). */
struct data_spread data_spread_exponent(const double *x, const double *y, size_t num_x, struct data_sets sets,
                                        double level);

/* The same of number `which` of the units of a grid, whose trials are those of the data sets in turn. */
struct data_spread data_spread_at(const struct units_grid *grid, size_t law, size_t len, int which,
                                  struct data_sets sets, double level);
/* Exponent in the prefix length. */
struct data_spread data_spread_slope(const struct units_grid *grid, size_t law, int which, struct data_sets sets,
                                     double level);

/* Options of such a program; members num_data and tables of the config `type`. */
#define DATA_SETS_NUM(type, standard, text)                                                                            \
    { "num-data", CLI_SIZE(type, num_data), .min = 1, .max = 1u << 16, .value = standard, .group = 1, .doc = text }
#define DATA_SETS_TABLES(type, what)                                                                                   \
    { "tables", CLI_FLAG(type, tables), .group = 2, .same_units = true,                                                \
      .doc = "also write OUT_variance.csv: standard deviations between " what " and between prefixes" }

/* The verdict rows of a run, and beside them, with `variances`, the table OUT_variance.csv of both
 * standard deviations. Open it before the work: the table's name is checked then. */
struct data_rows;
struct data_rows *data_rows_open(const struct cli_common *cfg, bool variances);
void data_rows_spread(struct data_rows *rows, const char *claim, const char *row, struct data_spread spread);
/* A row that is no mean over data sets. */
void data_rows_add(struct data_rows *rows, const char *claim, const char *row, struct interval measured);
/* Writes the rows and the table, frees; exit code as verdicts_close. */
int data_rows_close(struct data_rows *rows, int code);

#endif
