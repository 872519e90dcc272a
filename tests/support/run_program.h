/* Runs a built program and captures what it says. Programs are looked up in the
 * folder PREFIX_NTK_BIN (set by `make test`; without it build/bin). */
#ifndef TESTS_SUPPORT_RUN_PROGRAM_H
#define TESTS_SUPPORT_RUN_PROGRAM_H

struct outcome {
    int code;              /* exit code, or 128 + the signal that ended it */
    char *out, *err;       /* NUL-terminated */
};

/* `name` and its arguments, ended by NULL; standard input is /dev/null. A path with
 * a slash is run as it is. Fails the test when the program cannot be started. The
 * caller frees the outcome. */
struct outcome run_program(const char *name, ...) __attribute__((sentinel));
/* The same with the arguments in a list. */
struct outcome run_program_list(const char *name, const char *const *arguments);
void outcome_free(struct outcome *outcome);

/* The program refuses: exit code `code`, nothing on stdout, and one line on stderr,
 * "name: ...", that holds `says`. Frees the outcome. */
void check_refusal(struct outcome outcome, int code, const char *name, const char *says,
                   const char *file, int line);
#define CHECK_REFUSAL(outcome, code, name, says) \
    check_refusal((outcome), (code), (name), (says), __FILE__, __LINE__)

/* The rows of a table, without its metadata lines (which name threads and options);
 * the caller frees. */
char *data_rows(const char *table);

#endif
