#include "cli/cli.h"

#include "cli/outputs.h"
#include "common/array_file.h"
#include "common/isa.h"
#include "common/threads.h"
#include "prefix_ntk/version.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The text is collected in memory and written when it is complete: what goes to a
 * pipe or a device is then whole or absent as well. */
struct table {
    const struct cli_common *cfg;
    const char *path;
    struct atomic_file *file;
    FILE *stream;            /* into text */
    char *text;
    size_t text_size;
    const char *columns;
    size_t num_columns, cell;
    bool header_written, failed;
};

/* Text within a metadata line: everything that could end the line is a space. */
static void put_line_text(FILE *stream, const char *text)
{
    for (; *text; text++) fputc((unsigned char)*text < ' ' ? ' ' : *text, stream);
}

/* The commit this program was built from: what make says, or what it left beside bin/.
 * It is not compiled in: a program that did not change keeps its checksum, and so its runs. */
static void put_commit(FILE *stream)
{
    char text[64] = "", path[4096];
    const char *commit = getenv("PREFIX_NTK_COMMIT");
    const ssize_t length = readlink("/proc/self/exe", path, sizeof path - sizeof "/../commit");
    if (length > 0 && (!commit || !*commit)) {
        path[length] = '\0';
        char *slash = strrchr(path, '/');
        if (slash) strcpy(slash, "/../commit");
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%63s", text) == 1) commit = text;
        if (file) fclose(file);
    }
    put_line_text(stream, commit && *commit ? commit : "unknown");
}

static void put_metadata(const struct table *t)
{
    const struct cli_common *cfg = t->cfg;
    fprintf(t->stream, "# program=%s version=%s commit=", cfg->program, PREFIX_NTK_VERSION);
    put_commit(t->stream);
    fprintf(t->stream, " seed=%llu threads=%d isa=%s blas=\"", (unsigned long long)cfg->seed, cfg->threads,
            isa_name(isa_current()));
    put_line_text(t->stream, threads_blas_config());
    fprintf(t->stream, "\" core=%s profile=", threads_blas_core());
    put_line_text(t->stream, cfg->profile);
    fputs("\n# options:", t->stream);
    for (int i = 1; i < cfg->argc; i++) {
        fputc(' ', t->stream);
        put_line_text(t->stream, cfg->argv[i]);
    }
    fputc('\n', t->stream);
}

static void table_free(struct table *t)
{
    if (t->stream) fclose(t->stream);
    free(t->text);
    free(t);
}

struct table *table_open(const struct cli_common *cfg, const char *path, const char *columns)
{
    char why[256];
    if (!path) path = cfg->out;
    if (array_file_format(path) == ARRAY_NPY) {
        cli_fail(cfg, EXIT_FAILED, "%s: a table is CSV, not an array", path);
        return NULL;
    }
    struct table *t = calloc(1, sizeof *t);
    if (t) t->stream = open_memstream(&t->text, &t->text_size);
    if (!t || !t->stream) {
        free(t);
        cli_fail(cfg, EXIT_FAILED, "%s: out of memory", path);
        return NULL;
    }
    if (atomic_file_open(path, &t->file, why, sizeof why)) {
        cli_fail(cfg, EXIT_FAILED, "%s: %s", path, why);
        table_free(t);
        return NULL;
    }
    t->cfg = cfg;
    t->path = path;
    t->columns = columns;
    t->num_columns = 1;
    for (const char *c = columns; *c; c++) t->num_columns += *c == ',';
    put_metadata(t);
    return t;
}

/* Only memory can be missing. */
static void wrote(struct table *t, int result)
{
    if (result < 0) t->failed = true;
}

void table_note(struct table *t, const char *format, ...)
{
    assert(!t->header_written);
    va_list args;
    va_start(args, format);
    wrote(t, fputs("# ", t->stream));
    wrote(t, vfprintf(t->stream, format, args));
    wrote(t, fputc('\n', t->stream));
    va_end(args);
}

static void put_header(struct table *t)
{
    if (t->header_written) return;
    wrote(t, fprintf(t->stream, "%s\n", t->columns));
    t->header_written = true;
}

static void next_cell(struct table *t)
{
    put_header(t);
    assert(t->cell < t->num_columns);
    if (t->cell++) wrote(t, fputc(',', t->stream));
}

void table_num(struct table *t, double x)
{
    next_cell(t);
    if (isfinite(x)) wrote(t, fprintf(t->stream, "%.17g", x));
}

void table_interval(struct table *t, struct interval x)
{
    table_num(t, x.value);
    table_num(t, x.lo);
    table_num(t, x.hi);
}

void table_int(struct table *t, uint64_t x)
{
    next_cell(t);
    wrote(t, fprintf(t->stream, "%llu", (unsigned long long)x));
}

void table_text(struct table *t, const char *text)
{
    next_cell(t);
    if (!strpbrk(text, ",\"\r\n")) {
        wrote(t, fputs(text, t->stream));
        return;
    }
    wrote(t, fputc('"', t->stream));
    for (; *text; text++) {
        if (*text == '"') wrote(t, fputc('"', t->stream));
        wrote(t, fputc((unsigned char)*text, t->stream));
    }
    wrote(t, fputc('"', t->stream));
}

void table_empty(struct table *t)
{
    next_cell(t);
}

void table_end_row(struct table *t)
{
    assert(t->cell == t->num_columns);
    t->cell = 0;
    wrote(t, fputc('\n', t->stream));
}

int table_close(struct table *t, int code)
{
    if (!t) return code ? code : EXIT_FAILED;
    assert(code || t->cell == 0);
    put_header(t);
    if (code) {
        atomic_file_discard(t->file);
    } else if (fflush(t->stream) || ferror(t->stream) || t->failed) {
        atomic_file_discard(t->file);
        code = cli_fail(t->cfg, EXIT_FAILED, "%s: out of memory", t->path);
    } else {
        fwrite(t->text, 1, t->text_size, atomic_file_stream(t->file));
        code = outputs_finish(t->cfg, t->path, t->file, -1);
    }
    table_free(t);
    return code;
}
