"""A recurrent cell of your own: the minimal gated unit, trained through the class and checked.

    f  = σ(W_f x + U_f h + b_f)              one gate both forgets and resets
    n  = tanh(W_n x + U_n (f ⊙ h) + b_n)
    h' = (1 - f) ⊙ h + f ⊙ n

Source: Zhou, Wu, Zhang and Zhou, "Minimal Gated Unit for Recurrent Neural Networks", 2016.
"""

import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jlstm import LSTMNetwork
from jlstm.cells import Cell, times
from jlstm.cells.initializers import biases, input_weights, orthogonal
from jlstm.gradcheck import gradcheck


class MGUParams(NamedTuple):
    weight_ih: jax.Array  # [2H, I], for f and n
    weight_hh: jax.Array  # [H, H], for f
    weight_hn: jax.Array  # [H, H], for n
    bias: jax.Array  # [2H]


class MGUState(NamedTuple):
    h: jax.Array  # [H]


def linear(params, h, x):
    return times(params.weight_ih, x) + params.bias, params.weight_hh @ h  # x may be an id: `times` takes both


def gates(params, parts, state):
    a, u = parts
    a_f, a_n = jnp.split(a, 2)
    f = jax.nn.sigmoid(a_f + u)
    n = jnp.tanh(a_n + params.weight_hn @ (f * state.h))
    h = (1 - f) * state.h + f * n
    return MGUState(h), h


def zero_state(params):
    return MGUState(jnp.zeros(params.weight_hh.shape[1], params.weight_hh.dtype))


def draw(normal, sizes, scale, fan_in):
    weight_ih, steep = input_weights(normal, sizes.inputs, sizes.hidden, [1, scale], fan_in)
    weight_hh, weight_hn = orthogonal(normal, 1, sizes.hidden), orthogonal(normal, 1, sizes.hidden)
    return MGUParams(weight_ih, weight_hh, weight_hn, biases(steep, -1, 0))  # at first little is forgotten


MGU = Cell(linear, gates, zero_state, name="mgu", draw=draw)


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=250, help="how often to go through the data (default 250)")
    parser.add_argument("--hidden", type=int, default=100, help="the number of hidden units (default 100)")
    options = parser.parse_args(arguments)

    began = time.perf_counter()
    numbers = np.array([[start * 3**k % 50 for k in range(11)] for start in range(50)])
    X, Y = numbers[:, :-1] / 50, numbers[:, 1:]
    network = LSTMNetwork(1, options.hidden, 50, cell=MGU)
    print(network)

    report = gradcheck(network.params, X[:4, :, None], Y[:4], network.config)
    worst = max(row.of_gradient for row in report.rows)
    verdict = "are right" if report.passed else "are WRONG"
    print(f"Its gradients {verdict}: finite differences differ from them by {worst:.0e} of the largest at most")

    network.train(X, Y, epochs=options.epochs, learning_rate=0.01)
    right = float((network.predict(X[..., None])[..., 0].argmax(axis=-1) == Y).mean())
    print(f"{right:.1%} of x -> 3x mod 50 answered right after {time.perf_counter() - began:.1f} s")
    return right


if __name__ == "__main__":
    main()
