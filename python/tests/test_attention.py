import threading
import unittest

import numpy as np

import prefix_ntk as p
from tests import reference as ref

CASES = [  # batch, heads, kv_heads, len_q, len_k, d, m
    (1, 1, 1, 1, 1, 1, 1),
    (2, 6, 3, 5, 7, 13, 70),
    (3, 4, 1, 9, 9, 16, 0),
    (1, 2, 2, 3, 0, 5, 3),
    (2, 3, 3, 66, 65, 33, 129),
]


def draw(rng, *shape):
    return rng.normal(0.1, 0.8, shape).astype(np.float32)


def tensors(case, seed=7):
    B, H, kv, Lq, Lk, d, m = case
    rng = np.random.default_rng(seed)
    return (
        draw(rng, B, H, Lq, d),
        draw(rng, B, kv, Lk, d),
        draw(rng, B, kv, Lk, d),
        draw(rng, kv, m, d),
        draw(rng, kv, m, d),
    )


class Exact(unittest.TestCase):
    def test_formula(self):
        for case in CASES:
            q, k, v, pk, pv = tensors(case)
            causal = case[6] > 0
            with self.subTest(case=case):
                got = p.attention(q, k, v, prefix_k=pk, prefix_v=pv, causal=causal, threads=2)
                self.assertEqual(got.dtype, np.float32)
                ref.assert_close(self, got, ref.attention(q, k, v, pk, pv, causal), ref.ATOL_SINGLE)

    def test_every_form_of_prefix(self):
        q, k, v, pk, pv = tensors(CASES[1])
        rng = np.random.default_rng(3)
        for shape in ((70, 13), (3, 70, 13), (2, 3, 70, 13)):
            pk, pv = draw(rng, *shape), draw(rng, *shape)
            with self.subTest(shape=shape):
                got = p.attention(q, k, v, prefix_k=pk, prefix_v=pv)
                ref.assert_close(self, got, ref.attention(q, k, v, pk, pv), ref.ATOL_SINGLE)
                packed = p.PackedPrefix(pk, pv, kv_heads=3)
                np.testing.assert_array_equal(p.attention(q, k, v, prefix_k=packed), got)

    def test_lengths_and_scale(self):
        q, k, v, pk, pv = tensors(CASES[1])
        got = p.attention(q, k, v, prefix_k=pk, prefix_v=pv, causal=True, key_lengths=[0, 4], scale=0.7)
        ref.assert_close(self, got, ref.attention(q, k, v, pk, pv, True, [0, 4], 0.7), ref.ATOL_SINGLE)

    def test_strides(self):
        """(batch, length, heads, d) seen as (batch, heads, length, d), every other row backwards, a shared head."""
        rng = np.random.default_rng(5)
        q = draw(rng, 2, 9, 4, 13).transpose(0, 2, 1, 3)
        k = draw(rng, 2, 2, 14, 13)[:, :, ::-2]
        v = np.broadcast_to(draw(rng, 1, 1, 7, 13), (2, 2, 7, 13))
        for x in (q, k, v):
            self.assertIs(p._library.array("x", x, (np.float32,), (4,)), x)
        out = np.full((2, 9, 4, 13), np.nan, np.float32)
        got = p.attention(q, k, v, out=out.transpose(0, 2, 1, 3))
        ref.assert_close(self, got, ref.attention(q, k, v), ref.ATOL_SINGLE)
        self.assertTrue(np.shares_memory(got, out))
        np.testing.assert_array_equal(p.attention(q.copy(), k.copy(), v.copy()), got)
        ref.assert_close(self, p.attention(q[..., ::-1], k[..., ::-1], v), ref.attention(q, k, v), ref.ATOL_SINGLE)

    def test_threads_do_not_change_bits(self):
        q, k, v, pk, pv = tensors(CASES[4])
        one = p.attention(q, k, v, prefix_k=pk, prefix_v=pv, threads=1)
        results = [None] * 4

        def work(i):
            results[i] = p.attention(q, k, v, prefix_k=pk, prefix_v=pv, threads=i + 1)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        for got in results:
            np.testing.assert_array_equal(got, one)

    def test_empty(self):
        q, k = np.empty((0, 2, 3, 4), np.float32), np.empty((0, 2, 5, 4), np.float32)
        self.assertEqual(p.attention(q, k, k).shape, q.shape)

    def test_refusals_name_the_argument(self):
        q, k, v, pk, pv = tensors(CASES[1])
        wrong = [
            ("q", dict(q=q.astype(np.float64))),
            ("q", dict(q=q[0])),
            ("k", dict(k=k[:1])),
            ("k", dict(k=k[:, :, :, :5])),
            ("k", dict(k=k[:, [0, 0, 0, 0]])),
            ("v", dict(v=v[:, :, :3])),
            ("v", dict(v=v.astype(">f4"))),
            ("prefix_v", dict(prefix_v=None)),
            ("prefix_k", dict(prefix_k=None)),
            ("prefix_k", dict(prefix_k=pk[:2])),
            ("prefix_k", dict(prefix_k=pk[:, :, :4])),
            ("prefix_v", dict(prefix_v=pv[:, :3])),
            ("prefix_k", dict(prefix_k=pk[0, 0])),
            ("key_lengths", dict(key_lengths=[1])),
            ("key_lengths", dict(key_lengths=[1, 8])),
            ("key_lengths", dict(key_lengths=[-1, 2])),
            ("key_lengths", dict(key_lengths=[0.5, 2.0])),
            ("scale", dict(scale=float("nan"))),
            ("threads", dict(threads=0)),
            ("threads", dict(threads=1.5)),
            ("out", dict(out=np.empty(q.shape))),
            ("out", dict(out=np.empty((1, 2), np.float32))),
            ("out", dict(out=q)),
            ("out", dict(out=[1.0])),
        ]
        for name, change in wrong:
            with self.subTest(name=name, change={n: getattr(x, "shape", x) for n, x in change.items()}):
                with self.assertRaisesRegex(ValueError, f"^{name}: "):
                    p.attention(**{**dict(q=q, k=k, v=v, prefix_k=pk, prefix_v=pv), **change})

    def test_a_row_without_keys(self):
        q, k, v, _, _ = tensors(CASES[1])
        with self.assertRaises(p.NormaliserError) as caught:
            p.attention(q, k, v, key_lengths=[7, 0])
        self.assertEqual((caught.exception.batch, caught.exception.head, caught.exception.row), (1, 0, 0))
        self.assertIn("batch 1, head 0, row 0: there is no key", str(caught.exception))


class Ntk(unittest.TestCase):
    def test_formula(self):
        for case in CASES[1:]:
            q, k, v, pk, pv = tensors(case)
            for feature in ("elu1", "taylor:2"):
                if case[6] == 0 and feature != "elu1":
                    continue
                with self.subTest(case=case, feature=feature):
                    Z, kvec = p.fold(pk, pv, feature=feature)
                    got = p.ntk_attention(q, k, v, Z, kvec, feature=feature, causal=case[6] > 0)
                    want = ref.ntk_attention(q, k, v, Z, kvec, feature, case[6] > 0)
                    ref.assert_close(self, got, want, 4 * ref.ATOL_SINGLE)

    def test_every_form_of_summary(self):
        q, k, v, _, _ = tensors(CASES[1])
        rng = np.random.default_rng(3)
        for lead in ((), (3,), (6,), (2, 3), (2, 6)):
            Z, kvec = draw(rng, *lead, 13, 13), np.abs(draw(rng, *lead, 13))
            with self.subTest(lead=lead):
                got = p.ntk_attention(q, k, v, Z, kvec, key_lengths=[7, 2])
                ref.assert_close(self, got, ref.ntk_attention(q, k, v, Z, kvec, key_lengths=[7, 2]), ref.ATOL_SINGLE)

    def test_a_negative_normaliser(self):
        q, k, v, _, _ = tensors(CASES[1])
        Z, kvec = np.zeros((6, 13, 13), np.float32), np.zeros((6, 13), np.float32)
        kvec[4] = -100.0
        with self.assertRaises(p.NormaliserError) as caught:
            p.ntk_attention(q, k, v, Z, kvec)
        self.assertEqual((caught.exception.batch, caught.exception.head, caught.exception.row), (0, 4, 0))
        self.assertRegex(str(caught.exception), "batch 0, head 4, row 0: the normaliser D is not positive")

    def test_refusals_name_the_argument(self):
        q, k, v, _, _ = tensors(CASES[1])
        Z, kvec = np.zeros((3, 13, 13), np.float32), np.zeros((3, 13), np.float32)
        wrong = [
            ("Z", dict(Z=Z.astype(np.float64))),
            ("Z", dict(Z=Z[:2])),
            ("Z", dict(Z=Z[:, :5])),
            ("Z", dict(Z=Z[None])),
            ("kvec", dict(kvec=kvec[0])),
            ("kvec", dict(kvec=kvec[:, :4])),
            ("feature", dict(feature="taylor")),
            ("feature", dict(feature="sinus")),
            ("feature", dict(feature=3)),
            ("bound", dict(feature="cheb:2")),
            ("bound", dict(feature="cheb:2", bound=-1.0)),
            ("out", dict(out=Z)),
            ("feature", dict(feature=p.FeatureMap("elu1", 4))),
        ]
        for name, change in wrong:
            with self.subTest(name=name):
                with self.assertRaisesRegex(ValueError, f"^{name}: "):
                    p.ntk_attention(**{**dict(q=q, k=k, v=v, Z=Z, kvec=kvec), **change})


class Features(unittest.TestCase):
    def test_formula(self):
        x = np.random.default_rng(2).normal(0, 1.3, (2, 5, 3))
        for feature in ("elu1", "taylor:0", "taylor:3"):
            want = np.array([[ref.phi(row, feature) for row in block] for block in x])
            for dtype, atol in ((np.float64, ref.RTOL_DOUBLE), (np.float32, ref.ATOL_SINGLE)):
                got = p.features(x.astype(dtype), feature)
                self.assertEqual(got.dtype, dtype)
                ref.assert_close(self, got, want, atol, atol)

    def test_fold(self):
        rng = np.random.default_rng(4)
        K, V = rng.normal(0, 0.7, (2, 3, 37, 5)), rng.normal(0, 1.1, (2, 3, 37, 4))
        for dtype, atol in ((np.float64, ref.RTOL_DOUBLE), (np.float32, ref.ATOL_SINGLE)):
            Z, kvec = p.fold(K.astype(dtype)[:, :, ::-1], V.astype(dtype)[:, :, ::-1], feature="taylor:2")
            want_Z, want_k = ref.fold(K[1, 2], V[1, 2], "taylor:2")
            self.assertEqual((Z.shape, kvec.shape, Z.dtype), ((2, 3, 21, 4), (2, 3, 21), dtype))
            ref.assert_close(self, Z[1, 2], want_Z, 40 * atol, atol)
            ref.assert_close(self, kvec[1, 2], want_k, 40 * atol, atol)

    def test_sides(self):
        q, k = np.random.default_rng(6).normal(0, 0.5, (2, 1, 6))
        s = float((q @ k.T).item()) / 6**0.5
        series = 1 + s + s**2 / 2
        value = p.features(q, "split:2") @ p.features(k, "split:2", side="value").T
        mass = p.features(q, "split:2") @ p.features(k, "split:2", side="mass").T
        ref.assert_close(self, value, [[series + s**3 / 6]], ref.RTOL_DOUBLE)
        ref.assert_close(self, mass, [[series]], ref.RTOL_DOUBLE)

    def test_refusals(self):
        x = np.ones((2, 3))
        for name, call in (
            ("x", lambda: p.features(x.astype(int))),
            ("side", lambda: p.features(x, side="key")),
            ("feature", lambda: p.features(x, "split:3")),
            ("omega", lambda: p.features(x, "favor:4", omega=x)),
            ("prefix_k", lambda: p.fold(x.astype(np.float16), x)),
            ("prefix_v", lambda: p.fold(x, x[:1])),
            ("prefix_v", lambda: p.fold(x, x.astype(np.float32))),
        ):
            with self.assertRaisesRegex(ValueError, f"^{name}: "):
                call()
        with self.assertRaises(ArithmeticError):
            p.features(np.array([[np.nan, 1.0]]))


class Checker(unittest.TestCase):
    def test_rejects_planted_errors(self):
        q, k, v, pk, pv = tensors(CASES[1])
        good = p.attention(q, k, v, prefix_k=pk, prefix_v=pv)
        for planted in (1e-4, np.nan):
            bad = good.copy()
            bad[1, 2, 3, 4] += planted
            with self.assertRaises(AssertionError):
                ref.assert_close(self, bad, ref.attention(q, k, v, pk, pv), ref.ATOL_SINGLE)


if __name__ == "__main__":
    unittest.main()
