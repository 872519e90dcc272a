#!/bin/sh
# Installs what building, testing and reproducing need, when it is missing.
#
#   sh setup.sh
#
# Asks for each tool, header and library itself, so that any distribution where they are in place passes. What is missing is
# installed with apt-get when this runs as root on Debian or a relative of it; otherwise it is named, by the packages of Fedora
# or Alpine where this is one of them, and the exit status is 1.
set -eu

missing=

tool() {        # tool COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

include() {     # include HEADER PACKAGE
    for dir in /usr/include /usr/local/include /usr/include/*-linux-gnu; do
        [ -e "$dir/$1" ] && return
    done
    missing="$missing $2"
}

module() {      # module PKG-CONFIG-NAME PACKAGE
    pkg-config --exists "$1" 2>/dev/null || missing="$missing $2"
}

check() {
    missing=
    tool gcc gcc
    tool make make
    tool ld binutils
    tool objcopy binutils
    tool pkg-config pkg-config
    tool gnuplot gnuplot-nox
    tool pandoc pandoc
    include stdio.h libc6-dev
    include Random123/philox.h librandom123-dev
    module gsl libgsl-dev
    module openblas libopenblas-dev
    module cmocka libcmocka-dev
    module jansson libjansson-dev
    include utf8proc.h libutf8proc-dev
    module libpng libpng-dev
    # The figures name this font.
    [ -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ] || fc-list 2>/dev/null | grep -q 'DejaVu Sans' ||
        missing="$missing fonts-dejavu-core"
    missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
    missing=${missing% }
}

# as DISTRIBUTION: what the packages in $missing are called there.
as() {
    for package in $missing; do
        case $1:$package in
        fedora:pkg-config) echo pkgconf-pkg-config ;;
        fedora:gnuplot-nox) echo gnuplot ;;
        fedora:libc6-dev) echo glibc-devel ;;
        fedora:librandom123-dev) echo Random123-devel ;;
        fedora:libcmocka-dev) echo libcmocka-devel ;;
        fedora:libpng-dev) echo libpng-devel ;;
        fedora:fonts-dejavu-core) echo dejavu-sans-fonts ;;
        fedora:lib*-dev) package=${package#lib}; echo "${package%-dev}-devel" ;;
        alpine:pkg-config) echo pkgconf ;;
        alpine:gnuplot-nox) echo gnuplot ;;
        alpine:libc6-dev) printf 'musl-dev\nargp-standalone\n' ;;
        alpine:libpng-dev) echo libpng-dev ;;
        alpine:fonts-dejavu-core) echo font-dejavu ;;
        alpine:lib*-dev) echo "${package#lib}" ;;
        *) echo "$package" ;;
        esac
    done | tr '\n' ' '
}

check
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    kind=$(sed -n 's/^ID\(_LIKE\)\{0,1\}=//p' /etc/os-release 2>/dev/null | tr -d '"' | tr '\n' ' ')
    case " $kind " in
    *" fedora "* | *" rhel "*) echo "setup: missing; run as root: dnf install $(as fedora)" >&2 ;;
    *" alpine "*) echo "setup: missing; run as root: apk add $(as alpine)" >&2 ;;
    *) echo "setup: missing: $missing (names of Debian packages); install them, or run this as root on Debian" >&2 ;;
    esac
    exit 1
fi

echo "setup: installing $missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends $missing >/dev/null
check
if [ -n "$missing" ]; then
    echo "setup: still missing after the installation: $missing" >&2
    exit 1
fi
