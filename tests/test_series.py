"""Windows of tables: what each holds, what is refused, and that they train as the arrays built of them do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_data import parametrize, refuses

from jlstm import training
from jlstm.config import LSTMConfig
from jlstm.data import Batch, take
from jlstm.gradcheck import random_problem
from jlstm.inputs import as_series
from jlstm.optimizers import IDLE, Schedule
from jlstm.series import LEAST_ROWS, SeriesWindows
from jlstm.training import evaluate, fit, trainer

RNG = np.random.default_rng(0)
ROWS = [13, 4, 9, 6]  # with a length of 4 and 1 ahead, the second is too short for any
TABLES = [RNG.normal(size=(rows, 2)) for rows in ROWS]
TARGETS = [RNG.normal(size=rows) for rows in ROWS]
IDS = [RNG.integers(3, size=rows) for rows in ROWS]
WEIGHTS = [RNG.uniform(size=rows) for rows in ROWS]
CONFIGS = {
    "values": LSTMConfig(2, 4, 2, loss="mse"),
    "last value": LSTMConfig(2, 4, 1, loss="mse", target="last"),
    "classes": LSTMConfig(2, 4, 3),
}


def built(tables, targets, length, ahead, stride, each=True):
    """The windows and their targets, one by one."""
    found = []
    for table, target in zip(tables, targets, strict=True):
        for start in range(0, len(table), stride):
            end = start + length + ahead
            if end <= len(table):
                found.append((table[start : start + length], target[start + ahead : end] if each else target[end - 1]))
    return tuple(map(np.stack, zip(*found, strict=True)))


class Frame:
    """What a table of pandas is to NumPy."""

    ndim = 2

    def __init__(self, values):
        self.values = values
        self.shape = values.shape

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)

    def __len__(self):
        return len(self.values)


@pytest.mark.parametrize("ahead", [0, 1, 2, 24])
@pytest.mark.parametrize("stride", [1, 3, 40])
@pytest.mark.parametrize("length", [1, 4])
def test_windows_are_those_built_one_by_one(length, stride, ahead):
    tables = [*TABLES, RNG.normal(size=(30, 2))]
    targets = [np.arange(len(table)) + 100 * k for k, table in enumerate(tables)]
    windows = SeriesWindows(tables, length, targets, ahead, stride)
    for target in ("each", "last"):
        xs, ys = built(tables, targets, length, ahead, stride, target == "each")
        got = windows.arrays(target)
        np.testing.assert_array_equal(got[0], xs)
        np.testing.assert_array_equal(got[1], ys)
    assert len(windows) == windows.sequences == len(xs)
    assert (windows.steps, windows.streams, windows.lengths) == (length, 0, None)


def test_no_window_reaches_from_one_table_into_the_next():
    tables = [np.full(rows, k, float) for k, rows in enumerate(ROWS)]
    xs, ys = SeriesWindows(tables, 3, ahead=2).arrays()
    np.testing.assert_array_equal(xs, np.broadcast_to(xs[:, :1], xs.shape))
    np.testing.assert_array_equal(ys, xs)
    assert np.bincount(xs[:, 0, 0].astype(int)).tolist() == [max(0, rows - 4) for rows in ROWS]


@parametrize(
    "table",
    {
        "[time]": TABLES[0][:, 0],
        "list of numbers": TABLES[0][:, 0].tolist(),
        "[time, features]": TABLES[0],
        "nested lists": TABLES[0].tolist(),
        "jax": jnp.asarray(TABLES[0], jnp.float32),
        "integers": IDS[0],
        "like a DataFrame": Frame(TABLES[0]),
        "objects": TABLES[0].astype(object),
        "list of one": TABLES[:1],
        "list of one, like a DataFrame": [Frame(TABLES[0])],
        "[1, time, features]": TABLES[0][None],
    },
)
def test_every_form_of_a_table(table):
    windows = SeriesWindows(table, 4)
    expected = np.asarray(table.values if isinstance(table, Frame) else TABLES[0], float)
    if np.ndim(table) == 1:
        expected = np.asarray(table, float)[:, None]
    assert windows.tables.dtype == float
    np.testing.assert_allclose(windows.tables, expected, rtol=1e-6)
    xs, ys = windows.arrays()
    assert xs.shape == ys.shape == (9, 4, expected.shape[1])
    np.testing.assert_array_equal(ys[:, :-1], xs[:, 1:])  # by default, a table tells its own next row


def test_tables_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(TABLES[0], columns=["load", "heat"])
    windows = SeriesWindows(frame, 4, frame["heat"], weights=frame["load"].abs())
    np.testing.assert_array_equal(windows.tables, TABLES[0])
    np.testing.assert_array_equal(windows.targets, TABLES[0][:, 1])
    np.testing.assert_array_equal(windows.weights, np.abs(TABLES[0][:, 0]))
    several = SeriesWindows([frame, frame[2:9]], 4)
    assert len(several) == 9 + 3


def test_tables_of_one_length_are_one_array():
    tables, targets = np.stack([TABLES[0]] * 3), np.stack([IDS[0]] * 3)
    for given in (targets, list(targets), targets.tolist()):
        windows = SeriesWindows(tables, 4, given)
        np.testing.assert_array_equal(windows.arrays()[1], np.tile(built(TABLES[:1], IDS[:1], 4, 1, 1)[1], (3, 1)))


# Gaps

GAPS = np.array([[np.nan, 1], [np.nan, np.nan], [3, np.nan], [np.nan, 4], [5, 5], [np.nan, 6]])
FILLED = np.array([[3, 1], [3, 1], [3, 1], [3, 4], [5, 5], [5, 6]])


def test_a_gap_is_filled_with_the_last_known_value_of_its_own_table():
    windows = SeriesWindows([GAPS, GAPS + 10, FILLED], 2, fill="last")
    np.testing.assert_array_equal(windows.tables, np.concatenate([FILLED, FILLED + 10, FILLED]))
    np.testing.assert_array_equal(windows.targets, np.concatenate([GAPS, GAPS + 10, FILLED]))  # unknown, not made up
    xs, ys = windows.arrays("last")
    np.testing.assert_array_equal(xs[:4], [FILLED[k : k + 2] for k in range(4)])
    np.testing.assert_array_equal(ys[:4], GAPS[2:])
    assert np.isnan(GAPS[0, 0])  # what was handed in is as it was


def test_gaps_of_targets_alone_need_no_filling():
    windows = SeriesWindows(FILLED, 2, GAPS)
    np.testing.assert_array_equal(windows.targets, GAPS)
    series = as_series(windows, LSTMConfig(2, 4, 2, loss="mse"))
    np.testing.assert_array_equal(series.targets, GAPS.astype(np.float32))


@parametrize(
    ("arguments", "options", "error", "name", "expected", "got"),
    {
        "gaps": ((GAPS, 2), {}, ValueError, "tables", "no gaps", "6 NaN, the first in row 0, feature 0; write fill="),
        "gaps in one": (([FILLED, GAPS], 2), {}, ValueError, "tables[1]", "no gaps", "6 NaN"),
        "nothing known": (
            ([FILLED, np.where([[True, False]], FILLED, np.nan)], 2),
            {"fill": "last"},
            ValueError,
            "tables[1]",
            "a known value of each feature",
            "NaN alone in feature 1",
        ),
        "infinity": ((FILLED - [0, np.inf], 2), {}, ValueError, "tables", "finite numbers", "-inf in row 0, feature 1"),
        "fill": ((FILLED, 2), {"fill": "mean"}, ValueError, "fill", "None or 'last'", "'mean'"),
        "no table": (([], 2), {}, ValueError, "tables", "at least one", "none"),
        "no rows": ((FILLED[:0], 2), {}, ValueError, "tables", "at least length + ahead = 3 rows in one", "0"),
        "no features": ((FILLED[:, :0], 2), {}, ValueError, "tables", "a table [time, features]", "shape (6, 0)"),
        "four axes": ((FILLED[None, None], 2), {}, ValueError, "tables", "a table", "shape (1, 1, 6, 2)"),
        "a number": ((3, 2), {}, ValueError, "tables", "a table", "shape ()"),
        "None": ((None, 2), {}, TypeError, "tables", "numbers", "None"),
        "strings": ((["to", "be"], 2), {}, TypeError, "tables", "numbers", "strings"),
        "complex": ((FILLED + 1j, 2), {}, TypeError, "tables", "real numbers", "complex"),
        "features": (([FILLED, FILLED[:, :1]], 2), {}, ValueError, "tables[1]", "2 features as in tables[0]", "1"),
        "too short": ((FILLED, 6), {}, ValueError, "tables", "at least length + ahead = 7 rows in one", "6"),
        "all too short": (([FILLED, FILLED[:4]], 3), {"ahead": 4}, ValueError, "tables", "length + ahead = 7", "6"),
        "length 0": ((FILLED, 0), {}, ValueError, "length", "at least 1", "0"),
        "length in float": ((FILLED, 2.0), {}, TypeError, "length", "an integer", "2.0"),
        "negative weights": ((FILLED, 2), {"weights": -np.ones(6)}, ValueError, "weights", "numbers from 0 up", "-1.0"),
        "ahead negative": ((FILLED, 2), {"ahead": -1}, ValueError, "ahead", "at least 0", "-1"),
        "stride 0": ((FILLED, 2), {"stride": 0}, ValueError, "stride", "at least 1", "0"),
        "targets of fewer rows": (
            (FILLED, 2, np.zeros(5)),
            {},
            ValueError,
            "targets",
            "one for each of the 6 rows of tables, [time] or [time, C]",
            "shape (5,)",
        ),
        "targets of one of two": (([FILLED] * 2, 2, np.zeros(6)), {}, ValueError, "targets", "a list of 2", "6"),
        "a target": (([FILLED] * 2, 2, 3), {}, ValueError, "targets", "a list of 2, one for each of the tables", "3"),
        "targets of other rows": (
            ([FILLED, FILLED[:5]], 2, [np.zeros(6), np.zeros(6)]),
            {},
            ValueError,
            "targets[1]",
            "one for each of the 5 rows of tables[1]",
            "shape (6,)",
        ),
        "targets of two shapes": (
            ([FILLED] * 2, 2, [np.zeros(6), np.zeros((6, 2))]),
            {},
            ValueError,
            "targets[1]",
            "the shape of targets[0] but for its rows",
            "(6, 2)",
        ),
        "targets in strings": ((FILLED, 2, list("answer")), {}, TypeError, "targets", "numbers", "strings"),
        "weights of fewer rows": ((FILLED, 2), {"weights": np.ones(5)}, ValueError, "weights", "6 rows", "shape (5,)"),
        "weights of one of two": (([FILLED] * 2, 2), {"weights": [1]}, ValueError, "weights", "a list of 2", "1"),
    },
)
def test_windows_that_can_not_be(arguments, options, error, name, expected, got):
    with refuses(error, name, expected, got):
        SeriesWindows(*arguments, **options)


# What a network reads of them


@parametrize(
    ("config", "targets", "expected"),
    {
        "themselves": (CONFIGS["values"], None, TABLES),
        "values": (LSTMConfig(2, 4, 1, loss="mse"), TARGETS, [y[:, None] for y in TARGETS]),
        "values [time, C]": (CONFIGS["values"], TABLES, TABLES),
        "ids": (CONFIGS["classes"], IDS, IDS),
        "ids with gaps": (
            CONFIGS["classes"],
            [np.where(ids == 1, np.nan, ids) for ids in IDS],
            [np.where(ids == 1, -100, ids) for ids in IDS],
        ),
        "one-hot": (CONFIGS["classes"], [np.eye(3)[ids] for ids in IDS], IDS),
        "booleans": (LSTMConfig(2, 4, 2), [ids > 1 for ids in IDS], [ids > 1 for ids in IDS]),
        "yes or no": (
            LSTMConfig(2, 4, 1, loss="binary_cross_entropy"),
            [ids > 1 for ids in IDS],
            [(ids > 1)[:, None] for ids in IDS],
        ),
        "distributions": (LSTMConfig(2, 4, 1, loss="gaussian"), TARGETS, [y[:, None] for y in TARGETS]),
    },
)
def test_every_form_of_targets(config, targets, expected):
    series = as_series(SeriesWindows(TABLES, 4, targets), config)
    expected = np.concatenate(expected)
    kind = np.int32 if config.objective.answers == "classes" else np.float32
    assert (series.tables.dtype, series.targets.dtype) == (np.float32, kind)
    np.testing.assert_array_equal(series.targets, expected.astype(kind))
    assert series.weights is None


def test_weights_of_rows_and_of_classes():
    windows = SeriesWindows(TABLES, 4, IDS, weights=WEIGHTS)
    of_rows, ids = np.concatenate(WEIGHTS), np.concatenate(IDS)
    np.testing.assert_allclose(as_series(windows, CONFIGS["classes"]).weights, of_rows, rtol=1e-6)
    of_classes = np.array([1.0, 0, 5])
    both = as_series(windows, CONFIGS["classes"], class_weights=of_classes)
    np.testing.assert_allclose(both.weights, of_rows * of_classes[ids], rtol=1e-6)
    rows = np.array([2, 0, 9])
    for config, shape in ((CONFIGS["classes"], (3, 4)), (LSTMConfig(2, 4, 3, target="last"), (3,))):
        batch = jax.jit(take)(both, rows, config)
        _, expected = built(TABLES, WEIGHTS, 4, 1, 1, config.target == "each")
        _, classes = built(TABLES, IDS, 4, 1, 1, config.target == "each")
        assert batch.weights.shape == batch.ys.shape == shape
        np.testing.assert_allclose(batch.weights, (expected * of_classes[classes])[rows], rtol=1e-6)
        np.testing.assert_array_equal(batch.ys, classes[rows])
    each = as_series(SeriesWindows(TABLES, 4, weights=[np.tile(w[:, None], 2) for w in WEIGHTS]), CONFIGS["values"])
    assert each.gather(rows, 4, CONFIGS["values"]).weights.shape == (3, 4, 2)


@parametrize(
    ("windows", "config", "options", "message"),
    {
        "tokens": (
            SeriesWindows(TABLES, 4),
            LSTMConfig(2, 4, 2, inputs="tokens"),
            {},
            "X: expected ids, with inputs='tokens', got SeriesWindows",
        ),
        "features": (
            SeriesWindows(TABLES, 4),
            LSTMConfig(3, 4, 2, loss="mse"),
            {},
            "X: expected tables of 3 features, got 2; a network for them has input_size=2",
        ),
        "outputs": (
            SeriesWindows(TABLES, 4),
            LSTMConfig(2, 4, 3, loss="mse"),
            {},
            r"X.targets: expected targets of shape \[rows, 3, 1\] or \[rows, 3\], got shape \(32, 2\); .*_size=2",
        ),
        "ids": (
            SeriesWindows(TABLES, 4, [ids + 1 for ids in IDS]),
            CONFIGS["classes"],
            {},
            "X.targets: expected class ids from 0 to 2, got 3",
        ),
        "values for classes": (
            SeriesWindows(TABLES, 4),
            LSTMConfig(2, 4, 2),
            {},
            "X.targets: expected one-hot vectors or probabilities",
        ),
        "nothing known": (
            SeriesWindows(TABLES, 4, [np.nan * y for y in TARGETS]),
            LSTMConfig(2, 4, 1, loss="mse"),
            {},
            "X.targets: expected at least one known target of a weight above 0, got none",
        ),
        "no weight": (
            SeriesWindows(TABLES, 4, weights=[0 * y for y in TARGETS]),
            CONFIGS["values"],
            {},
            "X.targets: expected at least one known target of a weight above 0, got none",
        ),
        "nothing known that a window reaches": (
            SeriesWindows(TABLES[0], 4, [0.0, *[np.nan] * (len(TABLES[0]) - 1)]),
            LSTMConfig(2, 4, 1, loss="mse"),
            {},
            "X.targets: expected at least one known target of a weight above 0, got none",
        ),
        "weights of classes": (
            SeriesWindows(TABLES, 4),
            CONFIGS["values"],
            {"class_weights": [1, 2]},
            "class_weights: expected None with loss='mse', which has no classes",
        ),
        "beyond float32": (
            SeriesWindows(1e300 * TABLES[0], 4, IDS[0]),
            CONFIGS["classes"],
            {},
            r"X.tables: expected finite numbers in float32, got .* at index \(0, 0\)",
        ),
    },
)
def test_windows_that_do_not_fit_a_network(windows, config, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        as_series(windows, config, **options)


# As data for training


def series_of(name, **options):
    targets = {"values": None, "last value": TARGETS, "classes": IDS}[name]
    return as_series(SeriesWindows(TABLES, 4, targets, **options), CONFIGS[name])


def as_arrays(series, config):
    batch = series.gather(np.arange(len(series)), series.steps, config)
    return Batch(*(None if array is None else np.asarray(array) for array in batch))


def params_of(config):
    return random_problem(config, 1, 1)["params"]


def trained(data, config, epochs=2):
    start = trainer(config, optax.sgd(IDLE)).init(params_of(config), jax.random.key(1))
    schedule = Schedule(0.1, 0.0, start.step, 0.0, 3.0, 6.0)
    [*_, last] = fit(start, schedule, data, epochs=epochs, batch_size=6, config=config, optimizer=optax.sgd)
    return jax.device_get((last.state.params, last.loss))


@pytest.mark.parametrize("name", CONFIGS)
def test_windows_train_as_the_arrays_of_them_do_to_the_last_bit(monkeypatch, name):
    """Their rows have one order, drawn of the same seed, and their batches here one shape: no steps of nothing."""
    monkeypatch.setattr(training, "ADDED_SECONDS", -1)
    series, config = series_of(name, weights=WEIGHTS), CONFIGS[name]
    arrays = as_arrays(series, config)
    assert arrays.weights.shape == arrays.xs.shape[: 2 if config.target == "each" else 1]
    jax.tree.map(np.testing.assert_array_equal, trained(series, config), trained(arrays, config))
    params = params_of(config)
    found = [evaluate(params, data, batch_size=6, config=config) for data in (series, arrays)]
    assert found[0] == found[1]
    assert (found[0].accuracy is None) == (name != "classes")


def test_what_lies_beyond_the_windows_makes_no_difference():
    """Of the rows that no window reads, and of those that are no target."""
    name, config = "last value", CONFIGS["last value"]
    series = series_of(name, ahead=2, stride=2)
    reached, aimed = (np.zeros(len(series.tables), bool) for _ in range(2))
    reached[series.starts[:, None] + np.arange(4)] = True
    aimed[series.starts + 5] = True
    assert not reached.all()
    assert not aimed.all()
    tables, targets = series.tables.copy(), series.targets.copy()
    tables[~reached], targets[~aimed] = 1e9, np.nan
    other = series.with_arrays(tables, targets, None, series.starts)
    jax.tree.map(np.testing.assert_array_equal, trained(series, config, 1), trained(other, config, 1))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("roomy", [False, True])
def test_windows_with_room_are_the_same(roomy, masked):
    config, rows = CONFIGS["values"], np.array([3, 0, 3, 19])
    for weights in (None, WEIGHTS):
        series = series_of("values", ahead=0, weights=weights)
        held = series.with_room(config, roomy=roomy, masked=masked)
        assert held.tables.shape == (LEAST_ROWS if roomy else 32, 2)
        assert len(held) == held.sequences == series.room(roomy=roomy)[0] >= len(series) == 20
        assert series.room(roomy=roomy)[1] == held.steps == 4
        assert [len(part) for part in (held.targets, held.tables)] == [len(held.tables)] * 2
        jax.tree.map(np.testing.assert_array_equal, take(held, rows, config), take(series, rows, config))
    few = as_series(SeriesWindows(TABLES[:2], 4), config).with_room(config, roomy=True, masked=masked)
    assert few.tables.shape == (LEAST_ROWS, 2)


def test_rows_below_zero_have_length_zero():
    taken = jax.jit(take, static_argnames="masked")(
        series_of("values"), np.array([1, -1]), CONFIGS["values"], masked=True
    )
    assert taken.lengths.tolist() == [4, 0]


def test_windows_are_a_pytree_that_passes_through_jit():
    series = series_of("values", weights=WEIGHTS, ahead=2)
    assert [np.shape(leaf) for leaf in jax.tree.leaves(series)] == [(32, 2), (32, 2), (32,), (13,)]
    through = jax.jit(lambda series: series)(series)
    assert (type(through), through.length, through.ahead, through.stride, through.fill) == (
        SeriesWindows,
        4,
        2,
        1,
        None,
    )
    jax.tree.map(np.testing.assert_array_equal, through, series)
    traced = []
    steps = jax.jit(lambda series: traced.append(1) or jnp.zeros(series.steps))
    for ahead in (2, 2, 1):
        steps(series_of("values", weights=WEIGHTS, ahead=ahead))
    assert len(traced) == 2


def test_nothing_is_built_of_a_long_table():
    """A million rows would be 144 million numbers in windows of a week."""
    table = np.zeros((1_000_000, 1))
    windows = SeriesWindows(table, 144)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(windows))
    assert held <= 3 * table.nbytes  # the table, its targets, and where each starts
    series = as_series(windows, LSTMConfig(1, 4, 1, loss="mse"))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(series)) <= 1.5 * table.nbytes
    assert series.gather(np.array([5]), 144, CONFIGS["values"]).xs.shape == (1, 144, 1)


def test_a_window_cut_short_keeps_its_one_target():
    series, rows = series_of("last value"), np.array([2, 9])
    short, whole = (series.gather(rows, steps, CONFIGS["last value"]) for steps in (2, 4))
    np.testing.assert_array_equal(short.xs, whole.xs[:, :2])
    np.testing.assert_array_equal(short.ys, whole.ys)
    np.testing.assert_array_equal(series_of("values").gather(rows, 2, CONFIGS["values"]).ys, whole.xs[:, 1:3])


def test_an_order_has_every_window_once():
    series = series_of("values")
    orders = [series.order(np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()
    np.testing.assert_array_equal(np.sort(orders[2]), np.arange(16))


def test_mapped_windows_are_those_of_functions_of_their_rows():
    series = series_of("last value", weights=WEIGHTS)
    inputs, targets = series.rows(CONFIGS["last value"])
    np.testing.assert_array_equal(inputs, np.concatenate(TABLES).astype(np.float32))
    np.testing.assert_array_equal(targets[:, 0], np.concatenate(TARGETS).astype(np.float32))
    mapped = series.mapped(lambda xs: 2 * xs, lambda ys: ys + 1)
    for one, other, expected in zip(
        jax.tree.leaves(mapped),
        jax.tree.leaves(series),
        (lambda x: 2 * x, lambda y: y + 1, lambda w: w, lambda s: s),
        strict=True,
    ):
        np.testing.assert_array_equal(one, expected(other))


def test_a_table_too_short_gives_no_window():
    alone, others = SeriesWindows(FILLED, 2), SeriesWindows([FILLED[:0], FILLED, FILLED[:2]], 2)
    for got, expected in zip(others.arrays(), alone.arrays(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_of_one_target_for_a_window_it_is_that_of_its_last_row_also_where_the_mean_is_read():
    windows = SeriesWindows(FILLED, 2)
    np.testing.assert_array_equal(windows.arrays("mean")[1], windows.arrays("last")[1])
    with pytest.raises(ValueError, match=r"^target: expected one of .*, got 'all'"):
        windows.arrays("all")
