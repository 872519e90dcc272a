# exact to more digits than there are, trained keys
# file: experiments/approximation/summary_training.c
# runs: summary_training
# tests: 
s/EXACT = 1e-6;/EXACT = 1e-20;/
