# Caption: Error over the effect of the prefix against the prefix length $m$ for the authors' map elu1 (left) and taylor:1 (right):
#   plug-in, least-squares optimum, and Adam (rate 0.001, 2000 steps) with $k$ linear from 0, $k = e^\theta$ from a mass of 0.01, and
#   from the plug-in. Judged on queries not fitted on; bars: 99.9 % intervals over trials.
fig_width = 1100
load 'plots/style.gp'
set datafile missing NaN
set logscale xy
set logscale x 2
set format x '2^{%L}'
set xtics 1, 8
set xlabel 'prefix length m'
set yrange [0.005:20]
trains = 'none lstsq adam adam-log adam-warm'
names = "plug-in 'least squares' 'Adam, k linear' 'Adam, k = exp θ' 'Adam from plug-in'"
pick(name, map, train) = stringcolumn('feature') eq map && stringcolumn('train') eq train ? column(name) : NaN
intervals = dir.'/attention_error_trained_intervals.csv'
set tmargin at screen 0.91
set bmargin at screen 0.13
set multiplot
do for [panel=1:2] {
    map = word('elu1 taylor:1', panel)
    set lmargin at screen (panel == 1 ? 0.085 : 0.45)
    set rmargin at screen (panel == 1 ? 0.40 : 0.765)
    set key at screen 0.785, 0.88 left top
    if (panel == 1) { unset key }
    set title map
    set ylabel (panel == 1 ? 'error over prefix effect' : '')
    plot for [i=1:5] intervals using 'prefix_len':(pick('err_rel_mean', map, word(trains, i))):'err_rel_ci_lo':'err_rel_ci_hi' with yerrorlines lt i title word(names, i), \
         1 with lines ls 21 title 'no prefix at all'
    load 'plots/axes.gp'
    set key
}
unset multiplot
