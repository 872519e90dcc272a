#include "cli/outputs.h"

#include "common/hash.h"
#include "common/isa.h"
#include "common/reason.h"
#include "common/threads.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The file is a header and records, each closed by the hash of its bytes. A record
 * is written by one call at the end of the file: whatever kills the program leaves
 * at most the last record torn, and reading stops in front of it. */
struct header { char magic[8]; uint64_t identity, hash; };
struct record_head { uint64_t key_size, count; };

static const char magic[8] = "PNTKJRN1";
enum { MAX_KEY = 4096 };

struct unit { const char *key; size_t count; double *x; };

/* A shard whose units were taken in; held until the journal is closed. */
struct shard { char *path; int fd; struct shard *next; };

struct journal {
    const struct cli_common *cfg;
    struct shard *shards;
    char *path;
    int fd;                  /* -1: nothing is remembered */
    off_t end;               /* of the last whole record */
    uint64_t identity;
    void *units;           /* tree of struct unit by key */
    bool saved;              /* a state within a unit is, or was, there */
    time_t synced_s;
    bool failed;
    pthread_mutex_t lock;
};

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct unit *)a)->key, ((const struct unit *)b)->key);
}

static void unit_free(void *unit)
{
    struct unit *e = unit;
    free(e->x);
    free((char *)e->key);
    free(e);
}

/* Takes over key and x. */
static int remember(struct journal *j, char *key, size_t count, double *x)
{
    struct unit *e = malloc(sizeof *e);
    if (!e) goto no_memory;
    *e = (struct unit){ key, count, x };
    void **node = tsearch(e, &j->units, compare);
    if (!node) goto no_memory;
    if (*node != e) {
        unit_free(*node);
        *node = e;
    }
    return 0;

no_memory:
    free(e);
    free(key);
    free(x);
    return -1;
}

/* False with errno 0 at the end of the file. */
static bool read_exactly(int fd, void *buffer, size_t size)
{
    for (char *p = buffer; size;) {
        const ssize_t got = read(fd, p, size);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = 0;
        if (got <= 0) return false;
        p += got;
        size -= (size_t)got;
    }
    return true;
}

static const char *reason(int error)
{
    return error == ENOMEM ? "out of memory" : strerror(error);
}

static bool write_exactly(int fd, const void *buffer, size_t size)
{
    for (const char *p = buffer; size;) {
        const ssize_t put = write(fd, p, size);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return false;
        p += put;
        size -= (size_t)put;
    }
    return true;
}

/* The program as it stands: numbers of an earlier build must not be resumed. 0, or an errno. */
static int hash_program(uint64_t *hash)
{
    const int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    char buffer[1 << 16];
    if (fd < 0) return errno;
    for (ssize_t got; (got = read(fd, buffer, sizeof buffer));) {
        if (got > 0) *hash = hash_bytes(*hash, buffer, (size_t)got);
        if (got >= 0 || errno == EINTR) continue;
        const int error = errno;
        close(fd);
        return error;
    }
    close(fd);
    return 0;
}

int journal_identity(const struct cli_common *cfg, const char *identity, uint64_t *out)
{
    uint64_t hash = HASH_START;
    const int error = hash_program(&hash);
    if (error) return error;
    hash = hash_bytes(hash, cfg->program, strlen(cfg->program) + 1);
    hash = hash_bytes(hash, &cfg->seed, sizeof cfg->seed);
    /* Another instruction set or BLAS core rounds otherwise: its rows do not mix with these. */
    const char *const machine[] = { isa_name(isa_current()), threads_blas_config(), threads_blas_core() };
    for (size_t i = 0; i < sizeof machine / sizeof *machine; i++)
        hash = hash_bytes(hash, machine[i], strlen(machine[i]) + 1);
    *out = hash_bytes(hash, identity, strlen(identity) + 1);
    return 0;
}

/* Reads records until the file ends or stops making sense; moves *end, where the first of them is. -1 with
 * errno set when memory or reading fails: what stands in the file is then left alone. */
static int load_records(struct journal *j, int fd, off_t file_size, off_t *end)
{
    for (;;) {
        struct record_head head;
        uint64_t stored, hash;
        if (!read_exactly(fd, &head, sizeof head)) return errno ? -1 : 0;
        const uint64_t left = (uint64_t)(file_size - *end) - sizeof head;
        if (head.key_size == 0 || head.key_size > MAX_KEY || left < head.key_size + sizeof hash ||
            head.count > (left - head.key_size - sizeof hash) / sizeof(double))
            return 0;
        char *key = malloc(head.key_size + 1);
        double *x = malloc((head.count ? head.count : 1) * sizeof *x);
        if (!key || !x) {
            free(key);
            free(x);
            errno = ENOMEM;
            return -1;
        }
        errno = 0;
        bool whole = read_exactly(fd, key, head.key_size) &&
                     read_exactly(fd, x, head.count * sizeof *x) &&
                     read_exactly(fd, &stored, sizeof stored);
        const int error = whole ? 0 : errno;
        if (whole) {
            hash = hash_bytes(HASH_START, &head, sizeof head);
            hash = hash_bytes(hash, key, head.key_size);
            whole = hash_bytes(hash, x, head.count * sizeof *x) == stored;
        }
        if (!whole) {
            free(key);
            free(x);
            errno = error;
            return error ? -1 : 0;
        }
        key[head.key_size] = '\0';
        if (remember(j, key, head.count, x)) {
            errno = ENOMEM;
            return -1;
        }
        *end += (off_t)(sizeof head + head.key_size + head.count * sizeof(double) + sizeof stored);
    }
}

static void remove_states(const char *path);

static struct header header_of(uint64_t identity)
{
    struct header header = { .identity = identity };
    memcpy(header.magic, magic, sizeof magic);
    header.hash = hash_bytes(HASH_START, &header, offsetof(struct header, hash));
    return header;
}

/* Whether the open file begins as a journal or state of ours does. */
static bool is_ours(int fd)
{
    char found[sizeof magic];
    struct stat st;
    return !fstat(fd, &st) && S_ISREG(st.st_mode) && pread(fd, found, sizeof found, 0) == sizeof found
           && !memcmp(found, magic, sizeof found);
}

/* Opens a file that is ours; -1 with errno EEXIST for one that is not, ENOENT for none. */
static int open_ours(const char *path, int flags)
{
    struct stat st;
    const int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        if (errno != ENOENT && errno != EMFILE && errno != ENFILE && errno != ENOMEM && !lstat(path, &st)
            && !(S_ISREG(st.st_mode) && errno != EACCES))
            errno = EEXIST;
        return -1;
    }
    if (is_ours(fd)) return fd;
    close(fd);
    errno = EEXIST;
    return -1;
}

/* A new journal in place of `path`, complete with its header before it has the name; locked. */
static int create(struct journal *j)
{
    const struct header header = header_of(j->identity);
    char *part = NULL;
    const char *slash = strrchr(j->path, '/'), *name = slash ? slash + 1 : j->path;
    if (asprintf(&part, "%.*s.%.200s.prefix-ntk-part", (int)(name - j->path), j->path, name) < 0) part = NULL;
    if (!part) return ENOMEM;
    /* Left by a kill at this very place, or held by a process that is here now. */
    int fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666), error = fd < 0 ? errno : 0;
    struct stat held, named;
    if (!error && flock(fd, LOCK_EX | LOCK_NB)) error = errno;
    if (!error && (fstat(fd, &held) || lstat(part, &named) || held.st_ino != named.st_ino)) error = EWOULDBLOCK;
    if (!error && (!S_ISREG(held.st_mode) || ftruncate(fd, 0))) error = EEXIST;
    if (!error && !write_exactly(fd, &header, sizeof header)) error = errno;
    if (!error && rename(part, j->path)) error = errno;
    if (error && error != EWOULDBLOCK && fd >= 0) unlink(part);
    free(part);
    if (error) {
        if (fd >= 0) close(fd);
        return error;
    }
    if (j->fd >= 0) close(j->fd);
    j->fd = fd;
    j->end = sizeof header;
    return 0;
}

/* Finds or makes the journal at j->path: 0, or an errno, EEXIST for a file that is not ours.
 * Leaves the file ending where the next record goes. */
static int attach(struct journal *j)
{
    struct stat st, named;
    struct header found, wanted = header_of(j->identity);
    j->fd = open_ours(j->path, O_RDWR);
    if (j->fd < 0) return errno == ENOENT ? create(j) : errno;
    if (flock(j->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) return EWOULDBLOCK;
    if (fstat(j->fd, &st)) return errno;
    /* Its owner may have ended, and removed it, in between. */
    if (lstat(j->path, &named) || st.st_ino != named.st_ino) return EWOULDBLOCK;
    const bool whole = read_exactly(j->fd, &found, sizeof found);
    if (!whole && errno) return errno;
    if (whole && !memcmp(&found, &wanted, sizeof found)) {
        j->end = sizeof found;
        if (load_records(j, j->fd, st.st_size, &j->end)) return errno;
        return ftruncate(j->fd, j->end) || lseek(j->fd, j->end, SEEK_SET) < 0 ? errno : 0;
    }
    remove_states(j->path);
    return create(j);
}

static void journal_free(struct journal *j)
{
    for (struct shard *next; j->shards; j->shards = next) {
        next = j->shards->next;
        close(j->shards->fd);
        free(j->shards->path);
        free(j->shards);
    }
    tdestroy(j->units, unit_free);
    if (j->fd >= 0) close(j->fd);
    pthread_mutex_destroy(&j->lock);
    free(j->path);
    free(j);
}

/* Whether the table goes to a regular file, there already or still to be made. */
static bool has_state(const char *out)
{
    struct stat st;
    return atomic_file_descriptor(out) < 0 && (stat(out, &st) ? errno == ENOENT : S_ISREG(st.st_mode));
}

/* The first name of the two that is free or ours; a shard's is the one others look for. */
static int find_place(struct journal *j)
{
    const char *out = j->cfg->out, *slash = strrchr(out, '/'), *name = slash ? slash + 1 : out;
    int error = EEXIST;
    if (j->cfg->num_shards) {
        if (asprintf(&j->path, "%s.shard-%zu-of-%zu", out, j->cfg->shard, j->cfg->num_shards) >= 0) return attach(j);
        j->path = NULL;
        return ENOMEM;
    }
    for (int hidden = 0; hidden < 2 && error == EEXIST; hidden++) {
        free(j->path);
        if (asprintf(&j->path, hidden ? "%.*s.%s.prefix-ntk-state"
                     : "%.*s%s.state", (int)(name - out), out, name) < 0) {
            j->path = NULL;
            return ENOMEM;
        }
        error = attach(j);
        if (error && j->fd >= 0) {
            close(j->fd);
            j->fd = -1;
        }
    }
    return error;
}

/* The folder of a path; the caller frees. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, (size_t)(slash - path) + 1) : strdup("./");
}

/* Takes in the units of one shard; exit code, the line printed. Takes over path. */
static int take_shard(struct journal *j, char *path)
{
    const struct header wanted = header_of(j->identity);
    struct header found;
    struct stat st;
    struct shard *shard = malloc(sizeof *shard);
    const int fd = open_ours(path, O_RDWR);
    int error = !shard ? ENOMEM : fd < 0 ? errno : 0;
    bool foreign = error == EEXIST || error == ENOENT;
    if (!error && flock(fd, LOCK_EX | LOCK_NB)) error = errno;
    if (!error && fstat(fd, &st)) error = errno;
    if (!error && !read_exactly(fd, &found, sizeof found)) {
        error = errno;
        foreign = !error;
    }
    if (!error && !foreign) foreign = memcmp(&found, &wanted, sizeof found);
    if (!error && !foreign) {
        off_t end = sizeof found;
        if (load_records(j, fd, st.st_size, &end)) error = errno;
        *shard = (struct shard){ path, fd, j->shards };
        j->shards = shard;
        return error ? cli_fail(j->cfg, EXIT_FAILED, "%s: %s", path, reason(error)) : EXIT_DONE;
    }
    int code = EXIT_DONE;
    if (foreign)
        cli_warn(j->cfg, "warning: %s: not of this command (other options, seed, program or machine): left aside",
                 path);
    else code = cli_fail(j->cfg, EXIT_FAILED, "%s: %s", path, error == EWOULDBLOCK ? "another process is using it"
                         : reason(error));
    if (fd >= 0) close(fd);
    free(shard);
    free(path);
    return code;
}

/* "-of-" and two numbers behind OUT.shard-. */
static bool is_shard_number(const char *text)
{
    static const char digits[] = "0123456789";
    const size_t first = strspn(text, digits), second = strncmp(text + first, "-of-", 4) ? 0 : strspn(text + first + 4,
        digits);
    return first && second && !text[first + 4 + second];
}

/* Every shard beside --out; exit code, the line printed. */
static int take_shards(struct journal *j)
{
    const char *out = j->cfg->out, *slash = strrchr(out, '/'), *name = slash ? slash + 1 : out;
    char *folder = folder_of(out), *prefix = NULL, *path;
    int code = EXIT_DONE;
    if (asprintf(&prefix, "%s.shard-", name) < 0) prefix = NULL;
    DIR *all = folder && prefix ? opendir(folder) : NULL;
    if (!folder || !prefix) code = cli_fail(j->cfg, EXIT_FAILED, "out of memory");
    for (const struct dirent *entry; all && !code && (entry = readdir(all));) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) || !is_shard_number(entry->d_name + strlen(prefix)))
            continue;
        if (asprintf(&path, "%s%s", slash ? folder : "", entry->d_name) < 0)
            code = cli_fail(j->cfg, EXIT_FAILED, "out of memory");
        else code = take_shard(j, path);
    }
    if (all) closedir(all);
    free(prefix);
    free(folder);
    return code;
}

struct journal *journal_open(const struct cli_common *cfg, const char *identity)
{
    char why[256];
    cli_outputs_begin(cfg);
    if (atomic_file_check(cfg->out, why, sizeof why)) {
        cli_fail(cfg, EXIT_FAILED, "%s: %s", cfg->out, why);
        return NULL;
    }
    struct journal *j = calloc(1, sizeof *j);
    if (!j) {
        cli_fail(cfg, EXIT_FAILED, "out of memory");
        return NULL;
    }
    j->cfg = cfg;
    j->fd = -1;
    pthread_mutex_init(&j->lock, NULL);
    if (!identity) {
        cli_fail(cfg, EXIT_FAILED, "out of memory");
        journal_free(j);
        return NULL;
    }
    if (!has_state(cfg->out)) return j;
    const int unknown = journal_identity(cfg, identity, &j->identity), error = unknown ? unknown : find_place(j);
    if (!error && !cfg->num_shards && take_shards(j)) {
        journal_free(j);
        return NULL;
    }
    if (!error) return j;
    if (!cfg->num_shards && (error == EACCES || error == EROFS || error == EPERM) && !access(cfg->out, W_OK)) {
        /* The table can be written where nothing can be made beside it. */
        cli_warn(cfg, "warning: no state can be kept beside %s: a run cut short starts afresh", cfg->out);
        return j;
    }
    cli_fail(cfg, EXIT_FAILED, "%s: %s", j->path ? j->path : cfg->out, error == EWOULDBLOCK
             ? "another process is using it"
             : error == EEXIST ? "not a state file of ours" : reason(error));
    journal_free(j);
    return NULL;
}

int journal_get(struct journal *j, const char *key, double *out, size_t n)
{
    pthread_mutex_lock(&j->lock);
    const struct unit wanted = { .key = key };
    struct unit *const *node = tfind(&wanted, &j->units, compare);
    const int found = node && (*node)->count == n;
    if (found && n) memcpy(out, (*node)->x, n * sizeof *out);
    pthread_mutex_unlock(&j->lock);
    return found;
}

/* Head, key, numbers and hash as one piece of memory; NULL without memory. */
static char *make_record(const char *key, const double *x, size_t n, size_t *size)
{
    const struct record_head head = { strlen(key), n };
    *size = sizeof head + head.key_size + n * sizeof *x + sizeof(uint64_t);
    char *record = malloc(*size), *p = record;
    if (!record) return NULL;
    p = (char *)memcpy(p, &head, sizeof head) + sizeof head;
    p = (char *)memcpy(p, key, head.key_size) + head.key_size;
    if (n) memcpy(p, x, n * sizeof *x);
    p += n * sizeof *x;
    const uint64_t hash = hash_bytes(HASH_START, record, (size_t)(p - record));
    memcpy(p, &hash, sizeof hash);
    return record;
}

int journal_put(struct journal *j, const char *key, const double *x, size_t n)
{
    if (j->fd < 0) return EXIT_DONE;
    const size_t key_size = strlen(key);
    if (key_size == 0 || key_size > MAX_KEY)
        return cli_fail(j->cfg, EXIT_FAILED, "%s: a key of %zu characters", j->path, key_size);
    size_t size;
    char *record = make_record(key, x, n, &size);
    char *own_key = strdup(key);
    double *own_x = malloc((n ? n : 1) * sizeof *own_x);
    if (own_x && n) memcpy(own_x, x, n * sizeof *own_x);
    int code = EXIT_DONE;

    pthread_mutex_lock(&j->lock);
    if (!record || !own_key || !own_x) {
        free(own_key);
        free(own_x);
        code = cli_fail(j->cfg, EXIT_FAILED, "%s: out of memory", j->path);
    } else if (j->failed) {
        free(own_key);
        free(own_x);
        code = EXIT_FAILED;
    } else if (!write_exactly(j->fd, record, size)) {
        free(own_key);
        free(own_x);
        code = cli_fail(j->cfg, EXIT_FAILED, "%s: %s", j->path, reason(errno));
        /* A record written in part must not stand in front of a later one. */
        j->failed = ftruncate(j->fd, j->end) || lseek(j->fd, j->end, SEEK_SET) < 0;
    } else {
        j->end += (off_t)size;
        /* A killed program loses nothing that was written; against a power cut the
         * disk is waited for, at most once a second. */
        const time_t now_s = time(NULL);
        if (now_s != j->synced_s) fdatasync(j->fd);
        j->synced_s = now_s;
        if (remember(j, own_key, n, own_x))
            code = cli_fail(j->cfg, EXIT_FAILED, "%s: out of memory", j->path);
    }
    pthread_mutex_unlock(&j->lock);
    free(record);
    return code;
}

/* Where the state within unit `key` is: OUT.state.HASH. The caller frees. */
static char *now_path(const struct journal *j, const char *key)
{
    char *path = NULL;
    const uint64_t hash = hash_bytes(HASH_START, key, strlen(key));
    return asprintf(&path, "%s.%016" PRIx64, j->path, hash) < 0 ? NULL : path;
}

/* Removes those of every key beside the journal `path`. */
static void remove_states(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = folder_of(path);
    const char *name = slash ? slash + 1 : path;
    const size_t size = strlen(name);
    DIR *all = folder ? opendir(folder) : NULL;
    for (const struct dirent *entry; all && (entry = readdir(all));) {
        const char *key = entry->d_name + size + 1;
        if (strncmp(entry->d_name, name, size) || entry->d_name[size] != '.' || strlen(key) != 16
            || strspn(key, "0123456789abcdef") != 16)
            continue;
        const int fd = openat(dirfd(all), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd >= 0 && is_ours(fd)) unlinkat(dirfd(all), entry->d_name, 0);
        if (fd >= 0) close(fd);
    }
    if (all) closedir(all);
    free(folder);
}

/* The saved state is a header and one record, as in the journal. */
int journal_saved(struct journal *j, const char *key, double *out, size_t n)
{
    const struct header wanted = header_of(j->identity);
    const struct record_head head = { strlen(key), n };
    const size_t before = sizeof head + head.key_size, size = before + n * sizeof *out + sizeof(uint64_t);
    struct header found;
    int same = 0;
    if (j->fd < 0) return 0;
    char *path = now_path(j, key);
    const int fd = path ? open_ours(path, O_RDONLY) : -1;
    free(path);
    if (fd < 0) return 0;
    pthread_mutex_lock(&j->lock);
    j->saved = true;
    pthread_mutex_unlock(&j->lock);
    char *stored = malloc(size);
    if (stored && read_exactly(fd, &found, sizeof found) && !memcmp(&found, &wanted, sizeof found)
        && read_exactly(fd, stored, size) && !memcmp(stored, &head, sizeof head)
        && !memcmp(stored + sizeof head, key, head.key_size)) {
        uint64_t hash;
        memcpy(&hash, stored + size - sizeof hash, sizeof hash);
        same = hash == hash_bytes(HASH_START, stored, size - sizeof hash);
        if (same) memcpy(out, stored + before, n * sizeof *out);
    }
    free(stored);
    close(fd);
    return same;
}

size_t journal_saved_size(struct journal *j, const char *key)
{
    const struct header wanted = header_of(j->identity);
    struct header found;
    struct record_head head = { 0, 0 };
    char *path = j->fd < 0 ? NULL : now_path(j, key);
    const int fd = path ? open_ours(path, O_RDONLY) : -1;
    free(path);
    if (fd < 0) return 0;
    if (!read_exactly(fd, &found, sizeof found) || memcmp(&found, &wanted, sizeof found)
        || !read_exactly(fd, &head, sizeof head))
        head.count = 0;
    close(fd);
    return head.count;
}

int journal_save(struct journal *j, const char *key, const double *x, size_t n)
{
    if (j->fd < 0) return EXIT_DONE;
    const struct header header = header_of(j->identity);
    char why[256] = "out of memory";
    size_t size = 0;
    char *record = make_record(key, x, n, &size), *path = now_path(j, key);
    struct atomic_file *file = NULL;
    int status = !record || !path;
    if (!status) {
        const int old = open_ours(path, O_RDONLY);
        if (old >= 0) close(old);
        else if (errno != ENOENT) status = refuse((struct reason){ why, sizeof why }, -1, "not a state file of ours");
    }
    if (!status && !(status = atomic_file_open(path, &file, why, sizeof why))) {
        fwrite(&header, 1, sizeof header, atomic_file_stream(file));
        fwrite(record, 1, size, atomic_file_stream(file));
        status = atomic_file_commit(file, why, sizeof why);
    }
    if (!status) {
        pthread_mutex_lock(&j->lock);
        j->saved = true;
        pthread_mutex_unlock(&j->lock);
    }
    free(record);
    const int code = status ? cli_fail(j->cfg, EXIT_FAILED, "%s: %s", path ? path : j->path, why) : EXIT_DONE;
    free(path);
    return code;
}

void journal_forget(struct journal *j, const char *key)
{
    char *path = j->fd < 0 ? NULL : now_path(j, key);
    const int fd = path ? open_ours(path, O_RDONLY) : -1;
    if (fd >= 0) {
        unlink(path);
        close(fd);
    }
    free(path);
}

int journal_close(struct journal *j, int code)
{
    if (!j) return cli_outputs_end(NULL, code ? code : EXIT_FAILED);
    const bool shard = j->cfg->num_shards;
    if (shard && !code) code = EXIT_SHARD;
    code = cli_outputs_end(j->cfg, code);
    if (shard && code == EXIT_SHARD) {
        code = j->fd >= 0 && fdatasync(j->fd) ? cli_fail(j->cfg, EXIT_FAILED, "%s: %s", j->path, reason(errno))
            : EXIT_DONE;
        remove_states(j->path);
        journal_free(j);
        return code;
    }
    if (j->fd >= 0 && !code) {
        remove_states(j->path);
        for (const struct shard *s = j->shards; s; s = s->next) {
            remove_states(s->path);
            unlink(s->path);
        }
    }
    if (j->fd >= 0 && (!code || (j->end <= (off_t)sizeof(struct header) && !j->saved)) && unlink(j->path))
        (void)!unlink(j->path);
    journal_free(j);
    return code;
}
