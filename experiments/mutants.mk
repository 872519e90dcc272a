# Options of each run for `make mutants`: the smoke profile's, and larger ones where it decides nothing.
include experiments/smoke.mk

ARGS_ntk_freezing             := --num-samples 8 --dim 4 --prefix-len 256,2048,16384 --num-trials 40
ARGS_attention_error          := --num-trials 8 --seq-len 32 --prefix-len 256,4096,262144 --intervals
ARGS_attention_error_trained  := --num-trials 6 --seq-len 32 --fit-queries 256 --prefix-len 16,1024,262144 --features elu1,taylor:1 --train none,lstsq,adam,adam-log,adam-warm --adam-steps 500 --intervals
ARGS_attention_error_schedule := --num-trials 4 --seq-len 32 --fit-queries 128 --prefix-len 16,1024,262144 --features elu1 --train adam --adam-steps 2000 --intervals
ARGS_attention_error_rates    := --num-trials 4 --seq-len 32 --fit-queries 128 --prefix-len 262144 --features elu1 --train adam,adam-log --adam-steps 2000 --lr 0.003,0.01 --intervals
ARGS_gaussian_prefix_limit    := --num-trials 6
ARGS_prefix_effect_trap       := --num-trials 6
ARGS_score_centring           := --num-trials 8
ARGS_low_rank_summary         := --num-trials 4
ARGS_released_kernel          := --num-trials 24 --adam-steps 300
ARGS_summary_training         := --num-trials 40 --num-starts 4
ARGS_ntk_features             := --num-trials 6 --num-fit 600
ARGS_training_dynamics        := --num-samples 4 --dim 8 --sigma 1 --prefix-len 256,4096,16384 --num-trials 4 --num-steps 20000 --stop-ratio 1e-20 --tables
ARGS_training_laziness         := --num-samples 8 --dim 8 --sigma 0.5 --prefix-len 256,1024 --num-data 10 --num-trials 1 --num-steps 300 --num-draws 20 --tables
ARGS_kernel_perturbation       := --num-samples 4 --dim 4 --sigma 0.5 --radius 0.01,0.1 --prefix-len 64,512 --num-data 12 --num-trials 1 --tables
ARGS_prefix_scaling            := --num-samples 4 --dim 8 --sigma 0.6 --signs mirrored,random,positive --prefix-len 256,1024 --num-data 8 --num-trials 1 --stop-ratio 1e-6 --num-steps 1500 --tables
ARGS_real_layer_training       := --prefix-len 256,1024 --num-data 8 --num-trials 1 --tables
ARGS_prefix_threshold          := --num-samples 2,3 --dim 2,4 --num-trials 12 --max-iterations 60
ARGS_theorem_constants         := --num-samples 2,3 --dim 4,6 --sigma 0.5,1 --num-trials 3 --prefix-len 256 --max-work 1e6
ARGS_contraction_violations    := --num-samples 4,8 --dim 4,8 --sigma 0.3,1 --num-data 40 --prefix-len 1024
ARGS_real_prefix_training      := --prefix-len 1,4,16,64 --num-data 8 --num-trials 1 --num-steps 300 --tables
