# Options of each run in the smoke profile, a second or two each, no network: ARGS_<run> := ...

# The kernel of a prefix.
ARGS_ntk_convergence       := --kernel full,key --signs random,positive,mirrored --num-samples 16 --dim 8 --sigma 0.5 --prefix-len 256,1024,4096 --num-data 4 --num-trials 6 --tables
ARGS_ntk_convergence_mnist := --dataset mnist --num-samples 32 --dim 10 --kernel full,key --signs random,positive --sigma 0.5 --prefix-len 256,1024,4096 --num-data 4 --num-trials 2 --tables
ARGS_prefix_gradient       := --step 1e-3,1e-5,1e-7
ARGS_ntk_freezing          := --num-samples 8 --dim 4 --prefix-len 256,4096 --num-trials 16
ARGS_ntk_spectrum          := --num-instances 200 --num-draws 8 --prefix-len 256,4096 --num-trials 16
ARGS_ntk_prefix_needed     := --num-instances 12 --num-trials 10 --max-prefix-len 16384
ARGS_ntk_rank              := --num-samples 5 --dim 3 --prefix-len 12
ARGS_ntk_real_layer        := --seq-len 32 --sigma 0.4 --prefix-len 1024,4096 --num-data 4 --num-trials 2 --tables
ARGS_score_concentration   := --prefix-len 1,16,256,4096 --num-trials 100
ARGS_score_concentration_small := --num-samples 1 --dim 1 --sigma 1 --prefix-len 4096,8192 --num-trials 60 --rows small

# What attention with a prefix costs.
ARGS_attention_cost        := --method exact,ntk --heads 1 --seq-len 256 --prefix-len 256,1024,4096,16384,65536 --num-rounds 4 --thread-list 1
ARGS_attention_cost_length := --method ntk,linear --heads 1 --prefix-len 256 --seq-len 512,1024,2048 --num-rounds 4 --thread-list 1
ARGS_attention_cost_shapes := --method exact,ntk --heads 1 --seq-len 1,16,512 --prefix-len 4096 --dim 32,64 --thread-list 1,2 --num-rounds 5
ARGS_attention_roofline    := --method exact --heads 1 --seq-len 1,8,128 --prefix-len 65536 --dim 64 --num-rounds 3 --thread-list 1

# NTK-Attention in place of a prefix.
ARGS_attention_error         := --num-trials 3 --prefix-len 2,16,128,1024 --intervals
ARGS_attention_error_trained := --num-trials 2 --prefix-len 2,16,1024 --features elu1,taylor:1 --train none,lstsq,adam,adam-log,adam-warm --adam-steps 200 --intervals
ARGS_attention_error_schedule := --num-trials 2 --prefix-len 16,64,1024 --features elu1 --train adam --adam-steps 400 --intervals
ARGS_attention_error_rates   := --num-trials 2 --prefix-len 1024 --features elu1 --train adam,adam-log --adam-steps 400 --lr 0.003,0.01 --intervals
ARGS_attention_error_mnist   := --dataset mnist --num-trials 2 --prefix-len 2,16,1024 --train none,lstsq --intervals
ARGS_attention_features      := --dim 8 --num-trials 2 --prefix-len 512 --train none,lstsq --features none,taylor:0,taylor:1,taylor:2,taylor:3,minimax:1,minimax:2,minimax:3,favor-orth:9,favor-orth:45,oracle:1,oracle:9,oracle:45,elu1,cumulant,clusters:4,clusters:16,clusters:64 --intervals
ARGS_prefix_effect_trap      := --num-trials 3 --prefix-len 64,1024,4096,8192
ARGS_gaussian_prefix_limit   := --num-trials 4 --prefix-len 4096
ARGS_score_centring          := --num-trials 4 --prefix-len 4096
ARGS_approximation_crossover := --num-trials 10
ARGS_polynomial_degree       :=
ARGS_error_bound             := --num-trials 3
ARGS_summary_capacity        := --num-trials 2
ARGS_low_rank_summary        := --num-trials 2 --prefix-len 1024
ARGS_low_rank_summary_mnist  := --dataset mnist --num-trials 2 --prefix-len 1024
ARGS_parameter_count         :=
ARGS_ntk_features            := --num-trials 3 --num-fit 400
ARGS_released_kernel         := --num-trials 8 --adam-steps 200
ARGS_summary_training        := --num-trials 8
ARGS_kernel_routes           := --num-trials 2 --prefix-len 256

# Training dynamics.
ARGS_training_dynamics    := --num-samples 4 --dim 8 --sigma 1 --prefix-len 256,4096,16384 --num-trials 2 --num-steps 20000 --stop-ratio 1e-20 --tables
ARGS_training_contraction := --num-trials 3 --num-steps 300 --prefix-len 4096 --tables
ARGS_contraction_violations := --num-samples 4,8 --dim 4 --sigma 0.3,1 --num-data 8 --prefix-len 512
ARGS_theorem_constants := --num-samples 2,3 --dim 4,6 --sigma 0.5,1 --num-trials 1 --prefix-len 256 --max-work 1e6
ARGS_training_laziness := --num-samples 8 --dim 8 --sigma 0.5 --prefix-len 256,1024 --num-data 3 --num-trials 2 --num-steps 300 --num-draws 20 --tables
ARGS_kernel_perturbation  := --num-samples 4 --dim 4 --sigma 0.5 --radius 0.01,0.1 --prefix-len 64,512 --num-data 3 --num-trials 2 --tables
ARGS_prefix_threshold     := --num-samples 2,3 --dim 2,4 --num-trials 6 --max-iterations 60
ARGS_prefix_scaling := --num-samples 4 --dim 8 --sigma 0.6 --signs mirrored,random,positive --prefix-len 256,1024 --num-data 3 --num-trials 2 --stop-ratio 1e-6 --num-steps 600 --tables
ARGS_prefix_scaling_mnist := --dataset mnist --num-samples 24 --dim 10 --num-test 100 --sigma 1 --signs mirrored,random,positive --prefix-len 64,256 --num-data 3 --num-trials 1 --stop-ratio 1e-8 --num-steps 100 --tables
ARGS_real_prefix_training := --prefix-len 1,4,16 --num-data 3 --num-trials 2 --num-steps 200 --tables
ARGS_training_laziness_small := --num-samples 4 --dim 4 --sigma 0.25 --signs random,mirrored --prefix-len 256,1024 --num-data 3 --num-trials 1 --num-steps 50 --rows small-sigma --tables
ARGS_real_layer_training  := --prefix-len 256,1024 --num-data 3 --num-trials 2 --tables

# Methods of fine-tuning, without a network: on shapes; the others where the data are, too small to decide anything.
RUNS += method_benchmark_shapes
PROG_method_benchmark_shapes := method_benchmark
ARGS_method_benchmark_shapes     := --backbone vit-fashion --task shapes --rates experiments/finetuning/rates.csv --train-size 60 --epochs 1 --num-trials 2 --validation-size 30 --test-size 100
BENCHMARK_ARMS   := full,head,lora,ptuning,ntk,ntk+z_rank=15,ntk+z_rank=15+whiten=1,prefix-plus,prefix-plus+feature=taylor:1+z_rank=15+whiten=1
BENCHMARK_VISION := --backbone vit-fashion --task mnist --head-lr 0.03 --rates experiments/finetuning/rates.csv --train-size 50 --epochs 1 --test-size 100 --num-trials 2 --validation-size 30
ARGS_method_benchmark_mnist      := $(BENCHMARK_VISION) --arms $(BENCHMARK_ARMS),tied-prefix,ptuning+prefix_len=1,ptuning+prefix_len=4,ptuning+prefix_len=64
ARGS_method_benchmark_word_order := --backbone minilm --rates experiments/finetuning/rates.csv --layers 3-5 --task word-order --train-size 32 --epochs 1 --test-size 64 --num-trials 2 --validation-size 30 --arms $(BENCHMARK_ARMS)
ARGS_method_benchmark_sent3      := --backbone minilm --rates experiments/finetuning/rates.csv --layers 4-5 --task sent3 --train-size 32 --epochs 1 --test-size 64 --num-trials 2 --validation-size 30 --arms $(BENCHMARK_ARMS)
ARGS_method_benchmark_super_verb := --backbone minilm --rates experiments/finetuning/rates.csv --layers 4-5 --task super-verb --train-size 32 --epochs 1 --test-size 64 --num-trials 2 --validation-size 30 --arms $(BENCHMARK_ARMS)
ARGS_prefix_conversion_mnist      := --backbone vit-fashion --task mnist --head-lr 0.03 --rates experiments/finetuning/rates.csv --train-size 50 --epochs 1 --num-trials 2 --test-size 100 --validation-size 30
ARGS_prefix_conversion_word_order := --backbone minilm --rates experiments/finetuning/rates.csv --layers 3-5 --task word-order --train-size 32 --epochs 1 --num-trials 2 --test-size 64 --validation-size 30
ARGS_method_benchmark_asdiv      := --backbone smollm2-135m --layers 27-29 --task asdiv --rates experiments/finetuning/rates.csv --batch 8 --epochs 1 --train-size 8 --validation-size 4 --test-size 4 --num-trials 2 --arms lora,ptuning+prefix_len=40,ntk+z_rank=12 --decide E7/asdiv-vs-lora:accuracy:ntk+z_rank=12~lora,E7/asdiv-vs-ptuning:accuracy:ntk+z_rank=12~ptuning+prefix_len=40,E7/asdiv-loss-vs-lora:loss:ntk+z_rank=12~lora,E7/asdiv-loss-vs-ptuning:loss:ntk+z_rank=12~ptuning+prefix_len=40
ARGS_task_baselines := --num-trials 2 --test-size 100 --backbone vit-fashion --task mnist --train-size 60 --backbone minilm --task word-order --train-size 32 --task sent3 --train-size 32 --task super-verb --train-size 45
ARGS_pretrained_layer_kernel        := --backbone minilm --task sent3 --num-trials 3 --prefix-len 64,256
ARGS_pretrained_layer_kernel_dinov2 := --backbone dinov2-s14 --task emoji9 --rows dinov2 --num-trials 3 --prefix-len 64,256

# Prompts of a language model.
ARGS_decode_cost := --backbone smollm2-135m --prefix-len 64,256 --num-rounds 3
ARGS_long_prompt := --dataset boolq --backbone smollm2-135m --num-documents 2 --prompt-len 256
