# Caption: Share (%) of random data sets on which the theorem's decrease in one step fails with $\lambda = \lambda_{\min}(H^*)$, by $n$, $d$ and $\sigma$. Left: by the
#   limit kernels, $\lambda_{\min}(H^*) > 4\lambda_{\min}(K^*)$. Right: in descents of a long prefix whose residual starts along the bottom eigenvector of its kernel.
#   The theorem allows a failure with probability $\delta$.
fig_width = 1040
load 'plots/style.gp'
unset grid
set tmargin at screen 0.90
set bmargin at screen 0.14
set palette defined (0 '#FFFFFF', 1 vermillion)
set cbrange [0:1]
unset colorbox
set style fill solid 1.0 noborder
set xlabel 'σ'
set multiplot
do for [panel=1:2] {
    name = word('limit_rate descent_rate', panel)
    set lmargin at screen (panel == 1 ? 0.13 : 0.62)
    set rmargin at screen (panel == 1 ? 0.49 : 0.98)
    set title (panel == 1 ? 'by the limit kernels' : 'in a descent')
    plot csv using (log(column('sigma'))):(log(column('num_samples')) + 0.3 * log(column('dim'))):(0.16):(0.09):name:xtic(sprintf('%g', column('sigma'))):ytic(sprintf('n = %d, d = %d', column('num_samples'), column('dim'))) with boxxyerror fc palette, \
         '' using (log(column('sigma'))):(log(column('num_samples')) + 0.3 * log(column('dim'))):(sprintf('%.0f', 100 * column(name))) with labels
    load 'plots/axes.gp'
}
unset multiplot
