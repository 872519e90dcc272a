# After a plot: leaves the frame and the axes of its panel beside an SVG, in OUT.axes, so that the report can say which values
# lie under the pointer. One line "panel XMIN XMAX YMIN YMAX (of the frame, from the lower left) XLO XHI YLO YHI", then the
# logarithmic axes and the labels as gnuplot writes them.
if (out[strlen(out)-3:] eq '.svg') {
    set print out.'.axes' append
    print sprintf('panel %.2f %.2f %.2f %.2f %.15g %.15g %.15g %.15g', GPVAL_TERM_XMIN, GPVAL_TERM_XMAX, GPVAL_TERM_YMIN, \
                  GPVAL_TERM_YMAX, GPVAL_X_MIN, GPVAL_X_MAX, GPVAL_Y_MIN, GPVAL_Y_MAX)
    set print
    save set out.'.set'
    system(sprintf("sed -n '/^set logscale/p; /^set [xy]label/p' '%s.set' >> '%s.axes' && rm -f '%s.set'", out, out, out))
}
