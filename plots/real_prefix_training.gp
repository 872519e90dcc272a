# Caption: A real prefix, with keys and values of its own, no signs and no factor $m$, trained by Adam: loss on the training queries and on unseen ones
#   over that of $F = 0$, against the prefix length $m$; bars: 95 % intervals over data sets.
load 'plots/style.gp'
set logscale y
set logscale x 2
set format x '2^{%L}'
set format y '10^{%T}'
set xtics 1, 4
set xlabel 'prefix length m'
set ylabel 'loss / loss of F = 0'
plot csv using 'prefix_len':'train_mean' with linespoints lt 1 title 'training queries', \
     csv using 'prefix_len':'heldout_mean':'heldout_ci_lo':'heldout_ci_hi' with yerrorlines lt 2 title 'unseen queries'
load 'plots/axes.gp'
