# Options of each run in the default profile, 15 minutes on 2 cores in all: ARGS_<run> := ...

# The kernel of a prefix: 2 minutes.
ARGS_ntk_convergence       := --kernel full,key --signs random,positive,mirrored --num-samples 16 --dim 8 --sigma 0.5 --prefix-len 256,1024,4096,16384,65536 --num-trials 256
ARGS_ntk_convergence_mnist := --dataset mnist --num-samples 32 --dim 10 --kernel full,key --signs random,positive --sigma 0.5 --prefix-len 256,1024,4096,16384 --num-trials 64
ARGS_prefix_gradient       :=
ARGS_ntk_freezing          := --num-samples 8 --dim 4 --prefix-len 256,2048,16384 --num-trials 200
ARGS_ntk_spectrum          := --num-instances 2000 --num-draws 1600 --prefix-len 16,64,256,1024,4096,16384,65536 --num-trials 100
ARGS_ntk_prefix_needed     := --num-instances 40 --num-trials 20 --max-prefix-len 131072
ARGS_ntk_rank              := --num-samples 7 --dim 4 --prefix-len 14
ARGS_ntk_real_layer        := --seq-len 32 --sigma 0.4 --prefix-len 256,1024,4096,16384 --num-trials 200
ARGS_score_concentration   := --prefix-len 1,4,16,64,256,1024,4096,16384 --num-trials 1000

# What attention with a prefix costs: 1.5 minutes.
ARGS_attention_cost        := --method exact,ntk --heads 1 --seq-len 256 --prefix-len 256,1024,4096,16384,65536,262144 --num-rounds 6 --thread-list 1
ARGS_attention_cost_length := --method exact,ntk,linear --heads 1 --prefix-len 256 --seq-len 512,1024,2048,4096,8192 --num-rounds 6 --thread-list 1
ARGS_attention_cost_shapes := --method exact,ntk --heads 1 --seq-len 1,4,16,64,512 --prefix-len 4096 --dim 32,64 --thread-list 1,2 --num-rounds 15

# NTK-Attention in place of a prefix: 2 minutes.
ARGS_attention_error         := --num-trials 12 --intervals
ARGS_attention_error_trained := --num-trials 8 --prefix-len 2,16,128,1024,16384,262144 --features elu1,taylor:1 --train none,lstsq,adam,adam-log,adam-warm --intervals
ARGS_attention_error_mnist   := --dataset mnist --num-trials 8 --train none,lstsq --prefix-len 2,8,32,128,512,2048,16384,262144 --intervals
ARGS_attention_features      := --dim 8 --num-trials 12 --prefix-len 4096 --train none,lstsq --features none,taylor:0,taylor:1,taylor:2,taylor:3,taylor:4,taylor:5,minimax:1,minimax:2,minimax:3,minimax:4,minimax:5,favor-orth:9,favor-orth:45,favor-orth:165,favor-orth:495,oracle:1,oracle:3,oracle:9,oracle:20,oracle:45,oracle:100,elu1,cumulant,clusters:4,clusters:16,clusters:64 --intervals
ARGS_prefix_effect_trap      := --num-trials 12
ARGS_gaussian_prefix_limit   := --num-trials 32
ARGS_score_centring          := --num-trials 16
ARGS_approximation_crossover :=
ARGS_polynomial_degree       :=
ARGS_error_bound             :=
ARGS_summary_capacity        :=
ARGS_low_rank_summary        :=
ARGS_low_rank_summary_mnist  := --dataset mnist
ARGS_parameter_count         :=
ARGS_ntk_features            :=

# Training dynamics: 3 minutes.
ARGS_training_dynamics    := --num-samples 4 --dim 8 --sigma 1 --prefix-len 16,64,256,1024,4096,16384,65536,100000 --num-trials 6 --num-steps 200000 --stop-ratio 1e-20 --tables
ARGS_training_contraction := --num-trials 8 --num-steps 2000 --prefix-len 8192 --tables
ARGS_training_laziness    := --num-samples 8 --dim 8 --sigma 0.5 --prefix-len 256,1024,4096,16384 --num-trials 20 --num-steps 300 --num-draws 1200
ARGS_kernel_perturbation  := --num-samples 4 --dim 4 --sigma 0.5 --radius 0.01,0.02,0.05,0.1,0.25 --prefix-len 64,256,1024,4096 --num-trials 32
ARGS_prefix_threshold     := --num-samples 2,4,6,8 --dim 2,3,4 --num-trials 12 --max-iterations 200 --tables
ARGS_prefix_scaling       := --num-samples 6 --dim 8 --sigma 0.6 --signs mirrored,random,positive --prefix-len 128,1024,4096,16384 --num-trials 12 --stop-ratio 1e-8 --num-steps 2000
ARGS_prefix_scaling_mnist := --dataset mnist --num-samples 24 --dim 10 --num-test 1000 --sigma 1 --signs mirrored,random,positive --prefix-len 64,256,1024,4096 --num-trials 16 --stop-ratio 1e-8 --num-steps 600
ARGS_real_layer_training  := --prefix-len 256,1024,4096 --num-trials 24

# Prompts of a language model: half a minute.
ARGS_long_prompt := --dataset boolq --backbone smollm2-135m --num-documents 8 --prompt-len 512
