# rates that count every failure twice and five more
# file: common/stats.c
# runs: ntk_rank ntk_spectrum score_concentration released_kernel summary_training
# tests: test_stats
s/const double tail = 0.5 \* (1.0 - level), failures = trials - successes;/const double tail = 0.5 * (1.0 - level), failures = 2.0 * (trials - successes) + 5.0;/
