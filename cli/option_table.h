/* Options declared once. From the table of a program follow its parser, its defaults, --help and the part of a
 * journal's identity that says what a unit of work is:
 *
 *     static const struct cli_option options[] = {
 *         { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1 << 20, .value = "200",
 *           .doc = "trials", .same_units = true },
 *         { "sigma", CLI_DOUBLES(struct config, sigmas, num_sigmas), .value = "0.3,1", .doc = "standard deviations" },
 *         { .name = NULL } };
 */
#ifndef CLI_OPTION_TABLE_H
#define CLI_OPTION_TABLE_H
#include "cli/cli.h"

enum cli_kind { KIND_SIZE, KIND_SIZES, KIND_DOUBLE, KIND_DOUBLES, KIND_CHOICE, KIND_CHOICES, KIND_FLAG, KIND_TEXT,
                KIND_NAME, KIND_RANGE, KIND_CUSTOM };

struct cli_option {
    const char *name;
    enum cli_kind kind;
    size_t at, count_at;            /* where the value lies in the config, and the number of values of a list */
    size_t min, max;                /* sizes, max 0: any; of each in a list */
    double above;                   /* doubles: every one is greater */
    const char *const *names;       /* choices and names, NULL-terminated */
    /* custom: sets the config as the helpers of cli.h do, `key` being the option's; is in no identity */
    int (*parse)(struct argp_state *state, int key, char *arg, void *config);
    const char *value;              /* the default as it would be given; NULL: none, the config is as it was */
    const char *arg, *doc;          /* arg NULL: that of the kind. --help adds the default to doc */
    int flags, group;               /* of argp_option; CLI_INPUT and CLI_TABLE, too */
    bool same_units;                /* says how many units there are or what is written of them, not what one is */
};

/* The kind and the places of a member of the config `type`: size_t, a list and its count, double, int, bool, text. */
#define CLI_SIZE(type, member) KIND_SIZE, offsetof(type, member), 0
#define CLI_SIZES(type, member, count) KIND_SIZES, offsetof(type, member), offsetof(type, count)
#define CLI_DOUBLE(type, member) KIND_DOUBLE, offsetof(type, member), 0
#define CLI_DOUBLES(type, member, count) KIND_DOUBLES, offsetof(type, member), offsetof(type, count)
#define CLI_CHOICE(type, member) KIND_CHOICE, offsetof(type, member), 0
#define CLI_CHOICES(type, member, count) KIND_CHOICES, offsetof(type, member), offsetof(type, count)
#define CLI_FLAG(type, member) KIND_FLAG, offsetof(type, member), 0
#define CLI_TEXT(type, member) KIND_TEXT, offsetof(type, member), 0
/* A choice kept as its text; "A-B" as two ints. */
#define CLI_NAME(type, member) KIND_NAME, offsetof(type, member), 0
#define CLI_CUSTOM(function) KIND_CUSTOM, 0, 0, .parse = function
#define CLI_RANGE(type, first, last) KIND_RANGE, offsetof(type, first), offsetof(type, last)

/* cli_parse with a table that ends with a name of NULL; `more` (NULL: nothing) are entries for argp beside it, such as
 * CLI_SHARD_OPTION. cfg is the first member of the config, whose members have their defaults set. */
void cli_parse_table(int argc, char **argv, const char *doc, const struct cli_option *options,
                     const struct argp_option *more, const char *(*check)(void *cfg), struct cli_common *cfg);

/* " name=value" of every option of the table but those of same_units, as the config has them; the caller frees. Without
 * memory it ends the run (cli_need). */
char *cli_identity(const struct cli_option *options, const struct cli_common *cfg);

#endif
