"""Writing on: class ids drawn one after the other, each fed back, in compiled loops that carry the state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jlstm.data import class_ids, inputs_of
from jlstm.model import LSTMConfig, ModelParams, forward, real_number, step, whole_number

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

    Raises:
        TypeError, ValueError: `prompts` are not class ids `[batch, time]` of the network, or `length` or `temperature`
            is negative or of the wrong type.

    Example:
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=5, hidden_size=8, output_size=5)
        >>> params = init_params(jax.random.key(0), config)
        >>> generate(params, [[0, 1, 2]], 10, config, key=jax.random.key(1)).shape
        (1, 10)
    """
    ids = class_ids("prompts", prompts, config.output_size)
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"prompts: expected at least one id in each, [batch, time], got shape {ids.shape}")
    length = whole_number("length", length, least=0)
    temperature = real_number("temperature", temperature)
    scores, state = _read(params, ids, config)
    pieces = [np.zeros((0, len(ids)), np.int32)]
    for start in range(0, length, PIECE):
        key, key_piece = jax.random.split(key)
        count = min(PIECE, length - start)
        written, scores, state = _write(params, scores, state, key_piece, temperature, count, config)
        pieces.append(np.asarray(written)[:count])
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
