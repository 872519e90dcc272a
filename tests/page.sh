#!/bin/sh
# The report in a browser, at the widths of a phone and of a desk: no horizontal scroll, no missing image, every internal
# link leads somewhere, no script error, a row opens, a figure tells its values; its computed numbers against the C programs,
# and the values of its figures against the tables.
#
#   tests/page.sh PAGE BIN      PAGE: index.html; BIN: the folder of the programs
#
# Screenshots stay beside the page. Where there is no Chromium or no Node that part is skipped, with the reason.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
page=$1 bin=$2

if command -v node > /dev/null; then
    node "$root/tests/page_numbers.js" "$bin"
    node "$root/tests/page_figures.js" "$(dirname "$page")/../figures" "$(dirname "$page")/../results"
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
for file in $(grep -o 'href="\.\./[^"]*"' "$page" | sed 's/href="//; s/"$//' | sort -u); do
    [ -f "$(dirname "$page")/$file" ] || { echo "page: a link to a file that is not there: $file" >&2; exit 1; }
done
figures=$(grep -c '<svg ' "$page" || true)
[ "$figures" -gt 0 ] || { echo "page: no figures" >&2; exit 1; }
echo "page: $(wc -l < "$work/links") internal links resolve, $figures figures, no missing image"

browser=
for name in chromium chromium-browser google-chrome; do
    [ -n "$browser" ] || browser=$(command -v "$name" || true)
done
[ -n "$browser" ] || { echo "page: browser skipped: no Chromium"; exit 0; }

# A script added to a copy measures the page, which a frame of the wanted width shows (a window has a least width), and
# the document around the frame takes the answer as its title.
cat > "$work/measure.js" <<'END'
window.addEventListener('load', () => {
  const width = document.documentElement.clientWidth;
  const broken = [...document.images].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.alt || '?');
  const scrolls = (e) => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const wide = [...document.querySelectorAll('body *')]
    .filter((e) => e.getBoundingClientRect().right > width + 1 && !scrolls(e))
    .map((e) => e.parentElement.tagName + '>' + e.tagName + ' ' + e.textContent.slice(0, 30));
  // The pointer on a mark of the first figure, and a link to a row.
  const svg = document.querySelector('.figure svg'), mark = svg.querySelector('use[transform*="scale(4"], use[transform*="scale(3"]');
  const at = mark ? mark.getBoundingClientRect() : svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent('pointermove', { clientX: at.left + at.width / 2, clientY: at.top + at.height / 2, bubbles: true }));
  const shown = (document.querySelector('.figure .values:not([hidden])') || {}).textContent || 'none';
  const row = document.querySelector('.verdict-rows details');
  location.hash = row.id;
  dispatchEvent(new HashChangeEvent('hashchange'));
  parent.postMessage('measured ' + (document.documentElement.scrollWidth > width ? 'scrolls ' + wide.slice(0, 8) : 'fits') +
    ', broken images ' + broken.length + ' ' + broken + ', errors ' + window.errors +
    ', row ' + (row.open ? 'opens' : 'stays shut') + ', lambda ' + document.getElementById('x-lambda').textContent +
    ', pointer ' + shown, '*');
});
END
cat > "$work/count.js" <<'END'
window.errors = 0; window.addEventListener('error', () => { window.errors++; });
END
awk -v count="$work/count.js" -v measure="$work/measure.js" '
    function script(file, line) {
        print "<script>"
        while ((getline line < file) > 0) print line
        print "</script>"
    }
    /<\/body>/ { script(measure) }
    { print }
    /<head>/ && !done { script(count); done = 1 }' "$page" > "$work/page.html"
chromium() { "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars "$@" "file://$work/frame.html" 2> /dev/null; }
for width in 390 1280; do
    cat > "$work/frame.html" <<END
<!DOCTYPE html><body style="margin:0">
<script>window.addEventListener("message", (e) => { document.title = e.data; });</script>
<iframe src="page.html" style="border:0;width:${width}px;height:1600px"></iframe></body>
END
    chromium --window-size=1300,1700 --virtual-time-budget=20000 --dump-dom |
        grep -o '<title>measured[^<]*' | sed 's/<title>//' > "$work/found" || true
    case $(cat "$work/found") in
    "measured fits, broken images 0 , errors 0, row opens, lambda "[0-9]*", pointer prefix length m: "*) echo "page: $width pixels: $(cat "$work/found")" ;;
    *) echo "page: $width pixels: $(cat "$work/found")" >&2; exit 1 ;;
    esac
    chromium --window-size="$width,1600" --screenshot="$(dirname "$page")/screen-$width.png" > /dev/null
done
