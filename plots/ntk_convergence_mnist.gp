# Caption: Relative error $\|K_m - K^*\|_F / \|K^*\|_F$ of the empirical kernel against the prefix length $m$, for the full
#   kernel $K$ and the key kernel $H$ and the sign laws. Marks: root mean square over trials; bars: 95 % interval of the mean;
#   dashed: the prediction $C m^{-1/2}$, computed from the limit alone. MNIST images, PCA to the unit sphere of $\mathbb{R}^{10}$.
fig_width = 1040
load 'plots/style.gp'
set logscale y
set logscale x 2
set format x '2^{%L}'
set format y '10^{%T}'
set xtics 1, 4
set xlabel 'prefix length m'
set tmargin at screen 0.90
set bmargin at screen 0.14
set key at screen 0.785, 0.88 left top
laws = 'random positive'
pick(name, kernel, law) = stringcolumn('kernel') eq kernel && stringcolumn('signs') eq law ? column(name) : NaN
set multiplot
do for [panel=1:2] {
    kernel = word('full key', panel)
    set lmargin at screen (panel == 1 ? 0.105 : 0.47)
    set rmargin at screen (panel == 1 ? 0.40 : 0.765)
    set title (panel == 1 ? 'full kernel K' : 'key kernel H') enhanced
    set ylabel (panel == 1 ? 'relative error of the kernel' : '')
    if (panel == 1) { unset key } else { set key }
    plot for [i=1:2] csv using 'prefix_len':(pick('rel_err_pred', kernel, word(laws, i))) with lines ls (10+i), \
         for [i=1:2] csv using 'prefix_len':(pick('rel_err_mean', kernel, word(laws, i))):'rel_err_ci_lo':'rel_err_ci_hi' with yerrorbars lt i ps 0, \
         for [i=1:2] csv using 'prefix_len':(pick('rel_err_rms', kernel, word(laws, i))) with points lt i title word(laws, i).' signs', \
         NaN with lines ls 20 title 'predicted'
    load 'plots/axes.gp'
}
unset multiplot
