/* What programs do in bad circumstances: outputs that cannot be written, files of others under
 * our names, odd inputs, limits of the system, signals. Each test is a shell script in a folder of
 * its own; `bin` is the folder of the programs. 77: this machine cannot show it. */
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Run in front of every script. qkv, x, y: small arrays; refused CODE TEXT COMMAND...: the command ends with that
 * code and one line that has the text; none FILE...: none of them is there. as: a user without privileges. */
static const char preamble[] =
    "set -u; unset OPENBLAS_CORETYPE\n"
    "array() { awk -v r=$2 -v c=$3 -v f=$4 'BEGIN { for (i = 0; i < r; i++) for (j = 0; j < c; j++)\n"
    "  printf \"%.6f%s\", f * sin(1.3 * i + 2.9 * j + 0.7 * i * j + f), j + 1 < c ? \",\" : \"\\n\" }' > $1; }\n"
    "array q.csv 6 4 0.8; array k.csv 6 4 0.7; array v.csv 6 4 1.1; array pk.csv 9 4 0.5; array pv.csv 9 4 1.3\n"
    "array x.csv 4 3 0.9; array y.csv 4 3 0.6\n"
    "fail() { echo \"$*\" >&2; exit 1; }\n"
    "none() { for f; do [ ! -e \"$f\" ] || fail \"$f is there\"; done; }\n"
    "refused() { code=$1 text=$2; shift 2; \"$@\" 2> err; got=$?\n"
    "  [ $got -eq $code ] || fail \"exit $got, not $code: $(cat err)\"\n"
    "  [ $(wc -l < err) -eq 1 ] || fail \"not one line: $(cat err)\"\n"
    "  grep -qi -- \"$text\" err || fail \"no '$text' in: $(cat err)\"; }\n"
    "attend=\"$bin/attend --q q.csv --k k.csv --v v.csv\"; td=\"$bin/training_dynamics --num-samples 3 --dim 2 "
    "--prefix-len 16 --quiet\"\n"
    "as=; [ $(id -u) -ne 0 ] || as='setpriv --reuid 65534 --regid 65534 --clear-groups'; chmod 777 .\n"
    /* Programs as that user may run them. */
    "borrow() { for p; do cp $bin/$p . && chmod 755 $p; done; }\n";

static void run(void **state, const char *script)
{
    const char *bin = getenv("PREFIX_NTK_BIN");
    char *whole = NULL;
    assert_true(asprintf(&whole, "cd \"$(mktemp -d %s)\" && bin='%s'\n%s%s", scratch_path(*state, "case.XXXXXX"),
                         bin ? bin : "build/bin", preamble, script) > 0);
    assert_int_equal(chmod(scratch_path(*state, "."), 0755), 0);
    struct outcome o = run_program("/bin/sh", "-c", whole, (char *)NULL);
    const int code = o.code;
    if (code && code != 77) print_error("exit %d: %s\nof %s\n", code, o.err, script);
    outcome_free(&o);
    free(whole);
    if (code == 77) skip();
    assert_int_equal(code, 0);
}

/* The checker itself: a script that fails is seen. */
static void test_checker(void **state)
{
    struct outcome o = run_program("/bin/sh", "-c", "exit 3", (char *)NULL);
    assert_int_equal(o.code, 3);
    outcome_free(&o);
    run(state, "(refused 1 text true) 2> /dev/null && exit 1; (none q.csv) 2> /dev/null && exit 1; exit 0");
}

static void test_outputs_of_one_name(void **state)
{
    run(state, "refused 2 'one name' $attend --prefix-k pk.csv --prefix-v pv.csv --method ntk --z-out o.npy --kvec-out "
               "o.npy --out t.npy\n"
               "refused 2 'one name' $attend --prefix-k pk.csv --prefix-v pv.csv --method ntk --z-out ./o.npy "
               "--kvec-out k.npy --out o.npy\n"
               "ln -s o.npy link; refused 2 'one name' $attend --prefix-k pk.csv --prefix-v pv.csv --method ntk "
               "--z-out link --kvec-out k.npy --out o.npy\n"
               "refused 2 'one name' $td --curve-out c.csv --out c.csv\n"
               "refused 2 'one name' $td --curve-out - --out /dev/stdout\n"
               "mkdir g; refused 2 'two outputs' $attend --grad-out q.csv --grads g --out g/dq.npy\n"
               "none o.npy t.npy k.npy c.csv g/dq.npy");
}

static void test_unwritable_output_before_the_work(void **state)
{
    run(state, "long=\"$bin/training_dynamics --num-samples 8 --dim 4 --prefix-len 200000 --num-steps 100000 "
               "--quiet\"\n"
               "refused 1 'No such file' timeout 20 $long --prefix-out nowhere/W.npy --out t.csv\n"
               "refused 1 'No such file' timeout 20 $long --curve-out nowhere/c.csv --out t.csv\n"
               "refused 1 'directory' timeout 20 $long --curve-out . --out t.csv\n"
               "none t.csv t.csv.state");
}

static void test_files_of_a_user(void **state)
{
    run(state, "echo week > model.state; echo notes > model.state.txt; echo part > model.part\n"
               "$td --num-steps 3 --out model || exit 1\n"
               "[ \"$(cat model.state model.state.txt model.part)\" = \"$(printf 'week\\nnotes\\npart')\" ] || fail "
               "'changed'\n"
               "[ -s model ] || fail 'no table'; [ $(ls -A | grep -c prefix-ntk) -eq 0 ] || fail 'left behind'");
}

static void test_links_and_protection(void **state)
{
    run(state, "mkdir store; ln -s store/T.npy link.npy; $attend --out link.npy || exit 1\n"
               "[ -L link.npy ] && [ -s store/T.npy ] || fail 'the link was replaced'\n"
               "$attend --out link.npy && [ -L link.npy ] || fail 'the second time'\n"
               "borrow attend; echo keep > keep.npy; chmod 444 keep.npy; [ -z \"$as\" ] || chown 65534 keep.npy; chmod "
               "644 *.csv\n"
               "$as ./attend --q q.csv --k k.csv --v v.csv --out keep.npy 2> err && fail 'replaced'; [ \"$(cat "
               "keep.npy)\" = keep ]");
}

static void test_folder_that_cannot_be_written(void **state)
{
    run(state, "borrow attend training_dynamics; chmod 644 *.csv; mkdir shut; echo old > shut/T.npy; echo old > "
               "shut/t.csv; chmod 666 shut/*; chmod 555 shut\n"
               "$as ./attend --q q.csv --k k.csv --v v.csv --out shut/T.npy || exit 1\n"
               "[ $(head -c 4 shut/T.npy | wc -c) -eq 4 ] && [ \"$(head -c 3 shut/T.npy)\" != old ] || fail 'not "
               "written'\n"
               "$as ./training_dynamics --num-samples 3 --dim 2 --prefix-len 16 --num-steps 2 --quiet --out shut/t.csv "
               "2> err || exit 1\n"
               "grep -q loss_final shut/t.csv");
}

static void test_standard_streams(void **state)
{
    run(state, "borrow training_dynamics\n"
               "$as sh -c './training_dynamics --num-samples 3 --dim 2 --prefix-len 16 --num-steps 3 --quiet --out "
               "/dev/stdout > o.csv' || exit 1\n"
               "grep -q loss_final o.csv || fail 'no table on standard output'\n"
               "$td --num-steps 3 --out closed.csv 2>&- || fail 'standard error closed'\n"
               "$td --num-steps 3 >&- 2> err && fail 'standard output closed'; [ $(wc -l < err) -eq 1 ]");
}

static void test_full_disk_and_limits(void **state)
{
    run(state, "array big.csv 3000 64 0.7; array small.csv 4 64 0.6\n"
               "refused 1 'no space' $bin/attend --q big.csv --k small.csv --v small.csv --out /dev/full\n"
               "refused 1 'no space' $td --num-steps 3 --out /dev/full\n"
               "(ulimit -f 8; refused 1 'too large' $bin/attend --q big.csv --k small.csv --v small.csv --out T.npy) "
               "|| exit 1\n"
               "none T.npy; [ $(ls -A | grep -c prefix-ntk) -eq 0 ] || fail 'left behind'");
}

/* OpenBLAS retries its buffer for ever. */
/* The sanitizers reserve terabytes of addresses and trace the process at its end: limits on either stop them, not
 * us. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { UNDER_SANITIZER = 1 };
#else
enum { UNDER_SANITIZER = 0 };
#endif

static void skip_under_sanitizer(void)
{
    if (!UNDER_SANITIZER) return;
    print_message("skipped: a sanitizer build cannot run under these limits\n");
    skip();
}

static void test_little_address_space(void **state)
{
    skip_under_sanitizer();
    run(state, "for kib in 60000 100000 150000 200000 250000; do\n"
               "  (ulimit -v $kib; exec timeout 100 $bin/ntk_predict --inputs x.csv --targets y.csv --at x.csv "
               "--threads 1 --out F.npy) 2> err; code=$?\n"
               "  [ $code -ne 124 ] || fail \"endless at $kib\"\n"
               "  [ $code -eq 0 ] || [ $code -eq 127 ] || { [ $code -eq 1 ] && [ $(wc -l < err) -eq 1 ]; } || fail "
               "\"exit $code at $kib: $(cat err)\"\n"
               "done");
}

static void test_few_processes(void **state)
{
    skip_under_sanitizer();
    run(state, "[ $(id -u) -eq 0 ] || exit 77; borrow attend; chmod 644 *.csv\n"
               "setpriv --reuid 65032 --regid 65534 --clear-groups bash -c 'ulimit -u 1; exec ./attend --q q.csv --k "
               "k.csv --v v.csv --threads 4 --out T.npy' 2> err\n"
               "[ $? -eq 0 ] && [ -s T.npy ] || fail \"$(cat err)\"; grep -q '1 threads instead of 4' err");
}

static void test_inputs_as_others_write_them(void **state)
{
    run(state, "predict=\"$bin/ntk_predict --targets y.csv --at x.csv\"\n"
               "$predict --inputs x.csv --out F.csv && $bin/ntk_predict --inputs F.csv --targets y.csv --at F.csv "
               "--out G.NPY || fail 'CSV output'\n"
               "cp F.csv upper.CSV; $predict --inputs upper.CSV --out H.npy || fail 'upper case'\n"
               "cp G.NPY lower.npy; $bin/ntk_predict --inputs lower.npy --targets y.csv --at G.NPY --out I.npy || fail "
               "'NPY'\n"
               "printf '\\357\\273\\277' > bom.csv; cat x.csv >> bom.csv; $predict --inputs bom.csv --out B.csv && "
               "$predict --inputs x.csv --out C.csv\n"
               "cmp B.csv C.csv || fail 'byte order mark'\n"
               "{ printf '\\377\\376'; sed 's/./&\\n/g' x.csv | tr '\\n' '\\0'; } > wide.csv; refused 3 'UTF-16' "
               "$predict --inputs wide.csv --out no.npy\n"
               "refused 1 'CSV' $td --num-steps 2 --out table.npy; none no.npy table.npy");
}

static void test_three_dimensions_are_no_table(void **state)
{
    run(state, "{ printf '\\223NUMPY\\001\\000\\166\\000'; printf '%-117s\\n' \"{'descr': '<f4', 'fortran_order': "
               "False, 'shape': (2L, 3L, 4L), }\"\n"
               "  head -c 96 /dev/zero; } > q3.npy\n"
               "refused 2 'rows and columns' $bin/attend --q q3.npy --k q3.npy --v q3.npy --out T.csv\n"
               "$bin/attend --q q3.npy --k q3.npy --v q3.npy --out T.npy && [ -s T.npy ]");
}

static void test_options_without_effect(void **state)
{
    run(state, "$attend --feature taylor:2 --out T.npy 2> err || exit 1; grep -q -- '--feature has no effect' err || "
               "fail 'attend'\n"
               "$bin/ntk_convergence --inputs x.csv --dim 9 --prefix-len 8,16 --num-trials 2 --quiet --out c.csv 2> "
               "err || exit 1\n"
               "grep -q -- '--dim has no effect' err || fail 'ntk_convergence'\n"
               "$attend --out T.npy 2> err && [ ! -s err ]");
}

static void test_predictor_far_from_the_sphere(void **state)
{
    run(state, "awk -F, '{ f = 1 + 13 * (NR - 1) / 3; printf \"%.9f,%.9f,%.9f\\n\", $1 * f, $2 * f, $3 * f }' x.csv > "
               "far.csv\n"
               "$bin/ntk_predict --inputs far.csv --targets y.csv --at far.csv --sigma 0.5 --out F.csv 2> err || exit "
               "1\n"
               "[ ! -s err ] || fail \"$(cat err)\"\n"
               "paste -d, F.csv y.csv | awk -F, '{ for (i = 1; i <= 3; i++) { e = $i - $(i + 3); if (e < 0) e = -e; if "
               "(e > 1e-9) exit 1 } }' || fail 'misses its targets'\n"
               "awk -F, '{ printf \"%.9f,%.9f,%.9f\\n\", 99 * $1, 99 * $2, 99 * $3 }' x.csv > huge.csv\n"
               "refused 1 'range' $bin/ntk_predict --inputs huge.csv --targets y.csv --at huge.csv --out no.npy");
}

/* Interrupted, then run again with one more output, and on another instruction set. */
static void test_resumed_otherwise(void **state)
{
    run(state, "run=\"$bin/training_dynamics --num-samples 8 --dim 4 --prefix-len 1000,3000 --num-steps 3000 --threads "
               "1 --quiet\"\n"
               "interrupt() { PREFIX_NTK_ISA=$1 $run --out $2 & pid=$!\n"
               "  for i in $(seq 500); do grep -aq '3000 0' $2.state 2> /dev/null && break; kill -0 $pid 2> /dev/null "
               "|| break; sleep 0.02; done\n"
               "  kill -TERM $pid 2> /dev/null; wait $pid; [ $? -eq 143 ] || exit 77; }\n"
               "interrupt portable a.csv; PREFIX_NTK_ISA=portable $run --prefix-out W.npy --out a.csv && [ -s W.npy ] "
               "&& [ -s a.csv ] || fail 'one more output'\n"
               "none a.csv.state; PREFIX_NTK_ISA=avx2 $bin/attend --version > /dev/null 2>&1 || exit 0\n"
               "PREFIX_NTK_ISA=avx2 $run --out whole.csv; interrupt portable b.csv; PREFIX_NTK_ISA=avx2 $run --out "
               "b.csv || exit 1\n"
               "grep -v '^#' whole.csv > whole.rows; grep -v '^#' b.csv | cmp - whole.rows");
}

/* ---- the programs around pretrained models, on tiny ones: ../vit, ../bert, ../lm.gguf ---- */

static const char models[] =
    "printf 'the cat sat on dog.\\ndog sat\\n' > words.txt; printf 'hello\\nhell' > hello.txt; export "
    "PREFIX_NTK_DATA=$PWD\n"
    "sizes='--task shapes --train-size 20 --validation-size 10'\n"
    "tune=\"$bin/finetune --backbone ../vit $sizes --test-size 10 --method head --epochs 1 --threads 1 --quiet\"\n"
    "embed=\"$bin/embed --backbone ../bert --text words.txt --threads 1 --quiet\"; lm=\"$bin/lm --backbone ../lm.gguf "
    "--text hello.txt --threads 1 --quiet\"\n"
    "pretrain=\"$bin/pretrain --task shapes --hidden 12 --num-layers 1 --num-heads 3 --mlp-dim 16 --epochs 1 "
    "--train-size 40 --threads 1 --quiet\"\n"
    "bench=\"$bin/method_benchmark --backbone ../vit $sizes --arms head,ntk --num-trials 1 --epochs 1 --threads 1 "
    "--quiet\"\n"
    "base=\"$bin/task_baselines --backbone ../vit $sizes --test-size 10 --num-trials 1 --threads 1 --quiet\"\n";

static void run_models(void **state, const char *script)
{
    char *whole = NULL;
    assert_true(asprintf(&whole, "%s%s", models, script) > 0);
    run(state, whole);
    free(whole);
}

static int make_models(void **state)
{
    char line[256] = "";
    const struct reason why = { line, sizeof line };
    if (scratch_setup(state)) return -1;
    if (tiny_backbone_write(scratch_path(*state, "vit"), BACKBONE_VIT, why)
        || tiny_backbone_write(scratch_path(*state, "bert"), BACKBONE_BERT, why))
        print_error("%s", line);
    tiny_decoder_write(scratch_path(*state, "lm.gguf"));
    return 0;
}

/* All of a program's outputs or none: the last one fails, those before it are as they were. */
static void test_outputs_together(void **state)
{
    run_models(state, "echo old > o.npy; echo old > o.txt\n"
               "refused 1 'no space' $embed --tokens-out /dev/full --out o.npy\n"
               "refused 1 'no space' $lm --logprobs-out o.npy --tokens-out /dev/full\n"
               "refused 1 'no space' $lm --generate 2 --generated-out /dev/full --out o.txt\n"
               "[ \"$(cat o.npy o.txt)\" = \"$(printf 'old\\nold')\" ] || fail 'an output was replaced'\n"
               "$tune --out run && cp run/curve.csv run/result.json . || exit 1\n"
               "mv run/adapter kept; echo mine > run/adapter; refused 1 adapter $tune --seed 9 --out run\n"
               "cmp curve.csv run/curve.csv && cmp result.json run/result.json || fail 'half a result'\n"
               "[ $(ls -A run . | grep -c prefix-ntk) -eq 0 ] || fail 'left behind'");
}

static void test_folders_before_the_work(void **state)
{
    run_models(state, "echo mine > file; ln -s nowhere link\n"
               "for p in \"$tune\" \"$pretrain --epochs 10000\"; do\n"
               "  refused 1 'not a directory' timeout 20 $p --out file; refused 1 'exists' timeout 20 $p --out link\n"
               "  refused 1 'no such file' timeout 20 $p --out none/run; refused 1 'not a directory' timeout 20 $p "
               "--out /dev/null; done\n"
               "[ \"$(cat file)\" = mine ] && [ -L link ] || fail 'changed'; none nowhere none");
}

static void test_typing_errors_before_the_work(void **state)
{
    run_models(state, "long=\"$bin/training_dynamics --num-samples 8 --dim 4 --prefix-len 200000 --num-steps 100000 "
                      "--quiet\"\n"
               "refused 1 'no such file' timeout 20 $long --verdicts rows.csv --ledger absent.md --out t.csv\n"
               "refused 1 'CSV' timeout 20 $long --out t.npy; refused 1 'CSV' timeout 20 $long --curve-out c.npy --out "
               "t.csv\n"
               "refused 1 'text' timeout 20 $embed --tokens-out t.npy --out o.npy; refused 1 'text' $lm --generate 2 "
               "--out t.npy\n"
               "refused 3 'nosuch' $base --task nosuch --out b.csv; refused 2 'backbone' $base --backbone ../bert "
               "--out b.csv\n"
               "refused 2 blocks $bench --search 0.1 --layers 0-7 --out b.csv\n"
               "refused 2 'no option' $bench --arms lora+rank=2.5 --search 0.1 --out b.csv\n"
               "refused 2 'no option' $bench --arms lora+alpha=nan --search 0.1 --out b.csv\n"
               "printf 'backbone,task,arm,lr,a,b,c,chosen\\n../vit,shapes,head,inf,,,,1\\n../vit,shapes,ntk,1,,,,1\\n'"
               " > r.csv; refused 3 'no learning rate' $bench --rates r.csv --out b.csv\n"
               "refused 2 'twice' $bench --arms ntk,ntk --search 0.1 --out b.csv; refused 2 'no effect' $bench --arms "
               "ptuning+rank=4 --search 0.1 --out b.csv\n"
               "none t.csv t.csv.state t.npy c.npy o.npy b.csv b.csv.state rows.csv");
}

static void test_unused_options_of_models(void **state)
{
    run_models(state, "refused 2 'verdicts' $embed --verdicts v.csv --ledger l.md --out o.npy; refused 2 'ledger' "
                      "$tune --ledger l.md --out run\n"
               "refused 2 'no effect' $lm --tokens-out t.csv --out o.txt; refused 2 'no effect' $bin/finetune --list "
               "--out run\n"
               "refused 2 'no effect' $bench --search 0.1 --test-size 5 --out b.csv; refused 2 'no effect' $bench "
               "--search 0.1 --decide E2/a:loss:ntk~head --out b.csv\n"
               "refused 2 'no effect' $bench --search 0.1 --max-len 16 --out b.csv; none run o.npy o.txt b.csv\n"
               "refused 1 'no space' sh -c \"$embed --help > /dev/full\"; refused 1 'no space' sh -c \"$bin/finetune "
               "--list > /dev/full\"");
}

/* Two runs do not share a folder; a killed training goes on; files of others stay. */
static void test_training_state(void **state)
{
    run_models(state, "more=\"$pretrain --epochs 60 --batch 2\"\n"
               "$more --out whole || exit 1\n"
               "$more --out run & pid=$!\n"
               "for i in $(seq 2000); do [ -e run/.pretrain.state ] && break; kill -0 $pid 2> /dev/null || break; "
               "sleep 0.01; done\n"
               "refused 1 'another process' $pretrain --out run; kill -KILL $pid 2> /dev/null; wait $pid; [ $? -eq 137 "
               "] || exit 77\n"
               "$more --out run 2> err || fail \"$(cat err)\"; grep -q 'resumes after' err || fail 'did not resume'\n"
               "for f in config.json model.safetensors preprocessor_config.json; do cmp run/$f whole/$f || exit 1; "
               "done\n"
               "[ $(ls -A run | wc -l) -eq 3 ] || fail \"$(ls -A run)\"\n"
               "mkdir other; echo letters > other/.pretrain.state; refused 1 'not a state' $pretrain --out other\n"
               "[ \"$(cat other/.pretrain.state)\" = letters ] || fail 'changed'");
}

/* The rates of a search belong to what a journal resumes. */
static void test_other_rates_are_another_run(void **state)
{
    run_models(state, "$bench --search 0.1,0.01,0.5 --out whole.csv || exit 1\n"
               "$bench --search 0.1,0.01,0.001 --out out.csv && $bench --search 0.1,0.01,0.5 --out out.csv || exit 1\n"
               "grep -v '^#' whole.csv > a; grep -v '^#' out.csv | cmp - a");
}

static void test_little_memory_and_files(void **state)
{
    skip_under_sanitizer();
    run_models(state, "for kib in 60000 150000 250000; do for p in \"$tune --out run\" \"$embed --out o.npy\" \"$lm "
                      "--generate 2\" \"$pretrain --out p\"; do\n"
               "  (ulimit -v $kib; exec timeout 100 $p) > out 2> err; code=$?; [ $code -ne 124 ] || fail \"endless at "
               "$kib: $p\"\n"
               "  [ $code -eq 0 ] || [ $code -eq 127 ] || { [ $code -eq 1 ] && [ $(wc -l < err) -eq 1 ]; } || fail "
               "\"exit $code at $kib: $p: $(cat err)\"; done; done\n"
               "(ulimit -f 4; refused 1 'too large' $pretrain --out small) || exit 1; none small\n"
               "mkfifo pipe; refused 3 'regular' $bin/embed --backbone ../bert --text pipe --out o.npy; refused 3 "
               "'regular' $bin/lm --backbone ../lm.gguf --text pipe --tokens-out t.csv\n"
               "refused 3 'directory' $bin/lm --backbone ../lm.gguf --text . --tokens-out t.csv");
}

static void test_ignored_signals(void **state)
{
    run(state, "for s in INT HUP TERM; do\n"
               "  (trap '' $s; exec $bin/training_dynamics --num-samples 8 --dim 4 --prefix-len 2000 --num-steps 1500 "
               "--threads 1 --quiet --out $s.csv) & pid=$!\n"
               "  sleep 0.2; kill -$s $pid 2> /dev/null; wait $pid; code=$?; [ $code -eq 0 ] && [ -s $s.csv ] || fail "
               "\"SIG$s: exit $code\"; done");
}

/* A signal within a long trial: the sums over its tokens are kept, the same command goes on from them and ends in the
 * same rows. */
static void test_interrupted_trial(void **state)
{
    run(state, "nc=\"$bin/ntk_convergence --num-samples 8 --dim 4 --prefix-len 100000,12000000 --num-trials 1 "
               "--threads 1 --quiet\"\n"
               "$nc --out whole.csv || exit 1\n"
               "$nc --out cut.csv & pid=$!; sleep 0.4; kill -TERM $pid; wait $pid; got=$?\n"
               "[ $got -eq 143 ] || exit 77\n"                          /* done before the signal, or not begun */
               "[ $(ls cut.csv.state.* 2> /dev/null | wc -l) -eq 1 ] || exit 77\n"
               "none cut.csv; $nc --out cut.csv || exit 1\n"
               "sed '/^#/d' whole.csv > a; sed '/^#/d' cut.csv | cmp - a || fail 'other rows'\n"
               "[ $(ls cut.csv.state* 2> /dev/null | wc -l) -eq 0 ] || fail 'state left'\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checker),
        cmocka_unit_test(test_outputs_of_one_name),
        cmocka_unit_test(test_unwritable_output_before_the_work),
        cmocka_unit_test(test_files_of_a_user),
        cmocka_unit_test(test_links_and_protection),
        cmocka_unit_test(test_folder_that_cannot_be_written),
        cmocka_unit_test(test_standard_streams),
        cmocka_unit_test(test_full_disk_and_limits),
        cmocka_unit_test(test_little_address_space),
        cmocka_unit_test(test_few_processes),
        cmocka_unit_test(test_inputs_as_others_write_them),
        cmocka_unit_test(test_three_dimensions_are_no_table),
        cmocka_unit_test(test_options_without_effect),
        cmocka_unit_test(test_predictor_far_from_the_sphere),
        cmocka_unit_test(test_resumed_otherwise),
        cmocka_unit_test(test_ignored_signals), cmocka_unit_test(test_interrupted_trial),
        cmocka_unit_test(test_outputs_together),
        cmocka_unit_test(test_folders_before_the_work),
        cmocka_unit_test(test_typing_errors_before_the_work),
        cmocka_unit_test(test_unused_options_of_models),
        cmocka_unit_test(test_training_state),
        cmocka_unit_test(test_other_rates_are_another_run),
        cmocka_unit_test(test_little_memory_and_files),
    };
    return cmocka_run_group_tests(tests, make_models, scratch_teardown);
}
