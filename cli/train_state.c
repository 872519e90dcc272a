#include "cli/train_state.h"

#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/atomic_file.h"
#include "common/input_file.h"

/* A state begins with its key and the mark of train_save. */
static const char mark[] = "prefix-ntk run ";
enum { MARK_SIZE = sizeof mark - 1 };

int train_state_init(struct train_state *state, const struct cli_common *cfg, const char *folder, const char *name)
{
    char why[256], head[TRAIN_KEY_SIZE + MARK_SIZE];
    uint64_t size;
    struct stat st;
    *state = (struct train_state){ .cfg = cfg };
    if (snprintf(state->path, sizeof state->path, "%s/%s", folder, name) >= (int)sizeof state->path)
        return cli_fail(cfg, EXIT_FAILED, "%s: the path is too long", folder);
    if (lstat(state->path, &st)) return EXIT_DONE;
    FILE *file = input_file_open(state->path, &size, why, sizeof why);
    const bool ours = file && fread(head, sizeof head, 1, file) == 1 && !memcmp(head + TRAIN_KEY_SIZE, mark, MARK_SIZE);
    if (file) fclose(file);
    return ours ? EXIT_DONE : cli_fail(cfg, EXIT_FAILED, "%s: is not a state of this program; it needs the name",
                                       state->path);
}

void train_state_load(const struct train_state *state, struct train *train)
{
    uint64_t size;
    char key[TRAIN_KEY_SIZE + 1] = "", why[256];
    FILE *file = input_file_open(state->path, &size, why, sizeof why);
    if (!file) return;
    if (fread(key, TRAIN_KEY_SIZE, 1, file) == 1 && !strcmp(key, state->key) && !train_load(train, file))
        cli_warn(state->cfg, "resumes after step %zu of %zu", train_steps_done(train), train_num_steps(train));
    fclose(file);
}

int train_state_save(const struct train_state *state, struct train *train)
{
    char why[256] = "out of memory";
    struct atomic_file *file;
    int status = atomic_file_open(state->path, &file, why, sizeof why);
    if (!status) {
        fwrite(state->key, TRAIN_KEY_SIZE, 1, atomic_file_stream(file));
        /* Why a write failed is the file's to say. */
        status = train_save(train, atomic_file_stream(file));
        if (status == GSL_ENOMEM) atomic_file_discard(file);
        else status = atomic_file_commit(file, why, sizeof why);
    }
    return status ? cli_fail(state->cfg, EXIT_FAILED, "%s: %s", state->path, why) : EXIT_DONE;
}

int train_state_run(const struct train_state *state, struct train *train, const char *what)
{
    enum { SAVES = 20 };
    const size_t steps = train_num_steps(train), between = steps / SAVES + 1;
    struct progress *progress = progress_start(state->cfg, what, (double)steps);
    int code = EXIT_DONE;
    while (!code && !train_done(train)) {
        const int status = train_step(train);
        if (train_diverged(train))
            code = cli_fail(state->cfg, EXIT_FAILED,
                            "diverged at step %zu: a loss or a normaliser D is not finite and positive (a lower --lr?)",
                            train_steps_done(train) + 1);
        else code = cli_status(state->cfg, status, "a step");
        progress_to(progress, (double)train_steps_done(train));
        const int cut = cli_interrupted();
        if (!code && (cut || train_steps_done(train) % between == 0)) code = train_state_save(state, train);
        if (!code) code = cut;
    }
    progress_end(progress);
    return code;
}

void train_state_remove(const struct train_state *state)
{
    char why[256];
    struct atomic_file *file;
    unlink(state->path);
    /* Takes over the part file of a save that was cut short, and removes it. */
    if (!atomic_file_open(state->path, &file, why, sizeof why)) atomic_file_discard(file);
}
