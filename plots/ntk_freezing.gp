# Caption: Relative error of the full kernel as $\sigma\|x\|$ grows, in units of $\frac12\sqrt{2\ln m}$, for three prefix lengths.
#   Marks: median over trials with 95 % interval; lines: mean; dashed: the predicted $C m^{-1/2}$. Right of 0.5 the tokens that
#   carry the predicted variance are too rare to be among $m$, right of 1 those that carry the kernel itself are: the sum freezes.
load 'plots/style.gp'
set logscale y
set format y '10^{%T}'
set yrange [1e-3:1e2]
set xlabel 'σ‖x‖ / (½ √(2 ln m))'
set ylabel 'relative error of the kernel'
set arrow from 1, graph 0 to 1, graph 1 nohead ls 21
set arrow from 0.5, graph 0 to 0.5, graph 1 nohead ls 21
lens = system("grep -v '^#' '".csv."' | tail -n +2 | cut -d, -f1 | uniq | tr '\\n' ' '")
plot for [i=1:words(lens)] csv using 'threshold_share':(column('prefix_len') == real(word(lens, i)) ? column('rel_err_median') : NaN):'rel_err_median_ci_lo':'rel_err_median_ci_hi' with yerrorbars lt i title 'm = '.word(lens, i), \
     for [i=1:words(lens)] csv using 'threshold_share':(column('prefix_len') == real(word(lens, i)) ? column('rel_err_mean') : NaN) with lines lt i, \
     for [i=1:words(lens)] csv using 'threshold_share':(column('prefix_len') == real(word(lens, i)) ? column('rel_err_pred') : NaN) with lines ls (10+i), \
     NaN with lines ls 20 title 'predicted'
load 'plots/axes.gp'
