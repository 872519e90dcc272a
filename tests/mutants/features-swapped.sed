# other maps in place of elu1 and of random features
# file: experiments/approximation/ntk_features.c
# runs: ntk_features
# tests: 
s/{ "elu1", "taylor:1"/{ "taylor:3", "taylor:1"/; s/"favor-orth:210" }/"taylor:3" }/
