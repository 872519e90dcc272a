"""Adapters in PEFT's layout: a folder with adapter_config.json and adapter_model.safetensors.

Reads and writes prefix tuning, LoRA and summaries, and converts a prefix to summaries (Z, kvec) by the feature map that
errs least on a user's queries:

    python -m prefix_ntk.peft ADAPTER --queries Q.npy --out FOLDER

Q.npy is (layers, heads, length, head_dim) or (layers, batch, heads, length, head_dim), float32: queries as the
attention of the adapted model sees them.
"""

import argparse
import json
import math
import os
import pathlib
import struct
import sys

import numpy as np

from . import _library as L
from ._attention import attention, ntk_attention
from ._features import FeatureMap, fold

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LORA_KEY = "base_model.model.{}.lora_{}.weight"

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_MAX_HEADER = 100 << 20


def _bfloat16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def read_safetensors(path):
    """The tensors of a safetensors file: a dict of arrays. BF16 becomes float32. A damaged file raises a ValueError
    that names it.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, 'a.safetensors')
    ...     write_safetensors(path, {'w': np.array([[0.5, -1.5]], np.float32)})
    ...     read_safetensors(path)['w']
    array([[ 0.5, -1.5]], dtype=float32)
    """
    with open(path, "rb") as file:
        data = file.read()

    def bad(why):
        return ValueError(f"{path}: {why}")

    if len(data) < 8:
        raise bad("shorter than its header's length")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(len(data) - 8, _MAX_HEADER):
        raise bad(f"a header of {length} bytes in a file of {len(data)}")
    try:
        header = json.loads(data[8 : 8 + length].decode())
    except ValueError:
        raise bad("its header is not JSON") from None
    if not isinstance(header, dict):
        raise bad("its header is not an object")
    body, tensors, spans = memoryview(data)[8 + length :], {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            kind, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape + (start, end))
        except (KeyError, TypeError, ValueError):
            raise bad(f"the entry of {name!r} is incomplete") from None
        if not whole or not start <= end <= len(body):
            raise bad(f"{name!r}: shape or offsets that make no sense")
        if kind != "BF16" and kind not in _DTYPES:
            raise bad(f"{name!r}: data type {kind!r}")
        dtype = np.dtype("<u2" if kind == "BF16" else _DTYPES[kind])
        if math.prod(shape) * dtype.itemsize != end - start:
            raise bad(f"{name!r}: {end - start} bytes for shape {shape}")
        x = np.frombuffer(body[start:end], dtype).reshape(shape)
        tensors[name] = _bfloat16(x) if kind == "BF16" else x
        spans.append((start, end))
    at = 0
    for start, end in sorted(spans):
        if start != at:
            raise bad("tensors that overlap or leave gaps")
        at = end
    if at != len(body):
        raise bad(f"{len(body) - at} bytes beyond the last tensor")
    return tensors


def write_safetensors(path, tensors, metadata=None):
    """Writes a dict of arrays; see read_safetensors. The file appears whole or not at all."""
    header, start = {}, 0
    arrays = []
    if metadata:
        header["__metadata__"] = {str(k): str(v) for k, v in metadata.items()}
    for name in sorted(tensors):
        x = np.asarray(tensors[name])
        if x.dtype not in _NAMES:
            raise ValueError(f"{name}: data type {x.dtype} has no place in safetensors")
        header[name] = {"dtype": _NAMES[x.dtype], "shape": list(x.shape), "data_offsets": [start, start + x.nbytes]}
        start += x.nbytes
        arrays.append(x)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with _whole_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for x in arrays:
            file.write(x.tobytes())


class _whole_file:
    """Written beside its target and renamed when all went well."""

    def __init__(self, path):
        self.path, self.beside = os.fspath(path), f"{os.fspath(path)}.{os.getpid()}.part"

    def __enter__(self):
        self.file = open(self.beside, "wb")
        return self.file

    def __exit__(self, kind, *_):
        self.file.close()
        if kind is None:
            os.replace(self.beside, self.path)
        else:
            os.unlink(self.beside)


def _read_config(folder, wanted):
    path = pathlib.Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path}: not JSON") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind not in wanted:
        raise ValueError(f"{path}: peft_type {kind!r}, not {' or '.join(wanted)}")
    return config, path


def _write(folder, config, tensors):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})
    with _whole_file(folder / CONFIG) as file:
        file.write((json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _positive(config, name, path):
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{path}: {name}: a positive integer, not {value!r}")
    return value


def read_prefix(folder):
    """Prefix tuning from a folder: (config, prefix_k, prefix_v), both (layers, heads, m, head_dim), float32.

    heads are those of keys and values; each layer's arrays go into `attention` as they are.
    """
    config, path = _read_config(folder, ("PREFIX_TUNING",))
    m, layers = _positive(config, "num_virtual_tokens", path), _positive(config, "num_layers", path)
    heads, width = _positive(config, "num_attention_heads", path), _positive(config, "token_dim", path)
    if width % heads:
        raise ValueError(f"{path}: {heads} heads do not divide token_dim {width}")
    tensors = read_safetensors(pathlib.Path(folder) / WEIGHTS)
    if "prompt_embeddings" not in tensors:
        raise ValueError(f"{pathlib.Path(folder) / WEIGHTS}: no tensor prompt_embeddings")
    x = tensors["prompt_embeddings"]
    if x.shape != (m, layers * 2 * width):
        raise ValueError(
            f"{pathlib.Path(folder) / WEIGHTS}: prompt_embeddings of shape {x.shape}, "
            f"should be {(m, layers * 2 * width)}"
        )
    # Row: layer, then key or value, then head.
    x = x.astype(np.float32).reshape(m, layers, 2, heads, width // heads).transpose(2, 1, 3, 0, 4)
    return config, np.ascontiguousarray(x[0]), np.ascontiguousarray(x[1])


def write_prefix(folder, prefix_k, prefix_v, **config):
    """Writes prefix tuning: prefix_k, prefix_v (layers, heads, m, head_dim); further entries of the config by keyword.

    >>> import tempfile
    >>> K = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_prefix(folder, K, -K, task_type='SEQ_CLS')
    ...     config, k, v = read_prefix(folder)
    >>> config['num_virtual_tokens'], (k == K).all(), (v == -K).all()
    (3, np.True_, np.True_)
    """
    k, v = L.array("prefix_k", prefix_k, (np.float32,), (4,)), L.array("prefix_v", prefix_v, (np.float32,), (4,))
    if k.shape != v.shape or 0 in k.shape:
        raise ValueError(f"prefix_v: shape {v.shape} beside prefix_k of shape {k.shape}")
    layers, heads, m, dim = k.shape
    x = np.stack([k, v]).transpose(3, 1, 0, 2, 4).reshape(m, layers * 2 * heads * dim)
    known = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": m,
        "num_layers": layers,
        "num_attention_heads": heads,
        "token_dim": heads * dim,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
        "encoder_hidden_size": heads * dim,
        "base_model_name_or_path": None,
        "task_type": None,
        "inference_mode": True,
    }
    _write(folder, {**known, **config}, {"prompt_embeddings": np.ascontiguousarray(x)})


def read_lora(folder):
    """LoRA from a folder: (config, {module: (A, B, scaling)}), A (r, in), B (out, r), float32.

    The update of a module is scaling B A.
    """
    config, path = _read_config(folder, ("LORA",))
    rank = _positive(config, "r", path)
    alpha = config.get("lora_alpha", rank)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ValueError(f"{path}: lora_alpha: a number, not {alpha!r}")
    tensors = read_safetensors(pathlib.Path(folder) / WEIGHTS)
    before, after = LORA_KEY.format("|", "A").split("|")
    layers = {}
    for name, A in tensors.items():
        if not (name.startswith(before) and name.endswith(after)):
            continue
        module = name[len(before) : -len(after)]
        B = tensors.get(LORA_KEY.format(module, "B"))
        if B is None or A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
            raise ValueError(f"{pathlib.Path(folder) / WEIGHTS}: {module}: lora_A and lora_B do not go together")
        own_rank, own_alpha = (
            _pattern(config.get(key), module, value)
            for key, value in (("rank_pattern", A.shape[0]), ("alpha_pattern", alpha))
        )
        if own_rank != A.shape[0]:
            raise ValueError(
                f"{pathlib.Path(folder) / WEIGHTS}: {module}: rank {A.shape[0]}, the config says {own_rank}"
            )
        scaling = own_alpha / (math.sqrt(own_rank) if config.get("use_rslora") else own_rank)
        layers[module] = (A.astype(np.float32), B.astype(np.float32), scaling)
    if not layers:
        raise ValueError(f"{pathlib.Path(folder) / WEIGHTS}: no LoRA matrices")
    return config, layers


def _pattern(patterns, module, otherwise):
    """The entry for a module by the end of its name, as rank_pattern and alpha_pattern have them."""
    for end, value in (patterns or {}).items():
        if module == end or module.endswith("." + end):
            return value
    return otherwise


def write_lora(folder, layers, lora_alpha, **config):
    """Writes LoRA: layers {module: (A (r, in), B (out, r))} of one rank; further entries of the config by keyword.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_lora(folder, {'h.0.attn.query': (np.ones((2, 4), np.float32), np.ones((3, 2), np.float32))}, 8)
    ...     config, layers = read_lora(folder)
    >>> config['r'], config['target_modules'], layers['h.0.attn.query'][2]
    (2, ['query'], 4.0)
    """
    tensors, ranks = {}, set()
    for module, (A, B) in layers.items():
        A, B = L.array(f"{module}: A", A, (np.float32,), (2,)), L.array(f"{module}: B", B, (np.float32,), (2,))
        if A.shape[0] != B.shape[1]:
            raise ValueError(f"{module}: A of shape {A.shape} and B of shape {B.shape}")
        ranks.add(A.shape[0])
        tensors[LORA_KEY.format(module, "A")], tensors[LORA_KEY.format(module, "B")] = A, B
    if len(ranks) != 1:
        raise ValueError(f"layers: one rank, not {sorted(ranks)}")
    known = {
        "peft_type": "LORA",
        "r": ranks.pop(),
        "lora_alpha": lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in layers}),
        "fan_in_fan_out": False,
        "use_rslora": False,
        "base_model_name_or_path": None,
        "task_type": None,
        "inference_mode": True,
    }
    _write(folder, {**known, **config}, tensors)


def read_summary(folder):
    """Summaries from a folder: (config, {layer: (Z, kvec)}), Z (heads, r, head_dim), kvec (heads, r), float32.

    The feature map and its bound are in config['prefix_ntk'].
    """
    config, path = _read_config(folder, ("NTK_ATTENTION",))
    tensors, layers = read_safetensors(pathlib.Path(folder) / WEIGHTS), {}
    for name, Z in tensors.items():
        if not name.endswith(".Z"):
            continue
        kvec = tensors.get(name[:-1] + "k")
        if kvec is None or Z.ndim != 3 or kvec.shape != Z.shape[:2] or not name[len("layer.") : -2].isdigit():
            raise ValueError(f"{pathlib.Path(folder) / WEIGHTS}: {name}: not a summary (heads, r, head_dim) with its k")
        layers[int(name[len("layer.") : -2])] = (Z.astype(np.float32), kvec.astype(np.float32))
    if not layers:
        raise ValueError(f"{pathlib.Path(folder) / WEIGHTS}: no summaries")
    return config, layers


def write_summary(folder, layers, feature, bound=None, positions=0, **config):
    """Writes summaries {layer: (Z, kvec)} of one feature map, as the program `lm` reads them.

    positions: the position of the first token of the text, the length of the prefix they stand for

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_summary(folder, {0: (np.ones((2, 3, 4), np.float32), np.ones((2, 3), np.float32))}, 'elu1', positions=9)
    ...     config, layers = read_summary(folder)
    >>> config['prefix_ntk']['feature'], layers[0][0].shape
    ('elu1', (2, 3, 4))
    """
    tensors = {}
    for layer, (Z, kvec) in layers.items():
        Z, kvec = L.array(f"{layer}: Z", Z, (np.float32,), (3,)), L.array(f"{layer}: kvec", kvec, (np.float32,), (2,))
        if kvec.shape != Z.shape[:2]:
            raise ValueError(f"{layer}: Z of shape {Z.shape} and kvec of shape {kvec.shape}")
        tensors[f"layer.{layer}.Z"], tensors[f"layer.{layer}.k"] = Z, kvec
    own = {"method": "ntk", "feature": feature, "positions": int(positions)}
    if bound is not None:
        own["bound"] = float(bound)
    own.update(config.pop("prefix_ntk", {}))
    known = {"peft_type": "NTK_ATTENTION", "base_model_name_or_path": None, "task_type": None, "inference_mode": True}
    _write(folder, {**known, **config, "prefix_ntk": own}, tensors)


def summary_error(q, k, v, prefix_k, prefix_v, Z, kvec, feature):
    """||T - PA||_F / ||PA - Attn||_F: what the summary errs relative to what the prefix changes.

    1 is as good as no prefix.

    q (batch, heads, length, head_dim); k, v: the input tokens beside the prefix, or None for the prefix alone, and the
    error is then relative to ||PA||_F. NaN when some normaliser is not positive.
    """
    alone = k is None
    if alone:
        k = v = np.empty((q.shape[0], prefix_k.shape[0], 0, q.shape[3]), np.float32)
    exact = attention(q, k, v, prefix_k=prefix_k, prefix_v=prefix_v)
    try:
        ours = ntk_attention(q, k, v, Z, kvec, feature=feature)
    except ArithmeticError:
        return math.nan
    effect = np.linalg.norm((exact if alone else exact - attention(q, k, v)).astype(np.float64))
    return float(np.linalg.norm((ours - exact).astype(np.float64)) / effect)


def summarise(
    prefix_k,
    prefix_v,
    q,
    k=None,
    v=None,
    *,
    features=("elu1", "taylor:1", "split:0", "taylor:2", "split:2"),
    bound=None,
):
    """The prefix of one layer as a summary, by the map that errs least on the queries.

    prefix_k, prefix_v: (heads, m, head_dim); q: (batch, heads, length, head_dim)
    k, v: input tokens beside the prefix, or None
    returns (Z, kvec, feature, error); see summary_error

    >>> rng = np.random.default_rng(1)
    >>> K, V = rng.normal(0, 0.3, (2, 1, 50, 4)).astype(np.float32)
    >>> Z, kvec, feature, error = summarise(K, V, rng.normal(0, 0.3, (1, 1, 9, 4)).astype(np.float32))
    >>> Z.shape, feature, error < 0.01
    ((1, 35, 4), 'split:2', True)
    """
    best = None
    for feature in features:
        fmap = FeatureMap(feature, prefix_k.shape[-1], bound)
        Z, kvec = fold(prefix_k, prefix_v, feature=fmap)
        error = summary_error(q, k, v, prefix_k, prefix_v, Z, kvec, fmap)
        if not math.isnan(error) and (best is None or error < best[3]):
            best = (Z, kvec, feature, error)
    if best is None:
        raise ArithmeticError("summarise: every map listed has a normaliser that is not positive on some query")
    return best


def _convert(options):
    """Reads, chooses one map for all layers, writes; returns the lines to print."""
    config, prefix_k, prefix_v = read_prefix(options.adapter)
    queries = np.load(options.queries)
    if queries.ndim == 4:
        queries = queries[:, None]
    if queries.ndim != 5 or len(queries) != len(prefix_k):
        wanted = f"({len(prefix_k)}, [batch,] heads, length, head_dim)"
        raise ValueError(f"{options.queries}: shape {queries.shape}, should be {wanted}")
    best = None
    for feature in options.features.split(","):
        fmap = FeatureMap(feature, prefix_k.shape[-1], options.bound)
        layers = [fold(k, v, feature=fmap) for k, v in zip(prefix_k, prefix_v)]
        errors = [
            summary_error(q, None, None, k, v, Z, kvec, fmap)
            for q, k, v, (Z, kvec) in zip(queries, prefix_k, prefix_v, layers)
        ]
        mean = float(np.mean(errors))
        if not math.isnan(mean) and (best is None or mean < best[0]):
            best = (mean, feature, layers, errors)
    if best is None:
        raise ArithmeticError("every map listed has a normaliser that is not positive on some query")
    _, feature, layers, errors = best
    write_summary(
        options.out,
        dict(enumerate(layers)),
        feature,
        options.bound,
        positions=prefix_k.shape[2],
        base_model_name_or_path=config.get("base_model_name_or_path"),
        prefix_ntk={"errors": errors},
    )
    lines = [f"{'layer':>5} {'feature':>14} {'error':>10} {'prefix bytes':>13} {'summary bytes':>14}"]
    for layer, ((Z, kvec), error) in enumerate(zip(layers, errors)):
        prefix_bytes = prefix_k[layer].nbytes + prefix_v[layer].nbytes
        lines.append(f"{layer:5d} {feature:>14} {error:10.3g} {prefix_bytes:13d} {Z.nbytes + kvec.nbytes:14d}")
    return lines


def main(arguments=None):
    """Converts a prefix adapter to summaries, prints the error and the bytes of each layer."""
    parser = argparse.ArgumentParser(
        prog="python -m prefix_ntk.peft", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", help="folder of a prefix-tuning adapter")
    parser.add_argument("--queries", required=True, metavar="FILE", help="queries by layer, NPY")
    parser.add_argument(
        "--features", default="elu1,taylor:1,split:0,taylor:2,split:2", metavar="A,B", help="maps to choose from"
    )
    parser.add_argument("--bound", type=float, metavar="B", help="largest score, for cheb and minimax")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder of the adapter with the summaries")
    options = parser.parse_args(arguments)
    try:
        print("\n".join(_convert(options)))
    except (OSError, ValueError) as error:
        print(f"prefix_ntk.peft: {error}", file=sys.stderr)
        return 3
    except ArithmeticError as error:
        print(f"prefix_ntk.peft: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
