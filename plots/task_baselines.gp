# Caption: What the tasks give without fine-tuning: majority class, a converged linear classifier on raw pixels or TF-IDF, and one on the frozen backbone's
#   features, with the training sets of the benchmark of methods. Bars: 95 % intervals over draws of the training set.
fig_width = 980
fig_height = 460
load 'plots/style.gp'
set datafile missing NaN
set xlabel 'test accuracy'
set xrange [0:1]
set yrange [3.6:-0.6]
baselines = 'majority raw frozen'
names = "'majority class' 'linear, pixels or TF-IDF' 'linear, frozen features'"
set bmargin 7
set key at graph 0.5, screen 0.06 center horizontal maxrows 1 width -4
pick(name, b) = stringcolumn('baseline') eq b ? column(name) : NaN
plot for [i=1:3] csv using (pick('test_accuracy', word(baselines, i))):(int($0 / 3)):'test_accuracy_ci_lo':'test_accuracy_ci_hi':ytic(stringcolumn('task').', '.stringcolumn('backbone')) \
     with xerrorbars lt i ps 1.2 title word(names, i)
load 'plots/axes.gp'
