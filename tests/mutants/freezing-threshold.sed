# the threshold of freezing at .2 instead of one half
# file: experiments/kernel/ntk_freezing.c
# runs: ntk_freezing
# tests: 
s/return cfg->shares\[share\] \* 0.5 \* sqrt/return cfg->shares[share] * 0.2 * sqrt/
