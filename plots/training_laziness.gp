# Caption: How far tokens move and the kernel drifts during training over a fixed kernel time, against the prefix length $m$, for the three
#   sign laws; bars: 95 % intervals. Dashed: the predicted powers of $m$ through the first mark ($-1/2$ and $-1$ for the movement of random and
#   mirrored signs, twice that for the drift, 0 for positive signs). A real prefix (positive) is not lazy.
fig_width = 1040
load 'plots/style.gp'
set logscale y
set logscale x 2
set format x '2^{%L}'
set format y '10^{%T}'
set xtics 16, 4
set xlabel 'prefix length m'
set tmargin at screen 0.90
set bmargin at screen 0.14
laws = 'random positive mirrored'
powers = '-0.5 0 -1'
pick(law, name) = stringcolumn('signs') eq law ? column(name) : NaN
array m0[3]; array y0[3]
through(i, name, twice) = stringcolumn('signs') ne word(laws, i) ? NaN : (seen != i ? (seen = i, m0[i] = column('prefix_len'), y0[i] = column(name)) : 0, y0[i] * (column('prefix_len') / m0[i])**((word(powers, i) + 0.0) * twice))
set multiplot
do for [panel=1:2] {
    name = word('movement_rms drift', panel)
    set lmargin at screen (panel == 1 ? 0.085 : 0.49)
    set rmargin at screen (panel == 1 ? 0.38 : 0.785)
    set title (panel == 1 ? 'movement of the tokens (RMS)' : 'drift of the kernel')
    set ylabel (panel == 1 ? '‖w_r(t) − w_r(0)‖' : '‖K(t) − K(0)‖ / ‖K(0)‖')
    if (panel == 1) { unset key } else { set key at screen 0.80, 0.88 left top vertical }
    seen = 0
    plot for [i=1:3] csv using 'prefix_len':(through(i, name.'_mean', panel)) with lines ls (10 + i), \
         for [i=1:3] csv using 'prefix_len':(pick(word(laws, i), name.'_mean')):name.'_ci_lo':name.'_ci_hi' with yerrorbars lt i title word(laws, i).' signs', \
         NaN with lines ls 20 title 'predicted power'
    load 'plots/axes.gp'
}
unset multiplot
