# Caption: Training loss over kernel time $m\eta t$, relative to its start, for prefixes of length $m$ trained by full-batch gradient
#   descent with $\eta = 1/(m\lambda_{\max}(K))$ (solid; trial 0) and as the linearised dynamics $(I - \eta m K(0))^t$ predicts
#   (dashed). Descent reaches $10^{-20}$ of its start from the shortest prefix to the longest; the prediction is exact
#   once $m$ is large.
fig_width = 900
load 'plots/style.gp'
curve = dir.'/training_dynamics_curve.csv'
set logscale y
set format y '10^{%T}'
set xlabel 'kernel time mηt'
set ylabel 'loss / initial loss'
set logscale x
set format x '10^{%T}'
set xrange [0.02:1000]
set yrange [1e-21:3]
lens = '16 64 256 1024 4096 16384 65536 100000'
scaled(m, name) = (column('prefix_len') == m && column('trial') == 0) ? (column('step') == 0 ? (first = column('loss'), column(name) / first) : column(name) / first) : NaN
plot for [i=1:words(lens)] curve using 'kernel_time':(scaled(word(lens, i) + 0, 'loss')) with lines lt i title 'm = '.word(lens, i), \
     for [i=1:words(lens)] curve using 'kernel_time':(scaled(word(lens, i) + 0, 'loss_linearised')) with lines ls (10 + i), \
     NaN with lines ls 20 title 'linearised'
load 'plots/axes.gp'
