# Caption: A prefix in a real attention layer. Marks with 95 % intervals: distance of the kernel without input tokens from its limit
#   $(I \otimes W_V)^\top K^*(\tilde X)(I \otimes W_V)$, falling like $m^{-1/2}$, and the change that $L = 32$ input tokens make, falling like $m^{-1}$;
#   dashed: the predicted change. Both over the norm of the limit.
load 'plots/style.gp'
set logscale y
set logscale x 2
set format x '2^{%L}'
set format y '10^{%T}'
set xlabel 'prefix length m'
set ylabel 'relative change of the kernel'
laws = 'random positive'
pick(name, law) = stringcolumn('signs') eq law ? column(name) : NaN
plot for [i=1:2] csv using 'prefix_len':(pick('limit_err_mean', word(laws, i))):'limit_err_ci_lo':'limit_err_ci_hi' with yerrorlines lt i title 'from the limit, '.word(laws, i), \
     for [i=1:2] csv using 'prefix_len':(pick('tokens_change_mean', word(laws, i))):'tokens_change_ci_lo':'tokens_change_ci_hi' with yerrorbars lt (i+2) pt (i == 1 ? 6 : 13) ps (i == 1 ? 1.5 : 0.5) title 'by input tokens, '.word(laws, i), \
     for [i=1:2] csv using 'prefix_len':(pick('tokens_change_pred', word(laws, i))) with lines ls (12+i), \
     NaN with lines ls 20 title 'predicted'
load 'plots/axes.gp'
