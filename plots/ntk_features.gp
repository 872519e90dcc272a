# Caption: Part of the function learnt by an infinitely long trained prefix, $K^*(x, X) K^*(X, X)^{-1} Y$, that lies outside the span of a summary's features,
#   on fresh inputs, against the number of features, per standard deviation $\sigma$ = @values(sigma) of the prefix tokens. Bars: 99.9 % intervals over @max(num_trials) trials.
fig_width = 900
load 'plots/style.gp'
set datafile missing NaN
set logscale xy
set xlabel 'features r'
set ylabel 'part outside the features'
set yrange [1e-3:2]
set xrange [4:400]
sig = '0.5 1 2'
pick(name, s, map) = abs(column('sigma') - s) < 1e-9 && stringcolumn('feature')[1:strlen(map)] eq map ? column(name) : NaN
plot for [i=1:3] csv using 'feat_dim':(pick('residual_mean', real(word(sig, i)), 'taylor')):'residual_ci_lo':'residual_ci_hi' with yerrorlines lt i title 'σ = '.word(sig, i).', taylor', \
     for [i=1:3] csv using 'feat_dim':(pick('residual_mean', real(word(sig, i)), 'favor')):'residual_ci_lo':'residual_ci_hi' with yerrorbars lt i pt (4+i) ps 1.1 title 'σ = '.word(sig, i).', favor-orth', \
     for [i=1:3] csv using 'feat_dim':(pick('residual_mean', real(word(sig, i)), 'elu1')):'residual_ci_lo':'residual_ci_hi' with yerrorbars lt i pt 2 ps 1.4 title 'σ = '.word(sig, i).', elu1'
load 'plots/axes.gp'
