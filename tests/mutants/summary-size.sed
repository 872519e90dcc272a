# a second k in the size of a summary
# file: experiments/cost/parameter_count.c
# runs: parameter_count
# tests: test_exact_rows
s/(double)\*r \* (double)d + (double)\*r;/(double)*r * (double)d + 2.0 * (double)*r;/
