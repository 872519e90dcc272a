"""Exact prefix attention and NTK-Attention as differentiable PyTorch functions and modules: float32, CPU.

    from prefix_ntk.torch import PrefixAttention, NTKAttention, attention, ntk_attention

The library's attention has no double precision, so `torch.autograd.gradcheck` does not apply; gradients agree with
those of the plain formula to single precision. Second derivatives are not available.
"""

import ctypes

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from . import _attention as A
from . import _library as L
from ._features import fold


def _array(name, x):
    """The memory of a tensor as an array; None and PackedPrefix pass."""
    if x is None or isinstance(x, A.PackedPrefix):
        return x
    if not isinstance(x, torch.Tensor) or x.device.type != "cpu":
        raise ValueError(f"{name}: a tensor on the CPU, not {getattr(x, 'device', type(x).__name__)}")
    return x.detach().numpy()


def _gradient(wanted, like):
    """A new array of a gradient and its view; (None, no view) when it is not wanted."""
    if not wanted:
        return None, A.NO_VIEW
    x = np.zeros(like.shape, np.float32)
    return x, A.shared_view(x, 1)


def _tensor(x):
    return None if x is None else torch.from_numpy(x)


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, prefix_k, prefix_v, packed, causal, key_lengths, scale, threads):
        call = A.Call(_array("q", q), _array("k", k), _array("v", v), causal, key_lengths, scale, threads)
        prefix, held = A.prefix_arrays(
            call, packed if packed is not None else _array("prefix_k", prefix_k), _array("prefix_v", prefix_v)
        )
        if packed is not None and any(ctx.needs_input_grad) and not packed.backward:
            raise ValueError("prefix_k: packed without backward=True")
        out = np.empty(call.q.shape, np.float32)
        rows = np.empty(call.q.shape[:3] + (2,), np.float32) if any(ctx.needs_input_grad) else None
        A.run_exact(call, prefix, held, out, rows)
        result = torch.from_numpy(out)
        ctx.call, ctx.prefix, ctx.held, ctx.rows = call, prefix, held, rows
        ctx.save_for_backward(q, k, v, prefix_k, prefix_v, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        ctx.saved_tensors  # refuses inputs changed in place since
        call, held = ctx.call, ctx.held
        out = _array("out", ctx.saved_tensors[5])
        d_out = L.array("d_out", _array("d_out", d_out), A.F32, (4,))
        wanted = ctx.needs_input_grad[:5]
        likes = [call.q, call.k, call.v] + (list(held) if len(held) == 2 else [None, None])
        arrays, views = zip(*(_gradient(w, x) for w, x in zip(wanted, likes)))
        if out.size:
            grads = L.ExactGrads(*views)
            L.check(
                L.lib.attn_exact_backward(
                    ctypes.byref(call.shape),
                    call.scale,
                    *call.qkv(),
                    ctypes.byref(ctx.prefix) if ctx.prefix else None,
                    A.view(out),
                    ctx.rows.ctypes.data,
                    A.view(d_out),
                    ctypes.byref(grads),
                    None,
                    0,
                    call.threads,
                ),
                "attention, backward",
            )
        return tuple(_tensor(x) for x in arrays) + (None,) * 5


class _Ntk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, Z, kvec, options, causal, key_lengths, scale, threads):
        call = A.Call(_array("q", q), _array("k", k), _array("v", v), causal, key_lengths, scale, threads)
        summary, held = A.summary_arrays(call, _array("Z", Z), _array("kvec", kvec), *options)
        out = np.empty(call.q.shape, np.float32)
        rows = np.empty(call.q.shape[:3] + (2,), np.float32) if any(ctx.needs_input_grad) else None
        A.run_ntk(call, summary, held, out, rows)
        result = torch.from_numpy(out)
        ctx.call, ctx.summary, ctx.held, ctx.rows = call, summary, held, rows
        ctx.save_for_backward(q, k, v, Z, kvec, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        call, (Z, kvec, _) = ctx.call, ctx.held
        out = _array("out", ctx.saved_tensors[5])
        d_out = L.array("d_out", _array("d_out", d_out), A.F32, (4,))
        arrays, views = zip(*(_gradient(w, x) for w, x in zip(ctx.needs_input_grad[:4], [call.q, call.k, call.v, Z])))
        dk = np.zeros(kvec.shape, np.float32) if ctx.needs_input_grad[4] else None
        k_view = A.NO_VIEW if dk is None else A.view(dk, ("batch", "head")[2 - (dk.ndim - 1) :])
        if out.size:
            grads = L.NtkGrads(*views, k_view)
            L.check(
                L.lib.attn_ntk_backward(
                    ctypes.byref(call.shape),
                    call.scale,
                    *call.qkv(),
                    ctypes.byref(ctx.summary),
                    A.view(out),
                    ctx.rows.ctypes.data,
                    A.view(d_out),
                    ctypes.byref(grads),
                    None,
                    0,
                    call.threads,
                ),
                "ntk_attention, backward",
            )
        return tuple(_tensor(x) for x in arrays + (dk,)) + (None,) * 5


def attention(q, k, v, *, prefix_k=None, prefix_v=None, causal=False, key_lengths=None, scale=None, threads=None):
    """`prefix_ntk.attention` on tensors, differentiable in q, k, v, prefix_k and prefix_v.

    Shapes as there. A PackedPrefix (made with backward=True where gradients are wanted) is held fixed.

    >>> x = torch.ones(1, 1, 3, 4, requires_grad=True)
    >>> attention(x, x, x, causal=True).sum().backward()
    >>> x.grad.shape
    torch.Size([1, 1, 3, 4])
    """
    packed = prefix_k if isinstance(prefix_k, A.PackedPrefix) else None
    if packed is not None and prefix_v is not None:
        raise ValueError("prefix_v: a packed prefix has its values")
    return _Exact.apply(
        q, k, v, None if packed else prefix_k, prefix_v, packed, causal, key_lengths, scale, threads or _threads()
    )


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
):
    """`prefix_ntk.ntk_attention` on tensors, differentiable in q, k, v, Z and kvec. Shapes as there.

    >>> x = torch.ones(1, 2, 3, 4)
    >>> Z, kvec = torch.zeros(2, 4, 4, requires_grad=True), torch.ones(2, 4)
    >>> ntk_attention(x, x, x, Z, kvec).sum().backward()
    >>> Z.grad.shape
    torch.Size([2, 4, 4])
    """
    return _Ntk.apply(
        q, k, v, Z, kvec, (feature, bound, seed, omega), causal, key_lengths, scale, threads or _threads()
    )


def _threads():
    return torch.get_num_threads()


class PrefixAttention(torch.nn.Module):
    """Attention with a trainable prefix of its own for each key/value head.

    prefix_len, head_dim, kv_heads: the sizes of prefix_k and prefix_v (kv_heads, prefix_len, head_dim)
    std: of their first values
    forward(q, k, v, key_lengths=None): (batch, heads, len_q, head_dim), shapes as in `attention`

    >>> layer = PrefixAttention(prefix_len=100, head_dim=8, kv_heads=2, causal=True)
    >>> x = torch.randn(1, 4, 5, 8)
    >>> layer(x, x[:, :2], x[:, :2]).shape
    torch.Size([1, 4, 5, 8])
    """

    def __init__(self, prefix_len, head_dim, kv_heads=1, *, causal=False, scale=None, std=0.02):
        super().__init__()
        self.causal, self.scale = causal, scale
        self.prefix_k = torch.nn.Parameter(torch.randn(kv_heads, prefix_len, head_dim) * std)
        self.prefix_v = torch.nn.Parameter(torch.randn(kv_heads, prefix_len, head_dim) * std)

    def forward(self, q, k, v, key_lengths=None):
        return attention(
            q,
            k,
            v,
            prefix_k=self.prefix_k,
            prefix_v=self.prefix_v,
            causal=self.causal,
            key_lengths=key_lengths,
            scale=self.scale,
        )

    def summarised(self, feature="elu1", **options):
        """The NTKAttention whose summary is this prefix folded by a feature map."""
        Z, kvec = fold(_array("prefix_k", self.prefix_k), _array("prefix_v", self.prefix_v), feature=feature, **options)
        layer = NTKAttention(Z.shape[2], Z.shape[0], feature, causal=self.causal, scale=self.scale, **options)
        with torch.no_grad():
            layer.Z.copy_(torch.from_numpy(Z))
            layer.kvec.copy_(torch.from_numpy(kvec))
        return layer


class NTKAttention(torch.nn.Module):
    """Attention with a trainable summary in place of a prefix.

    head_dim, heads: of Z (heads, r, head_dim) and kvec (heads, r); heads may be the number of key/value heads. Both
    start at 0, which is attention without a prefix. feature and its options: see FeatureMap
    forward(q, k, v, key_lengths=None): (batch, heads, len_q, head_dim), shapes as in `ntk_attention`

    >>> layer = NTKAttention(head_dim=8, heads=4, feature='taylor:1')
    >>> x = torch.randn(1, 4, 5, 8)
    >>> layer(x, x, x).shape
    torch.Size([1, 4, 5, 8])
    """

    def __init__(self, head_dim, heads=1, feature="elu1", *, bound=None, seed=L.DEFAULT_SEED, causal=False, scale=None):
        super().__init__()
        self.map = A.feature_map(feature, head_dim, bound, seed, None)
        self.causal, self.scale = causal, scale
        self.Z = torch.nn.Parameter(torch.zeros(heads, self.map.feat_dim, head_dim))
        self.kvec = torch.nn.Parameter(torch.zeros(heads, self.map.feat_dim))

    def forward(self, q, k, v, key_lengths=None):
        return ntk_attention(
            q, k, v, self.Z, self.kvec, feature=self.map, causal=self.causal, key_lengths=key_lengths, scale=self.scale
        )
