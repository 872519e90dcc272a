#include "tests/support/fuzz.h"
#include "transformer/adapter_files.h"

#include <stdlib.h>
#include <string.h>

static const char lora[] = "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"query\",\"value\"],"
                           "\"layers_to_transform\":[2,3]}",
                  prefix[] = "{\"peft_type\":\"PREFIX_TUNING\",\"num_virtual_tokens\":20,\"token_dim\":12}",
                  own[] = "{\"peft_type\":\"NTK_ATTENTION\",\"prefix_ntk\":{\"pool\":\"cls\",\"feature\":\"elu1\","
                          "\"k_mode\":\"log\","
                          "\"first_layer\":0,\"last_layer\":1,\"bound\":4.0,\"z_rank\":2,\"start_mass\":0.01,"
                          "\"feature_seed\":\"7\",\"class_names\":[\"a\",\"b\"]}}";

#define SEED(x) { x, sizeof x - 1 }
const struct fuzz_seed fuzz_seeds[] = { SEED(lora), SEED(prefix), SEED(own) };
const size_t fuzz_num_seeds = 3;

/* The bytes as adapter_config.json. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char why[256] = "";
    struct adapter_description d;
    fuzz_put("adapter_config.json", bytes, size);
    if (adapter_files_read(fuzz_folder(), &d, (struct reason){ why, sizeof why })) {
        /* A refusal is one line. */
        if (!*why || strchr(why, '\n')) abort();
        return 0;
    }
    if ((unsigned)d.options.method >= NUM_ADAPTER_METHODS || d.num_classes > size) abort();
    if (d.options.first_layer < ADAPTER_LAYER_DEFAULT || d.options.last_layer < ADAPTER_LAYER_DEFAULT) abort();
    adapter_description_free(&d);
    return 0;
}
