#include "tests/support/tiny_folder.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>

static const char vocabulary[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\ncat\ndog\nsat\non\n##s\n.\n";

const char *tiny_folder(void *state, const char *name, enum backbone_kind kind)
{
    struct backbone_config c = { .kind = kind, .hidden = 12, .num_layers = 2, .num_heads = 3, .mlp_dim = 20,
                                 .norm_eps = 1e-5, .default_last_layer = 1 };
    if (kind == BACKBONE_VIT) {
        c.pre_norm = 1;
        c.image_size = 28;
        c.patch_size = 7;
        c.channels = 1;
        c.position_grid = 4;
        c.mean[0] = 0.25f;
        c.std[0] = 0.5f;
    } else {
        c.vocab_size = 11;
        c.max_positions = 24;
        c.type_vocab = 2;
    }
    struct backbone *b;
    char line[256] = "", file[512];
    const char *dir = scratch_path(state, name);
    assert_int_equal(backbone_random(&c, 0.3, 20240614, &b), GSL_SUCCESS);
    const int status = backbone_write(dir, b, (struct reason){ line, sizeof line });
    if (status) fail_msg("%s", line);
    backbone_free(b);
    if (kind == BACKBONE_BERT) {
        snprintf(file, sizeof file, "%s/vocab.txt", name);
        scratch_file(state, file, vocabulary);
    }
    return dir;
}

char *tiny_folder_read(const char *dir, const char *name, size_t *size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    const long length = ftell(file);
    rewind(file);
    char *bytes = malloc((size_t)length + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, (size_t)length, file), length);
    bytes[length] = '\0';
    fclose(file);
    if (size) *size = (size_t)length;
    return bytes;
}
