# Caption: Next-token KL against the whole prompt over the bytes kept of it, SmolLM2-135M, prompts of 512 tokens: the most attended tokens of each head (chosen by queries of
#   other documents) serve best; a fitted summary (Z, k) of the same bytes as 33 tokens is between them and nothing; its plug-in is worse than no prompt at all.
fig_width = 980
load 'plots/style.gp'
set logscale xy
set format x '%g %%'
set xlabel 'bytes, share of the whole cache'
set ylabel 'KL to the whole prompt, nats per token'
share(m) = stringcolumn('method') eq m && strlen(stringcolumn('feature')) == 0 && column('bytes_share') > 0 ? 100 * column('bytes_share') : NaN
summary(f, g) = stringcolumn('feature') eq f && stringcolumn('fit') eq g && column('tokens') == 0 ? 100 * column('bytes_share') : NaN
mixed(m) = stringcolumn('method') eq m && column('tokens') > 0 ? 100 * column('bytes_share') : NaN
none(row) = stringcolumn('method') eq 'none' ? column('kl_mean') : NaN
stats csv using (none(0)) name 'NONE' nooutput
array tokens[4] = ['most attended', 'first 4 and last', 'last', 'clusters']
plot for [i=1:4] csv using (share(tokens[i])):'kl_mean':'kl_ci_lo':'kl_ci_hi' with yerrorlines lt i title tokens[i].(i < 4 ? ' tokens' : ' (means)'), \
     csv using (mixed('most attended and fitted')):'kl_mean':'kl_ci_lo':'kl_ci_hi' with yerrorlines lt 5 title 'most attended, rest fitted', \
     csv using (mixed('choice')):'kl_mean':'kl_ci_lo':'kl_ci_hi' with yerrorlines lt 6 title 'choice per head', \
     csv using (summary('elu1', 'least squares')):'kl_mean':'kl_ci_lo':'kl_ci_hi' with yerrorbars lt 7 ps 1.2 title 'summary, fitted', \
     csv using (summary('elu1', 'plug-in')):'kl_mean':'kl_ci_lo':'kl_ci_hi' with yerrorbars lt 8 ps 1.2 title 'summary, plug-in', \
     NONE_mean with lines ls 21 title 'no prompt'
load 'plots/axes.gp'
