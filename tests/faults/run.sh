#!/bin/sh
# Fails one call of every program at a time, and looks what becomes of the run.
#
#   FAULTS=8 tests/faults/run.sh BUILD [PROGRAM...]        after `make`; `make faults` calls it
#
# Each program runs at a tiny size. Its calls of malloc, open, read, write, ftruncate, fsync, rename, close and unlink are
# counted, then up to FAULTS of each, spread evenly, fail one by one (tests/faults/fault_shim.c). A run has survived when it
# ends with 1, one line on standard error and the earlier outputs as they were, or with 0 and the rows of a run without a
# fault; nothing may be left beside but the state of finished work. The last line counts the faults tried and survived.
set -u
export LC_ALL=C OPENBLAS_NUM_THREADS=1
unset OPENBLAS_CORETYPE

build=$(CDPATH='' cd -- "$1" && pwd) || exit 2
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
shift
shim=$build/faults/fault_shim.so
per_call=${FAULTS:-8}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tried=0 survived=0

# array NAME ROWS COLUMNS FACTOR: a CSV of numbers that are all different.
array() {
    awk -v r="$2" -v c="$3" -v f="$4" 'BEGIN {
        for (i = 0; i < r; i++) for (j = 0; j < c; j++)
            printf "%.6f%s", f * sin(1.3 * i + 2.9 * j + 0.7 * i * j + f), j + 1 < c ? "," : "\n" }' > "$work/$1"
}
array x.csv 4 3 0.9; array y.csv 4 3 0.6; array q.csv 6 4 0.8; array k.csv 6 4 0.7; array v.csv 6 4 1.1
array pk.csv 9 4 0.5; array pv.csv 9 4 1.3; array g.csv 6 4 0.3
cp "$root/paper_notes.md" "$work/notes.md"

# What a program is run with; outputs by relative names, so that every run has a folder of its own.
arguments() {
    case $1 in
    attend) echo "--q ../q.csv --k ../k.csv --v ../v.csv --prefix-k ../pk.csv --prefix-v ../pv.csv --method ntk --feature taylor:2 --grad-out ../g.csv --grads grads --z-out z.npy --kvec-out kvec.npy --out out.npy" ;;
    ntk_predict) echo "--inputs ../x.csv --targets ../y.csv --at ../x.csv --out out.npy" ;;
    prefix_to_summary) echo "--prefix-k ../pk.csv --prefix-v ../pv.csv --q ../q.csv --k ../k.csv --v ../v.csv --features elu1,taylor:1,minimax:1 --z-out z.npy --kvec-out kvec.npy --out out.csv" ;;
    ntk_convergence) echo "--inputs ../x.csv --prefix-len 8,32 --num-trials 2 --inputs-out X.npy --limit-out L.npy --gram-out G.npy --prefix-out W.npy --sign-values-out a.npy --out out.csv" ;;
    training_dynamics) echo "--inputs ../x.csv --targets ../y.csv --prefix-len 8,32 --num-steps 20 --at ../x.csv --pred-out F.npy --prefix-out W.npy --curve-out c.csv --out out.csv" ;;
    ntk_freezing) echo "--num-samples 3 --dim 2 --prefix-len 16 --num-trials 3 --out out.csv" ;;
    ntk_spectrum) echo "--num-instances 4 --num-draws 2 --num-samples 2,4 --dim 2 --prefix-len 16 --num-trials 2 --out out.csv" ;;
    ntk_prefix_needed) echo "--num-instances 2 --num-trials 2 --max-prefix-len 64 --out out.csv" ;;
    ntk_rank) echo "--num-samples 2 --dim 2 --prefix-len 3 --out out.csv" ;;
    ntk_real_layer) echo "--num-samples 2 --dim 3 --out-dim 2 --seq-len 4 --prefix-len 16,32 --num-trials 2 --out out.csv" ;;
    score_concentration) echo "--prefix-len 1,16 --num-trials 4 --out out.csv" ;;
    prefix_gradient) echo "--step 1e-3 --out out.csv" ;;
    attention_error) echo "--dim 4 --seq-len 8 --num-trials 2 --prefix-len 2,16 --features none,elu1,taylor:1,oracle:2 --train none,lstsq --fit-queries 16 --intervals --out out.csv" ;;
    prefix_effect_trap) echo "--num-trials 2 --prefix-len 64 --out out.csv" ;;
    gaussian_prefix_limit) echo "--num-trials 2 --prefix-len 64 --out out.csv" ;;
    score_centring) echo "--num-trials 2 --prefix-len 64 --out out.csv" ;;
    approximation_crossover) echo "--num-trials 1 --out out.csv" ;;
    error_bound) echo "--num-trials 1 --out out.csv" ;;
    low_rank_summary) echo "--num-trials 2 --prefix-len 64 --out out.csv" ;;
    ntk_features) echo "--num-trials 2 --num-fit 50 --out out.csv" ;;
    training_contraction) echo "--num-trials 2 --num-steps 5 --prefix-len 32 --tables --out out.csv" ;;
    training_laziness) echo "--num-samples 2 --dim 2 --prefix-len 16,32 --num-trials 2 --num-steps 5 --num-draws 2 --out out.csv" ;;
    kernel_perturbation) echo "--num-samples 2 --dim 2 --radius 0.01,0.1 --prefix-len 16,32 --num-trials 2 --num-iterations 2 --out out.csv" ;;
    prefix_threshold) echo "--num-samples 2,3 --dim 2 --num-trials 2 --num-starts 1 --max-iterations 5 --out out.csv" ;;
    theorem_constants) echo "--num-samples 2 --dim 2 --sigma 0.5 --prefix-len 16 --num-trials 2 --max-work 1e4 --out out.csv" ;;
    contraction_violations) echo "--num-samples 2 --dim 2 --sigma 0.5 --num-data 2 --prefix-len 16 --out out.csv" ;;
    real_prefix_training) echo "--num-samples 3 --dim 2 --prefix-len 1,2 --num-data 2 --num-steps 3 --tables --out out.csv" ;;
    prefix_scaling) echo "--num-samples 2 --dim 2 --num-test 2 --prefix-len 16,32 --num-trials 2 --num-steps 20 --out out.csv" ;;
    real_layer_training) echo "--num-samples 2 --dim 3 --seq-len 4 --prefix-len 16,32 --num-trials 2 --num-steps 6 --early-steps 3 --out out.csv" ;;
    polynomial_degree | parameter_count) echo "--out out.csv" ;;
    *) return 1 ;;
    esac
}
programs="attend ntk_predict prefix_to_summary ntk_convergence training_dynamics ntk_freezing ntk_spectrum ntk_prefix_needed
    ntk_rank ntk_real_layer score_concentration prefix_gradient attention_error prefix_effect_trap gaussian_prefix_limit
    score_centring approximation_crossover error_bound low_rank_summary ntk_features training_contraction training_laziness
    kernel_perturbation prefix_threshold theorem_constants contraction_violations prefix_scaling real_prefix_training
    real_layer_training polynomial_degree parameter_count"

# Only programs that decide rows take the ledger.
verdicts() {
    case $1 in attend | ntk_predict | prefix_to_summary) ;; *) echo "--verdicts verdicts.csv --ledger ../notes.md" ;; esac
}

# sum FOLDER: what lies in it, metadata lines (which name the options) and the state of finished work aside.
sum() {
    (cd "$1" && find . -type f ! -name '*.state' ! -name '*.state.*' ! -name '*.lock' | sort | while read -r f; do
        echo "$f $(sed '/^# /d' "$f" | cksum)"
    done)
}

# one CALL N: the run in its folder with that fault.
one() {
    (cd "$work/run" && timeout 60 env FAULT_CALL="$1" FAULT_N="$2" FAULT_COUNT="$work/count" LD_PRELOAD="$shim" \
        "$build/bin/$program" $options --threads 1 --quiet) > "$work/stdout" 2> "$work/stderr"
}

check() {       # check CALL N CODE
    tried=$((tried + 1))
    why=
    lines=$(wc -l < "$work/stderr")
    case $3 in
    0) [ "$(sum "$work/run")" = "$good" ] || why="exit 0 with other outputs" ;;
    1) [ "$(sum "$work/run")" = "$before" ] || why="outputs changed or left behind"
       [ "$lines" -eq 1 ] || why="$lines lines on standard error" ;;
    *) why="exit $3" ;;
    esac
    if [ -z "$why" ]; then
        survived=$((survived + 1))
    else
        echo "$program: $1 number $2: $why: $(head -c 200 "$work/stderr" | tr '\n' ' ')"
    fi
}

for program in ${*:-$programs}; do
    options="$(arguments "$program") $(verdicts "$program")" || exit 2
    start_tried=$tried
    # Verdicts need the run's own name; not every run of a tiny size decides.
    rm -rf "$work/run" && mkdir "$work/run"
    (cd "$work/run" && "$build/bin/$program" $options --out "$program.csv" --threads 1 --quiet) > /dev/null 2>&1 &&
        case $options in *--verdicts*) options="$options --out $program.csv" ;; esac
    # A folder with earlier outputs: of another seed, so that a new one shows.
    rm -rf "$work/earlier" "$work/run" && mkdir "$work/run"
    one none 0
    [ "$?" -eq 0 ] || { echo "$program: fails without a fault: $(cat "$work/stderr")"; exit 1; }
    good=$(sum "$work/run")
    mv "$work/run" "$work/earlier"
    find "$work/earlier" -type f | while read -r f; do case $f in *verdicts.csv) ;; *) echo earlier > "$f" ;; esac; done
    mkdir "$work/run" && rm -rf "$work/run" && cp -r "$work/earlier" "$work/run"
    before=$(sum "$work/run")
    for call in malloc open read write ftruncate fsync rename close unlink; do
        rm -rf "$work/run" && cp -r "$work/earlier" "$work/run"
        one "$call" 0
        count=$(cat "$work/count")
        i=1
        while [ "$i" -le "$per_call" ] && [ "$i" -le "$count" ]; do
            n=$(((2 * i - 1) * count / (2 * (count < per_call ? count : per_call)) + 1))
            rm -rf "$work/run" && cp -r "$work/earlier" "$work/run"
            one "$call" "$n"
            check "$call" "$n" "$?"
            i=$((i + 1))
        done
    done
    echo "$program: $((tried - start_tried)) faults"
done
echo "faults: $tried tried, $survived survived"
[ "$tried" -eq "$survived" ]
