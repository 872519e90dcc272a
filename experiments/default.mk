# Options of each run in the default profile, about 17 minutes on 2 cores in all: ARGS_<run> := ...

# The kernel of a prefix: 1 minute.
ARGS_ntk_convergence       := --kernel full,key --signs random,positive,mirrored --num-samples 16 --dim 8 --sigma 0.5 --prefix-len 256,1024,4096,16384,65536 --num-data 24 --num-trials 11 --tables
ARGS_ntk_convergence_mnist := --dataset mnist --num-samples 32 --dim 10 --kernel full,key --signs random,positive --sigma 0.5 --prefix-len 256,1024,4096,16384 --num-data 20 --num-trials 4 --tables
ARGS_prefix_gradient       :=
ARGS_ntk_freezing          := --num-samples 8 --dim 4 --prefix-len 256,2048,16384 --num-trials 200
ARGS_ntk_spectrum          := --num-instances 2000 --num-draws 1600 --prefix-len 16,64,256,1024,4096,16384,65536 --num-trials 100
ARGS_ntk_prefix_needed     := --num-instances 60 --num-trials 20 --max-prefix-len 131072
ARGS_ntk_rank              := --num-samples 7 --dim 4 --prefix-len 14
ARGS_ntk_real_layer        := --seq-len 32 --sigma 0.4 --prefix-len 256,1024,4096,16384 --num-data 24 --num-trials 8 --tables
ARGS_score_concentration   := --prefix-len 1,4,16,64,256,1024,4096,16384 --num-trials 1000
ARGS_score_concentration_small := --num-samples 1 --dim 1 --sigma 1 --prefix-len 1024,4096,8192,16384,65536 --num-trials 1000 --rows small

# What attention with a prefix costs: 1.5 minutes.
ARGS_attention_cost        := --method exact,ntk --heads 1 --seq-len 256 --prefix-len 256,1024,4096,16384,65536,262144 --num-rounds 6 --thread-list 1
ARGS_attention_cost_length := --method exact,ntk,linear --heads 1 --prefix-len 256 --seq-len 512,1024,2048,4096,8192 --num-rounds 6 --thread-list 1
ARGS_attention_cost_shapes := --method exact,ntk --heads 1 --seq-len 1,4,16,64,512 --prefix-len 4096 --dim 32,64 --thread-list 1,2 --num-rounds 15
ARGS_attention_roofline    := --method exact --heads 1 --seq-len 1,2,4,8,16,64,512 --prefix-len 131072 --dim 64 --num-rounds 7 --thread-list 1

# NTK-Attention in place of a prefix: 3 minutes.
ARGS_attention_error         := --num-trials 12 --intervals
ARGS_attention_error_trained := --num-trials 8 --prefix-len 2,16,128,1024,16384,262144 --features elu1,taylor:1 --train none,lstsq,adam,adam-log,adam-warm --intervals
ARGS_attention_error_schedule := --num-trials 5 --prefix-len 16,1024,262144 --features elu1 --train adam --adam-steps 40000 --intervals
ARGS_attention_error_rates   := --num-trials 5 --prefix-len 262144 --features elu1 --train adam,adam-log --adam-steps 40000 --lr 0.003,0.01 --intervals
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
ARGS_released_kernel         :=
ARGS_summary_training        :=
ARGS_kernel_routes           :=

# Training dynamics: 2 minutes.
ARGS_training_dynamics    := --num-samples 4 --dim 8 --sigma 1 --prefix-len 16,64,256,1024,4096,16384,65536,100000 --num-trials 6 --num-steps 200000 --stop-ratio 1e-20 --tables
ARGS_training_contraction := --num-trials 24 --num-steps 2000 --prefix-len 4096 --tables
ARGS_contraction_violations := --num-data 200 --prefix-len 8192
ARGS_theorem_constants := --num-trials 16 --prefix-len 512,4096 --max-work 3e8
ARGS_training_laziness := --num-samples 8 --dim 8 --sigma 0.5 --prefix-len 256,1024,4096,16384 --num-data 20 --num-trials 2 --num-steps 300 --num-draws 60 --tables
ARGS_kernel_perturbation  := --num-samples 4 --dim 4 --sigma 0.5 --radius 0.01,0.02,0.05,0.1,0.25 --prefix-len 64,256,1024,4096 --num-data 24 --num-trials 2 --tables
ARGS_prefix_threshold     := --num-samples 2,4,6,8 --dim 2,3,4 --num-trials 18 --num-starts 10 --max-iterations 300
ARGS_prefix_scaling := --num-samples 4 --dim 8 --sigma 0.6 --signs mirrored,random,positive --prefix-len 128,512,2048,8192 --num-data 24 --num-trials 2 --stop-ratio 1e-6 --num-steps 1500 --tables
ARGS_prefix_scaling_mnist := --dataset mnist --num-samples 24 --dim 10 --num-test 200 --sigma 1 --signs mirrored,random,positive --prefix-len 64,256,1024 --num-data 20 --num-trials 1 --stop-ratio 1e-8 --num-steps 400 --tables
ARGS_real_prefix_training := --prefix-len 1,4,16,64,256,1024 --num-data 24 --num-trials 2 --tables
ARGS_training_laziness_small := --num-samples 8 --dim 8 --sigma 0.25 --signs random,mirrored --prefix-len 4096,16384,65536 --num-data 20 --num-trials 2 --num-steps 100 --rows small-sigma --tables
ARGS_real_layer_training  := --prefix-len 256,1024,4096 --num-data 24 --num-trials 2 --tables

# Methods of fine-tuning: 9 minutes.
BENCHMARK_ARMS   := full,head,lora,ptuning,ntk,ntk+z_rank=15,ntk+z_rank=15+whiten=1,prefix-plus,prefix-plus+feature=taylor:1+z_rank=15+whiten=1
BENCHMARK_VISION := --backbone vit-fashion --task mnist --head-lr 0.03 --rates experiments/finetuning/rates.csv --train-size 1000 --epochs 5 --test-size 2000 --validation-size 150
ARGS_method_benchmark_mnist      := $(BENCHMARK_VISION) --arms $(BENCHMARK_ARMS),tied-prefix,ptuning+prefix_len=1,ptuning+prefix_len=4,ptuning+prefix_len=64 --decide E6/mnist-slope:slope:ptuning,E6/mnist-at-limit:accuracy:ntk~ptuning+prefix_len=64,E2/mnist-vs-full:accuracy:ntk~full,E2/mnist-vs-lora:accuracy:ntk~lora,E2/mnist-vs-ptuning:accuracy:ntk~ptuning,E4/mnist-lora:accuracy:ntk+z_rank=15~lora,E4/mnist-ptuning:accuracy:ntk+z_rank=15~ptuning,E5/mnist-steps:steps:ntk~lora,E5/mnist-step-time:seconds:ntk~lora,F70/mnist-no-denominator:accuracy:prefix-plus~ntk,F70/mnist-white:accuracy:ntk+z_rank=15+whiten=1~ntk+z_rank=15,F71/mnist-white:accuracy:prefix-plus+feature=taylor:1+z_rank=15+whiten=1~ptuning,F71/mnist-white-vs-lora:accuracy:prefix-plus+feature=taylor:1+z_rank=15+whiten=1~lora,F71/mnist-ntk-white:accuracy:ntk+z_rank=15+whiten=1~ptuning,F71/mnist-ntk-white-vs-lora:accuracy:ntk+z_rank=15+whiten=1~lora,F72/mnist-lora:accuracy:lora~head,F72/mnist-ptuning:accuracy:ptuning~head,F72/mnist-ntk:accuracy:ntk~head
ARGS_method_benchmark_word_order := --backbone minilm --rates experiments/finetuning/rates.csv --layers 3-5 --task word-order --train-size 1500 --epochs 2 --test-size 1500 --validation-size 150 --arms $(BENCHMARK_ARMS) --decide E3/word-order-vs-lora:accuracy:ntk~lora,E3/word-order-vs-ptuning:accuracy:ntk~ptuning,E4/word-order-lora:accuracy:ntk+z_rank=15~lora,E4/word-order-ptuning:accuracy:ntk+z_rank=15~ptuning,E5/word-order-step-time:seconds:ntk~lora,F70/word-order-no-denominator:accuracy:prefix-plus~ntk,F70/word-order-white:accuracy:ntk+z_rank=15+whiten=1~ntk+z_rank=15,F71/word-order-white:accuracy:prefix-plus+feature=taylor:1+z_rank=15+whiten=1~ptuning,F71/word-order-white-vs-lora:accuracy:prefix-plus+feature=taylor:1+z_rank=15+whiten=1~lora,F71/word-order-ntk-white:accuracy:ntk+z_rank=15+whiten=1~ptuning,F71/word-order-ntk-white-vs-lora:accuracy:ntk+z_rank=15+whiten=1~lora,F72/word-order-lora:accuracy:lora~head,F72/word-order-ptuning:accuracy:ptuning~head,F72/word-order-ntk:accuracy:ntk~head
ARGS_method_benchmark_sent3      := --backbone minilm --rates experiments/finetuning/rates.csv --layers 4-5 --task sent3 --train-size 300 --epochs 4 --validation-size 150 --arms head,lora,ptuning,ntk --decide E3/sent3-vs-lora:accuracy:ntk~lora,E3/sent3-vs-ptuning:accuracy:ntk~ptuning,E5/sent3-steps:steps:ntk~lora,E5/sent3-step-time:seconds:ntk~lora,F72/sent3-lora:accuracy:lora~head,F72/sent3-ptuning:accuracy:ptuning~head,F72/sent3-ntk:accuracy:ntk~head
ARGS_method_benchmark_super_verb := --backbone minilm --rates experiments/finetuning/rates.csv --layers 4-5 --task super-verb --train-size 1000 --epochs 2 --test-size 1000 --validation-size 150 --arms head,lora,ptuning,ntk --decide E3/super-verb-vs-lora:accuracy:ntk~lora,E3/super-verb-vs-ptuning:accuracy:ntk~ptuning,E5/super-verb-steps:steps:ntk~lora,E5/super-verb-step-time:seconds:ntk~lora,F72/super-verb-lora:accuracy:lora~head,F72/super-verb-ptuning:accuracy:ptuning~head,F72/super-verb-ntk:accuracy:ntk~head
ARGS_prefix_conversion_mnist      := --backbone vit-fashion --task mnist --head-lr 0.03 --rates experiments/finetuning/rates.csv --train-size 1000 --epochs 5 --test-size 1000
ARGS_prefix_conversion_word_order := --backbone minilm --rates experiments/finetuning/rates.csv --layers 3-5 --task word-order --train-size 1500 --epochs 2 --test-size 1000
ARGS_method_benchmark_asdiv      := --backbone smollm2-135m --layers 27-29 --task asdiv --rates experiments/finetuning/rates.csv --batch 8 --epochs 2 --train-size 64 --validation-size 16 --test-size 100 --arms lora,ptuning+prefix_len=40,ntk+z_rank=12 --decide E7/asdiv-vs-lora:accuracy:ntk+z_rank=12~lora,E7/asdiv-vs-ptuning:accuracy:ntk+z_rank=12~ptuning+prefix_len=40,E7/asdiv-loss-vs-lora:loss:ntk+z_rank=12~lora,E7/asdiv-loss-vs-ptuning:loss:ntk+z_rank=12~ptuning+prefix_len=40
ARGS_task_baselines := --num-trials 3 --test-size 2000 --backbone vit-fashion --task mnist --train-size 1000 --backbone minilm --task word-order --train-size 1500 --task sent3 --train-size 300 --task super-verb --train-size 1000
ARGS_pretrained_layer_kernel        := --backbone minilm --task sent3 --num-trials 20 --prefix-len 1024,4096,16384
ARGS_pretrained_layer_kernel_dinov2 := --backbone dinov2-s14 --task emoji9 --rows dinov2 --num-trials 20 --prefix-len 1024,4096,16384

# Prompts of a language model: half a minute.
ARGS_decode_cost := --backbone smollm2-135m --prefix-len 512,2048,8190 --num-rounds 15
ARGS_long_prompt := --dataset boolq --backbone smollm2-135m --num-documents 8 --prompt-len 512
