/* The numbers of the report's section Explore against ntk_convergence, at 20 points:
 *
 *   node tests/page_numbers.js BIN     BIN: the folder of the programs */
'use strict';
const assert = require('assert');
const { execFileSync } = require('child_process');
const fs = require('fs');
const os = require('os');
const path = require('path');
const page = require('../docs/explore.js');

const bin = path.resolve(process.argv[2]);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'page-'));

/* A float64 matrix of an NPY file of version 1. */
function readNpy(file) {
  const data = fs.readFileSync(file), header = data.toString('latin1', 10, 10 + data.readUInt16LE(8));
  const [rows, columns] = /\((\d+), (\d+)\)/.exec(header).slice(1).map(Number);
  const at = 10 + data.readUInt16LE(8);
  return Array.from({ length: rows }, (_, i) =>
    Array.from({ length: columns }, (_, j) => data.readDoubleLE(at + 8 * (i * columns + j))));
}

/* Largest difference of two matrices per largest number; NaN is infinitely far. */
function distance(A, B) {
  let off = 0, size = 0;
  A.forEach((row, i) => row.forEach((a, j) => {
    const e = Math.abs(a - B[i][j]);
    off = e <= off ? off : Number.isFinite(e) ? e : Infinity;
    size = Math.max(size, Math.abs(B[i][j]));
  }));
  return off / size;
}

const ROUNDOFF = 1e-12, EIGENVALUE = 1e-11;
let worst = 0, worstEigenvalue = 0;
try {
  for (let point = 0; point < 20; point++) {
    const n = 1 + (point % 7), d = 2 + ((3 * point) % 5), sigma = 0.15 + 0.065 * point;
    const X = page.inputs(n, d), K = page.limitKernel(X, sigma);
    const inputs = path.join(folder, 'X.csv'), limit = path.join(folder, 'K.npy');
    fs.writeFileSync(inputs, X.map((x) => x.map((c) => c.toPrecision(17)).join(',')).join('\n') + '\n');
    const words = ['--inputs', inputs, '--sigma', String(sigma), '--prefix-len', '4', '--num-trials', '2', '--limit-out', limit];
    const table = execFileSync(path.join(bin, 'ntk_convergence'), words.concat('--quiet'), { encoding: 'utf8' })
      .split('\n').filter((l) => l && l[0] !== '#');
    const column = table[0].split(',').indexOf('lambda_min_limit'), wanted = Number(table[1].split(',')[column]);
    const off = distance(K, readNpy(limit)), values = page.eigenvalues(K);
    const offEigenvalue = Math.abs(values[0] - wanted) / values[values.length - 1];
    assert(off <= ROUNDOFF, `n=${n} d=${d} sigma=${sigma}: the kernel is off by ${off}`);
    assert(offEigenvalue <= EIGENVALUE, `n=${n} d=${d} sigma=${sigma}: lambda is ${values[0]}, should be ${wanted}`);
    const steps = page.predictedSteps(values[0], values[values.length - 1], 1e-10);
    if (Number.isFinite(steps) && steps > 1) {
      const left = (t) => (1 - values[0] / values[values.length - 1]) ** (2 * t);
      assert(left(steps) <= 1e-10 * (1 + 1e-6) && left(steps - 1) > 1e-10 * (1 - 1e-6), `${steps} steps leave ${left(steps)}`);
    }
    worst = Math.max(worst, off);
    worstEigenvalue = Math.max(worstEigenvalue, offEigenvalue);
    K[0][0] *= 1 + 1e-9;
    assert(distance(K, readNpy(limit)) > ROUNDOFF, 'a planted error passes');
  }
  console.log(`page: numbers agree with ntk_convergence at 20 points (kernel ${worst.toExponential(1)}, ` +
    `lambda ${worstEigenvalue.toExponential(1)})`);
} finally {
  fs.rmSync(folder, { recursive: true });
}
