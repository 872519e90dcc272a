/* A folder of a test program's own, removed at its end. Use scratch_setup and
 * scratch_teardown as group fixtures; *state is then the folder. */
#ifndef TESTS_SUPPORT_SCRATCH_H
#define TESTS_SUPPORT_SCRATCH_H

int scratch_setup(void **state);
int scratch_teardown(void **state);

/* "FOLDER/name"; valid until the teardown. */
const char *scratch_path(void *state, const char *name);

/* Writes the text to a new file of the folder and returns its path. */
const char *scratch_file(void *state, const char *name, const char *text);

/* The number of entries in the folder (nothing may be left behind). */
int scratch_count(void *state);

#endif
