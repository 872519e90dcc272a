/* The shell scripts: data/fetch.sh with a pretended client, experiments/run.sh with a
 * pretended program. They are run from the root of the tree, as `make test` does. */
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char root[4096];

/* A shell command with the scratch folder as working folder. */
static struct outcome sh(void *state, const char *format, ...) __attribute__((format(printf, 2, 3)));

static struct outcome sh(void *state, const char *format, ...)
{
    char command[2048], whole[8192];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    snprintf(whole, sizeof whole, "cd '%s' && ROOT='%s' && PATH=\"$PWD/bin:$PATH\" && %s", scratch_path(state, "."),
             root, command);
    return run_program("/bin/sh", "-c", whole, (char *)NULL);
}

static void expect(struct outcome o, int code, const char *says)
{
    if (o.code != code || !strstr(o.err, says))
        fail_msg("exit %d, expected %d and '%s' on stderr:\n%s%s", o.code, code, says, o.out, o.err);
    outcome_free(&o);
}

/* A data set "toy" of one file in a package that the pretended npm hands out. */
static int setup(void **state)
{
    if (scratch_setup(state) || !getcwd(root, sizeof root)) return -1;
    struct outcome o = sh(*state,
        "mkdir -p bin store/package data experiments && cp \"$ROOT/data/fetch.sh\" data/ && cp "
        "\"$ROOT/experiments/run.sh\" experiments/ &&"
        "printf 'seven bytes' > store/package/toy.bin && tar -czf store/toy-1.0.tgz -C store package/toy.bin &&"
        "{ echo \"package toy npm toy 1.0 $(wc -c < store/toy-1.0.tgz) $(sha256sum store/toy-1.0.tgz | cut -d ' ' -f "
        "1)\";"
        "  echo \"file toy package/toy.bin 11 $(sha256sum store/package/toy.bin | cut -d ' ' -f 1)\"; } > data/pins &&"
        "printf '#!/bin/sh\\ncp ../../../../store/toy-1.0.tgz .\\n' > bin/npm && chmod +x bin/npm");
    const int code = o.code;
    outcome_free(&o);
    return code;
}

static void test_fetch(void **state)
{
    expect(sh(*state, "data/fetch.sh"), 2, "usage");
    expect(sh(*state, "data/fetch.sh nothing"), 2, "no such data set");
    expect(sh(*state, "data/fetch.sh --check toy"), 3, "");

    /* No network: the client's own error is named, and nothing stays. */
    expect(sh(*state, "mv bin/npm bin/right && printf '#!/bin/sh\\necho npm ERR! code EAI_AGAIN >&2; exit 1\\n' > "
                      "bin/npm &&"
                      "chmod +x bin/npm && data/fetch.sh toy"), 3, "toy@1.0 (is there a network?): EAI_AGAIN");
    /* A download that is cut, or another file. */
    expect(sh(*state, "printf '#!/bin/sh\\nhead -c 50 ../../../../store/toy-1.0.tgz > toy-1.0.tgz\\n' > bin/npm && "
                      "data/fetch.sh toy"),
           3, "wrong checksum: 50 bytes");
    expect(sh(*state, "ls data/cache"), 0, "");
    struct outcome o = sh(*state, "ls data/cache");
    assert_string_equal(o.out, "");
    outcome_free(&o);

    expect(sh(*state, "mv bin/right bin/npm && data/fetch.sh toy && cat data/cache/toy/toy.bin && data/fetch.sh "
                      "--check toy"), 0, "toy is in");
    /* With the data there no client is asked, and a damaged file is unpacked again. */
    expect(sh(*state, "rm bin/npm && printf '#!/bin/sh\\nexit 1\\n' > bin/npm && chmod +x bin/npm && data/fetch.sh "
                      "toy"), 0, "");
    expect(sh(*state, "printf 'eleven byte' > data/cache/toy/toy.bin && ! data/fetch.sh --check toy && data/fetch.sh "
                      "toy &&"
                      "cmp data/cache/toy/toy.bin store/package/toy.bin"), 0, "toy is in");
    /* PREFIX_NTK_DATA moves the cache. */
    expect(sh(*state, "PREFIX_NTK_DATA=\"$PWD/elsewhere\" data/fetch.sh --check toy"), 3, "");
}

static void run(void **state, const char *options, int code, const char *says)
{
    expect(sh(*state, "BUILD=b SEED=5 experiments/run.sh tiny stem ./prog %s", options), code, says);
}

static void test_run(void **state)
{
    /* Writes its options to --out and a verdict row beside it; fails for "--fail". */
    expect(sh(*state, "cat > prog <<'END'\n#!/bin/sh\nall=\"$*\"\ncase $all in *--fail*) exit 1 ;; esac\n"
                      "while [ $# -gt 0 ]; do case $1 in --out) out=$2 ;; --verdicts) v=$2 ;; esac; shift; done\n"
                      "echo \"$all\" > \"$out\"; echo 2500000 > \"$PREFIX_NTK_USAGE\";"
                      "echo 'T2,row,q,<= 1,,,,,not tested,read,prog,stem.svg,exact,T3 row' > \"$v\"\nEND\n"
                      "chmod +x prog && cat > paper_notes.md <<'END'\n### T2. Title\n\n"
                      "| row | quantity | rule | verdict | measured | run |\n|---|---|---|---|---|---|\n"
                      "| row | q | <= 1 | not tested | | stem |\n| far | q | <= 1 | | | other |\nEND\n"), 0, "");
    run(state, "-- --a 1", 0, "stem: running");
    run(state, "-- --a 1", 0, "stem: unchanged");
    /* Seconds, memory and claims are listed. */
    expect(sh(*state, "cp \"$ROOT/experiments/list.sh\" experiments/ && BUILD=b experiments/list.sh tiny stem other > "
                      "list && cat list >&2 &&"
                      "grep -q '^stem  *0.[01]  *2 *T2$' list && grep -q '^other  *-  *- *T2$' list"), 0, "minutes");
    struct outcome o = sh(*state, "cat b/tiny/results/stem.csv");
    assert_string_equal(o.out,
                        "--seed 5 --a 1 --profile tiny --verdicts b/tiny/results/verdicts.csv --ledger paper_notes.md "
                               "--out b/tiny/results/stem.csv\n");
    outcome_free(&o);
    /* Options, program, rule, named files, and lost results each make it run again ... */
    run(state, "-- --a 2", 0, "stem: running");
    run(state, "--timed -- --a 2", 0, "stem: unchanged");
    expect(sh(*state, "echo '# mended' >> prog"), 0, "");
    run(state, "-- --a 2", 0, "stem: running");
    expect(sh(*state, "sed -i 's/| row | q | <= 1/| row | q | <= 2/' paper_notes.md"), 0, "");
    run(state, "-- --a 2", 0, "stem: running");
    expect(sh(*state, "echo 1 > x.csv"), 0, "");
    run(state, "-- --inputs x.csv", 0, "stem: running");
    expect(sh(*state, "echo 2 > x.csv"), 0, "");
    run(state, "-- --inputs x.csv", 0, "stem: running");
    expect(sh(*state, "rm b/tiny/results/verdicts.csv"), 0, "");
    run(state, "-- --inputs x.csv", 0, "stem: running");
    /* ... the verdict in the ledger, and rules of other runs, do not. */
    expect(sh(*state, "sed -i 's/not tested/supported/; s/| far | q | <= 1/| far | q | <= 3/' paper_notes.md"), 0, "");
    run(state, "-- --inputs x.csv", 0, "stem: unchanged");
    /* A failed run is not finished. */
    run(state, "-- --fail", 1, "stem: exit 1");
    run(state, "-- --inputs x.csv", 0, "stem: running");
    /* A run without its data is a gap: no table, no verdict. */
    expect(sh(*state, "rm -rf data/cache && BUILD=b experiments/run.sh tiny stem ./prog -- --dataset toy && ! ls "
                      "b/tiny/results/stem.csv"),
           0, "stem: left out");
    expect(sh(*state, "! grep stem.svg b/tiny/results/verdicts.csv"), 0, "");
}

/* A signal to the script reaches the program. */
static void test_run_interrupted(void **state)
{
    expect(sh(*state, "printf '#!/bin/sh\\ntrap \"echo stopped >&2; exit 143\" TERM\\n: > started\\nwhile :; do sleep "
                      "0.05; done\\n' > slow &&"
                      "chmod +x slow && { BUILD=b experiments/run.sh tiny slow ./slow -- & } &&"
                      "while [ ! -e started ]; do sleep 0.05; done; kill -TERM $!; wait $!"), 143, "stopped");
}

/* The Makefile: what a packager gives it, folders with other things in them, an outer repository. */
static void test_makefile(void **state)
{
    expect(sh(*state, "make -C \"$ROOT\" -n -B V=1 BUILD=\"$PWD/b1\" LDFLAGS=-Wl,-z,relro \"$PWD/b1/bin/verify\" > "
                      "plan 2> plan.err || exit 9;"
                      "grep -- '-o .*bin/verify.part' plan | grep -- -fopenmp | grep -q relro || { echo no link >&2; "
                      "exit 1; };"
                      "grep -E -- ' -o [^ ]+' plan | grep -vE -- ' -o [^ ]+\\.part' | grep -v -- '-nostdlib' >&2 && "
                      "exit 1; exit 0"), 0, "");
    expect(sh(*state, "mkdir thesis && ! make -C \"$ROOT\" clean BUILD=\"$PWD/thesis build\" 2> /dev/null && [ -d "
                      "thesis ]"), 0, "");
    expect(sh(*state, "mkdir -p mixed/obj mixed/bin && echo mine > mixed/notes && make -C \"$ROOT\" -s clean "
                      "BUILD=\"$PWD/mixed\" &&"
                      "[ \"$(ls mixed)\" = notes ]"), 0, "");
    struct outcome git = sh(*state, "command -v git");
    const int has_git = git.code == 0;
    outcome_free(&git);
    if (!has_git) {
        print_message("skipped: the commit of a tree inside another repository (no git)\n");
        return;
    }
    expect(sh(*state, "mkdir outer && cd outer && git init -q && git -c user.name=n -c user.email=n@n commit -q "
                      "--allow-empty -m x &&"
                      "mkdir 'the tree' && cp -r \"$ROOT/Makefile\" \"$ROOT/experiments\" \"$ROOT/include\" 'the tree' "
                      "&& cd 'the tree' &&"
                      "make -s b/commit BUILD=b && [ \"$(cat b/commit)\" = unknown ]"), 0, "");
}

/* A rule or an instance that differs from the last release fails until its entry's History says what stood there. */
static void test_rules(void **state)
{
    expect(sh(*state, "mkdir -p rules/experiments rules/docs && cp \"$ROOT/experiments/rules.sh\" "
                      "\"$ROOT/experiments/default.mk\" rules/experiments &&"
                      "cp \"$ROOT/paper_notes.md\" rules && cp \"$ROOT/docs/rules_snapshot.csv\" rules/docs && cd "
                      "rules && experiments/rules.sh check"), 0, "");
    expect(sh(*state, "cd rules && sed -i 's/^\\(| value-path .*\\)<= 1e-7/\\1<= 1e-6/' paper_notes.md && "
                      "experiments/rules.sh check 1>&2"), 1, "value-path");
    expect(sh(*state, "cd rules && sed -i '/^### T1\\. /,/^| row/s/^\\*\\*Measured/**History.** `value-path` had `<= "
                      "1e-7`.\\n\\n&/' paper_notes.md &&"
                      "experiments/rules.sh check 1>&2"), 0, "");
    /* Without git the committed history serves: a rule that changed after its value is not preregistered. */
    expect(sh(*state, "cd rules && cp \"$ROOT/docs/rules_history.md\" docs && experiments/rules.sh classes"), 0, "");
    expect(sh(*state, "cd rules && sed -i '/^### F20\\. /,/^| row/s/^\\*\\*Class\\.\\*\\*.*//' paper_notes.md && "
                      "experiments/rules.sh classes 1>&2"), 1,
           "F20 random-exponent: called preregistered, but **rule changed**");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fetch),
        cmocka_unit_test(test_run),
        cmocka_unit_test(test_makefile),
        cmocka_unit_test(test_run_interrupted),
        cmocka_unit_test(test_rules),
    };
    return cmocka_run_group_tests(tests, setup, scratch_teardown);
}
