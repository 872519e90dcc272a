/* Writes GGUF files for tests. */
#ifndef TESTS_SUPPORT_GGUF_FILE_H
#define TESTS_SUPPORT_GGUF_FILE_H
#include <stddef.h>
#include <stdint.h>

#include "transformer/decoder.h"

/* Bytes that grow; fails the test when there is no memory. */
struct bytes { unsigned char *at; size_t size, room; };

void bytes_put(struct bytes *b, const void *data, size_t size);
void bytes_u32(struct bytes *b, uint32_t x);
void bytes_u64(struct bytes *b, uint64_t x);
void bytes_text(struct bytes *b, const char *text);         /* length and bytes */
void bytes_pad(struct bytes *b, size_t multiple);
void bytes_free(struct bytes *b);

/* Magic, version and counts; then pairs, then tensors, then bytes_pad(32), then data. */
void gguf_put_head(struct bytes *b, uint64_t num_tensors, uint64_t num_pairs);
void gguf_put_u32(struct bytes *b, const char *key, uint32_t x);
void gguf_put_f32(struct bytes *b, const char *key, float x);
void gguf_put_text(struct bytes *b, const char *key, const char *text);
void gguf_put_texts(struct bytes *b, const char *key, const char *const *texts, size_t count);
void gguf_put_i32s(struct bytes *b, const char *key, const int32_t *x, size_t count);
/* dims[0] the fastest. */
void gguf_put_tensor(struct bytes *b, const char *name, size_t rank, const size_t *dims, enum gguf_kind kind,
                     uint64_t offset);

/* A vocabulary of the 256 bytes, `merges` ("LEFT RIGHT") and their products, then `specials`; both lists end
 * with NULL. The texts are to be freed by vocabulary_free. */
struct vocabulary { char **tokens, **merges; int32_t *types; size_t num_tokens, num_merges; };
struct vocabulary vocabulary_make(const char *const *merges, const char *const *specials);
void vocabulary_free(struct vocabulary *v);

/* A whole model, F32: the decoder's weights with vocabulary v of config.vocab_size tokens, the last two of them
 * start and end. */
void gguf_put_model(struct bytes *b, const struct decoder *decoder, const struct vocabulary *v);
/* A random model of 261 tokens (the bytes, three merges, start and end), 2 blocks and 96 positions, written to
 * `path`; the decoder it was written from, without tokens. */
struct decoder *gguf_tiny_model(const char *path);
/* The file at `path` becomes these bytes. */
void bytes_write(const struct bytes *b, const char *path);

#endif
