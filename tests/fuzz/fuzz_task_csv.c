#include "data/tasks.h"
#include "tests/support/fuzz.h"

#include <stdlib.h>
#include <string.h>

static const char plain[] = "text,label\nA good one.,yes\nA bad one.,no\nNeither.,no\nBoth of them.,yes\n";
static const char quoted[] =
    "\xef\xbb\xbf" "label,text2,text\r\n\"a, \"\"b\"\"\",\"two\nlines\",caf\xc3\xa9\r\n1,,x\r\n1,y,\"\"\r\n";

const struct fuzz_seed fuzz_seeds[] = { { plain, sizeof plain - 1 }, { quoted, sizeof quoted - 1 } };
const size_t fuzz_num_seeds = 2;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char why[512] = "";
    struct task *task;
    const char *path = fuzz_file(bytes, size);
    const struct task_options options = { .train_file = path, .test_file = path, .seed = 1 };
    if (task_open(NULL, &options, &task, (struct reason){ why, sizeof why })) {
        /* A refusal is one line. */
        if (!*why || strchr(why, '\n')) abort();
        return 0;
    }
    /* Every row of the training file is in one of two sets, every row of the test file in the third. */
    const struct task_set *sets = task->sets;
    if (sets[TASK_TRAIN].count + sets[TASK_VALIDATION].count != sets[TASK_TEST].count) abort();
    for (int s = 0; s < NUM_TASK_SPLITS; s++)
        for (size_t i = 0; i < sets[s].count; i++) {
            if (sets[s].labels[i] < 0 || (size_t)sets[s].labels[i] >= task->num_classes) abort();
            if (strlen(sets[s].texts[i]) > size) abort();
        }
    task_free(task);
    return 0;
}
