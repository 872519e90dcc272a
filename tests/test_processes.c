/* Programs as several processes under mpirun: the bytes of one process, and one that is killed. Needs a build with
 * MPI=1. */
#include "processes/processes.h"
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include <glob.h>
#include <gsl/gsl_matrix.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/npy.h"
#include "common/random.h"

/* What keeps the processes from being started; NULL when nothing does. */
static const char *missing(void)
{
    if (!processes_built()) return "not a build with MPI=1";
    return system("mpirun --version > /dev/null 2>&1") ? "no mpirun" : NULL;
}

static void skip_without_mpi(void)
{
    if (!missing()) return;
    print_message("skipped: %s\n", missing());
    skip();
}

/* Random float32 numbers of a shape into FOLDER/name; the path. */
static const char *array(void *state, const char *name, size_t rank, const size_t *shape, uint64_t row)
{
    size_t size = 1;
    char why[128];
    for (size_t i = 0; i < rank; i++) size *= shape[i];
    double *x = malloc(size * sizeof *x);
    float *f = malloc(size * sizeof *f);
    assert_true(x && f);
    random_normal(11, RANDOM_OTHER, 0, row, x, size);
    for (size_t i = 0; i < size; i++) f[i] = (float)(0.7 * x[i]);
    const char *path = scratch_path(state, name);
    assert_int_equal(npy_write_f32(path, f, rank, shape, why, sizeof why), 0);
    free(f);
    free(x);
    return path;
}

enum { MAX_OUTPUTS = 4 };
struct run { const char *program, *options; const char *outputs[MAX_OUTPUTS]; };

/* The options with --NAME TAG.NAME for every output. */
static void command(void *state, const struct run *run, const char *tag, int processes, char *text, size_t size)
{
    size_t at = 0;
    if (processes)
        at += (size_t)snprintf(text, size,
                               "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 120 mpirun "
                               "--oversubscribe -np %d ", processes);
    at += (size_t)snprintf(text + at, size - at, "%s/%s %s --quiet", getenv("PREFIX_NTK_BIN"), run->program,
                           run->options);
    for (int i = 0; i < MAX_OUTPUTS && run->outputs[i]; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s", tag, run->outputs[i]);
        at += (size_t)snprintf(text + at, size - at, " --%.*s %s", (int)strcspn(run->outputs[i], "."), run->outputs[i],
                               scratch_path(state, name));
    }
    assert_true(at < size);
}

static char *file_text(void *state, const char *tag, const char *output, size_t *size)
{
    char name[64], *text = calloc(1, 1 << 20);
    snprintf(name, sizeof name, "%s.%s", tag, output);
    FILE *f = fopen(scratch_path(state, name), "rb");
    assert_true(text && f);
    *size = fread(text, 1, (1 << 20) - 1, f);
    fclose(f);
    return text;
}

/* One process, then 1, 2, 3, 5 and 7 of them: the same data rows and arrays. */
static void check_run(void *state, const struct run *run)
{
    static const int counts[] = { 0, 1, 2, 3, 5, 7 };
    char text[4096], tag[16];
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        snprintf(tag, sizeof tag, "n%d", counts[c]);
        command(state, run, tag, counts[c], text, sizeof text);
        struct outcome o = run_program("/bin/sh", "-c", text, NULL);
        if (o.code) print_error("%s\n%s", text, o.err);
        assert_int_equal(o.code, 0);
        outcome_free(&o);
        for (int i = 0; i < MAX_OUTPUTS && run->outputs[i]; i++) {
            size_t size, want_size;
            char *got = file_text(state, tag, run->outputs[i], &size), *want = file_text(state, "n0", run->outputs[i],
                                                                                         &want_size);
            if (strstr(run->outputs[i], ".csv")) {
                char *a = data_rows(got), *b = data_rows(want);
                assert_string_equal(a, b);
                free(a);
                free(b);
            } else {
                assert_int_equal(size, want_size);
                assert_memory_equal(got, want, size);
            }
            free(got);
            free(want);
        }
    }
}

/* Leaves beyond a power of two, lengths inside a leaf and inside a block, every law and kernel. */
static void test_kernels(void **state)
{
    skip_without_mpi();
    check_run(*state, &(struct run){ "ntk_convergence",
                                     "--num-samples 3 --dim 2 --prefix-len 100,16384,70000,181450 --num-trials 2 "
        "--signs random,mirrored,positive --kernel full,key --threads 1", { "out.csv" } });
    /* Scores that pair moments refuse, where the other route is taken. */
    check_run(*state, &(struct run){ "ntk_convergence",
                                     "--num-samples 2 --dim 2 --sigma 9 --prefix-len 33000,50000 --num-trials 1 "
                                     "--threads 1",
        { "out.csv" } });
}

static void test_descent(void **state)
{
    skip_without_mpi();
    check_run(*state, &(struct run){ "training_dynamics",
                                     "--num-samples 5 --dim 3 --prefix-len 100,1000,9001 --num-trials 2 --num-steps 60 "
        "--threads 1", { "out.csv", "curve-out.csv", "prefix-out.npy" } });
    /* Steps so large that the descent takes running maxima, and diverges. */
    check_run(*state, &(struct run){ "training_dynamics",
                                     "--num-samples 5 --dim 3 --prefix-len 5000 --num-steps 30 --step-size 0.5 "
                                     "--threads 1",
        { "out.csv", "curve-out.csv" } });
    check_run(*state, &(struct run){ "training_dynamics",
                                     "--num-samples 4 --dim 3 --signs mirrored --prefix-len 6002 --num-steps 40 "
                                     "--threads 2",
        { "out.csv", "prefix-out.npy" } });
}

static void test_heads(void **state)
{
    skip_without_mpi();
    const char *q = array(*state, "q.npy", 4, (const size_t[]){ 2, 6, 20, 8 }, 0),
        *k = array(*state, "k.npy", 4, (const size_t[]){ 2, 3, 25, 8 }, 1);
    const char *v = array(*state, "v.npy", 4, (const size_t[]){ 2, 3, 25, 8 }, 2),
        *pk = array(*state, "pk.npy", 3, (const size_t[]){ 3, 900, 8 }, 3);
    const char *pv = array(*state, "pv.npy", 3, (const size_t[]){ 3, 900, 8 }, 4),
        *q3 = array(*state, "q3.npy", 3, (const size_t[]){ 6, 20, 8 }, 5);
    static const char *const methods[] = { "--causal", "--lengths 7,25", "--method ntk --feature taylor:2",
                                           "--method linear --feature elu1", "--method ntk --feature minimax:6" };
    char options[2048];
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        snprintf(options, sizeof options, "--q %s --k %s --v %s --prefix-k %s --prefix-v %s %s --threads 1", q, k, v,
                 pk, pv, methods[i]);
        check_run(*state, &(struct run){ "attend", options, { "out.npy", i == 2 ? "z-out.npy" : NULL } });
    }
    snprintf(options, sizeof options, "--q %s --prefix-k %s --prefix-v %s --features elu1,taylor:2,favor:8 --threads 1",
             q3, pk, pv);
    check_run(*state, &(struct run){ "prefix_to_summary", options, { "out.csv", "z-out.npy", "kvec-out.npy" } });
}

/* A file that is not there: one line of ours, from process 0, no outputs. */
static void test_bad_input(void **state)
{
    skip_without_mpi();
    char text[2048];
    command(*state, &(struct run){ "training_dynamics", "--inputs /nowhere.npy --targets /nowhere.npy", { "out.csv" } },
            "bad", 3, text, sizeof text);
    struct outcome o = run_program("/bin/sh", "-c", text, NULL);
    assert_int_equal(o.code, 3);
    const char *line = strstr(o.err, "training_dynamics: /nowhere.npy");
    assert_non_null(line);
    assert_null(strstr(line + 1, "training_dynamics: "));
    outcome_free(&o);
    assert_int_not_equal(access(scratch_path(*state, "bad.out.csv"), F_OK), 0);
}

/* One process is killed: the others end, none with more than one line and one of them with it (mpirun may end the rest
 * of the job before they speak, which on a busy machine it does); no output, no part of one is left, and the command
 * goes on from what was kept. */
static void check_killed(void *state, int victim)
{
    char text[4096], folder[1024], shell[8192], name[32];
    snprintf(name, sizeof name, "kill%d", victim);
    snprintf(folder, sizeof folder, "%s", scratch_path(state, name));
    command(state, &(struct run){ "training_dynamics",
                                  "--num-samples 8 --dim 8 --prefix-len 20000 --num-steps 1000000 --threads 1",
                                  { NULL } }, name,
            0, text, sizeof text);
    snprintf(shell, sizeof shell,
             "mkdir %s && cd %s && export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; "
             "timeout 100 mpirun --oversubscribe -np 3 sh -c 'echo $$ > pid.$OMPI_COMM_WORLD_RANK; exec %s --out "
             "out.csv --curve-out c.csv' & "
             "mpi=$!; tries=0; while [ ! -s pid.%d ] || [ ! -e out.csv.state ]; do sleep 0.1; tries=$((tries + 1)); [ "
             "$tries -lt 300 ] || exit 9; done; "
             "sleep 0.5; kill -9 $(cat pid.%d); wait $mpi", folder, folder, text, victim, victim);
    const time_t start_s = time(NULL);
    struct outcome o = run_program("/bin/sh", "-c", shell, NULL);
    assert_true(time(NULL) - start_s < 60);
    assert_int_not_equal(o.code, 0);
    assert_int_not_equal(o.code, 9);
    int said = 0;
    for (int rank = 0; rank < 3; rank++) {
        char line[64];
        int lines = 0;
        snprintf(line, sizeof line, "training_dynamics: process %d of 3: ", rank);
        for (const char *s = o.err; (s = strstr(s, line)); s++) lines++;
        if (lines > (rank != victim)) print_error("%s", o.err);
        assert_true(lines <= (rank != victim));
        said += lines;
    }
    assert_true(said >= 1);
    outcome_free(&o);
    char pattern[1088];
    snprintf(pattern, sizeof pattern, "%s/{*,.*}", folder);
    glob_t found;
    assert_int_equal(glob(pattern, GLOB_BRACE, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *file = strrchr(found.gl_pathv[i], '/') + 1;
        const bool kept = !strncmp(file, "pid.", 4) || !strncmp(file, "out.csv.state", 13) || !strcmp(file, ".")
            || !strcmp(file, "..");
        if (!kept) print_error("left behind: %s\n", file);
        assert_true(kept);
    }
    globfree(&found);
}

static void test_killed(void **state)
{
    skip_without_mpi();
    check_killed(*state, 1);
    check_killed(*state, 0);
}

/* Ranges cover everything once, in order; one process has all of it and nobody to talk to. */
static void test_ranges(void **state)
{
    (void)state;
    size_t first = 7, last = 7;
    processes_range(5, 0, &first, &last);
    assert_int_equal(first, 0);
    assert_int_equal(last, 5);
    char byte = 1;
    assert_int_equal(processes_rank(), 0);
    assert_int_equal(processes_count(), 1);
    assert_int_equal(processes_broadcast(&byte, 1), 0);
    assert_int_equal(processes_barrier(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges), cmocka_unit_test(test_kernels), cmocka_unit_test(test_descent),
            cmocka_unit_test(test_heads),
        cmocka_unit_test(test_bad_input), cmocka_unit_test(test_killed),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
