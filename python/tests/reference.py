"""The formulas in float64, one row at a time, and the comparison the tests share."""

import itertools
import math

import numpy as np

# Single precision: a few hundred roundings of numbers of order 1.
ATOL_SINGLE = 5e-6
# Double precision, sums of up to 100 terms of order 1.
RTOL_DOUBLE = 1e-12


def assert_close(test, got, want, atol, rtol=0.0):
    """Every number finite and within atol + rtol |want|; NaN never passes."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    test.assertEqual(got.shape, want.shape)
    off = np.abs(got - want)
    wrong = ~(np.isfinite(got) & np.isfinite(want) & (off <= atol + rtol * np.abs(want)))
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        test.fail(f"{wrong.sum()} of {wrong.size} differ, first at {where}: {got[where]!r}, should be {want[where]!r}")


def spread(x, batch, heads, axes):
    """x with its missing leading axes filled in: (batch, heads, ...), `axes` being those after the head axis."""
    x = np.asarray(x, np.float64)
    while x.ndim < axes + 2:
        x = x[None]
    return np.broadcast_to(x, (batch, heads) + x.shape[2:])


def visible(i, len_q, len_k, causal, length):
    return [j for j in range(len_k) if j < length and (not causal or j <= i + len_k - len_q)]


def attention(q, k, v, prefix_k=None, prefix_v=None, causal=False, key_lengths=None, scale=None):
    B, H, Lq, d = q.shape
    kv, Lk = k.shape[1:3]
    scale = d**-0.5 if scale is None else scale
    out = np.zeros(q.shape)
    if prefix_k is not None:
        prefix_k, prefix_v = spread(prefix_k, B, kv, 2), spread(prefix_v, B, kv, 2)
    for b, h, i in itertools.product(range(B), range(H), range(Lq)):
        g = h // (H // kv)
        seen = visible(i, Lq, Lk, causal, Lk if key_lengths is None else key_lengths[b])
        keys, values = k[b, g, seen].astype(np.float64), v[b, g, seen].astype(np.float64)
        if prefix_k is not None:
            keys, values = np.concatenate([prefix_k[b, g], keys]), np.concatenate([prefix_v[b, g], values])
        w = np.exp(scale * (keys @ q[b, h, i].astype(np.float64)))
        out[b, h, i] = w @ values / w.sum()
    return out


def phi(x, feature):
    """elu1 and taylor:G of one row."""
    z = np.asarray(x, np.float64) / len(x) ** 0.25
    if feature == "elu1":
        return np.where(z > 0, z + 1, np.exp(np.minimum(z, 0)))
    out = []
    for degree in range(int(feature.split(":")[1]) + 1):
        for mono in itertools.combinations_with_replacement(range(len(z)), degree):
            repeats = math.prod(math.factorial(mono.count(i)) for i in set(mono))
            out.append(math.prod(z[list(mono)]) / math.sqrt(repeats))
    return np.array(out)


def fold(K, V, feature):
    features = np.array([phi(x, feature) for x in K])
    return features.T @ np.asarray(V, np.float64), features.sum(0)


def ntk_attention(q, k, v, Z, kvec, feature="elu1", causal=False, key_lengths=None, scale=None):
    B, H, Lq, d = q.shape
    kv, Lk = k.shape[1:3]
    heads = Z.shape[-3] if Z.ndim > 2 else 1
    scale = d**-0.5 if scale is None else scale
    Z, kvec = spread(Z, B, heads, 2), spread(kvec, B, heads, 1)
    out = np.zeros(q.shape)
    for b, h, i in itertools.product(range(B), range(H), range(Lq)):
        seen = visible(i, Lq, Lk, causal, Lk if key_lengths is None else key_lengths[b])
        g, s = h // (H // kv), h // (H // heads)
        row = q[b, h, i].astype(np.float64)
        w, p = np.exp(scale * (k[b, g, seen].astype(np.float64) @ row)), phi(row, feature)
        out[b, h, i] = (w @ v[b, g, seen].astype(np.float64) + p @ Z[b, s]) / (w.sum() + p @ kvec[b, s])
    return out


def outputs(W, a, x):
    e = np.exp(W @ x - (W @ x).max())
    return len(W) * (a * e / e.sum()) @ W


def gram(W, a, X, kernel):
    """(1/m) J J' with the derivative of F_k(x_i) in w_r written out."""
    m, d = W.shape
    rows = []
    for x in X:
        e = np.exp(W @ x - (W @ x).max())
        S = e / e.sum()
        f = (a * S) @ W
        for k in range(d):
            J = m * S[:, None] * (a * W[:, k] - f[k])[:, None] * x[None]
            if kernel == "full":
                J[:, k] += m * a * S
            rows.append(J.ravel())
    J = np.array(rows)
    return J @ J.T / m
