/* Tiny random backbones as Hugging Face folders, for tests of programs. */
#ifndef TESTS_SUPPORT_TINY_FOLDER_H
#define TESTS_SUPPORT_TINY_FOLDER_H
#include "transformer/backbone.h"

/* Two blocks, 12 wide, 3 heads. BACKBONE_VIT: grey, 28 x 28 in patches of 7; BACKBONE_BERT: a vocabulary of 11
 * tokens ([PAD] [UNK] [CLS] [SEP] the cat dog sat on ##s .), 24 positions. Writes the folder `name` of the scratch
 * folder and returns its path, valid until the teardown. */
const char *tiny_folder(void *state, const char *name, enum backbone_kind kind);

/* The file DIR/NAME whole, NUL-terminated, freed by the caller; *size may be NULL. NULL: it is not there. */
char *tiny_folder_read(const char *dir, const char *name, size_t *size);

#endif
