#include "cli/arms.h"
#include "common/input_file.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Methods that an option acts on, as bits. */
static unsigned methods_of(const char *key)
{
    enum { LORA = 1u << ADAPTER_LORA, PREFIX = 1u << ADAPTER_PTUNING | 1u << ADAPTER_TIED_PREFIX,
           NTK = 1u << ADAPTER_NTK, SUMMARY = NTK | 1u << ADAPTER_PREFIX_PLUS };
    static const struct { const char *key; unsigned methods; } keys[] = {
        { "rank", LORA }, { "alpha", LORA }, { "prefix_len", PREFIX }, { "init_scale", PREFIX },
        { "reparameterise", 1u << ADAPTER_PTUNING }, { "feature", SUMMARY }, { "bound", SUMMARY },
        { "z_rank", SUMMARY }, { "whiten", SUMMARY }, { "k_mode", NTK }, { "start_mass", NTK }, { "units", NTK },
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(keys[i].key, key)) return keys[i].methods;
    return 0;
}

/* A decimal number that is all of the text and finite. */
static bool read_number(const char *text, double *number)
{
    if (!*text || text[strspn(text, "+-.0123456789eE")]) return false;
    char *end;
    *number = strtod(text, &end);
    return end != text && !*end && isfinite(*number);
}

/* One key=value of an arm; false: not known, or no such number (sizes and switches are whole). */
static bool set_option(struct adapter_options *o, const char *key, const char *value)
{
    double number = 0.0;
    if (!strcmp(key, "feature")) return snprintf(o->feature, sizeof o->feature, "%s", value) < (int)sizeof o->feature;
    if (!strcmp(key, "k_mode")) return !adapter_k_mode_parse(value, &o->k_mode);
    if (!read_number(value, &number) || !(number >= 0.0 && number <= 1e6)) return false;
    const bool is_real = !strcmp(key, "alpha") || !strcmp(key, "start_mass") || !strcmp(key, "init_scale")
        || !strcmp(key, "bound");
    if (!is_real && number != floor(number)) return false;
    if (!strcmp(key, "rank")) o->rank = (size_t)number;
    else if (!strcmp(key, "alpha")) o->alpha = number;
    else if (!strcmp(key, "prefix_len")) o->prefix_len = (size_t)number;
    else if (!strcmp(key, "z_rank")) o->z_rank = (size_t)number;
    else if (!strcmp(key, "units")) o->units = number > 0.0;
    else if (!strcmp(key, "whiten")) o->whiten = number > 0.0;
    else if (!strcmp(key, "start_mass")) o->start_mass = number;
    else if (!strcmp(key, "init_scale")) o->init_scale = number;
    else if (!strcmp(key, "bound")) o->bound = number;
    else if (!strcmp(key, "reparameterise")) {
        o->reparameterise = 1;
        o->mlp_dim = (size_t)number;
    } else return false;
    return true;
}

int arm_parse(const char *text, struct arm *arm, struct reason why)
{
    char copy[sizeof arm->text], *rest = copy, *word;
    enum adapter_method method;
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        return refuse(why, GSL_EINVAL, "%.40s... is too long", text);
    strcpy(arm->text, copy);
    word = strsep(&rest, "+");
    if (adapter_method_parse(word, &method)) return refuse(why, GSL_EINVAL, "%.40s is no method", word);
    arm->options = adapter_defaults(method);
    if (!(arm->options.bound > 0.0)) arm->options.bound = 4.0;
    while ((word = strsep(&rest, "+"))) {
        char *value = strchr(word, '=');
        if (value) *value++ = '\0';
        if (!value || !set_option(&arm->options, word, value))
            return refuse(why, GSL_EINVAL, "%.60s: %.40s is no option", text, word);
        if (!(methods_of(word) & 1u << method))
            return refuse(why, GSL_EINVAL, "%.60s: %.40s has no effect there", text, word);
    }
    arm->lr = 0.0;
    return GSL_SUCCESS;
}

int arms_read_rates(const struct cli_common *cfg, const char *path, const char *backbone, const char *task,
                    struct arm *arms, size_t num_arms)
{
    enum { BACKBONE, TASK, ARM, LR, CHOSEN = 7, NUM_CELLS };
    FILE *file = fopen(path, "r");
    if (!file) return cli_bad_input(cfg, input_file_status(errno), path, strerror(errno));
    char *line = NULL;
    size_t room = 0;
    errno = 0;
    while (getline(&line, &room, file) > 0) {
        char *cells[NUM_CELLS] = { NULL }, *rest = line;
        line[strcspn(line, "\r\n")] = '\0';
        for (int c = 0; c < NUM_CELLS && rest; c++) cells[c] = strsep(&rest, ",");
        if (*line == '#' || !cells[CHOSEN] || strcmp(cells[CHOSEN], "1") || strcmp(cells[BACKBONE], backbone)
            || strcmp(cells[TASK], task))
            continue;
        for (size_t a = 0; a < num_arms; a++)
            if (!strcmp(cells[ARM], arms[a].text) && !read_number(cells[LR], &arms[a].lr)) arms[a].lr = 0.0;
    }
    const bool bad = ferror(file) || !feof(file);
    free(line);
    fclose(file);
    if (bad) return cli_fail(cfg, EXIT_FAILED, "%s: %s", path, strerror(errno ? errno : EIO));
    for (size_t a = 0; a < num_arms; a++)
        if (!(arms[a].lr > 0.0))
            return cli_fail(cfg, EXIT_DATA, "%s: no learning rate of %s for %s on %s", path, arms[a].text, backbone,
                            task);
    return 0;
}
