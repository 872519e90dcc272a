# Caption: Largest difference over @max(num_trials) trials between the outputs of NTK-Attention by sums over scores, which the error claims are measured
#   with, and by the public calls, over the prefix effect; dashed: the rules of M1 for the two calls.
fig_width = 860
load 'plots/style.gp'
set logscale y
set format y '10^{%L}'
set xrange [0.4:6.6]
set yrange [1e-9:1e-2]
set bmargin 4
set ylabel 'difference over prefix effect'
set xtics ('elu1' 1, 'taylor:1' 2, 'taylor:2' 3, 'favor:64' 4, "elu1\nfitted" 5, "taylor:1\nfitted" 6)
set arrow from 0.4, 1e-5 to 6.6, 1e-5 nohead ls 21
set arrow from 0.4, 1e-4 to 6.6, 1e-4 nohead ls 21
place(map, summary) = (summary eq 'plug-in' ? 0 : 4) + (map eq 'elu1' ? 1 : map eq 'taylor:1' ? 2 : map eq 'taylor:2' ? 3 : 4)
at(name) = place(stringcolumn('map'), stringcolumn('summary'))
by(name) = stringcolumn('route') eq name ? column('difference_max') : NaN
plot csv using (at('map')):(by('attn_ntk_f64')) with points lt 1 ps 1.5 title 'attn\_ntk\_f64', \
     csv using (at('map')):(by('attn_ntk_forward')) with points lt 2 ps 1.5 title 'attn\_ntk\_forward'
load 'plots/axes.gp'
