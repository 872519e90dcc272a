# Caption: Left: share of random segments whose midpoint has a larger loss than the mean of its ends, segments in $Z$ with $k$ fixed (none: the loss is
#   convex there) and in $k$ with $Z$ fixed. Right: share of @max(num_trials) problems with arbitrary outputs that 6 tokens with trained keys and values fit, against the
#   number of queries; dashed: a summary of 6 features or a prefix with given keys, which fit 6 and no more (F61).
fig_width = 980
load 'plots/style.gp'
set yrange [-0.03:1.05]
set tmargin at screen 0.9
set bmargin at screen 0.16
set multiplot
unset key
set lmargin at screen 0.08
set rmargin at screen 0.40
set title 'segments above their chord'
set xrange [0.5:2.5]
set xtics ('in Z' 1, 'in k' 2)
set ylabel 'share'
seg(name) = stringcolumn('question') eq 'convexity' ? column('share') : NaN
at(name) = stringcolumn('case') eq 'segments in Z above their chord' ? 1 : 2
plot csv using (at('case')):(seg('share')) with points lt 1 ps 1.6
load 'plots/axes.gp'
set lmargin at screen 0.50
set rmargin at screen 0.98
set title 'problems fitted'
set xrange [4:14]
set xtics 4, 2
set xlabel 'queries'
unset ylabel
cap(name) = stringcolumn('question') eq 'capacity' ? column('share') : NaN
set arrow from 6, -0.03 to 6, 1.05 nohead ls 21
plot csv using 'queries':(cap('share')) with linespoints lt 2 ps 1.4
load 'plots/axes.gp'
unset multiplot
