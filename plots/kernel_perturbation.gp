# Caption: Change of the key kernel, $\|H(W) - H(W_0)\|_F$, when every token moves by exactly $R$: in random directions (open to the law of large
#   numbers: $m^{-1/2}$ at small $R$) and along the gradient of the change (filled; proportional to $R$, whatever $m$). Bars: 95 % intervals; dashed: slope 1.
load 'plots/style.gp'
set logscale xy
set format y '10^{%T}'
set xlabel 'shift R of every token'
set ylabel '‖H(W) − H(W_0)‖_F'
set xrange [0.007:0.35]
lens = '64 256 1024 4096'
open = '6 4 8 12'
pick(s, m) = stringcolumn('shift') eq s && column('prefix_len') == m ? column('change_mean') : NaN
plot 7 * x with lines ls 20 title 'slope 1', \
     for [i=1:4] csv using 'radius':(pick('adversarial', word(lens, i) + 0)):'change_ci_lo':'change_ci_hi' with yerrorlines lt i title 'adversarial, m = '.word(lens, i), \
     for [i=1:4] csv using 'radius':(pick('random', word(lens, i) + 0)):'change_ci_lo':'change_ci_hi' with yerrorlines lt i pt (word(open, i) + 0) dt (4,3) title 'random, m = '.word(lens, i)
load 'plots/axes.gp'
