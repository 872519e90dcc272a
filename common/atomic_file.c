#include "common/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <gsl/gsl_errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct atomic_file {
    FILE *stream;
    char *target;      /* NULL when written directly */
    char *part;
    int slot;          /* in open_parts, or -1 */
};

/* Names of part files where a signal handler can read them: a slot that is `named`
 * does not change. A process has a few outputs; one too many is merely not listed. */
enum { NUM_SLOTS = 16 };
enum { SLOT_FREE, SLOT_TAKEN, SLOT_NAMED };
static struct { atomic_int state; char path[PATH_MAX]; } open_parts[NUM_SLOTS];

static int list_part(const char *path)
{
    const size_t size = strlen(path) + 1;
    for (int i = 0; i < NUM_SLOTS && size <= PATH_MAX; i++) {
        int free_slot = SLOT_FREE;
        if (!atomic_compare_exchange_strong(&open_parts[i].state, &free_slot, SLOT_TAKEN)) continue;
        memcpy(open_parts[i].path, path, size);
        atomic_store(&open_parts[i].state, SLOT_NAMED);
        return i;
    }
    return -1;
}

static void unlist_part(const struct atomic_file *file)
{
    if (file->slot >= 0) atomic_store(&open_parts[file->slot].state, SLOT_FREE);
}

void atomic_file_remove_parts(void)
{
    for (int i = 0; i < NUM_SLOTS; i++)
        if (atomic_load(&open_parts[i].state) == SLOT_NAMED) unlink(open_parts[i].path);
}

static void file_free(struct atomic_file *file)
{
    if (!file) return;
    unlist_part(file);
    free(file->target);
    free(file->part);
    free(file);
}

/* The descriptor behind a name for one that is already open, or -1: reopening
 * /dev/stdout would start a redirected file from its beginning. */
static int named_descriptor(const char *path)
{
    if (!strcmp(path, "-") || !strcmp(path, "/dev/stdout")) return STDOUT_FILENO;
    if (!strcmp(path, "/dev/stderr")) return STDERR_FILENO;
    int fd, used = 0;
    if ((sscanf(path, "/dev/fd/%d%n", &fd, &used) == 1 && !path[used]) ||
        (sscanf(path, "/proc/self/fd/%d%n", &fd, &used) == 1 && !path[used]))
        return fd;
    return -1;
}

/* Opens and locks `part`, which another process may be renaming or removing: the
 * lock counts only if the name still leads to the file locked. */
static int open_locked(const char *part)
{
    for (;;) {
        const int fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0) return -1;
        if (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
            close(fd);
            errno = EWOULDBLOCK;
            return -1;
        }
        struct stat held, named;
        if (!fstat(fd, &held) && !stat(part, &named) && held.st_ino == named.st_ino &&
            held.st_dev == named.st_dev) {
            if (S_ISREG(held.st_mode) && !ftruncate(fd, 0)) return fd;
            close(fd);
            return -1;
        }
        close(fd);
    }
}

int atomic_file_open(const char *path, struct atomic_file **out, char *why, size_t why_size)
{
    struct atomic_file *file = calloc(1, sizeof *file);
    int fd = -1;
    if (!file) goto no_memory;
    file->slot = -1;
    struct stat st;
    const int named = named_descriptor(path);
    if (named >= 0) {
        fd = fcntl(named, F_DUPFD_CLOEXEC, 3);
    } else if (!*path) {
        errno = ENOENT;
    } else if (!stat(path, &st) && !S_ISREG(st.st_mode)) {
        fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    } else {
        /* Behind a symbolic link the file it leads to is replaced, not the link. */
        file->target = realpath(path, NULL);
        if (!file->target) file->target = strdup(path);
        if (!file->target || asprintf(&file->part, "%s.part", file->target) < 0) {
            file->part = NULL;
            goto no_memory;
        }
        fd = open_locked(file->part);
        if (fd >= 0) file->slot = list_part(file->part);
        if (fd >= 0 && !stat(file->target, &st)) (void)!fchmod(fd, st.st_mode & 0777);
    }
    if (fd < 0) {
        snprintf(why, why_size, "%s", errno == EWOULDBLOCK ? "another process is writing it"
                                                           : strerror(errno));
        file_free(file);
        return GSL_EFAILED;
    }
    file->stream = fdopen(fd, "w");
    if (!file->stream) goto no_memory;
    *out = file;
    return GSL_SUCCESS;

no_memory:
    if (fd >= 0) {
        if (file->part) unlink(file->part);
        close(fd);
    }
    file_free(file);
    snprintf(why, why_size, "out of memory");
    return GSL_ENOMEM;
}

FILE *atomic_file_stream(struct atomic_file *file)
{
    return file->stream;
}

int atomic_file_is_regular(const struct atomic_file *file)
{
    return file->target != NULL;
}

/* Makes a rename durable; a file system that cannot is not an error. */
static void sync_directory_of(char *path)
{
    const int fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

int atomic_file_commit(struct atomic_file *file, char *why, size_t why_size)
{
    errno = 0;
    int failed = fflush(file->stream) || ferror(file->stream);
    if (!failed && file->target)
        failed = fsync(fileno(file->stream)) || rename(file->part, file->target);
    const int cause = errno;
    if (failed && file->target) unlink(file->part);
    /* The lock goes with the descriptor, after the part file has its new name. */
    const int close_failed = fclose(file->stream);
    if (failed || close_failed)
        snprintf(why, why_size, "%s", failed && !cause ? "a write failed" : strerror(failed ? cause : errno));
    else if (file->target)
        sync_directory_of(file->part);
    file_free(file);
    return failed || close_failed ? GSL_EFAILED : GSL_SUCCESS;
}

void atomic_file_discard(struct atomic_file *file)
{
    if (!file) return;
    if (file->target) unlink(file->part);
    fclose(file->stream);
    file_free(file);
}
