# Caption: Rank of the empirical kernels $K_m$ and $H_m$ over $nd$ against the prefix length over that at which the formulas of F4
#   reach full rank, every $n$, $d$ and sign law. All marks lie on the corner: rank grows by $d$ (by $\min(n,d)$ for $H$) with each token
#   until it is full; one mark hides many.
load 'plots/style.gp'
set ylabel 'rank / nd'
set xrange [0:4]
set yrange [0:1.1]
set key inside right bottom
smaller(a, b) = a < b ? a : b
larger(a, b) = a > b ? a : b
tokens(x) = stringcolumn('kernel') eq 'full' ? column('num_samples') : larger(column('num_samples'), column('dim'))
prefix(x) = stringcolumn('signs') eq 'mirrored' ? column('prefix_len') / 2 : stringcolumn('kernel') eq 'full' ? column('prefix_len') : column('prefix_len') - 1
share(k, s) = stringcolumn('kernel') eq k && stringcolumn('signs') eq s ? column('rank') / (column('num_samples') * column('dim')) : NaN
set xlabel 'tokens that count (m; m - 1 for H; m/2 mirrored) over those of full rank'
plot smaller(x, 1) with lines ls 20 title 'formulas', \
     for [i=1:3] csv using (prefix(0) / tokens(0)):(share('full', word('random positive mirrored', i))) with points lt i title 'K, '.word('random positive mirrored', i).' signs', \
     for [i=1:3] csv using (prefix(0) / tokens(0)):(share('key', word('random positive mirrored', i))) with points lt (i+3) title 'H, '.word('random positive mirrored', i).' signs'
load 'plots/axes.gp'
