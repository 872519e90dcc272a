/* Byte-level BPE, as GPT-2 has it: text to token ids and back.
 *
 * Text is cut at special tokens first (their text, literally), then, with split_digits, around each
 * single numeric character, then by GPT-2's rule, the first that matches:
 *   's 't 're 've 'm 'll 'd  |  " "? letters  |  " "? numerics  |  " "? others  |  spaces but the last
 *   before a non-space  |  spaces
 * with letters and numerics the Unicode categories L and N, spaces White_Space. The bytes of a piece are
 * tokens that merge by the rank of their pair, the leftmost first, until no pair has a rank. A byte that
 * is no token of the vocabulary is left out. */
#ifndef TRANSFORMER_BPE_H
#define TRANSFORMER_BPE_H
#include <stddef.h>
#include <stdint.h>

#include "common/reason.h"
#include "transformer/gguf.h"

struct bpe;

/* Tokens and merges in GPT-2's spelling: a byte that is no printable character stands as a code
 * point of its own (a space as U+0120). Merge i, "LEFT RIGHT", has rank i. */
struct bpe_source {
    const struct gguf_text *tokens, *merges;
    const unsigned char *special;           /* (num_tokens): 1 a special token, spelt as it stands */
    size_t num_tokens, num_merges;
    int split_digits;
};

/* GSL_EINVAL the lists do not fit each other (tokens differ, merges join tokens to tokens), GSL_ENOMEM. Everything is
 * copied. */
int bpe_alloc(const struct bpe_source *source, struct bpe **out, struct reason why);
/* From tokenizer.ggml.{tokens,token_type,merges}; model gpt2, pre smollm or gpt-2. */
int bpe_from_gguf(const struct gguf *gguf, struct bpe **out, struct reason why);
/* From a Hugging Face tokenizer.json of type BPE with a ByteLevel pre-tokeniser. GSL_EFAILED cannot open. */
int bpe_from_json(const char *path, struct bpe **out, struct reason why);
void bpe_free(struct bpe *bpe);             /* accepts NULL */

size_t bpe_size(const struct bpe *bpe);
/* The id of a token spelt so (special tokens: as they stand); -1: none. */
int32_t bpe_find(const struct bpe *bpe, const char *spelling);
/* The bytes of a token; special tokens: their text. Owned by the tokenizer; id < bpe_size. */
const char *bpe_bytes(const struct bpe *bpe, int32_t id, size_t *len);
int bpe_is_special(const struct bpe *bpe, int32_t id);

/* *ids (*count), the caller's to free; NULL for an empty text. GSL_EINVAL the text is not UTF-8 (*why says
 * where), GSL_ENOMEM. n bytes take O(n log n). */
int bpe_encode(const struct bpe *bpe, const char *text, size_t len, int32_t **ids, size_t *count, struct reason why);

#endif
