#!/usr/bin/env python3
"""Times a training step of this library against PyTorch on the CPU, on the shapes of bench_finetune.

    tools/bench_finetune_peers.py --program build/bin/bench_finetune [--rounds N] [--steps N] [--threads LIST]
                                  [--shape LIST] [--method LIST] [--malloc LIST] [--out FILE.csv]

A step is forward, cross entropy and backward, then clipping of the gradient to norm 1 and AdamW. In every round the
two run one after the other, a process each and a process per method, so that the peak of resident memory is the
method's; a time is the median over the steps of a process after a first that does not count, `ratio` the median over
rounds of PyTorch's time over ours, so above 1 this library is faster. `step` has no update in it, `ratio_update` is
of steps with the update. Everything runs twice, with malloc as it comes and with malloc told to keep what is freed
("pool", which spares PyTorch a page fault per page and step).

PyTorch: modules of torch.nn, one Linear for q, k and v, scaled_dot_product_attention, exact GELU, LayerNorm, fused
AdamW, eager mode, no dropout. Text has as many sequences as ours and is padded to the longest of them, with a mask of
the padding, as batches for PyTorch usually are; ours packs the rows. Images start with their position table at the
size of the grid: the resizing that dinov2-s14 needs is left out, in PyTorch's favour. lora is rank 8 on q and v,
ptuning 16 rows of keys and values per block, tied-prefix 16 rows through the block's own projections; ntk is elu1
with Z and k in the softmax, which scaled_dot_product_attention has no way to return the sum of, so it is spelled out;
prefix-plus adds phi(q) Z to scaled_dot_product_attention. PyTorch's peak includes the interpreter and the library,
`torch_import_bytes`.
"""
import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

POOL = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "67108864"}

# hidden, layers, heads, inner width, pre-norm, layer scale, image, patch, channels
SHAPES = {
    "minilm": (384, 6, 12, 1536, False, False, 0, 0, 0),
    "dinov2-s14": (384, 12, 6, 1536, True, True, 98, 14, 3),
    "vit-fashion": (96, 4, 3, 384, True, False, 28, 4, 1),
}
METHODS = ("full", "head", "lora", "ptuning", "tied-prefix", "ntk", "prefix-plus")
VOCABULARY, POSITIONS, CLASSES, RANK, ALPHA, PREFIX = 30522, 512, 10, 8, 16.0, 16
COLUMNS = ("malloc,shape,method,threads,rows,torch_rows,rounds,ours_s,torch_s,ratio,ours_update_s,torch_update_s,"
           "ratio_update,ours_peak_bytes,torch_peak_bytes,torch_import_bytes").split(",")


# ---- PyTorch's side, a process of its own ------------------------------------------------------------------

def make_model(torch, shape, method):
    nn, F = torch.nn, torch.nn.functional
    hidden, num_layers, heads, inner, pre, scaled, image, patch, channels = SHAPES[shape]
    eps = 1e-6 if image else 1e-12
    head_dim = hidden // heads

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
            self.up, self.down = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
            self.norm1, self.norm2 = nn.LayerNorm(hidden, eps=eps), nn.LayerNorm(hidden, eps=eps)
            if scaled:
                self.scale1, self.scale2 = nn.Parameter(torch.ones(hidden)), nn.Parameter(torch.ones(hidden))
            if method == "lora":
                self.adapter_A = nn.ParameterList(0.02 * torch.randn(RANK, hidden) for _ in "qv")
                self.adapter_B = nn.ParameterList(torch.zeros(hidden, RANK) for _ in "qv")
            if method == "ptuning":
                self.adapter_prefix = nn.Parameter(0.02 * torch.randn(2, heads, PREFIX, head_dim))
            if method == "tied-prefix":
                self.adapter_prefix = nn.Parameter(0.02 * torch.randn(PREFIX, hidden))
            if method in ("ntk", "prefix-plus"):
                self.adapter_Z = nn.Parameter(torch.zeros(heads, head_dim, head_dim))
            if method == "ntk":
                self.adapter_log_k = nn.Parameter(torch.full((heads, head_dim, 1), -8.0))

        def attention(self, x, mask):
            B, L, _ = x.shape
            q, k, v = self.qkv(x).split(hidden, -1)
            if method == "lora":
                dq, dv = (ALPHA / RANK * F.linear(F.linear(x, a), b) for a, b in zip(self.adapter_A, self.adapter_B))
                q, v = q + dq, v + dv
            q, k, v = (t.view(B, L, heads, head_dim).transpose(1, 2) for t in (q, k, v))
            if method == "ptuning":
                k = torch.cat([self.adapter_prefix[0].expand(B, -1, -1, -1), k], 2)
                v = torch.cat([self.adapter_prefix[1].expand(B, -1, -1, -1), v], 2)
            if method == "tied-prefix":
                rows = F.linear(self.adapter_prefix, self.qkv.weight[hidden:], self.qkv.bias[hidden:])
                pk, pv = (t.view(1, PREFIX, heads, head_dim).transpose(1, 2).expand(B, -1, -1, -1)
                          for t in rows.split(hidden, -1))
                k, v = torch.cat([pk, k], 2), torch.cat([pv, v], 2)
            if method == "ntk":
                s = q @ k.transpose(-1, -2) / math.sqrt(head_dim)
                if mask is not None:
                    s = s.masked_fill(~mask, -math.inf)
                top = s.amax(-1, keepdim=True)
                e, phi = torch.exp(s - top), torch.exp(-top) * (F.elu(q / head_dim ** 0.25) + 1.0)
                y = (e @ v + phi @ self.adapter_Z) / (e.sum(-1, keepdim=True) + phi @ torch.exp(self.adapter_log_k))
            else:
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            if method == "prefix-plus":
                y = y + (F.elu(q / head_dim ** 0.25) + 1.0) @ self.adapter_Z
            return self.out(y.transpose(1, 2).reshape(B, L, hidden))

        def mlp(self, x):
            return self.down(F.gelu(self.up(x)))

        def forward(self, x, mask):
            if not pre:
                x = self.norm1(x + self.attention(x, mask))
                return self.norm2(x + self.mlp(x))
            a = self.attention(self.norm1(x), mask)
            x = x + (self.scale1 * a if scaled else a)
            b = self.mlp(self.norm2(x))
            return x + (self.scale2 * b if scaled else b)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            if image:
                self.patches = nn.Conv2d(channels, hidden, patch, patch)
                self.cls = nn.Parameter(torch.zeros(1, 1, hidden))
                self.position = nn.Parameter(0.02 * torch.randn(1, 1 + (image // patch) ** 2, hidden))
            else:
                self.token, self.position = nn.Embedding(VOCABULARY, hidden), nn.Embedding(POSITIONS, hidden)
                self.kind = nn.Embedding(2, hidden)
            self.norm = nn.LayerNorm(hidden, eps=eps)
            self.blocks = nn.ModuleList(Block() for _ in range(num_layers))
            self.head = nn.Linear(hidden, CLASSES)

        def forward(self, inputs, mask):
            if image:
                x = self.patches(inputs).flatten(2).transpose(1, 2)
                x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
            else:
                at = torch.arange(inputs.shape[1])
                x = self.norm(self.token(inputs) + self.position(at) + self.kind(torch.zeros_like(inputs)))
            for block in self.blocks:
                x = block(x, mask)
            x = x[:, 0]
            return self.head(self.norm(x) if image else x)

    model = Model()
    for name, p in model.named_parameters():
        p.requires_grad_(method == "full" or name.startswith("head.") or "adapter_" in name)
    return model


def make_batch(torch, shape, method, num_seqs, rows, longest):
    """Inputs, mask of the keys or None, labels. Text: lengths of 12..longest with the sum `rows`."""
    _, _, _, _, _, _, image, _, channels = SHAPES[shape]
    labels = torch.arange(num_seqs) % CLASSES
    if image:
        return torch.randn(num_seqs, channels, image, image), None, labels
    lengths = [longest] + [rows // num_seqs] * (num_seqs - 1)
    for i in range(1, num_seqs):        # the rest of the rows, one way or the other
        lengths[i] += max(12 - lengths[i], min(longest - lengths[i], rows - sum(lengths)))
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    if method in ("ptuning", "tied-prefix"):
        mask = torch.cat([torch.ones(num_seqs, PREFIX, dtype=torch.bool), mask], 1)
    return torch.randint(VOCABULARY, (num_seqs, longest)), mask[:, None, None, :], labels


def resident(field):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(field + ":"))


def torch_process(request):
    import torch
    base = resident("VmRSS")
    torch.manual_seed(1)
    torch.set_num_threads(request["threads"])
    shape, method = request["shape"], request["method"]
    model = make_model(torch, shape, method)
    inputs, mask, labels = make_batch(torch, shape, method, request["num_seqs"], request["rows"], request["longest"])
    trained = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.01, fused=True)
    steps, updates = [], []
    for _ in range(request["steps"] + 1):
        start = time.perf_counter()
        adamw.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(inputs, mask), labels).backward()
        stepped = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adamw.step()
        steps.append(stepped - start)
        updates.append(time.perf_counter() - stepped)
    print(json.dumps({"step_s": statistics.median(steps[1:]), "update_s": statistics.median(updates[1:]),
                      "peak": resident("VmHWM"), "import": base}))


# ---- rounds ------------------------------------------------------------------------------------------------

def run(command, env):
    """What the command wrote, and the peak of its resident memory in bytes."""
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, stdout=out, env=env)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"bench_finetune_peers: {os.path.basename(command[0])} ended with {child.returncode}")
        out.seek(0)
        return out.read(), usage.ru_maxrss * 1024


def one_round(args, shape, method, threads, env):
    """Our row of bench_finetune, our peak, and PyTorch's answer."""
    text, peak = run([args.program, "--shape", shape, "--method", method, "--threads", str(threads),
                      "--num-rounds", str(args.steps)], env)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    ours = next(row for row in csv.DictReader(lines) if row["threads"] == str(threads))
    request = {"shape": shape, "method": method, "threads": threads, "steps": args.steps,
               **{n: int(ours[n]) for n in ("num_seqs", "rows", "longest")}}
    text, _ = run([sys.executable, "-W", "ignore", os.path.abspath(__file__), "--request", json.dumps(request)], env)
    return ours, peak, json.loads(text.splitlines()[-1])


def compare(args, setting, shape, method, threads):
    env = {**os.environ, **(POOL if setting == "pool" else {})}
    rounds = [one_round(args, shape, method, threads, env) for _ in range(args.rounds)]
    median = statistics.median
    ours = [float(o["step_s"]) for o, _, _ in rounds]
    torch = [t["step_s"] for _, _, t in rounds]
    ours_update = [a + float(o["update_s"]) for a, (o, _, _) in zip(ours, rounds)]
    torch_update = [a + t["update_s"] for a, (_, _, t) in zip(torch, rounds)]
    first = rounds[0][0]
    rows = int(first["rows"])
    torch_rows = int(first["num_seqs"]) * int(first["longest"])
    row = [setting, shape, method, threads, rows, torch_rows, args.rounds,
           median(ours), median(torch), median(b / a for a, b in zip(ours, torch)),
           median(ours_update), median(torch_update), median(b / a for a, b in zip(ours_update, torch_update)),
           max(p for _, p, _ in rounds), max(t["peak"] for _, _, t in rounds), max(t["import"] for _, _, t in rounds)]
    if not all(math.isfinite(x) for x in row[7:]):
        raise SystemExit(f"bench_finetune_peers: a time of {shape} {method} is not finite")
    return row


def show(row):
    print(f"{row[0]:8s} {row[1]:12s} {row[2]:8s} {row[3]:2d} {1e3 * row[7]:10.2f} {1e3 * row[8]:10.2f} {row[9]:6.2f}x "
          f"{1e3 * row[10]:10.2f} {1e3 * row[11]:10.2f} {row[12]:6.2f}x {row[13] / 2**20:8.0f} {row[14] / 2**20:8.0f} "
          f"{row[15] / 2**20:8.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")
    parser.add_argument("--program", default="build/bin/bench_finetune")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--threads", type=words, default=["1", "2"])
    parser.add_argument("--shape", type=words, default=list(SHAPES))
    parser.add_argument("--method", type=words, default=list(METHODS))
    parser.add_argument("--malloc", type=words, default=["default", "pool"])
    parser.add_argument("--out", default="")
    parser.add_argument("--request", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.request:
        torch_process(json.loads(args.request))
        return 0
    # Not imported here: a child's peak starts from the memory of the process that starts it.
    probe = subprocess.run([sys.executable, "-W", "ignore", "-c", "import torch; print(torch.__version__)"],
                           capture_output=True, text=True)
    if probe.returncode:            # absent, or built for another machine
        print(f"# PyTorch: absent ({(probe.stderr.splitlines() or ['killed'])[-1]}); no training steps to compare with")
        return 0
    processors = len(os.sched_getaffinity(0))
    print(f"# PyTorch {probe.stdout.strip()}; load {os.getloadavg()[0]:.1f} on {processors} processors")
    print(f"{'malloc':8s} {'shape':12s} {'method':8s} {'th':>2s} {'ours ms':>10s} {'torch ms':>10s} {'ratio':>7s} "
          f"{'+update':>10s} {'+update':>10s} {'ratio':>7s} {'ours MiB':>8s} {'torch':>8s} {'(import)':>8s}",
          flush=True)
    rows = []
    for shape in args.shape:
        for method in args.method:
            for threads in map(int, args.threads):
                for setting in args.malloc:
                    rows.append(compare(args, setting, shape, method, threads))
                    show(rows[-1])
    if args.out:
        with open(args.out, "w", newline="") as f:
            csv.writer(f, lineterminator="\n").writerows([COLUMNS] + rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
