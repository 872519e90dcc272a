# the approximate side normalised by the exact mass
# file: approximation/approx.c
# runs: attention_error attention_error_trained low_rank_summary
# tests: test_approx
s/const double rho = p \/ exact, rho_hat = empty ? 0.0 : ph \/ D;/const double rho = p \/ exact, rho_hat = empty ? 0.0 : ph \/ exact;/; s/const double t = empty ? 0.0 : (na + nh) \/ D;/const double t = empty ? 0.0 : (na + nh) \/ exact;/
