# Caption: Left: largest score $\max_{r,i}|\langle w_r, x_i\rangle|$ against the prefix length (mean, 95 % interval), the bound $B$ without $m$ and
#   with $\log m$ under the root. Right: rate of prefixes that break either bound; the level allowed is $\delta = 0.1$. Also left:
#   $\max|\ln(m S_{ir})|$, for which T10 allows $2B$.
fig_width = 1040
load 'plots/style.gp'
set tmargin at screen 0.92
set bmargin at screen 0.14
set logscale x 2
set format x '2^{%L}'
set xtics 1, 16
set xlabel 'prefix length m'
set multiplot
set lmargin at screen 0.085
set rmargin at screen 0.36
set key at screen 0.78, 0.88 left top
set ylabel 'largest score'
set yrange [0:*]
plot csv using 'prefix_len':'score_max_mean':'score_max_ci_lo':'score_max_ci_hi' with yerrorlines lt 1 title 'largest score', \
     csv using 'prefix_len':'log_weight_mean':'log_weight_ci_lo':'log_weight_ci_hi' with yerrorlines lt 3 title 'max |ln(m S)|', \
     csv using 'prefix_len':'bound' with lines ls 12 title 'B', \
     csv using 'prefix_len':'bound_log_m' with lines ls 14 title 'B with log m'
load 'plots/axes.gp'
set lmargin at screen 0.46
set rmargin at screen 0.75
set key at screen 0.78, 0.50 left top
set ylabel 'rate of failure'
set yrange [0:1.05]
plot csv using 'prefix_len':'fail_rate' with linespoints lt 2 title 'score above B', \
     csv using 'prefix_len':'fail_rate_log_m' with linespoints lt 4 title 'above B with log m', \
     csv using 'prefix_len':'weight_fail_rate' with linespoints lt 6 title 'S outside e^{±2B}/m', \
     0.1 with lines ls 21 title 'δ'
load 'plots/axes.gp'
unset multiplot
