# Caption: Residual of the best fit of arbitrary outputs against the number of queries, over the number of features $r$ (summary) or tokens $m$ (prefix):
#   exact (rounding) up to a ratio of 1, nowhere beyond.
fig_width = 900
load 'plots/style.gp'
set logscale y
set format y '10^{%T}'
set xlabel 'queries over r (summary) or m (prefix)'
set ylabel 'relative residual'
set xrange [0.55:1.45]
set yrange [1e-17:10]
set arrow from 1, graph 0 to 1, graph 1 nohead ls 21
pick(name, map) = stringcolumn('method') eq map ? column(name) : NaN
meth = 'elu1 taylor:2 prefix'
plot for [i=1:3] csv using (column('queries')/column('size')):(pick('residual_mean', word(meth, i))) with points lt i ps 1 title word(meth, i)
load 'plots/axes.gp'
