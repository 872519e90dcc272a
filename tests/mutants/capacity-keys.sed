# keys that do not train
# file: experiments/approximation/summary_training.c
# runs: summary_training
# tests: 
s/e\[r\] += p->q\[i\]\[c\] \* gsl_vector_get(x, r \* VALUE_DIM + c);/e[r] += p->q[i][c] * (double)(r + c);/
