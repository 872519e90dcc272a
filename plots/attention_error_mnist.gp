# Caption: Error of the plug-in summary over the effect of the prefix against the prefix length $m$, per feature map
#   ($d = 64$, $L = 128$, tokens: patches of MNIST images, score spread 1). Bars: 99.9 % intervals over
#   trials. Right: the share of the error due to the mass (how much attention the prefix gets) and to its mean, at each $m$.
fig_width = 1180
fig_height = 600
load 'plots/style.gp'
set datafile missing NaN
set linetype 9 lc rgb '#8C564B' lw 1.4 pt 1 ps 0.8
set linetype 10 lc rgb '#D62728' lw 1.4 pt 2 ps 0.8
set linetype 11 lc rgb '#17BECF' lw 1.4 pt 12 ps 0.8
set linetype cycle 11
set logscale xy
set logscale x 2
set format x '2^{%L}'
set xtics 1, 8
set xlabel 'prefix length m'
set yrange [0.05:30]
maps = 'none taylor:0 elu1 taylor:1 taylor:2 taylor:3 split:2 favor:64 oracle:64 cumulant clusters:32'
names = "'no prefix' 'constant (taylor:0)' 'elu1 (the authors)' taylor:1 taylor:2 taylor:3 split:2 favor:64 'oracle, rank 64' cumulant 'clusters, 32 tokens'"
both(name, map) = stringcolumn('feature') eq map && stringcolumn('train') eq 'none' && column(name) > 1e-6 ? column(name) : NaN
intervals = dir.'/attention_error_mnist_intervals.csv'
set multiplot
set tmargin at screen 0.92
set bmargin at screen 0.12
set lmargin at screen 0.075
set rmargin at screen 0.43
set key at screen 0.815, 0.9 left top
set title 'error over prefix effect'
plot for [i=1:11] intervals using 'prefix_len':(both('err_rel_mean', word(maps, i))):'err_rel_ci_lo':'err_rel_ci_hi' with yerrorlines lt i title word(names, i)
unset key
set lmargin at screen 0.475
set rmargin at screen 0.80
set key at screen 0.815, 0.30 left top
set title 'its two parts: mass (solid), mean (dashed)'
plot for [i=3:6] csv using 'prefix_len':(both('err_mass', word(maps, i))) with lines lt i, \
     for [i=3:6] csv using 'prefix_len':(both('err_mean', word(maps, i))) with lines ls (10+i), \
     NaN with lines lt 7 title 'mass error', NaN with lines ls 17 title 'mean error'
unset multiplot
