#include "cli/cli.h"

#include "cli/outputs.h"
#include "common/atomic_file.h"
#include "cli/usage.h"
#include "common/nearest.h"
#include "common/isa.h"
#include "common/threads.h"
#include "processes/processes.h"
#include "prefix_ntk/version.h"

#include <errno.h>
#include <fcntl.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the environment ------------------------------------------------------------ */

extern char **environ;

/* OpenBLAS starts its threads before main, as many as the environment says, and ends the
 * program when it cannot. Ours are OpenMP's: unless the user wants otherwise, it is told
 * to start none, by the one function it asks. A definition in the program goes before the
 * one of the C library; it is the same but for this variable. */
__attribute__((visibility("default"))) char *getenv(const char *name)
{
    static char none[] = "1";
    const size_t len = strlen(name);
    for (char **entry = environ; entry && *entry; entry++)
        if (!strncmp(*entry, name, len) && (*entry)[len] == '=') return *entry + len + 1;
    return strcmp(name, "OPENBLAS_NUM_THREADS") ? NULL : none;
}

/* One parse per process: argp gives its parser one pointer only, and that is the
 * program's configuration. */
static struct {
    error_t (*parse)(int key, char *arg, struct argp_state *state);
    struct cli_common *cfg;
} parsing;

/* Names of the options that were given; no program has more. */
enum { MAX_GIVEN = 64 };
static const char *given[MAX_GIVEN];
static size_t num_given;

/* ---- messages ------------------------------------------------------------------ */

static void message(const char *program, const char *format, va_list args)
{
    /* Of processes that do the same the first one speaks. */
    if (processes_rank()) return;
    /* One write, so that lines of threads and processes do not mix. */
    char line[4096];
    const int start = snprintf(line, sizeof line / 2, "%s: ", program);
    const int rest = vsnprintf(line + start, sizeof line - 1 - (size_t)start, format, args);
    size_t len = (size_t)start + (size_t)(rest > 0 ? rest : 0);
    if (len > sizeof line - 2) len = sizeof line - 2;
    for (size_t i = 0; i < len; i++)
        if (line[i] == '\n') line[i] = ' ';
    line[len] = '\n';
    fwrite(line, 1, len + 1, stderr);
}

int cli_fail(const struct cli_common *cfg, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    message(cfg->program, format, args);
    va_end(args);
    return code;
}

void cli_warn(const struct cli_common *cfg, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    message(cfg->program, format, args);
    va_end(args);
}

int cli_status(const struct cli_common *cfg, int gsl_status, const char *what)
{
    if (!gsl_status) return EXIT_DONE;
    return cli_fail(cfg, EXIT_FAILED, "%s: %s", what, gsl_status == GSL_ENOMEM ? "out of memory"
                    : gsl_strerror(gsl_status));
}

int cli_alone(const struct cli_common *cfg)
{
    fprintf(stderr, "%s: process %d of %d: %s\n", cfg->program, processes_rank(), processes_count(),
            cli_interrupted() ? "stopped while it waited for another process" : "another process is gone");
    return cli_interrupted() ? cli_interrupted() : EXIT_FAILED;
}

int cli_agree(const struct cli_common *cfg, int code)
{
    if (processes_count() == 1) return code;
    int status = processes_rank() ? processes_send(0, &code, sizeof code) : 0;
    for (int rank = 1; rank < processes_count() && !processes_rank() && !status; rank++) {
        int other = 0;
        status = processes_receive(rank, &other, sizeof other);
        if (!code && other)
            code = cli_fail(cfg, other, "process %d of %d ended with %d", rank, processes_count(), other);
    }
    if (!status) status = processes_broadcast(&code, sizeof code);
    return status ? cli_alone(cfg) : code;
}

int cli_collect(const struct cli_common *cfg, void *array, size_t count, size_t size, bool all)
{
    size_t first, last;
    int status = 0;
    for (int rank = 1; rank < processes_count() && !status; rank++) {
        processes_range(count, rank, &first, &last);
        char *part = (char *)array + first * size;
        if (processes_rank() == rank) status = processes_send(0, part, (last - first) * size);
        else if (!processes_rank()) status = processes_receive(rank, part, (last - first) * size);
    }
    if (!status && all) status = processes_broadcast(array, count * size);
    return status ? cli_alone(cfg) : EXIT_DONE;
}

int cli_stdout(const struct cli_common *cfg)
{
    errno = 0;
    if (!fflush(stdout) && !ferror(stdout)) return EXIT_DONE;
    return cli_fail(cfg, EXIT_FAILED, "standard output: %s", strerror(errno ? errno : EIO));
}

void *cli_need(void *memory)
{
    if (!memory) exit(cli_fail(parsing.cfg, EXIT_FAILED, "out of memory"));
    return memory;
}

int cli_need_memory(int gsl_status)
{
    if (gsl_status == GSL_ENOMEM) (void)cli_need(NULL);
    return gsl_status;
}

int cli_memory(const struct cli_common *cfg, double bytes, const char *what)
{
    const double available = (double)memory_available();
    if (bytes <= available) return EXIT_DONE;
    const double gib = 1024.0 * 1024.0 * 1024.0;
    return cli_fail(cfg, EXIT_FAILED, "%s needs %.3g GiB of memory, this machine has %.3g GiB",
                    what, bytes / gib, available / gib);
}

/* ---- interruption --------------------------------------------------------------- */

/* Time for a program to notice between two units of work and to end in order. A unit
 * that takes longer is cut off: finished ones are in the journal anyway. */
enum { GRACE_S = 3 };

static volatile sig_atomic_t signal_received;

static void on_signal(int number)
{
    signal_received = number;
    alarm(GRACE_S);
}

static void on_grace_over(int number)
{
    (void)number;
    atomic_file_remove_parts();
    _exit(128 + (int)signal_received);
}

static void catch_signals(void)
{
    static const int ends[] = { SIGINT, SIGTERM, SIGHUP, SIGXCPU };
    /* A second signal of the kind ends the program at once. */
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)(SA_RESTART | SA_RESETHAND) }, inherited;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        /* Whoever started this ignoring a signal (nohup, a job in the background) wants it to go on. */
        if (!sigaction(ends[i], NULL, &inherited) && inherited.sa_handler == SIG_IGN) continue;
        sigaction(ends[i], &action, NULL);
    }
    action.sa_handler = on_grace_over;
    sigaction(SIGALRM, &action, NULL);
    /* A reader that went away and a file that may not grow are failed writes, reported like any other. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

/* A file opened while a standard descriptor is closed would become that descriptor, and what
 * is said on it would end in the file. Read-only: what is written there fails. */
static void fill_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDONLY) != fd) _exit(EXIT_FAILED);
}

bool cli_given(const char *name)
{
    for (size_t i = 0; i < num_given; i++)
        if (!strcmp(given[i], name)) return true;
    return false;
}

void cli_warn_unused(const struct cli_common *cfg, const char *because, const char *const *names)
{
    for (; *names; names++)
        if (cli_given(*names)) cli_warn(cfg, "warning: --%s has no effect %s", *names, because);
}

int cli_interrupted(void)
{
    return signal_received ? 128 + (int)signal_received : 0;
}

/* ---- the options every program has ------------------------------------------------ */

enum { KEY_SEED = 0x7f0000, KEY_THREADS, KEY_OUT, KEY_QUIET, KEY_PROFILE, KEY_VERDICTS, KEY_LEDGER,
       KEY_HELP, KEY_VERSION };

static const struct argp_option common_options[] = {
    { .doc = "Every program:", .group = 100 },
    { .name = "seed", .key = KEY_SEED, .arg = "N",
      .doc = "random numbers are a function of it alone (default 20240614)" },
    { .name = "threads", .key = KEY_THREADS, .arg = "N",
      .doc = "threads to use; no result depends on it (default 0: every CPU)" },
    { .name = "out", .key = KEY_OUT, .arg = "FILE", .flags = CLI_TABLE,
      .doc = "where the table goes (default -: standard output)" },
    { .name = "quiet", .key = KEY_QUIET, .doc = "no progress on standard error" },
    { .name = "profile", .key = KEY_PROFILE, .arg = "NAME", .doc = "recorded in the table (default none)" },
    { .name = "verdicts", .key = KEY_VERDICTS, .arg = "FILE",
      .doc = "where verdict rows go; needs --ledger (default none)" },
    { .name = "ledger", .key = KEY_LEDGER, .arg = "FILE",
      .doc = "the ledger with the rules of the verdicts (default none)" },
    { .name = "help", .key = KEY_HELP, .doc = "this list" },
    { .name = "version", .key = KEY_VERSION, .doc = "the version" },
    { 0 }
};

/* argp would put its advice to try --help on a second line. */
__attribute__((noreturn, format(printf, 2, 3)))
static void usage_error(const char *program, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    message(program, format, args);
    va_end(args);
    exit(EXIT_USAGE);
}

/* "I/N", I < N. */
static void parse_shard(struct cli_common *cfg, const char *arg)
{
    unsigned long long shard, count;
    int end = 0;
    if (strspn(arg, "0123456789/") != strlen(arg) || sscanf(arg, "%7llu/%7llu%n", &shard, &count, &end) != 2
        || arg[end])
        usage_error(cfg->program, "--shard: '%s' is not I/N", arg);
    if (shard >= count) usage_error(cfg->program, "--shard: %s: shards are counted from 0 to N - 1", arg);
    cfg->shard = (size_t)shard;
    cfg->num_shards = (size_t)count;
}

bool cli_is_mine(const struct cli_common *cfg, size_t unit)
{
    return !cfg->num_shards || unit % cfg->num_shards == cfg->shard;
}

/* An option called "...-out" names an output, unless it is flagged CLI_INPUT. */
static void declare_output(struct argp_state *state, int key, const char *path)
{
    for (const struct argp_option *o = state->root_argp->options; o->name || o->key || o->doc || o->group; o++) {
        if (o->key != key || !o->name || o->flags & CLI_INPUT) continue;
        const size_t len = strlen(o->name);
        if (strcmp(o->name, "out") && (len < 4 || strcmp(o->name + len - 4, "-out"))) return;
        if (!*path) usage_error(parsing.cfg->program, "--%s: an empty file name", o->name);
        const char *wrong = outputs_declare(o->name, path, o->flags & CLI_TABLE);
        if (wrong) usage_error(parsing.cfg->program, "%s", wrong);
        return;
    }
}

static error_t parse_common(int key, char *arg, struct argp_state *state)
{
    struct cli_common *cfg = parsing.cfg;
    size_t number;
    switch (key) {
    case KEY_SEED:
        cli_parse_size(state, key, arg, 0, SIZE_MAX, &number);
        cfg->seed = number;
        return 0;
    case KEY_THREADS:
        cli_parse_size(state, key, arg, 0, 1024, &number);
        cfg->threads = (int)number;
        return 0;
    case KEY_OUT:
        declare_output(state, key, arg);
        cfg->out = arg;
        return 0;
    case KEY_QUIET: cfg->quiet = true; return 0;
    case CLI_SHARD: parse_shard(cfg, arg); return 0;
    case KEY_PROFILE: cfg->profile = arg; return 0;
    case KEY_VERDICTS: cfg->verdicts = arg; return 0;
    case KEY_LEDGER: cfg->ledger = arg; return 0;
    case KEY_HELP:
        argp_help(state->root_argp, stdout,
                  ARGP_HELP_SHORT_USAGE | ARGP_HELP_LONG | ARGP_HELP_PRE_DOC | ARGP_HELP_POST_DOC,
                      (char *)cfg->program);
        exit(cli_stdout(cfg));
    case KEY_VERSION:
        printf("%s (prefix-ntk) %s\n", cfg->program, PREFIX_NTK_VERSION);
        exit(cli_stdout(cfg));
    case ARGP_KEY_ARG:
        usage_error(cfg->program, "%s: unexpected argument", arg);
    case ARGP_KEY_INIT: case ARGP_KEY_END: case ARGP_KEY_SUCCESS: case ARGP_KEY_ERROR: case ARGP_KEY_FINI:
    case ARGP_KEY_NO_ARGS: case ARGP_KEY_ARGS:
        return ARGP_ERR_UNKNOWN;
    default:
        if (arg) declare_output(state, key, arg);
        return parsing.parse ? parsing.parse(key, arg, state) : ARGP_ERR_UNKNOWN;
    }
}

/* The option `word` names, itself or by a unique beginning, as getopt_long has it. */
static const struct argp_option *option_named(const char *program, const struct argp_option *options,
                                              const char *word, size_t len)
{
    const struct argp_option *found = NULL;
    size_t matches = 0;
    for (const struct argp_option *o = options; o->name || o->key || o->doc || o->group; o++) {
        if (!o->name || strncmp(o->name, word, len)) continue;
        if (strlen(o->name) == len) return o;
        found = o;
        matches++;
    }
    if (matches == 0) {
        struct nearest near = nearest_start(word, len);
        for (const struct argp_option *o = options; o->name || o->key || o->doc || o->group; o++)
            if (o->name) nearest_try(&near, o->name);
        if (near.name) usage_error(program, "--%.*s: unknown option; is it --%s?", (int)len, word, near.name);
        usage_error(program, "--%.*s: unknown option", (int)len, word);
    }
    if (matches > 1) usage_error(program, "--%.*s: ambiguous option", (int)len, word);
    return found;
}

/* Refuses, on one line, what getopt would refuse on two. */
static void check_words(const char *program, const struct argp_option *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (word[0] == '-' && word[1] != '-' && word[1] != '\0')
            usage_error(program, "%s: unknown option", word);
        if (strncmp(word, "--", 2) || !word[2]) usage_error(program, "%s: unexpected argument", word);
        const size_t len = strcspn(word + 2, "=");
        const struct argp_option *o = option_named(program, options, word + 2, len);
        const bool has_value = word[2 + len] == '=';
        if (num_given < MAX_GIVEN && !cli_given(o->name)) given[num_given++] = o->name;
        if (has_value && !o->arg) usage_error(program, "--%s: takes no value", o->name);
        if (!has_value && o->arg && !(o->flags & OPTION_ARG_OPTIONAL) && ++i == argc)
            usage_error(program, "--%s: needs a value", o->name);
    }
}

static size_t count_options(const struct argp_option *options)
{
    size_t count = 0;
    if (options)
        while (options[count].name || options[count].key || options[count].doc || options[count].group) count++;
    return count;
}

static const struct argp_option *find_option(const struct argp_option *options, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (options[i].name && !strcmp(options[i].name, name)) return options + i;
    return NULL;
}

/* The program's own options and the common ones, as the program says (CLI_COMMON). */
static struct argp_option *merge_options(const struct argp_option *options)
{
    const size_t own = count_options(options), common = count_options(common_options);
    struct argp_option *all = calloc(own + common + 1, sizeof *all), *to = all;
    for (size_t i = 0; all && i < own; i++)
        if (options[i].key != CLI_COMMON) *to++ = options[i];
    for (size_t i = 0; all && i < common; i++) {
        struct argp_option option = common_options[i];
        const struct argp_option *changed = option.name ? find_option(options, own, option.name) : NULL;
        if (changed && !changed->doc) continue;
        if (changed) {
            option.arg = changed->arg;
            option.flags = changed->flags;
            option.doc = changed->doc;
        }
        *to++ = option;
    }
    return all;
}

void cli_parse(int argc, char **argv, const char *doc, const struct argp_option *options,
               error_t (*parse)(int key, char *arg, struct argp_state *state),
               const char *(*check)(void *cfg), struct cli_common *cfg)
{
    fill_descriptors();
    usage_at_exit();
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    cfg->program = slash ? slash + 1 : argc > 0 ? argv[0] : "prefix-ntk";
    cfg->argc = argc;
    cfg->argv = argv;
    cfg->seed = 20240614;
    cfg->threads = 0;
    cfg->out = "-";
    cfg->quiet = false;
    cfg->profile = "";
    cfg->verdicts = cfg->ledger = NULL;
    cfg->shard = cfg->num_shards = 0;

    struct argp_option *all = merge_options(options);
    if (!all) exit(cli_fail(cfg, EXIT_FAILED, "out of memory"));
    check_words(cfg->program, all, argc, argv);

    const struct argp argp = { .options = all, .parser = parse_common, .doc = doc };
    parsing.parse = parse;
    parsing.cfg = cfg;
    argp_err_exit_status = EXIT_USAGE;
    const error_t error = argp_parse(&argp, argc, argv, ARGP_NO_HELP, NULL, cfg);
    free(all);
    if (error == ENOMEM) exit(cli_fail(cfg, EXIT_FAILED, "out of memory"));
    if (error) usage_error(cfg->program, "%s", strerror(error));
    if (cfg->verdicts && !cfg->ledger) usage_error(cfg->program, "--verdicts: needs --ledger");
    struct stat st;
    if (cfg->num_shards && (atomic_file_descriptor(cfg->out) >= 0 || !strcmp(cfg->out, "-")
                            || (!stat(cfg->out, &st) && !S_ISREG(st.st_mode))))
        usage_error(cfg->program, "--shard: needs --out FILE, beside which it is kept");
    const char *twice = cfg->verdicts ? outputs_declare("verdicts", cfg->verdicts, true) : NULL;
    if (twice) usage_error(cfg->program, "%s", twice);
    const char *wrong = check ? check(cfg) : NULL;
    if (wrong) usage_error(cfg->program, "%s", wrong);

    const int isa = isa_environment_status();
    if (isa)
        usage_error(cfg->program, "PREFIX_NTK_ISA=%s: %s", getenv("PREFIX_NTK_ISA"),
                    isa == GSL_EUNSUP ? "this CPU lacks that instruction set"
                                      : "not one of portable, avx2, avx512, neon");
    gsl_set_error_handler_off();
    catch_signals();
    char why[256];
    if (threads_start(&cfg->threads, why, sizeof why)) exit(cli_fail(cfg, EXIT_FAILED, "%s", why));
    if (*why) cli_warn(cfg, "warning: %s", why);
    atexit(atomic_file_remove_parts);
    if (processes_rank()) {
        cfg->quiet = true;
        return;
    }
    int code = outputs_check(cfg);
    if (!code && cfg->verdicts) code = verdicts_check(cfg);
    if (code) exit(code);
}

/* ---- values ---------------------------------------------------------------------------- */

const char *cli_option_name(const struct argp_state *state, int key)
{
    for (const struct argp_option *o = state->root_argp->options; o->name || o->key || o->doc || o->group; o++)
        if (o->key == key && o->name) return o->name;
    return "?";
}

/* Digits only: no sign, space, exponent or base. */
static bool read_size(const char *text, size_t *out)
{
    const size_t len = strlen(text);
    if (len == 0 || strspn(text, "0123456789") != len) return false;
    errno = 0;
    const unsigned long long value = strtoull(text, NULL, 10);
    *out = (size_t)value;
    return errno == 0 && value <= SIZE_MAX;
}

/* A finite decimal number. */
static bool read_double(const char *text, double *out)
{
    if (!*text || text[strspn(text, "+-.0123456789eE")]) return false;
    char *end;
    *out = strtod(text, &end);
    return end != text && !*end && isfinite(*out);
}

int cli_parse_size(struct argp_state *state, int key, const char *arg, size_t min, size_t max, size_t *out)
{
    const char *name = cli_option_name(state, key);
    size_t value;
    if (!read_size(arg, &value))
        usage_error(parsing.cfg->program, "--%s: '%s' is not a whole number%s", name, arg, min ? " above 0" : "");
    if (value < min) usage_error(parsing.cfg->program, "--%s: %s is below %zu", name, arg, min);
    if (value > max) usage_error(parsing.cfg->program, "--%s: %s is above %zu", name, arg, max);
    *out = value;
    return 0;
}

int cli_parse_double(struct argp_state *state, int key, const char *arg, double min_open, double *out)
{
    const char *name = cli_option_name(state, key);
    double value;
    if (!read_double(arg, &value)) usage_error(parsing.cfg->program, "--%s: '%s' is not a finite number", name, arg);
    if (!(value > min_open)) usage_error(parsing.cfg->program, "--%s: %s is not above %g", name, arg, min_open);
    *out = value;
    return 0;
}

/* Lists live as long as the program; here they stay in reach of a leak checker. */
struct kept_list {
    struct kept_list *next;
    max_align_t values[];
};
static struct kept_list *kept_lists;

/* The items of a comma-separated list, each through `parse_item`. */
static void parse_list(struct argp_state *state, int key, const char *arg, size_t width, void **out, size_t *count,
                       void (*parse_item)(struct argp_state *state, int key, const char *item,
                                          const void *limits, void *out), const void *limits)
{
    size_t items = 1;
    for (const char *c = arg; *c; c++) items += *c == ',';
    struct kept_list *list = calloc(1, sizeof *list + items * width);
    char *copy = strdup(arg);
    if (!list || !copy) exit(cli_fail(parsing.cfg, EXIT_FAILED, "out of memory"));
    list->next = kept_lists;
    kept_lists = list;
    char *values = (char *)list->values, *rest = copy;
    for (size_t i = 0; i < items; i++) {
        const char *item = strsep(&rest, ",");
        if (!*item)
            usage_error(parsing.cfg->program, "--%s: '%s' has an empty item", cli_option_name(state, key), arg);
        parse_item(state, key, item, limits, values + i * width);
    }
    free(copy);
    *out = values;
    *count = items;
}

static void size_item(struct argp_state *state, int key, const char *item, const void *limits, void *out)
{
    const size_t *range = limits;
    cli_parse_size(state, key, item, range[0], range[1], out);
}

static void double_item(struct argp_state *state, int key, const char *item, const void *limits, void *out)
{
    cli_parse_double(state, key, item, *(const double *)limits, out);
}

static void choice_item(struct argp_state *state, int key, const char *item, const void *limits, void *out)
{
    cli_parse_choice(state, key, item, limits, out);
}

int cli_parse_size_list(struct argp_state *state, int key, const char *arg, size_t min, size_t max,
                        size_t **out, size_t *count)
{
    void *values;
    parse_list(state, key, arg, sizeof **out, &values, count, size_item, (const size_t[]){ min, max });
    *out = values;
    return 0;
}

int cli_parse_double_list(struct argp_state *state, int key, const char *arg, double min_open,
                          double **out, size_t *count)
{
    void *values;
    parse_list(state, key, arg, sizeof **out, &values, count, double_item, &min_open);
    *out = values;
    return 0;
}

int cli_parse_range(struct argp_state *state, int key, const char *arg, int *first, int *last)
{
    int end = 0;
    if (sscanf(arg, "%4d-%4d%n", first, last, &end) != 2 || arg[end] || *first < 0 || *last < *first)
        usage_error(parsing.cfg->program, "--%s: '%s' is not a range such as 3-5", cli_option_name(state, key), arg);
    return 0;
}

int cli_parse_choice(struct argp_state *state, int key, const char *arg, const char *const *names, int *out)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(arg, names[i])) {
            *out = i;
            return 0;
        }
    char list[256] = "";
    for (size_t i = 0, len = 0; names[i] && len < sizeof list; i++)
        len += (size_t)snprintf(list + len, sizeof list - len, "%s%s", i ? ", " : "", names[i]);
    struct nearest near = nearest_start(arg, strlen(arg));
    for (int i = 0; names[i]; i++) nearest_try(&near, names[i]);
    if (near.name)
        usage_error(parsing.cfg->program, "--%s: '%s' is not one of %s; is it %s?", cli_option_name(state, key), arg,
                    list, near.name);
    usage_error(parsing.cfg->program, "--%s: '%s' is not one of %s", cli_option_name(state, key), arg, list);
}

int cli_parse_choice_list(struct argp_state *state, int key, const char *arg, const char *const *names,
                          int **out, size_t *count)
{
    void *values;
    parse_list(state, key, arg, sizeof **out, &values, count, choice_item, names);
    *out = values;
    return 0;
}
