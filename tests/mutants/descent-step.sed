# three times the step size in the descent
# file: theory/prefix_descent.c
# runs: prefix_threshold training_contraction training_laziness
# tests: test_prefix_descent
s/descent->lse, step_size,/descent->lse, 3.0 * step_size,/
