"""Feature maps, features and folds."""

import ctypes
import functools
import math
import weakref

import numpy as np

from . import _library as L

SIDES = ("query", "value", "mass")


class FeatureMap:
    """A feature map phi for one head dimension, made by name.

    feature: 'elu1', 'taylor:G', 'cheb:G', 'minimax:G', 'split:G', 'favor:R', 'favor-orth:R'
    dim: the head dimension
    bound: the largest score 'cheb' and 'minimax' are made for (required by them)
    seed: the stream of favor's omega; omega: (R, dim) float64 in its place

    >>> FeatureMap('taylor:2', 4).feat_dim
    15
    """

    def __init__(self, feature, dim, bound=None, seed=L.DEFAULT_SEED, omega=None):
        spec, pointer = L.FeatureSpec(), L.VOID()
        if not isinstance(feature, str):
            raise ValueError(f"feature: a name such as 'elu1', not {feature!r}")
        status = L.lib.feature_spec_parse(feature.encode(), ctypes.byref(spec))
        if status:
            raise ValueError(f"feature: {feature!r}: {L.lib.feature_strerror(status).decode()}")
        if bound is None and L.lib.feature_needs_bound(ctypes.byref(spec)):
            raise ValueError(f"bound: {feature} needs the largest score it is made for")
        bound = 0.0 if bound is None else float(bound)
        if not (math.isfinite(bound) and bound >= 0.0):
            raise ValueError(f"bound: a number that is not negative, not {bound}")
        if omega is not None:
            omega = np.ascontiguousarray(L.array("omega", omega, (np.float64,), (2,)))
            if omega.shape != (spec.order, dim):
                raise ValueError(f"omega: shape {omega.shape}, should be {(spec.order, dim)}")
        status = L.lib.feature_map_alloc(
            ctypes.byref(spec),
            dim,
            bound,
            seed,
            omega.ctypes.data if omega is not None else None,
            ctypes.byref(pointer),
        )
        if status in (L.ENOMEM, L.EOVRFLW):
            L.check(status, "FeatureMap")
        if status:
            raise ValueError(f"feature: {feature!r} for dimension {dim}: {L.lib.feature_strerror(status).decode()}")
        self.name, self.dim, self.pointer = feature, dim, pointer.value
        self.feat_dim = L.lib.feature_dim(pointer)
        self._free = weakref.finalize(self, L.lib.feature_map_free, pointer.value)


@functools.lru_cache(maxsize=64)
def _named_map(feature, dim, bound, seed):
    return FeatureMap(feature, dim, bound, seed)


def feature_map(feature, dim, bound, seed, omega):
    """A map by name, kept from call to call, or the FeatureMap given."""
    if isinstance(feature, FeatureMap):
        if feature.dim != dim:
            raise ValueError(f"feature: a map of dimension {feature.dim} for rows of {dim}")
        return feature
    if omega is None and isinstance(feature, str):
        return _named_map(feature, dim, None if bound is None else float(bound), seed)
    return FeatureMap(feature, dim, bound, seed, omega)


def _rows(x):
    """A (n, columns) view of the rows of x, of one row stride; a copy when there is none."""
    x = x.reshape(-1, x.shape[-1])
    if len(x) > 1 and x.strides[0] < x.itemsize * x.shape[1]:
        x = np.ascontiguousarray(x)
    return x, (x.strides[0] // x.itemsize if len(x) > 1 else x.shape[1])


def features(x, feature="elu1", *, side="query", bound=None, seed=L.DEFAULT_SEED, omega=None, threads=None):
    """phi of rows.

    x: (..., dim), float32 or float64
    side: 'query' for queries, 'value' and 'mass' for keys as they weigh values and mass
    returns (..., feat_dim) of the type of x

    >>> import numpy as np
    >>> features(np.array([[0.0, -2.0], [1.0, 3.0]]), 'taylor:1').round(4)
    array([[ 1.    ,  0.    , -1.6818],
           [ 1.    ,  0.8409,  2.5227]])
    """
    x = L.array("x", x, (np.float32, np.float64), range(1, 33))
    if x.shape[-1] == 0:
        raise ValueError(f"x: rows of no number, shape {x.shape}")
    kind = L.choice("side", side, SIDES)
    fmap = feature_map(feature, x.shape[-1], bound, seed, omega)
    rows, stride = _rows(x)
    phi = np.empty((len(rows), fmap.feat_dim), x.dtype)
    run = L.lib.feature_forward_f32 if x.dtype == np.float32 else L.lib.feature_forward_f64
    if len(rows):
        L.check(
            run(
                fmap.pointer,
                kind,
                len(rows),
                rows.ctypes.data,
                stride,
                phi.ctypes.data,
                fmap.feat_dim,
                None,
                L.num_threads(threads),
                None,
            ),
            "features",
        )
    return phi.reshape(x.shape[:-1] + (fmap.feat_dim,))


def fold(prefix_k, prefix_v, *, feature="elu1", bound=None, seed=L.DEFAULT_SEED, omega=None, threads=None):
    """A prefix folded into its summary: Z = phi(K)^T V, kvec = phi(K)^T 1.

    prefix_k: (m, d) | (H, m, d) | (B, H, m, d), float32 or float64; prefix_v: the same but for its last axis, value_dim
    returns Z (r, value_dim) | (H, r, value_dim) | (B, H, r, value_dim) and kvec without the last axis, of the same type

    >>> import numpy as np
    >>> Z, kvec = fold(np.ones((5, 2)), np.full((5, 2), 0.5), feature='taylor:0')
    >>> Z, kvec
    (array([[2.5, 2.5]]), array([5.]))
    """
    k = L.array("prefix_k", prefix_k, (np.float32, np.float64), (2, 3, 4))
    v = L.array("prefix_v", prefix_v, (k.dtype.type,), (k.ndim,))
    if v.shape[:-1] != k.shape[:-1] or v.shape[-1] == 0:
        raise ValueError(f"prefix_v: shape {v.shape} beside prefix_k of shape {k.shape}")
    if k.shape[-1] == 0:
        raise ValueError(f"prefix_k: rows of no number, shape {k.shape}")
    fmap = feature_map(feature, k.shape[-1], bound, seed, omega)
    lead, m = k.shape[:-2], k.shape[-2]
    Z = np.empty(lead + (fmap.feat_dim, v.shape[-1]), k.dtype)
    kvec = np.empty(lead + (fmap.feat_dim,), k.dtype)
    single = k.dtype == np.float32
    add = L.lib.attn_fold_add_f32 if single else L.lib.attn_fold_add_f64
    read = L.lib.attn_fold_read_f32 if single else L.lib.attn_fold_read_f64
    pointer, count = L.VOID(), L.num_threads(threads)
    L.check(L.lib.attn_fold_alloc(fmap.pointer, v.shape[-1], ctypes.byref(pointer)), "fold")
    try:
        for index in np.ndindex(*lead):
            (keys, ldk), (values, ldv) = _rows(k[index]), _rows(v[index])
            L.lib.attn_fold_reset(pointer)
            if m:
                L.check(add(pointer, m, keys.ctypes.data, ldk, values.ctypes.data, ldv, count, None), "fold")
            L.check(read(pointer, Z[index].ctypes.data, kvec[index].ctypes.data, None), "fold")
    finally:
        L.lib.attn_fold_free(pointer)
    return Z, kvec
