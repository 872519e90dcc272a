# Caption: Left: distance of the exact mean of a Gaussian prefix to its linear limit against the prefix length $m$, per score spread $s$; dashed: the
#   closed form $C m^{-1/2}$, which the weights of a large spread reach only at astronomical $m$. Right: what plug-in Taylor maps make of
#   the limit, per degree: odd degrees give it exactly, even degrees shrink it by the closed form (dashed). Bars: 99.9 % intervals.
fig_width = 1080
load 'plots/style.gp'
set datafile missing NaN
set tmargin at screen 0.91
set bmargin at screen 0.13
spreads = '0.25 0.5 1 1.5 2 3'
pick(name, s) = abs(column('score_std') - s) < 1e-9 ? column(name) : NaN
deg(name, g) = column('degree') == g ? column(name) : NaN
set multiplot
set lmargin at screen 0.085
set rmargin at screen 0.42
set logscale xy
set logscale x 2
set format x '2^{%L}'
set xtics 1, 8
set yrange [0.01:10]
set xlabel 'prefix length m'
set ylabel 'distance to the linear limit'
set key at screen 0.44, 0.9 left top
plot for [i=1:6] csv using 'prefix_len':(pick('distance_pred', real(word(spreads, i)))) with lines ls (10+i), \
     for [i=1:6] csv using 'prefix_len':(pick('distance_rms', real(word(spreads, i)))):'distance_ci_lo':'distance_ci_hi' with yerrorlines lt i title 's = '.word(spreads, i)
load 'plots/axes.gp'
unset logscale
set logscale x
set format x '%g'
set xtics autofreq
set xtics (0.25, 0.5, 1, 2, 3)
set yrange [0:1.15]
set xrange [0.22:3.3]
set lmargin at screen 0.63
set rmargin at screen 0.875
set xlabel 'score spread s'
set ylabel 'output over limit'
set key at screen 0.88, 0.9 left top
parity = dir.'/gaussian_prefix_limit_parity.csv'
plot for [g=1:4] parity using 'score_std':(deg('shrink_pred', g)) with lines ls (10+g), \
     for [g=1:4] parity using 'score_std':(deg('shrink_mean', g)):'shrink_ci_lo':'shrink_ci_hi' with yerrorbars lt g title sprintf('taylor:%d', g)
load 'plots/axes.gp'
unset multiplot
