#include "common/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <gsl/gsl_errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STREAM_BUFFER = 1 << 16, MAX_LINKS = 40, MAX_NAME = 200 };

struct atomic_file {
    FILE *stream;
    int fd;            /* of the part file, the spool or the target written directly */
    int error;         /* errno of the first write that failed */
    char *target;      /* NULL when written directly */
    char *part;        /* NULL when `fd` is a spool to be copied into the target */
    int slot;          /* in open_parts, or -1 */
    bool prepared;
    enum { NOT_PLACED, RENAMED, EXCHANGED, WRITTEN } placed;
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

void atomic_file_remove_parts(void)
{
    for (int i = 0; i < NUM_SLOTS; i++)
        if (atomic_load(&open_parts[i].state) == SLOT_NAMED) unlink(open_parts[i].path);
}

/* ---- names ------------------------------------------------------------------------- */

/* Reopening /dev/stdout would start a redirected file from its beginning. */
int atomic_file_descriptor(const char *path)
{
    if (!strcmp(path, "-") || !strcmp(path, "/dev/stdout")) return STDOUT_FILENO;
    if (!strcmp(path, "/dev/stderr")) return STDERR_FILENO;
    int fd, used = 0;
    if ((sscanf(path, "/dev/fd/%d%n", &fd, &used) == 1 && !path[used]) ||
        (sscanf(path, "/proc/self/fd/%d%n", &fd, &used) == 1 && !path[used]))
        return fd;
    return -1;
}

/* FOLDER/name with the folder's links resolved; NULL with errno set. */
static char *in_real_folder(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    char *real = folder ? realpath(folder, NULL) : NULL, *whole = NULL;
    if (real && asprintf(&whole, "%s/%s", strcmp(real, "/") ? real : "", name) < 0) whole = NULL;
    const int error = errno;
    free(real);
    free(folder);
    errno = error;
    return whole;
}

char *atomic_file_target(const char *path)
{
    char *at = in_real_folder(path);
    for (int links = 0; at; links++) {
        char to[PATH_MAX], *next = NULL;
        const ssize_t len = readlink(at, to, sizeof to - 1);
        if (len < 0) return at;
        to[len] = '\0';
        if (links == MAX_LINKS) {
            free(at);
            errno = ELOOP;
            return NULL;
        }
        const int folder_len = (int)(strrchr(at, '/') - at) + 1;
        if (asprintf(&next, "%.*s%s", to[0] == '/' ? 0 : folder_len, at, to) < 0) next = NULL;
        free(at);
        at = next ? in_real_folder(next) : NULL;
        free(next);
    }
    return NULL;
}

/* A name that no user gives a file. */
static char *part_of(const char *target)
{
    const char *name = strrchr(target, '/') + 1;
    char *part;
    return asprintf(&part, "%.*s.%.*s.prefix-ntk-part", (int)(name - target), target, (int)MAX_NAME, name) < 0 ? NULL
        : part;
}

/* ---- opening ------------------------------------------------------------------------- */

/* Opens and locks `part`, which another process may be renaming or removing: the
 * lock counts only if the name still leads to the file locked. */
static int open_locked(const char *part)
{
    for (;;) {
        const int fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
        if (fd < 0) return -1;
        if (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
            close(fd);
            errno = EWOULDBLOCK;
            return -1;
        }
        struct stat held, named;
        if (!fstat(fd, &held) && !lstat(part, &named) && held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
            const bool usable = S_ISREG(held.st_mode) && held.st_nlink == 1;
            if (usable && !ftruncate(fd, 0)) return fd;
            const int error = usable ? errno : EEXIST;
            if (usable) unlink(part);
            close(fd);
            errno = error;
            return -1;
        }
        close(fd);
    }
}

/* An unnamed file, for a target beside which none can be made. */
static int open_spool(void)
{
    const char *folder = getenv("TMPDIR");
    char name[PATH_MAX];
    const int len = snprintf(name, sizeof name, "%s/prefix-ntk.XXXXXX", folder && *folder ? folder : "/tmp");
    const int fd = len > 0 && (size_t)len < sizeof name ? mkostemp(name, O_CLOEXEC) : -1;
    if (fd >= 0) unlink(name);
    return fd;
}

static ssize_t write_all(int fd, const char *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        const ssize_t put = write(fd, data + at, size - at);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return -1;
        at += (size_t)put;
    }
    return (ssize_t)size;
}

/* stdio forgets why a write failed. */
static ssize_t stream_write(void *cookie, const char *data, size_t size)
{
    struct atomic_file *file = cookie;
    if (!file->error && write_all(file->fd, data, size) < 0) file->error = errno;
    return file->error ? 0 : (ssize_t)size;
}

/* A disk that fails once may not the next time. */
static void remove_file(const char *path)
{
    if (unlink(path)) (void)!unlink(path);
}

static void file_free(struct atomic_file *file)
{
    if (!file) return;
    if (file->slot >= 0) atomic_store(&open_parts[file->slot].state, SLOT_FREE);
    if (file->stream) fclose(file->stream);
    if (file->fd >= 0) close(file->fd);
    free(file->target);
    free(file->part);
    free(file);
}

static int failure(int error, char *why, size_t why_size)
{
    snprintf(why, why_size, "%s", error == EWOULDBLOCK ? "another process is writing it" :
                                  error == ENOMEM ? "out of memory" : strerror(error));
    return error == ENOMEM ? GSL_ENOMEM : GSL_EFAILED;
}

/* The part file of a regular target, present or to be made; errno of what failed. */
static int open_part(struct atomic_file *file, const char *path)
{
    struct stat st;
    if (!(file->target = atomic_file_target(path)) || !(file->part = part_of(file->target)))
        return errno ? errno : ENOMEM;
    const bool exists = !stat(file->target, &st);
    if (exists && faccessat(AT_FDCWD, file->target, W_OK, AT_EACCESS)) return errno;
    file->fd = open_locked(file->part);
    if (file->fd >= 0) {
        file->slot = list_part(file->part);
        if (exists) (void)!fchmod(file->fd, st.st_mode & 0777);
        return 0;
    }
    if (!exists || (errno != EACCES && errno != EROFS && errno != EPERM)) return errno;
    free(file->part);
    file->part = NULL;
    file->fd = open_spool();
    return file->fd < 0 ? errno : 0;
}

int atomic_file_open(const char *path, struct atomic_file **out, char *why, size_t why_size)
{
    struct atomic_file *file = calloc(1, sizeof *file);
    struct stat st;
    if (!file) return failure(ENOMEM, why, why_size);
    file->slot = file->fd = -1;
    const int named = atomic_file_descriptor(path);
    int error = 0;
    if (named >= 0) {
        file->fd = fcntl(named, F_DUPFD_CLOEXEC, 3);
        if (file->fd < 0) error = errno;
    } else if (!*path) {
        error = ENOENT;
    } else if (!stat(path, &st) && !S_ISREG(st.st_mode)) {
        file->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
        if (file->fd < 0) error = errno;
    } else {
        error = open_part(file, path);
    }
    if (!error) {
        file->stream = fopencookie(file, "w", (cookie_io_functions_t){ .write = stream_write });
        if (!file->stream) error = ENOMEM;
        else setvbuf(file->stream, NULL, _IOFBF, STREAM_BUFFER);
    }
    if (error) {
        if (file->part && file->fd >= 0) unlink(file->part);
        file_free(file);
        return failure(error, why, why_size);
    }
    *out = file;
    return GSL_SUCCESS;
}

int atomic_file_check(const char *path, char *why, size_t why_size)
{
    struct stat st;
    const int named = atomic_file_descriptor(path);
    if (named >= 0) {
        const int flags = fcntl(named, F_GETFL);
        if (flags < 0) return failure(errno, why, why_size);
        return (flags & O_ACCMODE) == O_RDONLY ? failure(EBADF, why, why_size) : GSL_SUCCESS;
    }
    /* Opening a pipe and closing it again would end its reader. */
    if (*path && !stat(path, &st) && !S_ISREG(st.st_mode)) {
        if (S_ISDIR(st.st_mode)) return failure(EISDIR, why, why_size);
        return faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) ? failure(errno, why, why_size) : GSL_SUCCESS;
    }
    struct atomic_file *file;
    const int status = atomic_file_open(path, &file, why, why_size);
    if (!status) atomic_file_discard(file);
    return status;
}

FILE *atomic_file_stream(struct atomic_file *file)
{
    return file->stream;
}

int atomic_file_is_regular(const struct atomic_file *file)
{
    return file->target != NULL;
}

/* ---- the end ------------------------------------------------------------------------ */

/* Makes a rename durable; a file system that cannot is not an error. */
static void sync_folder_of(char *path)
{
    *strrchr(path, '/') = '\0';
    const int fd = open(*path ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

/* Into a target that cannot be renamed over; room is made before anything is lost. */
static int copy_into_target(struct atomic_file *file)
{
    char chunk[1 << 14];
    struct stat old, made;
    const int into = open(file->target, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    int error = into < 0 || fstat(into, &old) || fstat(file->fd, &made) ? errno : 0;
    if (!error && made.st_size > old.st_size && (error = posix_fallocate(into, 0, made.st_size)))
        (void)!ftruncate(into, old.st_size);
    for (off_t at = 0; !error && at < made.st_size;) {
        const ssize_t got = pread(file->fd, chunk, sizeof chunk, at);
        if (got <= 0 || write_all(into, chunk, (size_t)got) < 0) error = errno ? errno : EIO;
        else at += got;
    }
    if (!error && (ftruncate(into, made.st_size) || fsync(into))) error = errno;
    if (into >= 0 && close(into) && !error) error = errno;
    return error;
}

int atomic_file_prepare(struct atomic_file *file, char *why, size_t why_size)
{
    if (file->prepared) return GSL_SUCCESS;
    errno = 0;
    if (fflush(file->stream) && !file->error) file->error = errno ? errno : EIO;
    if (!file->error && file->part && fsync(file->fd)) file->error = errno;
    if (file->error) return failure(file->error, why, why_size);
    file->prepared = true;
    return GSL_SUCCESS;
}

/* The part file gets the target's name, and the target, if there is one, the part file's. */
static int place_part(struct atomic_file *file)
{
    if (!access(file->target, F_OK)) {
        if (!renameat2(AT_FDCWD, file->part, AT_FDCWD, file->target, RENAME_EXCHANGE)) {
            file->placed = EXCHANGED;
            return 0;
        }
        if (errno != EINVAL && errno != ENOSYS && errno != EBUSY) return errno;
    }
    if (!rename(file->part, file->target)) {
        file->placed = RENAMED;
        return 0;
    }
    if (errno != EBUSY) return errno;
    const int error = copy_into_target(file);
    if (!error) file->placed = WRITTEN;
    return error;
}

bool atomic_file_is_reversible(const struct atomic_file *file)
{
    return file->part != NULL;
}

int atomic_file_place(struct atomic_file *file, char *why, size_t why_size)
{
    const int status = atomic_file_prepare(file, why, why_size);
    if (status || file->placed != NOT_PLACED) return status;
    int error = 0;
    if (file->part) {
        error = place_part(file);
    } else if (file->target) {
        error = copy_into_target(file);
    } else {
        /* Some file systems tell of a full disk only now. */
        if (close(file->fd)) error = errno;
        file->fd = -1;
    }
    if (error) return failure(error, why, why_size);
    if (file->placed == NOT_PLACED) file->placed = WRITTEN;
    return GSL_SUCCESS;
}

int atomic_file_commit(struct atomic_file *file, char *why, size_t why_size)
{
    const int status = atomic_file_place(file, why, why_size);
    if (status) {
        atomic_file_discard(file);
        return status;
    }
    /* After an exchange the part file is what was there before. */
    if (file->part && file->placed != RENAMED) remove_file(file->part);
    if (file->part) sync_folder_of(file->part);
    /* The lock goes with the descriptor, after the part file has its new name. */
    file_free(file);
    return GSL_SUCCESS;
}

void atomic_file_discard(struct atomic_file *file)
{
    if (!file) return;
    if (!file->error) file->error = ECANCELED;      /* what is still in the stream goes nowhere */
    if (file->placed == EXCHANGED) (void)!renameat2(AT_FDCWD, file->part, AT_FDCWD, file->target, RENAME_EXCHANGE);
    if (file->placed == RENAMED) remove_file(file->target);
    else if (file->part) remove_file(file->part);
    file_free(file);
}

/* ---- several outputs ---------------------------------------------------------------- */

enum { MAX_WAITING = 64 };

static struct { struct atomic_file *file; char *path; } waiting[MAX_WAITING];
static size_t num_waiting;
static bool collecting;

void atomic_files_begin(void)
{
    collecting = true;
}

int atomic_file_finish(struct atomic_file *file, const char *path, char *why, size_t why_size)
{
    if (!collecting) return atomic_file_commit(file, why, why_size);
    char *name = num_waiting < MAX_WAITING ? strdup(path) : NULL;
    int status = name ? atomic_file_prepare(file, why, why_size) : failure(ENOMEM, why, why_size);
    if (!status) {
        waiting[num_waiting].file = file;
        waiting[num_waiting++].path = name;
        return GSL_SUCCESS;
    }
    free(name);
    atomic_file_discard(file);
    return status;
}

int atomic_files_end(bool keep, char *why, size_t why_size)
{
    char cause[256];
    int status = GSL_SUCCESS;
    for (int last = 0; last < 2; last++)
        for (size_t i = 0; i < num_waiting && keep && !status; i++) {
            if (atomic_file_is_reversible(waiting[i].file) == last) continue;
            status = atomic_file_place(waiting[i].file, cause, sizeof cause);
            if (status) snprintf(why, why_size, "%s: %s", waiting[i].path, cause);
        }
    for (size_t i = 0; i < num_waiting; i++) {
        if (status || !keep) atomic_file_discard(waiting[i].file);
        else (void)atomic_file_commit(waiting[i].file, cause, sizeof cause);
        free(waiting[i].path);
    }
    num_waiting = 0;
    collecting = false;
    return status;
}
