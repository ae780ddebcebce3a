"""Writing on: class ids drawn one after the other, each fed back, in compiled loops that carry the state."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jlstm.checks import alike, class_ids, is_boxed, prng_key, real_number, whole_number
from jlstm.config import LSTMConfig
from jlstm.data import filled_up, inputs_of
from jlstm.devices import AXIS, compiled, mesh_for, replicate, split_batch, to_whole_devices
from jlstm.inputs import check_scores_ids
from jlstm.model import ModelParams, params_shapes, read_out, stepper, weights_of
from jlstm.reading import read

__all__ = ["generate", "stream"]

PIECE = 32  # how many ids `stream` hands out at a time
BLOCK = 1024  # for how many ids the noise is drawn at once, which costs less than step by step
NOISE = 2**20  # many rows get shorter blocks, of at most so many numbers where that leaves room for a piece


class _Choice(NamedTuple):
    temperature: Any
    top_k: Any
    top_p: Any


def generate(
    params: ModelParams,
    prompts: Any,
    length: int,
    config: LSTMConfig,
    *,
    key: Array,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Any = None,
) -> np.ndarray:
    """Write on from prompts, each id drawn from softmax(scores / temperature) or from its likeliest part.

    The draw is the argmax of scores + temperature * Gumbel noise (Gumbel, 1954; Maddison, Tarlow and Minka, "A*
    Sampling", 2014), which at temperature 0 is the likeliest id. Where both are given, `top_p` chooses among the ids
    that `top_k` left, from their probabilities scaled up to sum to 1. Of equally likely ids the smaller counts as the
    likelier, so `top_k` leaves exactly k and `top_p` no more than it needs. No value of `length`, `temperature`,
    `top_k` or `top_p` compiles anything anew, only whether the last two are None; nor does a longer prompt.

    Args:
        params: the parameters of a network with a target for each step.
        prompts: what to write on from, class ids `[batch, time]`, or a list of `[time]`, which may differ in length;
            they are read in memory that does not grow with time.
        length: how many ids to write, at most.
        config: the network; with one feature it reads `id / output_size`, else one-hot vectors.
        key: a key of `jax.random.key`; the same key gives the same ids; what a row draws depends on no other.
        temperature: below 1 for likelier ids, above 1 for more surprising ones.
        top_k: draw from the k likeliest ids only (Fan, Lewis and Dauphin, "Hierarchical Neural Story Generation",
            2018); from all where None.
        top_p: draw only from the fewest likeliest ids whose probabilities, at this temperature, add up to at least p
            (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020); from all where None or 1.
        stop: a text as class ids `[n]`; a row ends with its first occurrence in what was written, that included.

    Returns:
        The ids that were written, `[batch, length]` in int32. With `stop`, -1 behind a row's end, and no more columns
        than the longest row has ids; `row[row >= 0]` is the text.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range, or the network writes no class ids or
            does not read those that it writes.

    Example:
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=5, hidden_size=8, output_size=5, inputs="tokens")
        >>> params = init_params(jax.random.key(0), config)
        >>> generate(params, [[0, 1, 2]], 10, config, key=jax.random.key(1), top_k=3).shape
        (1, 10)
    """
    most = BLOCK if stop is None else PIECE  # so that little is written behind the end of the last row
    pieces = _written(params, prompts, length, config, key, _Choice(temperature, top_k, top_p), stop, most)
    return np.concatenate([np.zeros((len(prompts), 0), np.int32), *pieces], axis=1)


def stream(
    params: ModelParams,
    prompts: Any,
    length: int,
    config: LSTMConfig,
    *,
    key: Array,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Any = None,
) -> Iterator[np.ndarray]:
    """Write on from prompts as `generate` does and hand the ids out as they are made.

    Args:
        params, prompts, length, config, key, temperature, top_k, top_p, stop: as for `generate`.

    Returns:
        An iterator over pieces `[batch, n]` with n up to 32, which next to each other are what `generate` returns; it
        ends when all rows have. The arguments are checked at the call, and ids are computed when they are asked for.

    Raises:
        TypeError, ValueError: as for `generate`.

    Example:
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=5, hidden_size=8, output_size=5, inputs="tokens")
        >>> params = init_params(jax.random.key(0), config)
        >>> [ids.shape for ids in stream(params, [[0, 1, 2]], 40, config, key=jax.random.key(1))]
        [(1, 32), (1, 8)]
    """
    return _written(params, prompts, length, config, key, _Choice(temperature, top_k, top_p), stop, PIECE)


def _written(
    params: ModelParams,
    prompts: Any,
    length: int,
    config: LSTMConfig,
    key: Array,
    choice: _Choice,
    stop: Any,
    most: int,
) -> Iterator[np.ndarray]:
    """Check everything, then return a generator of pieces of at most `most` ids."""
    check_scores_ids(config)
    prompts, counts = _padded(prompts, config.output_size)
    length, key = whole_number("length", length, least=0), prng_key("key", key)
    params = alike("params", params, params_shapes(config))
    pieces = _pieces(params, prompts, counts, length, config, key, _checked(choice), most)
    if stop is None:
        return pieces
    stop = class_ids("stop", stop, config.output_size)
    if stop.ndim != 1 or stop.size == 0:
        raise ValueError(f"stop: expected at least one id, [n], got shape {stop.shape}")
    return _until(stop, pieces, len(prompts))


def _padded(prompts: Any, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prompts as `[batch, time]` and how many ids of each are real, `[batch]`, or one number for all."""
    listed = is_boxed(prompts) or isinstance(prompts, (list, tuple))
    rows = [class_ids(f"prompts[{k}]", row, classes) for k, row in enumerate(prompts)] if listed else []
    if len({row.shape for row in rows}) > 1:
        for k, row in enumerate(rows):
            if row.ndim != 1 or row.size == 0:
                raise ValueError(f"prompts[{k}]: expected at least one id, [time], got shape {row.shape}")
        counts = np.array([len(row) for row in rows], np.int32)
        return np.stack([filled_up(row, counts.max()) for row in rows]), counts
    ids = class_ids("prompts", prompts, classes)
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(
            f"prompts: expected at least one id in each, [batch, time] or a list of [time], got shape {ids.shape}"
        )
    return ids, np.array(ids.shape[1], np.int32)


def _checked(choice: _Choice) -> _Choice:
    temperature = min(real_number("temperature", choice.temperature), 1e30)  # far above, the noise is infinite
    top_k = None if choice.top_k is None else whole_number("top_k", choice.top_k, least=1)
    top_p = None if choice.top_p is None else real_number("top_p", choice.top_p)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected a number above 0 and at most 1, got {top_p}")
    return _Choice(temperature, top_k, None if top_p == 1 else top_p)  # at 1, rounding could leave out unlikely ids


def _pieces(
    params: ModelParams,
    prompts: np.ndarray,
    counts: np.ndarray,
    length: int,
    config: LSTMConfig,
    key: Array,
    choice: _Choice,
    most: int,
) -> Iterator[np.ndarray]:
    rows = len(prompts)
    mesh = mesh_for(rows, weights_of(params))
    width = to_whole_devices(rows, mesh)
    params, key = replicate((params, key), mesh)
    scores, state = read(params, prompts, counts, width, config, mesh)
    block = min(BLOCK, max(PIECE, NOISE // (width * config.output_size)))
    for start in range(0, length, block):
        noise = _noise(key, start, choice.temperature, shape=(block, width, config.output_size))
        end = min(block, length - start)
        for first in range(0, end, most):
            last = min(first + most, end)
            ids, scores, state = _write(params, scores, state, noise, (first, last), choice, config, mesh=mesh)
            yield np.asarray(ids)[first:last, :rows].T.copy()


def _until(stop: np.ndarray, pieces: Iterator[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """Put -1 behind the first occurrence of `stop` in each row, and end when all rows have."""
    recent, over = np.full((rows, len(stop) - 1), -1), np.zeros((rows, 1), bool)
    for piece in pieces:
        text = np.concatenate([recent, piece], axis=1)
        found = (np.lib.stride_tricks.sliding_window_view(text, len(stop), axis=1) == stop).all(axis=-1)
        over_after = over | np.logical_or.accumulate(found, axis=1)
        piece[np.concatenate([over, over_after[:, :-1]], axis=1)] = -1
        yield piece[:, (piece >= 0).any(axis=0)]
        recent, over = text[:, piece.shape[1] :], over_after[:, -1:]
        if over.all():
            return


@compiled(static_argnames="shape")
def _noise(key: Array, start: Array, temperature: Array, *, shape: tuple[int, ...]) -> Array:
    """Draw for a block of steps, `[steps, rows, C]`; each row has a key of its own, and each of its steps."""
    steps, rows, classes = shape

    def draw(step: Array, row: Array) -> Array:
        return jax.random.gumbel(jax.random.fold_in(jax.random.fold_in(key, row), step), (classes,), jnp.float32)

    of_rows = jax.vmap(draw, in_axes=(None, 0))
    return temperature * jax.vmap(of_rows, in_axes=(0, None))(start + jnp.arange(steps), jnp.arange(rows))


@compiled(static_argnames="mesh")
def _write(
    params: ModelParams,
    scores: Array,
    state: Any,
    noise: Array,
    steps: tuple,
    choice: _Choice,
    config: LSTMConfig,
    *,
    mesh: Mesh | None,
) -> tuple[Array, Array, Any]:
    """Write the ids of some steps of a block, from the first to before the last."""

    def write(
        params: ModelParams, scores: Array, state: Any, noise: Array, steps: tuple, choice: _Choice
    ) -> tuple[Array, Array, Any]:
        step = stepper(params, config)

        def body(t: Array, carry: tuple) -> tuple:
            ids, scores, state = carry
            drawn = _draw(scores, noise[t], choice).astype(jnp.int32)
            h, state = step(inputs_of(drawn, config), state)
            return ids.at[t].set(drawn), read_out(params.readout, h), state

        return lax.fori_loop(steps[0], steps[1], body, (jnp.zeros_like(noise[..., 0], jnp.int32), scores, state))

    rows, columns = P(AXIS), P(None, AXIS)
    in_specs = (P(), rows, rows, columns, P(), P())
    return split_batch(write, mesh, in_specs, (columns, rows, rows))(params, scores, state, noise, steps, choice)


def _draw(scores: Array, noise: Array, choice: _Choice) -> Array:
    temperature, top_k, top_p = choice
    if top_k is None and top_p is None:
        return jnp.argmax(scores + noise, axis=-1)
    classes = scores.shape[-1]
    ranked, ids = lax.top_k(scores, classes)  # of equal scores the smaller id first
    kept = jnp.arange(classes)[None] < (classes if top_k is None else top_k)
    if top_p is not None:
        # Divided by almost 0, all but the likeliest become -inf.
        logits = (ranked - ranked[:, :1]) / jnp.maximum(temperature, jnp.finfo(jnp.float32).tiny)
        shares = jax.nn.softmax(jnp.where(kept, logits, -jnp.inf).astype(jnp.float32))
        kept = kept & (jnp.cumsum(shares, axis=-1) - shares < top_p)  # those before it do not add up to p yet
    rank = jnp.argmax(jnp.where(kept, ranked + noise, -jnp.inf), axis=-1, keepdims=True)
    return jnp.take_along_axis(ids, rank, axis=-1)[:, 0]
