#include "cli/cli.h"
#include "tests/support/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { UNITS = 4 };
static const char edit[] = "\x20\x00\x41\x90\x00\x00", cut[] = "\xff\x00\x80";
const struct fuzz_seed fuzz_seeds[] = { { edit, sizeof edit - 1 }, { cut, sizeof cut - 1 } };
const size_t fuzz_num_seeds = 2;

static struct cli_common cfg;
static unsigned char *whole;
static size_t whole_size;
static const double values[UNITS] = { 0.7, -1.3, 5e-324, 1e300 };

static const char *state_path(void)
{
    static char path[300];
    snprintf(path, sizeof path, "%s.state", cfg.out);
    return path;
}

/* A journal of a few units that was left after an interruption. */
static void start(void)
{
    static char out[256];
    char key[16];
    snprintf(out, sizeof out, "%s/out.csv", fuzz_folder());
    cfg = (struct cli_common){ .seed = 77, .out = out, .program = "fuzz_journal", .quiet = true };
    struct journal *j = journal_open(&cfg, "m=5");
    for (int i = 0; i < UNITS; i++) {
        snprintf(key, sizeof key, "unit %d", i);
        if (!j || journal_put(j, key, values, (size_t)i + 1)) abort();
    }
    journal_close(j, 130);
    FILE *file = fopen(state_path(), "rb");
    if (!file || fseek(file, 0, SEEK_END)) abort();
    whole_size = (size_t)ftell(file);
    rewind(file);
    if (!(whole = malloc(whole_size)) || fread(whole, 1, whole_size, file) != whole_size) abort();
    fclose(file);
    /* Others of its kind are warned of. */
    if (!(stderr = fopen("/dev/null", "w"))) abort();
}

/* Three bytes an edit of the file: where (two), and what; 0xff in front: cut there. What is still found is what was
 * put. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (!whole) start();
    unsigned char *state = malloc(whole_size);
    size_t length = whole_size;
    if (!state) return 0;
    memcpy(state, whole, whole_size);
    for (size_t i = 0; i + 3 <= size; i += 3) {
        if (bytes[i] == 0xff) length = (bytes[i + 1] | (size_t)bytes[i + 2] << 8) % (whole_size + 1);
        else state[(bytes[i] | (size_t)bytes[i + 1] << 8) % whole_size] = bytes[i + 2];
    }
    fuzz_put("out.csv.state", state, length);
    free(state);
    struct journal *j = journal_open(&cfg, "m=5");
    for (int i = 0; j && i < UNITS; i++) {
        char key[16];
        double x[UNITS];
        snprintf(key, sizeof key, "unit %d", i);
        if (journal_get(j, key, x, (size_t)i + 1) && memcmp(x, values, ((size_t)i + 1) * sizeof *x)) abort();
    }
    journal_close(j, j ? 0 : 1);
    unlink(state_path());
    return 0;
}
