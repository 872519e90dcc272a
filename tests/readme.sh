#!/bin/sh
# Runs what the README shows: the commands of its section on programs, the C programs of its sections on the library,
# compiled with pkg-config against an installed library, and its Python example, where the package can be installed. Its
# answer must be the ledger's.
#
#   tests/readme.sh            after `make all`; works in a folder of its own
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
ln -s "$root/build" build

# block SECTION LANGUAGE: the code blocks of that language in that section.
block() {
    awk -v section="## $1" -v fence="\`\`\`$2" '
        /^## / { inside = $0 == section; next }
        inside && $0 == fence { code = 1; next }
        /^```$/ { code = 0; next }
        code' "$root/README.md"
}

block "The programs" sh > commands.sh
[ -s commands.sh ] || { echo "readme: no commands in the section on programs" >&2; exit 1; }
sh -eu commands.sh
block "Fine-tuning" sh > finetuning.sh
[ -s finetuning.sh ] || { echo "readme: no commands in the section on fine-tuning" >&2; exit 1; }
sh -eu finetuning.sh > finetuning.log 2>&1 || { cat finetuning.log >&2; exit 1; }
echo "readme: the commands run"

(cd "$root" && experiments/answer.sh) > answer.md
cmp -s answer.md "$root/README.md" || { echo "readme: the answer is not the ledger's (make answer)" >&2; exit 1; }
echo "readme: the answer is the ledger's"

block "The library" c > example.c
[ -s example.c ] || { echo "readme: no example in the section on the library" >&2; exit 1; }
make -s -C "$root" install PREFIX="$work/installed" > install.log
# shellcheck disable=SC2046
gcc -std=c11 -Wall -Wextra -Werror -o example example.c \
    $(PKG_CONFIG_PATH=installed/lib/pkgconfig pkg-config --cflags --libs prefix_ntk) -lm
LD_LIBRARY_PATH=installed/lib ./example
block "The theory library" c > theory.c
[ -s theory.c ] || { echo "readme: no example in the section on the theory library" >&2; exit 1; }
# shellcheck disable=SC2046
gcc -std=c11 -Wall -Wextra -Werror -o theory theory.c \
    $(PKG_CONFIG_PATH=installed/lib/pkgconfig pkg-config --cflags --libs prefix_ntk) -lm
LD_LIBRARY_PATH=installed/lib ./theory
echo "readme: the library's examples run"

# The package is installed where `make python-test` did, when it did.
make -s -C "$root" python-test
if "$root/build/python-venv/bin/python" -c 'import prefix_ntk' 2> /dev/null; then
    block "Python" python > example.py
    [ -s example.py ] || { echo "readme: no example in the section on Python" >&2; exit 1; }
    "$root/build/python-venv/bin/python" example.py
    echo "readme: the example from Python runs"
fi
