# Options of each run in the default profile, 15 minutes on 2 cores in all: ARGS_<run> := ...

# The kernel of a prefix: 2 minutes.
ARGS_ntk_convergence       := --kernel full,key --signs random,positive,mirrored --num-samples 16 --dim 8 --sigma 0.5 --prefix-len 256,1024,4096,16384,65536 --num-trials 256
ARGS_ntk_convergence_mnist := --dataset mnist --num-samples 32 --dim 10 --kernel full,key --signs random,positive --sigma 0.5 --prefix-len 256,1024,4096,16384 --num-trials 64
ARGS_prefix_gradient       :=
ARGS_ntk_freezing          := --num-samples 8 --dim 4 --prefix-len 256,2048,16384 --num-trials 200
ARGS_ntk_spectrum          := --num-instances 2000 --num-draws 400 --prefix-len 16,64,256,1024,4096,16384,65536 --num-trials 100
ARGS_ntk_prefix_needed     := --num-instances 40 --num-trials 20 --max-prefix-len 131072
ARGS_ntk_rank              := --num-samples 7 --dim 4 --prefix-len 14
ARGS_ntk_real_layer        := --seq-len 32 --prefix-len 256,1024,4096,16384 --num-trials 200
ARGS_score_concentration   := --prefix-len 1,4,16,64,256,1024,4096,16384 --num-trials 1000
