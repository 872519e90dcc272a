# The house style of every figure. The caller sets `out` (FILE.svg or FILE.png);
# a script may set `fig_width` and `fig_height` (points of the SVG) before loading this.
#
# Line types 1-8: measured series (points and lines; Okabe-Ito colours, told apart by marks too).
# Line styles 11-18: predictions in the same colours, dashed, without marks.
# Line style 20: a prediction common to all series. 21: a margin or a threshold.

if (!exists("fig_width")) fig_width = 860
if (!exists("fig_height")) fig_height = 540

set encoding utf8
if (out[strlen(out)-3:] eq '.svg') {
    set terminal svg size fig_width,fig_height dynamic enhanced font 'DejaVu Sans,16' background rgb 'white' linewidth 1.4
} else {
    set terminal pngcairo size 2*fig_width,2*fig_height enhanced font 'DejaVu Sans,12' fontscale 2 background rgb 'white' linewidth 2.8 pointscale 2.7 dashlength 1.6
}
set output out

set datafile separator ','
set datafile columnheaders
set datafile missing ''

blue = '#0072B2'; vermillion = '#D55E00'; green = '#009E73'; purple = '#AA4499'
orange = '#E69F00'; sky = '#56B4E9'; black = '#222222'; grey = '#7F7F7F'

set linetype 1 lc rgb blue       lw 1.4 pt 7  ps 0.6 dt solid
set linetype 2 lc rgb vermillion lw 1.4 pt 5  ps 0.6 dt solid
set linetype 3 lc rgb green      lw 1.4 pt 9  ps 0.7 dt solid
set linetype 4 lc rgb purple     lw 1.4 pt 13 ps 0.7 dt solid
set linetype 5 lc rgb orange     lw 1.4 pt 11 ps 0.7 dt solid
set linetype 6 lc rgb sky        lw 1.4 pt 6  ps 0.7 dt solid
set linetype 7 lc rgb black      lw 1.4 pt 4  ps 0.7 dt solid
set linetype 8 lc rgb grey       lw 1.4 pt 8  ps 0.7 dt solid
set linetype cycle 8

set style line 11 lc rgb blue       lw 1.2 dt (8,5)
set style line 12 lc rgb vermillion lw 1.2 dt (8,5)
set style line 13 lc rgb green      lw 1.2 dt (8,5)
set style line 14 lc rgb purple     lw 1.2 dt (8,5)
set style line 15 lc rgb orange     lw 1.2 dt (8,5)
set style line 16 lc rgb sky        lw 1.2 dt (8,5)
set style line 17 lc rgb black      lw 1.2 dt (8,5)
set style line 18 lc rgb grey       lw 1.2 dt (8,5)
set style line 20 lc rgb black      lw 1.2 dt (8,5)
set style line 21 lc rgb grey       lw 1.2 dt (2,4)

set style line 91 lc rgb '#555555' lw 0.8
set style line 92 lc rgb '#DDDDDD' lw 0.6
set style line 93 lc rgb '#F0F0F0' lw 0.4
set border 3 ls 91
set tics nomirror out scale 0.6
set grid xtics ytics ls 92, ls 93
set key outside right top vertical Left reverse samplen 2.5 spacing 1.25 noautotitle
set style fill transparent solid 0.18 noborder
set bars small
