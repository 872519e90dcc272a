#!/bin/sh
# Tests the Python package, its examples among them.
#
#   tests/python.sh              in a virtual environment under BUILD, with the package installed there as a user would
#   tests/python.sh --if-numpy   from the tree with the python3 at hand, only where NumPy is already installed
#
# Prints one line; what cannot be had is named, and the tests are skipped (exit status 0).
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
export BUILD="${BUILD:-$root/build}" PYTHONDONTWRITEBYTECODE=1

skip() {
    echo "python: skipped: $1"
    exit 0
}

command -v python3 > /dev/null || skip "no python3"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ "${1:-}" = --if-numpy ]; then
    python3 -c 'import numpy' 2> /dev/null || skip "no NumPy for python3 (make python-test fetches one)"
    python=python3
    PYTHONPATH=$root/python
    export PYTHONPATH
else
    venv=$BUILD/python-venv
    python=$venv/bin/python
    [ -x "$python" ] || python3 -m venv --system-site-packages "$venv" > "$work/log" 2>&1 ||
        { rm -rf "$venv"; skip "no virtual environment (Debian: python3-venv)"; }
    "$python" -c 'import numpy' 2> /dev/null || "$python" -m pip install -q numpy > "$work/log" 2>&1 ||
        skip "NumPy can be neither found nor fetched"
    if ! "$python" -m pip install -q --no-deps --force-reinstall "$root/python" > "$work/log" 2>&1; then
        ! grep -q 'No matching distribution found for setuptools' "$work/log" || skip "setuptools cannot be fetched"
        cat "$work/log" >&2
        echo "python: the package does not install" >&2
        exit 1
    fi
fi

# Away from the tree, so that the package tested is the installed one.
cp -R "$root/python/tests" "$root/python/examples" "$work"
cd "$work"
"$python" -m unittest discover -t . -s tests > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
awk '/^Ran / { ran = $2 } match($0, /skipped=[0-9]+/) { skipped = substr($0, RSTART + 8, RLENGTH - 8) }
    END {
        printf "python: %d passed, 0 failed%s\n", ran - skipped, skipped ? ", " skipped " skipped (no PyTorch)" : ""
    }' "$work/log"
