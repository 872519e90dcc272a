"""A finite prefix, trained by gradient descent, beside the infinite one that `prefix_ntk.ntk` computes in closed form.

    python infinite_prefix.py

For growing prefix lengths: how far the empirical kernel is from its limit, and how far the trained prefix's outputs at new
inputs are from those of kernel regression with the limit. Both fall like one over the square root of the length.
"""

import numpy as np

import prefix_ntk
from prefix_ntk.ntk import prefix_draw

SIGMA, DIM, SAMPLES, STEPS = 0.5, 4, 3, 3000


def trained_outputs(W, a, X, Y, X_at, steps):
    """Outputs at X_at after `steps` of gradient descent on W, F(x) = m sum_r a_r softmax(W x)_r w_r."""
    W, m = W.copy(), len(W)
    step_size = 1.0 / (m * np.linalg.eigvalsh(prefix_ntk.ntk_gram(W, a, X))[-1])
    for _ in range(steps):
        S = np.exp(X @ W.T)
        S /= S.sum(1, keepdims=True)
        mean = (S * a) @ W
        R = m * mean - Y
        # dL/dw_r = m sum_i S_ir [a_r R_i + x_i (a_r <R_i, w_r> - <R_i, mean_i>)]
        through_keys = S * (a * (R @ W.T) - (R * mean).sum(1, keepdims=True))
        W -= step_size * m * ((S * a).T @ R + through_keys.T @ X)
    return prefix_ntk.ntk.prefix_forward(W, a, X_at)


def rows(prefix_lens, steps=STEPS):
    """(m, relative error of the kernel, relative distance of the outputs) of each length."""
    rng = np.random.default_rng(1)
    X, X_at = rng.normal(0, 0.8, (SAMPLES, DIM)), rng.normal(0, 0.8, (3, DIM))
    Y = rng.normal(0, 1, (SAMPLES, DIM))
    limit = prefix_ntk.ntk_limit(X, sigma=SIGMA)
    predicted = prefix_ntk.ntk_predict(X, Y, X_at, SIGMA)
    for m in prefix_lens:
        # Mirrored signs: the untrained prefix gives 0, as the predictor assumes.
        W, a = prefix_draw(m, DIM, SIGMA, signs="mirrored")
        kernel_error = np.linalg.norm(prefix_ntk.ntk_gram(W, a, X) - limit) / np.linalg.norm(limit)
        outputs = trained_outputs(W, a, X, Y, X_at, steps)
        yield m, kernel_error, np.linalg.norm(outputs - predicted) / np.linalg.norm(predicted)


if __name__ == "__main__":
    print(f"{'m':>7} {'kernel':>9} {'outputs':>9}")
    for m, kernel_error, distance in rows([64, 256, 1024, 4096, 16384]):
        print(f"{m:7d} {kernel_error:9.4f} {distance:9.4f}")
