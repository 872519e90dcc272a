# 9 instead of the root of 2 in the bound on scores, and half the unit of their growth
# file: experiments/kernel/score_concentration.c
# runs: score_concentration
# tests: test_exact_rows
s/return fmax(sqrt(2.0) \* cfg->sigma/return fmax(9.0 * cfg->sigma/; s/b = s \* s \/ (2.0 \* cfg->sigma/b = s * s \/ (cfg->sigma/
