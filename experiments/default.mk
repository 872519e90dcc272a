# Options of each run in the default profile, 15 minutes on 2 cores in all: ARGS_<run> := ...

# The kernel of a prefix: 2 minutes.
ARGS_ntk_convergence       := --kernel full,key --signs random,positive,mirrored --num-samples 16 --dim 8 --sigma 0.5 --prefix-len 256,1024,4096,16384,65536 --num-trials 256
ARGS_ntk_convergence_mnist := --dataset mnist --num-samples 32 --dim 10 --kernel full,key --signs random,positive --sigma 0.5 --prefix-len 256,1024,4096,16384 --num-trials 96
