#include "tests/support/fuzz.h"
#include "transformer/decoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char config[] =
    "{\"model_type\":\"llama\",\"hidden_size\":4,\"intermediate_size\":4,\"num_hidden_layers\":0,"
    "\"num_attention_heads\":1,\"num_key_value_heads\":1,\"rms_norm_eps\":1e-05,\"vocab_size\":2,"
    "\"max_position_embeddings\":8,\"rope_theta\":100.0,"
    "\"tie_word_embeddings\":true,\"hidden_act\":\"silu\"}";
static const char tokenizer[] =
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]},"
    "\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true}],\"pre_tokenizer\":{\"type\":\"ByteLevel\","
    "\"add_prefix_space\":false}}";
static const char gguf[] =
    "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0"
    "\x14\0\0\0\0\0\0\0general.architecture\x8\0\0\0\5\0\0\0\0\0\0\0llama";
/* No layer, but an embedding and a norm, of float32. */
static const char weights[] =
    "\x9c\0\0\0\0\0\0\0{\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[2,4],\"data_offsets\":[0,32]},"
    "\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[32,48]}}    "
    "333\077ff\246\277\232\2319@\315\314\314=\000\000\240@\000\000\300@333\077ff\246\277"
    "333\077ff\246\277\232\2319@\315\314\314=";

#define SEED(x) { x, sizeof x - 1 }
const struct fuzz_seed fuzz_seeds[] = { SEED(config), SEED(tokenizer), SEED(gguf) };
const size_t fuzz_num_seeds = 3;

static void check_open(const char *path)
{
    char why[512] = "";
    struct decoder *d;
    if (!decoder_open(path, NULL, &d, (struct reason){ why, sizeof why })) decoder_free(d);
    else if (!*why || strchr(why, '\n')) abort();              /* a refusal is one line */
}

/* The bytes as a GGUF file, as the configuration of a folder, and as its tokenizer. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char why[256] = "";
    struct bpe *bpe;
    check_open(fuzz_file(bytes, size));
    fuzz_put("model.safetensors", weights, sizeof weights - 1);
    fuzz_put("tokenizer.json", tokenizer, sizeof tokenizer - 1);
    fuzz_put("config.json", bytes, size);
    check_open(fuzz_folder());
    if (!bpe_from_json(fuzz_file(bytes, size), &bpe, (struct reason){ why, sizeof why })) {
        int32_t *ids;
        size_t count;
        if (!bpe_encode(bpe, "ab <s>\tba", 9, &ids, &count, (struct reason){ why, sizeof why })) free(ids);
        bpe_free(bpe);
    } else if (!*why || strchr(why, '\n')) {
        abort();
    }
    return 0;
}
