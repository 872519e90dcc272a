# mirrored tokens without their sign
# file: theory/prefix_tokens.c
# runs: training_laziness prefix_scaling
# tests: test_prefix_descent
s/: twin ? -1.0 : 1.0;/: 1.0;/
