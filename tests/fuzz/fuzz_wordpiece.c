#include "tests/support/fuzz.h"
#include "transformer/wordpiece.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LEN = 24 };

static const char vocabulary[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\n##aff\n##able\na\n##b\ncafe\n,"
                                 "\n.\n\xe4\xb8\xad\n1\n##2\n";
static const char mpnet[] = "<s>\n<pad>\n</s>\n<unk>\n[UNK]\nun\n##aff\na\n,\n";
static const char text[] = "Unaffable, un-aff caf\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87 a\xcc\x81 12. "
                           "\xe2\x80\x94\xef\xbf\xbd";

const struct fuzz_seed fuzz_seeds[] = {
    { vocabulary, sizeof vocabulary - 1 }, { mpnet, sizeof mpnet - 1 }, { text, sizeof text - 1 },
};
const size_t fuzz_num_seeds = 3;

/* Ids of a text are in the vocabulary, and there are at most MAX_LEN. */
static void check_encode(const struct wordpiece *w, const char *a, const char *b)
{
    int32_t ids[MAX_LEN], types[MAX_LEN];
    size_t len = 0;
    if (wordpiece_encode(w, a, b, MAX_LEN, ids, types, &len)) abort();
    if (len < 2 || len > MAX_LEN) abort();
    for (size_t i = 0; i < len; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= wordpiece_size(w) || types[i] < 0 || types[i] > 1) abort();
}

/* The bytes as a vocabulary, and as a text for a fixed one. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct wordpiece *fixed;
    char why[256] = "";
    const struct reason reason = { why, sizeof why };
    if (!fixed && wordpiece_open(fuzz_file((const uint8_t *)vocabulary, sizeof vocabulary - 1), &fixed, reason))
        abort();
    char *string = malloc(size + 1);
    if (!string) return 0;
    memcpy(string, bytes, size);
    string[size] = '\0';
    check_encode(fixed, string, NULL);
    check_encode(fixed, text, string);
    free(string);
    struct wordpiece *w;
    if (wordpiece_open(fuzz_file(bytes, size), &w, reason)) {
        /* A refusal is one line. */
        if (!*why || strchr(why, '\n')) abort();
        return 0;
    }
    check_encode(w, text, NULL);
    wordpiece_free(w);
    return 0;
}
