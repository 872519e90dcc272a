# Caption: Share of output rows that are not finite or more than 1 % off (solid) and of rows whose gradient is not finite (dashed), by the standard deviation
#   of the scores (64 is that of the authors' study), for the released kernel and for the library, in float32 ($d = 64$, $L = 128$, elu1, mean over @max(num_trials) trials; none: at
#   the lower edge).
fig_width = 860
load 'plots/style.gp'
set logscale xy
set xlabel 'standard deviation of the scores'
set ylabel 'share of rows wrong'
set xrange [0.7:100]
set xtics (1, 8, 64)
set yrange [1e-4:2]
forms = "'released causal' 'released unmasked' 'library causal' 'library unmasked'"
pick(name, f) = stringcolumn('form') eq f ? (column(name) > 1e-4 ? column(name) : 1.1e-4) : NaN
plot for [i=1:4] csv using (column('score_std') * (0.85 + 0.1 * i)):(pick('share_of_rows_wrong', word(forms, i))) with linespoints lt i ps 1 title word(forms, i), \
     for [i=1:4] csv using (column('score_std') * (0.85 + 0.1 * i)):(pick('share_without_gradient', word(forms, i))) with linespoints ls (10+i) title word(forms, i).', gradient'
load 'plots/axes.gp'
