# Caption: Features $r(m)$ that an error of $1/m$ asks for by the theorem ($d = \lceil\ln m\rceil$, entries at most $(\ln m)^{1/4}$, degree from Taylor's
#   remainder), as an exponent $\ln r / \ln m$: above 1 the summary is larger than the prefix. Scores $\langle q,k\rangle/d$ (the
#   theorem's own scale) or $\langle q,k\rangle/\sqrt d$ (transformers).
fig_width = 900
load 'plots/style.gp'
set datafile missing NaN
set logscale x
set xlabel 'ln m'
set ylabel 'ln r / ln m'
set yrange [0:3]
pick(name, s) = stringcolumn('scale') eq s ? column(name) : NaN
set arrow from 12.48, graph 0 to 12.48, graph 1 nohead ls 21
set label 'm = 2^{18}' at 13.5, 0.12
plot csv using 'ln_m':(pick('ln_r_over_ln_m', 'dim')) with linespoints lt 1 title 'scores <q,k>/d', \
     csv using 'ln_m':(pick('ln_r_over_ln_m', 'sqrt')) with linespoints lt 2 title 'scores <q,k>/√d', \
     1 with lines ls 20 title 'r = m'
load 'plots/axes.gp'
