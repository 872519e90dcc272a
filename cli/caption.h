/* Captions whose numbers come from the table of the figure. */
#ifndef CLI_CAPTION_H
#define CLI_CAPTION_H
#include <stdio.h>

/* Writes `text` with @min(COLUMN), @max(COLUMN) and @values(COLUMN) replaced by the smallest, the largest, and all the
 * different numbers of that column of a table as table_open writes it, at most 24 of them, ascending. Where the table
 * cannot be read or has no such column or no number in it, "?" stands in its place. Returns the number of those. */
size_t caption_put(const char *text, const char *table_path, FILE *out);

#endif
