"""The losses of rows of scores, each with its derivative.

A row has one answer, a class, or several, values or answers yes or no. Each answer has a weight w, and a row costs

    (1/A) sum_a w_a loss_a
"""

import numpy as np

from jlstm.reference.cell import Array

__all__ = ["LOSSES", "binary_cross_entropy", "cross_entropy", "gaussian", "laplace", "squared_error"]


def cross_entropy(s: Array, p: Array, w: Array) -> tuple[Array, Array]:
    """Compute `-w sum_k p_k log softmax(s)_k` of each row (Bridle, *Probabilistic Interpretation ...*, 1990).

    Args:
        s: scores `[N, C]`.
        p: what the probabilities should be, `[N, C]`; rows need not sum to one.
        w: weights `[N, 1]`.

    Returns:
        The losses `[N]`, and their derivatives by s, `w (softmax(s) sum_k p_k - p)`, `[N, C]`.

    Example:
        >>> losses, ds = cross_entropy(np.zeros((1, 2)), np.array([[1.0, 0.0]]), np.ones((1, 1)))
        >>> losses.round(4).tolist(), ds.tolist()  # log 2
        ([0.6931], [[-0.5, 0.5]])
    """
    shifted = s - s.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    ds = np.exp(log_softmax) * p.sum(axis=1, keepdims=True) - p
    return -w[:, 0] * (p * log_softmax).sum(axis=1), w * ds


def squared_error(s: Array, y: Array, w: Array) -> tuple[Array, Array]:
    """Compute `(1/C) sum_k w_k (s_k - y_k)^2` of each row (Legendre, 1805).

    Args:
        s: scores `[N, C]`.
        y: what they should be, `[N, C]`.
        w: weights `[N, C]`.

    Returns:
        The losses `[N]`, and their derivatives by s, `2 w (s - y) / C`, `[N, C]`.

    Example:
        >>> losses, ds = squared_error(np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]), np.ones((1, 2)))
        >>> losses.tolist(), ds.tolist()
        ([0.5], [[1.0, 0.0]])
    """
    return (w * (s - y) ** 2).mean(axis=1), 2 * w * (s - y) / s.shape[1]


def binary_cross_entropy(s: Array, p: Array, w: Array) -> tuple[Array, Array]:
    """Compute `-(1/C) sum_k w_k (p_k log q_k + (1 - p_k) log(1 - q_k))`, q the logistic function of s (Bridle, 1990).

    Args:
        s: scores `[N, C]`.
        p: what the probabilities should be, `[N, C]`.
        w: weights `[N, C]`.

    Returns:
        The losses `[N]`, and their derivatives by s, `w (q - p) / C`, `[N, C]`.

    Example:
        >>> losses, ds = binary_cross_entropy(np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)))
        >>> losses.round(4).tolist(), ds.tolist()  # log 2
        ([0.6931], [[-0.5]])
    """
    log_q, log_not_q = -np.logaddexp(0, -s), -np.logaddexp(0, s)
    return -(w * (p * log_q + (1 - p) * log_not_q)).mean(axis=1), w * (np.exp(log_q) - p) / s.shape[1]


def gaussian(s: Array, y: Array, w: Array) -> tuple[Array, Array]:
    """Compute the mean of `-w_k log N(y_k; m_k, d_k)`, normal densities (Nix & Weigend, 1994).

    Args:
        s: scores `[N, 2C]`, the means m and then r, with `d = log(1 + e^r) + 0.001`.
        y: the values, `[N, C]`.
        w: weights `[N, C]`.

    Returns:
        The losses `[N]`, and their derivatives by s, `[N, 2C]`: by m `w (m - y) / d^2`, by d
        `w (1/d - (y - m)^2 / d^3)`.

    Example:
        >>> losses, ds = gaussian(np.array([[1.0, 0.0]]), np.array([[1.0]]), np.ones((1, 1)))
        >>> losses.round(4).tolist(), ds.round(4).tolist()  # log(0.6941 sqrt(2 pi))
        ([0.5539], [[0.0, 0.7203]])
    """
    m, d, slope = _location_and_scale(s)
    log_density = -(((y - m) / d) ** 2) / 2 - np.log(d * np.sqrt(2 * np.pi))
    by_m, by_d = (m - y) / d**2, 1 / d - (y - m) ** 2 / d**3
    return _mean(-log_density, by_m, by_d * slope, w)


def laplace(s: Array, y: Array, w: Array) -> tuple[Array, Array]:
    """Compute the mean of `-w_k log L(y_k; m_k, b_k)`, Laplace's densities `exp(-|y - m| / b) / 2b` (Laplace, 1774).

    Args:
        s: scores `[N, 2C]`, the medians m and then r, with `b = log(1 + e^r) + 0.001`.
        y: the values, `[N, C]`.
        w: weights `[N, C]`.

    Returns:
        The losses `[N]`, and their derivatives by s, `[N, 2C]`: by m `w sign(m - y) / b`, by b
        `w (1/b - |y - m| / b^2)`.

    Example:
        >>> losses, ds = laplace(np.array([[1.0, 0.0]]), np.array([[0.0]]), np.ones((1, 1)))
        >>> losses.round(4).tolist(), ds.round(4).tolist()  # log(2 0.6941) + 1 / 0.6941
        ([1.7687], [[1.4406, -0.3174]])
    """
    m, b, slope = _location_and_scale(s)
    log_density = -np.abs(y - m) / b - np.log(2 * b)
    by_m, by_b = np.sign(m - y) / b, 1 / b - np.abs(y - m) / b**2
    return _mean(-log_density, by_m, by_b * slope, w)


def _location_and_scale(s: Array) -> tuple[Array, Array, Array]:
    """What scores stand for, and the derivative of the scale by what it is made of."""
    location, r = np.split(s, 2, axis=1)
    return location, np.logaddexp(0, r) + 0.001, np.exp(-np.logaddexp(0, -r))


def _mean(losses: Array, *derivatives_and_weights: Array) -> tuple[Array, Array]:
    *derivatives, w = derivatives_and_weights
    return (w * losses).mean(axis=1), np.concatenate([w * each / w.shape[1] for each in derivatives], axis=1)


LOSSES = {
    "cross_entropy": cross_entropy,
    "mse": squared_error,
    "binary_cross_entropy": binary_cross_entropy,
    "gaussian": gaussian,
    "laplace": laplace,
}
