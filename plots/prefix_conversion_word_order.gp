# Caption: A trained prefix of 16 tokens and its plug-in summary, minilm on word order: test accuracy with the prefix, without it (its head alone) and with
#   (Z, k) under each map; and by block the prefix's share of the softmax and the spread of its scores. Bars: 95 % intervals over trainings.
fig_width = 1100
fig_height = 460
load 'plots/style.gp'
load 'plots/prefix_conversion.gp'
