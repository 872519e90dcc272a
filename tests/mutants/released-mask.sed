# a maximum over visible keys in the form that takes it over all
# file: experiments/approximation/released_kernel.c
# runs: released_kernel
# tests: 
s/        top = fmaxf(top, s\[j\]);/        if (j < visible) top = fmaxf(top, s[j]);/
