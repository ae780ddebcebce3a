"""What jlstm exchanges with other libraries, and how what comes in is checked: once, in the words of its library."""

import os
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jlstm.cells import Cell
from jlstm.checks import describe, fits, is_floating, numbers, same_names
from jlstm.config import LSTMConfig, Target
from jlstm.model import ModelParams, Readout
from jlstm.stack import Bidirectional, check_layers, directions

__all__ = [
    "FOLD",
    "Model",
    "array",
    "check_cell",
    "check_foreign",
    "dtype_of",
    "gates",
    "held",
    "kind_of",
    "model_of",
    "named",
    "network_of",
    "of_network",
    "on_embeddings",
    "on_parts",
    "one_kind",
    "read_dense",
    "read_layers",
    "summed",
]


FOLD = (
    "; fold the embedding in, weight_ih @ embedding.T for the first weight_ih, which then reads ids, and leave it out"
)
STACK = "interop.from_... gives the layers, and jlstm.stack(model.layers, xs, cell=model.cell) runs them"


class Model(NamedTuple):
    """A stack of layers and what is on top of it, as arrays of NumPy: what every library here is brought to.

    `jlstm.stack(model.layers, xs, cell=model.cell)` runs it.

    Attributes:
        cell: the `Cell` of all layers.
        layers: the parameters of each layer from the input upwards, `Bidirectional` where it reads in both directions.
        readout: the dense `Readout` on top; None where there is none.
        target: "each" where every step is read out, "last" where the last one is, "mean" where their mean is.
        activation: what follows the readout: the "softmax" of classes, the "sigmoid" of questions, None for nothing.

    Example:
        >>> from jlstm import LSTM
        >>> Model(LSTM, (LSTM.init(jax.random.key(0), input_size=3, hidden_size=5),))
        Model(Cell('lstm'), layers=(3 -> 5), readout=None, target='each', activation=None)
    """

    cell: Cell
    layers: tuple
    readout: Readout | None = None
    target: Target = "each"
    activation: Literal["softmax", "sigmoid"] | None = None

    def __repr__(self) -> str:
        """Return its cell and its sizes, and none of its weights."""
        layers = ", ".join(_widths(self.cell, layer) for layer in self.layers)
        readout = self.readout and " -> ".join(map(str, np.shape(self.readout.weight)))
        rest = f"target={self.target!r}, activation={self.activation!r}"
        return f"Model({self.cell!r}, layers=({layers}), readout={readout}, {rest})"


def _widths(cell: Cell, layer: Any) -> str:
    """Return what a layer reads and gives, "3 -> 5", or "3 -> 5 + 5" in two directions."""
    sizes = [cell.sizes(params) for params in directions(layer)]
    known = [each for each in sizes if each is not None]  # nothing is known of a cell that is one plain function
    return f"{known[0].inputs} -> {' + '.join(str(each.outputs) for each in known)}" if known else "?"


def model_of(
    cell: Cell,
    layers: list,
    readout: Readout | None = None,
    target: Target = "each",
    activation: Literal["softmax", "sigmoid"] | None = None,
) -> Model:
    """Return a `Model` whose layers read each other, all of one dtype.

    Raises:
        ValueError: a layer, or the readout, does not read what is below it.
        TypeError: the arrays are of different dtypes.

    Example:
        >>> from jlstm import LSTM
        >>> model_of(LSTM, [LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)]).target
        'each'
    """
    check_layers("layers", tuple(layers), cell, residual=False)
    dtype_of("layers and readout", (layers, readout))
    if readout is not None:
        sizes: list[Any] = [cell.sizes(params) for params in directions(layers[-1])]
        width = sum(each.outputs for each in sizes)
        if readout.weight.shape[0] != width:
            raise ValueError(
                f"readout: expected weights for the {width} outputs of the layer below, got weights for "
                f"{readout.weight.shape[0]}"
            )
    # Copies, as other libraries train on in their own arrays.
    below, above = jax.tree.map(lambda leaf: np.array(leaf, order="C"), (tuple(layers), readout))
    return Model(cell, below, above, target, activation)


def of_network(network: Any) -> Model:
    """Return the weights of a network as a `Model`, which gives its scores: what `jlstm.forward` does.

    Args:
        network: an `LSTMNetwork` or a `CharLM`.

    Raises:
        TypeError: it is none.
        ValueError: the weights alone do not say what the network computes.

    Example:
        >>> from jlstm import LSTMNetwork
        >>> of_network(LSTMNetwork(1, 8, 3, progress=False)).cell
        Cell('lstm')
    """
    config = getattr(network, "config", None)
    if not isinstance(config, LSTMConfig):
        raise TypeError(f"network: expected an LSTMNetwork or a CharLM, got {describe(network)}")
    for name, kept in (("standardize", getattr(network, "standardize", False)), ("residual", config.residual)):
        if kept:
            raise ValueError(f"{name}: expected False, since weights alone do not tell of it, got True")
    params = jax.tree.map(np.asarray, network.params)
    return Model(config.cell, params.layers, params.readout, config.target)


def network_of(model: Model) -> tuple[ModelParams, dict[str, Any]]:
    """Return a model whose layers are alike as a network: its parameters, and what `LSTMConfig` takes of the sizes.

    Raises:
        ValueError: it has no readout, or layers of different units or directions.
        TypeError: its weights are in float64, which networks do not compute in.

    Example:
        >>> from jlstm import LSTMConfig, init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> params = init_params(jax.random.key(0), config)
        >>> params, sizes = network_of(Model(config.cell, *params))
        >>> LSTMConfig(**sizes) == config
        True
    """
    if model.readout is None:
        raise ValueError(f"readout: expected the dense layer on top of the layers, got None; without one, {STACK}")
    if model.readout.bias.dtype == np.float64:
        raise TypeError(
            "weights: expected float32, in which networks compute, got float64; write lstm.float(), or "
            "astype(np.float32)"
        )
    sizes: list[Any] = [[model.cell.sizes(params) for params in directions(layer)] for layer in model.layers]
    first = sizes[0][0]
    if len({len(ways) for ways in sizes}) > 1 or {way[1:] for ways in sizes for way in ways} != {first[1:]}:
        units = ", ".join(" + ".join(str(way.hidden) for way in ways) for ways in sizes)
        raise ValueError(f"layers: expected the same units and directions in all, got {units}; otherwise, {STACK}")
    found = {
        "input_size": first.inputs,
        "hidden_size": first.hidden,
        "output_size": len(model.readout.bias),
        "layers": len(sizes),
        "cell": model.cell,
        "projection_size": first.outputs if model.cell.projects else None,
        "bidirectional": len(sizes[0]) > 1,
    }
    return ModelParams(model.layers, model.readout), found


def kind_of(module: Any) -> str:
    """Return of which library and of which class an object is, without importing the library.

    Example:
        >>> kind_of(np.random.default_rng(0))
        'numpy.Generator'
    """
    kind = type(module)
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def check_cell(library: str, model: Any, known: Mapping[Cell, Any]) -> None:
    """Raise an error unless this is a model, of a cell that a library has.

    Example:
        >>> from jlstm import LSTM
        >>> check_cell("Flax", Model(LSTM, ()), {LSTM: "LSTMCell"})
    """
    if not isinstance(model, Model):
        advice = "; write interop.of_network(network)" if hasattr(model, "config") else ""
        raise TypeError(f"model: expected a Model, got {type(model).__name__}{advice}")
    if model.cell not in known:
        names = ", ".join(repr(cell.name) for cell in known)
        raise ValueError(f"cell: expected one that {library} has, {names}, got {model.cell.name!r}")


def check_foreign(name: str, given: Any, library: str, loads: str) -> None:
    """Raise an error if a `Model`, or the path of a file, came in place of what a library has.

    Args:
        name: how the caller calls it.
        given: what came.
        library: what it is called in the names of functions here, such as "torch".
        loads: what reads its files.

    Example:
        >>> check_foreign("lstm", {"weight_ih_l0": np.ones((20, 3))}, "torch", "torch.load")
    """
    if isinstance(given, Model):
        raise TypeError(f"{name}: expected what {library} has, got a Model; to_{library} takes that")
    if isinstance(given, (str, os.PathLike)):
        advice = f"hand over what {loads} reads from it"
        raise TypeError(f"{name}: expected what {library} has, got the path {os.fspath(given)!r}; {advice}")


def on_parts(given: Any, kinds: Collection[str]) -> str:
    """Return advice for an error, which parts of the caller's own module to hand over; "" where there are none.

    Example:
        >>> class Tagger:
        ...     def __init__(self):
        ...         self.rnn = np.random.default_rng(0)
        >>> on_parts(Tagger(), ["Generator"])
        '; of a module of your own, m, hand over its parts: m.rnn'
    """
    parts = [f"m.{key}" for key, each in getattr(given, "__dict__", {}).items() if type(each).__name__ in kinds]
    return f"; of a module of your own, m, hand over its parts: {', '.join(parts)}" if parts else ""


def on_embeddings(given: Any) -> str:
    """Return advice for an error, what to do with an embedding; "" where it is none.

    Example:
        >>> on_embeddings(np.ones(3))
        ''
    """
    return FOLD if type(given).__name__ in ("Embedding", "Embed") else ""


def read_layers(name: str, given: Any, read: Callable[[str, Any], tuple[Cell, Any]]) -> tuple[Cell, list]:
    """Read the argument `name`: one layer, or layers from the input upwards.

    Args:
        name: how the caller calls it.
        given: what another library has for a layer, or a list of such, `Bidirectional` where there are two.
        read: a function of a name and what it names, which returns the cell and the parameters.

    Returns:
        The cell of all layers, and the parameters of each.

    Raises:
        ValueError: there is no layer, or their cells differ.

    Example:
        >>> from jlstm import LSTM
        >>> read_layers("layers", [1, Bidirectional(2, 3)], lambda name, given: (LSTM, f"{name} = {given}"))[1]
        ['layers[0] = 1', Bidirectional(forward='layers[1].forward = 2', backward='layers[1].backward = 3')]
    """
    several = isinstance(given, (list, tuple)) and not isinstance(given, Bidirectional)
    if several and not given:
        raise ValueError(f"{name}: expected at least one, got an empty {type(given).__name__}")
    cells, layers = [], []
    for own, layer in [(f"{name}[{k}]", each) for k, each in enumerate(given)] if several else [(name, given)]:
        two = isinstance(layer, Bidirectional)
        names = [f"{own}.{way}" for way in Bidirectional._fields] if two else [own]
        found = [read(way, each) for way, each in zip(names, directions(layer), strict=True)]
        cells += [cell for cell, _ in found]
        layers.append(Bidirectional(*(params for _, params in found)) if two else found[0][1])
    return one_kind(name, cells), layers


def one_kind(name: str, cells: Sequence[Cell]) -> Cell:
    """Return the one cell of all layers of the argument `name`, or raise a ValueError.

    Example:
        >>> from jlstm import LSTM
        >>> one_kind("layers", [LSTM, LSTM])
        Cell('lstm')
    """
    kinds = dict.fromkeys(str(cell.name) for cell in cells)
    if len(kinds) > 1:
        raise ValueError(f"{name}: expected layers of one kind, got {' and '.join(kinds)}")
    return cells[0]


def read_dense(name: str, given: Any, weight: str, bias: str, *, transposed: bool = False) -> Readout:
    """Read the argument `name`, a dense layer, whose arrays have these names; without a bias it is zero.

    Args:
        name: how the caller calls it.
        given: the arrays.
        weight, bias: their names.
        transposed: whether the weights are `[outputs, inputs]`.

    Raises:
        TypeError, ValueError: a name is missing or unknown, or an array does not fit; the message says which.

    Example:
        >>> read_dense("dense", {"kernel": np.ones((5, 2))}, "kernel", "bias").bias
        array([0., 0.])
    """
    axes = ("outputs", "inputs") if transposed else ("inputs", "outputs")
    kernel = array(f"{name}[{weight!r}]", held(name, given, weight), *axes)
    outputs = kernel.shape[0 if transposed else 1]
    arrays = {bias: np.zeros(outputs, kernel.dtype), **given}
    found = named(name, arrays, {weight: kernel.shape, bias: (outputs,)})
    return Readout(np.ascontiguousarray(kernel.T) if transposed else kernel, found[bias])  # type: ignore[arg-type]


def held(name: str, given: Any, key: str) -> Any:
    """Return the array of this name in the argument `name`, a dictionary.

    Raises:
        TypeError: it is no dictionary.
        ValueError: there is none of this name.

    Example:
        >>> held("linear", {"bias": [0.5, 1.5]}, "bias")
        [0.5, 1.5]
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}: expected a dictionary of arrays, got {describe(given)}")
    if key not in given:
        raise ValueError(f"{name}: expected an array {key!r}, got {reprlib.repr(sorted(map(str, given)))}")
    return given[key]


def array(name: str, value: Any, *shape: int | str) -> Any:
    """Return the argument `name` as an array of finite floats of this shape, in its own dtype.

    Args:
        name: how the caller calls it.
        value: what came.
        shape: the size of each axis, or where it may be any, what the axis is called.

    Raises:
        TypeError: it is no array of floats.
        ValueError: it has another shape, or NaN or infinity in it.

    Example:
        >>> array("bias", [0.5, 1.5], "units")
        array([0.5, 1.5])
    """
    given = np.asarray(numbers(name, value))
    if not is_floating(given):
        raise TypeError(f"{name}: expected floats, got {describe(given)}")
    if not fits(given.shape, *(None if isinstance(size, str) else size for size in shape)):
        raise ValueError(f"{name}: expected shape [{', '.join(map(str, shape))}], got {describe(given)}")
    if not np.isfinite(given).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return given


def named(name: str, given: Any, shapes: Mapping[str, tuple[int | str, ...]]) -> dict[str, Any]:
    """Return the argument `name`, a dictionary of arrays of exactly these names and shapes.

    Raises:
        TypeError, ValueError: it is none, a name is missing or unknown, or an array does not fit; the message says
            which.

    Example:
        >>> named("linear", {"bias": [0.5, 1.5]}, {"bias": (2,)})
        {'bias': array([0.5, 1.5])}
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}: expected a dictionary of arrays, got {describe(given)}")
    same_names(name, given, shapes)
    return {key: array(f"{name}[{key!r}]", given[key], *shape) for key, shape in shapes.items()}


def gates(stacked: Any, order: str, wanted: str) -> Any:
    """Return an array whose first axis stacks gates in one order in another one, or some of them.

    Example:
        >>> gates(np.array([1.0, 2.0, 3.0]), "zrn", "rzn")
        array([2., 1., 3.])
    """
    blocks = dict(zip(order, np.split(stacked, len(order)), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted])


def summed(first: Any, second: Any) -> Any:
    """Return the one bias that stands for two; a second one of zeros leaves the first its bits, those of -0 too.

    Example:
        >>> summed(np.array([-0.0, 1.0]), np.array([0.0, 2.0]))
        array([-0.,  3.])
    """
    return np.where(second == 0, first, first + second)


def dtype_of(name: str, tree: Any) -> np.dtype:
    """Return the one dtype of all arrays of the argument `name`, a pytree.

    Raises:
        TypeError: they have several.

    Example:
        >>> dtype_of("model", [np.zeros(2, np.float32), np.ones(3, np.float32)])
        dtype('float32')
    """
    dtypes = {leaf.dtype.name: leaf.dtype for leaf in jax.tree.leaves(tree)}
    if len(dtypes) != 1:
        raise TypeError(f"{name}: expected arrays of one dtype, got {' and '.join(sorted(dtypes))}")
    return next(iter(dtypes.values()))
