#!/usr/bin/env bash
# Plants one error at a time in a copy of this tree, builds it in a folder of its own, runs what experiments/mutants.mk says and the
# tests that should see it, and writes which rows and tests do.
#
#   tests/mutants.sh BUILD [--sample | NAME...]     the table to stdout; --sample: five of them
#
# An error is a file tests/mutants/NAME.sed: what it is, the file it is in, runs and tests, then the sed line. A row sees it
# when its verdict changes, its interval no longer meets that of the unchanged tree, or its run fails. Exit 1 when an error
# is seen by nothing, cannot be planted, or does not compile.
set -u
export LC_ALL=C
build=$(cd "$1" && pwd) || exit 2
shift
root=$(cd "$(dirname "$0")/.." && pwd)
work=$build/mutants tree=$build/mutants/tree
sample="limit-diagonal gradient-key-sign taylor-coefficients interval-over-tokens rate-interval"
complete=no
case ${1-} in
'') names=$(cd "$root/tests/mutants" && ls -- *.sed | sed 's/\.sed$//'); complete=yes ;;
--sample) names=$sample ;;
*) names=$* ;;
esac

# What the header of error $1 says under $2.
field() { sed -n "s/^# $2: *//p" "$root/tests/mutants/$1.sed"; }
make_there() { make -C "$tree" --no-print-directory -s BUILD="$work/build" PROFILE=mutants "$@"; }
# The program and options of run $1.
command_of() { sed -n "s/^$1 //p" "$work/commands"; }
program_of() { command_of "$1" | sed 's/ .*//'; }
# Runs $2... into folder $1; a run that fails is named in its file `failed`.
run_all() {
    out=$1
    rm -rf "$out"
    mkdir -p "$out"
    shift
    for run in "$@"; do
        (cd "$tree" && timeout 300 "$work/build/bin/"$(command_of "$run") --seed 20240614 --quiet --profile mutants --out "$out/$run.csv" \
            --verdicts "$out/verdicts.csv" --ledger paper_notes.md) > /dev/null 2>&1 || echo "$run" >> "$out/failed"
    done
}
# "CLAIM row" of the rows of run $1 in the ledger.
rows_of() {
    awk -F '|' -v run="$1" '/^### / { split($2 $0, w, " "); claim = w[2]; sub(/\.$/, "", claim) }
        /^\|/ { r = $(NF - 1); gsub(/ /, "", r); n = $2; gsub(/ /, "", n); if (r == run) print claim " " n }' "$root/paper_notes.md"
}

# Makes make compile what file $1 is in; lists of headers are not made for this folder.
touch_source() {
    case $1 in *.h) touch "$tree/${1%/*}"/*.c ;; *) touch "$tree/$1" ;; esac
}

mkdir -p "$tree"
(cd "$root" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - 2> /dev/null) | tar -C "$tree" -xf -
# What is built already serves, as links; files are written aside and renamed, so that the originals stay as they are.
if [ ! -d "$work/build" ]; then
    mkdir -p "$work/build"
    for part in obj lib; do [ ! -d "$build/$part" ] || cp -al "$build/$part" "$work/build/"; done
fi

all_runs=$(for name in $names; do field "$name" runs; done | tr ' ' '\n' | sed '/^$/d' | sort -u)
for run in $all_runs; do echo "$run $(make_there run-command RUN="$run")"; done > "$work/commands"
programs=$(for run in $all_runs; do program_of "$run"; done | sort -u)
all_tests=$(for name in $names; do field "$name" tests; done | tr ' ' '\n' | sed '/^$/d' | sort -u)
targets=$(printf "$work/build/bin/%s\n" $programs compare; for test in $all_tests; do echo "$work/build/tests/$test"; done)
make_there -j"$(nproc)" $targets >&2 || { echo "mutants: the unchanged tree does not build" >&2; exit 2; }
cp "$work/build/bin/compare" "$work/compare"
run_all "$work/base" $all_runs

bad=0
: > "$work/seen"
echo "| planted error | file | seen by rows | failing tests |"
echo "|---|---|---|---|"
for name in $names; do
    file=$(field "$name" file) runs=$(field "$name" runs) tests=$(field "$name" tests)
    cp "$tree/$file" "$work/unchanged"
    sed -i -f "$root/tests/mutants/$name.sed" "$tree/$file"
    rows= failing= note=
    if cmp -s "$work/unchanged" "$tree/$file"; then
        note="cannot be planted"
    else
        touch_source "$file"
        targets=$(for run in $runs; do echo "$work/build/bin/$(program_of "$run")"; done
                  for test in $tests; do echo "$work/build/tests/$test"; done)
        case " $tests " in *" test_exact_rows "*) targets="$targets $(printf "$work/build/bin/%s\n" $programs)" ;; esac
        if make_there -j"$(nproc)" $targets > "$work/log" 2>&1; then
            run_all "$work/$name" $runs
            # The rows of the same runs without the error.
            mkdir -p "$work/was"
            { head -n 1 "$work/base/verdicts.csv"; for run in $runs; do grep ",$run\.svg," "$work/base/verdicts.csv"; done; } > "$work/was/verdicts.csv"
            rows=$("$work/compare" --a "$work/was" --b "$work/$name" --quiet 2> /dev/null |
                awk -F , '/^#/ || $1 == "claim" { next } { print $1 " " $2 }')
            rows=$({ echo "$rows"; [ ! -f "$work/$name/failed" ] || while read -r run; do rows_of "$run"; done < "$work/$name/failed"; } | sed '/^$/d' | sort -u)
            for test in $tests; do
                (cd "$tree" && PREFIX_NTK_BIN="$work/build/bin" timeout 300 "$work/build/tests/$test") > /dev/null 2>&1 || failing="$failing $test"
            done
        else
            note="does not compile"
        fi
    fi
    [ -z "$note" ] && [ -z "$rows$failing" ] && note="seen by nothing"
    [ -z "$note" ] || { bad=1; echo "mutants: $name: $note" >&2; }
    [ -z "$rows" ] || echo "$rows" >> "$work/seen"
    echo "| \`$name\`: $(sed -n '1s/^# //p' "$root/tests/mutants/$name.sed") | $file | ${note:-$(echo "$rows" | paste -sd , - | sed 's/,/, /g')} | $(echo $failing) |"
    echo "mutants: $name: $(echo "$rows" | sed '/^$/d' | wc -l) rows, tests:$failing" >&2
    cp "$work/unchanged" "$tree/$file"
    touch_source "$file"
done
[ $complete = yes ] || exit $bad

echo
echo "## Rows that no planted error moves"
echo
sort -u "$work/seen" > "$work/seen.sorted"
for run in $all_runs; do
    unseen=$(rows_of "$run" | sort | comm -23 - "$work/seen.sorted" | paste -sd , - | sed 's/,/, /g')
    [ -z "$unseen" ] || echo "- \`$run\`: $unseen"
done
echo
echo "Runs that no error was planted for, those that measure time or need data or a pretrained model among them:"
comm -13 <(echo "$all_runs") <(sed -n 's/^RUNS *+= *//p' "$root/experiments/runs.mk" | tr ' ' '\n' | sort -u) | paste -sd , - | sed 's/,/, /g; s/$/./'
exit $bad
