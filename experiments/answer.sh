#!/bin/sh
# README.md with the verdicts and numbers of its answer as the ledger has them, on standard output: lines of a table
# "| text | **verdict** | number unit | `ID/row` |".
set -eu
awk -F '|' '
    FNR == 1 { file++ }
    file == 1 && /^### / { id = $0; sub(/^### /, "", id); sub(/\..*/, "", id) }
    file == 1 && /^\|/ {
        gsub(/\\\|/, "/")
        row = $2; measured = $(NF - 2); verdict = $(NF - 3)
        gsub(/ /, "", row); gsub(/^ *| *$/, "", measured); gsub(/^ *| *$/, "", verdict)
        number[id "/" row] = measured
        word[id "/" row] = verdict == "supported" ? "yes" : verdict == "contradicted" ? "no" : measured != "" ? "undecided" : "open"
    }
    file == 1 { next }
    NF == 6 && match($5, /`[TMEF][0-9]+\/[^`]*`/) {
        key = substr($5, RSTART + 1, RLENGTH - 2)
        if (!(key in word)) { print "answer: the ledger has no row " key > "/dev/stderr"; exit 1 }
        unit = $4
        sub(/^ *(-?[0-9][^ ]*( \[[^]]*\])? )? */, "", unit)
        sub(/ *$/, "", unit)
        printf "|%s| **%s** | %s%s%s |%s|\n", $2, word[key], number[key], number[key] == "" ? "" : " ", unit, $5
        next
    }
    { print }' paper_notes.md README.md
