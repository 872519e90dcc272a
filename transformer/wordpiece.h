/* WordPiece tokens as BERT makes them, uncased: clean, split CJK, NFD without marks, lower case, split at
 * punctuation, then the longest pieces of the vocabulary from the left. */
#ifndef TRANSFORMER_WORDPIECE_H
#define TRANSFORMER_WORDPIECE_H
#include <stddef.h>
#include <stdint.h>

#include "common/reason.h"

struct wordpiece;

/* vocab.txt, one token a line. Its specials are [CLS] [SEP] [UNK], or, when it begins with <s>, <s> </s>
 * [UNK] (MPNet).
 * GSL_EFAILED cannot be opened, REASON_SYSTEM the system failed, GSL_EINVAL empty, a token twice, no specials,
 * GSL_ENOMEM. */
int wordpiece_open(const char *vocab_path, struct wordpiece **out, struct reason why);
void wordpiece_free(struct wordpiece *w);                   /* accepts NULL */
size_t wordpiece_size(const struct wordpiece *w);

/* [CLS] text [SEP] (text2 [SEP]) with type 1 from text2 on, or <s> text </s> (</s> text2 </s>) with type 0, cut to
 * max_len (>= 3; a pair: 5, MPNet 6) by dropping from the end of the longer text.
 * ids and types (may be NULL) have room for max_len; *len is what was written. text: UTF-8; bytes that are none
 * become U+FFFD and are dropped, as BERT does. GSL_EINVAL max_len too small, GSL_ENOMEM. */
int wordpiece_encode(const struct wordpiece *w, const char *text, const char *text2, size_t max_len,
                     int32_t *ids, int32_t *types, size_t *len);

#endif
