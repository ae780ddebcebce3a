"""Forecasts against the loop over `predict` that they stand for, and samples against what they are drawn from."""

import math
from typing import NamedTuple

import jax
import numpy as np
import pytest

from jlstm import LSTMConfig, LSTMNetwork, forecasting
from jlstm.cells import Cell, times
from jlstm.forecasting import Feedback, forecast
from jlstm.model import draw_params
from jlstm.scaling import Scaling, Scalings

LOSSES = ["mse", "gaussian", "laplace"]
RNG = np.random.default_rng(0)
BATCH = RNG.normal(size=(3, 6, 2))
LISTED = [row[:steps] for row, steps in zip(BATCH, (6, 1, 4), strict=True)]
SCALINGS = Scalings(*(Scaling(RNG.normal(size=2) * 9, RNG.uniform(0.2, 5, size=2)) for _ in range(2)))


def new(loss="gaussian", target="each", scalings=None, features=2, **options):
    """A network whose outputs differ widely from step to step."""
    network = LSTMNetwork(
        features,
        4,
        features,
        loss=loss,
        target=target,
        progress=False,
        standardize=scalings is not None,
        **options,
    )
    network.params = jax.tree.map(lambda leaf: 2 * leaf + 0.1, network.params)
    network._trained = network._trained._replace(scalings=scalings)
    return network


def by_predict(network, x, steps):
    """What comes after one sequence, each value appended to it and read with all before."""
    given = len(x)
    for _ in range(steps):
        told = network.predict(x)
        x = np.concatenate([x, (told[-1] if network.config.target == "each" else told)[None, :, 0]])
    return x[given:, :, None]


# Each value fed back


@pytest.mark.parametrize("target", ["each", "last"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_forecast_is_the_loop_over_predict(loss, target):
    """Of sequences of different lengths and several features, on one scale and on two."""
    for scalings in (None, SCALINGS):
        network = new(loss, target, scalings)
        got = network.forecast(LISTED, 8)
        expected = [by_predict(network, x, 8) for x in LISTED]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
        assert got.dtype == (np.float32 if scalings is None else np.float64)
        assert np.abs(np.diff(got, axis=1)).max() > 0.1, "values that stand still would show nothing"


def test_the_rank_decides_what_a_forecast_gives():
    network = new()
    listed = network.forecast(LISTED, 3)
    assert listed.shape == (3, 3, 2, 1)
    np.testing.assert_allclose(network.forecast(BATCH, 3)[0], listed[0], atol=1e-6)
    np.testing.assert_allclose(network.forecast(BATCH[0].tolist(), 3), listed[0], atol=1e-6)
    assert network.forecast(BATCH[:1], 3).shape == (1, 3, 2, 1)
    assert network.forecast(BATCH[0], 3, samples=5).shape == (5, 3, 2, 1)
    assert network.forecast(LISTED, 3, samples=5).shape == (5, 3, 3, 2, 1)
    assert new(features=1).forecast([0.1, 0.2], 3).shape == (3, 1, 1)


@pytest.mark.parametrize("samples", [None, 2])
def test_a_longer_forecast_goes_on_from_a_shorter_one_in_blocks_of_any_size(monkeypatch, samples):
    network = new()
    whole = network.forecast(LISTED, 40, samples=samples)
    np.testing.assert_array_equal(network.forecast(LISTED, 7, samples=samples), whole[..., :7, :, :])
    monkeypatch.setattr(forecasting, "BLOCK", 16)
    np.testing.assert_array_equal(network.forecast(LISTED, 40, samples=samples), whole)
    assert len(np.unique(whole[..., -1, :, :])) == whole[..., -1, :, :].size


@pytest.mark.filterwarnings("error")
def test_a_network_of_16_bits_forecasts_what_it_tells():
    config = new().config
    params = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), new().params)
    exact = jax.tree.map(lambda leaf: leaf.astype("float32"), params)
    got, expected = (forecast(p, BATCH, 5, config, samples=2, key=jax.random.key(0)) for p in (params, exact))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=0.1)  # bfloat16 has eight bits


# Samples


def constant(loss, mean, scale):
    """A network that tells the same distribution at every step, whatever it reads."""
    network = new(loss)
    zeros = jax.tree.map(np.zeros_like, network.params)
    raw = np.log(np.expm1(np.array(scale) - 1e-3))  # softplus backwards
    network.params = zeros._replace(readout=zeros.readout._replace(bias=np.array([*mean, *raw])))
    return network


@pytest.mark.parametrize(("loss", "within_one"), [("gaussian", math.erf(0.5**0.5)), ("laplace", 1 - math.exp(-1))])
def test_samples_have_the_distribution_that_the_network_tells(loss, within_one):
    """Mean, spread and shape: the share within one scale is 0.683 of a Gaussian, 0.632 of Laplace's distribution."""
    mean, scale = np.array([3.0, -1.0]), np.array([0.5, 2.0])
    network = constant(loss, mean, scale)
    paths = network.forecast(BATCH[0], 4, samples=5000)[..., 0]
    told, deviation = (outputs[-1, :, 0] for outputs in network.predict(BATCH[0], return_std=True))
    np.testing.assert_allclose(told, mean, rtol=1e-5)
    np.testing.assert_allclose(deviation, scale * {"gaussian": 1, "laplace": 2**0.5}[loss], rtol=1e-5)
    z = (paths - mean) / deviation
    # Five standard errors of 5,000 draws a step; the fourth moment of Laplace's distribution is 6.
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=5 / 5000**0.5)
    np.testing.assert_allclose((z**2).mean(axis=0), 1, atol=5 * (5 / 5000) ** 0.5)
    np.testing.assert_allclose((np.abs(paths - mean) < scale).mean(axis=0), within_one, atol=5 * 0.5 / 5000**0.5)
    between = np.corrcoef(z.reshape(5000, -1).T) - np.eye(8)  # of steps and features, which are drawn on their own
    np.testing.assert_allclose(between, 0, atol=5 / 5000**0.5)


class Read(NamedTuple):
    h: jax.Array


REPEATS = Cell(
    lambda params, h, x: times(params["w"], x),
    lambda params, z, state: (Read(z), z),
    lambda params: Read(params["w"][:, 0] * 0),
    name="repeats",
    draw=lambda normal, sizes, scale, fan_in: {"w": normal(sizes.hidden, sizes.inputs)},
)


def test_the_variance_of_a_random_walk_grows_with_its_steps():
    """A network that tells the value that it has just read, give or take 0.5 deviations of its data, which are 2."""
    network = LSTMNetwork(1, 1, 1, loss="gaussian", cell=REPEATS, standardize=True, progress=False)
    params = jax.tree.map(np.ones_like, network.params)
    bias = np.array([0, np.log(np.expm1(0.499))])
    network.params = params._replace(readout=params.readout._replace(weight=np.array([[1.0, 0.0]]), bias=bias))
    scaling = Scaling(np.array([10.0]), np.array([2.0]))
    network._trained = network._trained._replace(scalings=Scalings(scaling, scaling))
    np.testing.assert_allclose(network.forecast([8.0, 12.5], 3).ravel(), 12.5, rtol=1e-6)
    paths = network.forecast([8.0, 12.5], 32, samples=4000)[:, :, 0, 0]
    steps = np.arange(1, 33)
    np.testing.assert_allclose(paths.mean(axis=0), 12.5, atol=5 * (32 / 4000) ** 0.5)
    np.testing.assert_allclose(paths.var(axis=0) / steps, 1, atol=5 * (2 / 4000) ** 0.5)


def test_a_seed_decides_the_samples_and_no_path_depends_on_another():
    network = new()
    paths = network.forecast(LISTED, 6, samples=3, seed=7)
    np.testing.assert_array_equal(network.forecast(LISTED, 6, samples=3, seed=7), paths)
    np.testing.assert_allclose(network.forecast(LISTED, 6, samples=5, seed=7)[:3], paths, rtol=1e-4, atol=1e-5)
    assert (network.forecast(LISTED, 6, samples=3, seed=8) != paths).all()
    alike = network.forecast(np.stack([BATCH[0]] * 3), 6, samples=3)
    assert len(np.unique(alike)) == alike.size, "the same sequence three times has nine paths"


def test_no_seed_is_another_one_each_time():
    network = new()
    one, other = (network.forecast(BATCH, 2, samples=2, seed=None) for _ in range(2))
    assert (one != other).all()


# What is refused


REFUSED = {
    "no steps": ({}, (BATCH, 0), {}, ValueError, "steps: expected at least 1, got 0"),
    "half a step": ({}, (BATCH, 1.5), {}, TypeError, "steps: expected an integer, got 1.5"),
    "no samples": ({}, (BATCH, 1), {"samples": 0}, ValueError, "samples: expected at least 1, got 0"),
    "samples of values": (
        {"loss": "mse"},
        (BATCH, 1),
        {"samples": 3},
        ValueError,
        "samples: expected None with loss='mse', which tells values and no distribution to draw from; 'gaussian' and",
    ),
    "a seed below 0": ({}, (BATCH, 1), {"samples": 3, "seed": -1}, ValueError, "seed: "),
    "NaN": ({}, (BATCH * np.nan, 1), {}, ValueError, "x: expected finite numbers in float32, got nan"),
    "NaN in a list": ({}, ([BATCH[0], BATCH[1] * np.nan], 1), {}, ValueError, r"x\[1\]: expected finite numbers"),
    "other features": ({}, (BATCH[..., :1], 1), {}, ValueError, r"x: .*got shape \(3, 6, 1\)"),
    "an empty sequence": ({}, (BATCH[0, :0], 1), {}, ValueError, "x: expected at least one time step"),
    "mean": (
        {"target": "mean"},
        (BATCH, 1),
        {},
        ValueError,
        "forecast: a forecast needs a network with target='each' or 'last', got 'mean'",
    ),
    "both directions": (
        {"target": "last", "bidirectional": True},
        (BATCH, 1),
        {},
        ValueError,
        "forecast: expected a network that reads forwards only, got bidirectional=True",
    ),
    "classes": (
        {"loss": "cross_entropy"},
        (BATCH, 1),
        {},
        ValueError,
        "forecast: a forecast needs a network that reads values and tells values, got loss='cross_entropy', inp",
    ),
    "questions": ({"loss": "binary_cross_entropy"}, (BATCH, 1), {}, ValueError, "forecast: a forecast needs a network"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_forecast_is_refused(case):
    network, arguments, options, error, message = REFUSED[case]
    with pytest.raises(error, match=f"^{message}"):
        LSTMNetwork(2, 4, 2, **{"loss": "gaussian", "progress": False} | network).forecast(*arguments, **options)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (LSTMNetwork(2, 4, 1, loss="mse"), "whose outputs are its next inputs, got input_size=2 and output_size=1"),
        (LSTMNetwork(3, 4, 3, inputs="tokens"), "that reads values and tells values, got .* inputs='tokens'"),
        (LSTMNetwork(2, 4, 2, loss="mse", inputs="tokens"), "that reads values and tells values, got .*'tokens'"),
    ],
    ids=["two read, one told", "tokens", "values of tokens"],
)
def test_a_network_that_does_not_read_what_it_tells_forecasts_nothing(network, message):
    with pytest.raises(ValueError, match=f"^forecast: a forecast needs a network {message}"):
        network.forecast([0.5], 3)


CONFIG = LSTMConfig(2, 4, 2, loss="gaussian")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"xs": BATCH[0]}, ValueError, "xs: expected"),
        ({"xs": BATCH * np.nan}, ValueError, "xs: expected finite numbers"),
        ({"xs": BATCH[:0]}, ValueError, "xs: expected at least one sequence"),
        ({"xs": BATCH[:, :0]}, ValueError, "xs: expected at least one sequence and one time step, got shape"),
        ({"lengths": [6, 0, 6]}, ValueError, "lengths: expected from 1 to time = 6 steps, got 0"),
        ({"lengths": [6, 7, 6]}, ValueError, "lengths: expected from 1 to time = 6 steps, got 7"),
        ({"lengths": [6, 6]}, ValueError, "lengths: expected"),
        ({"samples": 2}, TypeError, "key: expected"),
        ({"params": None}, TypeError, "params: expected"),
        ({"config": LSTMConfig(2, 4, 3, loss="mse")}, ValueError, "config: a forecast needs"),
        ({"feedback": (np.ones(2), np.zeros(2))}, TypeError, "feedback: expected Feedback, got a tuple of 2"),
        ({"feedback": Feedback(np.ones(3), np.zeros(2))}, ValueError, r"feedback\.scale: expected shape \(2,\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_of_the_function_that_do_not_fit_are_refused(options, error, message):
    given = {"params": draw_params(0, CONFIG), "xs": BATCH, "steps": 2, "config": CONFIG} | options
    with pytest.raises(error, match=f"^{message}"):
        forecast(**given)


def test_paths_of_a_sequence_do_not_depend_on_those_behind_it():
    network = new()
    xs = np.random.default_rng(0).normal(size=(3, 5, network.config.input_size))
    together = network.forecast(xs, 4, samples=3)
    for count in (1, 2):
        fewer = network.forecast(xs[:count], 4, samples=2)
        np.testing.assert_allclose(fewer, together[:2, :count], rtol=1e-5, atol=1e-5)
