#include "cli/cli.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* Seconds between two updates, and before the first. */
static const double ON_TERMINAL_S = 0.2, PLAIN_S = 15.0;

struct progress {
    const struct cli_common *cfg;
    const char *what;
    double total;
    bool terminal, drawn, started;
    double start_s, last_s;      /* seconds of the monotonic clock */
    double first_done;           /* work that was done before this run */
    pthread_mutex_t lock;
};

double cli_clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct progress *progress_start(const struct cli_common *cfg, const char *what, double total)
{
    if (cfg->quiet) return NULL;
    struct progress *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->cfg = cfg;
    p->what = what;
    p->total = total;
    p->terminal = isatty(STDERR_FILENO);
    p->start_s = p->last_s = cli_clock_s();
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

static void duration(char text[32], double s)
{
    if (s < 90.0) snprintf(text, 32, "%.0f s", s);
    else if (s < 5400.0) snprintf(text, 32, "%.0f min", s / 60.0);
    else snprintf(text, 32, "%.1f h", s / 3600.0);
}

void progress_to(struct progress *p, double done)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    const double now_s = cli_clock_s();
    if (!p->started) {
        p->started = true;
        p->first_done = done;
    }
    if (now_s - p->last_s >= (p->terminal ? ON_TERMINAL_S : PLAIN_S)) {
        char left[32] = "";
        const double fresh = done - p->first_done;
        if (fresh > 0.0 && p->total >= done)
            duration(left, (now_s - p->start_s) * (p->total - done) / fresh);
        fprintf(stderr, "%s%s: %s %.0f %%%s%s%s", p->terminal ? "\r" : "", p->cfg->program, p->what,
                p->total > 0.0 ? 100.0 * fmin(done / p->total, 1.0) : 0.0, *left ? ", " : "", left,
                *left ? " left" : "");
        fputs(p->terminal ? "\033[K" : "\n", stderr);
        fflush(stderr);
        p->drawn = true;
        p->last_s = now_s;
    }
    pthread_mutex_unlock(&p->lock);
}

void progress_end(struct progress *p)
{
    if (!p) return;
    if (p->terminal && p->drawn) fputs("\r\033[K", stderr);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
