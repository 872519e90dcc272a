"""Exact prefix attention and NTK-Attention on NumPy arrays."""

import ctypes
import math
import weakref

import numpy as np

from . import _library as L
from ._features import feature_map, features, fold

F32 = (np.float32,)
NO_VIEW = L.View(None, 0, 0, 0)


def view(x, axes=("batch", "head", "row")):
    """The view of an array whose leading axes are `axes`; those it lacks have stride 0, as have axes of length 1."""
    strides = {axis: x.strides[i] // x.itemsize if x.shape[i] > 1 else 0 for i, axis in enumerate(axes)}
    return L.View(x.ctypes.data, strides.get("batch", 0), strides.get("head", 0), strides.get("row", 0))


def shared_view(x, last_axes):
    """The view of (.., head, row), batch and head left out when x is the same for all of them."""
    return view(x, ("batch", "head", "row")[3 - (x.ndim - last_axes) :])


def _out(out, like, inputs):
    """The array results go to: a new one, or `out` once it is fit for it."""
    if out is None:
        return np.empty(like.shape, np.float32)
    if not isinstance(out, np.ndarray) or out.dtype != np.float32:
        raise ValueError(f"out: a float32 array, not {getattr(out, 'dtype', type(out).__name__)}")
    if out.shape != like.shape:
        raise ValueError(f"out: shape {out.shape}, should be {like.shape}")
    if out.shape[-1] > 1 and out.strides[-1] != out.itemsize or not (out.flags.writeable and out.flags.aligned):
        raise ValueError("out: not writable, not aligned or its last axis not contiguous")
    if any(s % out.itemsize or (s == 0 and n > 1) for s, n in zip(out.strides, out.shape)):
        raise ValueError("out: rows that share memory")
    for name, x in inputs.items():
        if x is not None and np.may_share_memory(out, x) and np.shares_memory(out, x):
            raise ValueError(f"out: shares memory with {name}")
    return out


class Call:
    """The checked arguments of one call: arrays, the shape structure, scale and threads."""

    def __init__(self, q, k, v, causal, key_lengths, scale, threads):
        self.q, self.k, self.v = (L.array(name, x, F32, (4,)) for name, x in (("q", q), ("k", k), ("v", v)))
        batch, heads, len_q, dim = self.q.shape
        if dim == 0 or heads == 0:
            raise ValueError(f"q: shape {self.q.shape}, heads and head_dim must be positive")
        if self.k.shape[0] != batch or self.k.shape[3] != dim:
            raise ValueError(f"k: shape {self.k.shape} beside q of shape {self.q.shape}")
        kv_heads, len_k = self.k.shape[1:3]
        if kv_heads == 0 or heads % kv_heads:
            raise ValueError(f"k: {kv_heads} heads do not divide the {heads} of q")
        if self.v.shape != self.k.shape:
            raise ValueError(f"v: shape {self.v.shape}, should be that of k, {self.k.shape}")
        self.lengths = None
        if key_lengths is not None:
            lengths = np.asarray(key_lengths)
            if lengths.shape != (batch,) or lengths.dtype.kind not in "iu":
                raise ValueError(f"key_lengths: {batch} integers, one for each batch entry")
            if lengths.size and (lengths.min() < 0 or lengths.max() > len_k):
                raise ValueError(f"key_lengths: numbers from 0 to {len_k}, not {lengths.tolist()}")
            self.lengths = np.ascontiguousarray(lengths, np.uintp)
        self.scale = dim**-0.5 if scale is None else float(scale)
        if not math.isfinite(self.scale):
            raise ValueError(f"scale: a finite number, not {scale}")
        self.threads = L.num_threads(threads)
        self.shape = L.Shape(
            batch,
            heads,
            kv_heads,
            len_q,
            len_k,
            dim,
            int(bool(causal)),
            self.lengths.ctypes.data if self.lengths is not None else None,
        )
        self.num_rows = batch * len_q

    def qkv(self):
        return view(self.q), view(self.k), view(self.v)

    def visible(self, batch, row):
        """The number of input keys the query may see."""
        s = self.shape
        last = row + s.len_k - s.len_q + 1 if s.causal else s.len_k
        return max(0, min(last, int(self.lengths[batch]) if self.lengths is not None else s.len_k))


class PackedPrefix:
    """A prefix in the layout the kernels read, made once instead of once per call.

    prefix_k, prefix_v: (m, d) | (H_kv, m, d) | (B, H_kv, m, d), float32
    kv_heads: the number of key/value heads (1 for (m, d))
    backward: whether gradients will be asked for (twice the memory)

    Pass it as ``prefix_k`` of `attention`, with no ``prefix_v``.

    >>> import numpy as np
    >>> p = PackedPrefix(np.ones((2, 100, 8), np.float32), np.ones((2, 100, 8), np.float32))
    >>> p.shape
    (1, 2, 100, 8)
    """

    def __init__(self, prefix_k, prefix_v, *, kv_heads=None, backward=False, threads=None):
        k = L.array("prefix_k", prefix_k, F32, (2, 3, 4))
        v = L.array("prefix_v", prefix_v, F32, (k.ndim,))
        if v.shape != k.shape:
            raise ValueError(f"prefix_v: shape {v.shape}, should be that of prefix_k, {k.shape}")
        heads = k.shape[-3] if k.ndim > 2 else kv_heads or 1
        if kv_heads not in (None, heads):
            raise ValueError(f"prefix_k: {heads} heads, not {kv_heads}")
        if 0 in k.shape:
            raise ValueError(f"prefix_k: empty, shape {k.shape}")
        self.shape = (k.shape[0] if k.ndim == 4 else 1, heads) + k.shape[-2:]
        self.pointer = L.lib.attn_packed_alloc(*self.shape, int(backward))
        if not self.pointer:
            raise MemoryError("PackedPrefix: out of memory")
        self._free = weakref.finalize(self, L.lib.attn_packed_free, self.pointer)
        self.backward = bool(backward)
        self.set(k, v, threads=threads)

    def set(self, prefix_k, prefix_v, *, threads=None):
        """Takes new numbers of the same shape."""
        k, v = L.array("prefix_k", prefix_k, F32, (2, 3, 4)), L.array("prefix_v", prefix_v, F32, (2, 3, 4))
        shape = (k.shape[0] if k.ndim == 4 else 1, k.shape[-3] if k.ndim > 2 else self.shape[1]) + k.shape[-2:]
        if shape != self.shape or v.shape != k.shape:
            raise ValueError(f"prefix_k, prefix_v: shapes {k.shape} and {v.shape}, packed as {self.shape}")
        L.check(
            L.lib.attn_packed_set(self.pointer, shared_view(k, 1), shared_view(v, 1), L.num_threads(threads)),
            "PackedPrefix",
        )

    @property
    def nbytes(self):
        """Bytes the packed prefix takes."""
        return L.lib.attn_packed_bytes(self.pointer)


def prefix_arrays(call, prefix_k, prefix_v):
    """(the structure, the arrays it looks at) of a prefix in any of its forms."""
    s = call.shape
    if isinstance(prefix_k, PackedPrefix):
        packed = prefix_k
        if prefix_v is not None:
            raise ValueError("prefix_v: a packed prefix has its values")
        if packed.shape[0] not in (1, s.batch) or packed.shape[1] != s.kv_heads or packed.shape[3] != s.head_dim:
            raise ValueError(f"prefix_k: packed as {packed.shape} beside k of shape {call.k.shape}")
        return L.Prefix(packed.shape[2], NO_VIEW, NO_VIEW, packed.pointer), (packed,)
    if (prefix_k is None) != (prefix_v is None):
        missing = "prefix_k" if prefix_k is None else "prefix_v"
        raise ValueError(f"{missing}: keys and values of a prefix come together")
    if prefix_k is None:
        return None, ()
    k, v = L.array("prefix_k", prefix_k, F32, (2, 3, 4)), L.array("prefix_v", prefix_v, F32, (2, 3, 4))
    if k.shape[:-2] != (s.batch, s.kv_heads)[4 - k.ndim :] or k.shape[-1] != s.head_dim:
        raise ValueError(
            f"prefix_k: shape {k.shape} beside k of shape {call.k.shape}; (m, d), (H_kv, m, d) or (B, H_kv, m, d)"
        )
    if v.shape != k.shape:
        raise ValueError(f"prefix_v: shape {v.shape}, should be that of prefix_k, {k.shape}")
    return L.Prefix(k.shape[-2], shared_view(k, 1), shared_view(v, 1), None), (k, v)


def summary_arrays(call, Z, kvec, feature, bound, seed, omega):
    """(the structure, the arrays and the map it looks at) of a summary in any of its forms."""
    s = call.shape
    fmap = feature_map(feature, s.head_dim, bound, seed, omega)
    Z = L.array("Z", Z, F32, (2, 3, 4))
    kvec = L.array("kvec", kvec, F32, (1, 2, 3))
    if Z.shape[-2:] != (fmap.feat_dim, s.head_dim):
        raise ValueError(f"Z: shape {Z.shape}, its last axes should be ({fmap.feat_dim}, {s.head_dim}) for {fmap.name}")
    if Z.ndim > 2 and Z.shape[-3] not in (s.heads, s.kv_heads):
        raise ValueError(f"Z: {Z.shape[-3]} heads, should be {s.heads} or {s.kv_heads}")
    if Z.ndim == 4 and Z.shape[0] != s.batch:
        raise ValueError(f"Z: shape {Z.shape}, its first axis should be {s.batch}")
    if kvec.shape != Z.shape[:-1]:
        raise ValueError(f"kvec: shape {kvec.shape}, should be {Z.shape[:-1]}")
    heads = Z.shape[-3] if Z.ndim > 2 else s.kv_heads
    k_view = view(kvec, ("batch", "head")[2 - (kvec.ndim - 1) :])
    return L.Summary(fmap.pointer, heads, shared_view(Z, 1), k_view), (Z, kvec, fmap)


def _why_exact(call, where, prefix):
    """Why the normaliser of a row of exact attention is not a positive number."""
    b, h, i = where
    if not prefix and call.visible(b, i) == 0:
        return "there is no key it may see"
    if not np.isfinite(call.q[b, h, i]).all():
        return "q is not finite"
    return "its scores overflow, or a key is not finite"


def _why_ntk(call, where, Z, kvec, fmap):
    b, h, i = where
    if not np.isfinite(call.q[b, h, i]).all():
        return "q is not finite"
    s = call.shape
    row = call.q[b, h, i].astype(np.float64)
    keys = call.k[b, h // (s.heads // s.kv_heads), : call.visible(b, i)].astype(np.float64)
    mass = kvec if kvec.ndim == 1 else (kvec if kvec.ndim == 2 else kvec[b])[h // (s.heads // kvec.shape[-2])]
    try:
        from_summary = float(features(row, fmap) @ mass)
    except ArithmeticError:
        return "its features leave the range"
    with np.errstate(over="ignore", invalid="ignore"):
        from_keys = float(np.exp(call.scale * (keys @ row)).sum())
    return (
        f"the normaliser D is not positive: {from_keys:.6g} from the keys it may see and "
        f"{from_summary:.6g} = phi(q).k from the summary"
    )


def run_exact(call, prefix, held, out, rows=None):
    if out.size == 0:
        return
    failure = L.Failure()
    status = L.lib.attn_exact_forward(
        ctypes.byref(call.shape),
        call.scale,
        *call.qkv(),
        ctypes.byref(prefix) if prefix else None,
        view(out),
        rows.ctypes.data if rows is not None else None,
        None,
        0,
        call.threads,
        ctypes.byref(failure),
    )
    if status == L.EDOM:
        where = failure.batch, failure.head, failure.row
        raise L.NormaliserError(*where, _why_exact(call, where, prefix and prefix.len))
    L.check(status, "attention")


def run_ntk(call, summary, held, out, rows=None):
    if out.size == 0:
        return
    failure = L.Failure()
    status = L.lib.attn_ntk_forward(
        ctypes.byref(call.shape),
        call.scale,
        *call.qkv(),
        ctypes.byref(summary),
        view(out),
        rows.ctypes.data if rows is not None else None,
        None,
        0,
        call.threads,
        ctypes.byref(failure),
    )
    if status == L.EDOM:
        where = failure.batch, failure.head, failure.row
        raise L.NormaliserError(*where, _why_ntk(call, where, *held))
    L.check(status, "ntk_attention")


def attention(
    q, k, v, *, prefix_k=None, prefix_v=None, causal=False, key_lengths=None, scale=None, threads=None, out=None
):
    """Softmax attention over a prefix and the input keys.

    q: (batch, heads, len_q, head_dim), float32
    k, v: (batch, kv_heads, len_k, head_dim); kv_heads divides heads
    prefix_k, prefix_v: (m, d) | (H_kv, m, d) | (B, H_kv, m, d), keys and values every query sees, or a PackedPrefix
        as prefix_k
    causal: key j is hidden from query i when j > i + len_k - len_q
    key_lengths: (batch) integers; keys from there on are hidden
    scale: of the scores, 1/sqrt(head_dim) when None
    threads: at most so many; the result does not depend on it
    out: where the result goes, of the shape of q (no overlap with the inputs)
    returns an array of the shape of q

    Arrays whose last axis is contiguous are read in place whatever their other strides. A row that may see no key, or
    whose scores overflow, raises NormaliserError.

    >>> import numpy as np
    >>> x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4) / 10
    >>> ones, zeros = np.ones((5, 4), np.float32), np.zeros((5, 4), np.float32)
    >>> attention(x, x, x, prefix_k=ones, prefix_v=zeros, causal=True)[0, 0, 2].round(3)
    array([0.14 , 0.164, 0.188, 0.212], dtype=float32)
    """
    call = Call(q, k, v, causal, key_lengths, scale, threads)
    prefix, held = prefix_arrays(call, prefix_k, prefix_v)
    inputs = {"q": call.q, "k": call.k, "v": call.v}
    if held and not isinstance(held[0], PackedPrefix):
        inputs.update(prefix_k=held[0], prefix_v=held[1])
    out = _out(out, call.q, inputs)
    run_exact(call, prefix, held, out)
    return out


def ntk_attention(
    q,
    k,
    v,
    Z,
    kvec,
    *,
    feature="elu1",
    bound=None,
    seed=L.DEFAULT_SEED,
    omega=None,
    causal=False,
    key_lengths=None,
    scale=None,
    threads=None,
    out=None,
):
    """Attention over the input keys and a summary (Z, kvec) in place of a prefix.

        T_i = (sum_j e^{s_ij} v_j + phi(q_i) Z) / (sum_j e^{s_ij} + phi(q_i).kvec)

    q, k, v, causal, key_lengths, threads, out: as in `attention`
    Z: (r, d) | (H, r, d) | (B, H, r, d), float32, H the number of heads or of key/value heads
    kvec: the shape of Z without its last axis
    feature, bound, seed, omega: the map phi the summary was folded with (see FeatureMap), or a FeatureMap
    scale: of the scores s_ij; that of phi is always 1/sqrt(head_dim)
    returns an array of the shape of q

    A normaliser that is not positive, as polynomial maps can give, raises NormaliserError.

    >>> import numpy as np
    >>> x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4) / 10
    >>> Z, kvec = fold(np.ones((5, 4), np.float32), np.zeros((5, 4), np.float32), feature='taylor:4')
    >>> ntk_attention(x, x, x, Z, kvec, feature='taylor:4', causal=True)[0, 0, 2].round(3)
    array([0.145, 0.17 , 0.194, 0.219], dtype=float32)
    """
    call = Call(q, k, v, causal, key_lengths, scale, threads)
    summary, held = summary_arrays(call, Z, kvec, feature, bound, seed, omega)
    out = _out(out, call.q, {"q": call.q, "k": call.k, "v": call.v, "Z": held[0], "kvec": held[1]})
    run_ntk(call, summary, held, out)
    return out
