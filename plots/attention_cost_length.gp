# Caption: Time against the input length $L$ (forward and backward): NTK-Attention as defined compares all pairs of input
#   tokens, its linear form replaces $\exp$ there too. Dashed: slopes 1 and 2 through the longest point of each.
load 'plots/style.gp'
set datafile missing NaN
set logscale x 2
set logscale y
set format x '2^{%L}'
set format y '10^{%T}'
set xlabel 'input length L'
set ylabel 'seconds'
pick(name, method, pass) = stringcolumn('method') eq method && stringcolumn('pass') eq pass ? column(name) : NaN
stats csv using (pick('seq_len', 'ntk', 'forward')) name 'L' nooutput
stats csv using (pick('time_s', 'ntk', 'forward')) name 'N' nooutput
stats csv using (pick('time_s', 'linear', 'forward')) name 'F' nooutput
plot for [i=1:3] csv using 'seq_len':(pick('time_s', word('exact ntk linear', i), 'forward')) with linespoints lt i title word('exact NTK-Attention linear', i).', forward', \
     for [i=1:3] csv using 'seq_len':(pick('time_s', word('exact ntk linear', i), 'backward')) with linespoints lt 3+i title word('exact NTK-Attention linear', i).', backward', \
     N_max * (x / L_max)**2 with lines ls 20 title 'slope 2', F_max * (x / L_max) with lines ls 21 title 'slope 1'
load 'plots/axes.gp'
