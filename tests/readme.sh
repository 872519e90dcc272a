#!/bin/sh
# Runs what the README shows: the commands of its section on programs, and the C program of its section on the library,
# compiled with pkg-config against an installed library, and its
# Python example, where the package can be installed.
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

block "The library" c > example.c
[ -s example.c ] || { echo "readme: no example in the section on the library" >&2; exit 1; }
make -s -C "$root" install PREFIX="$work/installed" > install.log
# shellcheck disable=SC2046
gcc -std=c11 -Wall -Wextra -Werror -o example example.c \
    $(PKG_CONFIG_PATH=installed/lib/pkgconfig pkg-config --cflags --libs prefix_ntk) -lm
LD_LIBRARY_PATH=installed/lib ./example
echo "readme: the library's example runs"

# The package is installed where `make python-test` did, when it did.
make -s -C "$root" python-test
if "$root/build/python-venv/bin/python" -c 'import prefix_ntk' 2> /dev/null; then
    block "Python" python > example.py
    [ -s example.py ] || { echo "readme: no example in the section on Python" >&2; exit 1; }
    "$root/build/python-venv/bin/python" example.py
    echo "readme: the example from Python runs"
fi
