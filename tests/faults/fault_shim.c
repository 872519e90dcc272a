/* Preloaded into a program, fails the call number FAULT_N (from 1) of the function FAULT_CALL:
 *
 *   LD_PRELOAD=build/faults/fault_shim.so FAULT_CALL=malloc FAULT_N=7 build/bin/attend ...
 *
 * FAULT_CALL is malloc (with calloc, realloc and aligned_alloc), open (with fopen), read (with
 * fread and getline), write, ftruncate,
 * fsync, rename, close or unlink. FAULT_N=0 counts only; FAULT_COUNT names a file to which the
 * number of calls is written at the end. Calls before main are neither counted nor failed,
 * nor those on what the process inherited or has below /proc and /sys, nor OpenBLAS's own
 * allocations: its kernels for small matrices use theirs unchecked. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

/* What ferror looks at in the C library of GNU. */
enum { ERROR_SEEN = 0x20 };

static char failing[16];
static long wanted, seen;
static atomic_long calls;
static atomic_int ready;

/* Runs after the libraries' constructors, before main. */
__attribute__((constructor)) static void start(void)
{
    const char *call = getenv("FAULT_CALL"), *n = getenv("FAULT_N");
    if (!call || !n) return;
    snprintf(failing, sizeof failing, "%s", call);
    wanted = strtol(n, NULL, 10);
    atomic_store(&ready, 1);
}

__attribute__((destructor)) static void end(void)
{
    const char *path = getenv("FAULT_COUNT");
    seen = atomic_load(&calls);
    atomic_store(&ready, 0);
    if (!path) return;
    char text[32];
    const int len = snprintf(text, sizeof text, "%ld\n", seen);
    const int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0) return;
    (void)!syscall(SYS_write, fd, text, (size_t)len);
    syscall(SYS_close, fd);
}

static int fails(const char *call, int error)
{
    if (!atomic_load(&ready) || strcmp(call, failing)) return 0;
    if (atomic_fetch_add(&calls, 1) + 1 != wanted) return 0;
    errno = error;
    return 1;
}

/* Whether an allocation asked for from `address` fails. */
static int memory_fails(const void *address)
{
    Dl_info from;
    if (!atomic_load(&ready) || strcmp("malloc", failing)) return 0;
    if (dladdr(address, &from) && from.dli_fname && strstr(from.dli_fname, "openblas")) return 0;
    return fails("malloc", ENOMEM);
}

static int is_ours(const char *path)
{
    return strncmp(path, "/proc/", 6) && strncmp(path, "/sys/", 5) && strncmp(path, "/dev/", 5);
}

void *malloc(size_t size)
{
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    if (memory_fails(__builtin_return_address(0))) return ENOMEM;
    *out = __libc_memalign(alignment, size);
    return *out ? 0 : ENOMEM;
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    const int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    if (is_ours(path) && fails("open", EMFILE)) return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

ssize_t read(int fd, void *buffer, size_t size)
{
    return fd > 2 && fails("read", EIO) ? -1 : syscall(SYS_read, fd, buffer, size);
}

ssize_t write(int fd, const void *buffer, size_t size)
{
    return fd != 2 && fails("write", ENOSPC) ? -1 : syscall(SYS_write, fd, buffer, size);
}

/* stdio's own calls do not come by here. */
FILE *fopen(const char *path, const char *mode)
{
    static FILE *(*next)(const char *, const char *);
    if (!next) next = (FILE *(*)(const char *, const char *))dlsym(RTLD_NEXT, "fopen");
    return is_ours(path) && fails("open", EMFILE) ? NULL : next(path, mode);
}

size_t fread(void *data, size_t size, size_t count, FILE *stream)
{
    static size_t (*next)(void *, size_t, size_t, FILE *);
    if (!next) next = (size_t (*)(void *, size_t, size_t, FILE *))dlsym(RTLD_NEXT, "fread");
    if (!fails("read", EIO)) return next(data, size, count, stream);
    stream->_flags |= ERROR_SEEN;
    return 0;
}

ssize_t getline(char **line, size_t *room, FILE *stream)
{
    static ssize_t (*next)(char **, size_t *, FILE *);
    if (!next) next = (ssize_t (*)(char **, size_t *, FILE *))dlsym(RTLD_NEXT, "getline");
    if (!fails("read", EIO)) return next(line, room, stream);
    stream->_flags |= ERROR_SEEN;
    return -1;
}

int ftruncate(int fd, off_t size)
{
    return fails("ftruncate", EIO) ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

int fsync(int fd)
{
    return fails("fsync", EIO) ? -1 : (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to)
{
    return fails("rename", EIO) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    return fails("rename", EIO) ? -1 : (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
}

int close(int fd)
{
    const int result = (int)syscall(SYS_close, fd);
    return fails("close", EIO) ? -1 : result;
}

int unlink(const char *path)
{
    return fails("unlink", EIO) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
