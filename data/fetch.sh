#!/bin/sh
# Fetches a data set named in data/pins into its cache, checks it, unpacks it:
#
#   data/fetch.sh SET            e.g. mnist
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
[ $# -eq 1 ] || { echo "usage: data/fetch.sh [--check] SET" >&2; exit 2; }
set_name=$1
package=$(grep "^package $set_name " "$pins") || { echo "fetch.sh: $set_name: no such data set" >&2; exit 2; }
# shellcheck disable=SC2086
set -- $package
client=$3 name=$4 version=$5 bytes=$6 sum=$7

# is_right FILE BYTES SHA256
is_right() {
    [ -f "$1" ] && [ "$(wc -c < "$1")" -eq "$2" ] && echo "$3  $1" | sha256sum --check --status
}

# Every file of the set stands in FOLDER as pinned.
is_complete() {
    grep "^file $set_name " "$pins" | while read -r _ _ path file_bytes file_sum; do
        is_right "$1/${path##*/}" "$file_bytes" "$file_sum" || exit 1
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

have_client() {
    command -v "$client" > /dev/null && return
    [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null ||
        fail "$client is missing: install it (Debian: apt-get install $client) to fetch $name"
    echo "fetch.sh: installing $client" >&2
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$client"; } \
        > "$work/apt.log" 2>&1 9>&- || fail "$client is missing and cannot be installed: $(grep -m 1 '^E:' "$work/apt.log" || tail -n 1 "$work/apt.log")"
}

# Leaves the package, checked, in the cache.
archive=$cache/$name-$version.tgz
if ! is_right "$archive" "$bytes" "$sum"; then
    rm -f "$archive"
    have_client
    echo "fetch.sh: fetching $name@$version ($((bytes / 1000000)) MB)" >&2
    case $client in
    npm) (cd "$work" && npm pack --ignore-scripts --silent --no-update-notifier --fetch-retries=1 --fetch-retry-mintimeout=1000 \
            --fetch-timeout=60000 --loglevel=error "$name@$version" > npm.out 2> npm.log < /dev/null 9>&-) ||
            fail "cannot download $name@$version (is there a network?): $(grep -m 1 -o 'E[A-Z_0-9]\{3,\}' "$work/npm.log" "$work/npm.out" | head -n 1 | sed 's/.*://' | grep . || echo "npm failed")" ;;
    *) fail "$client: an unknown client in data/pins" ;;
    esac
    got=$work/$name-$version.tgz
    [ -f "$got" ] || fail "$name@$version: the client left no $name-$version.tgz"
    is_right "$got" "$bytes" "$sum" ||
        fail "$name@$version: wrong checksum: $(wc -c < "$got") bytes, sha256 $(sha256sum "$got" | cut -d ' ' -f 1); discarded"
    mv "$got" "$archive" || fail "$archive: cannot be written"
fi

mkdir "$work/$set_name" || fail "$cache: cannot be written"
grep "^file $set_name " "$pins" | while read -r _ _ path _; do
    tar -xzOf "$archive" "$path" > "$work/$set_name/${path##*/}" || exit 1
done || fail "$archive: cannot be unpacked (is the disk full?)"
is_complete "$work/$set_name" || fail "$archive: a file in it is not as pinned"
rm -rf "${cache:?}/$set_name"
mv "$work/$set_name" "$cache/$set_name" || fail "$cache: cannot be written"
echo "fetch.sh: $set_name is in $cache/$set_name" >&2
