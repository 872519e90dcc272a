# Caption: Largest and median error over the bound $2\epsilon\rho/(1-\epsilon\rho)\max|v|$, per map, score spread and prefix length (Gaussian tokens; queries with
#   $\epsilon\rho < 1$). Nothing lies above 1; the longer the prefix, the more the entrywise errors average out and the looser the bound.
fig_width = 1000
load 'plots/style.gp'
set datafile missing NaN
maps = 'taylor:2 taylor:4 taylor:8 minimax:2 minimax:4 minimax:8'
pick(name, map) = stringcolumn('feature') eq map ? column(name) : NaN
set logscale xy
set logscale x 2
set format x '2^{%L}'
set xrange [2.5:2500]
set xlabel 'prefix length m'
set ylabel 'error over bound'
set yrange [1e-5:3]
set format y '10^{%T}'
plot for [i=1:6] csv using (pick('prefix_len', word(maps, i))*(0.9+0.04*i)):'ratio_max' with points lt i title word(maps, i).', largest', \
     for [i=1:6] csv using (pick('prefix_len', word(maps, i))*(0.9+0.04*i)):'ratio_median' with points lt i ps 0.35, \
     1 with lines ls 21 title 'the bound', NaN with points lt 7 ps 0.35 title 'small: median'
load 'plots/axes.gp'
