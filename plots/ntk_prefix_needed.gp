# Caption: Smallest prefix length at which, in nine trials of ten, $\|K_m - K^*\|_2 \le \lambda/4$ (close; open: extrapolated as $m^{-1/2}$ from the
#   longest prefix), and at which $\lambda_{\min}(K_m) \ge \lambda/2$ (definite), against $\|K^*\|_2/\lambda$; each mark is one draw of the inputs.
#   The dashed line has the slope 2 of the paper's $\lambda^{-2}$. A definite kernel needs only some dozens of tokens.
fig_width = 1040
load 'plots/style.gp'
set logscale xy
set format x '10^{%T}'
set format y '10^{%T}'
set xlabel '‖K*‖ / λ'
set tmargin at screen 0.90
set bmargin at screen 0.14
set key at screen 0.775, 0.88 left top
set yrange [5:1e11]
set xrange [1:2e4]
pick(name, kernel) = stringcolumn('kernel') eq kernel ? column(name) : NaN
hollow(kernel) = stringcolumn('kernel') eq kernel && strlen(stringcolumn('prefix_len_close')) == 0 ? column('prefix_len_close_extrapolated') : NaN
set multiplot
do for [panel=1:2] {
    kernel = word('full key', panel)
    set lmargin at screen (panel == 1 ? 0.085 : 0.46)
    set rmargin at screen (panel == 1 ? 0.38 : 0.755)
    set title (panel == 1 ? 'full kernel K' : 'key kernel H')
    set ylabel (panel == 1 ? 'prefix length m needed' : '')
    if (panel == 1) { unset key } else { set key }
    plot (panel == 1 ? 90 : 700) * x**2 with lines ls 20 title 'slope 2', \
         csv using 'inv_lambda':(pick('prefix_len_close', kernel)) with points lt 1 title 'close to the limit', \
         csv using 'inv_lambda':(hollow(kernel)) with points lt 1 pt 6 title 'extrapolated', \
         csv using 'inv_lambda':(pick('prefix_len_definite', kernel)) with points lt 2 title 'definite'
    load 'plots/axes.gp'
}
unset multiplot
