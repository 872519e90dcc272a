# %% [markdown]
# # A head on a frozen MiniLM, with a prefix and with its summary
#
#     make && data/fetch.sh minilm sent3
#     pip install ./python torch
#     python python/examples/finetune_head.py            (or cell by cell, in an editor that knows `# %%`)
#
# The backbone is run once, by `build/bin/embed`; its token vectors stay as they are. The head lets the mean token attend
# over the tokens of its sentence, twelve heads of 32 numbers, and classifies what comes out. Three heads: without anything
# to attend to beside the tokens, with a trainable prefix (`PrefixAttention`), with a trainable summary (`NTKAttention`).

# %%
import argparse
import json
import pathlib
import random
import subprocess
import tempfile

import numpy as np
import torch

from prefix_ntk.torch import NTKAttention, PrefixAttention

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADS, WIDTH = 12, 384


# %% [markdown]
# ## Data: sentences and their sentiment, split once by a seed

# %%
def sentences(folder):
    """(text, label) of the three files of `sent3`, without empty rows and repeated texts."""
    seen = {}
    for name in ("amazon", "imdb", "yelp"):
        for row in json.loads((folder / f"{name}.json").read_text()):
            if row and row.get("text"):
                seen.setdefault(" ".join(row["text"].split()), int(row["class"]))
    return list(seen.items())


# %% [markdown]
# ## Token vectors of the frozen backbone, padded to one length

# %%
def token_vectors(texts, embed, max_len):
    """Vectors (n, heads, length, head_dim), float32, and the number of tokens of each text."""
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "texts").write_text("\n".join(texts) + "\n")
        subprocess.run(
            [embed, "--backbone", "minilm", "--text", work / "texts", "--pool", "none", "--max-len", str(max_len)]
            + ["--out", work / "vectors.npy", "--tokens-out", work / "tokens.csv", "--quiet"],
            check=True,
        )
        flat = np.load(work / "vectors.npy")
        lengths = [line.count(",") + 1 for line in (work / "tokens.csv").read_text().splitlines()]
    padded = np.zeros((len(texts), max(lengths), WIDTH), np.float32)
    for row, start, length in zip(padded, np.cumsum([0] + lengths), lengths):
        row[:length] = flat[start : start + length]
    vectors = torch.from_numpy(padded).reshape(len(texts), -1, HEADS, WIDTH // HEADS).transpose(1, 2).contiguous()
    return vectors, torch.tensor(lengths)


# %% [markdown]
# ## The head

# %%
class Head(torch.nn.Module):
    """One query a sentence, its mean token, over its tokens; `attention` brings a prefix or a summary along."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        self.classify = torch.nn.Linear(WIDTH, 2)

    def forward(self, tokens, lengths):
        mean = tokens.sum(2, keepdim=True) / lengths.reshape(-1, 1, 1, 1)
        pooled = self.attention(mean, tokens, tokens, lengths.tolist())
        return self.classify((mean + pooled).flatten(1))


def heads():
    size = WIDTH // HEADS
    yield "no prefix", PrefixAttention(0, size, HEADS)
    yield "prefix of 16", PrefixAttention(16, size, HEADS)
    # A summary is best started from that of a prefix, not from k near 0.
    yield "summary, elu1", PrefixAttention(16, size, HEADS).summarised("elu1")


# %% [markdown]
# ## Training: the cross-entropy by Adam, the test sentences read once, at the end

# %%
def train(head, tokens, lengths, labels, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        batch = torch.randint(len(labels), (64,), generator=generator)
        loss = torch.nn.functional.cross_entropy(head(tokens[batch], lengths[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if isinstance(head.attention, NTKAttention):
            # Features of elu1 are positive: with k >= 0 so is the normaliser, whatever the query.
            head.attention.kvec.data.clamp_(min=0.0)
        losses.append(loss.item())
    return losses


def accuracy(head, tokens, lengths, labels):
    with torch.no_grad():
        return (head(tokens, lengths).argmax(1) == labels).float().mean().item()


# %%
def main(argv=None):
    options = argparse.ArgumentParser(description="A head on a frozen MiniLM, with a prefix and with its summary")
    options.add_argument("--embed", default=ROOT / "build/bin/embed")
    options.add_argument("--data", type=pathlib.Path, default=ROOT / "data/cache/sent3")
    options.add_argument("--train-size", type=int, default=300)
    options.add_argument("--test-size", type=int, default=600)
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--seed", type=int, default=1)
    o = options.parse_args(argv)
    data = sentences(o.data)
    random.Random(o.seed).shuffle(data)
    data = data[: o.train_size + o.test_size]
    tokens, lengths = token_vectors([text for text, _ in data], o.embed, max_len=48)
    labels = torch.tensor([label for _, label in data])
    rows = []
    print(f"{'head':16} {'numbers':>8} {'loss':>7} {'accuracy':>9}")
    for name, attention in heads():
        torch.manual_seed(o.seed)
        head = Head(attention)
        losses = train(head, tokens[: o.train_size], lengths[: o.train_size], labels[: o.train_size], o.steps, o.seed)
        test = accuracy(head, tokens[o.train_size :], lengths[o.train_size :], labels[o.train_size :])
        numbers = sum(p.numel() for p in head.parameters())
        rows.append((name, numbers, np.mean(losses[-20:]), test))
        print(f"{name:16} {numbers:8d} {rows[-1][2]:7.3f} {test:9.3f}")
    return rows


if __name__ == "__main__":
    main()
