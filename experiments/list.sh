#!/bin/sh
# The runs of a profile: the claims whose rows each decides, and the minutes and the memory it took here when it last ran.
#
#   BUILD=build experiments/list.sh PROFILE RUN...
set -eu
export LC_ALL=C

results=${BUILD:-build}/$1/results
shift
claims=$(mktemp)
trap 'rm -f "$claims"' EXIT
awk -F '|' '
    /^### / { claim = $0; sub(/^### /, "", claim); sub(/\..*/, "", claim) }
    /^\|/ { run = $(NF - 1); gsub(/ /, "", run); if (claim != "" && !((run, claim) in seen)) {
        seen[run, claim] = 1; list[run] = list[run] (list[run] == "" ? "" : " ") claim } }
    END { for (run in list) print run "\t" list[run] }' paper_notes.md > "$claims"

printf '%-30s %8s %6s  %s\n' run minutes MB claims
for run in "$@"; do
    took=- memory=-
    if [ -f "$results/$run.seconds" ]; then
        took=$(awk '{ printf "%.1f", $2 / 60 }' "$results/$run.seconds")
        memory=$(awk '{ if (NF > 2) printf "%.0f", $3 / 1e6; else print "-" }' "$results/$run.seconds")
    fi
    printf '%-30s %8s %6s  %s\n' "$run" "$took" "$memory" "$(awk -F '\t' -v run="$run" '$1 == run { print $2 }' "$claims")"
done
