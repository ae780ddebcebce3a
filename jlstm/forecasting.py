"""Values to come: what a network tells of the next step, or draws from it, is what it reads next, in compiled loops."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jlstm.checks import alike, describe, finite_numbers, fits, lengths_of, prng_key, whole_number, written
from jlstm.config import LSTMConfig, check_config
from jlstm.devices import AXIS, compiled, mesh_for, replicate, scatter, split_batch, to_whole_devices
from jlstm.model import ModelParams, check_reads_forwards, params_shapes, read_out, stepper, weights_of
from jlstm.objectives import location_and_scale
from jlstm.reading import read

__all__ = ["Feedback", "check_feeds_itself", "forecast"]

BLOCK = 256  # how many steps one compiled call makes, at most, so that any number of them is made by the same
NOISE = 2**20  # many rows get shorter blocks, of at most so many numbers
LEAST_BLOCK = 16


class Feedback(NamedTuple):
    """How a value that was told becomes one that is read: `scale * value + shift`.

    Attributes:
        scale: `[C]`.
        shift: `[C]`.
    """

    scale: Any
    shift: Any


def forecast(
    params: ModelParams,
    xs: np.ndarray,
    steps: int,
    config: LSTMConfig,
    *,
    lengths: np.ndarray | None = None,
    samples: int | None = None,
    key: Array | None = None,
    feedback: Feedback | None = None,
) -> np.ndarray:
    """Forecast the values that come after sequences.

    Without samples each value told, the location of a distribution, is what the network reads next. With samples a
    value is drawn from each distribution, so that the samples are whole paths, whose spread grows with the uncertainty
    of each step before (Salinas et al., "DeepAR", 2020). No number of steps compiles anything anew.

    Args:
        params: the network's parameters.
        xs: the sequences, `[batch, time, C]`.
        steps: how many steps to forecast, from 1 up.
        config: a network of values whose outputs are its next inputs (see `check_feeds_itself`).
        lengths: how many steps of each sequence are real, `[batch]` integers; all where None.
        samples: how many paths to draw of each; None for none.
        key: what to draw with, where there are samples; a path depends on no later step and on no other path.
        feedback: for networks that read values on another scale than they tell them; the same where None.

    Returns:
        The values, `[batch, steps, C]`, or paths `[samples, batch, steps, C]`, in float32.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=1, loss="gaussian")
        >>> params = init_params(jax.random.key(0), config)
        >>> forecast(params, np.ones((2, 7, 1)), 5, config, samples=3, key=jax.random.key(1)).shape
        (3, 2, 5, 1)
    """
    check_feeds_itself(config)
    params = alike("params", params, params_shapes(config))
    xs = finite_numbers("xs", xs)  # in NumPy: each length of an array of JAX has a program of its own that copies it
    if not fits(xs.shape, None, None, config.input_size):
        expected = written({"batch": None, "time": None, "features": config.input_size})
        raise ValueError(f"xs: expected {expected}, got {describe(xs)}")
    steps = whole_number("steps", steps, least=1)
    if samples is not None:
        samples = whole_number("samples", samples, least=1)
        check_has_samples(config)
        key = prng_key("key", key)
    batch, time, size = xs.shape
    if 0 in (batch, time):
        raise ValueError(f"xs: expected at least one sequence and one time step, got shape {xs.shape}")
    counts = np.asarray(time if lengths is None else lengths_of(lengths, batch))
    if (wrong := counts[(counts < 1) | (counts > time)]).size:
        raise ValueError(f"lengths: expected from 1 to time = {time} steps, got {wrong[0]}")
    same = Feedback(np.ones(size, np.float32), np.zeros(size, np.float32))
    feedback = alike("feedback", same if feedback is None else feedback, same)
    mesh, width = _places(batch, params)
    scores, state = read(replicate(params, mesh), xs, counts.astype(np.int32), width, config, mesh)

    rows = batch * (samples or 1)
    mesh, width = _places(rows, params)
    of_row = np.arange(width) % batch
    scores, state = scatter(jax.tree.map(lambda array: np.asarray(array)[of_row], (scores, state)), mesh)
    params = replicate(params, mesh)
    feedback = replicate(jax.tree.map(np.float32, feedback), mesh)
    block = max(LEAST_BLOCK, min(BLOCK, NOISE // (width * size)))
    pieces = []
    for start in range(0, steps, block):
        noise = None
        if samples is not None:
            noise = _noise(replicate(key, mesh), start, batch, shape=(block, width, size), config=config)
        count = min(block, steps - start)
        values, scores, state = _go_on(params, scores, state, noise, count, feedback, config, block=block, mesh=mesh)
        pieces.append(np.asarray(values)[:count, :rows])
    paths = np.concatenate(pieces).transpose(1, 0, 2)
    return paths if samples is None else paths.reshape(samples, batch, steps, size)


def check_feeds_itself(config: Any, name: str = "config") -> None:
    """Raise a ValueError unless what a network tells of a step is what it can read at the next."""
    check_config(config)
    if config.objective.answers != "values" or config.inputs != "features":
        came = f"loss={config.loss!r}, inputs={config.inputs!r}"
        raise ValueError(f"{name}: a forecast needs a network that reads values and tells values, got {came}")
    if config.input_size != config.output_size:
        came = f"input_size={config.input_size} and output_size={config.output_size}"
        advice = "a value some steps ahead is what `predict` tells after a training on SeriesWindows(ahead=...)"
        raise ValueError(f"{name}: a forecast needs a network whose outputs are its next inputs, got {came}; {advice}")
    check_reads_forwards(config, name)
    if config.target == "mean":
        raise ValueError(f"{name}: a forecast needs a network with target='each' or 'last', got 'mean'")


def check_has_samples(config: LSTMConfig) -> None:
    """Raise a ValueError unless a network tells distributions."""
    if config.objective.noise is None:
        raise ValueError(
            f"samples: expected None with loss={config.loss!r}, which tells values and no distribution to draw from; "
            "'gaussian' and 'laplace' do"
        )


def _places(rows: int, params: ModelParams) -> tuple[Mesh | None, int]:
    mesh = mesh_for(rows, weights_of(params))
    return mesh, to_whole_devices(rows, mesh)


@compiled(static_argnames=("shape", "config"))
def _noise(key: Array, start: Array, batch: Array, *, shape: tuple[int, int, int], config: LSTMConfig) -> Array:
    """Draw for a block of steps, `[steps, rows, C]`; a step has a key by its sequence, its sample and its number."""
    steps, rows, size = shape
    of_one: Any = config.objective.noise

    def draw(key: Array, step: Array, row: Array) -> Array:
        for number in (row % batch, row // batch, step):
            key = jax.random.fold_in(key, number)
        return of_one(key, (size,))

    of_rows = jax.vmap(draw, in_axes=(None, None, 0))
    return jax.vmap(of_rows, in_axes=(None, 0, None))(key, start + jnp.arange(steps), jnp.arange(rows))


@compiled(static_argnames=("block", "mesh"))
def _go_on(
    params: ModelParams,
    scores: Array,
    state: Any,
    noise: Array | None,
    count: Array,
    feedback: Feedback,
    config: LSTMConfig,
    *,
    block: int,
    mesh: Mesh | None,
) -> tuple[Array, Array, Any]:
    """Forecast the first `count` values of a block, `[block, rows, C]`."""

    def run(
        params: ModelParams, scores: Array, state: Any, noise: Any, count: Array, feedback: Feedback
    ) -> tuple[Array, Array, Any]:
        step = stepper(params, config)

        def body(t: Array, carry: tuple) -> tuple:
            values, scores, state = carry
            location = scores.astype(values.dtype)
            if config.objective.noise is not None:
                location, scale = location_and_scale(location)
            value = location if noise is None else (location + scale * noise[t]).astype(values.dtype)
            h, state = step(feedback.scale[None] * value + feedback.shift[None], state)
            return values.at[t].set(value), read_out(params.readout, h), state

        dtype = jnp.promote_types(scores.dtype, jnp.float32)
        values = jnp.zeros((block, len(scores), config.output_size), dtype) + 0 * scores[None, :, :1]
        return lax.fori_loop(0, count, body, (values, scores, state))

    rows, columns = P(AXIS), P(None, AXIS)
    in_specs = (P(), rows, rows, columns, P(), P())
    return split_batch(run, mesh, in_specs, (columns, rows, rows))(params, scores, state, noise, count, feedback)
