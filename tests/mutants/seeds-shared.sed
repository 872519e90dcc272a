# pairs of trials share their random numbers
# file: common/random.c
# runs: ntk_convergence score_concentration
# tests: test_random
s/counter = { { trial, row, block, 0 } }/counter = { { trial \/ 2, row, block, 0 } }/
