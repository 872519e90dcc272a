"""Neural tangent kernels of the one-layer prefix model, their limit and its predictor.

    F(x) = m sum_r a_r softmax(W x)_r w_r

Everything is float64. Kernel matrices are (n d, n d): row i d + k for sample i, output k.
"""

import ctypes
import math

import numpy as np

from . import _library as L

KERNELS = ("full", "key")
SIGNS = ("random", "positive", "mirrored")


def _sigma(sigma):
    if sigma is None or not (math.isfinite(float(sigma)) and float(sigma) > 0.0):
        raise ValueError(f"sigma: the standard deviation of a prefix's entries, a positive number, not {sigma!r}")
    return float(sigma)


def _signs(signs, tokens):
    signs = L.array("signs", signs, (np.float64,), (1,))
    if signs.shape != (tokens,):
        raise ValueError(f"signs: shape {signs.shape}, should be ({tokens},)")
    return signs


def _pointer(x):
    """Of an array that lives on in the caller."""
    return None if x is None else ctypes.byref(L.gsl_matrix(x) if x.ndim == 2 else L.gsl_vector(x))


def prefix_draw(prefix_len, dim, sigma, *, signs="random", seed=L.DEFAULT_SEED, trial=0, threads=None):
    """A random prefix: W (prefix_len, dim) ~ N(0, sigma^2) and its signs (prefix_len).

    Token r depends on (seed, trial, r) alone.

    >>> W, a = prefix_draw(3, 2, 0.5, signs='positive')
    >>> W.shape, a
    ((3, 2), array([1., 1., 1.]))
    """
    law = L.choice("signs", signs, SIGNS)
    if prefix_len < 1 or dim < 1:
        raise ValueError(f"prefix_len, dim: positive numbers, not {prefix_len} and {dim}")
    if signs == "mirrored" and prefix_len % 2:
        raise ValueError(f"prefix_len: mirrored signs need an even number, not {prefix_len}")
    W, a = np.empty((prefix_len, dim)), np.empty(prefix_len)
    L.check(
        L.lib.prefix_draw(seed, trial, law, _sigma(sigma), _pointer(W), _pointer(a), L.num_threads(threads)),
        "prefix_draw",
    )
    return W, a


def prefix_forward(W, signs, X, *, threads=None):
    """F(x_i) of the prefix W (m, d) with signs (m) at X (n, d): (n, d).

    >>> import numpy as np
    >>> prefix_forward(np.eye(2), np.ones(2), np.zeros((1, 2)))
    array([[1., 1.]])
    """
    W = L.matrix("W", W)
    X = L.matrix("X", X, columns=W.shape[1])
    signs = _signs(signs, W.shape[0])
    F = np.empty(X.shape)
    L.check(
        L.lib.prefix_model_forward(_pointer(W), _pointer(signs), _pointer(X), _pointer(F), L.num_threads(threads)),
        "prefix_forward",
    )
    return F


def ntk_gram(W, signs, X, *, kernel="full", threads=None):
    """The empirical kernel of a prefix: (1/m) sum_r <dF_k(x_i)/dw_r, dF_l(x_j)/dw_r>.

    W: (m, d), float64; signs: (m); X: (n, d)
    kernel: 'full', all of the gradient, or 'key', its path through the softmax
    returns (n d, n d)

    >>> import numpy as np
    >>> ntk_gram(np.array([[0.7, -1.3]]), np.ones(1), np.array([[0.4, 0.1]])).round(12)
    array([[1., 0.],
           [0., 1.]])
    """
    W = L.matrix("W", W)
    X = L.matrix("X", X, columns=W.shape[1])
    signs = _signs(signs, W.shape[0])
    gram = np.empty((X.size, X.size))
    L.check(
        L.lib.ntk_gram(
            _pointer(W),
            _pointer(signs),
            _pointer(X),
            L.choice("kernel", kernel, KERNELS),
            _pointer(gram),
            L.num_threads(threads),
        ),
        "ntk_gram",
    )
    return gram


def ntk_limit(X1, X2=None, sigma=None, *, signs="random", kernel="full"):
    """The kernel of an infinitely long random prefix between two sets of inputs.

    X1: (n1, d), float64; X2: (n2, d), X1 when None; sigma: the standard deviation of the prefix's entries
    signs: 'random', 'positive' or 'mirrored'; kernel: 'full' or 'key'
    returns (n1 d, n2 d)

    >>> import numpy as np
    >>> ntk_limit(np.array([[0.3, -0.2]]), sigma=0.5, signs='positive').round(4)
    array([[ 1.1138, -0.0315],
           [-0.0315,  1.0876]])
    """
    X1 = L.matrix("X1", X1)
    X2 = X1 if X2 is None else L.matrix("X2", X2, columns=X1.shape[1])
    limit = np.empty((X1.size, X2.size))
    L.check(
        L.lib.ntk_limit(
            _pointer(X1),
            _pointer(X2),
            _sigma(sigma),
            L.choice("signs", signs, SIGNS),
            L.choice("kernel", kernel, KERNELS),
            _pointer(limit),
        ),
        "ntk_limit",
    )
    return limit


def ntk_error_constant(X, sigma, *, signs="random", kernel="full"):
    """c such that the relative error of the kernel of m tokens is about c / sqrt(m).

    >>> import numpy as np
    >>> round(ntk_error_constant(np.array([[0.3, -0.2]]), 0.5, signs='positive'), 3) > 0
    True
    """
    X = L.matrix("X", X)
    constant = L.DOUBLE()
    L.check(
        L.lib.ntk_error_constant(
            _pointer(X),
            _sigma(sigma),
            L.choice("signs", signs, SIGNS),
            L.choice("kernel", kernel, KERNELS),
            ctypes.byref(constant),
            None,
        ),
        "ntk_error_constant",
    )
    return constant.value


def ntk_eigenvalues(symmetric):
    """The eigenvalues (n) of a symmetric matrix (n, n), ascending.

    >>> import numpy as np
    >>> ntk_eigenvalues(np.diag([3.0, 1.5]))
    array([1.5, 3. ])
    """
    K = L.matrix("symmetric", symmetric)
    if K.shape[0] != K.shape[1]:
        raise ValueError(f"symmetric: shape {K.shape}")
    values = np.empty(len(K))
    L.check(L.lib.ntk_eigenvalues(_pointer(K), _pointer(values)), "ntk_eigenvalues")
    return values


def ntk_predict(X, Y, X_at, sigma=None, *, signs="random", kernel="full", F0=None, F0_at=None):
    """What an infinitely long prefix, trained to the end, predicts: F0(x) + K*(x, X) K*(X, X)^-1 (Y - F0(X)).

    X, Y: (n, d), float64; X_at: (n2, d); sigma: the standard deviation of the prefix's entries
    signs, kernel: as in `ntk_limit`
    F0, F0_at: the outputs of the untrained prefix at X and X_at (0 when None)
    returns (n2, d)

    A singular K*(X, X) takes the pseudo-inverse.

    >>> import numpy as np
    >>> X, Y = np.array([[0.3, -0.2], [1.0, 0.5]]), np.array([[1.0, 2.0], [-0.5, 0.7]])
    >>> np.allclose(ntk_predict(X, Y, X, 0.5), Y)
    True
    """
    X = L.matrix("X", X)
    Y = L.matrix("Y", Y, rows=X.shape[0], columns=X.shape[1])
    X_at = L.matrix("X_at", X_at, columns=X.shape[1])
    if (F0 is None) != (F0_at is None):
        raise ValueError(f"{'F0' if F0 is None else 'F0_at'}: outputs at X and at X_at come together")
    if F0 is not None:
        F0 = L.matrix("F0", F0, rows=X.shape[0], columns=X.shape[1])
        F0_at = L.matrix("F0_at", F0_at, rows=X_at.shape[0], columns=X.shape[1])
    F, report = np.empty(X_at.shape), L.SolveReport()
    L.check(
        L.lib.ntk_predict(
            _pointer(X),
            _pointer(Y),
            _pointer(X_at),
            _sigma(sigma),
            L.choice("signs", signs, SIGNS),
            L.choice("kernel", kernel, KERNELS),
            _pointer(F0),
            _pointer(F0_at),
            _pointer(F),
            ctypes.byref(report),
        ),
        "ntk_predict",
    )
    return F
