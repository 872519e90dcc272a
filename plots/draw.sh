#!/bin/sh
# One figure of a run; removed when the run has left no table.
#
#   plots/draw.sh SCRIPT.gp RESULTS RUN OUT        OUT: FILE.svg or FILE.png
#
# An SVG carries the axes of its panels (plots/axes.gp) as metadata, for the values that the report shows:
#   panel XMIN XMAX YMIN YMAX XLO XHI YLO YHI      frame and range, from the lower left
#   log AXIS BASE                                  of the panel above
#   label AXIS TEXT
set -eu

script=$1 results=$2 run=$3 out=$4
if [ ! -e "$results/$run.csv" ]; then
    rm -f "$out"
    exit 0
fi
part=$(dirname "$out")/.part.$(basename "$out")
rm -f "$part" "$part.axes"
LC_ALL=C.UTF-8 gnuplot -e "csv='$results/$run.csv'; dir='$results'; out='$part'" "$script"
if [ -f "$part.axes" ]; then
    awk '
        FNR == NR && /^panel/ { axes = axes $0 "\n" }
        FNR == NR && /^set logscale/ { axes = axes "log " $3 " " $4 "\n" }
        FNR == NR && /^set [xy]label "/ {
            text = $0
            sub(/^[^"]*"/, "", text)
            sub(/" *$/, "", text)
            gsub(/&/, "\\&amp;", text)
            gsub(/</, "\\&lt;", text)
            if (text != "") axes = axes "label " substr($2, 1, 1) " " text "\n"
        }
        FNR == NR { next }
        { print }
        /^<desc>/ { printf "<metadata>\n%s</metadata>\n", axes }' "$part.axes" "$part" > "$part.full"
    mv -f "$part.full" "$part"
    rm -f "$part.axes"
fi
mv -f "$part" "$out"
