#!/bin/sh
# The report in a browser, at the widths of a phone and of a desk: no horizontal scroll, no missing image, every internal link
# leads somewhere, no script error; and its computed numbers against the C programs.
#
#   tests/page.sh PAGE BIN      PAGE: index.html; BIN: the folder of the programs
#
# Screenshots stay beside the page. Where there is no Chromium or no Node that part is skipped, with the reason.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
page=$1 bin=$2

if command -v node > /dev/null; then
    node "$root/tests/page_numbers.js" "$bin"
else
    echo "page: numbers skipped: no node"
fi

# What needs no browser: images that are not in the page, links to nothing.
missing=$(grep -o '<img[^>]*src="[^"]*"' "$page" | grep -vc 'src="data:' || true)
[ "$missing" -eq 0 ] || { echo "page: $missing images are not in the page" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
grep -o 'href="#[^"]*"' "$page" | sed 's/href="#//; s/"$//' | sort -u > "$work/links"
grep -o ' id="[^"]*"' "$page" | sed 's/ id="//; s/"$//' | sort -u > "$work/ids"
dead=$(comm -23 "$work/links" "$work/ids")
[ -z "$dead" ] || { echo "page: links that lead nowhere:" $dead >&2; exit 1; }
echo "page: $(wc -l < "$work/links") internal links resolve, no missing image"

browser=
for name in chromium chromium-browser google-chrome; do
    [ -n "$browser" ] || browser=$(command -v "$name" || true)
done
[ -n "$browser" ] || { echo "page: browser skipped: no Chromium"; exit 0; }

# A script added to a copy measures the page, which a frame of the wanted width shows (a window has a least width), and the
# document around the frame takes the answer as its title.
cat > "$work/measure.js" <<'END'
window.addEventListener('load', () => {
  const width = document.documentElement.clientWidth;
  const broken = [...document.images].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.alt || '?');
  const wide = document.documentElement.scrollWidth > width;
  const widest = [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > width + 1)
    .filter((e) => { for (let a = e; a; a = a.parentElement) if (/auto|scroll|hidden/.test(getComputedStyle(a).overflowX)) return false; return true; })
    .map((e) => e.parentElement.tagName + '>' + e.tagName + ' ' + e.textContent.slice(0, 30));
  parent.postMessage('measured ' + (wide ? 'scrolls ' + widest.slice(0, 8).join(' ') : 'fits') + ', broken images ' + broken.length + ' ' +
    broken.join(' ') + ', errors ' + window.errors + ', lambda ' + document.getElementById('x-lambda').textContent, '*');
});
END
awk -v script="$work/measure.js" '
    /<head>/ && !done { sub(/<head>/, "<head><script>window.errors = 0; window.addEventListener(\"error\", () => { window.errors++; });</script>"); done = 1 }
    /<\/body>/ { print "<script>"; while ((getline line < script) > 0) print line; print "</script>" }
    { print }' "$page" > "$work/page.html"
for width in 390 1280; do
    printf '%s\n' '<!DOCTYPE html><body style="margin:0"><script>window.addEventListener("message", (e) => { document.title = e.data; });</script>' \
        "<iframe src=\"page.html\" style=\"border:0;width:${width}px;height:1600px\"></iframe></body>" > "$work/frame.html"
    "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1300,1700 --virtual-time-budget=20000 \
        --dump-dom "file://$work/frame.html" 2> /dev/null | grep -o '<title>measured[^<]*' | sed 's/<title>//' > "$work/found" || true
    case $(cat "$work/found") in
    "measured fits, broken images 0 , errors 0, lambda "[0-9]*) echo "page: $width pixels: $(cat "$work/found")" ;;
    *) echo "page: $width pixels: $(cat "$work/found")" >&2; exit 1 ;;
    esac
    "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size="$width,1600" \
        --screenshot="$(dirname "$page")/screen-$width.png" "file://$work/frame.html" > /dev/null 2>&1
done
