# Caption: The same errors in three units, for values of the prefix's own tokens (top) and independent values (bottom). With independent
#   values even a constant feature shows an error that falls like $m^{-1/2}$ (dashed), because the prefix mean itself vanishes; over the
#   output that is left, nothing has been gained. Bars: 99.9 % intervals over trials.
fig_width = 1180
fig_height = 720
load 'plots/style.gp'
set logscale xy
set logscale x 2
set format x '2^{%L}'
set xtics 1, 16
maps = 'none taylor:0 elu1 taylor:1 split:2'
names = "'no prefix' constant elu1 taylor:1 split:2"
units = "absolute 'over effect' 'over output'"
pick(name, v, u, map) = stringcolumn('values') eq v && stringcolumn('unit') eq u && stringcolumn('feature') eq map ? column(name) : NaN
set yrange [0.005:60]
set multiplot
do for [row=1:2] {
    v = word('tied independent', row)
    do for [col=1:3] {
        u = word(units, col)
        set lmargin at screen 0.075 + (col-1)*0.27
        set rmargin at screen 0.295 + (col-1)*0.27
        set tmargin at screen (row == 1 ? 0.94 : 0.47)
        set bmargin at screen (row == 1 ? 0.57 : 0.10)
        set title (row == 1 ? 'error '.u : '')
        set ylabel (col == 1 ? v.' values' : '')
        set xlabel (row == 2 ? 'prefix length m' : '')
        set key at screen 0.86, 0.9 left top
        if (row == 2 || col < 3) { unset key }
        plot for [i=1:5] csv using 'prefix_len':(pick('error_mean', v, u, word(maps, i))):'error_ci_lo':'error_ci_hi' with yerrorlines lt i title word(names, i), \
             20*x**-0.5 with lines ls 20 title 'm^{-1/2}'
        load 'plots/axes.gp'
    }
}
unset multiplot
