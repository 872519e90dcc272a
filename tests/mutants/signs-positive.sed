# random signs that are all positive
# file: theory/prefix_tokens.c
# runs: training_laziness prefix_scaling ntk_convergence real_layer_training
# tests: test_ntk_gram
s/? random_sign(tokens->seed, RANDOM_SIGNS, tokens->trial, r)/? 1.0/
