# Caption: Error of the plug-in summary over the effect of the prefix, per feature map ($d = 64$, $L = 128$, Gaussian prefix with keys and values of the same tokens,
#   score spread 1). Left: against the prefix length $m$, means over trials. Middle: the share of the error due to the mass (how much attention the
#   prefix gets) and to its mean. Right: at the longest prefix, $m$ = @max(prefix_len), where rows are decided, with 99.9 % intervals over trials; the oracle is
#   judged on the queries it was made for.
fig_width = 1280
fig_height = 600
load 'plots/style.gp'
set datafile missing NaN
set linetype 9 lc rgb '#8C564B' lw 1.4 pt 1 ps 0.8
set linetype 10 lc rgb '#D62728' lw 1.4 pt 2 ps 0.8
set linetype 11 lc rgb '#17BECF' lw 1.4 pt 12 ps 0.8
set linetype 12 lc rgb '#BCBD22' lw 1.4 pt 14 ps 0.8
set linetype cycle 12
maps = 'none taylor:0 elu1 taylor:1 taylor:2 taylor:3 taylor:4 split:2 favor:64 oracle:64 cumulant clusters:32'
names = "'no prefix' 'constant (taylor:0)' 'elu1 (the authors)' taylor:1 taylor:2 taylor:3 taylor:4 split:2 favor:64 'oracle, rank 64' cumulant 'clusters, 32 tokens'"
num_maps = 12
both(name, map) = stringcolumn('feature') eq map && stringcolumn('train') eq 'none' && column(name) > 1e-6 ? column(name) : NaN
intervals = dir.'/attention_error_intervals.csv'
stats intervals using 'prefix_len' nooutput
longest = STATS_max
at_longest(name, map) = column('prefix_len') == longest ? both(name, map) : NaN
least = 0.005
most = 20
set multiplot
unset key
set tmargin at screen 0.92
set bmargin at screen 0.12
set logscale xy
set logscale x 2
set format x '2^{%L}'
set xtics 1, 8
set xlabel 'prefix length m'
set yrange [least:most]
set lmargin at screen 0.06
set rmargin at screen 0.33
set title 'error over prefix effect'
plot for [i=1:num_maps] intervals using 'prefix_len':(both('err_rel_mean', word(maps, i))) with linespoints lt i
load 'plots/axes.gp'
set lmargin at screen 0.37
set rmargin at screen 0.61
set key inside right bottom Left reverse samplen 1.5
set title 'its two parts'
plot for [i=3:6] csv using 'prefix_len':(both('err_mass', word(maps, i))) with lines lt i, \
     for [i=3:6] csv using 'prefix_len':(both('err_mean', word(maps, i))) with lines ls (10+i), \
     NaN with lines lt 8 title 'mass', NaN with lines ls 18 title 'mean'
load 'plots/axes.gp'
unset key
set lmargin at screen 0.76
set rmargin at screen 0.985
unset logscale
set logscale x 10
set format x '%g'
set xtics 0.01, 10
set xrange [least:most]
set xlabel 'error over prefix effect'
set yrange [num_maps + 0.6:0.4]
set ytics () nomirror
set for [i=1:num_maps] ytics add (word(names, i) i)
set title sprintf('at m = %d', longest)
plot for [i=1:num_maps] intervals using (at_longest('err_rel_mean', word(maps, i))):(i):'err_rel_ci_lo':'err_rel_ci_hi' with xerrorbars lt i lw 1.8
load 'plots/axes.gp'
unset multiplot
