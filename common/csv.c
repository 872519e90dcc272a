#include "common/npy.h"

#include "common/input_file.h"
#include "common/reason.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A growing array; the file's size bounds how far it can grow. */
struct numbers { double *x; size_t count, room; };

static int append(struct numbers *all, double x)
{
    if (all->count == all->room) {
        const size_t room = all->room ? 2 * all->room : 256;
        double *grown = realloc(all->x, room * sizeof *grown);
        if (!grown) return GSL_ENOMEM;
        all->x = grown;
        all->room = room;
    }
    all->x[all->count++] = x;
    return GSL_SUCCESS;
}

/* One cell: a decimal number, spaces around it allowed. */
static int parse_cell(const char *cell, double *x, size_t line, size_t column, struct reason why)
{
    cell += strspn(cell, " \t");
    size_t len = strcspn(cell, " \t");
    if (!len) return refuse(why, GSL_EINVAL, "line %zu, column %zu: empty cell", line, column);
    char *end;
    *x = strtod(cell, &end);
    const int is_number = end != cell && !end[strspn(end, " \t")];
    if (is_number && !isfinite(*x))
        return refuse(why, GSL_EDOM, "line %zu, column %zu: '%.40s' is not finite", line, column, cell);
    /* strtod also reads hexadecimal. */
    if (!is_number || strpbrk(cell, "xX")) {
        for (size_t i = 0; i < len; i++)
            if (cell[i] < ' ' || cell[i] > '~')
                return refuse(why, GSL_EINVAL, "line %zu, column %zu is not a number", line, column);
        return refuse(why, GSL_EINVAL, "line %zu, column %zu: '%.40s' is not a number", line, column, cell);
    }
    return GSL_SUCCESS;
}

/* The cells of one line, which is cut at its commas. */
static int parse_line(char *text, size_t line, size_t *columns, struct numbers *all, struct reason why)
{
    size_t count = 0;
    for (char *cell = text; cell;) {
        char *comma = strchr(cell, ',');
        if (comma) *comma++ = '\0';
        double x = 0.0;
        int status = parse_cell(cell, &x, line, ++count, why);
        if (!status && append(all, x)) status = refuse(why, GSL_ENOMEM, "out of memory");
        if (status) return status;
        cell = comma;
    }
    if (!*columns) *columns = count;
    if (count != *columns)
        return refuse(why, GSL_EINVAL, "line %zu has %zu columns, line 1 has %zu", line, count, *columns);
    return GSL_SUCCESS;
}

/* Spreadsheets put the mark in front of UTF-8 text, and write UTF-16 as well. */
static int drop_byte_order_mark(char *text, ssize_t *len, struct reason why)
{
    if (!strncmp(text, "\xef\xbb\xbf", 3)) {
        *len -= 3;
        memmove(text, text + 3, (size_t)*len + 1);
    }
    if (!strncmp(text, "\xff\xfe", 2) || !strncmp(text, "\xfe\xff", 2))
        return refuse(why, GSL_EINVAL, "UTF-16 text (by its byte order mark); save it as plain or UTF-8 text");
    return GSL_SUCCESS;
}

int csv_read_numbers(const char *path, struct npy *out, char *why_text, size_t why_size)
{
    const struct reason why = { why_text, why_size };
    *out = (struct npy){ 0 };
    uint64_t size;
    FILE *file = input_file_open(path, &size, why_text, why_size);
    if (!file) return input_file_status(errno);

    struct numbers all = { 0 };
    char *text = NULL;
    size_t room = 0, line = 0, columns = 0, blank = 0;
    int status = GSL_SUCCESS;
    errno = 0;
    for (ssize_t len; !status && (len = getline(&text, &room, file)) >= 0;) {
        line++;
        if (line == 1 && (status = drop_byte_order_mark(text, &len, why))) break;
        if (memchr(text, '\0', (size_t)len)) {
            status = refuse(why, GSL_EINVAL, "line %zu holds a zero byte", line);
            break;
        }
        if (len && text[len - 1] == '\n') text[--len] = '\0';
        if (len && text[len - 1] == '\r') text[--len] = '\0';
        /* Empty lines may only end the file. */
        if (!text[strspn(text, " \t")]) {
            if (!blank) blank = line;
        } else if (blank) {
            status = refuse(why, GSL_EINVAL, "line %zu is empty", blank);
        } else {
            status = parse_line(text, line, &columns, &all, why);
        }
    }
    if (!status && (ferror(file) || !feof(file))) {
        const int error = errno ? errno : EIO;
        status = error == ENOMEM ? refuse(why, GSL_ENOMEM, "out of memory") : refuse(why, REASON_SYSTEM, "%s",
                                                                                     strerror(error));
    }
    if (!status && !all.count) status = refuse(why, GSL_EINVAL, size ? "no numbers" : "empty file");
    fclose(file);
    free(text);
    if (status) {
        free(all.x);
        return status;
    }
    *out = (struct npy){ .rank = 2, .shape = { all.count / columns, columns }, .size = all.count, .f64 = all.x };
    return GSL_SUCCESS;
}
