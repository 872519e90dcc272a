/* Tiny random models and data as files, for runs of the programs. */
#ifndef TESTS_SUPPORT_TINY_MODELS_H
#define TESTS_SUPPORT_TINY_MODELS_H
#include <stddef.h>

#include "transformer/backbone.h"

/* A Hugging Face folder of two blocks, 12 wide, 3 heads. BACKBONE_VIT: grey, 28 x 28 in patches of 7; BACKBONE_BERT: a
 * vocabulary of 11 tokens ([PAD] [UNK] [CLS] [SEP] the cat dog sat on ##s .), 24 positions. */
int tiny_backbone_write(const char *dir, enum backbone_kind kind, struct reason why);

/* A decoder of two layers, 16 wide, 261 tokens (bytes, h+e, l+l, he+ll, start, end), 400 positions. */
void tiny_decoder_write(const char *path);

/* `count` lines in the format of BoolQ. */
void tiny_questions_write(const char *path, size_t count);

/* What the runs of tests/runs.sh read, into the folder: vit, bert, lm.gguf, images.npy (3 of 14 x 14), data/boolq. */
int tiny_inputs_write(const char *folder, struct reason why);

#endif
