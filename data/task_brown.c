/* brown15: the genre of a window of 64 words of the Brown corpus. */
#include "common/input_file.h"
#include "data/folder.h"
#include "data/task_internal.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WINDOW = 64, NAME_ROOM = 32, PATH_ROOM = PATH_MAX + 64 };

static const char *const genres[] = { "adventure", "belles_lettres", "editorial", "fiction", "government", "hobbies",
                                      "humor", "learned", "lore", "mystery", "news", "religion", "reviews", "romance",
                                      "science_fiction", NULL };

/* Words under way to a window. */
struct window { char *text; size_t length, room; int words; };

static int append_word(struct window *w, const char *word, size_t len)
{
    if (w->length + len + 2 > w->room) {
        const size_t room = 2 * w->room + len + 256;
        char *grown = realloc(w->text, room);
        if (!grown) return GSL_ENOMEM;
        w->text = grown;
        w->room = room;
    }
    if (w->words++) w->text[w->length++] = ' ';
    memcpy(w->text + w->length, word, len);
    w->length += len;
    w->text[w->length] = '\0';
    return GSL_SUCCESS;
}

/* One document: "word/tag" separated by blanks, cut into windows; what is left over at its end is no example. */
static int read_document(FILE *file, int32_t genre, enum task_split split, struct examples *e)
{
    struct window w = { NULL, 0, 0, 0 };
    char *line = NULL;
    size_t room = 0;
    int status = GSL_SUCCESS;
    while (!status && getline(&line, &room, file) > 0) {
        char *rest = NULL;
        for (char *word = strtok_r(line, " \t\r\n", &rest); word && !status; word = strtok_r(NULL, " \t\r\n", &rest)) {
            const char *slash = strrchr(word, '/');
            const size_t len = slash && slash > word ? (size_t)(slash - word) : strlen(word);
            const bool is_quote = len == 2 && (!strncmp(word, "``", 2) || !strncmp(word, "''", 2));
            status = append_word(&w, is_quote ? "\"" : word, is_quote ? 1 : len);
            if (status || w.words < WINDOW) continue;
            struct example x = { .split = split, .label = genre, .text = strdup(w.text) };
            if (x.text) x.hash = task_hash_text(x.text, NULL);
            status = x.text ? examples_add(e, x) : GSL_ENOMEM;
            w.words = 0;
            w.length = 0;
        }
    }
    free(line);
    free(w.text);
    return status;
}

static int genre_of(const char *name)
{
    for (int g = 0; genres[g]; g++)
        if (!strcmp(genres[g], name)) return g;
    return -1;
}

/* Of the documents of a genre, in the order of cats.txt, the 5th, 10th, ... are for the test and the 3rd, 13th, ... for
 * validation: no document is in two splits, and no genre is missing from one. */
static enum task_split split_of_document(size_t index)
{
    return index % 5 == 4 ? TASK_TEST : index % 10 == 2 ? TASK_VALIDATION : TASK_TRAIN;
}

int task_source_brown(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                      struct reason why)
{
    (void)name;
    (void)options;
    char folder[PATH_MAX], path[PATH_ROOM], cause[160], document[NAME_ROOM], genre[NAME_ROOM];
    uint64_t bytes;
    size_t seen[sizeof genres / sizeof *genres] = { 0 };
    data_folder("brown15", folder);
    snprintf(path, sizeof path, "%s/package/cats.txt", folder);
    if (access(path, F_OK))
        return refuse(why, GSL_EFAILED, "brown15 is not in the cache (data/fetch.sh brown15 fetches it)");
    FILE *list = input_file_open(path, &bytes, cause, sizeof cause);
    if (!list) return refuse(why, input_file_status(errno), "cats.txt: %s", cause);
    task->modality = TASK_TEXT;
    int status = task_set_classes(task, genres) ? refuse(why, GSL_ENOMEM, "out of memory") : GSL_SUCCESS;
    while (!status && fscanf(list, "%31s %31s", document, genre) == 2) {
        const int g = genre_of(genre);
        if (g < 0 || strchr(document, '/')) {
            status = refuse(why, GSL_EINVAL, "cats.txt: %.30s %.30s is no document of a known genre", document, genre);
            break;
        }
        snprintf(path, sizeof path, "%s/package/%s", folder, document);
        FILE *file = input_file_open(path, &bytes, cause, sizeof cause);
        if (!file) {
            status = refuse(why, input_file_status(errno), "%s: %s", document, cause);
            break;
        }
        if ((status = read_document(file, g, split_of_document(seen[g]++), e))) refuse(why, status, "out of memory");
        else if (!feof(file)) status = refuse(why, REASON_SYSTEM, "%s: %s", document, strerror(errno));
        fclose(file);
    }
    if (!status && !feof(list))
        status = ferror(list) ? refuse(why, REASON_SYSTEM, "cats.txt: %s", strerror(errno))
                              : refuse(why, GSL_EINVAL, "cats.txt: a line that is no document and genre");
    fclose(list);
    return status ? status : examples_drop_repeats(e, &task->num_dropped) ? refuse(why, GSL_ENOMEM, "out of memory")
        : GSL_SUCCESS;
}
