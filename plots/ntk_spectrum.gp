# Caption: Left: smallest eigenvalue of the limits $K^*$ (filled) and $H^*$ (dashed) against the number $n$ of samples on the unit
#   sphere of $\mathbb{R}^d$, $\sigma = 1$: geometric mean over draws, 95 % interval; a point that falls below rounding is left out. Right:
#   $\lambda_{\min}$ of the kernel of a finite prefix over that of the limit ($n = 4$, $d = 3$, $\sigma = 0.7$). At $m$ where $K_m$ is still
#   far from $K^*$ its smallest eigenvalue is already right.
fig_width = 1040
load 'plots/style.gp'
set tmargin at screen 0.90
set bmargin at screen 0.14
set multiplot
set lmargin at screen 0.085
set rmargin at screen 0.40
set key inside left bottom
set logscale y
set yrange [1e-6:10]
set format y '10^{%T}'
set xlabel 'number of samples n'
set ylabel 'λ_{min} of the limit'
set offsets 0.4, 0.4, 0, 0
pick(kernel, d) = stringcolumn('part') eq 'limit' && stringcolumn('kernel') eq kernel && column('dim') == d ? column('value') : NaN
plot for [d=2:4] csv using 'num_samples':(pick('full', d)):'ci_lo':'ci_hi' with yerrorbars lt (d-1), \
     for [d=2:4] csv using 'num_samples':(pick('full', d)) with linespoints lt (d-1) title sprintf('K*, d = %d', d), \
     for [d=2:4] csv using 'num_samples':(pick('key', d)) with lines ls (9+d) title sprintf('H*, d = %d', d)
load 'plots/axes.gp'
set lmargin at screen 0.50
set rmargin at screen 0.83
unset logscale y
set offsets 0, 0, 0, 0
set format y '%g'
set logscale x 2
set format x '2^{%L}'
set xtics 1, 16
set yrange [0:1.3]
set xlabel 'prefix length m'
set ylabel 'λ_{min}(K_m) / λ_{min}(K*)'
set key at screen 0.85, 0.88 left top
fin(name, kernel) = stringcolumn('part') eq 'finite' && stringcolumn('kernel') eq kernel ? column(name) : NaN
plot csv using 'prefix_len':(fin('value', 'full')):'ci_lo':'ci_hi' with yerrorlines lt 1 title 'K', \
     csv using 'prefix_len':(fin('value', 'key')):'ci_lo':'ci_hi' with yerrorlines lt 2 title 'H', \
     1 with lines ls 20 title 'limit'
load 'plots/axes.gp'
unset multiplot
