# an output that is not linear in Z
# file: experiments/approximation/summary_training.c
# runs: summary_training
# tests: test_exact_rows
s/            T \/= D;/            T = sin(3.0 * T \/ D);/
