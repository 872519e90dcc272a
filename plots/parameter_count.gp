# Caption: Trainable numbers of a summary, of prefixes and of low-rank updates on real model shapes, in units of NTK-Attention with elu1
#   ($d^2 + d$ per key-value head; dotted).
fig_width = 1000
fig_height = 640
load 'plots/style.gp'
set logscale x
set xlabel 'numbers over those of NTK-Attention with elu1'
set lmargin at screen 0.37
set rmargin at screen 0.71
set key at screen 0.72, 0.9 left top
set yrange [18.8:0.2]
set ytics scale 0
set xrange [0.05:100]
set arrow from 1, graph 0 to 1, graph 1 nohead ls 21
models = "'ViT-B/16' 'decoder 6B (28 x 32 x 128)' 'decoder 1B (grouped heads)'"
pick(name, m) = stringcolumn('model') eq m && stringcolumn('method') ne 'break-even' ? column(name) : NaN
plot for [i=1:3] csv using (pick('share_of_summary', word(models, i))):(($0 - (i-1)*21)+1):ytic(stringcolumn('method').': '.stringcolumn('setting')) with points lt i ps 1.1 title word(models, i)
load 'plots/axes.gp'
