# Options of each run in the full profile, overnight: ARGS_<run> := ...

# The kernel of a prefix.
ARGS_ntk_convergence       := --kernel full,key --signs random,positive,mirrored --num-samples 16 --dim 8 --sigma 0.5 --prefix-len 256,1024,4096,16384,65536,262144,1048576 --num-trials 512
ARGS_ntk_convergence_mnist := --dataset mnist --num-samples 64 --dim 10 --kernel full,key --signs random,positive --sigma 0.5 --prefix-len 256,1024,4096,16384,65536,262144 --num-trials 256
ARGS_prefix_gradient       :=
ARGS_ntk_freezing          := --num-samples 8 --dim 4 --prefix-len 256,4096,65536,1048576 --num-trials 1000
ARGS_ntk_spectrum          := --num-instances 20000 --num-draws 1000 --prefix-len 16,64,256,1024,4096,16384,65536,262144 --num-trials 400
ARGS_ntk_prefix_needed     := --num-instances 120 --num-trials 100 --max-prefix-len 2097152
ARGS_ntk_rank              := --num-samples 9 --dim 6 --prefix-len 22
ARGS_ntk_real_layer        := --seq-len 32 --signs random,positive --prefix-len 1024,4096,16384,65536,262144 --num-trials 256
ARGS_score_concentration   := --prefix-len 1,4,16,64,256,1024,4096,16384,65536,262144,1048576 --num-trials 4000

# What attention with a prefix costs.
ARGS_attention_cost        := --method exact,ntk --heads 12 --seq-len 256 --prefix-len 256,1024,4096,16384,65536,262144 --num-rounds 25
ARGS_attention_cost_length := --method exact,ntk,linear --heads 12 --prefix-len 256 --seq-len 512,1024,2048,4096,8192,16384 --num-rounds 15
ARGS_attention_cost_shapes := --method exact,ntk --heads 1 --seq-len 1,4,16,64,512 --prefix-len 4096 --dim 16,32,64,128 --thread-list 1,2 --num-rounds 99
