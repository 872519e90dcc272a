/* Tasks to fine-tune on: examples with labels in three splits. Every task is split once, by rules that depend on the
 * examples alone: the official test set where there is one, else by a hash of the example (FNV-1a of common/hash.h);
 * the validation set is always carved out of the training examples. */
#ifndef DATA_TASKS_H
#define DATA_TASKS_H
#include <stddef.h>
#include <stdint.h>

#include "common/reason.h"

enum task_modality { TASK_TEXT, TASK_IMAGE };
enum task_split { TASK_TRAIN, TASK_VALIDATION, TASK_TEST, NUM_TASK_SPLITS };

struct task_set {
    size_t count;
    int32_t *labels;                    /* (count) */
    char **texts, **texts2;             /* TASK_TEXT: (count), UTF-8; texts2 NULL: single texts */
    unsigned char *images;              /* TASK_IMAGE: (count, height, width, channels) */
};

struct task {
    char *name;
    enum task_modality modality;
    int answers;                        /* 1: texts2 are answers to be written, and there is one class */
    size_t num_classes;
    char **class_names;                 /* (num_classes) */
    size_t height, width, channels;     /* images: channels 1 or 3 */
    struct task_set sets[NUM_TASK_SPLITS];
    size_t num_dropped;                 /* examples left out: duplicates, empty rows */
    uint64_t checksum;                  /* of all splits' contents and labels */
};

struct task_options {
    const char *train_file, *test_file; /* a user's own data; NULL: the named task */
    size_t train_size;                  /* 0: all; else the first examples of a permutation, classes in turn */
    size_t validation_size, test_size;  /* 0: all */
    uint64_t seed;                      /* of that permutation, and of `shapes` */
};

/* A known task, a line about it, and the set of data/fetch.sh it needs (NULL: none). */
struct task_entry { const char *name, *summary, *needs; };
const struct task_entry *task_list(size_t *count);

/* Opens a task of task_list, or a user's files (name NULL): CSV with a header and columns text[,text2],label in any
 * order and labels that are any words, or X.npy (uint8, or float in 0..1 (n,h,w[,3])) with integers in y.npy beside it,
 * the name with its last X turned into y (runX.npy -> runy.npy, X_test.npy -> y_test.npy). A user's validation set is a
 * tenth of the training file, by hash. GSL_EINVAL malformed or unknown, GSL_EFAILED cannot be read, GSL_ENOMEM; one
 * line in *why, which names the file. */
int task_open(const char *name, const struct task_options *options, struct task **out, struct reason why);
void task_free(struct task *task);                              /* accepts NULL */

/* The most frequent class of the training set, and its share of the test set. */
double task_majority(const struct task *task, int32_t *label);

const char *task_split_name(enum task_split split);

#endif
