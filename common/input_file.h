/* Opening files that others made, before anything is believed about them. */
#ifndef COMMON_INPUT_FILE_H
#define COMMON_INPUT_FILE_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Opens a regular file for reading (never blocks on a pipe) and gives its size in
 * bytes. NULL with one line in why[why_size] otherwise. */
FILE *input_file_open(const char *path, uint64_t *size, char *why, size_t why_size);

#endif
