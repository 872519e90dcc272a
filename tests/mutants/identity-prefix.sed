# an error study whose approximate side has not seen the keys of the prefix
# file: experiments/approximation/released_kernel.c
# runs: released_kernel
# tests: test_exact_rows
s/memcpy(k, x->kp, sizeof x->kp);/memcpy(k, x->k, sizeof x->kp);/
