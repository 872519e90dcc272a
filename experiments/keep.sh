#!/bin/sh
# Keeps what runs of the full profile gave, in expected/full: their tables, their verdicts, and a line of the manifest each.
#
#   BUILD=build experiments/keep.sh RUN..
#
# manifest.csv: run, start, seconds, peak bytes, commit and processor of the run, and the SHA-256 of its table.
set -eu
export LC_ALL=C

build=${BUILD:-build} kept=expected/full
results=$build/full/results
[ $# -gt 0 ] || { echo "usage: experiments/keep.sh RUN.." >&2; exit 2; }
mkdir -p "$kept"
cpu=$(awk -F ': ' '/^model name/ { gsub(/,/, " "); print $2; exit }' /proc/cpuinfo)

# merged FILE HEADER PATTERN: the file, or the header where there is none, without the lines that match.
merged() {
    if [ -f "$1" ]; then grep -v "$3" "$1" || true; else echo "$2"; fi
}
for run in "$@"; do
    [ -f "$results/$run.csv" ] || { echo "keep.sh: $results/$run.csv: not there" >&2; exit 1; }
    for table in "$run" "${run}_summary" "${run}_curves"; do
        [ ! -f "$results/$table.csv" ] || cp "$results/$table.csv" "$kept/$table.csv"
    done
    {
        merged "$kept/verdicts.csv" "$(head -n 1 "$results/verdicts.csv")" ",$run\.svg\(,\|\$\)"
        grep ",$run\.svg\(,\|\$\)" "$results/verdicts.csv" || true
    } > "$kept/verdicts.csv.part"
    mv "$kept/verdicts.csv.part" "$kept/verdicts.csv"
    read -r started seconds bytes < "$results/$run.seconds"
    {
        merged "$kept/manifest.csv" run,started,seconds,peak_bytes,commit,cpu,sha256 "^$run,"
        echo "$run,$started,$seconds,$bytes,$(sed -n '1s/.* commit=\([^ ]*\).*/\1/p' "$kept/$run.csv"),$cpu,$(sha256sum < "$kept/$run.csv" | cut -d ' ' -f 1)"
    } > "$kept/manifest.csv.part"
    mv "$kept/manifest.csv.part" "$kept/manifest.csv"
done
