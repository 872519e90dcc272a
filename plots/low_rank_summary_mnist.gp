# Caption: Error over the effect of the prefix when $Z$ is cut to low rank (marks; 99.9 % intervals), and the share of its squared singular values
#   that is lost (dashed), patches of MNIST images, $d = 64$, @max(num_trials) trials.
fig_width = 900
load 'plots/style.gp'
set datafile missing NaN
set logscale x 2
set logscale y
set xlabel 'rank of Z'
set ylabel 'error over prefix effect; energy lost'
set yrange [1e-4:10]
set xtics (1, 2, 4, 8, 16, 32, 64)
pick(name, s) = stringcolumn('summary') eq s ? column(name) : NaN
s1 = 'taylor:1 plug-in'; s2 = 'elu1 least squares'
plot csv using 'rank':(pick('err_rel_mean', s1)):'err_rel_ci_lo':'err_rel_ci_hi' with yerrorlines lt 1 title s1, \
     csv using 'rank':(pick('err_rel_mean', s2)):'err_rel_ci_lo':'err_rel_ci_hi' with yerrorlines lt 2 title s2, \
     csv using 'rank':(1-pick('energy_mean', s1) > 0 ? 1-pick('energy_mean', s1) : NaN) with lines ls 11 title 'energy lost, '.s1, \
     csv using 'rank':(1-pick('energy_mean', s2) > 0 ? 1-pick('energy_mean', s2) : NaN) with lines ls 12 title 'energy lost, '.s2
load 'plots/axes.gp'
