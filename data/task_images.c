/* Tasks of images: IDX data sets, emoji sheets, a user's NPY pair. */
#include "common/hash.h"
#include "common/npy.h"
#include "data/folder.h"
#include "data/idx.h"
#include "data/json_file.h"
#include "data/png.h"
#include "data/task_internal.h"

#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_ROOM = PATH_MAX + 64 };

static int add_image(struct examples *e, const unsigned char *pixels, size_t size, int32_t label, enum task_split split)
{
    struct example x = { .split = split, .label = label, .image = malloc(size),
                         .hash = hash_bytes(HASH_START, pixels, size) };
    if (!x.image) return GSL_ENOMEM;
    memcpy(x.image, pixels, size);
    return examples_add(e, x);
}

/* ---- MNIST and Fashion-MNIST ----------------------------------------------------------------------- */

static int read_half(const char *folder, const char *half, size_t side, struct idx *images, struct idx *labels,
                     struct reason why)
{
    char path[PATH_ROOM], cause[160];
    snprintf(path, sizeof path, "%s/%s-images-idx3-ubyte", folder, half);
    int status = idx_read(path, 3, images, cause, sizeof cause);
    if (!status) {
        snprintf(path, sizeof path, "%s/%s-labels-idx1-ubyte", folder, half);
        status = idx_read(path, 1, labels, cause, sizeof cause);
    }
    if (status) return refuse(why, status, "%.80s: %s", strrchr(path, '/') + 1, cause);
    if (images->shape[1] != side || images->shape[2] != side || images->shape[0] != labels->shape[0])
        return refuse(why, GSL_EINVAL, "%s images and labels do not agree", half);
    for (size_t i = 0; i < labels->size; i++)
        if (labels->data[i] > 9) return refuse(why, GSL_EINVAL, "%s label %zu is %d", half, i, labels->data[i]);
    return GSL_SUCCESS;
}

/* Official test set; of the training images one in twelve, by the hash of its pixels, is for validation. */
int task_source_idx(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                    struct reason why)
{
    static const char *const digits[] = { "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", NULL };
    static const char *const clothes[] = { "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
                                           "sneaker", "bag", "ankle boot", NULL };
    static const char *const halves[] = { "train", "t10k" };
    enum { SIDE = 28 };
    (void)options;
    char folder[PATH_MAX];
    data_folder(name, folder);
    if (access(folder, F_OK))
        return refuse(why, GSL_EFAILED, "%s is not in the cache (data/fetch.sh %s fetches it)", name, name);
    task->modality = TASK_IMAGE;
    task->height = task->width = SIDE;
    task->channels = 1;
    int status = task_set_classes(task, strcmp(name, "mnist") ? clothes : digits);
    if (status) return refuse(why, status, "out of memory");
    for (int half = 0; half < 2 && !status; half++) {
        struct idx images = { 0 }, labels = { 0 };
        status = read_half(folder, halves[half], SIDE, &images, &labels, why);
        for (size_t i = 0; !status && i < labels.size; i++) {
            const unsigned char *pixels = images.data + i * SIDE * SIDE;
            const uint64_t hash = hash_bytes(HASH_START, pixels, SIDE * SIDE);
            const enum task_split split = half ? TASK_TEST : (hash >> 32) % 12 == 0 ? TASK_VALIDATION : TASK_TRAIN;
            status = add_image(e, pixels, SIDE * SIDE, labels.data[i], split);
            if (status) refuse(why, status, "out of memory");
        }
        idx_free(&images);
        idx_free(&labels);
    }
    return status;
}

/* ---- emoji ------------------------------------------------------------------------------------------------ */

enum { CELL = 32, PITCH = 34 };

static const char *const emoji_categories[] = { "Smileys & Emotion", "People & Body", "Animals & Nature",
                                                "Food & Drink", "Travel & Places", "Activities", "Objects", "Symbols",
                                                "Flags", NULL };

static int category_of(const json_t *entry)
{
    const char *category = json_string_value(json_object_get(entry, "category"));
    for (int c = 0; category && emoji_categories[c]; c++)
        if (!strcmp(category, emoji_categories[c])) return c;
    return -1;
}

/* The cell of one vendor's sheet, RGB over white. */
static int add_cell(struct examples *e, const struct png_rgb *sheet, const json_t *entry, int32_t label,
                    enum task_split split, struct reason why)
{
    const json_int_t x = json_integer_value(json_object_get(entry, "sheet_x")),
        y = json_integer_value(json_object_get(entry, "sheet_y"));
    if (x < 0 || y < 0 || (size_t)(x + 1) * PITCH > sheet->width || (size_t)(y + 1) * PITCH > sheet->height)
        return refuse(why, GSL_EINVAL, "emoji.json: a cell outside its sheet");
    unsigned char cell[CELL * CELL * 3];
    for (size_t row = 0; row < CELL; row++) {
        const size_t from = (((size_t)y * PITCH + 1 + row) * sheet->width + (size_t)x * PITCH + 1) * 3;
        memcpy(cell + row * CELL * 3, sheet->data + from, CELL * 3);
    }
    const int status = add_image(e, cell, sizeof cell, label, split);
    return status ? refuse(why, status, "out of memory") : GSL_SUCCESS;
}

int task_source_emoji(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                      struct reason why)
{
    static const char *const vendors[] = { "google", "twitter" };
    (void)options;
    const bool cross = !strcmp(name, "emoji9-cross");
    char folder[PATH_MAX], path[PATH_ROOM], cause[160];
    data_folder("emoji9", folder);
    if (access(folder, F_OK))
        return refuse(why, GSL_EFAILED, "emoji9 is not in the cache (data/fetch.sh emoji9 fetches it)");
    task->modality = TASK_IMAGE;
    task->height = task->width = CELL;
    task->channels = 3;
    if (task_set_classes(task, emoji_categories)) return refuse(why, GSL_ENOMEM, "out of memory");
    snprintf(path, sizeof path, "%s/emoji.json", folder);
    snprintf(cause, sizeof cause, "not a list");
    json_t *json;
    int status = json_file_read(path, &json, (struct reason){ cause, sizeof cause });
    if (!status && !json_is_array(json)) status = GSL_EINVAL;
    if (status) {
        json_decref(json);
        return refuse(why, status, "emoji.json: %s", cause);
    }
    for (int v = 0; v < 2 && !status; v++) {
        struct png_rgb sheet = { 0, 0, NULL };
        snprintf(path, sizeof path, "%s/%s-32.png", folder, vendors[v]);
        if ((status = png_read_rgb(path, &sheet, (struct reason){ cause, sizeof cause }))) {
            refuse(why, status, "%s-32.png: %s", vendors[v], cause);
            break;
        }
        char has[32];
        snprintf(has, sizeof has, "has_img_%s", vendors[v]);
        size_t i;
        json_t *entry;
        json_array_foreach(json, i, entry) {
            const int category = category_of(entry);
            const char *code = json_string_value(json_object_get(entry, "unified"));
            if (status || category < 0 || !code || !json_is_true(json_object_get(entry, has))) continue;
            const uint64_t hash = task_hash_text(code, NULL);
            enum task_split split = task_split_of(hash, 21, 8);
            if (cross) split = v ? TASK_TEST : split == TASK_VALIDATION ? TASK_VALIDATION : TASK_TRAIN;
            status = add_cell(e, &sheet, entry, category, split, why);
        }
        free(sheet.data);
    }
    json_decref(json);
    /* Some code points share one picture. */
    if (!status && examples_drop_repeats(e, &task->num_dropped)) status = refuse(why, GSL_ENOMEM, "out of memory");
    return status;
}

/* ---- a user's arrays ----------------------------------------------------------------------------------------- */

/* The labels' file: the last X of the name becomes y. */
static int labels_path(const char *images, char *path, size_t size, struct reason why)
{
    const char *base = strrchr(images, '/');
    base = base ? base + 1 : images;
    const char *x = strrchr(base, 'X');
    if (!x || strlen(images) >= size) return refuse(why, GSL_EINVAL, "%.100s: no X in the name to put y for", base);
    strcpy(path, images);
    path[x - images] = 'y';
    return GSL_SUCCESS;
}

static int check_arrays(const struct npy *X, const struct npy *y, const struct task *task, struct reason why)
{
    const size_t channels = X->rank == 4 ? X->shape[3] : 1;
    if ((X->rank != 3 && X->rank != 4) || (channels != 1 && channels != 3) || !X->shape[0] || !X->shape[1]
        || !X->shape[2])
        return refuse(why, GSL_EINVAL, "images are not (n, h, w) or (n, h, w, 3)");
    if (X->shape[1] > 4096 || X->shape[2] > 4096)
        return refuse(why, GSL_EINVAL, "images of more than 4096 pixels a side");
    if (y->rank != 1 || y->shape[0] != X->shape[0])
        return refuse(why, GSL_EINVAL, "%zu images and another number of labels", X->shape[0]);
    if (task->height && (task->height != X->shape[1] || task->width != X->shape[2] || task->channels != channels))
        return refuse(why, GSL_EINVAL, "images of another size than the training images");
    return GSL_SUCCESS;
}

static int add_arrays(const struct npy *X, const struct npy *y, bool test, size_t *classes, struct task *task,
                      struct examples *e, struct reason why)
{
    const size_t pixels = X->size / X->shape[0];
    const bool is_bytes = !strcmp(X->type, "|u1");
    unsigned char *image = malloc(pixels);
    int status = image ? GSL_SUCCESS : refuse(why, GSL_ENOMEM, "out of memory");
    for (size_t i = 0; i < X->shape[0] && !status; i++) {
        const double label = y->f64[i];
        if (label != floor(label) || label < 0 || label >= 100000)
            status = refuse(why, GSL_EINVAL, "label %zu is no class number", i);
        if (!status && test && label >= (double)*classes)
            status = refuse(why, GSL_EINVAL, "label %zu of the test set is no class of the training set", i);
        for (size_t p = 0; p < pixels && !status; p++) {
            const double v = X->f64[i * pixels + p] * (is_bytes ? 1.0 : 255.0);
            if (!(v >= 0.0 && v <= 255.5))
                status = refuse(why, GSL_EINVAL, "image %zu has a pixel outside %s", i, is_bytes ? "0..255" : "0..1");
            else image[p] = (unsigned char)(v + 0.5 > 255.0 ? 255.0 : v + 0.5);
        }
        if (status) break;
        if (!test && (size_t)label + 1 > *classes) *classes = (size_t)label + 1;
        const enum task_split split = test ? TASK_TEST : task_split_of(hash_bytes(HASH_START, image, pixels), 0, 10);
        if ((status = add_image(e, image, pixels, (int32_t)label, split))) refuse(why, status, "out of memory");
    }
    free(image);
    task->height = X->shape[1];
    task->width = X->shape[2];
    task->channels = X->rank == 4 ? X->shape[3] : 1;
    return status;
}

int task_source_npy(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                    struct reason why)
{
    (void)name;
    const char *const files[] = { options->train_file, options->test_file };
    size_t classes = 0;
    int status = GSL_SUCCESS;
    char cause[160], path[PATH_MAX];
    const struct reason inner = { cause, sizeof cause };
    task->modality = TASK_IMAGE;
    for (int f = 0; f < 2 && !status; f++) {
        struct npy X = { 0 }, y = { 0 };
        const char *at = files[f];
        status = labels_path(files[f], path, sizeof path, inner);
        if (!status) status = npy_read_numbers(files[f], &X, cause, sizeof cause);
        if (!status && strcmp(X.type, "|u1") && X.type[1] != 'f')
            status = refuse(inner, GSL_EINVAL, "dtype '%s' is neither uint8 nor float", X.type);
        if (!status && (status = npy_read_numbers(path, &y, cause, sizeof cause))) at = path;
        if (!status && y.type[1] == 'f') {
            at = path;
            status = refuse(inner, GSL_EINVAL, "labels are no integers");
        }
        if (!status) status = check_arrays(&X, &y, task, inner);
        if (!status) status = add_arrays(&X, &y, f == 1, &classes, task, e, inner);
        if (status) refuse(why, status, "%.150s: %s", at, cause);
        npy_free(&X);
        npy_free(&y);
    }
    if (status) return status;
    if (classes < 2) return refuse(why, GSL_EINVAL, "%.150s: a single class", files[0]);
    task->class_names = calloc(classes + 1, sizeof *task->class_names);
    task->num_classes = task->class_names ? classes : 0;
    for (size_t c = 0; c < task->num_classes; c++) {
        char number[24];
        snprintf(number, sizeof number, "%zu", c);
        if (!(task->class_names[c] = strdup(number))) return refuse(why, GSL_ENOMEM, "out of memory");
    }
    return task->class_names ? GSL_SUCCESS : refuse(why, GSL_ENOMEM, "out of memory");
}
