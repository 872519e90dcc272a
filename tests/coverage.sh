#!/bin/sh
# Shares of lines and branches that the tests of a build with --coverage reached, by room.
#
#   tests/coverage.sh build/coverage
set -eu
export LC_ALL=C
for room in common theory attention data transformer cli approximation experiments tools; do
    [ -d "$1/obj/$room" ] || continue
    find "$1/obj/$room" -name '*.gcda' -exec gcov -n -b {} + 2> /dev/null | awk -v room="$room" '
        /^File / { mine = index($0, room "/") && !/\/usr\// }
        mine && /^Lines executed/ { split($0, a, /[:% ]+/); lines += $NF; reached += a[3] * $NF / 100 }
        mine && /^Branches executed/ { split($0, a, /[:% ]+/); branches += $NF; taken += a[3] * $NF / 100 }
        END { printf "%-14s lines %5.1f %% of %6d   branches %5.1f %% of %6d\n", room,
                  lines ? 100 * reached / lines : 0, lines, branches ? 100 * taken / branches : 0, branches }'
done
