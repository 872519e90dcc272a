#!/bin/sh
# Fails one call of every program at a time, and looks what becomes of the run.
#
#   FAULTS=8 tests/faults/run.sh BUILD [RUN...]        after `make`; `make faults` calls it
#
# Each program runs at a tiny size, some in two ways. Its calls of malloc, open, read, write, ftruncate, fsync, rename,
# close and unlink are counted, then up to FAULTS of each, spread evenly, fail one by one (tests/faults/fault_shim.c). A run
# has survived when it ends with 1, one line on standard error and the earlier outputs as they were, or with 0 and the
# rows of a run without a fault; nothing may be left beside but the state of finished work. The last line counts the
# faults tried and survived.
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

. "$root/tests/runs.sh"
"$build/faults/models" "$work" && runs_prepare || exit 2
for program in "$build"/bin/*; do
    case " $(echo $runs) " in *" ${program##*/} "*) ;; *) echo "run.sh: ${program##*/} is not among the runs" >&2; exit 2 ;; esac
done

# one CALL N: the run in its folder with that fault.
one() {
    (cd "$work/run" && timeout 60 env FAULT_CALL="$1" FAULT_N="$2" FAULT_COUNT="$work/count" LD_PRELOAD="$shim" \
        "$build/bin/$program" $options --threads 1 --quiet) > "$work/stdout" 2> "$work/stderr"
}

check() {       # check CALL N CODE
    tried=$((tried + 1))
    why=
    # The OpenMP runtime puts an empty line in front of its own.
    lines=$(grep -c . "$work/stderr")
    case $3 in
    0) [ "$(sum "$work/run")" = "$good" ] || why="exit 0 with other outputs" ;;
    1) [ "$(sum "$work/run")" = "$before" ] || why="outputs changed or left behind: $(cd "$work/run" && echo $(find . -type f -newer "$work/count" | head -3))"
       [ "$lines" -eq 1 ] || why="$lines lines on standard error" ;;
    *) why="exit $3" ;;
    esac
    if [ -z "$why" ]; then
        survived=$((survived + 1))
    else
        echo "$run: $1 number $2: $why: $(head -c 200 "$work/stderr" | tr '\n' ' ')"
    fi
}

for run in ${*:-$runs}; do
    options_of "$run" || exit 2
    start_tried=$tried
    # A folder with earlier outputs, so that a new one shows.
    rm -rf "$work/earlier" "$work/run" && mkdir "$work/run" "$work/run/grads"
    one none 0
    [ "$?" -eq 0 ] || { echo "$run: fails without a fault: $(cat "$work/stderr")"; exit 1; }
    good=$(sum "$work/run")
    mv "$work/run" "$work/earlier"
    find "$work/earlier" -type f | while read -r f; do case $f in *verdicts.csv) ;; *) echo earlier > "$f" ;; esac; done
    cp -r "$work/earlier" "$work/run"
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
    echo "$run: $((tried - start_tried)) faults"
done
echo "faults: $tried tried, $survived survived"
[ "$tried" -eq "$survived" ]
