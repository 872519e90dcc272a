# a summary without its denominator
# file: experiments/approximation/summary_training.c
# runs: summary_training
# tests: 
s/            T \/= D;/            T \/= 1.0 + 0.0 * D;/
