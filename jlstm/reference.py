"""The network in NumPy float64, with backpropagation through time written out by hand: an independent witness.

One sequence at a time and one step at a time, x is the input, h the hidden state and c the cell state:

    i = sigmoid(W_i x + U_i h + b_i)        input gate
    f = sigmoid(W_f x + U_f h + b_f)        forget gate
    g =    tanh(W_g x + U_g h + b_g)        what could be written into the cell
    o = sigmoid(W_o x + U_o h + b_o)        output gate
    c' = f c + i g
    h' = o tanh(c')

The network is from Hochreiter & Schmidhuber, *Long Short-Term Memory* (1997), its forget gate from Gers, Schmidhuber
& Cummins, *Learning to Forget* (2000). The way back is from Werbos, *Backpropagation Through Time* (1990), in the form
that Graves, *Supervised Sequence Labelling with Recurrent Neural Networks* (2012), gives it for the LSTM.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jlstm.cells.lstm import LSTMParams, LSTMState
from jlstm.config import LSTMConfig
from jlstm.model import ModelParams, Readout

__all__ = ["forward", "loss_and_grad"]

Array = np.ndarray


class Gates(NamedTuple):
    """One array for each gate: its block of a weight, its value, or the loss's derivative by one of these."""

    i: Array
    f: Array
    g: Array
    o: Array


class Step(NamedTuple):
    """What one step keeps for the way back: what it read, its gates, and the cell state it wrote."""

    x: Array
    h_prev: Array
    c_prev: Array
    gates: Gates
    c: Array


def forward(
    params: ModelParams,
    xs: ArrayLike,
    *,
    state: tuple[LSTMState, ...] | None = None,
    lengths: ArrayLike | None = None,
    masks: tuple[ArrayLike, ...] | None = None,
) -> tuple[Array, tuple[LSTMState, ...]]:
    """Run the network over a batch of sequences (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    Args:
        params: the layers and the readout, of any float dtype.
        xs: floats `[B, T, I]`, or integer ids `[B, T]` that stand for columns of the first layer's `weight_ih`.
        state: one `LSTMState(h [B, H], c [B, H])` a layer, floats; None is zeros.
        lengths: how many steps of each sequence are real, integers `[B]` or one for all; less than 0 is 0, more than T
            is T, and None is all.
        masks: what each layer's outputs are multiplied by, floats `[B, 1, H]` or `[B, T, H]` a layer (dropout:
            Srivastava et al. 2014); None is ones.

    Returns:
        The scores, float64 `[B, T, C]`, which are the readout's bias past a sequence's length; and the state after each
        sequence's last real step, float64, which is the initial state for a sequence of length 0.

    Example:
        >>> layer = LSTMParams(np.zeros((12, 2)), np.zeros((12, 3)), np.zeros(12))
        >>> params = ModelParams((layer,), Readout(np.zeros((3, 4)), np.arange(4)))
        >>> scores, state = forward(params, np.ones((1, 5, 2)))
        >>> scores.shape, scores[0, 0].tolist()
        ((1, 5, 4), [0.0, 1.0, 2.0, 3.0])
    """
    params, xs = _map(_float64, params), np.asarray(xs)
    state, lengths = _state(params, state, len(xs)), _lengths(lengths, xs)
    hs = np.zeros((*xs.shape[:2], len(params.readout.weight)))
    every_mask = _masks(params, masks, hs)
    for b, length in enumerate(lengths):
        hs[b, :length], _, last = _run(params.layers, xs[b, :length], state, every_mask, b)
        for layer, (h, c) in zip(state, last, strict=True):
            layer.h[b], layer.c[b] = h, c
    return hs @ params.readout.weight + params.readout.bias, state


def loss_and_grad(
    params: ModelParams,
    xs: ArrayLike,
    ys: ArrayLike,
    config: LSTMConfig,
    *,
    state: tuple[LSTMState, ...] | None = None,
    lengths: ArrayLike | None = None,
    masks: tuple[ArrayLike, ...] | None = None,
) -> tuple[float, ModelParams]:
    """Compute the loss, and its gradient by backpropagation through time (Werbos 1990; for the LSTM, Graves 2012).

    Args:
        params, xs, state, lengths, masks: as for `forward`.
        ys: what the scores should be at `"each"` step: integer ids `[B, T]` or float probabilities `[B, T, C]` for the
            cross-entropy, float values `[B, T, C]` for the squared error. For the `"last"` step the same without `T`.
        config: names the `loss` and the `target`.

    Returns:
        The loss, a mean over the real steps or, for `"last"`, over the sequences that have one (for the squared error
        over the outputs too), and its gradient, float64 in the shapes of `params`. Both are zero if no step is real.

    Example:
        >>> layer = LSTMParams(np.zeros((12, 2)), np.zeros((12, 3)), np.zeros(12))
        >>> params = ModelParams((layer,), Readout(np.zeros((3, 4)), np.zeros(4)))
        >>> loss, grad = loss_and_grad(params, np.ones((1, 5, 2)), np.full((1, 5), 2), LSTMConfig(2, 3, 4))
        >>> round(loss, 3), grad.readout.bias.tolist()  # the loss is log 4
        (1.386, [0.25, 0.25, -0.75, 0.25])
    """
    params, xs, ys = _map(_float64, params), np.asarray(xs), np.asarray(ys)
    state, lengths = _state(params, state, len(xs)), _lengths(lengths, xs)
    measure = {"cross_entropy": _cross_entropy, "mse": _squared_error}[config.loss]
    every_mask = _masks(params, masks, np.zeros((*xs.shape[:2], len(params.readout.weight))))
    loss, grad, count = 0.0, _map(np.zeros_like, params), 0
    for b in np.flatnonzero(lengths):
        hs, steps, _ = _run(params.layers, xs[b, : lengths[b]], state, every_mask, b)
        compared, y = (slice(-1, None), ys[b, None]) if config.target == "last" else (slice(None), ys[b, : lengths[b]])
        scores = hs[compared] @ params.readout.weight + params.readout.bias
        losses, dscores = measure(scores, _rows(y, scores.shape[1]))

        dhs = np.zeros_like(hs)
        dhs[compared] = dscores @ params.readout.weight.T
        readout = Readout(hs[compared].T @ dscores, dscores.sum(axis=0))
        grad = _map(np.add, grad, ModelParams(_run_back(params.layers, steps, dhs, every_mask, b), readout))
        loss, count = loss + losses.sum(), count + len(losses)
    return float(loss / max(count, 1)), _map(lambda total: total / max(count, 1), grad)


def _run(
    layers: tuple[LSTMParams, ...], xs: Array, state: tuple[LSTMState, ...], masks: list[Array], b: int
) -> tuple[Array, list, list]:
    """Sequence b of the batch through all layers: the top layer's h `[T, H]`, each layer's steps, each layer's end."""
    hs, steps, ends = _rows(xs, layers[0].weight_ih.shape[1]), [], []
    for layer, (h, c), mask in zip(layers, state, masks, strict=True):
        hs, layer_steps, end = _layer(layer, hs, h[b], c[b])
        hs = hs * mask[b, : len(hs)]
        steps.append(layer_steps)
        ends.append(end)
    return hs, steps, ends


def _run_back(
    layers: tuple[LSTMParams, ...], steps: list[list[Step]], dhs: Array, masks: list[Array], b: int
) -> tuple[LSTMParams, ...]:
    """From the derivative by the top layer's h to every layer's gradient: what one layer read, the one below wrote."""
    grads = []
    for layer, layer_steps, mask in zip(reversed(layers), reversed(steps), reversed(masks), strict=True):
        grad, dhs = _layer_back(layer, layer_steps, dhs * mask[b, : len(dhs)])
        grads.append(grad)
    return tuple(reversed(grads))


def _layer(layer: LSTMParams, xs: Array, h: Array, c: Array) -> tuple[Array, list[Step], LSTMState]:
    """The equations, step by step: every h `[T, H]`, every step, and the state at the end."""
    W, U, b = map(_blocks, layer)
    hs, steps = np.zeros((len(xs), len(h))), []
    for t, x in enumerate(xs):
        h_prev, c_prev = h, c
        i = _sigmoid(W.i @ x + U.i @ h_prev + b.i)
        f = _sigmoid(W.f @ x + U.f @ h_prev + b.f)
        g = np.tanh(W.g @ x + U.g @ h_prev + b.g)
        o = _sigmoid(W.o @ x + U.o @ h_prev + b.o)
        c = f * c_prev + i * g
        h = o * np.tanh(c)
        hs[t] = h
        steps.append(Step(x, h_prev, c_prev, Gates(i, f, g, o), c))
    return hs, steps, LSTMState(h, c)


def _layer_back(layer: LSTMParams, steps: list[Step], dhs: Array) -> tuple[LSTMParams, Array]:
    """From the derivative by every h to the layer's gradient and the derivative by every x; `da` is dLoss / da."""
    W, U, _ = map(_blocks, layer)
    grad = LSTMParams(*map(np.zeros_like, layer))
    dW, dU, db = map(_blocks, grad)  # views into grad
    hidden, inputs = layer.weight_hh.shape[1], layer.weight_ih.shape[1]
    dxs = np.zeros((len(steps), inputs))
    dh_next, dc_next = np.zeros(hidden), np.zeros(hidden)  # by step t+1

    for t, (x, h_prev, c_prev, (i, f, g, o), c) in reversed(list(enumerate(steps))):
        dh = dhs[t] + dh_next
        do = dh * np.tanh(c)
        dc = dh * o * (1 - np.tanh(c) ** 2) + dc_next
        di, df, dg = dc * g, dc * c_prev, dc * i

        dz = Gates(di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o))
        for dW_k, dU_k, db_k, dz_k in zip(dW, dU, db, dz, strict=True):
            dW_k += np.outer(dz_k, x)
            dU_k += np.outer(dz_k, h_prev)
            db_k += dz_k

        dxs[t] = W.i.T @ dz.i + W.f.T @ dz.f + W.g.T @ dz.g + W.o.T @ dz.o
        dh_next = U.i.T @ dz.i + U.f.T @ dz.f + U.g.T @ dz.g + U.o.T @ dz.o
        dc_next = dc * f
    return grad, dxs


def _cross_entropy(s: Array, p: Array) -> tuple[Array, Array]:
    """`-sum_k p_k log softmax(s)_k` of each row, and its derivative by s, `softmax(s) sum_k p_k - p`."""
    shifted = s - s.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -(p * log_softmax).sum(axis=1), np.exp(log_softmax) * p.sum(axis=1, keepdims=True) - p


def _squared_error(s: Array, y: Array) -> tuple[Array, Array]:
    """`mean_k (s_k - y_k)^2` of each row, and its derivative by s, `2 (s - y) / C`."""
    return ((s - y) ** 2).mean(axis=1), 2 * (s - y) / s.shape[1]


def _sigmoid(z: Array) -> Array:
    """`1 / (1 + exp(-z))`, or where z < 0 the same as `exp(z) / (1 + exp(z))`: neither exponential can overflow."""
    small = np.exp(-np.abs(z))
    return np.where(z < 0, small, 1) / (1 + small)


def _rows(values: Array, size: int) -> Array:
    """Vectors `[N, size]` as they are, ids `[N]` as one-hot vectors."""
    if values.ndim == 2:
        return _float64(values)
    one_hot = np.zeros((len(values), size))
    one_hot[np.arange(len(values)), values] = 1
    return one_hot


def _blocks(weight: Array) -> Gates:
    return Gates(*np.split(weight, 4))


def _map(function: Callable[..., Array], *params: ModelParams) -> ModelParams:
    """Call the function on each array of the parameters, or on the arrays in the same place of several."""
    layers, readouts = zip(*params, strict=True)
    layers = tuple(LSTMParams(*map(function, *same)) for same in zip(*layers, strict=True))
    return ModelParams(layers, Readout(*map(function, *readouts)))


def _float64(array: ArrayLike) -> Array:
    return np.array(array, np.float64)


def _state(params: ModelParams, state: tuple[LSTMState, ...] | None, batch: int) -> tuple[LSTMState, ...]:
    if state is None:
        return tuple(LSTMState(*np.zeros((2, batch, layer.weight_hh.shape[1]))) for layer in params.layers)
    return tuple(LSTMState(*map(_float64, layer)) for layer in state)


def _masks(params: ModelParams, masks: tuple[ArrayLike, ...] | None, hs: Array) -> list[Array]:
    """Each layer's mask for every step, `[B, T, H]`."""
    if masks is None:
        return [np.ones_like(hs) for _ in params.layers]
    return [np.broadcast_to(_float64(mask), hs.shape) for mask in masks]


def _lengths(lengths: ArrayLike | None, xs: Array) -> Array:
    batch, time = xs.shape[:2]
    return np.broadcast_to(time if lengths is None else np.clip(lengths, 0, time), batch)
