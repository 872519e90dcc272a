# What the benchmarks of methods share: `title_of(arm)` and three panels from the tables STEM_summary and STEM_curves beside `csv`.
# The caller sets `arms` (as the tables name them), `names` and `accuracy_range`, then loads this.
set datafile missing NaN
stem = csv[1:strlen(csv)-4]
summary = stem.'_summary.csv'
curves = stem.'_curves.csv'
count = words(arms)
of(name, arm) = stringcolumn('arm') eq arm ? column(name) : NaN
set linetype 9 lc rgb '#8C510A' lw 1.4 pt 5 ps 0.6 dt solid
set linetype 10 lc rgb '#666600' lw 1.4 pt 10 ps 0.7 dt solid
set linetype cycle 10
set multiplot
set tmargin at screen 0.93
set bmargin at screen 0.13
# Loss against steps.
set lmargin at screen 0.065
set rmargin at screen 0.295
set xlabel 'steps'
set ylabel 'loss (lines: training, dotted: validation)'
set logscale y
set autoscale yfix
set ytics (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 2.5) nomirror
set xtics autofreq
set xrange [0:*]
unset key
plot for [i=1:count] curves using (of('step', word(arms, i))):'train_loss' with lines lt i lw 1.6, \
     for [i=1:count] curves using (of('step', word(arms, i))):'val_loss' with lines lt i lw 1.2 dt (2,4)
load 'plots/axes.gp'
# Loss against seconds.
set lmargin at screen 0.345
set rmargin at screen 0.545
set xlabel 'seconds of training'
set ylabel ''
plot for [i=1:count] curves using (of('time_s', word(arms, i))):'train_loss' with lines lt i lw 1.6
load 'plots/axes.gp'
unset logscale y
set autoscale
set ytics autofreq
# Accuracy against parameters.
set lmargin at screen 0.625
set rmargin at screen 0.78
set xlabel 'trainable parameters (head included)'
set ylabel 'test accuracy, 95 % interval'
set logscale x
set format x '10^{%L}'
set key at screen 0.79, 0.92 left top
plot for [i=1:count] summary using (of('adapter_params', word(arms, i)) + column('head_params')):'test_accuracy':'test_accuracy_ci_lo':'test_accuracy_ci_hi' \
     with yerrorbars lt i ps 1.1 title word(names, i)
load 'plots/axes.gp'
unset multiplot
