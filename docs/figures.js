/* The values under the pointer in the report's figures. plots/draw.sh left the axes of each panel in the SVG; the marks are
 * gnuplot's. Under Node the functions are exported, and tests/page_figures.js compares them with the tables. */
'use strict';

/* The panels of a figure of the height given: frame in the SVG's units from the upper left, ranges, logarithms, labels. */
function panelsOf(axes, height) {
  const panels = [];
  for (const line of axes.split('\n')) {
    const [word, ...rest] = line.split(' ');
    const panel = panels[panels.length - 1];
    if (word === 'panel') {
      const [x0, x1, y0, y1, xlo, xhi, ylo, yhi] = rest.map(Number);
      panels.push({ x0, x1, y0: height - y0, y1: height - y1, lo: { x: xlo, y: ylo }, hi: { x: xhi, y: yhi }, log: {}, label: {} });
    } else if (word === 'log') panel.log[rest[0]] = true;
    else if (word === 'label') panel.label[rest[0]] = rest.slice(1).join(' ').replace(/[{}]/g, '');
  }
  return panels;
}

/* The value on an axis of the share s of its length. */
function valueAt(panel, axis, s) {
  const lo = panel.lo[axis], hi = panel.hi[axis];
  return panel.log[axis] ? lo * Math.pow(hi / lo, s) : lo + (hi - lo) * s;
}

function valuesAt(panel, x, y) {
  return {
    x: valueAt(panel, 'x', (x - panel.x0) / (panel.x1 - panel.x0)),
    y: valueAt(panel, 'y', (y - panel.y0) / (panel.y1 - panel.y0)),
  };
}

function panelAt(panels, x, y, slack) {
  return panels.find((p) => x >= p.x0 - slack && x <= p.x1 + slack && y >= p.y1 - slack && y <= p.y0 + slack);
}

/* The marks of an SVG's text that lie in a panel, with the title of their series ('' when gnuplot has none). A mark beside
 * a text of its own series is the key's; one of size 0 is that of a bar, a white one the ground of another. */
function marksOf(source, panels) {
  const marks = [], colours = {};
  const place = /translate\(\s*([-\d.]+)[, ]\s*([-\d.]+)\s*\)/;
  for (const group of source.split(/<g id=["'][^"']*gnuplot_plot_/).slice(1)) {
    const named = /<title>([^<]*)<\/title>/.exec(group), title = named && !/^gnuplot_plot_/.test(named[1]) ? named[1] : '';
    const key = (group.match(/<g transform=["']translate\([^>]*>\s*<text/g) || []).map((g) => +place.exec(g)[2]);
    for (const use of group.match(/<use [^>]*gpPt\d+[^>]*>/g) || []) {
      const at = place.exec(use), colour = (/color=["']([^"']*)/.exec(use) || [])[1];
      if (!at || /scale\(0[.0]*\)/.test(use) || /^#ffffff$/i.test(colour)) continue;
      const x = +at[1], y = +at[2], panel = panelAt(panels, x, y, 0.01);
      if (key.some((t) => Math.abs(t - y) < 8)) {
        if (title && colour) colours[colour] = title;
        continue;
      }
      if (panel) marks.push({ x, y, panel, title, colour });
    }
  }
  for (const mark of marks) mark.title = mark.title || colours[mark.colour] || '';
  return marks;
}

function show(x) {
  const a = Math.abs(x);
  return a !== 0 && (a < 1e-3 || a >= 1e6) ? x.toExponential(2) : String(Number(x.toPrecision(4)));
}

function readout(panel, x, y, title) {
  const v = valuesAt(panel, x, y);
  return `${panel.label.x || 'x'}: ${show(v.x)}, ${panel.label.y || 'y'}: ${show(v.y)}${title ? ', ' + title : ''}`;
}

/* Under the pointer: the nearest mark within reach, else the axes' values there. */
function watch(figure, svg) {
  const box = svg.viewBox.baseVal, metadata = svg.querySelector('metadata');
  if (!metadata) return;
  const panels = panelsOf(metadata.textContent, box.height), note = document.createElement('output');
  let marks = null;
  note.className = 'values';
  note.hidden = true;
  figure.insertBefore(note, svg.nextSibling);
  const move = (event) => {
    const rect = svg.getBoundingClientRect(), scale = box.width / rect.width;
    let x = (event.clientX - rect.left) * scale, y = (event.clientY - rect.top) * scale, title = '';
    const panel = panelAt(panels, x, y, 4);
    note.hidden = !panel;
    if (!panel) return;
    marks = marks || marksOf(svg.outerHTML, panels);
    const distance = (m) => Math.hypot(m.x - x, m.y - y);
    const near = marks.filter((m) => m.panel === panel && distance(m) < 16).sort((a, b) => distance(a) - distance(b))[0];
    if (near) ({ x, y, title } = near);
    note.textContent = readout(panel, x, y, title);
    const at = (x / scale) + 12, widest = rect.width - note.offsetWidth;
    note.style.left = Math.max(0, Math.min(at, widest)) + 'px';
    note.style.top = svg.offsetTop + y / scale - note.offsetHeight - 8 + 'px';
  };
  svg.addEventListener('pointermove', move);
  svg.addEventListener('pointerdown', move);
  svg.addEventListener('pointerleave', () => { note.hidden = true; });
}

/* A link to a row of the table of verdicts opens it. */
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = target && target.closest('details');
  if (details) details.open = true;
}

function startFigures() {
  for (const figure of document.querySelectorAll('.figure')) {
    const svg = figure.querySelector('svg');
    if (svg) watch(figure, svg);
  }
  window.addEventListener('hashchange', openTarget);
  openTarget();
}

if (typeof module !== 'undefined') module.exports = { panelsOf, valuesAt, marksOf, readout };
else if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', startFigures);
else startFigures();
