# a sign in the key path of the descent
# file: theory/prefix_descent.c
# runs: training_laziness training_dynamics real_layer_training prefix_scaling
# tests: test_prefix_descent
s/c += residual \* mu;/c -= residual * mu;/
