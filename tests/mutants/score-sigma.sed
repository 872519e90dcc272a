# .6 instead of the root of 2 in the bound on scores
# file: experiments/kernel/score_concentration.c
# runs: score_concentration
# tests: 
s/return fmax(sqrt(2.0) \* cfg->sigma/return fmax(0.6 * cfg->sigma/
