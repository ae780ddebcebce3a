"""Writing on: class ids drawn one after the other, each fed back, in compiled loops that carry the state."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jlstm.data import check_scores_ids, class_ids, inputs_of
from jlstm.devices import AXIS, mesh_for, replicate, scatter, split_batch
from jlstm.model import LSTMConfig, ModelParams, real_number, step, whole_number, zero_state

__all__ = ["generate", "stream"]

READ = 1024  # how many ids of a prompt one compiled call reads
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
        prompts: what to write on from, class ids `[batch, time]`; they are read in memory that does not grow with time.
        length: how many ids to write, at most.
        config: the network; with one feature it reads `id / output_size`, else one-hot vectors.
        key: a key of `jax.random.key`; the same key gives the same ids.
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
    prompts = class_ids("prompts", prompts, config.output_size)
    if prompts.ndim != 2 or prompts.size == 0:
        raise ValueError(f"prompts: expected at least one id in each, [batch, time], got shape {prompts.shape}")
    length = whole_number("length", length, least=0)
    if not (isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0):
        raise TypeError(f"key: expected a key of jax.random.key, got {key!r}")
    pieces = _pieces(params, prompts, length, config, key, _checked(choice), most)
    if stop is None:
        return pieces
    stop = class_ids("stop", stop, config.output_size)
    if stop.ndim != 1 or stop.size == 0:
        raise ValueError(f"stop: expected at least one id, [n], got shape {stop.shape}")
    return _until(stop, pieces, len(prompts))


def _checked(choice: _Choice) -> _Choice:
    temperature = min(real_number("temperature", choice.temperature), 1e30)  # far above, the noise is infinite
    top_k = None if choice.top_k is None else whole_number("top_k", choice.top_k, least=1)
    top_p = None if choice.top_p is None else real_number("top_p", choice.top_p)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected a number above 0 and at most 1, got {top_p}")
    return _Choice(temperature, top_k, None if top_p == 1 else top_p)  # at 1, rounding could leave out unlikely ids


def _pieces(
    params: ModelParams, prompts: np.ndarray, length: int, config: LSTMConfig, key: Array, choice: _Choice, most: int
) -> Iterator[np.ndarray]:
    rows = len(prompts)
    mesh = mesh_for(rows)
    mesh = None if mesh is None or rows % mesh.size else mesh  # rows added to fill it up would change the others' noise
    (params, key), state = replicate((params, key), mesh), scatter(zero_state(params, rows), mesh)
    for start in range(0, prompts.shape[1], READ):
        ids = prompts[:, start : start + READ]
        padded = np.pad(ids, ((0, 0), (0, READ - ids.shape[1])))
        scores, state = _read(params, padded, state, ids.shape[1], config, mesh=mesh)
    block = min(BLOCK, max(PIECE, NOISE // (rows * config.output_size)))
    for start in range(0, length, block):
        noise = _noise(jax.random.fold_in(key, start), choice.temperature, shape=(block, rows, config.output_size))
        end = min(block, length - start)
        for first in range(0, end, most):
            last = min(first + most, end)
            ids, scores, state = _write(params, scores, state, noise, (first, last), choice, config, mesh=mesh)
            yield np.asarray(ids)[first:last].T.copy()


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


@jax.jit(static_argnames="mesh")
def _read(
    params: ModelParams, ids: Array, state: Any, count: Array, config: LSTMConfig, *, mesh: Mesh | None
) -> tuple[Array, Any]:
    """Read the first `count` ids: one compiled shape for prompts of every length."""

    def read(params: ModelParams, ids: Array, state: Any, count: Array) -> tuple[Array, Any]:
        def next_step(t: Array, state: Any) -> tuple[Array, Any]:
            return step(params, inputs_of(ids[:, t], config), config, state)

        # Only the last step's scores are wanted, so the loop leaves the readout out.
        return next_step(count - 1, lax.fori_loop(0, count - 1, lambda t, state: next_step(t, state)[1], state))

    split = P(AXIS)
    return split_batch(read, mesh, (P(), split, split, P()), split)(params, ids, state, count)


@jax.jit(static_argnames="shape")
def _noise(key: Array, temperature: Array, *, shape: tuple[int, ...]) -> Array:
    return temperature * jax.random.gumbel(key, shape, jnp.float32)


@jax.jit(static_argnames="mesh")
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
        def body(t: Array, carry: tuple) -> tuple:
            ids, scores, state = carry
            drawn = _draw(scores, noise[t], choice).astype(jnp.int32)
            scores, state = step(params, inputs_of(drawn, config), config, state)
            return ids.at[t].set(drawn), scores, state

        return lax.fori_loop(steps[0], steps[1], body, (jnp.zeros(noise.shape[:2], jnp.int32), scores, state))

    rows, columns = P(AXIS), P(None, AXIS)
    in_specs = (P(), rows, rows, columns, P(), P())
    return split_batch(write, mesh, in_specs, (columns, rows, rows))(params, scores, state, noise, steps, choice)


def _draw(scores: Array, noise: Array, choice: _Choice) -> Array:
    temperature, top_k, top_p = choice
    if top_k is None and top_p is None:
        return jnp.argmax(scores + noise, axis=-1)
    classes = scores.shape[-1]
    ranked, ids = lax.top_k(scores, classes)  # of equal scores the smaller id first
    kept = jnp.arange(classes) < (classes if top_k is None else top_k)
    if top_p is not None:
        # Divided by almost 0, all but the likeliest become -inf.
        logits = (ranked - ranked[:, :1]) / jnp.maximum(temperature, jnp.finfo(jnp.float32).tiny)
        shares = jax.nn.softmax(jnp.where(kept, logits, -jnp.inf).astype(jnp.float32))
        kept = kept & (jnp.cumsum(shares, axis=-1) - shares < top_p)  # those before it do not add up to p yet
    rank = jnp.argmax(jnp.where(kept, ranked + noise, -jnp.inf), axis=-1, keepdims=True)
    return jnp.take_along_axis(ids, rank, axis=-1)[:, 0]
