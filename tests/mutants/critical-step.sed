# the step size of the bisection off by 2
# file: experiments/training/training_contraction.c
# runs: training_contraction
# tests: 
s/c \/ (SHORT \* p.lambda_max)/c \/ (0.5 * SHORT * p.lambda_max)/
