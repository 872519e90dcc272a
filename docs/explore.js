/* The section Explore of the report: the limit kernel of a random prefix by its closed form, its eigenvalues, and what
 * they predict. Under Node the functions are exported, and tests/page.sh compares them with the C programs. */
'use strict';

/* n points on the unit sphere of R^d, row by row; the same ones whatever was asked for before. */
function inputs(n, d) {
  let state = 20240614;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  const X = [];
  for (let i = 0; i < n; i++) {
    const x = Array.from({ length: d }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
    const norm = Math.hypot(...x);
    X.push(x.map((c) => c / norm));
  }
  return X;
}

/* K*(x, x') = e^{s <x,x'>} [ I + x' mu^T + mu x^T + <x,x'> (s I + mu mu^T) ], mu = s (x + x'), s = sigma^2;
 * signs of mean 0. Row i d + k. */
function limitKernel(X, sigma) {
  const n = X.length, d = X[0].length, s = sigma * sigma;
  const K = Array.from({ length: n * d }, () => new Float64Array(n * d));
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++) {
      const x = X[i], y = X[j];
      const dot = x.reduce((sum, c, q) => sum + c * y[q], 0);
      const mu = x.map((c, q) => s * (c + y[q]));
      const factor = Math.exp(s * dot);
      for (let k = 0; k < d; k++)
        for (let l = 0; l < d; l++)
          K[i * d + k][j * d + l] =
            factor * ((k === l ? 1 + s * dot : 0) + y[k] * mu[l] + mu[k] * x[l] + dot * mu[k] * mu[l]);
    }
  return K;
}

/* Eigenvalues of a symmetric matrix, ascending: cyclic Jacobi rotations. */
function eigenvalues(matrix) {
  const A = matrix.map((row) => Float64Array.from(row)), n = A.length;
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0, diagonal = 0;
    for (let p = 0; p < n; p++) {
      diagonal += A[p][p] * A[p][p];
      for (let q = 0; q < p; q++) off += A[p][q] * A[p][q];
    }
    if (off <= 1e-32 * diagonal) break;
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        if (A[p][q] === 0) continue;
        const theta = (A[q][q] - A[p][p]) / (2 * A[p][q]);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1), s = t * c;
        for (let k = 0; k < n; k++) {
          const a = A[k][p], b = A[k][q];
          A[k][p] = c * a - s * b;
          A[k][q] = s * a + c * b;
        }
        for (let k = 0; k < n; k++) {
          const a = A[p][k], b = A[q][k];
          A[p][k] = c * a - s * b;
          A[q][k] = s * a + c * b;
        }
      }
  }
  return A.map((row, i) => row[i]).sort((a, b) => a - b);
}

/* Steps of descent with step 1/(m lambda_max) until the slowest direction's loss is `ratio` of its start. */
function predictedSteps(smallest, largest, ratio) {
  if (!(smallest > 1e-14 * largest)) return Infinity; /* singular, to rounding */
  if (smallest === largest) return 1;
  return Math.ceil(Math.log(ratio) / (2 * Math.log1p(-smallest / largest)));
}

function explore(n, d, sigma, m) {
  const values = eigenvalues(limitKernel(inputs(n, d), sigma));
  const smallest = values[0], largest = values[values.length - 1];
  return { smallest, largest, eta: 1 / (m * largest), steps: predictedSteps(smallest, largest, 1e-10) };
}

function start() {
  const get = (name) => document.getElementById('x-' + name);
  if (!get('n')) return;
  const show = (x) => (Number.isFinite(x) ? Number(x.toPrecision(4)).toString() : 'never');
  const update = () => {
    const n = +get('n').value, d = +get('d').value, sigma = +get('sigma').value, m = 2 ** +get('m').value;
    get('n-value').textContent = n;
    get('d-value').textContent = d;
    get('sigma-value').textContent = sigma;
    get('m-value').textContent = 'm = ' + m;
    const r = explore(n, d, sigma, m);
    get('lambda').textContent = show(r.smallest);
    get('largest').textContent = show(r.largest);
    get('eta').textContent = show(r.eta);
    get('steps').textContent = show(r.steps);
    get('rank').textContent = m >= n ? 'yes' : 'no';
    get('size').textContent = 2 * m * d + ' and ' + (d * d + d);
  };
  for (const name of ['n', 'd', 'sigma', 'm']) get(name).addEventListener('input', update);
  update();
}

if (typeof module !== 'undefined') module.exports = { inputs, limitKernel, eigenvalues, predictedSteps, explore };
else if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start);
else start();
