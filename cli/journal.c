#include "cli/cli.h"

#include "common/hash.h"

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

struct journal {
    const struct cli_common *cfg;
    char *path;
    int fd;                  /* -1: nothing is remembered */
    off_t end;               /* of the last whole record */
    uint64_t identity;
    void *units;           /* tree of struct unit by key */
    size_t num_units;
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
    } else {
        j->num_units++;
    }
    return 0;

no_memory:
    free(e);
    free(key);
    free(x);
    return -1;
}

static bool read_exactly(int fd, void *buffer, size_t size)
{
    for (char *p = buffer; size;) {
        const ssize_t got = read(fd, p, size);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        p += got;
        size -= (size_t)got;
    }
    return true;
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

/* The program as it stands: numbers of an earlier build must not be resumed. */
static uint64_t hash_program(uint64_t hash)
{
    const int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    char buffer[1 << 16];
    for (ssize_t got; fd >= 0 && (got = read(fd, buffer, sizeof buffer)) > 0;)
        hash = hash_bytes(hash, buffer, (size_t)got);
    if (fd >= 0) close(fd);
    return hash;
}

static uint64_t hash_identity(const struct cli_common *cfg, const char *identity)
{
    uint64_t hash = hash_program(HASH_START);
    hash = hash_bytes(hash, cfg->program, strlen(cfg->program) + 1);
    hash = hash_bytes(hash, &cfg->seed, sizeof cfg->seed);
    return hash_bytes(hash, identity, strlen(identity) + 1);
}

/* Reads records until the file ends or stops making sense; moves j->end. */
static int load_records(struct journal *j, off_t file_size)
{
    for (;;) {
        struct record_head head;
        uint64_t stored, hash;
        if (!read_exactly(j->fd, &head, sizeof head)) return 0;
        const uint64_t left = (uint64_t)(file_size - j->end) - sizeof head;
        if (head.key_size == 0 || head.key_size > MAX_KEY || left < head.key_size + sizeof hash ||
            head.count > (left - head.key_size - sizeof hash) / sizeof(double))
            return 0;
        char *key = malloc(head.key_size + 1);
        double *x = malloc((head.count ? head.count : 1) * sizeof *x);
        if (!key || !x) {
            free(key);
            free(x);
            return -1;
        }
        bool whole = read_exactly(j->fd, key, head.key_size) &&
                     read_exactly(j->fd, x, head.count * sizeof *x) &&
                     read_exactly(j->fd, &stored, sizeof stored);
        if (whole) {
            hash = hash_bytes(HASH_START, &head, sizeof head);
            hash = hash_bytes(hash, key, head.key_size);
            whole = hash_bytes(hash, x, head.count * sizeof *x) == stored;
        }
        if (!whole) {
            free(key);
            free(x);
            return 0;
        }
        key[head.key_size] = '\0';
        if (remember(j, key, head.count, x)) return -1;
        j->end += (off_t)(sizeof head + head.key_size + head.count * sizeof(double) + sizeof stored);
    }
}

static void remove_states(const struct journal *j);

static struct header header_of(uint64_t identity)
{
    struct header header = { .identity = identity };
    memcpy(header.magic, magic, sizeof magic);
    header.hash = hash_bytes(HASH_START, &header, offsetof(struct header, hash));
    return header;
}

/* Leaves the file ending where the next record goes. */
static int load(struct journal *j, uint64_t identity)
{
    struct stat st;
    struct header found, wanted = header_of(identity);
    if (fstat(j->fd, &st)) return -1;
    if (read_exactly(j->fd, &found, sizeof found) && !memcmp(&found, &wanted, sizeof found)) {
        j->end = sizeof found;
        if (load_records(j, st.st_size)) {
            errno = ENOMEM;
            return -1;
        }
        return ftruncate(j->fd, j->end) || lseek(j->fd, j->end, SEEK_SET) < 0 ? -1 : 0;
    }
    remove_states(j);
    if (ftruncate(j->fd, 0) || lseek(j->fd, 0, SEEK_SET) < 0 || !write_exactly(j->fd, &wanted, sizeof wanted))
        return -1;
    j->end = sizeof wanted;
    return 0;
}

static void journal_free(struct journal *j)
{
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
    return strcmp(out, "-") && (stat(out, &st) ? errno == ENOENT : S_ISREG(st.st_mode));
}

struct journal *journal_open(const struct cli_common *cfg, const char *identity)
{
    struct journal *j = calloc(1, sizeof *j);
    if (!j) {
        cli_fail(cfg, EXIT_FAILED, "out of memory");
        return NULL;
    }
    j->cfg = cfg;
    j->fd = -1;
    pthread_mutex_init(&j->lock, NULL);
    if (!has_state(cfg->out)) return j;
    if (asprintf(&j->path, "%s.state", cfg->out) < 0) j->path = NULL;
    if (!j->path) {
        cli_fail(cfg, EXIT_FAILED, "out of memory");
        journal_free(j);
        return NULL;
    }
    j->fd = open(j->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (j->fd >= 0 && flock(j->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
        cli_fail(cfg, EXIT_FAILED, "%s: another process is using it", j->path);
        journal_free(j);
        return NULL;
    }
    j->identity = hash_identity(cfg, identity);
    if (j->fd < 0 || load(j, j->identity)) {
        cli_fail(cfg, EXIT_FAILED, "%s: %s", j->path, strerror(errno));
        journal_free(j);
        return NULL;
    }
    return j;
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
        code = cli_fail(j->cfg, EXIT_FAILED, "%s: %s", j->path, strerror(errno));
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

/* Removes every OUT.state.*, such as a kill in the middle of a save leaves, too. */
static void remove_states(const struct journal *j)
{
    const char *slash = strrchr(j->path, '/');
    char *folder = slash ? strndup(j->path, (size_t)(slash - j->path) + 1) : strdup("./");
    const char *name = slash ? slash + 1 : j->path;
    const size_t size = strlen(name);
    DIR *all = folder ? opendir(folder) : NULL;
    for (const struct dirent *entry; all && (entry = readdir(all));)
        if (!strncmp(entry->d_name, name, size) && entry->d_name[size] == '.') unlinkat(dirfd(all), entry->d_name, 0);
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
    const int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
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

int journal_save(struct journal *j, const char *key, const double *x, size_t n)
{
    if (j->fd < 0) return EXIT_DONE;
    const struct header header = header_of(j->identity);
    size_t size = 0;
    char *record = make_record(key, x, n, &size), *path = now_path(j, key), *part = NULL;
    if (!path || asprintf(&part, "%s.part", path) < 0) part = NULL;
    if (!record || !part) {
        free(record);
        free(path);
        return cli_fail(j->cfg, EXIT_FAILED, "%s: out of memory", j->path);
    }
    const int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool done = fd >= 0 && write_exactly(fd, &header, sizeof header) && write_exactly(fd, record, size)
                && !fdatasync(fd);
    if (fd >= 0 && close(fd)) done = false;
    if (done && rename(part, path)) done = false;
    const int error = errno;
    if (!done) unlink(part);
    pthread_mutex_lock(&j->lock);
    j->saved = j->saved || done;
    pthread_mutex_unlock(&j->lock);
    free(record);
    free(part);
    free(path);
    return done ? EXIT_DONE : cli_fail(j->cfg, EXIT_FAILED, "%s: %s", j->path, strerror(error));
}

void journal_forget(struct journal *j, const char *key)
{
    char *path = j->fd < 0 ? NULL : now_path(j, key);
    if (path) unlink(path);
    free(path);
}

int journal_close(struct journal *j, int code)
{
    if (!j) return code ? code : EXIT_FAILED;
    const bool interrupted = code == 130 || code == 143;
    if (j->fd >= 0 && !interrupted) remove_states(j);
    if (j->fd >= 0 && (!interrupted || (!j->num_units && !j->saved))) unlink(j->path);
    journal_free(j);
    return code;
}
