"""Layers of any cell with a random number in every entry, and the states that they reach, for tests of all cells."""

import jax
import numpy as np

from jlstm import reference
from jlstm.cells.cell import Sizes


def sizes_of(cell, inputs=3, hidden=6):
    """How wide a layer is, of a cell that projects its hidden state with fewer outputs than units."""
    return Sizes(inputs, hidden, hidden - 2 if cell.projects else hidden)


def random_layer(cell, rng, inputs=3, hidden=6):
    """Draw parameters in float64, biases, gains and peepholes too, which start all alike, where mistakes can hide."""
    shapes = cell.shapes(sizes_of(cell, inputs, hidden))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / leaf.shape[-1] ** 0.5, shapes)


def random_state(cell, params, rng, batch):
    """Return a state `[batch, ...]` after three steps of the reference: of an sLSTM, not all numbers are one."""
    step, states = reference.CELLS[cell.name].step, []
    for _ in range(batch):
        state = reference.CELLS[cell.name].zero(params)
        for x in rng.normal(size=(3, params.weight_ih.shape[1])):
            state, _ = step(params, x, state.h, state)
        states.append(state)
    like = type(jax.eval_shape(cell.zero_state, params))
    return like(*(np.stack(arrays) for arrays in zip(*states, strict=True)))
