# Caption: Error over the effect of the prefix against the number of features $r$ ($d = 8$, $L = 128$, one long Gaussian prefix, score spread 1):
#   plug-in summaries, the best factorisation of rank $r$ (oracle: of the scores' exponentials, on these queries), and least-squares
#   summaries, judged on fresh queries. Means over trials.
fig_width = 960
load 'plots/style.gp'
set datafile missing NaN
set logscale xy
set xlabel 'features r'
set ylabel 'error over prefix effect'
set xrange [0.8:2500]
fam = 'taylor minimax favor-orth oracle'
pick(name, map, train) = strcol('feature')[1:strlen(map)] eq map && strcol('train') eq train ? column(name) : NaN
plot for [i=1:4] csv using 'feat_dim':(pick('err_rel', word(fam, i), 'none')) with linespoints lt i title word(fam, i).', plug-in', \
     for [i=1:3] csv using 'feat_dim':(pick('err_rel', word(fam, i), 'lstsq')) with linespoints ls (10+i) pt (4+2*i) ps 0.7 title word(fam, i).', least squares', \
     csv using 'feat_dim':(pick('err_rel', 'elu1', 'none')) with points lt 5 ps 1.4 title 'elu1, plug-in', \
     csv using 'feat_dim':(pick('err_rel', 'elu1', 'lstsq')) with points lt 6 ps 1.4 title 'elu1, least squares', \
     csv using 'feat_dim':(pick('err_rel', 'cumulant', 'none')) with points lt 7 ps 1.4 title 'cumulant', \
     1 with lines ls 21 title 'no prefix at all'
load 'plots/axes.gp'
