/* One record of a CSV text with quotes, as tables and verdict rows are written. */
#ifndef CLI_CSV_RECORD_H
#define CLI_CSV_RECORD_H
#include <stddef.h>

/* Cuts the record at p in place, "..." with doubled quotes undone: cell[0..max) get the first of its cells, *cells
 * their number, SIZE_MAX for a quote that is never closed or text behind one. Returns the start of the next record,
 * NULL after the last. */
char *csv_record_split(char *p, char **cell, size_t max, size_t *cells);

#endif
