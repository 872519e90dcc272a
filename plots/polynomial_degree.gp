# Caption: Degree that a polynomial needs for a relative error $\epsilon$ of $e^s$ on $[-b, b]$: Taylor, Chebyshev and best relative error, beside Taylor's
#   guarantee and the Aggarwal-Alman order (without constant).
fig_width = 1080
load 'plots/style.gp'
set datafile missing NaN
cols = 'taylor cheb minimax taylor_guarantee aggarwal_alman'
names = "Taylor Chebyshev minimax 'Taylor, guarantee' 'Aggarwal-Alman'"
pick(name, b) = abs(column('bound') - b) < 1e-9 ? column(name) : NaN
set tmargin at screen 0.91
set bmargin at screen 0.13
set xlabel 'log_{10} ε'
set xrange [-8.3:-0.7]
set multiplot
do for [panel=1:3] {
    b = real(word('0.5 2 8', panel))
    set lmargin at screen 0.07 + (panel-1)*0.25
    set rmargin at screen 0.27 + (panel-1)*0.25
    set title sprintf('b = %g', b)
    set ylabel (panel == 1 ? 'degree' : '')
    set yrange [0:*]
    set key at screen 0.785, 0.88 left top
    if (panel < 3) { unset key }
    plot for [i=1:3] csv using 'log10_eps':(pick(word(cols, i), b)) with linespoints lt i title word(names, i), \
         csv using 'log10_eps':(pick('taylor_guarantee', b)) with lines ls 11 title word(names, 4), \
         csv using 'log10_eps':(pick('aggarwal_alman', b)) with lines ls 17 title word(names, 5)
    load 'plots/axes.gp'
}
unset multiplot
