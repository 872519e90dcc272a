#!/bin/sh
# The runs of a profile: the claims whose rows each decides, and the seconds it took here when it last ran.
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

printf '%-28s %9s  %s\n' run minutes claims
for run in "$@"; do
    took=-
    [ ! -f "$results/$run.seconds" ] || took=$(awk '{ printf "%.1f", $2 / 60 }' "$results/$run.seconds")
    printf '%-28s %9s  %s\n' "$run" "$took" "$(awk -F '\t' -v run="$run" '$1 == run { print $2 }' "$claims")"
done
