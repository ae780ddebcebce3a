"""What is in the pictures: the artists' own data, labels and colours, not their pixels."""

import functools
import itertools
import subprocess
import sys
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
import pytest

from jlstm import LSTM, CharLM, History, LSTMConfig, activations, init_params, stack
from jlstm.plots import plot_forecast, plot_gates, plot_history

matplotlib = pytest.importorskip("matplotlib")
plt = pytest.importorskip("matplotlib.pyplot")

VOCABULARY = "\n $abcdefgh"


class Scored(NamedTuple):
    """A history with accuracies."""

    loss: tuple = ()
    validation: tuple = ()
    accuracy: tuple = ()


@functools.cache
def model(cell="lstm", **options):
    config = LSTMConfig(len(VOCABULARY), 30, len(VOCABULARY), inputs="tokens", cell=cell, **options)
    params = jax.tree.map(lambda array: 3 * array, init_params(jax.random.key(0), config))
    return CharLM(params, config, VOCABULARY)


HISTORY = History((1.2, 0.8, 0.5), (1.3, 0.9, 1.0))
PATHS = np.random.default_rng(0).normal(size=(50, 6)).cumsum(axis=1)
CALLS = {
    "history": lambda ax=None: plot_history(Scored((1.0, 0.1), (2.0, 0.3), (0.1, 0.9)), ax),
    "forecast": lambda ax=None: plot_forecast(PATHS, [1.0, 2.0], truth=[3.0], ax=ax),
    "gates": lambda ax=None: plot_gates(model(), "a cab\n", ax=ax),
}


@pytest.fixture(autouse=True)
def figures():
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def y_of(axes):
    return [line.get_ydata().tolist() for line in axes.lines]


def apart(axes):
    """Whether no label below overlaps the next one by more than a pixel."""
    axes.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    return all(left.x1 <= right.x0 + 1 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize("draw", CALLS.values(), ids=CALLS)
def test_draws_into_the_given_axes_and_changes_nothing_else(draw):
    _, (given, other) = plt.subplots(1, 2)
    settings, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    assert draw(given) is given
    assert plt.gca() is other
    assert not other.lines
    assert len(plt.get_fignums()) == 1
    assert (dict(matplotlib.rcParams), matplotlib.get_backend()) == (settings, backend)
    given.figure.canvas.draw()


@pytest.mark.parametrize("draw", CALLS.values(), ids=CALLS)
def test_draws_into_the_current_axes_without_any(draw):
    made = draw()
    assert made in plt.gcf().axes
    _, current = plt.subplots()
    assert draw() is current
    assert plt.gca() is current


@pytest.mark.parametrize("draw", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("ground", ["default", "dark_background"])
def test_is_written_in_the_colours_of_the_style(draw, ground):
    with plt.style.context(ground):
        axes = draw()
        ink = matplotlib.colors.to_rgba(matplotlib.rcParams["text.color"])
        texts = [*axes.get_xticklabels(), axes.xaxis.label, axes.yaxis.label]
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        assert {matplotlib.colors.to_rgba(text.get_color()) for text in texts} == {ink}
        cycle = set(matplotlib.rcParams["axes.prop_cycle"].by_key()["color"])
        assert {line.get_color() for one in axes.figure.axes for line in one.lines} <= cycle


@pytest.mark.parametrize("draw", CALLS.values(), ids=CALLS)
def test_refuses_what_are_no_axes(draw):
    with pytest.raises(TypeError, match=r"^ax: expected Axes of matplotlib, got object of shape \(2,\)"):
        draw(plt.subplots(1, 2)[1])


def test_refused_input_makes_no_figure():
    for refused in (
        lambda: plot_history(History()),
        lambda: plot_forecast(PATHS, times=[1]),
        lambda: plot_gates(model("gru"), "a"),
    ):
        with pytest.raises(ValueError, match="expected"):
            refused()
    assert plt.get_fignums() == []


def test_is_imported_without_matplotlib_and_names_the_extra_when_it_is_missing():
    program = """
import sys
import jlstm, jlstm.plots
assert not any(name.split(".")[0] == "matplotlib" for name in sys.modules)
sys.modules["matplotlib"] = None
try:
    jlstm.plots.plot_history(jlstm.History((1.0,)))
except ImportError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "jlstm.plots needs matplotlib, the extra 'plot': pip install -e '.[plot]'\n"


def test_history_has_a_loss_an_epoch_and_marks_the_best(ax):
    plot_history(HISTORY, ax)
    assert y_of(ax) == [[1.2, 0.8, 0.5], [1.3, 0.9, 1.0], [0.9]]
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 2, 3], [1, 2, 3], [2]]
    assert legend(ax) == ["training", "validation", "best validation: 0.9, epoch 2"]
    assert ax.lines[1].get_color() == ax.lines[2].get_color() != ax.lines[0].get_color()
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("epoch", "loss", "linear")
    assert len(ax.figure.axes) == 1
    assert all(place == round(place) for place in ax.get_xticks())


def test_history_without_validation_has_one_line_and_of_one_epoch_a_point(ax):
    plot_history(History((1.0, 0.5)), ax)
    assert y_of(ax) == [[1.0, 0.5]]
    assert ax.lines[0].get_marker() in ("", "None")
    assert plot_history(History((1.0,)), plt.subplots()[1]).lines[0].get_marker() == "."


def test_history_draws_an_accuracy_at_the_right(ax):
    plot_history(Scored((1.0, 0.8), (1.1, 0.9), (0.4, 0.7)), ax)
    _, right = ax.figure.axes
    assert y_of(right) == [[0.4, 0.7]]
    assert right.get_ylabel() == "validation accuracy"
    assert right.yaxis.get_label_position() == "right"
    assert legend(ax)[-1] == "accuracy (right)"
    assert len(legend(ax)) == 4
    assert len(plot_history(Scored((1.0, 0.8), (1.1, 0.9)), plt.subplots()[1]).figure.axes) == 1


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ((20.0, 1.0), "linear"),
        ((21.0, 1.0), "log"),
        ((21.0, 1.0, float("nan")), "log"),
        ((21.0, 0.0), "linear"),
        ((5.0, -3.0, -40.0), "linear"),
        ((float("nan"),), "linear"),
    ],
)
def test_history_is_logarithmic_where_positive_losses_span_much(losses, scale):
    assert plot_history(History(losses)).get_yscale() == scale
    assert plot_history(History((1.0,) * len(losses), losses), plt.subplots()[1]).get_yscale() == scale


def test_history_marks_the_first_of_equals_and_never_nan(ax):
    nan = float("nan")
    plot_history(History((1.0,) * 4, (nan, -2.0, -2.0, -1.0)), ax)
    assert legend(ax)[-1] == "best validation: -2, epoch 2"
    assert len(plot_history(History((1.0,), (nan,)), plt.subplots()[1]).lines) == 2


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ([1.0, 2.0], TypeError, r"^history: expected what train returned, with a loss an epoch, got \[1.0, 2.0\]"),
        (History(), ValueError, "^history.loss: expected at least one epoch, got none"),
        (History(("a",)), TypeError, "^history.loss: expected numbers, got strings"),
        (History(((1.0, 2.0),)), ValueError, r"^history.loss: expected a number an epoch, got float64 of shape \(1, 2"),
        (History((1.0, 2.0), (1.0,)), ValueError, "^history.validation: expected none, or one an epoch = 2, got 1; of"),
        (Scored((1.0,), (1.0,), (1.0, 2.0)), ValueError, "^history.accuracy: expected none, or one an epoch = 1, got"),
    ],
    ids=["a list", "no epochs", "strings", "two axes", "fewer validations", "more accuracies"],
)
def test_history_refuses(history, error, message):
    with pytest.raises(error, match=message):
        plot_history(history)


@pytest.mark.parametrize("behind", [(), (1,), (1, 1)])
def test_forecast_draws_the_quantiles_of_the_paths_at_each_step(ax, behind):
    known, came = np.arange(4.0), np.arange(3.0) / 2
    samples, history, truth = (array.reshape(*array.shape, *behind) for array in (PATHS, known, came))
    plot_forecast(samples, history, truth=truth, ax=ax, intervals=(0.9, 0.5))
    lines = {line.get_label(): line for line in ax.lines}
    assert lines.keys() == {"history", "median of 50 paths", "truth"}
    np.testing.assert_array_equal(lines["history"].get_xydata(), np.stack([[-3, -2, -1, 0], known], axis=1))
    median = np.append(3.0, np.median(PATHS, axis=0))  # it starts from the last value known
    np.testing.assert_array_equal(lines["median of 50 paths"].get_xydata(), np.stack([range(7), median], axis=1))
    np.testing.assert_array_equal(lines["truth"].get_xydata(), [[0, 3], [1, 0], [2, 0.5], [3, 1]])
    assert lines["history"].get_color() == lines["truth"].get_color() != lines["median of 50 paths"].get_color()
    assert legend(ax) == ["history", "90% of the paths", "50% of the paths", "median of 50 paths", "truth"]
    for band, share in zip(ax.collections, (0.9, 0.5), strict=True):
        (path,) = band.get_paths()
        for step in range(1, 7):
            ends = path.vertices[path.vertices[:, 0] == step, 1]
            quantiles = np.quantile(PATHS[:, step - 1], [(1 - share) / 2, (1 + share) / 2])
            np.testing.assert_allclose([ends.min(), ends.max()], quantiles, rtol=1e-12)
            inside = (PATHS[:, step - 1] >= ends.min()) & (PATHS[:, step - 1] <= ends.max())
            assert abs(inside.mean() - share) <= 2 / len(PATHS)


def test_forecast_shows_in_the_legend_the_colours_of_the_picture(ax):
    plot_forecast(PATHS, ax=ax, intervals=(0.5, 0.8, 0.9))
    patches = [patch.get_alpha() for patch in ax.get_legend().get_patches()]
    through = np.cumprod([1 - band.get_alpha() for band in ax.collections])  # each lies on those before it
    np.testing.assert_allclose(patches, 1 - through)


def test_forecast_without_history_counts_from_one(ax):
    plot_forecast(PATHS, ax=ax, intervals=())
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), range(1, 7))
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), np.median(PATHS, axis=0))
    assert ax.get_xlabel() == "steps ahead"
    assert not ax.collections


def test_forecast_of_one_path_is_that_path(ax):
    plot_forecast(PATHS[:1], ax=ax)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), PATHS[0])
    assert legend(ax) == ["one path"]
    assert not ax.collections


@pytest.mark.parametrize(
    "times", [np.arange(8) / 4 + 2000, np.datetime64("2024-01") + np.arange(8)], ids=["numbers", "months"]
)
def test_forecast_is_drawn_at_its_times(ax, times):
    plot_forecast(PATHS, [1.0, 2.0], truth=[1.0], times=times, ax=ax)
    known, median, truth = (line.get_xdata() for line in ax.lines)
    np.testing.assert_array_equal(known, times[:2])
    np.testing.assert_array_equal(median, times[1:])
    np.testing.assert_array_equal(truth, times[1:3])
    assert ax.get_xlabel() == ""
    ax.figure.canvas.draw()
    if times.dtype.kind == "M":
        assert "Feb" in [label.get_text() for label in ax.get_xticklabels()]


def test_forecast_leaves_a_gap_at_nan(ax):
    plot_forecast(PATHS, [1.0, np.nan, 2.0, np.nan], truth=[np.nan, 1.0], ax=ax)
    known, median, truth = y_of(ax)
    np.testing.assert_array_equal(known, [1.0, np.nan, 2.0, np.nan])
    np.testing.assert_array_equal(median, [np.nan, *np.median(PATHS, axis=0)])
    np.testing.assert_array_equal(truth, [np.nan, np.nan, 1.0])
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"samples": PATHS[0]}, ValueError, r"^samples: expected \[samples, steps\], or .* float64 of shape \(6,\)"),
        ({"samples": np.ones((5, 6, 2))}, ValueError, r"^samples: expected .* got float64 of shape \(5, 6, 2\)"),
        ({"samples": np.ones((0, 6))}, ValueError, "^samples: expected .* at least one of each"),
        ({"samples": [[1.0, np.inf]]}, ValueError, r"^samples: expected finite numbers, got inf at index \(0, 1\)"),
        ({"samples": "fan"}, TypeError, "^samples: expected numbers, got strings"),
        ({"history": np.ones((4, 2))}, ValueError, r"^history: expected \[T\], or with .* of shape \(4, 2\)"),
        ({"truth": 1.0}, ValueError, r"^truth: expected \[T\], .* got array\(1.\)"),
        ({"truth": np.ones(7)}, ValueError, "^truth: expected at most 6 values, as many as steps in samples, got 7"),
        ({"times": np.arange(5)}, ValueError, r"^times: expected one for each .* 2 \+ 6 = 8, got int64 of shape \(5,"),
        ({"times": ["a"] * 8}, TypeError, "^times: expected numbers or datetime64, got <U1"),
        ({"times": np.arange(8) // 2}, ValueError, "^times: expected each later than the one before"),
        ({"intervals": 0.9}, TypeError, "^intervals: expected a tuple of shares between 0 and 1, got 0.9"),
        ({"intervals": (50, 90)}, ValueError, "^intervals: expected shares between 0 and 1, got 50"),
        ({"intervals": (0.5, 1.0)}, ValueError, "^intervals: expected shares between 0 and 1, got 1"),
    ],
)
def test_forecast_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        plot_forecast(**{"samples": PATHS, "history": [1.0, 2.0]} | arguments)


def ids_of(text):
    return np.array([[VOCABULARY.index(letter) for letter in text]])


def test_gates_are_those_of_the_cell_a_row_a_unit(ax):
    text = "a cab\n$a$"
    plot_gates(model(), text, gate="o", ax=ax, units=[7, 2, 29])
    expected = activations(model().params.layers[0], ids_of(text))["o"][0].T
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), expected[np.array([7, 2, 29])], rtol=1e-6)
    assert image.get_clim() == (0, 1)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "␣", "c", "a", "b", "↵", "$", "a", "$"]
    assert ax.get_xticks().tolist() == [*range(9)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["7", "2", "29"]
    assert ax.get_yticks().tolist() == [0, 1, 2]
    assert ax.get_ylabel() == "unit"
    assert ax.figure.axes[1].get_ylabel() == "o, layer 0"


def test_gates_shows_the_24_units_that_change_most_the_most_open_on_top(ax):
    text = "a bad cab face\n" * 2
    plot_gates(model(), text, ax=ax)
    values = np.asarray(activations(model().params.layers[0], ids_of(text))["f"][0], float).T
    shown = [int(label.get_text()) for label in ax.get_yticklabels()]
    assert set(shown) == set(np.argsort(values.var(axis=1))[-24:].tolist())
    means = values[shown].mean(axis=1)
    assert (means[:-1] >= means[1:]).all()


@pytest.mark.parametrize("zoneout", [0.0, 0.3])
@pytest.mark.parametrize("layer", [1, 2])
def test_gates_of_a_deeper_layer_read_what_the_layers_below_give(ax, layer, zoneout):
    deep = model(layers=3, residual=True, zoneout=zoneout)
    plot_gates(deep, "a cab", gate="f", layer=layer, ax=ax, units=range(30))
    xs = activations(deep.params.layers[0], ids_of("a cab"), zoneout=zoneout)["h"]
    if layer == 2:
        xs = xs + activations(deep.params.layers[1], xs, zoneout=zoneout)["h"]
    if not zoneout:
        np.testing.assert_allclose(xs, stack(deep.params.layers[:layer], ids_of("a cab"), residual=True)[0], rtol=1e-5)
    expected = activations(deep.params.layers[layer], xs, zoneout=zoneout)["f"][0].T
    np.testing.assert_allclose(ax.images[0].get_array(), expected, rtol=1e-5)


def test_gates_with_signs_are_drawn_around_zero(ax):
    plot_gates(model(), "a cab", gate="c", ax=ax, units=range(30))
    least, most = ax.images[0].get_clim()
    assert least == -most
    assert most == np.abs(ax.images[0].get_array()).max()


def test_gates_writes_words_where_letters_would_be_too_small(ax):
    plot_gates(model(), "abba face bad\n" * 12, ax=ax)
    labels = ax.get_xticklabels()
    assert [label.get_text() for label in labels] == ["abba", "face", "bad"] * 12
    assert {label.get_rotation() for label in labels} == {90.0}
    middles = np.add.outer(14 * np.arange(12), [1.5, 6.5, 11])
    np.testing.assert_array_equal(ax.get_xticks(), middles.ravel())
    assert apart(ax)


def test_gates_leaves_out_words_that_would_be_written_into_others(ax):
    plot_gates(model(), "a bad cab\n" * 24, ax=ax)
    assert 24 < len(ax.get_xticks()) < 72
    assert apart(ax)


def test_gates_takes_a_word_with_dollars_for_no_formula(ax):
    plot_gates(model(), "$ab$ bad\n" * 30, ax=ax)
    labels = ax.get_xticklabels()
    assert labels[0].get_text() == "$ab$"
    assert not any(label.get_parse_math() for label in labels)


def test_gates_of_a_cell_are_those_with_a_number_a_unit():
    class Means(NamedTuple):
        i: jax.Array
        mean: jax.Array

    def means(params, z, state):
        gates = LSTM.activations(params, z, state)
        return Means(gates.i, gates.i.mean())

    own = model(replace(LSTM, name="own", activations=means))
    plot_gates(own, "a cab", gate="i")
    with pytest.raises(ValueError, match=r"^gate: expected one of 'c', 'h', 'i' of cell='own', got 'mean'"):
        plot_gates(own, "a cab", gate="mean")


def test_a_style_with_a_grid_has_one_grid_and_none_over_colours():
    with plt.rc_context({"axes.grid": True}):
        _, (left, right) = plt.subplots(1, 2)
        plot_history(Scored((1.0, 0.8), (1.1, 0.9), (0.4, 0.7)), left)
        plot_gates(model(), "a cab", ax=right)
        grids = [any(line.get_visible() for line in axes.get_ygridlines()) for axes in left.figure.axes]
    assert grids == [True, False, False, False]


def test_gates_letters_do_not_run_into_each_other(ax):
    plot_gates(model(), "cab face\n" * 8, ax=ax)
    assert len(ax.get_xticks()) == 72
    assert apart(ax)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"model": lambda: model("gru")},
            ValueError,
            "^gate: expected one of 'h', 'n', 'r', 'z' of cell='gru', got 'f'",
        ),
        ({"gate": "x"}, ValueError, "^gate: expected one of 'c', 'f', 'g', 'h', 'i', 'o' of cell='lstm', got 'x'"),
        ({"gate": ["f"]}, ValueError, r"^gate: expected one of .* got a list of 1"),
        ({"model": lambda: model().params}, TypeError, "^model: expected a CharLM, got ModelParams"),
        ({"text": ""}, ValueError, "^text: expected at least one character, got none"),
        ({"text": "aXb"}, ValueError, "^text: expected characters that the model knows, got 'X'"),
        ({"text": 5}, TypeError, "^text: expected a string, got int"),
        ({"layer": 1}, ValueError, "^layer: expected at most 0, got 1"),
        ({"layer": 0.0}, TypeError, "^layer: expected an integer, got 0.0"),
        ({"units": 3}, TypeError, "^units: expected a sequence of the numbers of units, at least one, got 3"),
        ({"units": []}, TypeError, "^units: expected a sequence of the numbers of units, at least one"),
        ({"units": [0, 30]}, ValueError, r"^units\[1\]: expected at most 29, got 30"),
    ],
)
def test_gates_refuses(arguments, error, message):
    arguments = {"model": model, "text": "a cab"} | arguments
    made = arguments.pop("model")()
    with pytest.raises(error, match=message):
        plot_gates(made, **arguments)
