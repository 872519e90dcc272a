# What the benchmarks of methods share: three panels from the tables STEM_summary and STEM_curves beside `csv`. The caller sets
# `arms` (as the tables name them) and `names`, and `lengths = 1` for a fourth: accuracy against the prefix length of P-Tuning V2.
set datafile missing NaN
stem = csv[1:strlen(csv)-4]
summary = stem.'_summary.csv'
curves = stem.'_curves.csv'
# The arms that the run has, by their places in `arms`, which give the colours.
has = ' '
stats summary using (has = has.stringcolumn('arm').' ', 1) nooutput
present = ''
do for [i=1:words(arms)] { if (strstrt(has, ' '.word(arms, i).' ')) { present = present.' '.i } }
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
stats curves using 'step' name 'STEPS' nooutput
set xtics 0, STEPS_max > 250 ? 100 : STEPS_max > 100 ? 50 : STEPS_max > 10 ? 20 : 2
set xrange [0:*]
unset key
plot for [i in present] curves using (of('step', word(arms, i + 0))):'train_loss' with lines lt i + 0 lw 1.6, \
     for [i in present] curves using (of('step', word(arms, i + 0))):'val_loss' with lines lt i + 0 lw 1.2 dt (2,4)
load 'plots/axes.gp'
# Loss against seconds.
set lmargin at screen 0.345
set rmargin at screen 0.545
set xlabel 'seconds of training'
set xtics autofreq
set ylabel ''
plot for [i in present] curves using (of('time_s', word(arms, i + 0))):'train_loss' with lines lt i + 0 lw 1.6
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
plot for [i in present] summary using (of('adapter_params', word(arms, i + 0)) + column('head_params')):'test_accuracy':'test_accuracy_ci_lo':'test_accuracy_ci_hi' \
     with yerrorbars lt i + 0 ps 1.1 title word(names, i + 0)
load 'plots/axes.gp'
if (exists('lengths')) {
    # Accuracy against the length of a prefix, in the colours of P-Tuning V2 and, as a band, NTK-Attention.
    set lmargin at screen 0.845
    set rmargin at screen 0.985
    set tmargin at screen 0.4
    set xlabel 'prefix length m'
    set ylabel ''
    set logscale x 4
    set format x '%g'
    set xrange [0.7:90]
    unset key
    is_prefix(arm) = arm eq 'ptuning' || strstrt(arm, 'ptuning+prefix_len=') == 1
    length(arm) = arm eq 'ptuning' ? 16 : real(arm[strstrt(arm, 'prefix_len=')+11:*])
    m(dummy) = is_prefix(stringcolumn('arm')) ? length(stringcolumn('arm')) : NaN
    stats summary using (of('test_accuracy', 'ntk')) name 'N' nooutput
    stats summary using (of('test_accuracy_ci_lo', 'ntk')) name 'L' nooutput
    stats summary using (of('test_accuracy_ci_hi', 'ntk')) name 'H' nooutput
    place(arm) = sum [i=1:words(arms)] (word(arms, i) eq arm ? i : 0)
    set yrange [L_mean - 0.01:*]
    set ytics 0.02
    set object 1 rectangle from graph 0, first L_mean to graph 1, first H_mean fillcolor linetype place('ntk') fillstyle solid 0.12 noborder behind
    plot summary using (m(0)):'test_accuracy':'test_accuracy_ci_lo':'test_accuracy_ci_hi' with yerrorbars lt place('ptuning') ps 0.9, \
         N_mean with lines lt place('ntk') dt 2
    load 'plots/axes.gp'
}
unset multiplot
