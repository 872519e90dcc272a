/* What the sources of tasks share: examples are collected, each with its split, then laid out. */
#ifndef DATA_TASK_INTERNAL_H
#define DATA_TASK_INTERNAL_H
#include <stdio.h>

#include "data/tasks.h"

struct example {
    enum task_split split;
    int32_t label;
    char *text, *text2;             /* owned */
    unsigned char *image;           /* owned, height width channels */
    uint64_t hash;                  /* of what the example is */
};

struct examples { struct example *list; size_t count, room; };

/* Takes over the example's strings and image, also when it fails. */
int examples_add(struct examples *e, struct example x);
void examples_free(struct examples *e);

/* FNV-1a of a string, of both texts of a pair. */
uint64_t task_hash_text(const char *text, const char *text2);

/* Drops every example whose text or picture (by `hash`) was there before; adds how many to *dropped. GSL_ENOMEM. */
int examples_drop_repeats(struct examples *e, size_t *dropped);

/* The split of a hash: tests of 100 go to the test set, the next `validations` to the validation set. */
enum task_split task_split_of(uint64_t hash, unsigned tests, unsigned validations);

/* Each source fills the head of the task (modality, classes, sizes) and the examples. */
typedef int task_source(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                        struct reason why);
task_source task_source_idx, task_source_emoji, task_source_shapes, task_source_sent3, task_source_wordnet,
    task_source_npy, task_source_csv;
task_source task_source_answers, task_source_boolq, task_source_wic, task_source_word_order, task_source_brown,
    task_source_clipart;

/* Opens FILE of a set in the cache; NULL and one line in *why, GSL_EFAILED. */
FILE *task_open_cached(const char *set, const char *file_name, struct reason why);

/* Class names from a NULL-terminated list. */
int task_set_classes(struct task *task, const char *const *names);

#endif
