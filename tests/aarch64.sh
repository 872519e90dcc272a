#!/bin/sh
# Builds for aarch64 on another machine and runs all tests under qemu, with the NEON kernels and with the portable ones.
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

# shellcheck disable=SC2086  # a list of words
make -j"$(nproc)" CC="$compiler" BUILD="$build" all $(printf "$build/tests/%s " $tests)

export PREFIX_NTK_BIN="$(pwd)/$build/bin"
"$PREFIX_NTK_BIN/attend" --version || { echo "aarch64: built; skipped: this kernel does not start programs of aarch64" >&2; exit 0; }
status=0
for isa in neon portable; do
    echo "aarch64: $isa"
    # shellcheck disable=SC2086
    PREFIX_NTK_ISA=$isa tests/run.sh $(printf "$build/tests/%s " $tests) || status=1
done
exit $status
