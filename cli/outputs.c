#include "cli/outputs.h"

#include "common/array_file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One run per process: its outputs, as options name them, and the locks held until its end. */
enum { MAX_DECLARED = 32, MAX_LOCKS = 4 };

static struct { const char *name; char *path; bool is_text; } declared[MAX_DECLARED];
static size_t num_declared;

static int locks[MAX_LOCKS];
static size_t num_locks;
static bool collecting;

/* What two names of one output have in common; NULL for devices, which take any number.
 * The caller frees. */
static char *place_of(const char *path)
{
    char *place = NULL;
    struct stat st;
    const int descriptor = atomic_file_descriptor(path);
    if (descriptor >= 0) return asprintf(&place, "descriptor %d", descriptor) < 0 ? NULL : place;
    if (!stat(path, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) return NULL;
    place = atomic_file_target(path);
    return place ? place : strdup(path);
}

const char *outputs_declare(const char *name, const char *path, bool is_text)
{
    static char wrong[192];
    char *place = place_of(path);
    const char *found = NULL;
    size_t slot = num_declared;
    for (size_t i = 0; i < num_declared && !found; i++) {
        if (!strcmp(declared[i].name, name)) {          /* given again: the last counts */
            slot = i;
            continue;
        }
        char *other = place_of(declared[i].path);
        if (place && other && !strcmp(place, other)) {
            snprintf(wrong, sizeof wrong, "--%s, --%s: two outputs of one name, %.100s", declared[i].name, name, path);
            found = wrong;
        }
        free(other);
    }
    free(place);
    if (found) return found;
    if (slot == MAX_DECLARED) return "too many outputs";
    char *own = cli_need(strdup(path));
    if (slot == num_declared) num_declared++;
    else free(declared[slot].path);
    declared[slot].name = name;
    declared[slot].path = own;
    declared[slot].is_text = is_text;
    return NULL;
}

int cli_outputs_add(const struct cli_common *cfg, const char *what, const char *path)
{
    char why[256];
    const char *wrong = outputs_declare(what, path, false);
    if (wrong) return cli_fail(cfg, EXIT_USAGE, "%s", wrong);
    return atomic_file_check(path, why, sizeof why) ? cli_fail(cfg, EXIT_FAILED, "%s: %s", path, why) : EXIT_DONE;
}

int outputs_check(const struct cli_common *cfg)
{
    char why[256];
    struct stat st;
    for (size_t i = 0; i < num_declared; i++) {
        const char *path = declared[i].path;
        if (declared[i].is_text && array_file_format(path) == ARRAY_NPY)
            return cli_fail(cfg, EXIT_FAILED, "%s: --%s is CSV or text, not an array", path, declared[i].name);
        /* Some programs write a folder; the others check their --out again. */
        const bool folder = (*path && path[strlen(path) - 1] == '/') || (!stat(path, &st) && S_ISDIR(st.st_mode));
        if (!strcmp(declared[i].name, "out") && folder) continue;
        /* Runs side by side share the table of verdicts: the check must not meet another's write. */
        const int lock = strcmp(declared[i].name, "verdicts") ? -1 : verdicts_lock(path);
        const int bad = atomic_file_check(path, why, sizeof why);
        if (lock >= 0) close(lock);
        if (bad) return cli_fail(cfg, EXIT_FAILED, "%s: %s", path, why);
    }
    return EXIT_DONE;
}

void cli_outputs_begin(const struct cli_common *cfg)
{
    (void)cfg;
    atomic_files_begin();
    collecting = true;
}

int cli_outputs_end(const struct cli_common *cfg, int code)
{
    char why[PATH_MAX + 256];
    if (atomic_files_end(!code, why, sizeof why)) code = cli_fail(cfg, EXIT_FAILED, "%s", why);
    while (num_locks) close(locks[--num_locks]);
    collecting = false;
    return code;
}

int outputs_finish(const struct cli_common *cfg, const char *path, struct atomic_file *file, int lock)
{
    char why[256];
    const bool waits = collecting && lock >= 0;
    if (waits && num_locks == MAX_LOCKS) {
        atomic_file_discard(file);
        close(lock);
        return cli_fail(cfg, EXIT_FAILED, "%s: too many locks", path);
    }
    const int status = atomic_file_finish(file, path, why, sizeof why);
    if (waits) locks[num_locks++] = lock;
    else if (lock >= 0) close(lock);
    return status ? cli_fail(cfg, EXIT_FAILED, "%s: %s", path, why) : EXIT_DONE;
}

int cli_write_array(const struct cli_common *cfg, const char *path, const float *f32, const double *f64, size_t rank,
                    const size_t *shape)
{
    char why[256];
    struct atomic_file *file;
    if (atomic_file_open(path, &file, why, sizeof why)) return cli_fail(cfg, EXIT_FAILED, "%s: %s", path, why);
    if (!array_file_put(atomic_file_stream(file), path, f32, f64, rank, shape, why, sizeof why))
        return outputs_finish(cfg, path, file, -1);
    atomic_file_discard(file);
    return cli_fail(cfg, EXIT_FAILED, "%s: %s", path, why);
}
