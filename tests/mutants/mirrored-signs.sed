# mirrored tokens without their sign
# file: theory/prefix_tokens.c
# runs: training_laziness prefix_scaling
# tests: test_prefix_model
s/gsl_vector_set(signs, r + drawn, -a);/gsl_vector_set(signs, r + drawn, a);/
