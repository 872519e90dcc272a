# Caption: Share of the fused-multiply-add peak that exact attention reaches, 1 to 512 queries over one long prefix ($d = 64$, one
#   head, one thread), against operations per byte that must travel once. Dashed: what the machine allows, the smaller of 1 and
#   intensity times read bandwidth over peak. A few queries (decoding) are as fast as memory is read, many as the processor adds.
load 'plots/style.gp'
set datafile missing NaN
set logscale x 2
set logscale y 2
set format x '%g'
set format y '%g'
set xlabel 'operations per byte'
set ylabel 'share of the peak'
set key outside right top
roof = dir.'/attention_roofline_roofline.csv'
share(name) = column(name) / column('peak_gflop_per_s')
pick(pass) = stringcolumn('pass') eq pass ? share('gflop_per_s') : NaN
plot roof using 'intensity':(share('roof_gflop_per_s')) smooth unique with lines ls 20 title 'roof', \
     for [i=1:2] roof using 'intensity':(pick(word('forward backward', i))) with points lt i ps 1.4 title word('forward backward', i)
load 'plots/axes.gp'
