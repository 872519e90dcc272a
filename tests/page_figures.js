/* The values that the report's figures show under the pointer, against the tables they were drawn from:
 *
 *   node tests/page_figures.js FIGURES RESULTS      the folders of a profile
 *
 * Of the figures below every point of the table that the figure shows must be found within a pixel, with its series. */
'use strict';
const assert = require('assert');
const fs = require('fs');
const path = require('path');
const figures = require('../docs/figures.js');

const [folder, results] = process.argv.slice(2);

function table(file) {
  const [head, ...rows] = fs.readFileSync(file, 'utf8').split('\n').filter((l) => l && l[0] !== '#').map((l) => l.split(','));
  return rows.map((row) => Object.fromEntries(row.map((cell, i) => [head[i], cell])));
}

/* One panel of a figure: which rows of its table it shows as marks, at which columns, under which title. */
const cases = [
  { run: 'ntk_convergence', panel: 0, x: 'prefix_len', y: 'rel_err_rms', rows: (r) => r.kernel === 'full', title: (r) => r.signs + ' signs' },
  { run: 'ntk_convergence', panel: 1, x: 'prefix_len', y: 'rel_err_rms', rows: (r) => r.kernel === 'key', title: (r) => r.signs + ' signs' },
];

const PIXEL = 0.02; /* gnuplot writes hundredths */
let points = 0;
for (const c of cases) {
  const svg = fs.readFileSync(path.join(folder, c.run + '.svg'), 'utf8');
  const height = Number(/viewBox="0 0 \d+ (\d+)"/.exec(svg)[1]);
  const panels = figures.panelsOf(/<metadata>\n([^<]*)<\/metadata>/.exec(svg)[1], height);
  const panel = panels[c.panel], marks = figures.marksOf(svg, panels).filter((m) => m.panel === panel);
  const found = (row, stretch) => marks.some((m) => {
    const v = figures.valuesAt(panel, m.x, m.y), step = figures.valuesAt(panel, m.x + PIXEL, m.y - PIXEL);
    return m.title === c.title(row) && Math.abs(v.x - row[c.x]) <= Math.abs(step.x - v.x) &&
      Math.abs(v.y - row[c.y] * stretch) <= Math.abs(step.y - v.y);
  });
  const rows = table(path.join(results, c.run + '.csv')).filter(c.rows);
  assert(rows.length > 2, `${c.run}: no rows`);
  for (const row of rows) {
    assert(found(row, 1), `${c.run}: no mark at ${row[c.x]}, ${row[c.y]} (${c.title(row)})`);
    assert(!found(row, 1.02), `${c.run}: a planted error passes`);
  }
  assert.strictEqual(marks.length, rows.length, `${c.run}: ${marks.length} marks for ${rows.length} rows`);
  points += rows.length;
}
console.log(`page: the figures give the values of their tables (${points} points)`);

/* Every figure has the axes of its panels. */
for (const file of fs.readdirSync(folder).filter((f) => f.endsWith('.svg'))) {
  const svg = fs.readFileSync(path.join(folder, file), 'utf8'), axes = /<metadata>\n([^<]*)<\/metadata>/.exec(svg);
  assert(axes, `${file}: no axes`);
  const panels = figures.panelsOf(axes[1], Number(/viewBox="0 0 \d+ (\d+)"/.exec(svg)[1]));
  assert(panels.length > 0 && panels.every((p) => p.x1 > p.x0 && p.y0 > p.y1 && p.hi.x !== p.lo.x), `${file}: panels without extent`);
}
