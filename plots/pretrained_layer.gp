# What the figures of pretrained layers share.
set logscale xy
set logscale x 2
set format x '2^{%L}'
set xlabel 'prefix length m'
law(name, s) = stringcolumn('signs') eq s ? column(name) : NaN
set datafile missing NaN
laws = 'mirrored positive'
stats csv using (law('limit_err_mean', 'mirrored')) every ::0::0 name 'E' nooutput
stats csv using (law('prefix_len', 'mirrored')) every ::0::0 name 'M' nooutput
set tmargin at screen 0.94
set bmargin at screen 0.13
set multiplot
set lmargin at screen 0.10
set rmargin at screen 0.43
set ylabel "relative distance from the limit"
unset key
plot for [i=1:2] csv using (law('prefix_len', word(laws, i))):'limit_err_mean':'limit_err_ci_lo':'limit_err_ci_hi' with yerrorlines lt i, \
     E_min * sqrt(M_min / x) with lines ls 20
load 'plots/axes.gp'
set lmargin at screen 0.52
set rmargin at screen 0.80
unset logscale y
set ylabel 'loss per prediction of the limit'
set yrange [0.5:*]
set key at screen 0.81, 0.92 left top
plot for [i=1:2] csv using (law('prefix_len', word(laws, i))):'loss_per_predicted_mean':'loss_per_predicted_ci_lo':'loss_per_predicted_ci_hi' with yerrorlines lt i title word(laws, i).' signs', \
     1 with lines ls 21
load 'plots/axes.gp'
unset multiplot
