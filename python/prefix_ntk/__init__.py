"""Attention with a long prefix, its summary (NTK-Attention), and the neural tangent kernel of a prefix.

Attention is on (batch, heads, length, head_dim) arrays in single precision, kernels are in double precision. Arrays are
read where they are, calls run on several threads without the interpreter's lock. `prefix_ntk.ntk` has the kernels,
`prefix_ntk.peft` reads and writes adapters, `prefix_ntk.torch` differentiates (where PyTorch is installed).
"""

from . import ntk
from ._attention import PackedPrefix, attention, ntk_attention
from ._features import FeatureMap, features, fold
from ._library import NormaliserError
from .ntk import ntk_gram, ntk_limit, ntk_predict

__all__ = [
    "FeatureMap",
    "NormaliserError",
    "PackedPrefix",
    "attention",
    "features",
    "fold",
    "ntk",
    "ntk_attention",
    "ntk_gram",
    "ntk_limit",
    "ntk_predict",
]
