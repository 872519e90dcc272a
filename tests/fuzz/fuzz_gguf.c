#include "tests/support/fuzz.h"
#include "transformer/bpe.h"

#include <math.h>
#include <stdlib.h>

/* Two pairs (a size, an array of strings) and a Q8_0 tensor of 32. */
static const char small[] =
    "GGUF\3\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0"
    "\1\0\0\0\0\0\0\0" "n\4\0\0\0\7\0\0\0"
    "\1\0\0\0\0\0\0\0" "t\x9\0\0\0\x8\0\0\0\2\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0" "x\0\0\0\0\0\0\0\0"
    "\1\0\0\0\0\0\0\0" "w\1\0\0\0\x20\0\0\0\0\0\0\0\x8\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    "\0\x38" "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/* What a tokenizer is read from. */
static const char vocabulary[] =
    "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0"
    "\x14\0\0\0\0\0\0\0tokenizer.ggml.model\x8\0\0\0\4\0\0\0\0\0\0\0gpt2"
    "\x15\0\0\0\0\0\0\0tokenizer.ggml.tokens\x9\0\0\0\x8\0\0\0\3\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0" "a\1\0\0\0\0\0\0\0"
        "b\2\0\0\0\0\0\0\0" "ab"
    "\x15\0\0\0\0\0\0\0tokenizer.ggml.merges\x9\0\0\0\x8\0\0\0\1\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0" "a b"
    "\x19\0\0\0\0\0\0\0tokenizer.ggml.token_type\x9\0\0\0\5\0\0\0\3\0\0\0\0\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0";

const struct fuzz_seed fuzz_seeds[] = { { small, sizeof small - 1 }, { vocabulary, sizeof vocabulary - 1 } };
const size_t fuzz_num_seeds = 2;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char text[64];
    const struct reason why = { text, sizeof text };
    struct gguf *g;
    struct bpe *bpe;
    if (gguf_open(fuzz_file(bytes, size), &g, why)) return 0;
    for (size_t i = 0; i < gguf_num_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        /* What it holds is in proportion to the file. */
        if (gguf_bytes(t->kind, t->count) > size) abort();
        float *x = malloc(t->count * sizeof *x);
        if (x) gguf_read(t, x);
        free(x);
    }
    if (!bpe_from_gguf(g, &bpe, why)) {
        int32_t *ids;
        size_t count;
        if (!bpe_encode(bpe, "ab \tba", 6, &ids, &count, why)) free(ids);
        bpe_free(bpe);
    }
    gguf_free(g);
    return 0;
}
