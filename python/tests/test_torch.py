import unittest

import numpy as np

try:
    import torch
except ImportError:
    torch = None

from prefix_ntk import NormaliserError, PackedPrefix
from tests import reference as ref

# Gradients of sums over a hundred terms in single precision, relative to the largest of them.
RTOL_GRADIENT = 2e-5


def plain(q, k, v, causal, key_lengths, scale, prefix=None, summary=None):
    """The formula with float64 tensors; prefix (B, kv, m, d) each; summary (phi(q), Z, kvec) by query head."""
    B, H, Lq, _ = q.shape
    kv, Lk = k.shape[1:3]
    k, v = (x.repeat_interleave(H // kv, 1) for x in (k, v))
    i, j = torch.arange(Lq)[:, None], torch.arange(Lk)[None]
    seen = (j < torch.tensor(key_lengths)[:, None, None, None]) & ((j <= i + Lk - Lq) | (not causal))
    a = torch.exp(scale * q @ k.transpose(2, 3)) * seen
    num, den = a @ v, a.sum(-1, keepdim=True)
    if prefix:
        pk, pv = (x.expand(B, kv, *x.shape[-2:]).repeat_interleave(H // kv, 1) for x in prefix)
        e = torch.exp(scale * q @ pk.transpose(2, 3))
        num, den = num + e @ pv, den + e.sum(-1, keepdim=True)
    if summary:
        phi, Z, kvec = summary
        num, den = num + phi @ Z, den + (phi * kvec.unsqueeze(-2)).sum(-1, keepdim=True)
    return num / den


@unittest.skipIf(torch is None, "PyTorch is not installed")
class Torch(unittest.TestCase):
    B, H, KV, LQ, LK, D, M = 2, 6, 3, 9, 11, 13, 70

    def draw(self, *shape, scale=0.7):
        return (torch.randn(*shape, generator=self.generator) * scale).requires_grad_()

    def setUp(self):
        self.generator = torch.Generator().manual_seed(5)
        self.q, self.k, self.v = self.draw(self.B, self.H, self.LQ, self.D), *(
            self.draw(self.B, self.KV, self.LK, self.D) for _ in "kv"
        )
        self.g = self.draw(self.B, self.H, self.LQ, self.D).detach()

    def compare(self, function, formula, leaves):
        """Value and gradients of `function` against autograd of the float64 formula."""
        out = function(*leaves)
        got = torch.autograd.grad(out, leaves, self.g)
        doubles = [x.detach().double().requires_grad_() for x in leaves]
        want_out = formula(*doubles)
        want = torch.autograd.grad(want_out, doubles, self.g.double())
        ref.assert_close(self, out.detach(), want_out.detach(), ref.ATOL_SINGLE * 4)
        for x, y in zip(got, want):
            ref.assert_close(self, x, y, RTOL_GRADIENT * float(y.abs().max()))
        return got, want

    def test_exact(self):
        from prefix_ntk.torch import attention

        lengths = [11, 4]
        for causal in (False, True):
            for shape in ((self.M, self.D), (self.KV, self.M, self.D), (self.B, self.KV, self.M, self.D)):
                with self.subTest(causal=causal, shape=shape):
                    prefix = self.draw(*shape), self.draw(*shape)
                    self.compare(
                        lambda q, k, v, pk, pv: attention(
                            q, k, v, prefix_k=pk, prefix_v=pv, causal=causal, key_lengths=lengths
                        ),
                        lambda q, k, v, pk, pv: plain(q, k, v, causal, lengths, self.D**-0.5, (pk, pv)),
                        [self.q, self.k, self.v, *prefix],
                    )

    def test_ntk(self):
        from prefix_ntk.torch import ntk_attention

        lengths = [11, 4]

        def spread(x, lead, axes):
            x = x.reshape((1,) * (2 - len(lead)) + tuple(lead) + tuple(x.shape[len(lead) :]))
            return x.expand(self.B, -1, *x.shape[2:]).repeat_interleave(self.H // x.shape[1], 1)

        def phi(q):
            return torch.nn.functional.elu(q * self.D**-0.25) + 1

        for causal in (False, True):
            for lead in ((), (self.KV,), (self.H,), (self.B, self.H)):
                with self.subTest(causal=causal, lead=lead):
                    Z, kvec = self.draw(*lead, self.D, self.D), self.draw(*lead, self.D).detach().abs().requires_grad_()
                    self.compare(
                        lambda q, k, v, Z, kvec: ntk_attention(q, k, v, Z, kvec, causal=causal, key_lengths=lengths),
                        lambda q, k, v, Z, kvec: plain(
                            q,
                            k,
                            v,
                            causal,
                            lengths,
                            self.D**-0.5,
                            summary=(phi(q), spread(Z, lead, 2), spread(kvec, lead, 1)),
                        ),
                        [self.q, self.k, self.v, Z, kvec],
                    )

    def test_packed(self):
        from prefix_ntk.torch import attention

        pk, pv = (self.draw(self.KV, self.M, self.D).detach() for _ in "kv")
        packed = PackedPrefix(pk.numpy(), pv.numpy(), backward=True)
        got = torch.autograd.grad(attention(self.q, self.k, self.v, prefix_k=packed), [self.q, self.k, self.v], self.g)
        want = torch.autograd.grad(
            attention(self.q, self.k, self.v, prefix_k=pk, prefix_v=pv), [self.q, self.k, self.v], self.g
        )
        for x, y in zip(got, want):
            ref.assert_close(self, x, y, RTOL_GRADIENT)
        with self.assertRaisesRegex(ValueError, "backward=True"):
            attention(self.q, self.k, self.v, prefix_k=PackedPrefix(pk.numpy(), pv.numpy()))

    def test_only_what_is_asked_for(self):
        from prefix_ntk.torch import attention

        all_of_them = torch.autograd.grad(attention(self.q, self.k, self.v), [self.q, self.k, self.v], self.g)
        for i, leaf in enumerate((self.q, self.k, self.v)):
            inputs = [x if x is leaf else x.detach() for x in (self.q, self.k, self.v)]
            np.testing.assert_array_equal(torch.autograd.grad(attention(*inputs), [leaf], self.g)[0], all_of_them[i])
        with torch.no_grad():
            self.assertFalse(attention(self.q, self.k, self.v).requires_grad)

    def test_strided_and_expanded(self):
        """Tensors as (batch, length, heads, d) and an expanded gradient, as .sum() sends back."""
        from prefix_ntk.torch import attention

        q = self.draw(self.B, self.LQ, self.H, self.D)
        attention(q.transpose(1, 2), self.k, self.v).sum().backward()
        x = q.detach().double().requires_grad_()
        plain(
            x.transpose(1, 2), self.k.double(), self.v.double(), False, [self.LK] * self.B, self.D**-0.5
        ).sum().backward()
        ref.assert_close(self, q.grad, x.grad, RTOL_GRADIENT * 10)

    def test_refusals(self):
        from prefix_ntk.torch import attention, ntk_attention

        with self.assertRaisesRegex(ValueError, "^q: "):
            attention(self.q.double(), self.k, self.v)
        with self.assertRaisesRegex(ValueError, "^k: "):
            attention(self.q, self.k.detach().numpy(), self.v)
        with self.assertRaises(NormaliserError):
            ntk_attention(self.q, self.k, self.v, torch.zeros(self.D, self.D), torch.full((self.D,), -99.0))

    def test_in_place_change_is_refused(self):
        from prefix_ntk.torch import attention

        k = self.k.detach().clone()
        out = attention(self.q, k, self.v)
        k.add_(1.0)
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            out.sum().backward()

    def test_modules(self):
        """A prefix trains, its summary gives nearly the same outputs, an empty one is attention without a prefix."""
        from prefix_ntk.torch import NTKAttention, PrefixAttention, attention

        torch.manual_seed(3)
        layer = PrefixAttention(20, self.D, self.KV, std=0.1)
        optimiser = torch.optim.SGD(layer.parameters(), lr=50.0)
        losses = []
        for _ in range(8):
            optimiser.zero_grad()
            loss = ((layer(self.q.detach(), self.k.detach(), self.v.detach()) - self.g) ** 2).mean()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        self.assertTrue(all(b < a for a, b in zip(losses, losses[1:])), losses)
        with torch.no_grad():
            exact = layer(self.q, self.k, self.v)
            ntk = layer.summarised("taylor:3")(self.q, self.k, self.v)
            off = float((exact - ntk).norm() / (exact - attention(self.q, self.k, self.v)).norm())
            self.assertLess(off, 0.02)
            empty = NTKAttention(self.D, self.H)(self.q, self.k, self.v)
            np.testing.assert_array_equal(empty.numpy(), attention(self.q, self.k, self.v).numpy())

    def test_checker_rejects_a_planted_error(self):
        from prefix_ntk.torch import attention

        with self.assertRaises(AssertionError):
            self.compare(
                lambda q, k, v: attention(q, k, v),
                lambda q, k, v: plain(q, k, v, False, [self.LK] * self.B, self.D**-0.5 * 1.001),
                [self.q, self.k, self.v],
            )


if __name__ == "__main__":
    unittest.main()
