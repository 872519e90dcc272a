# Caption: Methods of fine-tuning, minilm on word order, 1,500 training sentences, thirty draws: loss against steps (lines: training, dotted: validation), training loss
#   against seconds (one thread a training), and test accuracy against trainable parameters. Means over draws of the training set; bars: 95 % intervals.
fig_width = 1240
fig_height = 520
load 'plots/style.gp'
arms = 'full lora ptuning ntk ntk+z_rank=15 ntk+z_rank=15+whiten=1 prefix-plus prefix-plus+feature=taylor:1+z_rank=15+whiten=1 head'
names = "'full fine-tuning' 'LoRA' 'P-Tuning V2' 'NTK-Attention' 'NTK, Z of rank 15' 'NTK, rank 15, white' 'Prefix-Tuning+' 'white affine (F71)' 'head only'"
load 'plots/method_benchmark.gp'
