#!/usr/bin/env python3
"""Times the attention kernels of this library against what a CPU user would otherwise call.

    tools/bench_peers.py --library build/lib/libprefix_ntk.so [--node-modules DIR] [--threads N] [--rounds N] [--out FILE.csv]

Contenders take turns in rounds; a ratio is the median over rounds of the contender's time over ours in the same round, so
above 1 this library is faster. Everything runs twice, with malloc as it comes and with malloc told to keep what is freed
("pool", which spares PyTorch a page fault per page and call). Peers: PyTorch (scaled_dot_product_attention, the plain
formula, and torch.compile of it; formulas restated here) and ONNX Runtime (npm onnxruntime-node, its MultiHeadAttention
operator). A peer that is absent is named and left out.
"""
import argparse
import csv
import ctypes as c
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time

POOL = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "67108864"}

# kind, heads, L, m, d, causal, passes
CASES = [
    ("exact", 12, 128, 16, 64, False, "forward"),
    ("exact", 12, 128, 16, 64, False, "forward+backward"),
    ("exact", 2, 512, 4096, 64, False, "forward"),
    ("exact", 2, 512, 4096, 64, False, "forward+backward"),
    ("exact", 2, 512, 4096, 64, True, "forward"),
    ("exact", 2, 512, 4096, 64, True, "forward+backward"),
    ("exact", 2, 512, 4096, 32, False, "forward"),
    ("exact", 2, 512, 4096, 32, False, "forward+backward"),
    ("ntk", 12, 128, 0, 64, True, "forward"),
    ("ntk", 12, 512, 0, 64, True, "forward"),
    ("ntk", 12, 2048, 0, 64, True, "forward"),
    ("ntk", 12, 128, 0, 64, False, "forward+backward"),
    ("ntk", 12, 512, 0, 64, False, "forward+backward"),
    ("ntk", 12, 2048, 0, 64, False, "forward+backward"),
    ("ntk", 12, 128, 0, 64, True, "forward+backward"),
    ("ntk", 12, 512, 0, 64, True, "forward+backward"),
    ("ntk", 12, 2048, 0, 64, True, "forward+backward"),
]


# ---- this library -----------------------------------------------------------------------------------------------------

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


class Ours:
    """One case on the tensors of `data`, each (heads, rows, dim) float32 in memory of its own."""

    def __init__(self, lib, case, data, threads):
        kind, self.heads, L, m, d, causal, self.passes = case
        self.lib, self.threads, self.ntk = lib, threads, kind == "ntk"
        self.shape, self.scale = Shape(1, self.heads, self.heads, L, L, d, causal, None), c.c_float(d ** -0.5)
        self.inputs = [self.view(data[n], L, d) for n in "qkv"]
        self.keep = {n: self.make(L * d) for n in ("out", "dq", "dk", "dv")}
        self.keep["g"] = data["g"]
        rows = self.make(2 * L)
        self.keep["rows"] = rows
        out, g = self.view(self.keep["out"], L, d), self.view(data["g"], L, d)
        if self.ntk:
            feature_map = c.c_void_p()
            assert lib.feature_parse(b"elu1", c.c_size_t(d), c.c_double(0), c.c_uint64(1), None, c.byref(feature_map)) == 0
            self.extra = Summary(feature_map, self.heads, self.view(data["Z"], d, d), self.view(data["kvec"], 1, d))
            first, second = self.make(d * d), self.make(d)
            views = self.view(first, d, d), self.view(second, 1, d)
            names = "attn_ntk_forward", "attn_ntk_backward"
        else:
            self.extra = Prefix(m, self.view(data["pk"], m, d), self.view(data["pv"], m, d), None)
            first, second = self.make(m * d), self.make(m * d)
            views = self.view(first, m, d), self.view(second, m, d)
            names = "attn_exact_forward", "attn_exact_backward"
        self.keep["first"], self.keep["second"] = first, second
        self.grads = Grads(*(self.view(self.keep[n], L, d) for n in ("dq", "dk", "dv")), *views)
        self.forward_f, self.backward_f = (getattr(lib, n) for n in names)
        size_f, size_b = (getattr(lib, n + "_workspace") for n in names)
        size_f.restype = size_b.restype = c.c_size_t
        argument = c.byref(self.extra) if self.ntk else c.c_size_t(m)
        bytes_f = size_f(c.byref(self.shape), argument, c.c_int(threads))
        bytes_b = size_b(c.byref(self.shape), argument, c.byref(self.grads), c.c_int(threads))
        self.work_bytes = max(bytes_f, bytes_b)
        self.work = (c.c_char * self.work_bytes)()
        tail = [c.byref(self.extra)]
        work = [self.work, c.c_size_t(self.work_bytes), c.c_int(threads)]
        head = [c.byref(self.shape), self.scale] + self.inputs + tail
        self.forward_args = head + [out, rows] + work + [None]
        self.backward_args = head + [out, rows, g, c.byref(self.grads)] + work
        self.out = self.keep["out"]

    def make(self, per_head):
        return (c.c_float * (self.heads * per_head))()

    def view(self, buffer, rows, dim):
        return View(c.addressof(buffer) if isinstance(buffer, c.Array) else buffer.data_ptr(),
                    self.heads * rows * dim, rows * dim, dim)

    def __call__(self):
        status = self.forward_f(*self.forward_args)
        if not status and "backward" in self.passes:
            status = self.backward_f(*self.backward_args)
        assert status == 0, status


# ---- PyTorch ---------------------------------------------------------------------------------------------------------------

def torch_contenders(torch, case, data):
    kind, heads, L, m, d, causal, passes = case
    backward = "backward" in passes
    t = {n: x.clone().requires_grad_(backward and n != "g") for n, x in data.items()}
    mask = None
    if causal:
        mask = torch.ones(L, L, dtype=torch.bool).tril()
        if m:
            mask = torch.cat([torch.ones(L, m, dtype=torch.bool), mask], 1)

    def plain(q, k, v, pk, pv):
        keys, values = torch.cat([pk, k], 1), torch.cat([pv, v], 1)
        s = q @ keys.transpose(1, 2) * d ** -0.5
        if mask is not None:
            s = s.masked_fill(~mask, float("-inf"))
        return torch.softmax(s, -1) @ values

    def sdpa(q, k, v, pk, pv):
        keys, values = torch.cat([pk, k], 1), torch.cat([pv, v], 1)
        return torch.nn.functional.scaled_dot_product_attention(q[None], keys[None], values[None], attn_mask=mask)[0]

    def ntk(q, k, v, Z, kvec):
        s = q @ k.transpose(1, 2) * d ** -0.5
        if mask is not None:
            s = s.masked_fill(~mask, float("-inf"))
        a = torch.exp(s)
        phi = torch.nn.functional.elu(q * d ** -0.25) + 1.0
        return (a @ v + phi @ Z) / (a.sum(-1, keepdim=True) + phi @ kvec.transpose(1, 2))

    names = ["q", "k", "v"] + (["Z", "kvec"] if kind == "ntk" else ["pk", "pv"])
    functions = {"torch formula": ntk, "torch.compile": torch.compile(ntk)} if kind == "ntk" else \
        {"torch sdpa": sdpa, "torch formula": plain}

    def runner(f):
        def run():
            if not backward:
                with torch.no_grad():
                    return f(*(t[n] for n in names))
            out = f(*(t[n] for n in names))
            return torch.autograd.grad(out, [t[n] for n in names], t["g"])
        return run
    return {name: runner(f) for name, f in functions.items()}


# ---- ONNX Runtime, in a Node process that answers one line per request ------------------------------------------------------

def field(number, payload):
    """One protobuf field: a varint or a length-delimited message."""
    def varint(n):
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    if isinstance(payload, str):
        payload = payload.encode()
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def attention_model(heads, L, total, d):
    """ModelProto of com.microsoft.MultiHeadAttention over (1, rows, heads * d)."""
    def value(name, rows):
        dims = b"".join(field(1, field(1, n)) for n in (1, rows, heads * d))
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))
    attribute = field(1, "num_heads") + field(3, heads) + field(20, 2)
    node = field(1, "q") + field(1, "k") + field(1, "v") + field(2, "out") + field(4, "MultiHeadAttention") + \
        field(5, attribute) + field(7, "com.microsoft")
    graph = field(1, node) + field(2, "attention") + field(11, value("q", L)) + field(11, value("k", total)) + \
        field(11, value("v", total)) + field(12, value("out", L))
    opsets = field(8, field(2, 17)) + field(8, field(1, "com.microsoft") + field(2, 1))
    return field(1, 8) + field(7, graph) + opsets


NODE_PROGRAM = r"""
const ort = require(process.argv[2]);
const lines = require('readline').createInterface({ input: process.stdin });
let session, feeds;
lines.on('line', async (line) => {
  try {
    const m = JSON.parse(line);
    if (m.model) {
      session = await ort.InferenceSession.create(m.model, { intraOpNumThreads: m.threads, interOpNumThreads: 1 });
      const tensor = (rows, f) => new ort.Tensor('float32', Float32Array.from({ length: rows * m.width }, f), [1, rows, m.width]);
      feeds = { q: tensor(m.rows, () => Math.random() - 0.5), k: tensor(m.total, () => Math.random() - 0.5), v: tensor(m.total, () => Math.random() - 0.5) };
      await session.run(feeds);
    }
    const start = process.hrtime.bigint();
    let runs = 0;
    do { await session.run(feeds); runs++; } while (process.hrtime.bigint() - start < 30000000n);
    console.log(JSON.stringify({ seconds: Number(process.hrtime.bigint() - start) / 1e9 / runs }));
  } catch (e) { console.log(JSON.stringify({ error: String(e) })); }
});
"""


class Onnx:
    def __init__(self, package, threads):
        self.threads, self.folder = threads, tempfile.TemporaryDirectory()
        program = os.path.join(self.folder.name, "serve.js")
        with open(program, "w") as f:
            f.write(NODE_PROGRAM)
        self.node = subprocess.Popen(["node", program, os.path.abspath(package)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     text=True)

    def ask(self, request):
        self.node.stdin.write(json.dumps(request) + "\n")
        self.node.stdin.flush()
        line = self.node.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process ended"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["seconds"]

    def start(self, case):
        _, heads, L, m, d, _, _ = case
        model = os.path.join(self.folder.name, "model.onnx")
        with open(model, "wb") as f:
            f.write(attention_model(heads, L, m + L, d))
        self.ask({"model": model, "threads": self.threads, "rows": L, "total": m + L, "width": heads * d})

    def close(self):
        self.node.stdin.close()
        self.node.wait()
        self.folder.cleanup()


# ---- rounds --------------------------------------------------------------------------------------------------------------------

def seconds_per_call(run, enough=0.03):
    start, runs = time.perf_counter(), 0
    while True:
        run()
        runs += 1
        elapsed = time.perf_counter() - start
        if elapsed >= enough:
            return elapsed / runs


def draw(case, torch):
    """Tensors by name: of PyTorch when it is there, else arrays of the same bytes."""
    kind, heads, L, m, d, _, _ = case
    sizes = {n: (heads, L, d) for n in "qkvg"}
    sizes.update({"Z": (heads, d, d), "kvec": (heads, 1, d)} if kind == "ntk" else {"pk": (heads, m, d), "pv": (heads, m, d)})
    if torch:
        torch.manual_seed(1)
        return {n: (torch.rand(s) if n == "kvec" else torch.randn(s)).contiguous() for n, s in sizes.items()}
    data = {}
    for n, (a, b, e) in sizes.items():
        data[n] = (c.c_float * (a * b * e))()
        random = os.urandom(2 * a * b * e)
        for i, (x,) in enumerate(struct.iter_unpack("<H", random)):
            data[n][i] = x / 65536.0 if n == "kvec" else x / 20000.0 - 1.6
    return data


def compare(args, setting):
    lib = c.CDLL(args.library)
    try:
        import torch
        torch.set_num_threads(args.threads)
        print(f"# PyTorch {torch.__version__}, {args.threads} threads, malloc {setting}", flush=True)
    except Exception as error:      # absent, or built for another machine
        torch = None
        print(f"# PyTorch: absent ({error})", flush=True)
    onnx = None
    package = os.path.join(args.node_modules, "onnxruntime-node") if args.node_modules else ""
    if os.path.isdir(package):
        onnx = Onnx(package, args.threads)
    else:
        print("# ONNX Runtime: absent (npm onnxruntime-node)", flush=True)
    rows = []
    for case in CASES:
        kind, heads, L, m, d, causal, passes = case
        data = draw(case, torch)
        ours = Ours(lib, case, data, args.threads)
        contenders = {"this library": lambda: seconds_per_call(ours)}
        if torch:
            for name, run in torch_contenders(torch, case, data).items():
                contenders[name] = lambda run=run: seconds_per_call(run)
            ours()
            got = torch.frombuffer(ours.out, dtype=torch.float32).view(heads, L, d)
            run = torch_contenders(torch, (kind, heads, L, m, d, causal, "forward"), data)["torch formula"]
            off = float((got - run()).abs().max() / run().abs().max())
            if not off < 1e-4:
                raise SystemExit(f"bench_peers: results differ by {off} on {case}")
        if onnx and kind == "exact" and not causal and passes == "forward":
            try:
                onnx.start(case)
                contenders["ONNX Runtime"] = lambda: onnx.ask({})
            except RuntimeError as error:
                print(f"# ONNX Runtime: {error}", flush=True)
        times = {name: [] for name in contenders}
        for name in list(contenders):
            try:
                contenders[name]()
            except Exception as error:  # torch.compile without a compiler
                print(f"# {name}: {str(error).splitlines()[0]}", flush=True)
                del contenders[name], times[name]
        for _ in range(args.rounds):
            for name, run in contenders.items():
                times[name].append(run())
        for name in contenders:
            ratio = statistics.median(a / b for a, b in zip(times[name], times["this library"]))
            rows.append([setting, kind, passes, heads, L, m, d, int(causal), args.threads, name,
                         statistics.median(times[name]), ratio])
            print(f"{setting:8s} {kind:6s} {passes:17s} H={heads:<3d} L={L:<5d} m={m:<5d} d={d:<3d} {'causal' if causal else 'full':7s}"
                  f"{name:15s} {1e3 * rows[-1][10]:10.3f} ms  {ratio:6.2f}x", flush=True)
    if onnx:
        onnx.close()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--node-modules", default="")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", default="")
    parser.add_argument("--malloc", choices=["default", "pool"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.malloc:
        rows = compare(args, args.malloc)
        if args.out:
            with open(args.out, "w", newline="") as f:
                csv.writer(f).writerows(rows)
        return 0
    code, parts = 0, []
    for setting in ("default", "pool"):
        part = f"{args.out}.{setting}" if args.out else ""
        command = [sys.executable, os.path.abspath(__file__), "--library", args.library, "--node-modules", args.node_modules,
                   "--threads", str(args.threads), "--rounds", str(args.rounds), "--out", part, "--malloc", setting]
        code = code or subprocess.call(command, env={**os.environ, **(POOL if setting == "pool" else {})})
        parts.append(part)
    if args.out and not code:
        with open(args.out, "w") as f:
            f.write("malloc,kind,passes,heads,seq_len,prefix_len,head_dim,causal,threads,contender,time_s,ratio_to_ours\n")
            for part in parts:
                with open(part) as g:
                    f.write(g.read())
    for part in parts:
        if part and os.path.exists(part):
            os.unlink(part)
    return code


if __name__ == "__main__":
    sys.exit(main())
