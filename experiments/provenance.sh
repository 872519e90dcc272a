#!/bin/sh
# Where the numbers of a profile come from, as JSON on standard output.
#
#   BUILD=build VERSION=0.1.0 experiments/provenance.sh PROFILE
#
# The machine, the compiler and its flags, the libraries and tools, the commit of this tree, the checksums of the data,
# and, from what run.sh left, when the first run started, the seconds and the memory of each. What cannot be found out is left out.
set -u
export LC_ALL=C

build=${BUILD:-build} profile=$1
results=$build/$profile/results

# text NAME VALUE: a member, unless the value is empty.
text() {
    [ -n "$2" ] || return 0
    printf '%s"%s": "%s"' "$comma" "$1" "$(printf '%s' "$2" | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')"
    comma=', '
}
number() {
    [ -n "$2" ] || return 0
    printf '%s"%s": %s' "$comma" "$1" "$2"
    comma=', '
}
open() {
    printf ',\n"%s": {' "$1"
    comma=
}

comma=
printf '{'
text name prefix-ntk
text version "${VERSION:-}"
text commit "$(cat "$build/commit" 2> /dev/null)"
text profile "$profile"
started=$(cat "$results"/*.seconds 2> /dev/null | sort | head -n 1 | cut -d ' ' -f 1)
text started "$started"
number seconds "$(cat "$results"/*.seconds 2> /dev/null | awk '{ s += $2 } END { if (NR) print s }')"

open machine
text cpu "$(awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo 2> /dev/null)"
number cpus "$(nproc 2> /dev/null)"
number memory_bytes "$(awk '/^MemTotal:/ { printf "%.0f", 1024 * $2 }' /proc/meminfo 2> /dev/null)"
text kernel "$(uname -srm)"
printf '}'

open compiler
text name "$(${CC:-gcc} --version 2> /dev/null | head -n 1)"
text flags "$(sed 's/-I[^ ]*//g; s/  */ /g' "$build/obj/flags" 2> /dev/null | sed 's/^.*-std=c11/-std=c11/')"
printf '}'

open libraries
text gsl "$(pkg-config --modversion gsl 2> /dev/null)"
text openblas "$(pkg-config --modversion openblas 2> /dev/null)"
text glibc "$(getconf GNU_LIBC_VERSION 2> /dev/null | cut -d ' ' -f 2)"
printf '}'

open tools
text gnuplot "$(gnuplot --version 2> /dev/null | sed 's/^gnuplot //')"
text pandoc "$(pandoc --version 2> /dev/null | sed -n '1s/^pandoc //p')"
printf '}'

# The data sets that runs of this profile read, with the checksums of their packages.
open data
for name in $(sed -n 's/^# options:.*--dataset[= ]\([^ ]*\).*/\1/p' "$results"/*.csv 2> /dev/null | sort -u); do
    text "$name" "$(awk -v name="$name" '$1 == "package" && $2 == name { print $NF; exit }' data/pins)"
done
printf '}'

open runs
for file in "$results"/*.seconds; do
    [ -f "$file" ] || continue
    run=${file##*/}
    number "${run%.seconds}" "$(cut -d ' ' -f 2 "$file")"
done
printf '}'

open peak_bytes
for file in "$results"/*.seconds; do
    [ -f "$file" ] || continue
    run=${file##*/}
    number "${run%.seconds}" "$(cut -d ' ' -f 3 "$file")"
done
printf '}}\n'
