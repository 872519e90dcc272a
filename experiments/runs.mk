# The runs of `make reproduce`: RUNS += <run>. PROG_<run> := <program> when it has another name; TIMED += <run> when it needs
# the machine to itself; NEEDS_MNIST += <run> when it reads the MNIST images, NEEDS_<run> := <set> ... of data/pins otherwise.
RUNS        :=
TIMED       :=
NEEDS_MNIST :=

# The kernel of a prefix.
RUNS        += prefix_gradient ntk_convergence ntk_convergence_mnist ntk_freezing ntk_spectrum ntk_prefix_needed ntk_rank ntk_real_layer score_concentration score_concentration_small
PROG_score_concentration_small := score_concentration
PROG_ntk_convergence_mnist := ntk_convergence
NEEDS_MNIST += ntk_convergence_mnist

# What attention with a prefix costs.
RUNS        += attention_cost attention_cost_length attention_cost_shapes
PROG_attention_cost_length := attention_cost
PROG_attention_cost_shapes := attention_cost
TIMED       += attention_cost attention_cost_length attention_cost_shapes
RUNS        += attention_roofline
PROG_attention_roofline := attention_cost
TIMED       += attention_roofline
RUNS        += decode_cost
TIMED       += decode_cost
NEEDS_decode_cost := smollm2-135m

# NTK-Attention in place of a prefix.
RUNS        += attention_error attention_error_trained attention_error_schedule attention_error_rates attention_error_mnist attention_features
PROG_attention_error_trained := attention_error
PROG_attention_error_schedule := attention_error
PROG_attention_error_rates   := attention_error
PROG_attention_error_mnist   := attention_error
PROG_attention_features      := attention_error
NEEDS_MNIST += attention_error_mnist
RUNS        += prefix_effect_trap gaussian_prefix_limit score_centring approximation_crossover polynomial_degree error_bound summary_capacity low_rank_summary low_rank_summary_mnist parameter_count ntk_features released_kernel summary_training kernel_routes
PROG_low_rank_summary_mnist := low_rank_summary
NEEDS_MNIST += low_rank_summary_mnist

# Training dynamics.
RUNS        += training_dynamics training_contraction contraction_violations theorem_constants training_laziness training_laziness_small kernel_perturbation prefix_threshold prefix_scaling prefix_scaling_mnist real_prefix_training real_layer_training
PROG_prefix_scaling_mnist := prefix_scaling
PROG_training_laziness_small := training_laziness
NEEDS_MNIST += prefix_scaling_mnist

# Methods of fine-tuning.
RUNS        += method_benchmark_mnist method_benchmark_word_order method_benchmark_sent3 method_benchmark_super_verb
PROG_method_benchmark_mnist      := method_benchmark
PROG_method_benchmark_word_order := method_benchmark
PROG_method_benchmark_sent3      := method_benchmark
PROG_method_benchmark_super_verb := method_benchmark
NEEDS_method_benchmark_mnist      := mnist
NEEDS_method_benchmark_word_order := minilm wordnet
NEEDS_method_benchmark_sent3      := minilm sent3
NEEDS_method_benchmark_super_verb := minilm wordnet
RUNS        += method_benchmark_asdiv
PROG_method_benchmark_asdiv       := method_benchmark
NEEDS_method_benchmark_asdiv      := smollm2-135m asdiv
RUNS        += pretrained_layer_kernel pretrained_layer_kernel_dinov2
PROG_pretrained_layer_kernel_dinov2  := pretrained_layer_kernel
NEEDS_pretrained_layer_kernel        := minilm sent3
NEEDS_pretrained_layer_kernel_dinov2 := dinov2-s14 emoji9
RUNS        += prefix_conversion_mnist prefix_conversion_word_order
PROG_prefix_conversion_mnist       := prefix_conversion
PROG_prefix_conversion_word_order  := prefix_conversion
NEEDS_prefix_conversion_mnist      := mnist
NEEDS_prefix_conversion_word_order := minilm wordnet
RUNS        += task_baselines
NEEDS_task_baselines := mnist minilm sent3 wordnet

# Prompts of a language model.
RUNS        += long_prompt
NEEDS_long_prompt := boolq smollm2-135m
