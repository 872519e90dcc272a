/* Word problems whose answers are written out: ASDiv (a number) and GSM8K (a solution that ends in a number). */
#include "data/json_file.h"
#include "data/task_internal.h"

#include <ctype.h>
#include <errno.h>
#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Ends an answer such as "9 apples" behind its number; false: it does not begin with one, or the first word is more
 * than one. */
static bool keep_number(char *answer)
{
    const size_t digits = strspn(answer, "0123456789"), more = answer[digits] == '.' ?
        strspn(answer + digits + 1, "0123456789") : 0;
    const size_t end = digits + (more ? 1 + more : 0);
    if (!digits || (answer[end] && answer[end] != ' ')) return false;
    answer[end] = '\0';
    return true;
}

/* Takes the calculator's notes <<...>> out of a solution, in place; false: one without its end. */
static bool drop_notes(char *text)
{
    char *to = text;
    for (const char *from = text; *from;) {
        const char *end = strncmp(from, "<<", 2) ? NULL : strstr(from, ">>");
        if (!strncmp(from, "<<", 2) && !end) return false;
        if (end) from = end + 2;
        else *to++ = *from++;
    }
    *to = '\0';
    return true;
}

/* "passage question" with blanks at neither end. */
static char *join(const char *passage, const char *question)
{
    char *text;
    if (asprintf(&text, "%s%s%s", passage ? passage : "", passage ? " " : "", question) < 0) return NULL;
    size_t n = strlen(text);
    while (n && isspace((unsigned char)text[n - 1])) text[--n] = '\0';
    return text;
}

/* Split by the text of the problem: a fifth is the test set, a tenth the validation set. */
static int add_problem(const json_t *row, bool number, struct task *task, struct examples *e)
{
    const char *passage = json_string_value(json_object_get(row, "passage"));
    const char *question = json_string_value(json_object_get(row, "question")), *answer =
        json_string_value(json_object_get(row, "answer"));
    if (!question || !answer || (number && !passage)) return GSL_EINVAL;
    struct example x = { .text = join(number ? passage : NULL, question), .text2 = strdup(answer) };
    int status = x.text && x.text2 ? GSL_SUCCESS : GSL_ENOMEM;
    const bool kept = !status && (number ? keep_number(x.text2) : drop_notes(x.text2));
    if (!status && !kept && !number) status = GSL_EINVAL;
    if (!kept) {
        free(x.text);
        free(x.text2);
        task->num_dropped += !status;
        return status;
    }
    x.hash = task_hash_text(x.text, NULL);
    x.split = task_split_of(x.hash, 20, 10);
    return examples_add(e, x);
}

int task_source_answers(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                        struct reason why)
{
    static const char *const classes[] = { "answer", NULL };
    (void)options;
    task->modality = TASK_TEXT;
    task->answers = 1;
    if (task_set_classes(task, classes)) return refuse(why, GSL_ENOMEM, "out of memory");
    FILE *file = task_open_cached(name, "test.jsonl", why);
    if (!file) return GSL_EFAILED;
    int status = GSL_SUCCESS;
    char *line = NULL;
    size_t room = 0, at = 0;
    while (!status && getline(&line, &room, file) > 0) {
        at++;
        json_t *row;
        status = json_text_read(line, strlen(line), &row, why);
        if (!status) status = add_problem(row, !strcmp(name, "asdiv"), task, e);
        json_decref(row);
    }
    if (status == GSL_ENOMEM) refuse(why, status, "out of memory");
    else if (status) refuse(why, status, "test.jsonl: line %zu is no problem", at);
    else if (!feof(file)) status = refuse(why, REASON_SYSTEM, "test.jsonl: %s", strerror(errno));
    free(line);
    fclose(file);
    return status ? status : examples_drop_repeats(e, &task->num_dropped);
}
