# Caption: Left: the smallest per-step decrease of the loss in units of the theorem's, $(1-\mathcal{L}(t+1)/\mathcal{L}(t))/(m\eta\lambda/2)$, with
#   $\lambda$ the smallest eigenvalue of $H$, $H^*$, $K$, $K^*$; one mark per draw. Below 1 (dotted) the theorem's step fails: on a square of inputs with the
#   residual along the bottom eigenvector of $K$ it fails with either $H$, and holds with either $K$. Right: the loss on that square,
#   with the bounds $(1 - m\eta\lambda/2)^t$ for $\lambda_{\min}(H^*)$ and $\lambda_{\min}(K^*)$.
fig_width = 1040
load 'plots/style.gp'
set multiplot layout 1,2
set lmargin at screen 0.085
set rmargin at screen 0.42
set tmargin at screen 0.90
set bmargin at screen 0.14
set logscale y
set yrange [0.1:10]
set xrange [0.4:4.6]
set xtics ('H' 1, 'H*' 2, 'K' 3, 'K*' 4)
set ylabel 'smallest decrease / theorem'
set xlabel 'kernel whose λ_{min} is used'
set key at screen 0.10, 0.965 left top horizontal
at(l) = l eq 'H' ? 1 : l eq 'Hstar' ? 2 : l eq 'K' ? 3 : 4
pick(i, name) = stringcolumn('instance') eq i ? column(name) : NaN
plot 1 with lines ls 21, \
     csv using (at(stringcolumn('lambda')) - 0.12):(pick('generic', 'decrease_min')) with points lt 1 title 'random data', \
     csv using (at(stringcolumn('lambda')) + 0.12):(pick('square', 'decrease_min')) with points lt 2 title 'square'
load 'plots/axes.gp'
set lmargin at screen 0.53
set rmargin at screen 0.78
unset logscale y
set autoscale x
set xtics auto
set yrange [0.65:1.01]
set xrange [0:400]
set xtics 100
set ylabel 'loss / initial loss'
set xlabel 'step t'
set key at screen 0.795, 0.88 left top vertical
plot dir.'/training_contraction_curve.csv' using 'step':'loss_ratio' with lines lt 2 title 'loss on the square', \
     '' using 'step':'linearised' with lines ls 20 title 'linearised', \
     '' using 'step':'bound_key' with lines ls 11 title 'bound with H*', \
     '' using 'step':'bound_full' with lines ls 13 title 'bound with K*'
load 'plots/axes.gp'
unset multiplot
