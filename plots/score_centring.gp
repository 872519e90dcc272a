# Caption: Relative error of the mean of a long Gaussian prefix under plug-in maps against the root mean square of the scores' means (score spread 1), without
#   and with centring of the keys. Medians over trials with 99.9 % intervals.
fig_width = 900
load 'plots/style.gp'
set datafile missing NaN
set logscale xy
set xlabel 'root mean square of the scores'' means'
set ylabel 'relative error of the prefix mean'
set xrange [0.1:1.3]
set xtics (0.125, 0.25, 0.5, 1)
maps = 'taylor:1 taylor:3 split:2 taylor:1@centred taylor:3@centred split:2@centred cumulant'
names = "taylor:1 taylor:3 split:2 'taylor:1, centred' 'taylor:3, centred' 'split:2, centred' cumulant"
pick(name, map) = stringcolumn('feature') eq map && column('score_mean') > 0 ? column(name) : NaN
plot for [i=1:7] csv using 'score_mean':(pick('error_median', word(maps, i))):'error_ci_lo':'error_ci_hi' with yerrorlines lt i title word(names, i)
load 'plots/axes.gp'
