#!/bin/sh
# One run of `make reproduce`: skipped when nothing it depends on has changed since it finished.
#
#   BUILD=build SEED=20240614 experiments/run.sh PROFILE STEM PROGRAM [--timed] -- OPTIONS
#
# The table goes to BUILD/PROFILE/results/STEM.csv, verdict rows to verdicts.csv beside it. STEM.key holds a hash of the
# program, its options, the files these name, the data set, and the ledger's rules for the run (not its verdicts). A timed
# run has the machine to itself; others share it. A run whose data set is not in the cache is left out: exit 0, no table,
# the reason in STEM.gap.
set -u
export LC_ALL=C

build=${BUILD:-build} seed=${SEED:-20240614}
[ $# -ge 4 ] || { echo "usage: experiments/run.sh PROFILE STEM PROGRAM [--timed] -- OPTIONS" >&2; exit 2; }
profile=$1 stem=$2 program=$3
shift 3
lock=--shared
if [ "$1" = --timed ]; then lock=--exclusive; shift; fi
[ "${1-}" = -- ] || { echo "run.sh: $stem: -- is missing before the options" >&2; exit 2; }
shift

results=$build/$profile/results
table=$results/$stem.csv key_file=$results/$stem.key verdicts=$results/verdicts.csv
ledger=paper_notes.md
mkdir -p "$results" || exit 1

# The sets of data/pins that the options need: they name them as "--dataset NAME" or "--dataset=NAME", and so for --backbone
# and --task. Some need none, some are parts of a set.
datasets=
need() {
    case $1 in
    synthetic | shapes | vit-fashion) ;;
    sent3-* | emoji9-*) datasets="$datasets ${1%%-*}" ;;
    super-* | wic-wn | word-order) datasets="$datasets wordnet" ;;
    *) datasets="$datasets $1" ;;
    esac
}
previous=
for word in "$@"; do
    case $word in --dataset=* | --backbone=* | --task=*) need "${word#*=}" ;; esac
    case $previous in --dataset | --backbone | --task) need "$word" ;; esac
    previous=$word
done
for dataset in $datasets; do
    if ! data/fetch.sh --check "$dataset"; then
        reason="its data set $dataset is not in the cache (make data)"
        echo "$stem: left out, $reason" >&2
        rm -f "$table" "$key_file"
        printf '%s\n' "$reason" > "$results/$stem.gap"
        if [ -f "$verdicts" ]; then
            exec 9> "$verdicts.lock" && flock 9
            sed "/,$stem\.svg\(,[a-z]*,[^,]*\)*\$/d" "$verdicts" > "$verdicts.left" && mv "$verdicts.left" "$verdicts"
        fi
        exit 0
    fi
done

# claim, row, quantity and rule of every decision of this run.
rules=$(awk -F '|' -v stem="$stem" '
    /^### / { claim = $0; sub(/^### /, "", claim); sub(/\..*/, "", claim) }
    { gsub(/\\\|/, "/") }
    /^\|/ { run = $(NF - 1); gsub(/ /, "", run); if (run == stem) print claim "|" $2 "|" $3 "|" $4 }' "$ledger")

key=$({
    sha256sum < "$program"
    printf '%s\n' "seed $seed" "$@"
    for word in "$@"; do [ ! -f "${word#--*=}" ] || sha256sum < "${word#--*=}"; done
    for dataset in $datasets; do grep " $dataset " data/pins; done
    printf '%s\n' "$rules"
} | sha256sum | cut -d ' ' -f 1)

# Its verdicts stand there, or it has none.
has_verdicts() {
    [ -z "$rules" ] || grep -q ",$stem\.svg\(,[a-z]*,[^,]*\)*\$" "$verdicts" 2> /dev/null
}

if [ -f "$table" ] && [ "$(cat "$key_file" 2> /dev/null)" = "$key" ] && has_verdicts; then
    echo "$stem: unchanged" >&2
    exit 0
fi
rm -f "$key_file" "$results/$stem.gap"

exec 9> "$build/runs.lock" || exit 1
flock $lock 9
echo "$stem: running" >&2
start=$(date +%s) started=$(date -u +%Y-%m-%dT%H:%M:%SZ)
rm -f "$results/$stem.seconds" "$results/$stem.usage"
# In the background, so that a signal to this script reaches the program, which then leaves its state behind.
PREFIX_NTK_USAGE=$results/$stem.usage "$program" --seed "$seed" "$@" --profile "$profile" --verdicts "$verdicts" --ledger "$ledger" --out "$table" 9>&- &
pid=$!
trap 'kill -TERM $pid' TERM
trap 'kill -INT $pid' INT
wait $pid
code=$?
# A wait that a signal ended has left the program running.
while kill -0 $pid 2> /dev/null; do
    wait $pid
    code=$?
done
[ $code -eq 0 ] || { echo "$stem: exit $code" >&2; exit $code; }
printf '%s\n' "$key" > "$key_file.part" && mv "$key_file.part" "$key_file" || exit 1
# For provenance.sh and list.sh: when it started, how long it took from there, and the most memory it had, in bytes.
printf '%s %s %s\n' "$started" $(($(date +%s) - start)) "$(cat "$results/$stem.usage" 2> /dev/null)" > "$results/$stem.seconds" || exit 1
rm -f "$results/$stem.usage"
echo "$stem: $(($(date +%s) - start)) s" >&2
