# Caption: Prefixes trained on MNIST (24 images, principal components on the sphere, one-hot targets) against the prefix length $m$; bars: 95 % intervals. Left:
#   loss on test images; right: accuracy on them; means over draws of the images. Dashed: the $K^*$ dynamics from $F(0) = 0$ over the same kernel time.
fig_width = 1040
load 'plots/style.gp'
set logscale x 2
set format x '2^{%L}'
set xtics 1, 4
set xlabel 'prefix length m'
set tmargin at screen 0.90
set bmargin at screen 0.14
laws = 'random positive mirrored'
pick(law, name) = stringcolumn('signs') eq law ? column(name) : NaN
set multiplot
set lmargin at screen 0.085
set rmargin at screen 0.37
set title 'test loss'
set ylabel 'loss per image'
set logscale y
set format y '10^{%T}'
unset key
plot csv using 'prefix_len':(pick('mirrored', 'heldout_limit')) with lines ls 20, \
     for [i=1:3] csv using 'prefix_len':(pick(word(laws, i), 'heldout_mean')):'heldout_ci_lo':'heldout_ci_hi' with yerrorlines lt i
load 'plots/axes.gp'
set lmargin at screen 0.47
set rmargin at screen 0.755
set title 'test accuracy'
set ylabel 'share of images'
unset logscale y
set format y '%g'
set yrange [0:1]
set key at screen 0.77, 0.88 left top vertical
plot csv using 'prefix_len':(pick('mirrored', 'accuracy_limit')) with lines ls 20 title 'K* dynamics', \
     for [i=1:3] csv using 'prefix_len':(pick(word(laws, i), 'accuracy_mean')) with linespoints lt i title word(laws, i).' signs'
load 'plots/axes.gp'
unset multiplot
