import unittest

import numpy as np

import prefix_ntk as p
from prefix_ntk import ntk
from tests import reference as ref


class Kernels(unittest.TestCase):
    def setUp(self):
        rng = np.random.default_rng(11)
        self.X, self.Y = rng.normal(0, 0.6, (3, 4)), rng.normal(0, 1.1, (3, 4))
        self.X_at = rng.normal(0, 0.6, (2, 4))

    def test_gram_formula(self):
        for m, signs in ((1, "random"), (7, "positive"), (100, "mirrored")):
            W, a = ntk.prefix_draw(m, 4, 0.7, signs=signs)
            for kernel in ntk.KERNELS:
                with self.subTest(m=m, kernel=kernel):
                    want = ref.gram(W, a, self.X, kernel)
                    ref.assert_close(
                        self, p.ntk_gram(W, a, self.X, kernel=kernel), want, 1e-10 * np.abs(want).max() + 1e-15
                    )

    def test_outputs(self):
        W, a = ntk.prefix_draw(17, 4, 0.7)
        ref.assert_close(self, ntk.prefix_forward(W, a, self.X), [ref.outputs(W, a, x) for x in self.X], 1e-12)

    def test_strides(self):
        """Every other row, columns in reverse: read as the copy is."""
        W, a = ntk.prefix_draw(14, 4, 0.7)
        want = p.ntk_gram(W[::2].copy(), a[::2].copy(), self.X[:, ::-1].copy())
        np.testing.assert_array_equal(p.ntk_gram(W[::2], a[::2], self.X[:, ::-1]), want)
        np.testing.assert_array_equal(
            p.ntk_gram(W[::-2][::-1], a[1::2], self.X), p.ntk_gram(W[1::2].copy(), a[1::2].copy(), self.X)
        )

    def test_limit_is_where_the_kernel_goes(self):
        """Law: the relative error of 4^9 tokens is about constant / sqrt(m); a factor 4 covers one draw."""
        m = 1 << 18
        W, a = ntk.prefix_draw(m, 4, 0.4, signs="positive")
        limit = p.ntk_limit(self.X, sigma=0.4, signs="positive")
        error = np.linalg.norm(p.ntk_gram(W, a, self.X) - limit) / np.linalg.norm(limit)
        self.assertLess(error, 4 * ntk.ntk_error_constant(self.X, 0.4, signs="positive") / m**0.5)
        self.assertGreater(error, 0.0)

    def test_limit_one_sample_by_hand(self):
        """E over tokens: S_ir weighs e^{<w,x>}, whose square shifts a Gaussian to mean 2 sigma^2 x; signs of mean 0."""
        x, sigma = np.array([0.4, -0.7, 0.2]), 0.6
        s2, n2 = sigma**2, x @ x
        mean = 2 * s2 * x
        # m S_r -> e^{<w,x>}/E: E (e^{<w,x>}/E e^{<w,x>})^2 = e^{s2 n2}, w ~ N(mean, s2 I) under that weight.
        second = s2 * np.eye(3) + np.outer(mean, mean)
        want = np.exp(s2 * n2) * (np.eye(3) + np.outer(x, mean) + np.outer(mean, x) + n2 * second)
        # F(x)/m -> 0 for signs of mean 0.
        ref.assert_close(self, p.ntk_limit(x[None], sigma=sigma), want, 1e-12)

    def test_predictor(self):
        K = p.ntk_limit(self.X, sigma=0.5)
        cross = p.ntk_limit(self.X_at, self.X, 0.5)
        want = (cross @ np.linalg.solve(K, self.Y.ravel())).reshape(2, 4)
        ref.assert_close(self, p.ntk_predict(self.X, self.Y, self.X_at, 0.5), want, 1e-9)
        F0, F0_at = 0.3 * self.Y, self.X_at
        want = F0_at + (cross @ np.linalg.solve(K, (self.Y - F0).ravel())).reshape(2, 4)
        ref.assert_close(self, p.ntk_predict(self.X, self.Y, self.X_at, 0.5, F0=F0, F0_at=F0_at), want, 1e-9)

    def test_eigenvalues(self):
        K = p.ntk_limit(self.X, sigma=0.5)
        ref.assert_close(self, ntk.ntk_eigenvalues(K), np.linalg.eigvalsh(K), 1e-12 * np.abs(K).max())

    def test_nested_prefixes(self):
        W, a = ntk.prefix_draw(50, 4, 0.3, seed=5, trial=2)
        V, b = ntk.prefix_draw(20, 4, 0.3, seed=5, trial=2)
        np.testing.assert_array_equal(W[:20], V)
        np.testing.assert_array_equal(a[:20], b)

    def test_refusals_name_the_argument(self):
        W, a, X = np.ones((5, 4)), np.ones(5), self.X
        for name, call in (
            ("W", lambda: p.ntk_gram(W.astype(np.float32), a, X)),
            ("W", lambda: p.ntk_gram(W[0], a, X)),
            ("signs", lambda: p.ntk_gram(W, a[:3], X)),
            ("X", lambda: p.ntk_gram(W, a, X[:, :2])),
            ("kernel", lambda: p.ntk_gram(W, a, X, kernel="fast")),
            ("X1", lambda: p.ntk_limit(X[:0], sigma=1.0)),
            ("X2", lambda: p.ntk_limit(X, X[:, :1], 1.0)),
            ("sigma", lambda: p.ntk_limit(X)),
            ("sigma", lambda: p.ntk_limit(X, sigma=-1.0)),
            ("signs", lambda: p.ntk_limit(X, sigma=1.0, signs="even")),
            ("Y", lambda: p.ntk_predict(X, self.Y[:2], X, 0.5)),
            ("X_at", lambda: p.ntk_predict(X, self.Y, X[:, :1], 0.5)),
            ("F0_at", lambda: p.ntk_predict(X, self.Y, X, 0.5, F0=self.Y)),
            ("prefix_len", lambda: ntk.prefix_draw(3, 2, 1.0, signs="mirrored")),
        ):
            with self.subTest(name=name), self.assertRaisesRegex(ValueError, f"^{name}[:,]"):
                call()
        with self.assertRaises(ArithmeticError):
            p.ntk_gram(np.full((5, 4), np.nan), a, X)


if __name__ == "__main__":
    unittest.main()
