/* clip25: which of 25 folders a drawing of Open Clip Art lies in. */
#include "common/atomic_file.h"
#include "common/hash.h"
#include "data/folder.h"
#include "data/idx.h"
#include "data/png.h"
#include "data/task_internal.h"

#include <fts.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIDE = 112, IMAGE_SIZE = SIDE * SIDE * 3, PATH_ROOM = PATH_MAX + 64 };

/* Folders of at least 45 different drawings, with what lies below them, without flags, map symbols, playing cards,
 * stars and themes of icons, of which there are hundreds alike. */
static const char *const classes[] = { "animals/birds", "animals/bugs", "animals/mammals", "computer",
                                       "computer/buttons", "computer/hardware", "food", "food/beverages",
                                       "food/desserts", "food/fruit", "geography", "office", "people",
                                       "people/clothing", "people/stickmen", "recreation/music", "recreation/sports",
                                       "shapes/arrows", "shapes/jigsaw", "signs_and_symbols", "signs_and_symbols/led",
                                       "special/patterns", "tools", "transportation", "transportation/roadsigns",
                                       NULL };

/* ---- drawing ------------------------------------------------------------------------------------------ */

/* One side of the picture on the square: out pixels start .. start + length - 1 cover the source's `from` pixels. */
struct side { size_t from, start, length; };

static struct side fit(size_t from, size_t longest)
{
    size_t length = (size_t)lround((double)SIDE * (double)from / (double)longest);
    if (length < 1) length = 1;
    return (struct side){ from, (SIDE - length) / 2, length };
}

/* The mean of the source over the cell (row, col) of the fitted picture, each source pixel by the area it shares. */
static void mean_of_cell(const struct png_rgb *picture, struct side rows, struct side cols, size_t row, size_t col,
                         unsigned char out[3])
{
    const double top = (double)row * (double)rows.from / (double)rows.length,
        left = (double)col * (double)cols.from / (double)cols.length;
    const double bottom = (double)(row + 1) * (double)rows.from / (double)rows.length,
                 right = (double)(col + 1) * (double)cols.from / (double)cols.length;
    double sum[3] = { 0.0, 0.0, 0.0 }, area = 0.0;
    for (size_t y = (size_t)top; y < rows.from && (double)y < bottom; y++) {
        const double height = fmin(bottom, (double)y + 1.0) - fmax(top, (double)y);
        for (size_t x = (size_t)left; x < cols.from && (double)x < right; x++) {
            const double share = height * (fmin(right, (double)x + 1.0) - fmax(left, (double)x));
            const unsigned char *pixel = picture->data + (y * picture->width + x) * 3;
            for (int c = 0; c < 3; c++) sum[c] += share * pixel[c];
            area += share;
        }
    }
    for (int c = 0; c < 3; c++) out[c] = (unsigned char)lround(sum[c] / area);
}

/* The picture on a white square, its longer side from edge to edge. */
static void draw(const struct png_rgb *picture, unsigned char *square)
{
    const size_t longest = picture->width > picture->height ? picture->width : picture->height;
    const struct side rows = fit(picture->height, longest), cols = fit(picture->width, longest);
    memset(square, 255, IMAGE_SIZE);
    for (size_t r = 0; r < rows.length; r++)
        for (size_t c = 0; c < cols.length; c++)
            mean_of_cell(picture, rows, cols, r, c, square + ((rows.start + r) * SIDE + cols.start + c) * 3);
}

/* ---- folders ------------------------------------------------------------------------------------------- */

static bool is_repeat(const struct examples *e, uint64_t hash)
{
    for (size_t i = 0; i < e->count; i++)
        if (e->list[i].hash == hash) return true;
    return false;
}

/* Takes over the pixels; the split is a function of them. */
static int add_pixels(unsigned char *pixels, int32_t label, struct examples *e)
{
    const uint64_t hash = hash_bytes(HASH_START, pixels, IMAGE_SIZE);
    const struct example x = { .split = task_split_of(hash, 20, 10), .label = label, .image = pixels, .hash = hash };
    if (!is_repeat(e, hash)) return examples_add(e, x);
    free(pixels);
    return GSL_SUCCESS;
}

/* A drawing that was there before, in whichever folder, is left out, and one of absurd size. */
static int add_drawing(const char *path, int32_t label, struct examples *e, struct reason why)
{
    struct png_rgb picture = { 0, 0, NULL };
    char cause[160];
    int status = png_read_rgb(path, &picture, (struct reason){ cause, sizeof cause });
    if (status == GSL_ERANGE) return GSL_SUCCESS;
    if (status) return refuse(why, status, "%.150s: %s", path, cause);
    unsigned char *pixels = malloc(IMAGE_SIZE);
    if (pixels) draw(&picture, pixels);
    free(picture.data);
    if (!pixels || add_pixels(pixels, label, e)) return refuse(why, GSL_ENOMEM, "out of memory");
    return GSL_SUCCESS;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

/* All drawings below the folder of class `label`; a class of a whole top folder has those that lie in it directly. */
static int add_folder(const char *folder, int32_t label, struct examples *e, struct reason why)
{
    char path[PATH_ROOM];
    snprintf(path, sizeof path, "%s/png/%s", folder, classes[label]);
    char *const roots[] = { path, NULL };
    const bool deep = strchr(classes[label], '/') != NULL;
    FTS *tree = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
    if (!tree) return refuse(why, GSL_EFAILED, "%.150s: cannot be read", path);
    int status = GSL_SUCCESS;
    for (FTSENT *entry; !status && (entry = fts_read(tree));) {
        if (entry->fts_info == FTS_D && entry->fts_level > 0 && !deep) fts_set(tree, entry, FTS_SKIP);
        if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR || entry->fts_info == FTS_NS)
            status = refuse(why, GSL_EFAILED, "%.150s: %s", entry->fts_path, strerror(entry->fts_errno));
        const size_t n = entry->fts_namelen;
        if (!status && entry->fts_info == FTS_F && n > 4 && !strcmp(entry->fts_name + n - 4, ".png"))
            status = add_drawing(entry->fts_path, label, e, why);
    }
    fts_close(tree);
    return status;
}

/* ---- what was drawn, kept ------------------------------------------------------------------------------- */

/* Drawing takes a minute, so its result is kept beside the package's folder, when that can be written, as two IDX
 * arrays: (n, SIDE, SIDE, 3) and the labels (n). */
static int write_idx(const char *path, const struct examples *e, bool labels)
{
    struct atomic_file *file;
    char why[160];
    int status = atomic_file_open(path, &file, why, sizeof why);
    if (status) return status;
    FILE *stream = atomic_file_stream(file);
    const uint32_t shape[] = { (uint32_t)e->count, SIDE, SIDE, 3 };
    const int rank = labels ? 1 : 4;
    const unsigned char magic[] = { 0, 0, 8, (unsigned char)rank };
    bool good = fwrite(magic, 1, 4, stream) == 4;
    for (int r = 0; r < rank && good; r++) {
        const unsigned char bytes[] = { (unsigned char)(shape[r] >> 24), (unsigned char)(shape[r] >> 16),
                                        (unsigned char)(shape[r] >> 8), (unsigned char)shape[r] };
        good = fwrite(bytes, 1, 4, stream) == 4;
    }
    for (size_t i = 0; i < e->count && good; i++)
        good = labels ? putc(e->list[i].label, stream) != EOF
            : fwrite(e->list[i].image, 1, IMAGE_SIZE, stream) == IMAGE_SIZE;
    if (good) return atomic_file_commit(file, why, sizeof why);
    atomic_file_discard(file);
    return GSL_EFAILED;
}

/* Adds what was kept; GSL_EFAILED when nothing whole is there. */
static int read_kept(const char *pixels_path, const char *labels_path, struct examples *e)
{
    struct idx pixels = { 0 }, labels = { 0 };
    char why[160];
    size_t num_classes = 0;
    while (classes[num_classes]) num_classes++;
    int status = idx_read(labels_path, 1, &labels, why, sizeof why) || idx_read(pixels_path, 4, &pixels, why,
                                                                                sizeof why)
               ? GSL_EFAILED : GSL_SUCCESS;
    if (!status && (pixels.shape[0] != labels.size || pixels.shape[1] != SIDE || pixels.shape[2] != SIDE
                    || pixels.shape[3] != 3))
        status = GSL_EFAILED;
    for (size_t i = 0; !status && i < labels.size; i++)
        if (labels.data[i] >= num_classes) status = GSL_EFAILED;
    for (size_t i = 0; !status && i < labels.size; i++) {
        unsigned char *copy = malloc(IMAGE_SIZE);
        if (!copy) {
            status = GSL_ENOMEM;
            break;
        }
        memcpy(copy, pixels.data + i * IMAGE_SIZE, IMAGE_SIZE);
        status = add_pixels(copy, labels.data[i], e);
    }
    idx_free(&pixels);
    idx_free(&labels);
    return status;
}

/* Test: a fifth by the hash of the drawing; validation: a tenth. */
int task_source_clipart(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                        struct reason why)
{
    (void)name;
    (void)options;
    char folder[PATH_MAX];
    data_folder("clip25", folder);
    if (access(folder, F_OK))
        return refuse(why, GSL_EFAILED, "clip25 is not in the cache (data/fetch.sh clip25 fetches it)");
    task->modality = TASK_IMAGE;
    task->height = task->width = SIDE;
    task->channels = 3;
    int status = task_set_classes(task, classes) ? refuse(why, GSL_ENOMEM, "out of memory") : GSL_SUCCESS;
    if (status) return status;
    char pixels_path[PATH_ROOM], labels_path[PATH_ROOM];
    snprintf(pixels_path, sizeof pixels_path, "%s/drawn-%d-idx4-ubyte", folder, SIDE);
    snprintf(labels_path, sizeof labels_path, "%s/drawn-%d-idx1-ubyte", folder, SIDE);
    status = read_kept(pixels_path, labels_path, e);
    if (status == GSL_ENOMEM) return refuse(why, status, "out of memory");
    if (!status) return GSL_SUCCESS;
    status = GSL_SUCCESS;
    for (int32_t c = 0; classes[c] && !status; c++) status = add_folder(folder, c, e, why);
    /* The labels last: without them the pixels do not count. */
    if (!status && !write_idx(pixels_path, e, false)) write_idx(labels_path, e, true);
    return status;
}
