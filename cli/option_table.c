#include "cli/option_table.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Keys of the table's options; no program has more options, cli_given counts them. */
enum { FIRST_KEY = 0x1000, MAX_OPTIONS = 64, DOC_SIZE = 320 };

/* One parse per process. */
static const struct cli_option *table;
static struct argp_option entries[MAX_OPTIONS];
static char docs[MAX_OPTIONS][DOC_SIZE];

static size_t table_size(const struct cli_option *options)
{
    size_t count = 0;
    while (options[count].name) count++;
    return count;
}

static int set_option(struct argp_state *state, int key, char *text, const struct cli_option *o, void *config)
{
    char *base = config;
    void *at = base + o->at;
    size_t *count = (void *)(base + o->count_at);
    const size_t max = o->max ? o->max : SIZE_MAX;
    switch (o->kind) {
    case KIND_SIZE: return cli_parse_size(state, key, text, o->min, max, at);
    case KIND_SIZES: return cli_parse_size_list(state, key, text, o->min, max, at, count);
    case KIND_DOUBLE: return cli_parse_double(state, key, text, o->above, at);
    case KIND_DOUBLES: return cli_parse_double_list(state, key, text, o->above, at, count);
    case KIND_CHOICE: return cli_parse_choice(state, key, text, o->names, at);
    case KIND_CHOICES: return cli_parse_choice_list(state, key, text, o->names, at, count);
    case KIND_FLAG: *(bool *)at = true; return 0;
    case KIND_TEXT: *(const char **)at = text; return 0;
    case KIND_NAME: {
        int chosen;
        const int wrong = cli_parse_choice(state, key, text, o->names, &chosen);
        if (!wrong) *(const char **)at = o->names[chosen];
        return wrong;
    }
    case KIND_CUSTOM: return o->parse(state, key, text, config);
    case KIND_RANGE: return cli_parse_range(state, key, text, at, (int *)(void *)(base + o->count_at));
    }
    return ARGP_ERR_UNKNOWN;
}

static error_t parse_table(int key, char *arg, struct argp_state *state)
{
    const size_t i = (size_t)key - FIRST_KEY;
    if (key < FIRST_KEY || i >= table_size(table)) return ARGP_ERR_UNKNOWN;
    return set_option(state, key, arg, &table[i], state->input);
}

static const char *default_arg(const struct cli_option *o)
{
    static const char *const args[] = { "N", "LIST", "X", "LIST", "NAME", "LIST", NULL, "FILE", "NAME", "A-B", "X" };
    return o->arg ? o->arg : args[o->kind];
}

/* The entry of option number i for argp. */
static void declare(size_t i)
{
    const struct cli_option *o = &table[i];
    const char *const format = o->value ? "%s (default %s)" : "%s";
    const int length = snprintf(docs[i], DOC_SIZE, format, o->doc, o->value);
    assert(length > 0 && length < DOC_SIZE);
    (void)length;
    entries[i] = (struct argp_option){ o->name, FIRST_KEY + (int)i, default_arg(o), o->flags, docs[i], o->group };
}

void cli_parse_table(int argc, char **argv, const char *doc, const struct cli_option *options,
                     const struct argp_option *more, const char *(*check)(void *cfg), struct cli_common *cfg)
{
    table = options;
    size_t count = table_size(options);
    const struct argp argp = { .options = entries };
    struct argp_state state = { .root_argp = &argp };
    assert(count < MAX_OPTIONS);
    for (size_t i = 0; i < count; i++) declare(i);
    for (size_t i = 0; i < count; i++)
        if (options[i].value) set_option(&state, FIRST_KEY + (int)i, (char *)options[i].value, &options[i], cfg);
    for (; more && (more->name || more->key || more->doc || more->group); more++) {
        assert(count + 1 < MAX_OPTIONS);
        entries[count++] = *more;
    }
    cli_parse(argc, argv, doc, entries, parse_table, check, cfg);
}

/* The value of an option as a text that two equal values share. */
static void put_value(FILE *stream, const struct cli_option *o, const void *config)
{
    const char *base = config;
    const void *at = base + o->at;
    const bool list = o->kind == KIND_SIZES || o->kind == KIND_DOUBLES || o->kind == KIND_CHOICES;
    const size_t count = list ? *(const size_t *)(const void *)(base + o->count_at) : 1;
    const void *values = list ? *(const void *const *)at : at;
    for (size_t i = 0; i < count; i++) {
        if (i) fputc(',', stream);
        switch (o->kind) {
        case KIND_SIZE: case KIND_SIZES: fprintf(stream, "%zu", ((const size_t *)values)[i]); break;
        case KIND_DOUBLE: case KIND_DOUBLES: fprintf(stream, "%.17g", ((const double *)values)[i]); break;
        case KIND_CHOICE: case KIND_CHOICES: fputs(o->names[((const int *)values)[i]], stream); break;
        case KIND_FLAG: fputs(*(const bool *)at ? "yes" : "no", stream); break;
        case KIND_RANGE: fprintf(stream, "%d-%d", *(const int *)at, *(const int *)(const void *)(base + o->count_at));
        break;
        case KIND_CUSTOM: break;
        case KIND_TEXT: case KIND_NAME: fputs(*(const char *const *)at ? *(const char *const *)at : "", stream); break;
        }
    }
}

char *cli_identity(const struct cli_option *options, const struct cli_common *cfg)
{
    char *text = NULL;
    size_t size;
    FILE *stream = cli_need(open_memstream(&text, &size));
    for (const struct cli_option *o = options; o->name; o++) {
        if (o->same_units || o->kind == KIND_CUSTOM) continue;
        fprintf(stream, " %s=", o->name);
        put_value(stream, o, cfg);
    }
    const bool failed = ferror(stream);
    return cli_need(fclose(stream) || failed ? NULL : text);
}
