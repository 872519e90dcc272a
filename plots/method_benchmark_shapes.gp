# Caption: Methods of fine-tuning on images drawn from a seed (shapes): what the smoke profile trains without a network; too small to decide anything.
fig_width = 1240
fig_height = 520
load 'plots/style.gp'
arms = 'full lora ptuning tied-prefix ntk prefix-plus head'
names = "'full fine-tuning' 'LoRA' 'P-Tuning V2' 'tied prefix' 'NTK-Attention' 'Prefix-Tuning+' 'head only'"
load 'plots/method_benchmark.gp'
