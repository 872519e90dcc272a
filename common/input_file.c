#include "common/input_file.h"

#include <errno.h>
#include <fcntl.h>
#include <gsl/gsl_errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/hash.h"

static FILE *refused(int fd, int error, const char *line, char *why, size_t why_size)
{
    snprintf(why, why_size, "%s", line ? line : error == ENOMEM ? "out of memory" : strerror(error));
    if (fd >= 0) close(fd);
    errno = error;
    return NULL;
}

FILE *input_file_open(const char *path, uint64_t *size, char *why, size_t why_size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) return refused(fd, errno, NULL, why, why_size);
    if (S_ISDIR(st.st_mode)) return refused(fd, EISDIR, "is a directory", why, why_size);
    if (!S_ISREG(st.st_mode)) return refused(fd, EINVAL, "is not a regular file", why, why_size);
    FILE *file = fdopen(fd, "r");
    if (!file) return refused(fd, errno, NULL, why, why_size);
    *size = (uint64_t)st.st_size;
    return file;
}

int input_file_status(int error)
{
    switch (error) {
    case ENOMEM:
        return GSL_ENOMEM;
    case EIO: case EMFILE: case ENFILE: case ENOBUFS: case EAGAIN: case EINTR: case ESTALE: case ETIMEDOUT:
        return REASON_SYSTEM;
    default:
        return GSL_EFAILED;
    }
}

int input_file_read(FILE *file, void *buffer, size_t size, const char *too_short, struct reason why)
{
    errno = 0;
    if (fread(buffer, 1, size, file) == size) return GSL_SUCCESS;
    if (!ferror(file)) return refuse(why, GSL_EINVAL, "%s", too_short);
    const int error = errno ? errno : EIO;
    return refuse(why, error == ENOMEM ? GSL_ENOMEM : REASON_SYSTEM, "%s", error == ENOMEM ? "out of memory" :
                  strerror(error));
}

int input_file_whole(const char *path, unsigned char **bytes, size_t *size, struct reason why)
{
    uint64_t length;
    *bytes = NULL;
    FILE *file = input_file_open(path, &length, why.text, why.size);
    if (!file) return input_file_status(errno);
    *size = (size_t)length;
    if (length < SIZE_MAX / 2) *bytes = malloc(*size + 1);
    int status = *bytes ? input_file_read(file, *bytes, *size, "truncated", why) :
        refuse(why, GSL_ENOMEM, "out of memory");
    if (!status) (*bytes)[*size] = 0;
    fclose(file);
    if (status) {
        free(*bytes);
        *bytes = NULL;
    }
    return status;
}

int input_file_text(const char *path, char **text, size_t *size, struct reason why)
{
    unsigned char *bytes;
    int status = input_file_whole(path, &bytes, size, why);
    if (!status && memchr(bytes, 0, *size)) status = refuse(why, GSL_EINVAL, "not a text file (a zero byte)");
    if (status) free(bytes), bytes = NULL;
    *text = (char *)bytes;
    return status;
}

int input_file_hash(const char *path, uint64_t *hash, struct reason why)
{
    char piece[1 << 14], cause[256];
    uint64_t size;
    FILE *file = input_file_open(path, &size, cause, sizeof cause);
    if (!file) return refuse(why, input_file_status(errno), "%s: %s", path, cause);
    errno = 0;
    for (size_t n; (n = fread(piece, 1, sizeof piece, file)) > 0;) *hash = hash_bytes(*hash, piece, n);
    const int error = ferror(file) ? errno ? errno : EIO : 0;
    fclose(file);
    return error ? refuse(why, input_file_status(error), "%s: %s", path, strerror(error)) : GSL_SUCCESS;
}
