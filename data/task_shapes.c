/* `shapes`: grey images of ten shapes at random places, sizes, angles and contrasts, with noise. Image i of a split is
 * a function of (seed, split, i). */
#include "common/random.h"
#include "data/task_internal.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>

enum { SIDE = 28, NUM_SHAPES = 10, NUM_TRAIN = 6000, NUM_VALIDATION = 500, NUM_TEST = 1000, NUM_NUMBERS = 8 };

static const char *const shape_names[] = { "disc", "ring", "square", "frame", "triangle", "cross", "saltire", "bars",
                                           "columns", "crescent", NULL };

/* Signed distance-like function, negative inside; (x, y) in units of the shape's size, about its centre. */
static double inside(int shape, double x, double y)
{
    const double r = hypot(x, y), box = fmax(fabs(x), fabs(y)), arm = 0.28;
    switch (shape) {
    case 0: return r - 0.9;
    case 1: return fabs(r - 0.75) - 0.2;
    case 2: return box - 0.8;
    case 3: return fabs(box - 0.7) - 0.18;
    case 4: return fmax(-y - 0.6, 0.9 * fabs(x) + 0.5 * y - 0.45);
    case 5: return fmax(box - 0.95, fmin(fabs(x), fabs(y)) - arm);
    case 6: return fmax(r - 1.0, fmin(fabs(x + y), fabs(x - y)) / sqrt(2.0) - arm);
    case 7: return fmax(box - 0.9, 0.12 - fabs(fmod(fabs(y) + 0.6, 0.6) - 0.3));
    case 8: return fmax(box - 0.9, 0.12 - fabs(fmod(fabs(x) + 0.6, 0.6) - 0.3));
    default: return fmax(r - 0.9, 0.75 - hypot(x - 0.45, y));
    }
}

static void draw(uint64_t seed, enum task_split split, size_t index, int shape, unsigned char *image)
{
    double u[NUM_NUMBERS], noise[SIDE * SIDE];
    random_uniform(seed, RANDOM_INPUTS, (uint64_t)split, index, u, NUM_NUMBERS);
    random_normal(seed, RANDOM_PERTURBATION, (uint64_t)split, index, noise, SIDE * SIDE);
    const double size = 5.0 + 5.0 * u[0], angle = 0.7 * (u[1] - 0.5), cx = 13.5 + (10.0 - size) * (2.0 * u[2] - 1.0),
                 cy = 13.5 + (10.0 - size) * (2.0 * u[3] - 1.0), back = 40.0 * u[4], front = back + 70.0 + 100.0 * u[5],
                     spread = 12.0 + 28.0 * u[6];
    for (size_t row = 0; row < SIDE; row++)
        for (size_t col = 0; col < SIDE; col++) {
            const double dx = ((double)col - cx) / size, dy = (cy - (double)row) / size;
            const double x = cos(angle) * dx + sin(angle) * dy, y = cos(angle) * dy - sin(angle) * dx;
            /* One pixel of soft edge. */
            const double cover = fmin(fmax(0.5 - inside(shape, x, y) * size, 0.0), 1.0);
            const double v = back + (front - back) * cover + spread * noise[row * SIDE + col];
            image[row * SIDE + col] = (unsigned char)(v < 0.0 ? 0.0 : v > 255.0 ? 255.0 : v);
        }
}

int task_source_shapes(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                       struct reason why)
{
    static const size_t counts[] = { NUM_TRAIN, NUM_VALIDATION, NUM_TEST };
    (void)name;
    (void)options;
    const uint64_t seed = 1;            /* one data set: what a run's seed changes is which examples are trained on */
    task->modality = TASK_IMAGE;
    task->height = task->width = SIDE;
    task->channels = 1;
    int status = task_set_classes(task, shape_names);
    for (int split = 0; split < NUM_TASK_SPLITS; split++)
        for (size_t i = 0; i < counts[split] && !status; i++) {
            struct example x = { .split = (enum task_split)split, .label = (int32_t)(i % NUM_SHAPES),
                                 .image = malloc(SIDE * SIDE) };
            if (!x.image) {
                status = GSL_ENOMEM;
                break;
            }
            draw(seed, x.split, i, x.label, x.image);
            status = examples_add(e, x);
        }
    return status ? refuse(why, status, "out of memory") : GSL_SUCCESS;
}
