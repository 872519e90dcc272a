#!/bin/sh
# Fetches data sets and backbones named in data/pins into the cache, checks them, unpacks them:
#
#   data/fetch.sh SET...         e.g. mnist minilm
#   data/fetch.sh --check SET    only says, by exit 0 or 3, whether the cache has it
#
# The cache is PREFIX_NTK_DATA, or data/cache. A cache that is complete and right is
# left alone. Nothing partial or wrong is ever kept. Exit 3 when the data cannot be
# had (no client, no network, wrong checksum), with one line that says why.
set -u
export LC_ALL=C

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 3
pins=$here/pins
cache=${PREFIX_NTK_DATA:-$here/cache}

fail() {
    echo "fetch.sh: $*" >&2
    exit 3
}

check=
if [ "${1-}" = --check ]; then check=yes; shift; fi
[ $# -ge 1 ] || { echo "usage: data/fetch.sh [--check] SET..." >&2; exit 2; }
if [ $# -gt 1 ]; then
    code=0
    for set_name in "$@"; do "$0" ${check:+--check} "$set_name" || code=$?; done
    exit $code
fi
set_name=$1
grep -q "^package $set_name " "$pins" || { echo "fetch.sh: $set_name: no such data set" >&2; exit 2; }

# file_name PATH NAME: what a path of the package becomes: NAME, or the path without folders, unpacked.
file_name() {
    base=${1##*/}
    echo "${2:-${base%.gz}}"
}

# is_right FILE BYTES SHA256
is_right() {
    [ -f "$1" ] && [ "$(wc -c < "$1")" -eq "$2" ] && echo "$3  $1" | sha256sum --check --status
}

# listing_sum FOLDER: sha256 of the sorted list of the sums and names of all files below.
listing_sum() {
    (cd "$1" && find . -type f -exec sha256sum {} + | sort -k 2 | sha256sum | cut -d ' ' -f 1)
}

# Every file and folder of the set stands in FOLDER as pinned.
is_complete() {
    grep "^tree $set_name " "$pins" | while read -r _ _ path files tree_sum; do
        [ -d "$1/${path##*/}" ] && [ "$(find "$1/${path##*/}" -type f | wc -l)" -eq "$files" ] &&
            [ "$(listing_sum "$1/${path##*/}")" = "$tree_sum" ] || exit 1
    done || return 1
    grep "^file $set_name " "$pins" | while read -r _ _ path file_bytes file_sum as; do
        is_right "$1/$(file_name "$path" "$as")" "$file_bytes" "$file_sum" || exit 1
    done
}

is_complete "$cache/$set_name" && exit 0
[ -z "$check" ] || exit 3
mkdir -p "$cache" || fail "$cache: cannot be made"
exec 9> "$cache/.lock" || fail "$cache: cannot be written"
flock 9
is_complete "$cache/$set_name" && exit 0

work=$(mktemp -d "$cache/.fetch.XXXXXX") || fail "$cache: cannot be written"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# have_client COMMAND PACKAGE
have_client() {
    command -v "$1" > /dev/null && return
    [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null ||
        fail "$1 is missing: install it (Debian: apt-get install $2) to fetch $name"
    echo "fetch.sh: installing $2" >&2
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$2"; } \
        > "$work/apt.log" 2>&1 9>&- || fail "$1 is missing and cannot be installed: $(grep -m 1 '^E:' "$work/apt.log" || tail -n 1 "$work/apt.log")"
}

# Each client leaves the package in the folder it runs in.
download_npm() {
    npm pack --ignore-scripts --silent --no-update-notifier --fetch-retries=1 --fetch-retry-mintimeout=1000 \
        --fetch-timeout=60000 --loglevel=error "$name@$version"
}
download_pip() {
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation --only-binary :all: \
        --ignore-requires-python --retries 1 "$name==$version"
}
download_apt() {
    apt-get -qq download "$name=$version" || { apt-get -qq update && apt-get -qq download "$name=$version"; }
}

# The reason in a client's messages, in a few words.
reason_of() {
    grep -h -m 1 -o 'E[A-Z_0-9]\{3,\}\|^E: .*\|^ERROR: .*' "$work/client.err" "$work/client.out" | head -n 1 | sed 's/^E: //; s/^ERROR: //' |
        grep . || echo "$client failed"
}

# use_package CLIENT NAME VERSION BYTES SHA256: leaves the package, checked, in the cache as $archive.
use_package() {
    client=$1 name=$2 version=$3 bytes=$4 sum=$5
    case $client in
    npm) kind=tgz ;;
    pip) kind=whl ;;
    apt) kind=deb ;;
    *) fail "$client: an unknown client in data/pins" ;;
    esac
    archive=$cache/$name-$version.$kind
    is_right "$archive" "$bytes" "$sum" && return
    rm -f "$archive"
    case $client in
    npm) have_client npm npm ;;
    pip) have_client pip3 python3-pip ;;
    apt) have_client apt-get apt ;;
    esac
    echo "fetch.sh: fetching $name@$version ($((bytes / 1000000)) MB)" >&2
    rm -rf "$work/download"
    mkdir "$work/download" || fail "$cache: cannot be written"
    (cd "$work/download" && "download_$client" > "$work/client.out" 2> "$work/client.err" < /dev/null 9>&-) ||
        fail "cannot download $name@$version (is there a network?): $(reason_of)"
    got=$(find "$work/download" -type f -name "*.$kind")
    [ -f "$got" ] || fail "$name@$version: the client left no .$kind file"
    is_right "$got" "$bytes" "$sum" ||
        fail "$name@$version: wrong checksum: $(wc -c < "$got") bytes, sha256 $(sha256sum "$got" | cut -d ' ' -f 1); discarded"
    mv "$got" "$archive" || fail "$archive: cannot be written"
}

# from_zip ARCHIVE PATH: one file of a zip, to stdout.
from_zip() {
    command -v python3 > /dev/null || have_client python3 python3-minimal
    python3 -c 'import shutil, sys, zipfile
shutil.copyfileobj(zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]), sys.stdout.buffer)' "$1" "$2"
}

# unpack PATH: one file of the package, to stdout.
unpack() {
    case $kind in
    tgz) tar -xzOf "$archive" "$1" ;;
    whl | zip) from_zip "$archive" "$1" ;;
    deb) dpkg-deb --fsys-tarfile "$archive" | tar -xOf - "./$1" ;;
    esac
}

# unpack_tree PATH FOLDER: the folder PATH of the package to FOLDER, without links.
unpack_tree() {
    mkdir "$work/tree" || return 1
    case $kind in
    tgz) tar -xzf "$archive" -C "$work/tree" "$1" ;;
    deb) dpkg-deb --fsys-tarfile "$archive" | tar -xf - -C "$work/tree" "./$1" ;;
    *) false ;;
    esac || return 1
    find "$work/tree" -type l -delete && mv "$work/tree/$1" "$2" && rm -rf "$work/tree"
}

# The packages of the set; of pieces of a zip, its pieces put together.
while read -r _ _ client name version bytes sum piece; do
    use_package "$client" "$name" "$version" "$bytes" "$sum"
    [ -z "$piece" ] || unpack "$piece" >> "$work/joined.zip" || fail "$archive: cannot be unpacked (is the disk full?)"
done <<EOF
$(grep "^package $set_name " "$pins")
EOF
[ ! -e "$work/joined.zip" ] || { archive=$work/joined.zip kind=zip; }

mkdir "$work/$set_name" || fail "$cache: cannot be written"
grep "^file $set_name " "$pins" | while read -r _ _ path _ _ as; do
    target=$work/$set_name/$(file_name "$path" "$as")
    case $path in
    *.gz) unpack "$path" | gzip -dc > "$target" || exit 1 ;;
    *) unpack "$path" > "$target" || exit 1 ;;
    esac
done || fail "$archive: cannot be unpacked (is the disk full?)"
grep "^tree $set_name " "$pins" | while read -r _ _ path _; do
    unpack_tree "$path" "$work/$set_name/${path##*/}" || exit 1
done || fail "$archive: cannot be unpacked (is the disk full?)"
is_complete "$work/$set_name" || fail "$archive: a file in it is not as pinned"
rm -rf "${cache:?}/$set_name"
mv "$work/$set_name" "$cache/$set_name" || fail "$cache: cannot be written"
echo "fetch.sh: $set_name is in $cache/$set_name" >&2
