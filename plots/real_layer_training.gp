# Caption: Training the prefix of a real attention layer ($W_Q$, $W_K$, $W_V$ random, 16 input tokens in the softmax) against the prefix length $m$; bars: 95 % intervals. Left:
#   RMS movement of the tokens. Right: the loss after 30 steps per its prediction from the sandwich of $K^*$. Signs of mean 0 keep the kernel picture; positive
#   signs, the only ones a real value matrix gives, do not.
fig_width = 1040
load 'plots/style.gp'
set logscale x 2
set format x '2^{%L}'
set xtics 16, 4
set xlabel 'prefix length m'
set tmargin at screen 0.90
set bmargin at screen 0.14
laws = 'random positive mirrored'
pick(law, name) = stringcolumn('signs') eq law ? column(name) : NaN
set multiplot
set lmargin at screen 0.085
set rmargin at screen 0.37
set title 'movement of the tokens (RMS)'
set ylabel '‖w_r(t) − w_r(0)‖'
set logscale y
set format y '10^{%T}'
unset key
plot for [i=1:3] csv using 'prefix_len':(pick(word(laws, i), 'movement_rms_mean')):'movement_rms_ci_lo':'movement_rms_ci_hi' with yerrorlines lt i
load 'plots/axes.gp'
set lmargin at screen 0.47
set rmargin at screen 0.755
set title 'loss after 30 steps'
set ylabel 'loss / prediction of the limit'
unset logscale y
set format y '%g'
set yrange [0:2.5]
set key at screen 0.77, 0.88 left top vertical
plot 1 with lines ls 21, \
     for [i=1:3] csv using 'prefix_len':(pick(word(laws, i), 'loss_per_predicted_mean')):'loss_per_predicted_ci_lo':'loss_per_predicted_ci_hi' with yerrorlines lt i title word(laws, i).' signs'
load 'plots/axes.gp'
unset multiplot
