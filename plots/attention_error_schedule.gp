# Caption: Error over the effect of the prefix against the prefix length $m$ = @values(prefix_len) for the authors' map elu1 trained by Adam at the rate 0.001
#   with $k$ linear from 0, by the authors' schedule of 40,000 steps. Judged on queries not trained on; bars: 99.9 % intervals over trials.
fig_width = 760
load 'plots/style.gp'
set logscale xy
set logscale x 2
set format x '2^{%L}'
set xtics 2, 8
set xrange [8:524288]
set xlabel 'prefix length m'
set ylabel 'error over prefix effect'
set yrange [0.05:20]
intervals = dir.'/attention_error_schedule_intervals.csv'
plot intervals using 'prefix_len':'err_rel_mean':'err_rel_ci_lo':'err_rel_ci_hi' with yerrorlines lt 3 title '40,000 steps', \
     1 with lines ls 21 title 'no prefix at all'
load 'plots/axes.gp'
