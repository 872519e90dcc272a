# Caption: Methods of fine-tuning, vit-fashion on MNIST, 1,000 training images: loss against steps (lines: training, dotted: validation), training loss
#   against seconds (one thread a training), and test accuracy against trainable parameters. Means over draws of the training set; bars: 95 % intervals.
#   Below the names: accuracy of P-Tuning V2 against its length, and NTK-Attention, whose size does not depend on a length (band).
fig_width = 1240
fig_height = 620
load 'plots/style.gp'
arms = 'full lora ptuning tied-prefix ntk ntk+z_rank=15 ntk+z_rank=15+whiten=1 prefix-plus prefix-plus+feature=taylor:1+z_rank=15+whiten=1 head'
names = "'full fine-tuning' 'LoRA' 'P-Tuning V2' 'tied prefix' 'NTK-Attention' 'NTK, Z of rank 15' 'NTK, rank 15, white' 'Prefix-Tuning+' 'white affine (F71)' 'head only'"
lengths = 1
load 'plots/method_benchmark.gp'
