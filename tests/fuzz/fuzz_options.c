#include "cli/cli.h"
#include "tests/support/fuzz.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One option of each kind. */
enum { KEY_SIZE = 1, KEY_NUMBER, KEY_SIZES, KEY_NUMBERS, KEY_RANGE, KEY_WORD, KEY_WORDS, KEY_FLAG };

static const struct argp_option options[] = {
    { "size", KEY_SIZE, "N", 0, "a size (default 3)", 1 },
    { "number", KEY_NUMBER, "X", 0, "a number (default 0.7)", 1 },
    { "sizes", KEY_SIZES, "LIST", 0, "sizes (default 3)", 1 },
    { "numbers", KEY_NUMBERS, "LIST", 0, "numbers (default 0.7)", 1 },
    { "layers", KEY_RANGE, "A-B", 0, "a range (default 0-1)", 1 },
    { "word", KEY_WORD, "WORD", 0, "a word (default red)", 1 },
    { "words", KEY_WORDS, "LIST", 0, "words (default red)", 1 },
    { "flag", KEY_FLAG, NULL, 0, "a flag", 1 },
    CLI_SHARD_OPTION,
    { 0 }
};
static const char *const words[] = { "red", "green", "dark-blue", NULL };

struct config {
    struct cli_common c;
    size_t size, *sizes, num_sizes, num_numbers, num_words;
    double number, *numbers;
    int first, last, word, *chosen;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_SIZE: return cli_parse_size(state, key, arg, 1, 1000, &cfg->size);
    case KEY_NUMBER: return cli_parse_double(state, key, arg, 0.0, &cfg->number);
    case KEY_SIZES: return cli_parse_size_list(state, key, arg, 1, 1000, &cfg->sizes, &cfg->num_sizes);
    case KEY_NUMBERS: return cli_parse_double_list(state, key, arg, -INFINITY, &cfg->numbers, &cfg->num_numbers);
    case KEY_RANGE: return cli_parse_range(state, key, arg, &cfg->first, &cfg->last);
    case KEY_WORD: return cli_parse_choice(state, key, arg, words, &cfg->word);
    case KEY_WORDS: return cli_parse_choice_list(state, key, arg, words, &cfg->chosen, &cfg->num_words);
    case KEY_FLAG: return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* Values that were taken are in their ranges. Refuses them all, so that nothing beyond the grammar happens. */
static const char *check(void *config)
{
    const struct config *cfg = config;
    if (!(cfg->size >= 1 && cfg->size <= 1000) || !(cfg->number > 0.0 && isfinite(cfg->number))) abort();
    for (size_t i = 0; i < cfg->num_sizes; i++)
        if (!(cfg->sizes[i] >= 1 && cfg->sizes[i] <= 1000)) abort();
    for (size_t i = 0; i < cfg->num_numbers; i++)
        if (!isfinite(cfg->numbers[i])) abort();
    for (size_t i = 0; i < cfg->num_words; i++)
        if (cfg->chosen[i] < 0 || cfg->chosen[i] > 2) abort();
    if (cfg->first < 0 || cfg->last < cfg->first || cfg->word < 0 || cfg->word > 2) abort();
    if (cfg->c.num_shards && cfg->c.shard >= cfg->c.num_shards) abort();
    if (cfg->c.threads < 0 || cfg->c.threads > 1024) abort();
    return "taken";
}

static const char several[] = "--size=12\n--number\n-1.5e-3\n--sizes=1,2,1000\n--layers\n3-5\n--words=red,dark-blue\n"
                              "--flag\n--shard\n1/3\n--out\nx.csv",
                  others[] = "--numbers=0.7,-1e300\n--word=green\n--seed\n18446744073709551615\n--threads=2\n--quiet\n"
                             "--si=4";

const struct fuzz_seed fuzz_seeds[] = { { several, sizeof several - 1 }, { others, sizeof others - 1 } };
const size_t fuzz_num_seeds = 2;

/* What a program that ends need not free is left behind here. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* A refusal ends the program; here it ends the parse. This definition goes before the one of the C library. */
static jmp_buf refused;
static int parsing;

void exit(int code)
{
    if (parsing) longjmp(refused, 1);
    fflush(NULL);
    _exit(code);
}

/* Lines as the words of a command line. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    enum { MAX_WORDS = 64 };
    static FILE *null;
    static char *text, program[] = "program";
    FILE *const streams[2] = { stdout, stderr };
    if (!null && !(null = fopen("/dev/null", "w"))) abort();
    text = fuzz_text(bytes, size);
    char *argv[MAX_WORDS + 1] = { program }, *rest = text;
    int argc = 1;
    for (char *word; argc < MAX_WORDS && (word = strsep(&rest, "\n")); ) argv[argc++] = word;
    struct config cfg = { .size = 3, .number = 0.7, .last = 1 };
    stdout = stderr = null;
    parsing = 1;
    if (!setjmp(refused)) cli_parse(argc, argv, "For the fuzzer.", options, parse, check, &cfg.c);
    parsing = 0;
    stdout = streams[0];
    stderr = streams[1];
    free(text);
    return 0;
}
