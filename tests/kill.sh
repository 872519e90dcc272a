#!/bin/sh
# Kills runs with SIGKILL at random moments and starts them again: the results are those of a run left alone.
#
#   KILLS=20 tests/kill.sh BUILD            after `make`; the long programs, finetune and pretrain
#   KILLS=20 tests/kill.sh BUILD smoke      `make reproduce PROFILE=smoke` from scratch, in a build folder of its own
set -u
export LC_ALL=C
build=$(CDPATH='' cd -- "$1" && pwd) || exit 2
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
kills=${KILLS:-20}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "kill: $*" >&2; exit 1; }

# moment FROM TO: seconds to wait, evenly random.
moment() { awk -v a="$1" -v b="$2" -v s="$(od -An -N4 -tu4 /dev/urandom)" 'BEGIN { srand(s); printf "%.3f", a + (b - a) * rand() }'; }

# killed LONGEST COMMAND...: the command in a group of its own, killed whole at random moments, then left to end.
killed() {
    longest=$1 n=0
    shift
    while [ "$n" -lt "$kills" ]; do
        setsid "$@" > "$work/log" 2>&1 &
        group=$!
        sleep "$(moment 0 "$longest")"
        kill -KILL -- "-$group" 2> /dev/null
        wait "$group" 2> /dev/null
        n=$((n + 1))
    done
    "$@" > "$work/log" 2>&1 || { cat "$work/log" >&2; fail "$* does not go on"; }
}

if [ "${2:-}" = smoke ]; then
    cd "$root" || exit 2
    make BUILD="$work/whole" reproduce PROFILE=smoke > "$work/log" 2>&1 || { tail "$work/log" >&2; fail 'make fails'; }
    killed 60 make BUILD="$work/killed" reproduce PROFILE=smoke
    for f in "$work"/whole/smoke/results/*.csv; do
        case $f in *attention_cost* | *decode_cost* | *method_benchmark* | *verdicts.csv) continue ;; esac
        grep -v '^#' "$f" > "$work/a"
        grep -v '^#' "$work/killed/smoke/results/${f##*/}" | cmp -s - "$work/a" || fail "${f##*/}: other rows"
    done
    for f in "$work"/whole/smoke/figures/*.svg; do
        tail -c 8 "$work/killed/smoke/figures/${f##*/}" | grep -q '</svg>' || fail "${f##*/} is not whole"
    done
    echo "kill: make reproduce, $kills times"
    exit 0
fi

"$build/bin/pretrain" --task shapes --hidden 12 --num-layers 2 --num-heads 3 --mlp-dim 16 --epochs 1 --train-size 40 --threads 1 --quiet \
    --out "$work/vit" || fail 'pretrain'
# name, seconds within which it is killed, program and options
while read -r name longest program options; do
    mkdir "$work/$name" "$work/$name/whole" "$work/$name/killed"
    cd "$work/$name/whole" && "$build/bin/$program" $options --threads 1 --quiet --out out || fail "$name"
    cd "$work/$name/killed" && killed "$longest" "$build/bin/$program" $options --threads 1 --quiet --out out
    cd "$work/$name" || exit 2
    (cd whole && find . -type f | sort) > a
    (cd killed && find . -type f | sort) | cmp -s - a || fail "$name: other files: $(cd killed && find . -type f | sort | tr '\n' ' ')"
    while read -r f; do
        case $f in
        *result.json) continue ;;
        *curve.csv) grep -v '^#' "whole/$f" | cut -d, -f1,3- > b; grep -v '^#' "killed/$f" | cut -d, -f1,3- | cmp -s - b ;;
        *) grep -av '^# ' "whole/$f" > b; grep -av '^# ' "killed/$f" | cmp -s - b ;;
        esac || fail "$name: $f differs"
    done < a
    echo "kill: $name, $kills times"
done << EOF
descent 0.6 training_dynamics --num-samples 8 --dim 4 --prefix-len 2000,4000 --num-steps 6000 --curve-out c.csv --prefix-out W.npy
kernel 0.4 ntk_convergence --num-samples 16 --dim 4 --prefix-len 1000,20000 --num-trials 12 --gram-out G.npy
scaling 0.4 prefix_scaling --num-samples 4 --dim 3 --num-test 4 --prefix-len 64,512 --num-trials 6 --num-steps 200
finetune 0.5 finetune --backbone $work/vit --task shapes --method ntk --train-size 200 --validation-size 20 --test-size 20 --batch 2 --epochs 20
pretrain 0.5 pretrain --task shapes --hidden 12 --num-layers 1 --num-heads 3 --mlp-dim 16 --epochs 20 --batch 2 --train-size 200
EOF
