# Caption: Roofline of exact and NTK-Attention, 1 to 512 queries over 4096 prefix tokens, one thread: operations per second against operations per byte that must travel once. Line:
#   what the machine allows, the smaller of the measured fused-multiply-add peak and intensity times read bandwidth (one thread).
load 'plots/style.gp'
set datafile missing NaN
set logscale x 2
set logscale y 2
set format x '%g'
set format y '%g'
set xlabel 'operations per byte'
set ylabel 'GFLOP/s'
set key outside right top
roof = dir.'/attention_cost_shapes_roofline.csv'
pick(name, method, pass, d) = stringcolumn('method') eq method && stringcolumn('pass') eq pass && column('head_dim') == d && column('threads') == 1 ? column(name) : NaN
one(name) = column('threads') == 1 ? column(name) : NaN
plot roof using (one('intensity')):(one('roof_gflop_per_s')) smooth unique with lines ls 20 title 'roof, one thread', \
     for [i=1:2] for [j=1:2] roof using 'intensity':(pick('gflop_per_s', word('exact ntk', i), word('forward backward', j), 64)) with points lt 2*(i-1)+j ps 1.2 title word('exact NTK-Attention', i).' '.word('forward backward', j).', d = 64', \
     for [i=1:2] for [j=1:2] roof using 'intensity':(pick('gflop_per_s', word('exact ntk', i), word('forward backward', j), 32)) with points lt 4+2*(i-1)+j ps 1.2 title word('exact NTK-Attention', i).' '.word('forward backward', j).', d = 32'
load 'plots/axes.gp'
