# Caption: Time of attention with a prefix against the prefix length $m$ ($L$ input tokens fixed): exact attention grows as
#   $m + L$, NTK-Attention, whose summary $(Z, k)$ was folded before, does not see $m$. Right: peak resident memory of a process
#   that makes the tensors and runs both passes. Dashed: slope 1.
fig_width = 1160
load 'plots/style.gp'
set datafile missing NaN
set logscale x 2
set logscale y
set format x '2^{%L}'
set xtics 1, 16
set xlabel 'prefix length m'
set tmargin at screen 0.90
set bmargin at screen 0.14
set key at screen 0.735, 0.88 left top
pick(name, method, pass) = stringcolumn('method') eq method && stringcolumn('pass') eq pass ? column(name) : NaN
only(name, method) = stringcolumn('method') eq method ? column(name) : NaN
memory = dir.'/attention_cost_memory.csv'
stats csv using (pick('prefix_len', 'exact', 'forward')) name 'M' nooutput
stats csv using (pick('time_s', 'exact', 'forward')) name 'T' nooutput
stats memory using (only('peak_bytes', 'exact')) name 'B' nooutput
set multiplot
set lmargin at screen 0.09
set rmargin at screen 0.36
set title 'time'
set format y '10^{%T}'
set ylabel 'seconds'
unset key
plot for [i=1:2] csv using 'prefix_len':(pick('time_s', word('exact ntk', i), 'forward')) with linespoints lt i, \
     for [i=1:2] csv using 'prefix_len':(pick('time_s', word('exact ntk', i), 'backward')) with linespoints lt 2+i, \
     T_max * x / M_max with lines ls 20
load 'plots/axes.gp'
set key
set lmargin at screen 0.435
set rmargin at screen 0.715
set title 'peak memory'
set ylabel 'bytes'
plot for [i=1:2] memory using 'prefix_len':(only('peak_bytes', word('exact ntk', i))) with linespoints lt i title word('exact NTK-Attention', i).', forward', \
     NaN with linespoints lt 3 title 'exact, backward', NaN with linespoints lt 4 title 'NTK-Attention, backward', \
     B_max * x / M_max with lines ls 20 title 'slope 1'
load 'plots/axes.gp'
unset multiplot
