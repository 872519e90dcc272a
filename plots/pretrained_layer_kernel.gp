# Caption: A random prefix in the attention of MiniLM: distance of its kernel from the infinite-prefix limit (left) and the loss of gradient descent per what the
#   limit predicts (right) against prefix length. One block, head and example a trial; bars: 95 % intervals over trials; dashed: slope -1/2.
fig_width = 980
load 'plots/style.gp'
load 'plots/pretrained_layer.gp'
