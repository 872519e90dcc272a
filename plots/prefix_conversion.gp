# What the figures of converted prefixes share: two panels from the table and STEM_layers beside `csv`.
set datafile missing NaN
layers = csv[1:strlen(csv)-4].'_layers.csv'
set multiplot
set tmargin at screen 0.93
set bmargin at screen 0.15
# Accuracy by replacement.
set lmargin at screen 0.08
set rmargin at screen 0.50
set ylabel 'test accuracy'
set xrange [-0.6:5.6]
set xtics rotate by 0 nomirror
unset key
plot csv using 0:'test_accuracy':'test_accuracy_ci_lo':'test_accuracy_ci_hi':xtic(stringcolumn('replacement')) with yerrorbars lt 1 ps 1.2
load 'plots/axes.gp'
# Mass and spread by block.
set lmargin at screen 0.60
set rmargin at screen 0.97
set xlabel 'block'
set ylabel 'share of the softmax; spread of scores'
set xtics 1
set offsets 0.4, 0.4, 0, 0
set xrange [*:*]
set yrange [0:3]
set key at screen 0.62, 0.92 left top
plot layers using 'layer':'mass':'mass_ci_lo':'mass_ci_hi' with yerrorbars lt 2 ps 1.1 title 'share of the softmax', \
     layers using 'layer':'spread':'spread_ci_lo':'spread_ci_hi' with yerrorbars lt 3 ps 1.1 title 'standard deviation of the scores', \
     1.18 with lines lt 7 dt 2 title '1.18'
load 'plots/axes.gp'
unset multiplot
