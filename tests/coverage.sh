#!/bin/sh
# Shares of lines that the tests of a build with --coverage executed and of branches they took, by room.
#
#   tests/coverage.sh build/coverage [FILES]        with the N files of most lines not executed, of each room
set -eu
export LC_ALL=C
for room in common theory attention data transformer cli approximation report processes experiments tools; do
    [ -d "$1/obj/$room" ] || continue
    find "$1/obj/$room" -name '*.gcno' -exec gcov -n -b {} + 2> /dev/null | awk -v room="$room" -v files="${2:-0}" '
        /^File / { mine = index($0, room "/") && !/\/usr\//; file = $2 }
        mine && /^Lines executed/ { split($0, a, /[:% ]+/); lines += $NF; reached += a[3] * $NF / 100
                                    if (files) printf "%6d of %5d lines, %s\n", (100 - a[3]) * $NF / 100, $NF, file | "sort -rn | head -n " files }
        mine && /^Taken at least once/ { split($0, a, /[:% ]+/); branches += $NF; taken += a[5] * $NF / 100 }
        END { printf "%-14s lines %5.1f %% of %6d   branches %5.1f %% of %6d\n", room,
                  lines ? 100 * reached / lines : 0, lines, branches ? 100 * taken / branches : 0, branches }'
done
