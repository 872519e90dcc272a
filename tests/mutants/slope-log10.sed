# slopes in log10 of the length
# file: common/stats.c
# runs: ntk_convergence gaussian_prefix_limit prefix_effect_trap kernel_perturbation attention_error
# tests: test_stats
s/log_x\[i\] = log(x\[i\]);/log_x[i] = log10(x[i]);/
