# Caption: Test accuracy against prefix length of P-Tuning V2, and NTK-Attention, whose size does not depend on a length (dashed), vit-fashion on MNIST with
#   1,000 training images. Bars and band: 95 % intervals over draws of the training set.
load 'plots/style.gp'
set datafile missing NaN
summary = csv[1:strlen(csv)-4].'_summary.csv'
set logscale x 2
set xlabel 'prefix length m'
set ylabel 'test accuracy'
length(arm) = real(arm[strstrt(arm, 'prefix_len=')+11:*])
prefix(name) = strstrt(stringcolumn('arm'), 'ptuning+prefix_len=') == 1 ? column(name) : NaN
m(dummy) = strstrt(stringcolumn('arm'), 'ptuning+prefix_len=') == 1 ? length(stringcolumn('arm')) : NaN
ntk(name) = stringcolumn('arm') eq 'ntk' ? column(name) : NaN
stats summary using (ntk('test_accuracy')) name 'N' nooutput
stats summary using (ntk('test_accuracy_ci_lo')) name 'L' nooutput
stats summary using (ntk('test_accuracy_ci_hi')) name 'H' nooutput
set xrange [0.8:80]
set yrange [(L_mean < 1 ? L_mean - 0.01 : 0):*]
set object 1 rectangle from graph 0, first L_mean to graph 1, first H_mean fillcolor rgb green fillstyle solid 0.12 noborder behind
plot summary using (m(0)):(prefix('test_accuracy')):'test_accuracy_ci_lo':'test_accuracy_ci_hi' with yerrorlines lt 1 title 'P-Tuning V2', \
     N_mean with lines ls 13 title 'NTK-Attention'
load 'plots/axes.gp'
