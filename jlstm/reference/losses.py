"""The losses of rows of scores, each with its derivative."""

import numpy as np

from jlstm.reference.cell import Array

__all__ = ["LOSSES", "cross_entropy", "squared_error"]


def cross_entropy(s: Array, p: Array) -> tuple[Array, Array]:
    """Compute `-sum_k p_k log softmax(s)_k` of each row (Bridle, *Probabilistic Interpretation ...*, 1990).

    Args:
        s: scores `[N, C]`.
        p: what the probabilities should be, `[N, C]`; rows need not sum to one.

    Returns:
        The losses `[N]`, and their derivatives by s, `softmax(s) sum_k p_k - p`, `[N, C]`.

    Example:
        >>> losses, ds = cross_entropy(np.zeros((1, 2)), np.array([[1.0, 0.0]]))
        >>> losses.round(4).tolist(), ds.tolist()  # log 2
        ([0.6931], [[-0.5, 0.5]])
    """
    shifted = s - s.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -(p * log_softmax).sum(axis=1), np.exp(log_softmax) * p.sum(axis=1, keepdims=True) - p


def squared_error(s: Array, y: Array) -> tuple[Array, Array]:
    """Compute `mean_k (s_k - y_k)^2` of each row (Legendre, 1805).

    Args:
        s: scores `[N, C]`.
        y: what they should be, `[N, C]`.

    Returns:
        The losses `[N]`, and their derivatives by s, `2 (s - y) / C`, `[N, C]`.

    Example:
        >>> losses, ds = squared_error(np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]))
        >>> losses.tolist(), ds.tolist()
        ([0.5], [[1.0, 0.0]])
    """
    return ((s - y) ** 2).mean(axis=1), 2 * (s - y) / s.shape[1]


LOSSES = {"cross_entropy": cross_entropy, "mse": squared_error}
