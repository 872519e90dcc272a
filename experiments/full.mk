# Options of each run in the full profile, overnight: ARGS_<run> := ...

# The kernel of a prefix.
ARGS_ntk_convergence       := --kernel full,key --signs random,positive,mirrored --num-samples 16 --dim 8 --sigma 0.5 --prefix-len 256,1024,4096,16384,65536,262144,1048576 --num-trials 512
ARGS_ntk_convergence_mnist := --dataset mnist --num-samples 64 --dim 10 --kernel full,key --signs random,positive --sigma 0.5 --prefix-len 256,1024,4096,16384,65536,262144 --num-trials 256
