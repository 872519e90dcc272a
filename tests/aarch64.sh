#!/bin/sh
# Builds for aarch64 on another machine and runs all tests under qemu. Tests of kernels go through the NEON and the portable ones.
#
#   tests/aarch64.sh [TEST...]        test programs by name, all without one
#
# Needs a cross compiler, qemu-user and the libraries of that architecture; on Debian and its relatives, as root:
#   dpkg --add-architecture arm64 && apt-get update && apt-get install gcc-aarch64-linux-gnu qemu-user-binfmt \
#     libgomp1:arm64 libgsl-dev:arm64 libopenblas-dev:arm64 libcmocka-dev:arm64 libjansson-dev:arm64 libutf8proc-dev:arm64 libpng-dev:arm64
# Programs and tests start each other, so the kernel has to know what to do with programs of that architecture
# (binfmt_misc; the package qemu-user-binfmt sees to it).
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build/aarch64} compiler=${CC:-aarch64-linux-gnu-gcc}
unset BUILD CC
for tool in ${compiler##* } qemu-aarch64; do
    command -v "$tool" > /dev/null || { echo "aarch64: skipped: no $tool"; exit 0; }
done
export PKG_CONFIG_LIBDIR=/usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig
export LC_ALL=C OPENBLAS_NUM_THREADS=1 TEST_TIMEOUT="${TEST_TIMEOUT:-3000}"
unset OPENBLAS_CORETYPE
tests=${*:-$(cd tests && ls test_*.c | sed 's/\.c$//')}
set --

# shellcheck disable=SC2086  # a list of words
make -j"$(nproc)" CC="$compiler" BUILD="$build" all $(printf "$build/tests/%s " $tests)

export PREFIX_NTK_BIN="$(pwd)/$build/bin"
"$PREFIX_NTK_BIN/attend" --version || { echo "aarch64: built; skipped: this kernel does not start programs of aarch64" >&2; exit 0; }
# qemu 7 ends itself when a process of many threads forks.
for test in $tests; do
    case $test in
    test_parallel) echo "skipped: $test: qemu cannot fork a process of many threads" ;;
    *) set -- "$@" "$build/tests/$test" ;;
    esac
done
exec tests/run.sh "$@"
