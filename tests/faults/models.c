/* The models and data that the runs of tests/faults/run.sh read, into the folder named. */
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/npy.h"
#include "tests/support/tiny_models.h"

int main(int argc, char **argv)
{
    enum { COUNT = 3, SIDE = 14 };
    float pixels[COUNT * SIDE * SIDE];
    char line[256] = "";
    const struct reason why = { line, sizeof line };
    if (argc != 2 || chdir(argv[1]) || mkdir("data", 0777) || mkdir("data/boolq", 0777)) return 2;
    for (size_t i = 0; i < COUNT * SIDE * SIDE; i++) pixels[i] = (float)(i * 37 % 101) / 101.0f;
    if (tiny_backbone_write("vit", BACKBONE_VIT, why) || tiny_backbone_write("bert", BACKBONE_BERT, why) ||
        npy_write_f32("images.npy", pixels, 3, (const size_t[]){ COUNT, SIDE, SIDE }, line, sizeof line)) {
        fprintf(stderr, "models: %s\n", line);
        return 1;
    }
    tiny_decoder_write("lm.gguf");
    tiny_questions_write("data/boolq/combined.jsonl", 40);
    return 0;
}
