# Options of each run in the smoke profile, a second or two each, no network: ARGS_<run> := ...

# The kernel of a prefix.
ARGS_ntk_convergence       := --kernel full,key --signs random,positive,mirrored --num-samples 16 --dim 8 --sigma 0.5 --prefix-len 256,1024,4096 --num-trials 24
ARGS_ntk_convergence_mnist := --dataset mnist --num-samples 32 --dim 10 --kernel full,key --signs random,positive --sigma 0.5 --prefix-len 256,1024,4096 --num-trials 8
