"""Pictures of a training, of a forecast and of what a network's gates do, with matplotlib, the extra `plot`.

Each function draws into the axes that it is given, in the colours of the style in force, and returns them. It shows
nothing and changes no setting: `plt.show()`, `axes.figure.savefig(...)` and what else the picture needs are the
caller's.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jlstm.checks import describe, is_floating, is_integer, numbers, whole_number
from jlstm.data import inputs_of
from jlstm.language_model import CharLM, encode
from jlstm.stack import run_layers, stack_state
from jlstm.unroll import activations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_forecast", "plot_gates", "plot_history"]

LOG_FROM = 20.0  # how many times the smallest loss the largest is, where they are drawn by their logarithm
BAND = 0.25  # how opaque one interval is; where two lie on each other, they are more so
UNITS = 24  # as many rows are still told apart
VISIBLE = {"\n": "↵", " ": "␣", "\t": "→", "\r": "←"}
READABLE = 5.0  # the smallest letters, in points
WIDTH = 0.62  # of a letter of a monospaced font, in its size
SMALL = 7.0  # the letters of words, in points


def plot_history(history: Any, ax: "Axes | None" = None) -> "Axes":
    """Draw the losses of a training, an epoch after the other, with the best one on the validation data marked.

    The losses are drawn by their logarithm where all are positive and the largest is more than 20 times the smallest.

    Args:
        history: what `LSTMNetwork.train` returned, or a NamedTuple like it: `loss` and `validation`, and maybe
            `accuracy` on the validation data, drawn on an axis of its own at the right, with the legend above; each has
            a number an epoch, and the last two may also be empty.
        ax: the axes to draw into; the current ones where None.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
        ImportError: matplotlib is missing.

    Example:
        >>> from jlstm import History
        >>> axes = plot_history(History(loss=(1.2, 0.8, 0.5), validation=(1.3, 0.9, 1.0)))
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['training', 'validation', 'best validation: 0.9, epoch 2']
    """
    _import_matplotlib()
    from matplotlib.ticker import MaxNLocator

    losses, validation, accuracy = _of_epochs(history)
    axes, epochs = _axes(ax), np.arange(1, len(losses) + 1)
    drawn = axes.plot(epochs, losses, marker=_marker(epochs), label="training")
    if validation.size:
        drawn += axes.plot(epochs, validation, marker=_marker(epochs), label="validation")
        if np.isfinite(validation).any():
            best = int(np.nanargmin(validation))
            label = f"best validation: {validation[best]:.4g}, epoch {epochs[best]}"
            mark = {"linestyle": "none", "marker": "o", "markersize": 9, "fillstyle": "none", "markeredgewidth": 1.5}
            drawn += axes.plot(epochs[best], validation[best], color=drawn[-1].get_color(), label=label, **mark)
    if _spans_much(np.concatenate([losses, validation])):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not accuracy.size:
        axes.legend(handles=drawn)
        return axes
    figure: Any = axes.figure
    current, right = figure.gca(), axes.twinx()
    figure.sca(current)
    color = drawn[-1].get_color()
    drawn += right.plot(epochs, accuracy, "--", marker=_marker(epochs), color=color, label="accuracy (right)")
    right.set(ylabel="validation accuracy")
    right.grid(False)
    # Above, as within it no place is free of both: losses fall and accuracies rise, from the left to the right.
    axes.legend(handles=drawn, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return axes


def plot_forecast(
    samples: Any,
    history: Any = None,
    *,
    truth: Any = None,
    times: Any = None,
    ax: "Axes | None" = None,
    intervals: Sequence[float] = (0.5, 0.9),
) -> "Axes":
    """Draw sampled paths of a series as a fan: their median at each step, and central intervals around it.

    An interval of 0.9 leaves out a twentieth of the paths above and as many below, at each step for itself. All paths
    start from the last value of the history.

    Args:
        samples: the paths, `[samples, steps]`, `[samples, steps, 1]` or `[samples, steps, 1, 1]`.
        history: what was known before, `[T]`, `[T, 1]` or `[T, 1, 1]`; NaN leaves a gap.
        truth: what came, as far as it is known: up to `steps` values, in the same forms.
        times: where the T values of the history and then the steps are on the x axis, `[T + steps]`: increasing numbers
            or `datetime64`; where None the steps count from 1, and the history ends at 0.
        ax: the axes to draw into; the current ones where None.
        intervals: the share of the paths that each interval holds, between 0 and 1.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
        ImportError: matplotlib is missing.

    Example:
        >>> steps = np.random.default_rng(0).normal(size=(100, 12))
        >>> axes = plot_forecast(steps.cumsum(axis=1), history=[1.0, 0.5, 0.0], intervals=[0.8])
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['history', '80% of the paths', 'median of 100 paths']
    """
    _import_matplotlib()
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    paths = _paths(samples)
    (count, steps), known = paths.shape, _series("history", [] if history is None else history)
    came = _series("truth", [] if truth is None else truth)
    if len(came) > steps:
        raise ValueError(f"truth: expected at most {steps} values, as many as steps in samples, got {len(came)}")
    places = np.arange(1 - len(known), steps + 1) if times is None else _times(times, len(known), steps)
    shares = _shares(intervals)
    axes = _axes(ax)

    ahead, last = places[max(0, len(known) - 1) :], known[-1:]
    paths = np.concatenate([np.broadcast_to(last, (count, len(last))), paths], axis=1)
    drawn: list[Any] = []
    if len(known):
        drawn += axes.plot(places[: len(known)], known, marker=_marker(known), label="history")
    label = f"median of {count:,} paths" if count > 1 else "one path"
    (median,) = axes.plot(ahead, np.median(paths, axis=0), marker=_marker(ahead), label=label)
    drawn.append(median)
    color, opacity = median.get_color(), 0.0
    for share in sorted(shares, reverse=True) if count > 1 else ():
        low, high = np.quantile(paths, [(1 - share) / 2, (1 + share) / 2], axis=0)
        axes.fill_between(ahead, low, high, color=color, alpha=BAND, linewidth=0)
        opacity = 1 - (1 - BAND) * (1 - opacity)
        drawn.insert(-1, Patch(facecolor=color, alpha=opacity, label=f"{100 * share:.3g}% of the paths"))
    if len(came):
        values, color = np.concatenate([last, came]), drawn[0].get_color() if len(known) else None
        drawn += axes.plot(ahead[: len(values)], values, "--", marker=_marker(values), color=color, label="truth")
    if times is None:
        axes.set(xlabel="steps ahead")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    elif places.dtype.kind == "M":
        dates = AutoDateLocator()
        axes.xaxis.set(major_locator=dates, major_formatter=ConciseDateFormatter(dates))
    axes.legend(handles=drawn)
    return axes


def plot_gates(
    model: CharLM,
    text: str,
    *,
    gate: str = "f",
    layer: int = 0,
    ax: "Axes | None" = None,
    units: Sequence[int] | None = None,
) -> "Axes":
    """Draw which units of a layer open a gate at which characters of a text, a row a unit, and the text below.

    The idea is that of Karpathy, Johnson and Fei-Fei, "Visualizing and Understanding Recurrent Networks", 2015, who
    coloured a text by what one unit remembers: some keep count of a line's length, or are open within quotes.

    Args:
        model: the language model; it reads the text from a state of zeros.
        text: at least one character, all of the vocabulary. Where the axes are too narrow for its letters, its words
            stand below instead, for which a figure with `layout="constrained"` leaves room.
        gate: the name of a gate of the model's cell, for the LSTM `i`, `f`, `o`, or of what else `jlstm.activations`
            tells: the candidate `g`, or a part of the state after the character, `h` or `c`.
        layer: the layer, from 0, the lowest.
        ax: the axes to draw into, beside which goes a scale of the colours; the current ones where None.
        units: the numbers of the units to show, from the top; where None those whose gate changes most over the text
            (variance), up to 24, the ones that are open most on top.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
        ImportError: matplotlib is missing.

    Example:
        >>> import jax
        >>> from jlstm import LSTMConfig, init_params
        >>> config = LSTMConfig(5, 8, 5, inputs="tokens")
        >>> model = CharLM(init_params(jax.random.key(0), config), config, " beot")
        >>> axes = plot_gates(model, "to be", gate="o", units=[3, 1])
        >>> [label.get_text() for label in axes.get_xticklabels()]
        ['t', 'o', '␣', 'b', 'e']
    """
    _import_matplotlib()
    values = _activations(model, text, gate, layer)
    shown = _most_changing(values) if units is None else _units(units, len(values))
    axes = _axes(ax)

    most = np.abs(values).max()
    colors, least, most = ("RdBu", -most, most) if values.min() < 0 else ("cividis", 0.0, max(1.0, most))
    image = axes.imshow(values[shown], colors, vmin=least, vmax=most, aspect="auto", interpolation="nearest")
    axes.grid(False)
    figure: Any = axes.figure
    figure.colorbar(image, ax=axes, label=f"{gate}, layer {layer}", pad=0.02)
    _write_below(axes, text)
    axes.set_yticks(range(len(shown)), [str(unit) for unit in shown], fontsize="small")
    axes.set(ylabel="unit")
    return axes


def _import_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("jlstm.plots needs matplotlib, the extra 'plot': pip install -e '.[plot]'") from None


def _axes(ax: Any) -> Any:
    """Return the argument `ax`, or the current axes where it is None."""
    from matplotlib.axes import Axes

    if ax is None:
        import matplotlib.pyplot as plt  # which a program that has axes of its own does without

        return plt.gca()
    if not isinstance(ax, Axes):
        raise TypeError(f"ax: expected Axes of matplotlib, got {describe(ax)}")
    return ax


def _marker(points: Any) -> str:
    """Return how the points of a line are marked: a line of one would not be seen."""
    return "." if len(points) == 1 else ""


def _of_epochs(history: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the losses, the validation losses and the accuracies of a history; the last two may be empty."""
    if not hasattr(history, "loss"):
        raise TypeError(f"history: expected what train returned, with a loss an epoch, got {describe(history)}")
    found = []
    for name in ("loss", "validation", "accuracy"):
        values = np.asarray(numbers(f"history.{name}", getattr(history, name, ())), float)
        if values.ndim != 1:
            raise ValueError(f"history.{name}: expected a number an epoch, got {describe(values)}")
        found.append(values)
    losses, *others = found
    if not losses.size:
        raise ValueError("history.loss: expected at least one epoch, got none")
    for name, values in zip(("validation", "accuracy"), others, strict=True):
        if len(values) not in (0, len(losses)):
            raise ValueError(
                f"history.{name}: expected none, or one an epoch = {len(losses)}, got {len(values)}; "
                "of a network that was trained more than once, draw what each train returned"
            )
    return losses, others[0], others[1]


def _spans_much(losses: np.ndarray) -> bool:
    finite = losses[np.isfinite(losses)]
    return finite.size > 0 and finite.min() > 0 and finite.max() > LOG_FROM * finite.min()


def _paths(samples: Any) -> np.ndarray:
    """Return the argument `samples` as `[samples, steps]`."""
    given = np.asarray(numbers("samples", samples))
    if not 2 <= given.ndim <= 4 or given.shape[2:] != (1,) * (given.ndim - 2) or not given.size:
        raise ValueError(
            "samples: expected [samples, steps], or with axes of 1 behind them, at least one of each, got "
            f"{describe(given)}"
        )
    paths = given.reshape(given.shape[:2]).astype(float)
    if not np.isfinite(paths).all():
        where = tuple(map(int, np.argwhere(~np.isfinite(paths))[0]))
        raise ValueError(f"samples: expected finite numbers, got {paths[where]} at index {where}")
    return paths


def _series(name: str, value: Any) -> np.ndarray:
    """Return the argument `name`, values of a series, as `[T]`."""
    given = np.asarray(numbers(name, value))
    if not 1 <= given.ndim <= 3 or given.shape[1:] != (1,) * (given.ndim - 1):
        raise ValueError(f"{name}: expected [T], or with axes of 1 behind it, got {describe(given)}")
    return given.reshape(len(given)).astype(float)


def _times(times: Any, known: int, steps: int) -> np.ndarray:
    given = np.asarray(times)
    if not (is_integer(given) or is_floating(given) or given.dtype.kind == "M"):
        raise TypeError(f"times: expected numbers or datetime64, got {describe(given)}")
    if given.shape != (known + steps,):
        expected = f"one for each value of the history and each step, {known} + {steps} = {known + steps}"
        raise ValueError(f"times: expected {expected}, got {describe(given)}")
    if not (given[1:] > given[:-1]).all():
        raise ValueError("times: expected each later than the one before, got others")
    return given


def _shares(intervals: Any) -> list[float]:
    given = np.asarray(numbers("intervals", intervals), float)
    if given.ndim != 1:
        raise TypeError(f"intervals: expected a tuple of shares between 0 and 1, got {describe(intervals)}")
    for share in given:
        if not 0 < share < 1:
            raise ValueError(f"intervals: expected shares between 0 and 1, got {share:g}")
    return given.tolist()


def _activations(model: Any, text: Any, gate: Any, layer: Any) -> np.ndarray:
    """Return what a gate of each unit of a layer is at each character, `[H, characters]`."""
    if not isinstance(model, CharLM):
        raise TypeError(f"model: expected a CharLM, got {describe(model)}")
    config, layers = model.config, model.params.layers
    ids, layer = encode("text", text, model.vocabulary), whole_number("layer", layer, 0, config.layers - 1)
    if not ids.size:
        raise ValueError("text: expected at least one character, got none")
    xs, zoneout = inputs_of(jnp.asarray(ids[None]), config), config.zoneout
    if layer:
        below = layers[:layer]
        state = stack_state("state", None, config.cell, below, 1)
        options: dict[str, Any] = {"residual": config.residual, "segment": None, "zoneout": zoneout}
        xs, _ = run_layers(below, xs, state, None, None, cell=config.cell, **options)
    seen = activations(layers[layer], xs, cell=config.cell, zoneout=zoneout)
    seen = {name: values for name, values in seen.items() if values.ndim == 3}
    if not isinstance(gate, str) or gate not in seen:
        names = ", ".join(map(repr, seen))
        raise ValueError(f"gate: expected one of {names} of cell={config.cell.name!r}, got {describe(gate)}")
    return np.asarray(seen[gate][0], float).T


def _most_changing(values: np.ndarray) -> np.ndarray:
    """Return the numbers of the units that change most, the largest on average first."""
    units = np.argsort(-values.var(axis=1), kind="stable")[:UNITS]
    return units[np.argsort(-values[units].mean(axis=1), kind="stable")]


def _units(units: Any, hidden: int) -> list[int]:
    if not isinstance(units, (Sequence, np.ndarray)) or isinstance(units, str) or not len(units):
        raise TypeError(f"units: expected a sequence of the numbers of units, at least one, got {describe(units)}")
    return [whole_number(f"units[{k}]", unit, 0, hidden - 1) for k, unit in enumerate(units)]


def _write_below(axes: Any, text: str) -> None:
    """Write a text below its columns: its letters or, where those would be too small, its words upright."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    visible = "".join(VISIBLE.get(letter, letter if letter.isprintable() else "·") for letter in text)
    column = axes.get_window_extent().width / axes.figure.dpi * 72 / len(text)  # in points
    usual = FontProperties(size=rcParams["xtick.labelsize"]).get_size_in_points()
    size = min(usual, column / WIDTH)
    style = {"family": "monospace", "parse_math": False}
    axes.tick_params(axis="x", length=0)
    if size >= READABLE:
        axes.set_xticks(range(len(text)), list(visible), fontsize=size, **style)
        return
    size = min(usual, SMALL)
    places: list[float] = []
    words: list[str] = []
    for word in re.finditer(r"\S+", text):
        place = (word.start() + word.end() - 1) / 2
        if not places or (place - places[-1]) * column >= size:  # the next one would be written into this one
            places.append(place)
            words.append(visible[word.start() : word.end()])
    axes.set_xticks(places, words, fontsize=size, rotation="vertical", **style)
