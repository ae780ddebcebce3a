"""The configuration, the parameters, and the forward pass against the NumPy reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import reference
from jlstm.cell import init_lstm
from jlstm.model import LSTMConfig, ModelParams, forward, init_params, step

CONFIG = LSTMConfig(3, 5, 4)
LENGTHS = np.array([6, 1, 0, 4])


def problem(dtype, layers=1, **changes):
    config = LSTMConfig(3, 5, 4, **changes)
    params = init_params(jax.random.key(0), config, dtype)
    more = tuple(init_lstm(jax.random.key(k), 5, 5, dtype=dtype) for k in range(1, layers))
    xs = jax.random.normal(jax.random.key(9), (4, 6, 3), dtype)
    return ModelParams(params.layers + more, params.readout), xs, config


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size: expected at least 1, got 0"),
        ({"hidden_size": -3}, ValueError, "hidden_size: expected at least 1, got -3"),
        ({"output_size": 2.5}, TypeError, "output_size: expected an integer, got 2.5"),
        ({"hidden_size": True}, TypeError, "hidden_size: expected an integer, got True"),
        ({"hidden_size": "8"}, TypeError, "hidden_size: expected an integer, got '8'"),
        ({"hidden_size": 2**40}, ValueError, "hidden_size: expected at most"),
        ({"loss": "hinge"}, ValueError, "loss: expected one of .*'hinge'"),
        ({"target": "all"}, ValueError, "target: expected one of .*'all'"),
        ({"input_scale": 0}, ValueError, "input_scale: expected a positive number"),
        ({"input_scale": -1.0}, ValueError, "input_scale: expected a finite number from 0 up, got -1.0"),
        ({"input_scale": float("nan")}, ValueError, "input_scale: .* got nan"),
        ({"input_scale": "wide"}, TypeError, "input_scale: expected a number, got 'wide'"),
        ({"segment": 0}, ValueError, "segment: expected at least 1, got 0"),
    ],
    ids=lambda value: "-".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_configurations_that_make_no_sense_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        LSTMConfig(**({"input_size": 3, "hidden_size": 5, "output_size": 4} | changes))


def test_configuration_is_an_ordinary_static_argument():
    traced = []

    @jax.jit
    def outputs(config, x):
        traced.append(config)
        return x * config.output_size

    assert outputs(CONFIG, 2.0) == 8.0
    assert outputs(LSTMConfig(np.int64(3), 5, 4), 3.0) == 12.0
    assert len(traced) == 1, "an equal configuration must not trace again"
    assert outputs(LSTMConfig(3, 5, 7), 2.0) == 14.0
    assert hash(CONFIG) == hash(LSTMConfig(3, 5, 4))


def test_same_key_gives_the_same_bits():
    one, same, other = (init_params(jax.random.key(k), CONFIG) for k in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True))
    assert (one.readout.weight != other.readout.weight).any()


def test_bfloat16_is_drawn_wide_and_rounded():
    low, high = init_params(jax.random.key(0), CONFIG, jnp.bfloat16), init_params(jax.random.key(0), CONFIG)
    for a, b in zip(jax.tree.leaves(low), jax.tree.leaves(high), strict=True):
        assert a.dtype == jnp.bfloat16
        assert (a == b.astype(jnp.bfloat16)).all()


def test_input_scale_widens_the_candidate_alone():
    wide = init_lstm(jax.random.key(0), 1, 400, input_scale=20.0)
    spread = np.std(np.reshape(wide.weight_ih, (4, 400)), axis=1)
    np.testing.assert_allclose(spread, [1, 1, 20, 1], rtol=0.2)  # six standard errors of 400 draws
    np.testing.assert_allclose(np.std(np.reshape(wide.bias, (4, 400)), axis=1), [0, 0, 19, 0], rtol=0.2)
    np.testing.assert_array_equal(np.reshape(wide.bias, (4, 400))[1], 1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_forward_is_the_reference(layers, lengths):
    params, xs, config = problem(jnp.float64, layers)
    state = jax.tree.map(lambda a: 0.3 * jnp.ones((4, *a.shape[1:])), forward(params, xs, config)[1])
    scores, last = jax.jit(forward)(params, xs, config, state, lengths)
    expected, expected_last = reference.forward(params, xs, state=state, lengths=lengths)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-14)
    for got, want in zip(jax.tree.leaves(last), jax.tree.leaves(expected_last), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)


@pytest.mark.parametrize("lengths", [None, np.array([6, 1, 2, 4])], ids=["full", "lengths"])
def test_last_reads_the_last_real_step(lengths):
    params, xs, config = problem(jnp.float32)
    each, _ = forward(params, xs, config, lengths=lengths)
    last, _ = forward(params, xs, LSTMConfig(3, 5, 4, target="last"), lengths=lengths)
    steps = np.full(4, 6) if lengths is None else lengths
    np.testing.assert_allclose(last, each[np.arange(4), steps - 1], rtol=0, atol=5e-7)


def test_pieces_give_what_the_whole_gives():
    params, xs, config = problem(jnp.float32, layers=2)
    whole, end = forward(params, xs, config)
    first, state = forward(params, xs[:, :2], config)
    second, state = forward(params, xs[:, 2:], config, state)
    # A few roundings of float32, whose spacing at 1 is 1.2e-7.
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, rtol=0, atol=5e-7)
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-7)


def test_one_step_is_a_sequence_of_one():
    params, xs, config = problem(jnp.float32, layers=2)
    _, state = forward(params, xs, config)
    scores, stepped = step(params, xs[:, 0], config, state)
    expected, expected_state = forward(params, xs[:, :1], config, state)
    np.testing.assert_allclose(scores, expected[:, 0], rtol=0, atol=5e-7)
    np.testing.assert_allclose(stepped[1].c, expected_state[1].c, rtol=0, atol=5e-7)


def test_class_ids_stand_for_one_hot_vectors():
    params, _, config = problem(jnp.float32)
    ids = jnp.array([[0, 2, 1], [1, 1, 0]])
    np.testing.assert_allclose(
        forward(params, ids, config)[0], forward(params, jax.nn.one_hot(ids, 3), config)[0], rtol=0, atol=5e-7
    )
