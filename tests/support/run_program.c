#include "tests/support/run_program.h"
#include "tests/support/check.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { MAX_WORDS = 64 };

/* All of an unlinked file that the program wrote to. */
static char *captured(int fd)
{
    const off_t size = lseek(fd, 0, SEEK_END);
    assert_true(size >= 0);
    char *text = malloc((size_t)size + 1);
    assert_non_null(text);
    assert_int_equal(pread(fd, text, (size_t)size, 0), size);
    text[size] = '\0';
    close(fd);
    return text;
}

static int unnamed_file(void)
{
    char name[] = "/tmp/prefix-ntk-run.XXXXXX";
    const int fd = mkostemp(name, O_CLOEXEC);
    assert_true(fd >= 0);
    unlink(name);
    return fd;
}

struct outcome run_program(const char *name, ...)
{
    const char *words[MAX_WORDS] = { NULL };
    size_t count = 0;
    va_list args;
    va_start(args, name);
    while ((words[count] = va_arg(args, char *))) {
        count++;
        assert_true(count < MAX_WORDS);
    }
    va_end(args);
    return run_program_list(name, words);
}

struct outcome run_program_list(const char *name, const char *const *arguments)
{
    const char *folder = getenv("PREFIX_NTK_BIN");
    char path[4096];
    if (strchr(name, '/')) snprintf(path, sizeof path, "%s", name);
    else snprintf(path, sizeof path, "%s/%s", folder ? folder : "build/bin", name);

    char *words[MAX_WORDS + 1] = { path };
    for (size_t count = 0; arguments[count]; count++) {
        assert_true(count + 1 < MAX_WORDS);
        words[count + 1] = (char *)arguments[count];
    }

    const int out = unnamed_file(), err = unnamed_file();
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
    pid_t pid;
    const int failed = posix_spawn(&pid, path, &actions, NULL, words, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed) fail_msg("%s: %s", path, strerror(failed));
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return (struct outcome){ WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
                             captured(out), captured(err) };
}

void outcome_free(struct outcome *outcome)
{
    free(outcome->out);
    free(outcome->err);
    outcome->out = outcome->err = NULL;
}

void check_refusal(struct outcome outcome, int code, const char *name, const char *says,
                   const char *file, int line)
{
    const size_t len = strlen(name);
    const char *end = strchr(outcome.err, '\n');
    const bool one_line = end && !end[1] && !strncmp(outcome.err, name, len) && outcome.err[len] == ':';
    if (outcome.code != code || *outcome.out || !one_line || !strstr(outcome.err, says)) {
        print_error("%s: exit code %d (expected %d); expected one line with '%s' on stderr, which has\n%s",
                    name, outcome.code, code, says, outcome.err);
        if (*outcome.out) print_error("and nothing on stdout, which has\n%s", outcome.out);
        _fail(file, line);
    }
    outcome_free(&outcome);
}

char *data_rows(const char *table)
{
    char *rows = malloc(strlen(table) + 1), *end = rows;
    assert_non_null(rows);
    for (const char *line = table; *line;) {
        const size_t len = strcspn(line, "\n") + (strchr(line, '\n') != NULL);
        if (*line != '#') {
            memcpy(end, line, len);
            end += len;
        }
        line += len;
    }
    *end = '\0';
    return rows;
}
