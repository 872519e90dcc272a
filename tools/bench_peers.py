#!/usr/bin/env python3
"""Times the attention kernels of this library against what a CPU user would otherwise call.

    tools/bench_peers.py --library build/lib/libprefix_ntk.so [--cost build/bin/attention_cost] [--threads LIST]
                         [--rounds N] [--cases WORDS] [--peers LIST] [--quick] [--out FILE.csv]

Every contender is a process of its own, on the same pinned cores, fed with the same random tensors. Before a case is
timed its output is compared with this library's; one that differs is named and left out. Contenders then take turns
in rounds. `ratio` is the median over rounds of the contender's time over ours in the same round, `ratio_best` that of
the best times: above 1 this library is faster.

Peers, each where it can be imported (others are named), at the strongest known here:
  torch        scaled_dot_product_attention; for NTK-Attention the formula, one flash call merged by its log-sum-exp
               (`torch flash`), and torch.compile of the formula. All with malloc as it comes and, `+`, with large
               pages (THP_MEM_ALLOC_ENABLE) and malloc told to keep what is freed
  zentorch     AMD's back end of torch.compile
  onnxruntime  the operator Attention of opset 23, inputs and outputs bound
  openvino     scaled_dot_product_attention of opset 13, float32, latency mode
  jax          jax.jit of the formula
Peers have prefix and input as one array, which spares them a copy; this library gets the two as they are. `packed` is
this library with a packed prefix, `packed bf16` and `packed f16` with one in half precision, whose error is printed.
"""
import argparse
import csv
import ctypes as c
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time

POOL = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184",
        "MALLOC_TOP_PAD_": "67108864", "THP_MEM_ALLOC_ENABLE": "1"}
# What float32 sums of other orders differ by, relative to the largest number; and a prefix in half precision.
TOLERANCE, TOLERANCE_HALF = 1e-4, 3e-2
PATIENCE = 60      # seconds for one answer
FIELDS = "kind passes batch heads kv_heads len_q len_k prefix_len head_dim causal".split()
F, FB = "forward", "forward+backward"
# kind, passes, batch, heads, kv_heads, len_q, len_k, prefix_len, head_dim, causal
CASES = [
    ("exact", F, 8, 12, 12, 32, 32, 16, 32, 0), ("exact", F, 8, 12, 12, 32, 32, 16, 64, 0),
    ("exact", F, 1, 12, 12, 16, 16, 8, 64, 0), ("exact", F, 1, 12, 12, 32, 32, 16, 64, 0),
    ("exact", F, 1, 12, 12, 128, 128, 16, 64, 0), ("exact", F, 1, 12, 12, 128, 128, 16, 32, 0),
    ("exact", F, 32, 12, 12, 64, 64, 16, 64, 0),
    ("exact", F, 1, 2, 2, 512, 512, 4096, 64, 0), ("exact", F, 1, 2, 2, 512, 512, 4096, 32, 0),
    ("exact", F, 1, 2, 2, 512, 512, 4096, 128, 0), ("exact", F, 1, 2, 2, 512, 512, 4096, 64, 1),
    ("exact", F, 1, 12, 12, 512, 512, 256, 64, 0),
    ("exact", FB, 8, 12, 12, 32, 32, 16, 64, 0), ("exact", FB, 1, 12, 12, 128, 128, 16, 64, 0),
    ("exact", FB, 1, 2, 2, 512, 512, 4096, 64, 0), ("exact", FB, 1, 2, 2, 512, 512, 4096, 64, 1),
    ("exact", FB, 1, 2, 2, 512, 512, 4096, 32, 0),
    ("decode", F, 1, 1, 1, 1, 0, 262144, 64, 0), ("decode", F, 1, 12, 12, 1, 0, 16384, 64, 0),
    ("decode", F, 1, 1, 1, 6, 0, 262144, 64, 0), ("decode", F, 1, 8, 2, 1, 0, 65536, 64, 0),
    ("ntk", F, 1, 12, 12, 128, 128, 0, 64, 0), ("ntk", F, 1, 12, 12, 512, 512, 0, 64, 0),
    ("ntk", F, 8, 12, 12, 32, 32, 0, 64, 0),
    ("ntk", F, 1, 12, 12, 128, 128, 0, 64, 1), ("ntk", F, 1, 12, 12, 512, 512, 0, 64, 1),
    ("ntk", F, 1, 12, 12, 2048, 2048, 0, 64, 1),
    ("ntk", FB, 1, 12, 12, 512, 512, 0, 64, 0), ("ntk", FB, 1, 12, 12, 512, 512, 0, 64, 1),
]
QUICK = [1, 4, 7, 14, 17, 18, 22, 25]


class Case:
    def __init__(self, index):
        self.index = index
        for name, value in zip(FIELDS, CASES[index]):
            setattr(self, name, value)
        self.scale = self.head_dim ** -0.5

    def __str__(self):
        return (f"{self.kind:6s} {self.passes:16s} B={self.batch:<2d} H={self.heads}/{self.kv_heads} "
                f"L={self.len_q} m={self.prefix_len} d={self.head_dim}{' causal' if self.causal else ''}")

    def label(self):
        """Without commas, for a figure."""
        return (f"{self.kind}{' both' if self.passes == FB else ''}: {self.batch} x {self.heads} heads, "
                f"L {self.len_q}, m {self.prefix_len}, d {self.head_dim}{', causal' if self.causal else ''}").replace(",", "")

    def draw(self, np):
        """The tensors by name, the same in every process."""
        rng = np.random.default_rng(1000 + self.index)
        B, H, KV, d = self.batch, self.heads, self.kv_heads, self.head_dim
        sizes = {"q": (B, H, self.len_q, d), "g": (B, H, self.len_q, d), "k": (B, KV, self.len_k, d),
                 "v": (B, KV, self.len_k, d), "pk": (B, KV, self.prefix_len, d), "pv": (B, KV, self.prefix_len, d)}
        if self.kind == "ntk":
            sizes.update({"Z": (B, H, d, d), "kvec": (B, H, d, 1)})
        data = {n: rng.standard_normal(s, dtype=np.float32) for n, s in sizes.items()}
        if self.kind == "ntk":
            data["kvec"] = np.abs(data["kvec"])
        return data

    def joined(self, np):
        """With prefix and input in one array, and the mask (None: no mask), for peers."""
        data = self.draw(np)
        data["k"] = np.ascontiguousarray(np.concatenate([data.pop("pk"), data["k"]], 2))
        data["v"] = np.ascontiguousarray(np.concatenate([data.pop("pv"), data["v"]], 2))
        mask = None
        if self.causal:
            mask = np.ones((self.len_q, self.prefix_len + self.len_k), dtype=bool)
            mask[:, self.prefix_len:] = np.tril(np.ones((self.len_q, self.len_k), dtype=bool))
        return data, mask

    def names(self):
        return ["q", "k", "v"] + (["Z", "kvec"] if self.kind == "ntk" else [])

    def operations(self):
        """4 d (forward), 14 d (both) per visible pair; with r = d features 2 r (d + 1) per query, three times both."""
        both = self.passes == FB
        pairs = self.len_q * (self.len_q + 1) / 2 if self.causal else self.len_q * self.len_k
        pairs += self.len_q * self.prefix_len
        each = (14 if both else 4) * self.head_dim * pairs
        if self.kind == "ntk":
            each += (6 if both else 2) * self.head_dim * (self.head_dim + 1) * self.len_q
        return self.batch * self.heads * each

    def key_bytes(self):
        return 8 * self.batch * self.kv_heads * (self.prefix_len + self.len_k) * self.head_dim


# ---- this library --------------------------------------------------------------------------------------------------

class Shape(c.Structure):
    _fields_ = [(n, c.c_size_t) for n in "batch heads kv_heads len_q len_k head_dim".split()] + \
               [("causal", c.c_int), ("key_lengths", c.c_void_p)]


class View(c.Structure):
    _fields_ = [("data", c.c_void_p)] + [(n, c.c_ssize_t) for n in ("batch", "head", "row")]


class Prefix(c.Structure):
    _fields_ = [("len", c.c_size_t), ("k", View), ("v", View), ("packed", c.c_void_p)]


class Summary(c.Structure):
    _fields_ = [("map", c.c_void_p), ("heads", c.c_size_t), ("Z", View), ("k", View)]


class Grads(c.Structure):
    _fields_ = [(n, View) for n in ("q", "k", "v", "first", "second")]


def view(x):
    return View(x.ctypes.data, *(s // 4 for s in x.strides[:3]))


class Ours:
    STORAGES = {"packed": 0, "packed bf16": 1, "packed f16": 2}

    def __init__(self, args):
        import numpy
        self.np, self.threads, self.lib = numpy, args.threads[0], c.CDLL(args.library)

    def contenders(self, case):
        """Functions by name, each with the array its forward output is in."""
        plain = self.call(case, None)
        if case.kind != "decode":
            return {"this library": plain}
        return {"this library": plain, **{n: self.call(case, s) for n, s in self.STORAGES.items()}}

    def call(self, case, storage):
        np, lib, x, threads = self.np, self.lib, case.draw(self.np), c.c_int(self.threads)
        ntk = case.kind == "ntk"
        shape = Shape(case.batch, case.heads, case.kv_heads, case.len_q, case.len_k, case.head_dim, case.causal, None)
        out, rows = np.zeros_like(x["q"]), np.zeros(x["q"].shape[:3] + (2,), np.float32)
        if ntk:
            feature_map = c.c_void_p()
            assert lib.feature_parse(b"elu1", c.c_size_t(case.head_dim), c.c_double(0), c.c_uint64(1), None,
                                     c.byref(feature_map)) == 0
            kvec = x["kvec"].reshape(case.batch, case.heads, 1, case.head_dim)
            extra, firsts = Summary(feature_map, case.heads, view(x["Z"]), view(kvec)), (x["Z"], kvec)
        else:
            extra, firsts = Prefix(case.prefix_len, view(x["pk"]), view(x["pv"]), None), (x["pk"], x["pv"])
        if storage is not None:
            lib.attn_packed_alloc_as.restype = c.c_void_p
            packed = lib.attn_packed_alloc_as(c.c_int(storage), *(c.c_size_t(n) for n in (
                case.batch, case.kv_heads, case.prefix_len, case.head_dim)))
            assert lib.attn_packed_set(c.c_void_p(packed), extra.k, extra.v, threads) == 0
            extra.packed = packed
        grads = [np.zeros_like(a) for a in (x["q"], x["k"], x["v"]) + firsts]
        grad_views = Grads(*map(view, grads))
        names = ("attn_ntk_forward", "attn_ntk_backward") if ntk else ("attn_exact_forward", "attn_exact_backward")
        forward, backward = (getattr(lib, n) for n in names)
        size_f, size_b = (getattr(lib, n + "_workspace") for n in names)
        size_f.restype = size_b.restype = c.c_size_t
        argument = c.byref(extra) if ntk else c.c_size_t(case.prefix_len)
        size = max(size_f(c.byref(shape), argument, threads),
                   size_b(c.byref(shape), argument, c.byref(grad_views), threads))
        work = np.empty(size, np.uint8)
        head = [c.byref(shape), c.c_float(case.scale), view(x["q"]), view(x["k"]), view(x["v"]), c.byref(extra)]
        tail = [c.c_void_p(work.ctypes.data), c.c_size_t(size), threads]
        forward_args = head + [view(out), c.c_void_p(rows.ctypes.data)] + tail + [None]
        backward_args = head + [view(out), c.c_void_p(rows.ctypes.data), view(x["g"]), c.byref(grad_views)] + tail
        both, keep = case.passes == FB, (x, rows, extra, firsts, grads, shape, work)

        def run():
            status = forward(*forward_args) or (both and backward(*backward_args))
            assert not status and keep, status
            return out
        return run


# ---- peers ----------------------------------------------------------------------------------------------------

class Torch:
    backend = None

    def __init__(self, args):
        import numpy
        import torch
        self.np, self.torch, self.suffix = numpy, torch, " +" if "THP_MEM_ALLOC_ENABLE" in os.environ else ""
        self.compiled = not args.quick
        torch.set_num_threads(args.threads[0])
        self.version = torch.__version__

    def contenders(self, case):
        torch, (data, mask) = self.torch, case.joined(self.np)
        functional, d, both = torch.nn.functional, case.head_dim, case.passes == FB
        t = {n: torch.from_numpy(x).clone().requires_grad_(both and n != "g") for n, x in data.items()}
        mask = None if mask is None else torch.from_numpy(mask)
        whole_causal = case.causal and not case.prefix_len

        def sdpa(q, k, v):
            return functional.scaled_dot_product_attention(
                q, k, v, attn_mask=None if whole_causal else mask, is_causal=bool(whole_causal),
                enable_gqa=case.heads != case.kv_heads)

        def phi(q):
            return functional.elu(q * d ** -0.25) + 1.0

        def formula(q, k, v, Z, kvec):
            s = q @ k.transpose(2, 3) * case.scale
            if mask is not None:
                s = s.masked_fill(~mask, float("-inf"))
            a = torch.exp(s)
            f = phi(q)
            return (a @ v + f @ Z) / (a.sum(-1, keepdim=True) + f @ kvec)

        def flash(q, k, v, Z, kvec):
            out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, bool(case.causal))
            weight, f = torch.exp(-lse).unsqueeze(-1), phi(q)
            return (out + weight * (f @ Z)) / (1.0 + weight * (f @ kvec))

        functions = {"torch sdpa": sdpa} if case.kind != "ntk" else {"torch formula": formula}
        if case.kind == "ntk" and not both:
            functions["torch flash"] = flash
        if case.kind == "ntk" and self.compiled and not self.suffix:
            functions["torch.compile"] = torch.compile(formula)
        if self.backend:
            functions = {self.backend: torch.compile(sdpa if case.kind != "ntk" else formula, backend=self.backend)}
        inputs = [t[n] for n in case.names()]

        def runner(f):
            def run():
                if not both:
                    with torch.no_grad():
                        return f(*inputs)
                out = f(*inputs)
                torch.autograd.grad(out, inputs, t["g"])
                return out
            return run
        return {n + self.suffix: runner(f) for n, f in functions.items()}


class Zentorch(Torch):
    backend = "zentorch"

    def __init__(self, args):
        super().__init__(args)
        import zentorch
        self.version, self.suffix = zentorch.__version__, ""

    def contenders(self, case):
        return {} if case.passes == FB else super().contenders(case)


class Onnx:
    def __init__(self, args):
        import numpy
        import onnx
        import onnxruntime
        self.np, self.onnx, self.ort, self.threads = numpy, onnx, onnxruntime, args.threads[0]
        self.version = onnxruntime.__version__

    def contenders(self, case):
        if case.kind == "ntk" or case.passes == FB:
            return {}
        onnx, ort, (data, mask) = self.onnx, self.ort, case.joined(self.np)
        inputs = ["q", "k", "v"] + ([] if mask is None else ["mask"])
        if mask is not None:
            data["mask"] = mask

        def info(n):
            kind = onnx.TensorProto.BOOL if n == "mask" else onnx.TensorProto.FLOAT
            return onnx.helper.make_tensor_value_info(n, kind, data["q" if n == "out" else n].shape)
        node = onnx.helper.make_node("Attention", inputs, ["out"])
        graph = onnx.helper.make_graph([node], "attention", [info(n) for n in inputs], [info("out")])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding, out = session.io_binding(), self.np.zeros_like(data["q"])
        values = [ort.OrtValue.ortvalue_from_numpy(data[n]) for n in inputs]
        for n, value in zip(inputs, values):
            binding.bind_ortvalue_input(n, value)
        result = ort.OrtValue.ortvalue_from_numpy(out)
        binding.bind_ortvalue_output("out", result)

        keep = values, data, out

        def run():
            session.run_with_iobinding(binding)
            return result if keep else None
        return {"onnxruntime": run}


class OpenVino:
    def __init__(self, args):
        import numpy
        import openvino
        self.np, self.ov, self.threads = numpy, openvino, args.threads[0]
        self.version = openvino.__version__

    def contenders(self, case):
        if case.kind == "ntk" or case.passes == FB or case.heads != case.kv_heads:
            return {}
        import openvino.opset13 as ops
        data, mask = case.joined(self.np)
        parameters = [ops.parameter(data[n].shape, self.np.float32) for n in "qkv"]
        extra = [] if mask is None else [ops.constant(mask)]
        node = ops.scaled_dot_product_attention(*parameters, *extra, causal=False)
        compiled = self.ov.Core().compile_model(self.ov.Model([node], parameters), "CPU", {
            "INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})
        request = compiled.create_infer_request()
        for i, n in enumerate("qkv"):
            request.set_input_tensor(i, self.ov.Tensor(data[n], shared_memory=True))

        keep = data, compiled

        def run():
            request.infer()
            return request.get_output_tensor(0).data if keep else None
        return {"openvino": run}


class Jax:
    def __init__(self, args):
        import numpy
        import jax
        self.np, self.jax = numpy, jax
        self.version = jax.__version__

    def contenders(self, case):
        jax, (data, mask) = self.jax, case.joined(self.np)
        jnp, d, group = jax.numpy, case.head_dim, case.heads // case.kv_heads

        def attend(q, k, v, *summary):
            k, v = (jnp.repeat(x, group, 1) if group > 1 else x for x in (k, v))
            s = jnp.einsum("bhid,bhjd->bhij", q, k) * case.scale
            if mask is not None:
                s = jnp.where(mask, s, -jnp.inf)
            if not summary:
                return jnp.einsum("bhij,bhjd->bhid", jax.nn.softmax(s, -1), v)
            Z, kvec = summary
            a, f = jnp.exp(s), jax.nn.elu(q * d ** -0.25) + 1.0
            return (jnp.einsum("bhij,bhjd->bhid", a, v) + f @ Z) / (a.sum(-1, keepdims=True) + f @ kvec)

        inputs = [jnp.asarray(data[n]) for n in case.names()]
        g = jnp.asarray(data["g"])

        def both(inputs, g):
            out, pull = jax.vjp(attend, *inputs)
            return out, pull(g)
        step = jax.jit(both if case.passes == FB else lambda x, _: (attend(*x), ()))
        return {"jax": lambda: jax.block_until_ready(step(inputs, g))[0]}


PEERS = {"ours": Ours, "torch": Torch, "torch+": Torch, "zentorch": Zentorch, "onnxruntime": Onnx, "openvino": OpenVino,
         "jax": Jax}


# ---- a contender's process: a request and an answer per line -------------------------------------------------------

def array_of(np, output):
    """An array of this process, of what a peer returns."""
    if hasattr(output, "detach"):
        output = output.detach()
    return np.array(output.numpy() if hasattr(output, "numpy") else output)


def serve(args):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)               # what a peer prints is no answer
    try:
        peer = PEERS[args.serve](args)
        import numpy as np
        answer = {"version": getattr(peer, "version", "")}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(answer), file=answers, flush=True)
    runs = {}
    for line in sys.stdin if "version" in answer else ():
        request = json.loads(line)
        try:
            if "case" in request:
                runs = {}
                runs = peer.contenders(Case(request["case"]))
                failed = {}
                for name in list(runs):
                    try:
                        np.save(os.path.join(request["folder"], f"{name}.npy"), array_of(np, runs[name]()))
                        runs[name]()
                    except Exception as error:
                        failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                        del runs[name]
                answer = {"names": list(runs), "failed": failed}
            else:
                run, count, start = runs[request["time"]], 0, time.perf_counter()
                while True:
                    run()
                    count += 1
                    elapsed = time.perf_counter() - start
                    if elapsed >= request["enough"]:
                        break
                answer = {"seconds": elapsed / count}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


class Process:
    def __init__(self, name, args, threads):
        self.name = name
        environment = {**os.environ, **(POOL if name == "torch+" else {}), "OMP_NUM_THREADS": str(threads),
                       "OMP_WAIT_POLICY": "passive", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, os.path.abspath(__file__), "--serve", name, "--library", args.library,
                   "--threads", str(threads)]
        cores = sorted(os.sched_getaffinity(0))[:threads]
        self.child = subprocess.Popen(command + (["--quick"] if args.quick else []), stdin=subprocess.PIPE, text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
                                      preexec_fn=lambda: os.sched_setaffinity(0, cores))
        hello = self.read()
        self.version, self.error = hello.get("version", ""), hello.get("error")

    def read(self):
        if not select.select([self.child.stdout], [], [], PATIENCE)[0]:
            self.child.kill()
            return {"error": f"no answer in {PATIENCE} s"}
        line = self.child.stdout.readline()
        return json.loads(line) if line else {"error": "the process ended"}

    def ask(self, **request):
        try:
            self.child.stdin.write(json.dumps(request) + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            return {"error": "the process ended"}
        return self.read()

    def close(self):
        try:
            self.child.stdin.close()
        except BrokenPipeError:
            pass
        self.child.wait()


# ---- rounds ----------------------------------------------------------------------------------------------------

def measured_peaks(args, threads):
    """GFLOP/s of fused multiply-adds and GB/s of reads, from the rooflines of attention_cost; None without it."""
    if not args.cost:
        return None, None
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "cost.csv")
        subprocess.run([args.cost, "--method", "exact", "--heads", "1", "--seq-len", "1", "--prefix-len", "4096",
                        "--dim", "64", "--num-rounds", "3", "--thread-list", str(threads), "--quiet", "--out", out],
                       check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(folder, "cost_roofline.csv")) as f:
            row = next(csv.DictReader(line for line in f if not line.startswith("#")))
    return float(row["peak_gflop_per_s"]), float(row["roof_gflop_per_s"]) / float(row["intensity"])


def compare_outputs(np, folder, names):
    """Names by the error of their output relative to the largest number of ours."""
    ours = np.load(os.path.join(folder, "this library.npy"))
    others = {n: np.load(os.path.join(folder, f"{n}.npy")) for n in names}
    return {n: float(np.abs(x - ours).max() / np.abs(ours).max()) for n, x in others.items()}


def run_case(args, np, case, processes):
    """Seconds of every round by contender, and what their outputs differ by."""
    owners = {}
    with tempfile.TemporaryDirectory() as folder:
        for process in processes:
            answer = process.ask(case=case.index, folder=folder)
            for name, why in answer.get("failed", {}).items():
                print(f"#   {name}: {why}", flush=True)
            if "error" in answer:
                print(f"#   {process.name}: {answer['error']}", flush=True)
            owners.update({n: process for n in answer.get("names", [])})
        errors = compare_outputs(np, folder, owners)
    for name, error in errors.items():
        if not error <= (TOLERANCE_HALF if "16" in name else TOLERANCE):
            print(f"#   {name}: differs by {error:.1e}, left out", flush=True)
            del owners[name]
    times = {n: [] for n in owners}
    for _ in range(args.rounds):
        for name, process in owners.items():
            time.sleep(0.01)        # idle threads of the one before have gone to sleep
            answer = process.ask(time=name, enough=args.enough)
            times[name].append(answer.get("seconds", float("nan")))
    return {n: t for n, t in times.items() if all(s == s for s in t)}, errors


def compare(args, threads, writer):
    import numpy as np
    peak, bandwidth = measured_peaks(args, threads)
    print(f"# {threads} thread{'s' if threads > 1 else ''}: {cpu_name()}" +
          (f"; measured {peak:.0f} GFLOP/s (float32), {bandwidth:.1f} GB/s read" if peak else ""), flush=True)
    processes = []
    for name in PEERS:
        if name != "ours" and args.peers and name not in args.peers:
            continue
        process = Process(name, args, threads)
        found = f"absent ({process.error})" if process.error else process.version or args.library
        print(f"# {name}: {found}", flush=True)
        if not process.error:
            processes.append(process)
        elif name == "ours":
            raise SystemExit(f"bench_peers: {process.error}")
    for index in args.chosen:
        case = Case(index)
        times, errors = run_case(args, np, case, processes)
        if "this library" not in times:
            raise SystemExit(f"bench_peers: {case} fails")
        ours = times["this library"]
        share = case.operations() / min(ours) / 1e9 / peak if peak else float("nan")
        read = case.key_bytes() / min(ours) / 1e9 / bandwidth if peak else float("nan")
        rivals = {n: statistics.median(a / b for a, b in zip(t, ours)) for n, t in times.items()
                  if n != "this library" and "packed" not in n}
        toughest = min(rivals, key=rivals.get) if rivals else "none"
        print(f"{case}: toughest {toughest} {rivals.get(toughest, float('nan')):.2f}x; " +
              (f"{100 * read:.0f} % of the bandwidth" if case.kind == "decode" else f"{100 * share:.0f} % of the peak"))
        for name, t in times.items():
            ratio, best = statistics.median(a / b for a, b in zip(t, ours)), min(t) / min(ours)
            print(f"    {name:18s} {1e3 * statistics.median(t):10.3f} ms {ratio:6.2f}x  best {best:5.2f}x  "
                  f"off {errors[name]:.0e}", flush=True)
            writer.writerow(CASES[index] + (threads, name, statistics.median(t), min(t), ratio, best, errors[name],
                                            "" if share != share else share, "" if read != read else read,
                                            args.chosen.index(index) + 1, case.label()))
    for process in processes:
        process.close()


def cpu_name():
    with open("/proc/cpuinfo") as f:
        names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else "unknown CPU"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--cost", default="", help="attention_cost, which measures the peaks")
    parser.add_argument("--threads", default="1", type=lambda s: [int(n) for n in s.split(",")])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--cases", default="", help="words, all of them in the case's name, e.g. 'decode'")
    parser.add_argument("--peers", default="", type=lambda s: s.split(",") if s else [])
    parser.add_argument("--quick", action="store_true", help="some cases, few rounds: 90 s")
    parser.add_argument("--out", default="")
    parser.add_argument("--serve", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args)
    args.library = os.path.abspath(args.library)
    args.rounds = args.rounds or (3 if args.quick else 7)
    args.enough = 0.02 if args.quick else 0.03
    args.chosen = [i for i in (QUICK if args.quick else range(len(CASES)))
                   if all(w in str(Case(i)) for w in args.cases.split())]
    out = open(args.out, "w", newline="") if args.out else open(os.devnull, "w")
    with out:
        writer = csv.writer(out)
        writer.writerow(FIELDS + ("threads contender time_s best_s ratio ratio_best error share_fma share_read "
                                  "row label").split())
        for threads in args.threads:
            compare(args, threads, writer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
