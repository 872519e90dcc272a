#include "transformer/wordpiece.h"

#include "common/hash.h"
#include "common/input_file.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { MAX_WORD = 100, MAX_PIECE = 1024, MAX_VOCAB = 1 << 22 };

struct wordpiece {
    char *storage;                  /* the file, lines ended by NUL */
    const char **tokens;
    size_t size;
    int32_t *table;                 /* open addressing, -1: free */
    size_t mask;
    int32_t cls, sep, unk;
    bool mpnet;
};

/* ---- vocabulary ------------------------------------------------------------------------------------- */

static int32_t *slot(const struct wordpiece *w, const char *token, size_t len)
{
    size_t i = (size_t)hash_bytes(HASH_START, token, len) & w->mask;
    while (w->table[i] >= 0 && (strlen(w->tokens[w->table[i]]) != len || memcmp(w->tokens[w->table[i]], token, len)))
        i = (i + 1) & w->mask;
    return &w->table[i];
}

static int32_t find(const struct wordpiece *w, const char *token)
{
    return *slot(w, token, strlen(token));
}

static int index_lines(struct wordpiece *w, size_t bytes, struct reason why)
{
    size_t lines = 0;
    for (size_t i = 0; i < bytes; i++) lines += w->storage[i] == '\n';
    if (bytes && w->storage[bytes - 1] != '\n') lines++;
    if (lines > MAX_VOCAB) return refuse(why, GSL_EINVAL, "more than %d tokens", MAX_VOCAB);
    size_t room = 16;
    while (room < 2 * lines + 2) room *= 2;
    w->mask = room - 1;
    w->table = malloc(room * sizeof *w->table);
    w->tokens = malloc((lines + 1) * sizeof *w->tokens);
    if (!w->table || !w->tokens) return refuse(why, GSL_ENOMEM, "out of memory");
    for (size_t i = 0; i < room; i++) w->table[i] = -1;
    char *line = w->storage;
    for (size_t l = 0; l < lines; l++) {
        char *end = line + strcspn(line, "\n");
        char *next = end + (*end == '\n');
        *end = '\0';
        if (end > line && end[-1] == '\r') end[-1] = '\0';
        int32_t *at = slot(w, line, strlen(line));
        if (*at >= 0) return refuse(why, GSL_EINVAL, "line %zu: token %.40s stands there twice", l + 1, line);
        w->tokens[l] = line;
        *at = (int32_t)l;
        w->size = l + 1;
        line = next;
    }
    return GSL_SUCCESS;
}

int wordpiece_open(const char *vocab_path, struct wordpiece **out, struct reason why)
{
    size_t bytes;
    struct wordpiece *w = calloc(1, sizeof *w);
    int status = w ? input_file_text(vocab_path, &w->storage, &bytes, why) : refuse(why, GSL_ENOMEM, "out of memory");
    if (!status) status = index_lines(w, bytes, why);
    if (!status) {
        /* MPNet's vocabulary has BERT's specials, too, but begins with its own. */
        w->mpnet = w->size && !strcmp(w->tokens[0], "<s>");
        w->cls = find(w, w->mpnet ? "<s>" : "[CLS]");
        w->sep = find(w, w->mpnet ? "</s>" : "[SEP]");
        w->unk = find(w, "[UNK]");
        if (w->cls < 0 || w->sep < 0 || w->unk < 0)
            status = refuse(why, GSL_EINVAL, "no tokens [CLS], [SEP], [UNK] (or <s>, </s>)");
    }
    if (status) wordpiece_free(w);
    else *out = w;
    return status;
}

void wordpiece_free(struct wordpiece *w)
{
    if (!w) return;
    free(w->table);
    free(w->tokens);
    free(w->storage);
    free(w);
}

size_t wordpiece_size(const struct wordpiece *w)
{
    return w->size;
}

/* ---- characters ---------------------------------------------------------------------------------------- */

static bool is_space(utf8proc_int32_t c)
{
    const utf8proc_category_t k = utf8proc_category(c);
    return c == '\t' || c == '\n' || c == '\r' || k == UTF8PROC_CATEGORY_ZS || k == UTF8PROC_CATEGORY_ZL
        || k == UTF8PROC_CATEGORY_ZP;
}

/* Dropped when cleaning: controls, formats, surrogates, private characters, U+FFFD. Unassigned ones stay, so that what
 * happens to a new character does not depend on the edition of Unicode. */
static bool is_dropped(utf8proc_int32_t c)
{
    const utf8proc_category_t k = utf8proc_category(c);
    return c == 0 || c == 0xFFFD || k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF
        || k == UTF8PROC_CATEGORY_CS ||
           k == UTF8PROC_CATEGORY_CO;
}

static bool is_cjk(utf8proc_int32_t c)
{
    static const utf8proc_int32_t blocks[][2] = {
        { 0x4E00, 0x9FFF }, { 0x3400, 0x4DBF }, { 0x20000, 0x2A6DF }, { 0x2A700, 0x2B73F }, { 0x2B740, 0x2B81F },
        { 0x2B820, 0x2CEAF }, { 0xF900, 0xFAFF }, { 0x2F800, 0x2FA1F },
    };
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (c >= blocks[i][0] && c <= blocks[i][1]) return true;
    return false;
}

static bool is_punctuation(utf8proc_int32_t c)
{
    if ((c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126)) return true;
    const utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

/* ---- pieces ----------------------------------------------------------------------------------------------- */

struct pieces { int32_t *ids; size_t count, room; bool failed; };

static void push(struct pieces *p, int32_t id)
{
    if (p->count == p->room) {
        const size_t room = p->room ? 2 * p->room : 64;
        int32_t *grown = realloc(p->ids, room * sizeof *grown);
        if (!grown) {
            p->failed = true;
            return;
        }
        p->ids = grown;
        p->room = room;
    }
    p->ids[p->count++] = id;
}

/* A word under way: its characters as UTF-8, and where each begins. */
struct word { char bytes[MAX_WORD * 4 + 8]; size_t starts[MAX_WORD + 1], chars; bool too_long; };

/* The longest pieces from the left; a word with a part that is in no vocabulary is one [UNK]. */
static void split_word(const struct wordpiece *w, const struct word *word, struct pieces *out)
{
    if (!word->chars) return;
    const size_t before = out->count;
    size_t at = 0;
    while (at < word->chars && !word->too_long) {
        size_t end = word->chars;
        int32_t id = -1;
        for (; end > at && id < 0; end--) {
            char piece[sizeof word->bytes + 2];
            const size_t len = word->starts[end] - word->starts[at], mark = at ? 2 : 0;
            memcpy(piece, "##", mark);
            memcpy(piece + mark, word->bytes + word->starts[at], len);
            id = *slot(w, piece, mark + len);
        }
        if (id < 0) break;
        push(out, id);
        at = end + 1;
    }
    if (at < word->chars) {
        out->count = before;
        push(out, w->unk);
    }
}

static void add_char(struct word *word, utf8proc_int32_t c)
{
    if (word->chars == MAX_WORD) {
        word->too_long = true;
        return;
    }
    const utf8proc_ssize_t n = utf8proc_encode_char(c, (utf8proc_uint8_t *)word->bytes + word->starts[word->chars]);
    word->starts[word->chars + 1] = word->starts[word->chars] + (size_t)n;
    word->chars++;
}

static void end_word(const struct wordpiece *w, struct word *word, struct pieces *out)
{
    split_word(w, word, out);
    word->chars = 0;
    word->too_long = false;
}

/* One cleaned character: without its marks, in lower case, set apart when it is CJK or punctuation. */
static void feed(const struct wordpiece *w, utf8proc_int32_t c, struct word *word, struct pieces *out)
{
    if (is_space(c)) {
        end_word(w, word, out);
        return;
    }
    const bool alone = is_cjk(c);
    if (alone) end_word(w, word, out);
    utf8proc_int32_t parts[16];
    int last = 0;
    const utf8proc_ssize_t n = utf8proc_decompose_char(utf8proc_tolower(c), parts, 16, UTF8PROC_DECOMPOSE, &last);
    for (utf8proc_ssize_t i = 0; i < n && i < 16; i++) {
        if (utf8proc_category(parts[i]) == UTF8PROC_CATEGORY_MN) continue;
        const bool mark = is_punctuation(parts[i]);
        if (mark) end_word(w, word, out);
        add_char(word, parts[i]);
        if (mark) end_word(w, word, out);
    }
    if (alone) end_word(w, word, out);
}

static void tokenize(const struct wordpiece *w, const char *text, struct pieces *out)
{
    const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)text;
    utf8proc_ssize_t left = (utf8proc_ssize_t)strlen(text);
    struct word word = { .chars = 0 };
    while (left > 0 && !out->failed) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate(at, left, &c);
        if (n <= 0) {
            n = 1;
            c = 0xFFFD;
        }
        if (is_space(c) || !is_dropped(c)) feed(w, c, &word, out);
        at += n;
        left -= n;
    }
    end_word(w, &word, out);
}

int wordpiece_encode(const struct wordpiece *w, const char *text, const char *text2, size_t max_len, int32_t *ids,
                     int32_t *types, size_t *len)
{
    const size_t specials = text2 ? (w->mpnet ? 4 : 3) : 2;
    if (max_len < specials + (text2 ? 2 : 1)) return GSL_EINVAL;
    struct pieces a = { NULL, 0, 0, false }, b = { NULL, 0, 0, false };
    tokenize(w, text, &a);
    if (text2) tokenize(w, text2, &b);
    const int status = a.failed || b.failed ? GSL_ENOMEM : GSL_SUCCESS;
    if (!status) {
        while (a.count + b.count + specials > max_len) {
            if (a.count >= b.count) a.count--;
            else b.count--;
        }
        size_t n = 0;
        ids[n++] = w->cls;
        for (size_t i = 0; i < a.count; i++) ids[n++] = a.ids[i];
        ids[n++] = w->sep;
        const size_t first = n;
        if (text2) {
            if (w->mpnet) ids[n++] = w->sep;
            for (size_t i = 0; i < b.count; i++) ids[n++] = b.ids[i];
            ids[n++] = w->sep;
        }
        for (size_t i = 0; types && i < n; i++) types[i] = i >= first && !w->mpnet;
        *len = n;
    }
    free(a.ids);
    free(b.ids);
    return status;
}
