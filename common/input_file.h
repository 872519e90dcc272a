/* Opening files that others made, before anything is believed about them. */
#ifndef COMMON_INPUT_FILE_H
#define COMMON_INPUT_FILE_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "common/reason.h"

/* Opens a regular file for reading (never blocks on a pipe) and gives its size in
 * bytes. NULL with one line in why[why_size] and errno set otherwise. */
FILE *input_file_open(const char *path, uint64_t *size, char *why, size_t why_size);

/* The code of a file that could not be opened or read, by its errno: GSL_ENOMEM,
 * REASON_SYSTEM where the file may be fine (EIO, EMFILE, ...), GSL_EFAILED otherwise. */
int input_file_status(int error);

/* Reads `size` bytes. At the end of the file GSL_EINVAL with the line `too_short`; when the
 * system fails, its reason and the code of input_file_status. */
int input_file_read(FILE *file, void *buffer, size_t size, const char *too_short, struct reason why);

/* The whole file, with a 0 behind its *size bytes; the caller frees *bytes. Codes of input_file_status, GSL_ENOMEM,
 * GSL_EINVAL cut short; one line in *why. */
int input_file_whole(const char *path, unsigned char **bytes, size_t *size, struct reason why);
/* The same of a text: GSL_EINVAL when it has a 0 of its own. */
int input_file_text(const char *path, char **text, size_t *size, struct reason why);

/* Goes on with the hash over the bytes of a file. GSL_SUCCESS, or a code of input_file_status with "PATH: reason" in
 * *why. */
int input_file_hash(const char *path, uint64_t *hash, struct reason why);

#endif
