# Sourced by what runs every program at a tiny size: the runs, their options, and what they read.
#
#   build=DIR root=DIR work=DIR     set before; runs_prepare fills $work; a run's folder is one below it

# array NAME ROWS COLUMNS FACTOR: a CSV of numbers that are all different.
array() {
    awk -v r="$2" -v c="$3" -v f="$4" 'BEGIN {
        for (i = 0; i < r; i++) for (j = 0; j < c; j++)
            printf "%.6f%s", f * sin(1.3 * i + 2.9 * j + 0.7 * i * j + f), j + 1 < c ? "," : "\n" }' > "$work/$1"
}

shapes="--task shapes --train-size 20 --validation-size 10 --test-size 10"

# The models (tests/support/tiny_models.h) are there already.
runs_prepare() {
    export PREFIX_NTK_DATA="$work/data"
    array x.csv 4 3 0.9; array y.csv 4 3 0.6; array q.csv 6 4 0.8; array k.csv 6 4 0.7; array v.csv 6 4 1.1
    array pk.csv 9 4 0.5; array pv.csv 9 4 1.3; array g.csv 6 4 0.3
    cp "$root/paper_notes.md" "$work/notes.md"
    printf 'the cat sat on dog.\ndog sat\n' > "$work/words.txt"
    printf 'hello\nhell' > "$work/hello.txt"
    awk 'BEGIN { print "text,label"; for (i = 0; i < 60; i++) printf "the %s sat on %d,%s\n", i % 2 ? "dog" : "cat", i, i % 2 ? "barks" : "mews" }' > "$work/own.csv"
    mkdir "$work/results" "$work/figures" || return 1
    (cd "$work/results" && "$build/bin/parameter_count" --quiet --out parameter_count.csv --verdicts verdicts.csv --ledger ../notes.md) || return 1
    rm -f "$work"/results/*.lock
    (cd "$work" && "$build/bin/finetune" --backbone vit $shapes --method ptuning --prefix-len 2 --epochs 1 --threads 1 --quiet --out trained &&
        "$build/bin/method_benchmark" --backbone vit --task shapes --train-size 20 --validation-size 10 --arms head,ptuning,ntk --search 0.01 \
            --num-trials 1 --epochs 1 --threads 1 --quiet --out rates.csv && sed -i 's/^vit,/..\/vit,/' rates.csv)
}

# What a program is run with; outputs by relative names, so that every run has a folder of its own.
arguments() {
    case $1 in
    attend) echo "--q ../q.csv --k ../k.csv --v ../v.csv --prefix-k ../pk.csv --prefix-v ../pv.csv --method ntk --feature taylor:2 --grad-out ../g.csv --grads grads --z-out z.npy --kvec-out kvec.npy --out out.npy" ;;
    attend:exact) echo "--q ../q.csv --k ../k.csv --v ../v.csv --prefix-k ../pk.csv --prefix-v ../pv.csv --causal --out out.csv" ;;
    ntk_predict) echo "--inputs ../x.csv --targets ../y.csv --at ../x.csv --out out.npy" ;;
    prefix_to_summary) echo "--prefix-k ../pk.csv --prefix-v ../pv.csv --q ../q.csv --k ../k.csv --v ../v.csv --features elu1,taylor:1,minimax:1 --z-out z.npy --kvec-out kvec.npy --out out.csv" ;;
    prefix_to_summary:adapter) echo "--adapter ../trained/adapter --backbone ../vit --task shapes --features elu1 --adapter-out adapter --out out.csv" ;;
    ntk_convergence) echo "--inputs ../x.csv --prefix-len 8,32 --num-trials 2 --inputs-out X.npy --limit-out L.npy --gram-out G.npy --prefix-out W.npy --sign-values-out a.npy --out out.csv" ;;
    training_dynamics) echo "--inputs ../x.csv --targets ../y.csv --prefix-len 8,32 --num-steps 20 --at ../x.csv --pred-out F.npy --prefix-out W.npy --curve-out c.csv --out out.csv" ;;
    ntk_freezing) echo "--num-samples 3 --dim 2 --prefix-len 16 --num-trials 3 --out out.csv" ;;
    ntk_spectrum) echo "--num-instances 4 --num-draws 2 --num-samples 2,4 --dim 2 --prefix-len 16 --num-trials 2 --out out.csv" ;;
    ntk_prefix_needed) echo "--num-instances 2 --num-trials 2 --max-prefix-len 64 --out out.csv" ;;
    ntk_rank) echo "--num-samples 2 --dim 2 --prefix-len 3 --out out.csv" ;;
    ntk_real_layer) echo "--num-samples 2 --dim 3 --out-dim 2 --seq-len 4 --prefix-len 16,32 --num-trials 2 --out out.csv" ;;
    score_concentration) echo "--prefix-len 1,16 --num-trials 4 --out out.csv" ;;
    prefix_gradient) echo "--step 1e-3 --out out.csv" ;;
    attention_error) echo "--dim 4 --seq-len 8 --num-trials 2 --prefix-len 2,16 --features none,elu1,taylor:1,oracle:2 --train none,lstsq --fit-queries 16 --intervals --out out.csv" ;;
    prefix_effect_trap | gaussian_prefix_limit | score_centring | low_rank_summary) echo "--num-trials 2 --prefix-len 64 --out out.csv" ;;
    approximation_crossover | error_bound) echo "--num-trials 1 --out out.csv" ;;
    summary_capacity) echo "--num-trials 2 --out out.csv" ;;
    ntk_features) echo "--num-trials 2 --num-fit 50 --out out.csv" ;;
    attention_cost) echo "--method exact,ntk --heads 1 --seq-len 8 --prefix-len 16,32 --dim 4 --num-rounds 1 --out out.csv" ;;
    training_contraction) echo "--num-trials 2 --num-steps 5 --prefix-len 32 --tables --out out.csv" ;;
    training_laziness) echo "--num-samples 2 --dim 2 --prefix-len 16,32 --num-trials 2 --num-steps 5 --num-draws 2 --out out.csv" ;;
    kernel_perturbation) echo "--num-samples 2 --dim 2 --radius 0.01,0.1 --prefix-len 16,32 --num-trials 2 --num-iterations 2 --out out.csv" ;;
    prefix_threshold) echo "--num-samples 2,3 --dim 2 --num-trials 2 --num-starts 1 --max-iterations 5 --out out.csv" ;;
    theorem_constants) echo "--num-samples 2 --dim 2 --sigma 0.5 --prefix-len 16 --num-trials 2 --max-work 1e4 --out out.csv" ;;
    contraction_violations) echo "--num-samples 2 --dim 2 --sigma 0.5 --num-data 2 --prefix-len 16 --out out.csv" ;;
    real_prefix_training) echo "--num-samples 3 --dim 2 --prefix-len 1,2 --num-data 2 --num-steps 3 --tables --out out.csv" ;;
    prefix_scaling) echo "--num-samples 2 --dim 2 --num-test 2 --prefix-len 16,32 --num-trials 2 --num-steps 20 --out out.csv" ;;
    real_layer_training) echo "--num-samples 2 --dim 3 --seq-len 4 --prefix-len 16,32 --num-trials 2 --num-steps 6 --early-steps 3 --out out.csv" ;;
    released_kernel) echo "--num-trials 2 --adam-steps 4 --out out.csv" ;;
    kernel_routes) echo "--num-trials 2 --prefix-len 64 --out out.csv" ;;
    summary_training) echo "--num-trials 2 --num-starts 1 --max-iterations 4 --out out.csv" ;;
    polynomial_degree | parameter_count) echo "--out out.csv" ;;
    finetune) echo "--backbone ../vit $shapes --method ntk --epochs 2 --out out" ;;
    finetune:texts) echo "--backbone ../bert --train ../own.csv --test ../own.csv --method ptuning --prefix-len 2 --epochs 1 --out out" ;;
    finetune:adapter) echo "--backbone ../vit $shapes --adapter ../trained/adapter --epochs 0 --out out" ;;
    embed) echo "--backbone ../bert --text ../words.txt --tokens-out tokens.csv --out out.npy" ;;
    embed:images) echo "--backbone ../vit --images ../images.npy --pool none --out out.npy" ;;
    lm) echo "--backbone ../lm.gguf --text ../hello.txt --logprobs-out p.npy --tokens-out t.csv --generate 3 --generated-out g.csv --out out.txt" ;;
    pretrain) echo "--task shapes --hidden 12 --num-layers 1 --num-heads 3 --mlp-dim 16 --epochs 1 --train-size 40 --out out" ;;
    method_benchmark) echo "--backbone ../vit $shapes --arms head,ntk --rates ../rates.csv --num-trials 2 --epochs 1 --layers 1-1 --out out.csv" ;;
    method_benchmark:search) echo "--backbone ../vit --task shapes --train-size 20 --validation-size 10 --arms head,ntk --search 0.1,0.01 --num-trials 1 --epochs 1 --out out.csv" ;;
    task_baselines) echo "--backbone ../vit --task shapes --train-size 20 --validation-size 10 --test-size 10 --num-trials 1 --out out.csv" ;;
    pretrained_layer_kernel) echo "--backbone ../vit --task shapes --rows minilm --num-trials 2 --num-samples 2 --num-steps 4 --prefix-len 16,32 --out out.csv" ;;
    decode_cost) echo "--backbone ../lm.gguf --prefix-len 16,32 --num-rounds 3 --out out.csv" ;;
    prefix_conversion) echo "--backbone ../vit $shapes --features elu1,taylor:1 --rates ../rates.csv --num-trials 2 --epochs 1 --out out.csv" ;;
    long_prompt) echo "--backbone ../lm.gguf --num-documents 2 --prompt-len 256 --out out.csv" ;;
    compare) echo "--a ../results --b ../results --out out.csv" ;;
    verify) echo "--results ../results --ledger ../notes.md --claim M3 --profile smoke --out out.txt" ;;
    report) echo "--results ../results --figures ../figures --plots $root/plots --runs parameter_count --profile smoke --ledger ../notes.md --out out.md" ;;
    ledger) echo "--results ../results --ledger ../notes.md --out out.md" ;;
    bench_gram) echo "--num-samples 2 --dim 2 --prefix-len 64 --num-rounds 1 --out out.csv" ;;
    bench_descent) echo "--num-samples 2 --dim 2 --prefix-len 64 --num-rounds 1 --out out.csv" ;;
    bench_finetune) echo "--shape vit-fashion --method head --num-rounds 1 --out out.csv" ;;
    *) return 1 ;;
    esac
}
runs="attend attend:exact ntk_predict prefix_to_summary prefix_to_summary:adapter ntk_convergence training_dynamics ntk_freezing ntk_spectrum
    ntk_prefix_needed ntk_rank ntk_real_layer score_concentration prefix_gradient attention_error prefix_effect_trap gaussian_prefix_limit
    score_centring approximation_crossover error_bound low_rank_summary summary_capacity ntk_features attention_cost training_contraction
    training_laziness kernel_perturbation prefix_threshold theorem_constants contraction_violations real_prefix_training prefix_scaling
    real_layer_training polynomial_degree parameter_count released_kernel kernel_routes summary_training finetune finetune:texts
    finetune:adapter embed embed:images lm pretrain method_benchmark method_benchmark:search task_baselines
    pretrained_layer_kernel long_prompt decode_cost prefix_conversion compare verify report ledger bench_gram bench_descent bench_finetune"

# Only programs that decide rows take the ledger.
verdicts() {
    case $1 in
    attend* | ntk_predict | prefix_to_summary* | finetune* | embed* | lm | pretrain | compare | verify | report | ledger | bench_* | *:search) ;;
    prefix_conversion) ;;           # of a task that no row is about
    *) echo "--verdicts verdicts.csv --ledger ../notes.md" ;;
    esac
}

# A file of the run $program without what differs from run to run: metadata lines (which name the options), times, sizes in memory.
steady() {
    case $program in
    attention_cost | decode_cost | bench_*) awk -F, '!/^# / { print $1, NF }' "$1" ;;
    finetune | method_benchmark)
        case $1 in
        *.csv) awk -F, '/^#/ { next } !n { n = NF; for (i = 1; i <= n; i++) timed[i] = $i ~ /time_s$/ }
                        { for (i = 1; i <= NF; i++) printf "%s,", timed[i] ? "" : $i; print "" }' "$1" ;;
        *.json) grep -v 'step_time_s\|peak_rss_bytes\|"key"\|"threads"' "$1" ;;
        *) cat "$1" ;;
        esac ;;
    esac
}

# sum FOLDER: what lies in it, the state of finished work aside.
sum() {
    (cd "$1" && files=$(find . -type f ! -name '*.state' ! -name '*.state.*' ! -name '*.lock' | sort) && echo $files && case $program in
        attention_cost | decode_cost | bench_* | finetune | method_benchmark) for f in $files; do steady "$f"; done ;;
        *) for f in $files; do grep -av '^# ' "$f"; done ;;
        esac | cksum)
}

# run_in FOLDER OPTIONS...: $program in a folder of its own below $work, made anew.
run_in() {
    rm -rf "$work/$1" && mkdir "$work/$1" "$work/$1/grads" || return 1
    (cd "$work/$1" && shift && exec "$build/bin/$program" "$@" --quiet)
}

# options_of RUN: its options into $options, its program into $program. Verdict rows need the run's own name, and not
# every run of a tiny size decides.
options_of() {
    program=${1%%:*}
    options="$(arguments "$1") $(verdicts "$1")" || return 1
    case $options in
    *--verdicts*) ! run_in named $options --out "$program.csv" --threads 1 > /dev/null 2>&1 || options="$options --out $program.csv" ;;
    esac
}

# twice RUN: with one thread into $work/one, with two into $work/two; both end well, say nothing and leave the same.
# compare says what it found; the benchmarks' rows are of their threads.
twice() {
    options_of "$1" || return 1
    run_in one $options --threads 1 > "$work/said" 2>&1 && run_in two $options --threads 2 >> "$work/said" 2>&1 || { cat "$work/said" >&2; return 1; }
    case $1 in bench_*) return ;; esac
    [ ! -s "$work/said" ] || [ "$1" = compare ] || { echo "$1: says: $(cat "$work/said")" >&2; return 1; }
    [ "$(sum "$work/one")" = "$(sum "$work/two")" ] || { echo "$1: other outputs with two threads" >&2; return 1; }
}
