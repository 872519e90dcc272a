# What the benchmarks of methods share: `title_of(arm)` and three panels from the tables STEM_summary and STEM_curves beside `csv`.
# The caller sets `arms` (as the tables name them), `names` and `accuracy_range`, then loads this.
set datafile missing NaN
stem = csv[1:strlen(csv)-4]
summary = stem.'_summary.csv'
curves = stem.'_curves.csv'
count = words(arms)
of(name, arm) = stringcolumn('arm') eq arm ? column(name) : NaN
set multiplot
set tmargin at screen 0.93
set bmargin at screen 0.13
# Loss against steps.
set lmargin at screen 0.065
set rmargin at screen 0.30
set xlabel 'steps'
set ylabel 'loss (lines: training, dotted: validation)'
set logscale y
unset key
plot for [i=1:count] curves using (of('step', word(arms, i))):'train_loss' with lines lt i lw 1.6, \
     for [i=1:count] curves using (of('step', word(arms, i))):'val_loss' with lines lt i lw 1.2 dt (2,4)
# Loss against seconds.
set lmargin at screen 0.325
set rmargin at screen 0.53
set xlabel 'seconds of training'
set ylabel ''
plot for [i=1:count] curves using (of('time_s', word(arms, i))):'train_loss' with lines lt i lw 1.6
unset logscale y
# Accuracy against parameters.
set lmargin at screen 0.60
set rmargin at screen 0.78
set xlabel 'trainable parameters (head included)'
set ylabel 'test accuracy, 95 % interval'
set logscale x
set format x '10^{%L}'
set key at screen 0.79, 0.92 left top
plot for [i=1:count] summary using (of('adapter_params', word(arms, i)) + column('head_params')):'test_accuracy':'test_accuracy_ci_lo':'test_accuracy_ci_hi' \
     with yerrorbars lt i ps 1.1 title word(names, i)
unset multiplot
