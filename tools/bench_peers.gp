# How much longer every peer takes than this library, case by case: the table of bench_peers.py.
# The caller sets `csv`, `out`, `threads`.
fig_width = 1160
fig_height = 1000
load 'plots/style.gp'
set datafile missing NaN
names = '"torch sdpa +" "torch formula +" "torch flash +" "torch.compile" "onnxruntime" "openvino" "jax" "packed bf16"'
pick(name) = stringcolumn('contender') eq name && column('threads') == threads ? column('ratio') : NaN
set logscale x 2
set xlabel 'time over that of this library'
set yrange [] reverse
set offsets 0, 0, 0.5, 0.5
set lmargin 46
set key outside top center horizontal maxrows 2
set arrow from 1, graph 0 to 1, graph 1 nohead ls 20
plot for [i=1:8] csv using (pick(word(names, i))):'row':ytic(stringcolumn('label')) \
     with points lt i ps 1.2 title word(names, i)
