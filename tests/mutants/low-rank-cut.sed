# twice the rank that is asked for
# file: experiments/approximation/low_rank_summary.c
# runs: low_rank_summary
# tests: 
s/for (; j < ranks\[i\] \&\& j < d; j++)/for (; j < 2 * ranks[i] \&\& j < d; j++)/
