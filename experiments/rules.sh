#!/bin/sh
# The rules of the ledger and the instances they are decided on, now and ever.
#
#   experiments/rules.sh rows      claim|row|rule|run|options of every row of this tree, default profile
#   experiments/rules.sh history   every rule, instance and value ever committed, from git, as Markdown
#   experiments/rules.sh check [SNAPSHOT]
#                                  compares this tree with the rows of the last release (docs/rules_snapshot.csv). Of a row
#                                  whose rule, run or options differ, or that is gone, the entry's History paragraph must
#                                  name the row in backticks and, in backticks too, what stood there before: the old rule,
#                                  the old run, or each option of old as `--name value` (`--name unset` for one that was
#                                  not given). Exit 1 and a line for each that is not declared.
#
#   experiments/rules.sh classes   fails on a row that the ledger calls preregistered (its entry's Class paragraph names it neither
#                                  exact nor exploratory) and git does not: no commit without a value has the rule, run and
#                                  options that the value was measured with. An option or a run changed after a value may be
#                                  declared in the entry's History instead, as above, where the row does not use it, or is
#                                  the same measurement within another run.
#
# Options that a program takes from its own defaults are not seen.
set -u
export LC_ALL=C
ledger=paper_notes.md profile=experiments/default.mk

# claim|row|rule|run|options|verdict|measured from the profile and the ledger named; a bar in a cell becomes a slash.
rows() {
    awk '
        function trimmed(s) { gsub(/^ +| +$/, "", s); return s }
        # Of --decide LIST only what decides this row: the other words are other rows.
        function own(options, row,   n, i, word, list, k, item, kept) {
            n = split(options, word, " +")
            options = ""
            for (i = 1; i <= n; i++) {
                if (word[i - 1] == "--decide") {
                    k = split(word[i], list, ",")
                    kept = ""
                    for (item = 1; item <= k; item++) if (index(list[item], row) == 1) kept = list[item]
                    word[i] = kept == "" ? "-" : kept
                }
                options = options (options == "" ? "" : " ") word[i]
            }
            return options
        }
        FNR == 1 { file++ }
        file == 1 && /^[A-Za-z_0-9]+ *:=/ {
            name = $1; value = $0; sub(/^[^=]*= */, "", value)
            while (match(value, /\$\([A-Za-z_0-9]+\)/))
                value = substr(value, 1, RSTART - 1) var[substr(value, RSTART + 2, RLENGTH - 3)] substr(value, RSTART + RLENGTH)
            gsub(/\|/, "/", value); var[name] = trimmed(value)
        }
        file == 2 && /^##* / { claim = ""; if (/^### [A-Z][0-9]+\. /) { claim = $2; sub(/\.$/, "", claim) } }
        file == 2 && claim != "" && /^\|/ {
            gsub(/\\\|/, "/")
            n = split($0, cell, "|")
            if (n != 8 || trimmed(cell[2]) == "row" || cell[2] ~ /^-+$/) next
            run = trimmed(cell[7])
            print claim "|" trimmed(cell[2]) "|" trimmed(cell[4]) "|" run "|" own(var["ARGS_" run], claim "/" trimmed(cell[2]) ":") "|" trimmed(cell[5]) "|" trimmed(cell[6])
        }' "$1" "$2"
}

history() {
    work=$(mktemp -d) || exit 1
    trap 'rm -rf "$work"' EXIT
    git log --reverse --date=format:%Y-%m-%d\ %H:%M --format='%h|%cd' -- "$ledger" "$profile" | while IFS='|' read -r commit date; do
        git show "$commit:$ledger" > "$work/ledger" 2> /dev/null || continue
        # A profile begins with a line of its own, so that an absent one still counts as a file.
        { echo '# profile'; git show "$commit:$profile" 2> /dev/null; } > "$work/profile"
        rows "$work/profile" "$work/ledger" | sed "s/^/$commit|$date|/"
        echo "$commit|$date|."
    done | awk -F '|' '
        function show(id, commit, date, note) {
            line[id] = line[id] "| " commit " | " date " | " rule[id] " | " verdict[id] " | " measured[id] " | " note " |\n"
        }
        # The options of b that a has not, and of a that b has not.
        function difference(a, b, text, na, nb, wa, wb, i, va, vb) {
            if (a == b) return ""
            split("", va); split("", vb); text = ""
            na = split(a, wa, " +"); nb = split(b, wb, " +")
            for (i = 1; i <= na; i++) if (wa[i] ~ /^--/) va[wa[i]] = wa[i + 1] ~ /^--/ ? "" : wa[i + 1]
            for (i = 1; i <= nb; i++) if (wb[i] ~ /^--/) vb[wb[i]] = wb[i + 1] ~ /^--/ ? "" : wb[i + 1]
            for (i = 1; i <= na; i++)
                if (wa[i] ~ /^--/ && !(wa[i] in vb)) text = text "`" wa[i] " " va[wa[i]] "` unset; "
                else if (wa[i] ~ /^--/ && vb[wa[i]] != va[wa[i]]) text = text "`" wa[i] " " va[wa[i]] "` became `" vb[wa[i]] "`; "
            for (i = 1; i <= nb; i++) if (wb[i] ~ /^--/ && !(wb[i] in va)) text = text "`" wb[i] " " vb[wb[i]] "` set; "
            sub(/; $/, "", text)
            return text
        }
        $3 == "." {
            for (id in here) if (seen[id] != $1) { delete here[id]; rule[id] = ""; verdict[id] = measured[id] = ""; show(id, $1, $2, "row removed") }
            next
        }
        {
            id = $3 "/" $4; seen[id] = $1; note = ""
            if (!(id in line)) { order[++count] = id; note = "first" ($7 == "" ? "" : ", `" $6 " " $7 "`") }
            else if (!(id in here)) note = "row back"
            else {
                if (rule[id] != $5) note = "**rule changed**"
                if (run[id] != $6) note = note (note == "" ? "" : ", ") "run `" run[id] "` became `" $6 "`"
                d = difference(options[id], $7)
                if (d != "") note = note (note == "" ? "" : ", ") d
                if (note == "" && verdict[id] == $8 && measured[id] == $9) next
            }
            here[id] = 1; rule[id] = $5; run[id] = $6; options[id] = $7; verdict[id] = $8; measured[id] = $9
            show(id, $1, $2, note)
        }
        END {
            print "# Every rule, instance and value the ledger has had\n"
            print "Written by `make history` from the commits of `paper_notes.md` and `experiments/default.mk`: a line where the rule, the"
            print "run, its options in the default profile, the verdict or the value changed. Values are those of the commit; an empty"
            print "verdict or `not tested` is a rule committed before its run. Options a program takes from its own defaults are not seen."
            changed = 0
            for (i = 1; i <= count; i++) if (line[order[i]] ~ /rule changed|row removed/) changed++
            printf "\n%d rows ever, %d of them with a rule that changed or a row that was removed.\n", count, changed
            for (i = 1; i <= count; i++) {
                printf "\n## %s\n\n| commit | date | rule | verdict | measured | change |\n|---|---|---|---|---|---|\n%s", order[i], line[order[i]]
            }
        }'
}

check() {
    { rows "$profile" "$ledger" | sed 's/^/now|/'; sed 's/^/then|/' "$1"; } | awk -F '|' -v OFS='|' '
        FILENAME != "-" {
            if (/^##* /) { claim = ""; if (/^### /) { split($0, w, " "); claim = w[2]; sub(/\.$/, "", claim) } }
            if (/^\*\*History\.\*\*/) history[claim] = history[claim] $0
            next
        }
        $1 == "now" { id = $2 "/" $3; now[id] = 1; rule[id] = $4; run[id] = $5; options[id] = $6; next }
        # A comment of the snapshot has no rows.
        NF < 6 { next }
        function declared(what) { return index(history[$2], "`" what "`") > 0 }
        function missing(what) { print $2 " " $3 ": its History does not say `" what "`"; bad = 1 }
        {
            id = $2 "/" $3
            old = ""
            changed = !(id in now) || rule[id] != $4 || run[id] != $5 || options[id] != $6
            if (!changed) next
            if (!declared($3)) missing($3)
            if (!(id in now)) next
            if (rule[id] != $4 && !declared($4)) missing($4)
            if (run[id] != $5) { if (!declared($5)) missing($5); next }
            split("", was); split("", is)
            n = split($6, w, " +"); for (i = 1; i <= n; i++) if (w[i] ~ /^--/) was[w[i]] = w[i + 1] ~ /^--/ ? "" : w[i + 1]
            n = split(options[id], w, " +"); for (i = 1; i <= n; i++) if (w[i] ~ /^--/) is[w[i]] = w[i + 1] ~ /^--/ ? "" : w[i + 1]
            for (o in was) if (!(o in is) || is[o] != was[o]) { old = was[o] == "" ? o : o " " was[o]; if (!declared(old)) missing(old) }
            for (o in is) if (!(o in was) && !declared(o " unset")) missing(o " unset")
        }
        END { exit bad }' "$ledger" -
}

classes() {
    awk -F '|' '
        function trimmed(s) { gsub(/^ +| +$/, "", s); return s }
        FNR == 1 { file++ }
        file == 1 {
            if (/^##* /) { claim = ""; inside = ""; if (/^### /) { split($0, w, " "); claim = w[2]; sub(/\.$/, "", claim) } }
            if (/^$/) inside = ""
            if (/^\*\*(Class|History)\.\*\*/) inside = /^\*\*Class/ ? "class" : "history"
            if (inside == "class") class[claim] = class[claim] $0
            if (inside == "history") history[claim] = history[claim] $0
            if (claim != "" && /^\|/ && NF >= 8 && trimmed($2) != "row" && $2 !~ /^-+$/) now[claim "/" trimmed($2)] = 1
            next
        }
        /^## / { id = substr($0, 4); split(id, w, "/"); claim = w[1]; row = w[2]; next }
        # commit, date, rule, verdict, measured, change
        /^\| / && id != "" && trimmed($2) != "commit" {
            change = trimmed($7); blank = trimmed($5) == "" || trimmed($5) == "not tested"
            first = change ~ /^first/ || change == "row back"
            if (first || (change != "" && change != "row removed")) {
                left = change
                # Options declared in the History of the entry.
                if (!blank && !first && left !~ /rule changed/) {
                    n = split(left, part, "; ")
                    left = ""
                    for (i = 1; i <= n; i++) {
                        was = part[i]
                        sub(/^run `/, "`", was)
                        if (was ~ / set$/) { sub(/^`/, "", was); sub(/ .*/, " unset", was) } else { sub(/^`/, "", was); sub(/`.*/, "", was) }
                        if (!index(history[claim], "`" was "`")) left = left part[i]
                    }
                    if (left == "") next
                }
                good[id] = blank
                why[id] = first ? "the first commit has a value" : left
            }
        }
        END {
            for (id in now) {
                split(id, w, "/")
                if (!(id in good) || good[id] || index(class[w[1]], "`" w[2] "`")) continue
                print w[1] " " w[2] ": called preregistered, but " why[id]
                bad = 1
            }
            exit bad
        }' "$ledger" "$1"
}

case ${1-} in
classes)
    if [ "$(git rev-parse --is-shallow-repository 2> /dev/null)" = false ]; then
        work=$(mktemp) || exit 1
        (history) > "$work" && classes "$work"
        code=$?
        rm -f "$work"
        exit $code
    fi
    classes docs/rules_history.md ;;
rows) rows "$profile" "$ledger" | cut -d '|' -f 1-5 ;;
history) history ;;
check) check "${2:-docs/rules_snapshot.csv}" ;;
*) echo "usage: experiments/rules.sh rows|history|classes|check [SNAPSHOT]" >&2; exit 2 ;;
esac
