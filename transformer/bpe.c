#include "transformer/bpe.h"

#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "data/json_file.h"

enum { NUM_BYTES = 256, EMPTY = -1 };

/* A pair of tokens that merge. */
struct merge { uint64_t pair; int32_t rank, token; };

struct bpe {
    size_t num_tokens;
    char *pool;                     /* all bytes, one token after the other, then the spellings */
    size_t *start;                  /* (2 num_tokens + 1): bytes of token i, spelling of token i at num_tokens + i */
    unsigned char *special;
    int32_t *longest_special;       /* special tokens, the longest first */
    size_t num_special;
    int32_t byte_token[NUM_BYTES];
    int32_t *slots;                 /* spelling -> token, open addressing; a power of two of them */
    size_t num_slots;
    struct merge *merges;           /* pair -> merge, likewise; rank EMPTY: free */
    size_t merge_slots;
    int split_digits;
};

/* ---- GPT-2's spelling of bytes ------------------------------------------------------------------ */

static bool is_printable_byte(int byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* The code point a byte is spelt as: itself, or 256 and on in the order of bytes. */
static void spell_bytes(int32_t code[NUM_BYTES])
{
    int32_t next = NUM_BYTES;
    for (int byte = 0; byte < NUM_BYTES; byte++) code[byte] = is_printable_byte(byte) ? byte : next++;
}

/* Writes the bytes that `text` spells; false when it spells none. */
static bool unspell(struct gguf_text text, const int16_t byte_of[512], char *out, size_t *len)
{
    *len = 0;
    for (size_t at = 0; at < text.len;) {
        utf8proc_int32_t code;
        const utf8proc_ssize_t step = utf8proc_iterate((const utf8proc_uint8_t *)text.bytes + at,
                                                       (utf8proc_ssize_t)(text.len - at), &code);
        if (step <= 0 || code >= 512 || byte_of[code] < 0) return false;
        out[(*len)++] = (char)byte_of[code];
        at += (size_t)step;
    }
    return true;
}

/* ---- hashing ---------------------------------------------------------------------------------------- */

static uint64_t hash_bytes(const char *bytes, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;           /* FNV-1a */
    for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

static uint64_t hash_pair(uint64_t pair)
{
    const uint64_t h = pair * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static struct gguf_text spelling(const struct bpe *bpe, int32_t id)
{
    const size_t i = bpe->num_tokens + (size_t)id;
    return (struct gguf_text){ bpe->pool + bpe->start[i], bpe->start[i + 1] - bpe->start[i] };
}

/* The slot of a spelling, or the free one where it would go. */
static size_t slot_of(const struct bpe *bpe, const char *bytes, size_t len)
{
    size_t slot = hash_bytes(bytes, len) & (bpe->num_slots - 1);
    for (; bpe->slots[slot] != EMPTY; slot = (slot + 1) & (bpe->num_slots - 1)) {
        const struct gguf_text there = spelling(bpe, bpe->slots[slot]);
        if (there.len == len && !memcmp(there.bytes, bytes, len)) break;
    }
    return slot;
}

static int32_t find_spelling(const struct bpe *bpe, const char *bytes, size_t len)
{
    return bpe->slots[slot_of(bpe, bytes, len)];
}

static struct merge *merge_slot(const struct bpe *bpe, uint64_t pair)
{
    size_t slot = hash_pair(pair) & (bpe->merge_slots - 1);
    while (bpe->merges[slot].rank != EMPTY && bpe->merges[slot].pair != pair) slot = (slot + 1)
        & (bpe->merge_slots - 1);
    return &bpe->merges[slot];
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* ---- making one ------------------------------------------------------------------------------------- */

static size_t power_above(size_t n)
{
    size_t power = 16;
    while (power < 2 * n) power *= 2;
    return power;
}

static int compare_special(const void *a, const void *b, void *context)
{
    const struct bpe *bpe = context;
    const int32_t left = *(const int32_t *)a, right = *(const int32_t *)b;
    const size_t len_left = spelling(bpe, left).len, len_right = spelling(bpe, right).len;
    if (len_left != len_right) return len_left < len_right ? 1 : -1;
    return (left > right) - (left < right);
}

static int take_tokens(struct bpe *bpe, const struct bpe_source *source, struct reason why)
{
    int32_t code[NUM_BYTES];
    int16_t byte_of[512];
    spell_bytes(code);
    memset(byte_of, -1, sizeof byte_of);
    for (int byte = 0; byte < NUM_BYTES; byte++) byte_of[code[byte]] = (int16_t)byte;
    size_t at = 0;
    for (size_t i = 0; i < bpe->num_tokens; i++) {
        const struct gguf_text text = source->tokens[i];
        size_t len = text.len;
        bpe->special[i] = source->special[i];
        bpe->start[i] = at;
        if (!len) return refuse(why, GSL_EINVAL, "token %zu is empty", i);
        if (bpe->special[i]) memcpy(bpe->pool + at, text.bytes, len);
        else if (!unspell(text, byte_of, bpe->pool + at, &len))
            return refuse(why, GSL_EINVAL, "token %zu spells no bytes", i);
        at += len;
    }
    for (size_t i = 0; i < bpe->num_tokens; i++) {
        bpe->start[bpe->num_tokens + i] = at;
        memcpy(bpe->pool + at, source->tokens[i].bytes, source->tokens[i].len);
        at += source->tokens[i].len;
        bpe->start[bpe->num_tokens + i + 1] = at;
        const struct gguf_text text = spelling(bpe, (int32_t)i);
        const size_t slot = slot_of(bpe, text.bytes, text.len);
        if (bpe->slots[slot] != EMPTY)
            return refuse(why, GSL_EINVAL, "tokens %d and %zu are the same", bpe->slots[slot], i);
        bpe->slots[slot] = (int32_t)i;
        if (bpe->special[i]) bpe->longest_special[bpe->num_special++] = (int32_t)i;
    }
    qsort_r(bpe->longest_special, bpe->num_special, sizeof *bpe->longest_special, compare_special, bpe);
    for (int byte = 0; byte < NUM_BYTES; byte++) {
        utf8proc_uint8_t text[4];
        const utf8proc_ssize_t len = utf8proc_encode_char(code[byte], text);
        bpe->byte_token[byte] = find_spelling(bpe, (const char *)text, (size_t)len);
    }
    return GSL_SUCCESS;
}

static int take_merge(struct bpe *bpe, struct gguf_text text, size_t rank, struct reason why)
{
    const char *space = text.len ? memchr(text.bytes, ' ', text.len) : NULL;
    const size_t left_len = space ? (size_t)(space - text.bytes) : 0, right_len = space ? text.len - left_len - 1 : 0;
    if (!left_len || !right_len) return refuse(why, GSL_EINVAL, "merge %zu is not of two tokens", rank);
    char stack[256], *joined = text.len <= sizeof stack ? stack : malloc(text.len);
    if (!joined) return refuse(why, GSL_ENOMEM, "out of memory");
    memcpy(joined, text.bytes, left_len);
    memcpy(joined + left_len, space + 1, right_len);
    const int32_t left = find_spelling(bpe, text.bytes, left_len), right = find_spelling(bpe, space + 1, right_len);
    const int32_t token = find_spelling(bpe, joined, left_len + right_len);
    if (joined != stack) free(joined);
    if (left == EMPTY || right == EMPTY || token == EMPTY)
        return refuse(why, GSL_EINVAL, "merge %zu names what is no token", rank);
    struct merge *slot = merge_slot(bpe, pair_of(left, right));
    if (slot->rank == EMPTY) *slot = (struct merge){ pair_of(left, right), (int32_t)rank, token };
    return GSL_SUCCESS;
}

int bpe_alloc(const struct bpe_source *source, struct bpe **out, struct reason why)
{
    *out = NULL;
    const size_t n = source->num_tokens;
    size_t bytes = 0;
    if (!n || n > INT32_MAX || source->num_merges > INT32_MAX)
        return refuse(why, GSL_EINVAL, "a vocabulary of %zu tokens", n);
    for (size_t i = 0; i < n; i++) bytes += source->tokens[i].len;
    struct bpe *bpe = calloc(1, sizeof *bpe);
    if (!bpe) return refuse(why, GSL_ENOMEM, "out of memory");
    bpe->num_tokens = n;
    bpe->split_digits = source->split_digits;
    bpe->num_slots = power_above(n);
    bpe->merge_slots = power_above(source->num_merges);
    bpe->pool = malloc(2 * bytes + 1);
    bpe->start = calloc(2 * n + 1, sizeof *bpe->start);
    bpe->special = calloc(n, 1);
    bpe->longest_special = calloc(n, sizeof *bpe->longest_special);
    bpe->slots = malloc(bpe->num_slots * sizeof *bpe->slots);
    bpe->merges = malloc(bpe->merge_slots * sizeof *bpe->merges);
    int status = GSL_SUCCESS;
    if (!bpe->pool || !bpe->start || !bpe->special || !bpe->longest_special || !bpe->slots || !bpe->merges) {
        status = refuse(why, GSL_ENOMEM, "out of memory");
    } else {
        for (size_t i = 0; i < bpe->num_slots; i++) bpe->slots[i] = EMPTY;
        for (size_t i = 0; i < bpe->merge_slots; i++) bpe->merges[i].rank = EMPTY;
        status = take_tokens(bpe, source, why);
    }
    for (size_t i = 0; i < source->num_merges && !status; i++) status = take_merge(bpe, source->merges[i], i, why);
    if (status) bpe_free(bpe);
    else *out = bpe;
    return status;
}

int bpe_from_gguf(const struct gguf *gguf, struct bpe **out, struct reason why)
{
    enum { CONTROL = 3, USER_DEFINED = 4 };     /* token types that stand for their own text */
    *out = NULL;
    struct gguf_text model, pre = { "gpt-2", 5 }, *tokens = NULL, *merges = NULL;
    int64_t *types = NULL;
    unsigned char *special = NULL;
    size_t num_tokens = 0, num_types = 0, num_merges = 0;
    if (gguf_text(gguf, "tokenizer.ggml.model", &model) || model.len != 4 || memcmp(model.bytes, "gpt2", 4))
        return refuse(why, GSL_EINVAL, "the tokenizer is not of the kind gpt2");
    if (gguf_has(gguf, "tokenizer.ggml.pre") && gguf_text(gguf, "tokenizer.ggml.pre", &pre))
        return refuse(why, GSL_EINVAL, "tokenizer.ggml.pre is no string");
    const bool smollm = pre.len == 6 && !memcmp(pre.bytes, "smollm", 6);
    if (!smollm && (pre.len != 5 || memcmp(pre.bytes, "gpt-2", 5)))
        return refuse(why, GSL_EINVAL, "the pre-tokeniser is neither smollm nor gpt-2");
    int status = gguf_texts(gguf, "tokenizer.ggml.tokens", &tokens, &num_tokens);
    if (!status) status = gguf_texts(gguf, "tokenizer.ggml.merges", &merges, &num_merges);
    if (!status) status = gguf_integers(gguf, "tokenizer.ggml.token_type", &types, &num_types);
    if (!status && num_types != num_tokens) status = GSL_EINVAL;
    if (status == GSL_EINVAL)
        refuse(why, status, "tokenizer.ggml.tokens, merges or token_type is missing or of another type");
    if (!status && !(special = calloc(num_tokens ? num_tokens : 1, 1))) status = GSL_ENOMEM;
    if (status == GSL_ENOMEM) refuse(why, status, "out of memory");
    for (size_t i = 0; i < num_tokens && !status; i++) special[i] = types[i] == CONTROL || types[i] == USER_DEFINED;
    if (!status) {
        const struct bpe_source source = { tokens, merges, special, num_tokens, num_merges, smollm };
        status = bpe_alloc(&source, out, why);
    }
    free(special);
    free(types);
    free(merges);
    free(tokens);
    return status;
}

void bpe_free(struct bpe *bpe)
{
    if (!bpe) return;
    free(bpe->pool);
    free(bpe->start);
    free(bpe->special);
    free(bpe->longest_special);
    free(bpe->slots);
    free(bpe->merges);
    free(bpe);
}

size_t bpe_size(const struct bpe *bpe) { return bpe->num_tokens; }
int32_t bpe_find(const struct bpe *bpe, const char *text) { return find_spelling(bpe, text, strlen(text)); }
int bpe_is_special(const struct bpe *bpe, int32_t id) { return bpe->special[id]; }

const char *bpe_bytes(const struct bpe *bpe, int32_t id, size_t *len)
{
    *len = bpe->start[id + 1] - bpe->start[id];
    return bpe->pool + bpe->start[id];
}

/* ---- pieces of text -------------------------------------------------------------------------------------- */

enum kind { LETTER, NUMERIC, SPACE, OTHER };

static bool is_white_space(utf8proc_int32_t c)
{
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* The kind of the character at `text` and its length in bytes; the text is known to be UTF-8. */
static enum kind kind_at(const char *text, size_t len, size_t *step)
{
    utf8proc_int32_t c;
    *step = (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len, &c);
    if (is_white_space(c)) return SPACE;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return LETTER;
    case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_NO:
        return NUMERIC;
    default:
        return OTHER;
    }
}

/* Bytes of the run of characters of `kind` at `text`; *last: the length of its last character. */
static size_t run_of(const char *text, size_t len, enum kind kind, size_t *last)
{
    size_t at = 0, step;
    *last = 0;
    while (at < len && kind_at(text + at, len - at, &step) == kind) {
        at += step;
        *last = step;
    }
    return at;
}

/* GPT-2's rule: the bytes of the piece that starts at `text`. */
static size_t piece_length(const char *text, size_t len)
{
    static const char *const endings[] = { "'s", "'t", "'re", "'ve", "'m", "'ll", "'d" };
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const size_t n = strlen(endings[i]);
        if (n <= len && !memcmp(text, endings[i], n)) return n;
    }
    size_t step, last;
    const size_t space = *text == ' ' && len > 1;
    enum kind kind = kind_at(text + space, len - space, &step);
    if (kind != SPACE) return space + run_of(text + space, len - space, kind, &last);
    const size_t run = run_of(text, len, SPACE, &last);
    return run < len && run > last ? run - last : run;
}

/* ---- merging ------------------------------------------------------------------------------------------------ */

/* The symbols of a piece as a list; a merged one takes the place of its left half. */
struct symbol { int32_t token; int32_t next, previous; };
struct candidate { int32_t rank, at; int32_t left, right; };

struct merger {
    struct symbol *symbols;
    struct candidate *heap;         /* the least (rank, at) first */
    size_t heap_size, room;
};

static bool before(const struct candidate *a, const struct candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void push(struct merger *m, struct candidate c)
{
    size_t i = m->heap_size++;
    for (; i && before(&c, &m->heap[(i - 1) / 2]); i = (i - 1) / 2) m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = c;
}

static struct candidate pop(struct merger *m)
{
    const struct candidate top = m->heap[0], c = m->heap[--m->heap_size];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < m->heap_size; i = child) {
        if (child + 1 < m->heap_size && before(&m->heap[child + 1], &m->heap[child])) child++;
        if (!before(&m->heap[child], &c)) break;
        m->heap[i] = m->heap[child];
    }
    m->heap[i] = c;
    return top;
}

/* Offers the pair that starts at symbol `at`. */
static void offer(const struct bpe *bpe, struct merger *m, int32_t at)
{
    const int32_t next = m->symbols[at].next;
    if (next < 0) return;
    const int32_t left = m->symbols[at].token, right = m->symbols[next].token;
    const struct merge *merge = merge_slot(bpe, pair_of(left, right));
    if (merge->rank != EMPTY) push(m, (struct candidate){ merge->rank, at, left, right });
}

/* Each merge takes one symbol away and offers two pairs, so 3 n candidates suffice. */
static int reserve(struct merger *m, size_t n)
{
    if (n <= m->room) return GSL_SUCCESS;
    const size_t room = 2 * n + 64;
    struct symbol *symbols = realloc(m->symbols, room * sizeof *symbols);
    if (symbols) m->symbols = symbols;
    struct candidate *heap = realloc(m->heap, 3 * room * sizeof *heap);
    if (heap) m->heap = heap;
    if (!symbols || !heap) return GSL_ENOMEM;
    m->room = room;
    return GSL_SUCCESS;
}

struct ids { int32_t *id; size_t count, room; };

static int append(struct ids *ids, int32_t id)
{
    if (ids->count == ids->room) {
        const size_t room = ids->room ? 2 * ids->room : 256;
        int32_t *grown = realloc(ids->id, room * sizeof *grown);
        if (!grown) return GSL_ENOMEM;
        ids->id = grown;
        ids->room = room;
    }
    ids->id[ids->count++] = id;
    return GSL_SUCCESS;
}

static int encode_piece(const struct bpe *bpe, struct merger *m, const char *text, size_t len, struct ids *ids)
{
    int status = reserve(m, len);
    if (status) return status;
    int32_t count = 0;
    for (size_t i = 0; i < len; i++) {
        const int32_t token = bpe->byte_token[(unsigned char)text[i]];
        if (token == EMPTY) continue;
        m->symbols[count] = (struct symbol){ token, count + 1, count - 1 };
        count++;
    }
    if (!count) return GSL_SUCCESS;
    m->symbols[count - 1].next = -1;
    m->heap_size = 0;
    for (int32_t at = 0; at + 1 < count; at++) offer(bpe, m, at);
    while (m->heap_size) {
        const struct candidate c = pop(m);
        struct symbol *left = &m->symbols[c.at];
        /* A pair that an earlier merge broke up is no longer there. */
        if (left->token != c.left || left->next < 0 || m->symbols[left->next].token != c.right) continue;
        struct symbol *right = &m->symbols[left->next];
        left->token = merge_slot(bpe, pair_of(c.left, c.right))->token;
        left->next = right->next;
        right->token = EMPTY;
        if (left->next >= 0) m->symbols[left->next].previous = c.at;
        if (left->previous >= 0) offer(bpe, m, left->previous);
        offer(bpe, m, c.at);
    }
    for (int32_t at = 0; at >= 0 && !status; at = m->symbols[at].next) status = append(ids, m->symbols[at].token);
    return status;
}

/* Text without special tokens. */
static int encode_plain(const struct bpe *bpe, struct merger *m, const char *text, size_t len, struct ids *ids)
{
    int status = GSL_SUCCESS;
    for (size_t at = 0; at < len && !status;) {
        /* With split_digits the rule sees nothing beyond the next numeric character. */
        size_t end = at, step;
        if (!bpe->split_digits) end = len;
        else if (kind_at(text + at, len - at, &step) == NUMERIC) end = at + step;
        else
            while (end < len && kind_at(text + end, len - end, &step) != NUMERIC) end += step;
        while (at < end && !status) {
            const size_t n = piece_length(text + at, end - at);
            status = encode_piece(bpe, m, text + at, n, ids);
            at += n;
        }
    }
    return status;
}

/* The special token that starts at `text`, the longest of several. */
static int32_t special_at(const struct bpe *bpe, const char *text, size_t len)
{
    for (size_t i = 0; i < bpe->num_special; i++) {
        const struct gguf_text s = spelling(bpe, bpe->longest_special[i]);
        if (s.len <= len && *s.bytes == *text && !memcmp(s.bytes, text, s.len)) return bpe->longest_special[i];
    }
    return EMPTY;
}

int bpe_encode(const struct bpe *bpe, const char *text, size_t len, int32_t **out, size_t *count, struct reason why)
{
    *out = NULL;
    *count = 0;
    if (len > INT32_MAX / 8) return refuse(why, GSL_EINVAL, "a text of %zu bytes", len);
    for (size_t at = 0; at < len;) {
        utf8proc_int32_t c;
        const utf8proc_ssize_t step = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                       (utf8proc_ssize_t)(len - at), &c);
        if (step <= 0) return refuse(why, GSL_EINVAL, "not UTF-8 at byte %zu", at);
        at += (size_t)step;
    }
    struct merger m = { 0 };
    struct ids ids = { 0 };
    int status = GSL_SUCCESS;
    size_t start = 0;
    for (size_t at = 0; at <= len && !status;) {
        const int32_t special = at < len ? special_at(bpe, text + at, len - at) : EMPTY;
        if (at < len && special == EMPTY) {
            at++;
            continue;
        }
        status = encode_plain(bpe, &m, text + start, at - start, &ids);
        if (special == EMPTY) break;
        if (!status) status = append(&ids, special);
        start = at += spelling(bpe, special).len;
    }
    free(m.symbols);
    free(m.heap);
    if (status) {
        free(ids.id);
        return refuse(why, status, "out of memory");
    }
    *out = ids.id;
    *count = ids.count;
    return GSL_SUCCESS;
}

/* ---- tokenizer.json -------------------------------------------------------------------------------------------- */

/* Spellings of a tokenizer.json as they stand in it; merges are joined with a space and owned. */
struct listing {
    struct gguf_text *tokens, *merges;
    unsigned char *special;
    size_t num_tokens, num_merges;
    int split_digits, byte_level;
};

/* The pre-tokenisers: ByteLevel, Digits (one at a time), or a Sequence of them. */
static int read_splitter(const json_t *node, struct listing *list)
{
    const char *type = json_string_value(json_object_get(node, "type"));
    if (!type) return GSL_EINVAL;
    if (!strcmp(type, "Sequence")) {
        size_t i;
        json_t *item;
        json_array_foreach(json_object_get(node, "pretokenizers"), i, item) {
            const char *inner = json_string_value(json_object_get(item, "type"));
            if (!inner || !strcmp(inner, "Sequence") || read_splitter(item, list)) return GSL_EINVAL;
        }
        return GSL_SUCCESS;
    }
    if (!strcmp(type, "Digits")) {
        list->split_digits = 1;
        return json_is_true(json_object_get(node, "individual_digits")) ? GSL_SUCCESS : GSL_EINVAL;
    }
    if (strcmp(type, "ByteLevel") || json_is_true(json_object_get(node, "add_prefix_space"))) return GSL_EINVAL;
    list->byte_level |= !json_is_false(json_object_get(node, "use_regex"));
    return GSL_SUCCESS;
}

static int read_token(struct listing *list, const char *text, size_t len, const json_t *id, int special)
{
    const json_int_t at = json_integer_value(id);
    if (!json_is_integer(id) || at < 0 || (size_t)at >= list->num_tokens) return GSL_EINVAL;
    if (list->tokens[at].bytes && !special) return GSL_EINVAL;
    list->tokens[at] = (struct gguf_text){ text, len };
    if (special) list->special[at] = 1;
    return GSL_SUCCESS;
}

static int read_merge(const json_t *node, struct gguf_text *out)
{
    const json_t *left = json_array_get(node, 0), *right = json_array_get(node, 1);
    char *text = NULL;
    if (json_is_string(node)) text = strdup(json_string_value(node));
    else if (json_array_size(node) == 2 && json_is_string(left) && json_is_string(right)) {
        if (asprintf(&text, "%s %s", json_string_value(left), json_string_value(right)) < 0) text = NULL;
    } else return GSL_EINVAL;
    if (!text) return GSL_ENOMEM;
    *out = (struct gguf_text){ text, strlen(text) };
    return GSL_SUCCESS;
}

static int read_listing(json_t *root, struct listing *list)
{
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    json_t *merges = json_object_get(model, "merges"), *added = json_object_get(root, "added_tokens"), *item;
    const char *type = json_string_value(json_object_get(model, "type")), *key;
    size_t i;
    int status = GSL_SUCCESS;
    if ((type && strcmp(type, "BPE")) || !json_is_object(vocab) || !json_is_array(merges)) return GSL_EINVAL;
    if (json_object_get(root, "normalizer") && !json_is_null(json_object_get(root, "normalizer"))) return GSL_EUNSUP;
    if (read_splitter(json_object_get(root, "pre_tokenizer"), list) || !list->byte_level) return GSL_EUNSUP;
    list->num_tokens = json_object_size(vocab);
    json_array_foreach(added, i, item)
        list->num_tokens += !json_object_get(vocab, json_string_value(json_object_get(item, "content"))
                                                        ? json_string_value(json_object_get(item, "content")) : "");
    list->tokens = calloc(list->num_tokens + 1, sizeof *list->tokens);
    list->special = calloc(list->num_tokens + 1, 1);
    list->merges = calloc(json_array_size(merges) + 1, sizeof *list->merges);
    if (!list->tokens || !list->special || !list->merges) return GSL_ENOMEM;
    json_object_foreach(vocab, key, item)
        if (!status) status = read_token(list, key, strlen(key), item, 0);
    json_array_foreach(added, i, item) {
        const json_t *content = json_object_get(item, "content");
        if (!json_is_string(content)) status = GSL_EINVAL;
        if (!status)
            status = read_token(list, json_string_value(content), json_string_length(content),
                                json_object_get(item, "id"), 1);
    }
    for (i = 0; i < list->num_tokens && !status; i++)
        if (!list->tokens[i].bytes) status = GSL_EINVAL;
    json_array_foreach(merges, i, item) {
        if (!status) status = read_merge(item, &list->merges[i]);
        if (!status) list->num_merges = i + 1;
    }
    return status;
}

int bpe_from_json(const char *path, struct bpe **out, struct reason why)
{
    *out = NULL;
    json_t *root;
    int status = json_file_read(path, &root, why);
    if (status) return status;
    struct listing list = { 0 };
    status = read_listing(root, &list);
    if (status == GSL_EUNSUP)
        refuse(why, status = GSL_EINVAL,
               "a normaliser, or a pre-tokeniser other than ByteLevel with or without Digits");
    else if (status) refuse(why, status, status == GSL_ENOMEM ? "out of memory" : "not a tokenizer of type BPE");
    if (!status) {
        const struct bpe_source source = { list.tokens, list.merges, list.special, list.num_tokens, list.num_merges,
                                           list.split_digits };
        status = bpe_alloc(&source, out, why);
    }
    for (size_t i = 0; i < list.num_merges; i++) free((char *)list.merges[i].bytes);
    free(list.merges);
    free(list.tokens);
    free(list.special);
    json_decref(root);
    return status;
}
