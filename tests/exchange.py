"""What the tests of the libraries that weights are exchanged with have in common."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jlstm import Bidirectional, Readout, stack
from jlstm.cells.cell import Sizes
from jlstm.interop import Model
from jlstm.stack import directions

BATCH, TIME, INPUTS, HIDDEN, PROJECTION, OUTPUTS = 3, 6, 4, 8, 5, 2
BOUNDS = {"float32": 2e-6, "float64": 1e-12}  # as parts of the largest value
LENGTHS = np.array([6, 1, 4])


def drawn(shapes, dtype, rng):
    """Arrays of which no entry is zero, as biases that training starts from are."""
    return jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(dtype), shapes)


def a_model(cell, dtype="float32", *, layers=1, both=False, readout=False, seed=0):
    rng, width, found = np.random.default_rng(seed), PROJECTION if cell.projects else HIDDEN, []
    for k in range(layers):
        shapes = cell.shapes(Sizes(width * (1 + both) if k else INPUTS, HIDDEN, width))
        each = [drawn(shapes, dtype, rng) for _ in range(1 + both)]
        found.append(Bidirectional(*each) if both else each[0])
    on_top = Readout(np.empty((width * (1 + both), OUTPUTS)), np.empty(OUTPUTS))
    return Model(cell, tuple(found), drawn(on_top, dtype, rng) if readout else None)


def sequences(dtype="float32", seed=1):
    return np.random.default_rng(seed).normal(size=(BATCH, TIME, INPUTS)).astype(dtype)


def a_state(model, dtype="float32", seed=2):
    """A state to start from, for each layer and direction."""
    rng = np.random.default_rng(seed)
    zeros = [[model.cell.zero_state(own) for own in directions(layer)] for layer in model.layers]
    grown = jax.tree.map(lambda leaf: drawn(jnp.zeros((BATCH, *leaf.shape)), dtype, rng), zeros)
    return tuple(Bidirectional(*each) if len(each) > 1 else each[0] for each in grown)


@functools.partial(jax.jit, static_argnames="cell")
def _run(layers, readout, xs, state, lengths, cell):
    hs, state = stack(layers, xs, state, cell=cell, lengths=lengths)
    return hs if readout is None else hs @ readout.weight + readout.bias[None, None], state


def run(model, xs, state=None, lengths=None):
    """The outputs, or where there is a readout what that gives, and the states after the last step."""
    return _run(model.layers, model.readout, xs, state, lengths, model.cell)


@functools.partial(jax.jit, static_argnames="cell")
def _gradient(layers, xs, weights, cell):
    def loss(layers, xs):
        return (weights * stack(layers, xs, cell=cell)[0]).sum()

    return jax.grad(loss, argnums=(0, 1))(layers, xs)


def gradient(model, xs, weights):
    """The gradients of the weighted sum of the outputs by the layers' parameters and by the inputs."""
    return _gradient(model.layers, xs, weights, model.cell)


def close(got, wanted, dtype):
    got, wanted = jax.tree.leaves(got), jax.tree.leaves(wanted)
    assert got
    for a, b in zip(got, wanted, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype.name, b.dtype.name) == (b.shape, dtype, dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=BOUNDS[dtype] * max(np.abs(b).max(), 1))


def same_bits(got, wanted):
    """Whether two models are the same, to the bits of every array."""
    assert (got.cell, *got[3:]) == (wanted.cell, *wanted[3:])
    got, wanted = got[1:3], wanted[1:3]
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (a.dtype, a.shape, np.asarray(a).tobytes()) == (b.dtype, b.shape, np.asarray(b).tobytes())
