/* Output that appears whole or not at all.
 *
 * A regular target is written to PATH.part and renamed over it once it is on the
 * disk; the part file is locked, so two runs cannot share a target, and one left by
 * a killed run is overwritten. A target that exists and is not a regular file (a
 * device, a pipe), "-", /dev/stdout and /dev/stderr are written directly. */
#ifndef COMMON_ATOMIC_FILE_H
#define COMMON_ATOMIC_FILE_H
#include <stddef.h>
#include <stdio.h>

struct atomic_file;

/* GSL_SUCCESS, or GSL_EFAILED / GSL_ENOMEM with one line, without the path, in
 * why[why_size]. */
int atomic_file_open(const char *path, struct atomic_file **out, char *why, size_t why_size);

/* The stream to write to; owned by the file. */
FILE *atomic_file_stream(struct atomic_file *file);

/* Whether the target is a regular file that commit will create or replace. */
int atomic_file_is_regular(const struct atomic_file *file);

/* Flushes to the disk and renames. GSL_EFAILED, with the target untouched and the
 * part file removed, when any write failed. Frees `file` either way. */
int atomic_file_commit(struct atomic_file *file, char *why, size_t why_size);

/* Removes the part file, leaves the target as it was, frees. Accepts NULL. */
void atomic_file_discard(struct atomic_file *file);

/* Removes the part files of all open files, for a process about to end; may be called
 * from a signal handler. */
void atomic_file_remove_parts(void);

#endif
