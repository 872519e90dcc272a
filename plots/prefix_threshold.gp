# Caption: Share of random problems with $n$ = @values(num_samples) samples that a prefix of length $m$ can fit to $10^{-20}$ (Levenberg-Marquardt from several starts,
#   $d = 4$), against $m/n$; bars: 95 % Clopper-Pearson intervals. Random signs fit nothing below $m = n$, some at $m = n$, most from $m = n + 1$ on, though
#   $\lambda_{\min}(H^*)^{-2}$ (in the table) grows by orders of magnitude. Positive signs fit what is the gradient of a convex function ($y = AA^\top x$), and random targets only where every pair happens to be
#   monotone (F28): some at $n = 2$, hardly any from $n = 4$ on, at no length the rest.
fig_width = 1040
load 'plots/style.gp'
set yrange [-0.03:1.03]
set xtics 1
set ylabel 'share of problems fitted'
set xlabel 'prefix length per sample, m / n'
set tmargin at screen 0.90
set bmargin at screen 0.14
ns = '2 4 6 8'
pick(law, targets, n, name) = stringcolumn('signs') eq law && stringcolumn('targets') eq targets && column('dim') == 4 && column('num_samples') == n ? column(name) : NaN
set multiplot
do for [panel=1:3] {
    law = word('random positive positive', panel)
    targets = word('sphere sphere convex', panel)
    set lmargin at screen (panel == 1 ? 0.09 : panel == 2 ? 0.365 : 0.645)
    set rmargin at screen (panel == 1 ? 0.30 : panel == 2 ? 0.585 : 0.87)
    set title (panel == 1 ? 'random signs' : panel == 2 ? 'positive signs' : 'positive, convex targets')
    if (panel > 1) { unset ylabel }
    set xrange [0.3:(panel == 1 ? 3.2 : 4.2)]
    if (panel < 3) { unset key } else { set key at screen 0.885, 0.88 left top vertical }
    plot for [i=1:4] csv using (column('prefix_len') / (word(ns, i) + 0.0)):(pick(law, targets, word(ns, i) + 0, 'success_rate')):'success_ci_lo':'success_ci_hi' with yerrorlines lt i title 'n = '.word(ns, i)
    load 'plots/axes.gp'
}
unset multiplot
