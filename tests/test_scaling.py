"""Standardisation: where numbers lie; that a network of it is the same network on scaled data, told as they were."""

import jax
import numpy as np
import pytest

from jlstm import History, LSTMNetwork, SeriesWindows
from jlstm.scaling import Scaling, restored, scaling_of, standardized

# Where numbers lie


def test_each_column_has_its_own_mean_and_deviation():
    rows = np.random.default_rng(0).normal([3, -5], [0.1, 40], size=(50, 2))
    mean, deviation = scaling_of(rows)
    np.testing.assert_allclose(mean, rows.mean(axis=0))
    np.testing.assert_allclose(deviation, rows.std(axis=0))
    scaled = standardized(rows, Scaling(mean, deviation))
    np.testing.assert_allclose([scaled.mean(axis=0), scaled.std(axis=0)], [[0, 0], [1, 1]], atol=1e-6)
    np.testing.assert_allclose(restored(scaled, Scaling(mean, deviation)), rows, rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_nan_is_left_out():
    rows = np.array([[1, np.nan, 7], [np.nan, np.nan, 7], [3, np.nan, np.nan]])
    scaling = scaling_of(rows)
    np.testing.assert_array_equal(scaling, [[2, 0, 7], [1, 1, 1]])
    np.testing.assert_array_equal(
        standardized(rows, scaling), [[-1, np.nan, 0], [np.nan, np.nan, 0], [1, np.nan, np.nan]]
    )


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-30, 1e30, 1.7e9 + 0.1])
def test_a_column_that_stands_still_is_told_from_rounding(value):
    scaling = scaling_of(np.full((1001, 1), value))
    assert scaling.deviation == 1
    assert abs(standardized(np.array([[value]]), scaling)) <= 1e-9 * max(1, abs(value))


@pytest.mark.parametrize("rows", [10**5, 10**6])
def test_a_long_column_that_stands_still_beside_another_is_told_from_rounding(rows):
    assert scaling_of(np.stack([np.full(rows, 0.1), np.arange(rows)], axis=1)).deviation[0] == 1


def test_small_steps_far_from_zero_keep_their_precision():
    """Seconds of a day since 1970, of which float32 knows two minutes."""
    seconds = 1.7e9 + np.arange(0, 86400, 60.0)[:, None]
    scaled = standardized(seconds, scaling_of(seconds))
    expected = np.linspace(-(3**0.5), 3**0.5, len(seconds))[:, None]  # as is evenly spread with deviation 1
    np.testing.assert_allclose(scaled, expected, atol=2e-3)
    np.testing.assert_allclose(np.diff(scaled[:, 0]) / np.diff(expected[:, 0]), 1, rtol=2e-3)


# Networks. All have one size and train on the same shapes, so that each loss is compiled once.

H, C, T = 4, 2, 6
LENGTHS = [6, 1, 3, 6, 2, 4]
RNG = np.random.default_rng(0)
WHERE, WIDE = np.array([1000.0, -3.0]), np.array([0.5, 20.0])
X = [RNG.normal(WHERE, WIDE, size=(n, 2)) for n in LENGTHS]
VALUES = [RNG.normal([50, 0.1], [5, 0.01], size=(n, C)) for n in LENGTHS]
VALUES[3][2, 1] = VALUES[0][0] = np.nan
IDS = [np.where(RNG.uniform(size=n) < 0.2, -100, RNG.integers(C, size=n)) for n in LENGTHS]
QUESTIONS = [np.where(np.isnan(y), np.nan, y > y[..., :1]) for y in VALUES]
TARGETS = {"cross_entropy": IDS, "binary_cross_entropy": QUESTIONS} | dict.fromkeys(
    ("mse", "gaussian", "laplace"), VALUES
)
TELLS_VALUES = ["mse", "gaussian", "laplace"]


def new(loss, **options):
    return LSTMNetwork(2, H, C, loss=loss, **{"progress": False, "batch_size": 3, "standardize": True} | options)


def by_hand(sequences):
    """Sequences on the scale of all their rows together, and that scale."""
    rows = np.concatenate(sequences)
    mean, deviation = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
    return [((rows - mean) / deviation).astype(np.float32) for rows in sequences], mean, deviation


@pytest.fixture(scope="module")
def trained():
    """A network of each loss, trained on data as they are, and what it learned."""
    networks = {loss: new(loss) for loss in TARGETS}
    return {loss: (net, net.train(X, TARGETS[loss], epochs=2, learning_rate=0.05)) for loss, net in networks.items()}


@pytest.mark.parametrize("loss", TARGETS)
def test_it_is_a_network_that_was_trained_on_scaled_data(trained, loss):
    net, history = trained[loss]
    scaled, _, _ = by_hand(X)
    targets, mean, deviation = by_hand(VALUES) if loss in TELLS_VALUES else (TARGETS[loss], 0, 1)
    plain = new(loss, standardize=False)
    np.testing.assert_allclose(history.loss, plain.train(scaled, targets, epochs=2, learning_rate=0.05).loss, rtol=1e-4)
    for told, before in zip(net.predict(X), plain.predict(scaled), strict=True):
        np.testing.assert_allclose((told[..., 0] - mean) / deviation, before[..., 0], atol=1e-3)
    if loss in ("gaussian", "laplace"):
        (_, told), (_, before) = net.predict(X[0], return_std=True), plain.predict(scaled[0], return_std=True)
        np.testing.assert_allclose(told[..., 0] / deviation, before[..., 0], rtol=1e-3)


@pytest.mark.parametrize("loss", TARGETS)
@pytest.mark.parametrize("standardize", [True, False])
def test_loss_function_of_predict_is_the_loss_that_evaluate_finds(trained, loss, standardize):
    """With unknown targets; without scaling, on parameters as they are drawn."""
    net = trained[loss][0] if standardize else new(loss, standardize=False)
    sequences = X if standardize else by_hand(X)[0]
    predictions = net.predict(sequences, return_std=loss in ("gaussian", "laplace"))
    found = net.evaluate(sequences, TARGETS[loss])
    assert net.loss_function(predictions, TARGETS[loss]) == pytest.approx(found.loss, rel=1e-4)
    assert (found.accuracy is None) == (loss in TELLS_VALUES)


def test_probabilities_of_scaled_data_are_probabilities():
    net = new("cross_entropy", apply_softmax=True)
    net.train(X, IDS, epochs=1)
    for shares in net.predict(X):
        np.testing.assert_allclose(shares.sum(axis=-2), 1, atol=1e-6)
    assert net.loss_function(net.predict(X), IDS) == pytest.approx(net.evaluate(X, IDS).loss, rel=1e-5)


def test_one_target_a_sequence_is_scaled_by_all_of_them():
    ends = np.array([y[-1] for y in VALUES])
    net = new("mse", target="last")
    net.train(X, ends, epochs=1)
    np.testing.assert_allclose(net._trained.scalings.targets, [ends.mean(axis=0), ends.std(axis=0)])
    assert net.loss_function(net.predict(X), ends) == pytest.approx(net.evaluate(X, ends).loss, rel=1e-4)


def test_the_first_training_decides(trained):
    net = new("mse")
    net.train(X, VALUES, epochs=1)
    scalings, before = net._trained.scalings, net.predict(X[0])
    net.train([x + 7 for x in X], [y * 2 for y in VALUES], epochs=1)
    assert net._trained.scalings is scalings
    net.params = net.params
    assert net._trained.scalings is scalings
    assert not np.array_equal(net.predict(X[0]), before)


def test_before_the_training_nothing_is_scaled():
    scaled = by_hand(X)[0]
    np.testing.assert_array_equal(new("mse").predict(scaled[0]), new("mse", standardize=False).predict(scaled[0]))
    net = new("mse")
    assert net.train(X, VALUES, epochs=0) == History()
    assert net._trained.scalings is None


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rate": -1.0}, {"validation": (X, VALUES[:2])}, {"periodic_callback": 3}, {"patience": 1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_refused_training_decides_nothing(wrong):
    net = new("mse")
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(wrong))}"):
        net.train(X, VALUES, epochs=1, **wrong)
    assert net._trained.scalings is None
    assert net.history == History()


def test_an_interrupted_training_keeps_its_scale():
    net, scales = new("mse"), []

    def callback():
        scales.append(net._trained.scalings)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        net.train(X, VALUES, epochs=5, callback_every=1, periodic_callback=callback)
    assert net._trained.scalings is scales[0] is not None
    assert len(net.history.loss) == 1


def test_validation_is_on_the_scale_of_the_training():
    net = new("mse")
    far = [x + 100 for x in X], [y + 10 for y in VALUES]
    history = net.train(X, VALUES, epochs=1, validation=far, keep_best=True)
    assert history.validation == (pytest.approx(net.evaluate(*far).loss, rel=1e-5),)
    assert history.validation[0] > 3  # two deviations of the first value off, squared, in one value of two


def test_windows_of_tables_are_scaled_by_their_rows():
    table = RNG.normal(WHERE, WIDE, size=(40, 2))
    table[7, 1] = np.nan
    windows = SeriesWindows(table, T, fill="last")
    net = new("mse")
    history = net.train(windows, epochs=1, validation=windows)
    inputs, targets = net._trained.scalings
    filled = np.where(np.isnan(table), np.roll(table, 1, axis=0), table)
    np.testing.assert_allclose(inputs, [filled.mean(axis=0), filled.std(axis=0)])
    np.testing.assert_allclose(targets, [np.nanmean(table, axis=0), np.nanstd(table, axis=0)])
    assert history.validation[0] == pytest.approx(net.evaluate(*windows.arrays()).loss, rel=1e-5)
    assert net.forecast(table[-5:], 2).shape == (2, 2, 1)


def test_times_since_1970_are_told_from_another():
    """Of two features, of which the larger would be rounded away in float32."""
    net = new("mse")
    times = [np.stack([1.7e9 + np.arange(n), np.zeros(n)], axis=-1) for n in LENGTHS]
    net.train(times, VALUES, epochs=1)
    one, other = net.predict(times[0][:1])[0], net.predict(times[0][1:2])[0]
    assert np.abs(one - other).max() > 1e-4


def test_a_file_keeps_the_scale(trained, tmp_path):
    for loss, (net, _) in trained.items():
        net.save(tmp_path / "network")
        loaded = LSTMNetwork.load(tmp_path / "network", progress=False)
        assert loaded.standardize is True
        for got, expected in zip(
            jax.tree.leaves(loaded._trained.scalings), jax.tree.leaves(net._trained.scalings), strict=True
        ):
            np.testing.assert_array_equal(got, expected)
        for got, expected in zip(loaded.predict(X), net.predict(X), strict=True):
            np.testing.assert_array_equal(got, expected)
        assert loaded.evaluate(X, TARGETS[loss]) == net.evaluate(X, TARGETS[loss])
    np.testing.assert_array_equal(loaded.forecast(X, 3, samples=2), net.forecast(X, 3, samples=2))
    new("mse").save(tmp_path / "network")
    loaded = LSTMNetwork.load(tmp_path / "network")
    assert (loaded.standardize, loaded._trained.scalings) == (True, None)


def test_what_has_no_scale_is_refused():
    with pytest.raises(ValueError, match=r"^standardize: expected False with inputs='tokens', which are no numbers"):
        LSTMNetwork(3, H, 3, inputs="tokens", standardize=True)
    with pytest.raises(TypeError, match=r"^standardize: expected True or False, got 'yes'"):
        LSTMNetwork(3, H, 3, standardize="yes")


def test_targets_that_do_not_count_do_not_decide_the_scale():
    rng = np.random.default_rng(0)
    xs, ys, weights = rng.normal(size=(6, T, C)), rng.normal(5, 2, size=(6, T, C)), np.ones((6, T))
    ys[:, :2], weights[:, :2] = -1e6, 0
    network = LSTMNetwork(C, H, C, loss="mse", standardize=True, progress=False)
    network.train(xs, ys, epochs=1, weights=weights)
    expected = scaling_of(ys[:, 2:].reshape(-1, C))
    np.testing.assert_allclose(network._trained.scalings.targets, expected)
    tables = SeriesWindows(xs[0], 2, ys[0], ahead=0, weights=weights[0])
    windowed = LSTMNetwork(C, H, C, loss="mse", standardize=True, progress=False)
    windowed.train(tables, epochs=1)
    np.testing.assert_allclose(windowed._trained.scalings.targets, scaling_of(ys[0, 2:]))


@pytest.mark.filterwarnings("ignore:overflow")
def test_what_is_too_far_from_the_training_data_is_refused():
    network = LSTMNetwork(C, H, C, loss="mse", standardize=True, progress=False)
    network.train(np.random.default_rng(0).normal(size=(6, T, C)), np.zeros((6, T, C)), epochs=1)
    with pytest.raises(ValueError, match=r"^x: expected finite numbers in float32, got 1.*e\+60"):
        network.predict(np.full((3, C), 1e60))
