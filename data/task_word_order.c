/* word-order: whether two neighbouring words of a WordNet example were exchanged, the "bigram shift" that Conneau et
 * al. (2018, arXiv:1805.01070) probe sentence vectors with, on other sentences. */
#include "common/input_file.h"
#include "data/folder.h"
#include "data/task_internal.h"

#include <ctype.h>
#include <errno.h>
#include <gsl/gsl_errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { PATH_ROOM = PATH_MAX + 64, MIN_WORDS = 5, MAX_WORDS = 28 };

struct word { const char *at; size_t len; };

static size_t split_words(const char *text, struct word *words)
{
    size_t n = 0;
    for (const char *p = text; *p;) {
        while (*p == ' ') p++;
        size_t len = 0;
        while (p[len] && p[len] != ' ') len++;
        if (!len) break;
        if (n == MAX_WORDS) return MAX_WORDS + 1;
        words[n++] = (struct word){ p, len };
        p += len;
    }
    return n;
}

static bool of_letters(const struct word *w)
{
    for (size_t i = 0; i < w->len; i++)
        if (!isalpha((unsigned char)w->at[i])) return false;
    return true;
}

/* Both are words of letters alone, and not the same. */
static bool can_exchange(const struct word *a, const struct word *b)
{
    return of_letters(a) && of_letters(b) && (a->len != b->len || strncasecmp(a->at, b->at, a->len) != 0);
}

/* The words joined by single blanks, with words `at` and at + 1 exchanged when `at` > 0. Owned; NULL without memory. */
static char *join(const struct word *words, size_t count, size_t at)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++) size += words[i].len + 1;
    char *text = malloc(size), *to = text;
    for (size_t i = 0; text && i < count; i++) {
        const struct word *w = &words[at && i == at ? i + 1 : at && i == at + 1 ? i - 1 : i];
        memcpy(to, w->at, w->len);
        to += w->len;
        *to++ = i + 1 < count ? ' ' : '\0';
    }
    return text;
}

/* One sentence; the first and the last word stay, so that neither case nor the end gives the answer away. What happens
 * to it follows from its hash: the low bits choose the split, the next the label, the rest the place. */
static int add_sentence(struct task *task, struct examples *e, const char *text)
{
    struct word words[MAX_WORDS];
    size_t places[MAX_WORDS], num_places = 0;
    const size_t n = split_words(text, words);
    for (size_t i = 1; n >= MIN_WORDS && n <= MAX_WORDS && i + 2 < n; i++)
        if (can_exchange(&words[i], &words[i + 1])) places[num_places++] = i;
    if (!num_places) {
        task->num_dropped++;
        return GSL_SUCCESS;
    }
    const uint64_t hash = task_hash_text(text, NULL);
    const bool exchanged = (hash >> 40) & 1;
    struct example x = { .split = task_split_of(hash, 20, 10), .label = exchanged, .hash = hash,
                         .text = join(words, n, exchanged ? places[(hash >> 41) % num_places] : 0) };
    return x.text ? examples_add(e, x) : GSL_ENOMEM;
}

/* Every quoted stretch of the gloss. The line is cut in place. */
static int add_line(struct task *task, struct examples *e, char *line)
{
    char *gloss = strstr(line, " | ");
    int status = GSL_SUCCESS;
    for (char *from = gloss ? strchr(gloss, '"') : NULL, *to; !status && from
         && (to = strchr(from + 1, '"')); from = strchr(to + 1, '"')) {
        *to = '\0';
        status = add_sentence(task, e, from + 1);
    }
    return status;
}

int task_source_word_order(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                           struct reason why)
{
    static const char *const classes[] = { "kept", "exchanged", NULL };
    static const char *const parts[] = { "noun", "verb", "adj", "adv" };
    (void)name;
    (void)options;
    char folder[PATH_MAX], path[PATH_ROOM], *line = NULL;
    size_t room = 0;
    data_folder("wordnet", folder);
    task->modality = TASK_TEXT;
    int status = task_set_classes(task, classes) ? refuse(why, GSL_ENOMEM, "out of memory") : GSL_SUCCESS;
    for (size_t p = 0; p < sizeof parts / sizeof *parts && !status; p++) {
        uint64_t bytes;
        snprintf(path, sizeof path, "%s/data.%s", folder, parts[p]);
        if (access(path, F_OK))
            return refuse(why, GSL_EFAILED, "wordnet is not in the cache (data/fetch.sh wordnet fetches it)");
        FILE *file = input_file_open(path, &bytes, why.text, why.size);
        if (!file) return input_file_status(errno);
        while (!status && getline(&line, &room, file) > 0)
            if (*line != ' ' && add_line(task, e, line)) status = refuse(why, GSL_ENOMEM, "out of memory");
        if (!status && !feof(file)) status = refuse(why, REASON_SYSTEM, "data.%s: %s", parts[p], strerror(errno));
        fclose(file);
    }
    free(line);
    return status ? status : examples_drop_repeats(e, &task->num_dropped);
}
