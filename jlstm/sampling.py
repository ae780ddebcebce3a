"""Writing on: class ids drawn one after the other, each fed back, in compiled loops that carry the state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jlstm.data import inputs_of
from jlstm.model import LSTMConfig, ModelParams, forward, step

__all__ = ["generate"]

PIECE = 1024  # how many ids one compiled call writes; their noise is drawn at once, which costs less than step by step


def generate(
    params: ModelParams, prompts: Any, length: int, config: LSTMConfig, *, key: Array, temperature: float = 1.0
) -> np.ndarray:
    """Write on from prompts, each id drawn from softmax(scores / temperature).

    The draw is the argmax of scores + temperature * Gumbel noise (Gumbel, 1954; Maddison, Tarlow and Minka, "A*
    Sampling", 2014), which at temperature 0 is the likeliest id.

    Args:
        params: the parameters of a network with a target for each step.
        prompts: what to write on from, class ids `[batch, time]`.
        length: how many ids to write.
        config: the network; with one input it reads `id / output_size`, else one-hot vectors.
        key: a key of `jax.random.key`; the same key gives the same ids.
        temperature: below 1 for likelier ids, above 1 for more surprising ones.

    Returns:
        The ids that were written, `[batch, length]` in int32.

    Example:
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=5, hidden_size=8, output_size=5)
        >>> params = init_params(jax.random.key(0), config)
        >>> generate(params, [[0, 1, 2]], 10, config, key=jax.random.key(1)).shape
        (1, 10)
    """
    scores, state = _read(params, jnp.asarray(prompts), config)
    pieces = []
    for start in range(0, length, PIECE):
        key, key_piece = jax.random.split(key)
        count = min(PIECE, length - start)
        ids, scores, state = _write(params, scores, state, key_piece, temperature, count, config)
        pieces.append(np.asarray(ids)[:count])
    return np.concatenate(pieces).T


@jax.jit
def _read(params: ModelParams, prompts: Array, config: LSTMConfig) -> tuple[Array, Any]:
    scores, state = forward(params, inputs_of(prompts, config), config)
    return scores[:, -1], state


@jax.jit
def _write(
    params: ModelParams, scores: Array, state: Any, key: Array, temperature: Array, count: Array, config: LSTMConfig
) -> tuple[Array, Array, Any]:
    noise = temperature * jax.random.gumbel(key, (PIECE, *scores.shape), scores.dtype)

    def body(t: Array, carry: tuple) -> tuple:
        ids, scores, state = carry
        drawn = jnp.argmax(scores + noise[t], axis=-1).astype(jnp.int32)
        scores, state = step(params, inputs_of(drawn, config), config, state)
        return ids.at[t].set(drawn), scores, state

    ids = jnp.zeros((PIECE, scores.shape[0]), jnp.int32)
    return lax.fori_loop(0, count, body, (ids, scores, state))
