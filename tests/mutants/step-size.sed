# 2.5 instead of 1 in the automatic step size
# file: experiments/training/training_dynamics.c
# runs: training_dynamics
# tests: test_training_dynamics
s/: 1.0 \/ ((double)m \* result\[LAMBDA_MAX\])/: 2.5 \/ ((double)m * result[LAMBDA_MAX])/
