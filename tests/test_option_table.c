/* Options declared once: defaults, values given, the part of a journal's identity, --help and refusals. */
#include "cli/option_table.h"
#include "tests/support/check.h"
#include "tests/support/run_program.h"

#include <gsl/gsl_errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const colours[] = { "red", "green", "blue", NULL };

struct config {
    struct cli_common c;
    size_t size, *sizes, num_sizes, trials;
    double real, *reals;
    size_t num_reals;
    int colour, *palette, first, last, custom;
    size_t num_palette;
    bool flag;
    const char *text, *name;
};

static int parse_custom(struct argp_state *state, int key, char *arg, void *config)
{
    (void)state;
    (void)key;
    ((struct config *)config)->custom = atoi(arg) + 1;
    return 0;
}

static const struct cli_option options[] = {
    { "size", CLI_SIZE(struct config, size), .min = 2, .max = 9, .value = "3", .doc = "a size" },
    { "sizes", CLI_SIZES(struct config, sizes, num_sizes), .value = "4,5", .doc = "sizes" },
    { "trials", CLI_SIZE(struct config, trials), .value = "7", .doc = "trials", .same_units = true },
    { "real", CLI_DOUBLE(struct config, real), .value = "1e8", .doc = "a number" },
    { "reals", CLI_DOUBLES(struct config, reals, num_reals), .value = "0.3,1", .doc = "numbers" },
    { "colour", CLI_CHOICE(struct config, colour), .names = colours, .value = "green", .doc = "a colour" },
    { "palette", CLI_CHOICES(struct config, palette, num_palette), .names = colours, .value = "blue,red",
      .doc = "colours" },
    { "range", CLI_RANGE(struct config, first, last), .value = "3-5", .doc = "a range" },
    { "flag", CLI_FLAG(struct config, flag), .doc = "a flag" },
    { "text", CLI_TEXT(struct config, text), .doc = "a text" },
    { "name", CLI_NAME(struct config, name), .names = colours, .doc = "a name" },
    { "custom", CLI_CUSTOM(parse_custom), .value = "4", .doc = "one less" },
    { .name = NULL }
};

static struct config parsed;

/* One parse per process: some options given, the others not. */
static int parse_once(void **state)
{
    (void)state;
    char *argv[] = { "options", "--sizes", "8,9,10", "--real", "100000000", "--palette=green", "--flag", "--name",
                     "blue", "--trials", "99", NULL };
    cli_parse_table(11, argv, "Options.", options, NULL, NULL, &parsed.c);
    return 0;
}

static void values_and_defaults(void **state)
{
    (void)state;
    assert_int_equal(parsed.size, 3);
    assert_int_equal(parsed.num_sizes, 3);
    assert_int_equal(parsed.sizes[2], 10);
    assert_int_equal(parsed.trials, 99);
    assert_true(parsed.real == 1e8);
    assert_int_equal(parsed.num_reals, 2);
    assert_true(parsed.reals[0] == 0.3 && parsed.reals[1] == 1.0);
    assert_int_equal(parsed.colour, 1);
    assert_int_equal(parsed.num_palette, 1);
    assert_int_equal(parsed.palette[0], 1);
    assert_int_equal(parsed.first, 3);
    assert_int_equal(parsed.last, 5);
    assert_true(parsed.flag);
    assert_null(parsed.text);
    assert_string_equal(parsed.name, "blue");
    assert_int_equal(parsed.custom, 5);
    assert_true(cli_given("flag") && !cli_given("size"));
}

/* Law: two configs have one identity exactly when every option that makes a unit has one value, however it was
 * given. */
static void identity(void **state)
{
    (void)state;
    char *text = cli_identity(options, &parsed.c);
    assert_string_equal(text,
                        " size=3 sizes=8,9,10 real=100000000 reals=0.29999999999999999,1 colour=green palette=green "
                              "range=3-5 flag=yes text= name=blue");
    struct config other = parsed;
    other.trials = 3;
    char *same = cli_identity(options, &other.c);
    assert_string_equal(same, text);
    other.colour = 0;
    char *differs = cli_identity(options, &other.c);
    assert_string_not_equal(differs, text);
    free(text);
    free(same);
    free(differs);
}

/* A program made of such a table: what it says of itself, and what it refuses. */
static void programs(void **state)
{
    (void)state;
    struct outcome o = run_program("kernel_routes", "--help", NULL);
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.out, "--prefix-len=M"));
    assert_non_null(strstr(o.out, "prefix length (default 4096)"));
    assert_non_null(strstr(o.out, "--shard=I/N"));
    outcome_free(&o);
    CHECK_REFUSAL(run_program("kernel_routes", "--prefix-len", "0", NULL), 2, "kernel_routes", "--prefix-len");
    CHECK_REFUSAL(run_program("kernel_routes", "--prefix-len", "65537", NULL), 2, "kernel_routes", "above 65536");
    CHECK_REFUSAL(run_program("kernel_routes", "--prefixlen", "4", NULL), 2, "kernel_routes", "is it --prefix-len?");
    CHECK_REFUSAL(run_program("low_rank_summary", "--dataset", "synthetik", NULL), 2, "low_rank_summary",
                  "is it synthetic?");
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(values_and_defaults), cmocka_unit_test(identity),
                                        cmocka_unit_test(programs) };
    return cmocka_run_group_tests_name("option_table", tests, parse_once, NULL);
}
