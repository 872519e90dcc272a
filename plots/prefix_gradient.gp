# Caption: Relative error of central differences of the loss against the gradient formula, by the step $h$, for every size and
#   sign law tried: all of the gradient, tokens moved as values only, as keys only. It falls like $h^2$ until rounding takes
#   over at $\varepsilon/h$, which it could not if a term were missing. Along the values the loss is quadratic and only rounding is left.
load 'plots/style.gp'
set logscale xy
set format x '10^{%T}'
set format y '10^{%T}'
set xlabel 'step h of the difference'
set ylabel 'relative error'
names = 'both value key'
plot for [i=1:3] csv using 'step':(stringcolumn('path') eq word(names, i) ? column('rel_err') : NaN) with points lt i title (i == 1 ? 'all of it' : i == 2 ? 'values only' : 'keys only'), \
     x**2 with lines ls 20 title 'h^2', 2e-16 / x with lines ls 21 title 'ε / h'
load 'plots/axes.gp'
