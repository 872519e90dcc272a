# Caption: Trained prefixes on unseen points, against the prefix length $m$; bars: 95 % intervals. Left: relative distance to the infinite-prefix
#   predictor of $K^*$ and (mirrored signs) of $H^*$ at the same kernel time; dotted: slope $-1/2$. Right: held-out loss per point; dashed: that of the $K^*$ predictor from $F(0) = 0$, which
#   mirrored signs approach. The random function of size $m^{1/2}$ that random signs start from stays behind on unseen points: their held-out loss grows like $m$.
fig_width = 1040
load 'plots/style.gp'
set logscale y
set logscale x 2
set format x '2^{%L}'
set format y '10^{%T}'
set xtics 1, 4
set xlabel 'prefix length m'
set tmargin at screen 0.90
set bmargin at screen 0.14
laws = 'random positive mirrored'
pick(law, name) = stringcolumn('signs') eq law ? column(name) : NaN
set multiplot
set lmargin at screen 0.085
set rmargin at screen 0.37
set title 'distance to the predictor'
set ylabel '‖F − f‖ / ‖f‖ on unseen points'
unset key
first = 0
half(law, name) = stringcolumn('signs') ne law ? NaN : (first == 0 ? (first = 1, m0 = column('prefix_len'), y0 = column(name)) : 0, y0 * (column('prefix_len') / m0)**(-0.5))
plot csv using 'prefix_len':(half('mirrored', 'distance_full_mean')) with lines ls 21, \
     for [i=1:3] csv using 'prefix_len':(pick(word(laws, i), 'distance_full_mean')):'distance_full_ci_lo':'distance_full_ci_hi' with yerrorlines lt i, \
     csv using 'prefix_len':(pick('mirrored', 'distance_key_mean')):'distance_key_ci_lo':'distance_key_ci_hi' with yerrorlines lt 4
load 'plots/axes.gp'
set lmargin at screen 0.47
set rmargin at screen 0.755
set title 'held-out loss'
set ylabel 'loss per unseen point'
set key at screen 0.77, 0.88 left top vertical
plot csv using 'prefix_len':(pick('mirrored', 'heldout_limit')) with lines ls 20 title 'K* predictor', \
     for [i=1:3] csv using 'prefix_len':(pick(word(laws, i), 'heldout_mean')):'heldout_ci_lo':'heldout_ci_hi' with yerrorlines lt i title word(laws, i).' signs', \
     NaN with linespoints lt 4 title 'mirrored, to H*', \
     NaN with lines ls 21 title 'slope −1/2'
load 'plots/axes.gp'
unset multiplot
