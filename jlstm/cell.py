"""One time step: the LSTM's equations as pure functions over a pytree of parameters.

A cell is split into a linear part and the rest, which is how its equations read anyway:

    z       = W_ih x + W_hh h + b            the pre-activations of all four gates
    i, f, o = σ(z_i), σ(z_f), σ(z_o)         input, forget and output gate
    g       = tanh(z_g)                      the candidate for the cell state
    c'      = f ⊙ c + i ⊙ g                  the cell state
    h'      = o ⊙ tanh(c')                   the hidden state

The split lets `unroll` take the gradient of the weights as one product over all time steps. A cell is written for one
sequence, with column vectors as the papers have it; `unroll` maps it over a batch.

Sources: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; the forget gate is from Gers, Schmidhuber and
Cummins, "Learning to Forget", 2000.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jlstm.checks import alike, describe, floating, inputs, prng_key, shaped
from jlstm.devices import spread_by_xla

__all__ = [
    "LSTM",
    "Cell",
    "LSTMParams",
    "LSTMState",
    "cast_like",
    "count_draws",
    "init_lstm",
    "lstm_cell",
    "lstm_from_draws",
    "lstm_shapes",
    "state_shapes",
    "widen",
    "zero_states",
]

G = 2  # the place of the candidate among the four


class LSTMParams(NamedTuple):
    """The parameters of one LSTM layer, the gates in the order input, forget, cell (g), output.

    Attributes:
        weight_ih: the weights from the input to the gates, `[4H, I]`, as torch and ONNX have them.
        weight_hh: the weights from the hidden state to the gates, `[4H, H]`.
        bias: the bias of the gates, `[4H]`.

    Example:
        >>> params = LSTMParams(jnp.zeros((20, 3)), jnp.zeros((20, 5)), jnp.zeros(20))
        >>> params.weight_hh.shape
        (20, 5)
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array


class LSTMState(NamedTuple):
    """What one LSTM layer remembers between two time steps.

    Attributes:
        h: the hidden state, `[..., H]`.
        c: the cell state, `[..., H]`.

    Example:
        >>> LSTMState(h=jnp.zeros((2, 5)), c=jnp.zeros((2, 5))).h.shape
        (2, 5)
    """

    h: Array
    c: Array


def _check_nothing(name: str, params: Any) -> None:
    pass


class Cell(NamedTuple):
    """A recurrent cell as pure functions of one sequence; its state is any NamedTuple that has a field `h`.

    Attributes:
        linear: `linear(params, h, x) -> z`, linear in `params` and in `h`; `z` is any pytree. Where all it
            does with the matrices of `params` is to multiply by them, `weight @ h`, or turn them, `weight.T`, they are
            laid out for that; else it is computed as it is written.
        gates: `gates(params, z, state) -> (state, h)`, the rest of the step.
        zero_state: `zero_state(params) -> state`, the state before the first step.
        linear_all: `linear` for many steps at once, `linear_all(params, hs, xs) -> zs` with an axis more in front of
            each, in the form whose transpose is the fastest gradient of the weights; `linear` mapped where None.
        check: `check(name, params) -> input_size`, an error that names what is none of its parameters; the number of
            features that they read, or None for any.

    Example:
        >>> params = init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
        >>> state, h = LSTM.step(params, LSTM.zero_state(params), jnp.ones(3))
        >>> h.shape
        (5,)
    """

    linear: Callable[[Any, Array, Any], Any]
    gates: Callable[[Any, Any, Any], tuple[Any, Array]]
    zero_state: Callable[[Any], Any]
    linear_all: Callable[[Any, Array, Any], Any] | None = None
    check: Callable[[str, Any], int | None] = _check_nothing

    def step(self, params: Any, state: Any, x: Any) -> tuple[Any, Array]:
        """Take one whole time step, `(params, state, x) -> (state, h)`."""
        return self.gates(params, self.linear(params, state.h, x), state)


def _linear(params: LSTMParams, h: Array, x: Array) -> Array:
    from_input = params.weight_ih @ x if x.ndim else _column(params.weight_ih, x)
    return from_input + params.weight_hh @ h + params.bias


def _column(weight: Array, class_id: Array) -> Array:
    """Return the column that an id stands for, and NaN for an id that there is none for: not the last one for -1."""
    return weight.T.at[class_id].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _linear_all(params: LSTMParams, hs: Array, xs: Array) -> Array:
    # One product gives all gradients: for each step two are faster, but three times over all steps cost 1 to 3 % more.
    if xs.ndim < hs.ndim:  # not a look-up, whose transpose scatters row by row
        xs = jax.nn.one_hot(xs, params.weight_ih.shape[1], dtype=hs.dtype)
    rows = jnp.concatenate([xs, hs, jnp.ones_like(hs[:, :1])], axis=1)
    weights = jnp.concatenate([params.weight_ih, params.weight_hh, params.bias[:, None]], axis=1).T
    # Behind a barrier, the gradient is taken as [I + H + 1, 4H] and turned then: 3.2 against 5.4 ms at H=128, N=3,200.
    # Of a few rows, to turn it takes longer: 0.81 against 0.64 ms a training step at H=250, N=10.
    few = isinstance(hs.shape[0], int) and hs.shape[0] < 64
    return rows @ (weights if few else jax.lax.optimization_barrier(weights))


def _gates(params: LSTMParams, z: Array, state: LSTMState) -> tuple[LSTMState, Array]:
    i, f, g, o = jnp.split(_activate(z), 4)
    c = f * state.c + i * g
    h = o * jnp.tanh(c)
    return LSTMState(h, c), h


def _activate(z: Array) -> Array:
    """Return σ of the input, forget and output gate and tanh of the candidate, by one tanh over the whole block.

    One function serves all four, since σ(z) = (1 + tanh(z/2)) / 2: the slope s is ½ for σ and 1 for tanh.
    """
    slope = jnp.repeat(jnp.array([0.5, 0.5, 1.0, 0.5], z.dtype), z.size // 4)
    activations = slope * jnp.tanh(slope * z) + (1 - slope)
    # XLA would otherwise compute each gate's tanh by itself: the forward pass is 1.9 times as slow.
    return jax.lax.optimization_barrier(activations)


def _zero_state(params: LSTMParams) -> LSTMState:
    # Two arrays: one in both places could not be donated.
    return LSTMState(*(jnp.zeros(params.weight_hh.shape[1], params.weight_hh.dtype) for _ in LSTMState._fields))


def _check(name: str, params: Any) -> int:
    if not isinstance(params, LSTMParams):
        raise TypeError(f"{name}: expected LSTMParams, got {describe(params)}")
    features = shaped(f"{name}.weight_ih", params.weight_ih, gates=None, I=None).shape[1]
    hidden = shaped(f"{name}.weight_hh", params.weight_hh, gates=None, H=None).shape[1]
    alike(name, params, lstm_shapes(features, hidden))
    return features


LSTM = Cell(_linear, _gates, _zero_state, _linear_all, _check)


def lstm_shapes(input_size: int, hidden_size: int) -> LSTMParams:
    """Return the shapes of a layer's parameters.

    Args:
        input_size: the number of features I.
        hidden_size: the number of hidden units H.

    Returns:
        `LSTMParams` of `jax.ShapeDtypeStruct`, in float32.

    Example:
        >>> lstm_shapes(input_size=3, hidden_size=5).weight_ih.shape
        (20, 3)
    """
    gates = 4 * hidden_size
    shapes = (gates, input_size), (gates, hidden_size), (gates,)
    arrays: Any = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return LSTMParams(*arrays)


def lstm_cell(params: LSTMParams, state: LSTMState, x: Array) -> tuple[LSTMState, Array]:
    """Take one time step of an LSTM.

    z = W_ih x + W_hh h + b;  i, f, o = σ(z_i), σ(z_f), σ(z_o);  g = tanh(z_g);  c' = f ⊙ c + i ⊙ g;  h' = o ⊙ tanh(c')
    (Hochreiter and Schmidhuber, 1997; the forget gate f: Gers, Schmidhuber and Cummins, 2000).

    Args:
        params: the layer's parameters; their dtype decides, and `state` and `x` are cast to it.
        state: the state before the step, `[..., H]`; with or without a batch axis.
        x: the input, `[..., I]`; or class ids, integers `[...]`, which stand for one-hot vectors.

    Returns:
        The state after the step and the output, which is the hidden state `[..., H]`.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> params = init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
        >>> state, h = lstm_cell(params, LSTM.zero_state(params), jnp.ones(3))
        >>> h.shape, state.c.shape
        ((5,), (5,))
    """
    features = LSTM.check("params", params)
    if not isinstance(state, LSTMState):
        raise TypeError(f"state: expected LSTMState, got {describe(state)}")
    params, batch = jax.tree.map(jnp.asarray, params), jnp.shape(state.h)[:-1]
    state = alike("state", state, state_shapes(LSTM, params, batch), floats=False)
    axes = ["batch"] if len(batch) == 1 else [f"axis {k}" for k in range(len(batch))]
    x = inputs("x", x, features, **dict(zip(axes, batch, strict=True)))
    x = cast_like(params, x) if x.ndim > len(batch) else x
    return _step(params, x, cast_like(params, state), axes=len(batch))


@spread_by_xla((True, True))
def _step(params: LSTMParams, x: Array, state: LSTMState, *, axes: int) -> tuple[LSTMState, Array]:
    step = functools.partial(LSTM.step, params)
    for _ in range(axes):
        step = jax.vmap(step)
    return step(state, x)


def zero_states(cell: Cell, params: Any, batch_shape: tuple) -> Any:
    """Return a cell's state before the first step, for each sequence of a batch."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*batch_shape, *leaf.shape)), cell.zero_state(params))


def state_shapes(cell: Cell, params: Any, batch_shape: tuple) -> Any:
    """Return what a state has to be like, as `jax.eval_shape` tells it."""
    return jax.eval_shape(lambda params: zero_states(cell, params, batch_shape), params)


def widen(tree: Any, extra: int) -> Any:
    """Return a layer with so many more hidden units, which stay zero: all their weights are, so their candidate is too.

    Args:
        tree: an `LSTMParams`, or an `LSTMState`.
        extra: how many units.

    Returns:
        The same with the units appended to each gate, and to the state.

    Example:
        >>> params = init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
        >>> widen(params, 3).weight_hh.shape
        (32, 8)
    """

    def append(array: Array, axis: int) -> Array:
        return jnp.pad(array, [(0, extra if k == axis else 0) for k in range(array.ndim)])

    def append_to_gates(array: Array) -> Array:
        return append(array.reshape(4, -1, *array.shape[1:]), 1).reshape(-1, *array.shape[1:])

    if isinstance(tree, LSTMState):
        return LSTMState(*(append(array, array.ndim - 1) for array in tree))
    return LSTMParams(
        append_to_gates(tree.weight_ih), append(append_to_gates(tree.weight_hh), 1), append_to_gates(tree.bias)
    )


def cast_like(params: Any, tree: Any) -> Any:
    """Return `tree` with its arrays in the dtype of `params`.

    Args:
        params: any pytree whose arrays are of one floating dtype.
        tree: the pytree to cast.

    Returns:
        A pytree like `tree`.

    Example:
        >>> cast_like({"w": jnp.zeros(2, jnp.bfloat16)}, jnp.arange(3)).dtype
        dtype(bfloat16)
    """
    dtypes = [jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in jax.tree.leaves(params) if hasattr(leaf, "dtype")]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtypes[0] if dtypes else None), tree)


def init_lstm(
    key: Array,
    input_size: int,
    hidden_size: int,
    input_scale: float = 1.0,
    dtype: Any = jnp.float32,
    *,
    fan_in: int | None = None,
) -> LSTMParams:
    """Draw the parameters of one LSTM layer.

    Args:
        key: a key of `jax.random.key`; the same key gives the same bits.
        input_size: the number of features I.
        hidden_size: the number of hidden units H.
        input_scale: how much wider than LeCun's the candidate's input weights are drawn; beyond 1 its bias is too.
        dtype: the parameters' dtype; they are drawn in float32 at the least and then cast.
        fan_in: how many features are not zero in a step, 1 for tokens; all I where None.

    Returns:
        `weight_ih` normal with standard deviation `1 / sqrt(fan_in)` (LeCun et al., "Efficient BackProp", 1998), the
        candidate's times `input_scale`; `weight_hh` orthogonal gate by gate (Saxe, McClelland and Ganguli, "Exact
        solutions to the nonlinear dynamics of learning in deep linear neural networks", 2014); `bias` 1 for the forget
        gate (Gers, Schmidhuber and Cummins, 2000; Jozefowicz, Zaremba and Sutskever, "An Empirical Exploration of
        Recurrent Network Architectures", 2015) and 0 for the others, but normal with standard deviation
        `(input_scale - 1) / sqrt(fan_in)` for a widened candidate, whose steep units then tell inputs apart all
        over their range, as random features do (Rahimi and Recht, 2007).

    Example:
        >>> init_lstm(jax.random.key(0), input_size=3, hidden_size=5).weight_ih.shape
        (20, 3)
    """
    drawn = jnp.promote_types(floating("dtype", dtype), jnp.float32)
    normal = jax.random.normal(prng_key("key", key), (count_draws(input_size, hidden_size),), drawn)
    params = lstm_from_draws(normal, input_size, hidden_size, input_scale, input_size if fan_in is None else fan_in)
    return jax.tree.map(lambda array: array.astype(dtype), params)


def count_draws(input_size: int, hidden_size: int) -> int:
    """Return how many normal numbers `lstm_from_draws` takes.

    Args:
        input_size: the number of features I.
        hidden_size: the number of hidden units H.

    Returns:
        (I + 1 + H) · 4H.

    Example:
        >>> count_draws(input_size=3, hidden_size=5)
        180
    """
    return (input_size + 1 + hidden_size) * 4 * hidden_size


def lstm_from_draws(normal: Any, input_size: int, hidden_size: int, input_scale: float, fan_in: int) -> LSTMParams:
    """Return the parameters that `init_lstm` describes, for whoever draws the numbers of many layers at once.

    Args:
        normal: standard normal numbers, `[count_draws(input_size, hidden_size)]`, in JAX or in NumPy, which compiles
            nothing; their library and their dtype are the parameters'.
        input_size, hidden_size, input_scale, fan_in: as for `init_lstm`.

    Returns:
        The parameters.

    Example:
        >>> normal = jax.random.normal(jax.random.key(0), (count_draws(3, 5),))
        >>> params = lstm_from_draws(normal, input_size=3, hidden_size=5, input_scale=1.0, fan_in=3)
        >>> bool((params.weight_ih == init_lstm(jax.random.key(0), input_size=3, hidden_size=5).weight_ih).all())
        True
    """
    xp = normal.__array_namespace__()
    weights = normal.reshape(-1, 4, hidden_size)
    # The gates stay narrow: a widened forget gate latches, and the network fails beyond the lengths it was trained on.
    scales = xp.asarray([1.0, 1.0, input_scale, 1.0], dtype=normal.dtype)[None, :, None] / fan_in**0.5
    candidate = (input_scale - 1) / fan_in**0.5 * weights[input_size, G]
    square = xp.moveaxis(weights[input_size + 1 :], 1, 0)
    orthogonal = _orthogonal(square) if isinstance(normal, np.ndarray) else _orthogonal_one_by_one(square)
    zeros = xp.zeros_like(candidate)
    return LSTMParams(
        weight_ih=(scales * weights[:input_size]).reshape(input_size, -1).T,
        weight_hh=xp.moveaxis(orthogonal, 1, 2).reshape(-1, hidden_size),
        bias=xp.concat([zeros, zeros + 1, candidate, zeros]),
    )


def _orthogonal(normal: Any) -> Any:
    """Return orthogonal matrices, any as likely as any other (Mezzadri, "How to Generate Random Matrices", 2007)."""
    xp = normal.__array_namespace__()
    q, r = xp.linalg.qr(normal)
    return q * xp.sign(xp.linalg.diagonal(r))[..., None, :]


@jax.jit  # as a loop that is not in a compiled function is compiled anew at every call
def _orthogonal_one_by_one(normal: Array) -> Array:
    # Under vmap, the QR factorisations of two layers at once can wait for each other for ever (jax 0.10.2).
    return jax.lax.map(_orthogonal, normal)
