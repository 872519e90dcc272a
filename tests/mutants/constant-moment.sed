# a term of the fourth moment left out of C
# file: theory/ntk_constant.c
# runs: ntk_convergence ntk_freezing
# tests: test_ntk_constant
s/4.0 \* v \* ab + 2.0 \* v \* dv;/4.0 * v * ab;/
