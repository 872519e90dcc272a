# an exponential of the maximum that cannot overflow
# file: experiments/approximation/released_kernel.c
# runs: released_kernel
# tests: 
s/const float E = expf(top);/const float E = expf(fminf(top, 40.0f));/
