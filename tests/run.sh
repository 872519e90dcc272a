#!/bin/sh
# Runs the cmocka programs named, keeps going after a failure, adds up their own results.
#
#   PREFIX_NTK_BIN=build/bin tests/run.sh build/tests/test_npy ...
#
# Shows the output of a program that fails. A program that dies without a summary counts as one failed test.
# The last line is "N passed, N failed"; the exit status is 1 when a test failed or none ran.
set -u

log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0

# The sum of the numbers in "[  WORD  ] N test(s)", cmocka's summary.
count() {
    awk -v word="$1" '$0 ~ "^\\[ +" word " +\\] [0-9]+ test" { n += $4 } END { print n + 0 }' "$log"
}

for program in "$@"; do
    start=$(date +%s)
    timeout "${TEST_TIMEOUT:-600}" "$program" >"$log" 2>&1
    status=$?
    p=$(count PASSED) f=$(count FAILED) s=$(count SKIPPED)
    [ "$status" -eq 0 ] || [ "$f" -gt 0 ] || f=1
    [ "$status" -ne 0 ] || [ $((p + f + s)) -gt 0 ] || f=1
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    [ "$f" -eq 0 ] || cat "$log"
    grep "^skipped: " "$log" | sort -u
    printf '%-32s %4d passed, %d failed%s  %ds\n' "$(basename "$program")" "$p" "$f" \
        "$([ "$s" -eq 0 ] || printf ', %d skipped' "$s")$([ "$status" -eq 0 ] || printf ' (exit %d)' "$status")" \
        $(($(date +%s) - start))
done

[ "$skipped" -eq 0 ] || echo "$skipped skipped"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
