/* Output that appears whole or not at all.
 *
 * A regular target is written to .NAME.prefix-ntk-part beside it and renamed over it once
 * it is on the disk; the part file is locked, so two runs cannot share a target, and one
 * left by a killed run is overwritten. Behind a symbolic link the file it leads to is
 * made or replaced, and the link stays. Where the folder cannot be written, or the target
 * is a mount point, the finished text is copied into the target. A write-protected target
 * is refused. A target that exists and is not a regular file (a device, a pipe), "-",
 * /dev/stdout and /dev/stderr are written directly. */
#ifndef COMMON_ATOMIC_FILE_H
#define COMMON_ATOMIC_FILE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct atomic_file;

/* GSL_SUCCESS, or GSL_EFAILED / GSL_ENOMEM with one line, without the path, in
 * why[why_size]. */
int atomic_file_open(const char *path, struct atomic_file **out, char *why, size_t why_size);

/* Whether `path` could be opened so, without changing anything; codes as above. */
int atomic_file_check(const char *path, char *why, size_t why_size);

/* The stream to write to; owned by the file. */
FILE *atomic_file_stream(struct atomic_file *file);

/* Whether the target is a regular file that commit will create or replace. */
int atomic_file_is_regular(const struct atomic_file *file);

/* Flushes to the disk, without touching the target: of several outputs all are prepared
 * before the first is committed. GSL_EFAILED when any write failed; the file is then to
 * be discarded. */
int atomic_file_prepare(struct atomic_file *file, char *why, size_t why_size);

/* Prepares and puts the file in the place of its target, in such a way that
 * atomic_file_discard still restores what was there (as far as the file system can exchange
 * two names; a copied target and a device cannot be restored: place those last). */
int atomic_file_place(struct atomic_file *file, char *why, size_t why_size);

/* Whether discarding restores the target once the file is placed. */
bool atomic_file_is_reversible(const struct atomic_file *file);

/* Prepares and places, unless that was done, and makes it final. GSL_EFAILED, with the target untouched
 * and the part file removed, when any write failed. Frees `file` either way. */
int atomic_file_commit(struct atomic_file *file, char *why, size_t why_size);

/* Removes the part file, leaves the target as it was or restores it, frees. Accepts NULL. */
void atomic_file_discard(struct atomic_file *file);

/* Removes the part files of all open files, for a process about to end; may be called
 * from a signal handler. */
void atomic_file_remove_parts(void);

/* ---- several outputs: all of them or none; from one thread at a time ---- */

/* From here on files given to atomic_file_finish wait, each complete and on the disk beside its
 * target. */
void atomic_files_begin(void);

/* The end of a file that belongs to a program's outputs: commits it, or after atomic_files_begin
 * prepares it and lets it wait. Codes as atomic_file_commit's; frees `file` on failure. */
int atomic_file_finish(struct atomic_file *file, const char *path, char *why, size_t why_size);

/* keep: places all that wait, those that can be taken back first, then makes them final; when one
 * fails the others are taken back and the code returned, with "PATH: reason" in why. Otherwise
 * discards them. A crash between two renames leaves whole files, old and new. */
int atomic_files_end(bool keep, char *why, size_t why_size);

/* The descriptor that `path` names ("-", /dev/stdout, /dev/stderr, /dev/fd/N), else -1. */
int atomic_file_descriptor(const char *path);

/* The file `path` leads to, links followed, whether it exists or not; the caller frees.
 * NULL with errno set, ENOENT when its folder does not exist. */
char *atomic_file_target(const char *path);

#endif
