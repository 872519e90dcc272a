#include "cli/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Room for the names of what a program puts into a folder. */
enum { NAMES = 128 };

static int failed(const struct cli_common *cfg, const char *path, int error)
{
    return cli_fail(cfg, EXIT_FAILED, "%s: %s", path, error == EWOULDBLOCK ? "another process is using it"
                    : strerror(error));
}

int folder_check(const struct cli_common *cfg, const char *path)
{
    struct stat st;
    if (strlen(path) > PATH_MAX - NAMES) return failed(cfg, path, ENAMETOOLONG);
    if (stat(path, &st)) {
        if (mkdir(path, 0777)) return failed(cfg, path, errno);
        return rmdir(path) ? failed(cfg, path, errno) : EXIT_DONE;
    }
    if (!S_ISDIR(st.st_mode)) return failed(cfg, path, ENOTDIR);
    return faccessat(AT_FDCWD, path, W_OK | X_OK, AT_EACCESS) ? failed(cfg, path, errno) : EXIT_DONE;
}

int folder_open(const struct cli_common *cfg, const char *path, struct folder *out)
{
    *out = (struct folder){ .path = path, .lock = -1, .made = !mkdir(path, 0777) };
    if (!out->made && errno != EEXIST) return failed(cfg, path, errno);
    out->lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (out->lock < 0) return failed(cfg, path, errno);
    /* A file system without locks is used without. */
    return flock(out->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK ? failed(cfg, path, errno) : EXIT_DONE;
}

void folder_close(struct folder *folder, int code)
{
    if (!folder->path) return;
    if (folder->lock >= 0) close(folder->lock);
    if (code && folder->made) rmdir(folder->path);
    *folder = (struct folder){ .path = NULL };
}
