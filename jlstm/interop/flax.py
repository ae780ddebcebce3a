"""Flax: `LSTMCell`, `OptimizedLSTMCell`, `GRUCell` and `SimpleCell`, of linen and of nnx.

Their equations and the order of their gates are jlstm's. linen has a matrix for each gate, and so has `nnx.LSTMCell`;
the other cells of nnx stack them. All matrices are transposed. What a cell carries is `(c, h)` in Flax, `(h, c)` here;
past a sequence's length, the outputs of Flax go on, and jlstm's are zero.
"""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlstm.cells import GRU, LSTM, RNN, Cell
from jlstm.checks import describe, same_names
from jlstm.interop.model import (
    Model,
    array,
    check_cell,
    check_foreign,
    kind_of,
    model_of,
    on_embeddings,
    on_parts,
    read_dense,
    read_layers,
)
from jlstm.stack import Bidirectional, directions

__all__ = ["from_flax", "to_flax", "to_nnx"]

Form = dict[str, tuple[str, ...]]  # for each of a cell's arrays, which of Flax's are stacked in it
Arrays = dict[str, tuple[str, Any]]  # by their names, such as "cell.hi.kernel": how the caller writes it, and the array


def _form(weight_ih: str, weight_hh: str, bias: str, bias_hn: str = "") -> Form:
    kernels = {"weight_ih": weight_ih, "weight_hh": weight_hh}
    form = {field: tuple(f"{part}.kernel" for part in parts.split()) for field, parts in kernels.items()}
    biases = {"bias": bias, "bias_hn": bias_hn}
    return form | {field: tuple(f"{part}.bias" for part in parts.split()) for field, parts in biases.items() if parts}


LINEN = {
    LSTM: _form("ii if ig io", "hi hf hg ho", "hi hf hg ho"),
    GRU: _form("ir iz in", "hr hz hn", "ir iz in", "hn"),
    RNN: _form("i", "h", "i"),
}
NNX = {
    LSTM: _form("ii if_ ig io", "hi hf hg ho", "hi hf hg ho"),
    GRU: _form("dense_i", "dense_h", "dense_i"),
    RNN: _form("dense_i", "dense_h", "dense_i"),
}
OPTIMIZED = _form("dense_i", "dense_h", "dense_h")
FORMS = [*LINEN.items(), *NNX.items(), (LSTM, OPTIMIZED)]

CELLS = "LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"
KNOWN = f"of {', '.join(CELLS)}, or of an RNN or a Bidirectional of them"
WAYS = "forward_rnn", "backward_rnn"


def from_flax(layers: Any, dense: Any = None) -> Model:
    """Take over the weights of Flax's recurrent layers, and of a dense layer on top.

    Args:
        layers: an `LSTMCell`, `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, or an `RNN` or a `Bidirectional` of them;
            or a list of such, from the input upwards. Each is the tree of its parameters, as linen gives it; or a
            module of nnx, its state, or that as a pure dictionary. Where linen has the cells of both directions next
            to each other, write `jlstm.Bidirectional(tree["LSTMCell_0"], tree["LSTMCell_1"])`. A tree says nothing of
            the activations, of `residual` or of `merge_fn`, nor of the direction: they are taken to be the ones that
            Flax has unless asked. In a module of nnx they are checked.
        dense: the tree of an `nn.Dense`, or an `nnx.Linear`; None where there is none.

    Returns:
        The `Model`, its arrays of the dtype that they had; it computes in this one, whatever `dtype` a module has.

    Raises:
        TypeError, ValueError: something does not fit or has no equal here; the message names it.

    Example:
        >>> tree = {"i": {"kernel": np.ones((3, 5)), "bias": np.ones(5)}, "h": {"kernel": np.ones((5, 5))}}
        >>> from_flax({"params": {"cell": tree}}).cell
        Cell('rnn')
    """
    for name, given in (("layers", layers), ("dense", dense)):
        check_foreign(name, given, "flax", "your checkpointer")
    cell, found = read_layers("layers", layers, _layer)
    readout = None
    if dense is not None:
        arrays = _inside("params", _arrays("dense", dense, ("Linear",)))
        readout = read_dense("dense", {key: leaf for key, (_, leaf) in arrays.items()}, "kernel", "bias")
    return model_of(cell, found, readout)


def to_flax(model: Model) -> tuple[list[dict], dict | None]:
    """Give the weights as linen has them.

    `nn.RNN(nn.LSTMCell(hidden)).apply({"params": trees[0]}, xs)` runs the first layer. In a compact module the cell
    lies by itself: `{"params": {"LSTMCell_0": trees[0]["cell"]}}`. `nn.OptimizedLSTMCell` takes the same tree.

    Args:
        model: layers of an "lstm", "gru" or "rnn".

    Returns:
        The tree of each layer, as an `nn.RNN` has it, or an `nn.Bidirectional` of two; and that of an `nn.Dense`, None
        without a readout.

    Raises:
        ValueError: Flax has no such cell.

    Example:
        >>> layer = LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)
        >>> [tree], _ = to_flax(Model(LSTM, (layer,)))
        >>> tree["cell"]["if"]["kernel"].shape
        (3, 5)
    """
    return _trees(model, LINEN)


def to_nnx(model: Model, *, optimized: bool = False) -> tuple[list[dict], dict | None]:
    """Give the weights as nnx has them.

    `nnx.update(rnn, trees[0])` puts those of the first layer into `rnn = nnx.RNN(nnx.LSTMCell(...))`; those for an
    `nnx.OptimizedLSTMCell` come with `optimized=True`.

    Args:
        model: layers of an "lstm", "gru" or "rnn". An `nnx.GRUCell` has no bias within the reset product: it is zero.
        optimized: whether an LSTM is an `nnx.OptimizedLSTMCell`, which stacks the gates.

    Returns:
        The pure dictionary of each layer, as an `nnx.RNN` has it, or an `nnx.Bidirectional` of two; and that of an
        `nnx.Linear`, None without a readout.

    Raises:
        ValueError: Flax has no such cell, or not with these biases.

    Example:
        >>> layer = LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)
        >>> [tree], _ = to_nnx(Model(LSTM, (layer,)), optimized=True)
        >>> tree["cell"]["dense_i"]["kernel"].shape
        (3, 20)
    """
    check_cell("Flax", model, NNX)
    if optimized and model.cell is not LSTM:
        raise ValueError(f"optimized: expected False, of all cells but 'lstm', got True for {model.cell.name!r}")
    for k, layer in enumerate(model.layers):
        if model.cell is GRU and any(np.any(params.bias_hn) for params in directions(layer)):
            raise ValueError(f"layers[{k}].bias_hn: expected zeros, as an nnx.GRUCell has no such bias, got other ones")
    return _trees(model, NNX | {LSTM: OPTIMIZED} if optimized else NNX)


def _trees(model: Model, forms: dict[Cell, Form]) -> tuple[list[dict], dict | None]:
    check_cell("Flax", model, forms)
    trees = []
    for layer in model.layers:
        each = [{"cell": _tree(params, forms[model.cell])} for params in directions(layer)]
        trees.append(dict(zip(WAYS, each, strict=True)) if len(each) > 1 else each[0])
    readout = model.readout
    return trees, readout and {"kernel": np.array(readout.weight), "bias": np.array(readout.bias)}


def _tree(params: Any, form: Form) -> dict[str, dict[str, np.ndarray]]:
    """Return the parameters of one direction as a cell of Flax holds them."""
    tree: dict[str, dict[str, np.ndarray]] = {}
    for field, names in form.items():
        for name, block in zip(names, np.split(np.asarray(getattr(params, field)), len(names)), strict=True):
            part, kind = name.split(".")
            tree.setdefault(part, {})[kind] = np.array(block.T, order="C")
    return tree


def _layer(name: str, given: Any) -> tuple[Cell, Any]:
    """Return the cell of one layer, and its parameters."""
    arrays = _inside("params", _arrays(name, given, (*CELLS, "RNN", "Bidirectional")))
    if not any(key.startswith(f"{WAYS[0]}.") for key in arrays):
        return _direction(name, arrays)
    same_names(name, {key.partition(".")[0] for key in arrays}, WAYS)
    of_ways = [{key: found for key, found in arrays.items() if key.startswith(f"{way}.")} for way in WAYS]
    names = [f"{name}[{way!r}]" for way in WAYS]
    pair = Bidirectional(*(_inside(way, found) for way, found in zip(WAYS, of_ways, strict=True)))
    (cell, forward), (other, backward) = map(_direction, names, pair)
    if cell is not other:
        raise ValueError(f"{name}: expected directions of one kind, got {cell.name} and {other.name}")
    return cell, Bidirectional(forward, backward)


def _direction(name: str, arrays: Arrays) -> tuple[Cell, Any]:
    """Return the cell of one direction, and its parameters."""
    arrays = _inside("cell", arrays)
    held = [(cell, form) for cell, form in FORMS if form["weight_hh"][0] in arrays and form["weight_ih"][0] in arrays]
    if not held:
        parts = _parts(arrays)
        advice = f"; hand over one part, {' or '.join(parts)}" if parts else ""
        raise ValueError(f"{name}: expected the parameters {KNOWN}, got {reprlib.repr(sorted(arrays))}{advice}")
    inputs, _ = array(*arrays[held[0][1]["weight_ih"][0]], "inputs", "units").shape
    hidden, columns = array(*arrays[held[0][1]["weight_hh"][0]], "hidden", "units").shape

    def likeness(of: tuple[Cell, Form]) -> tuple[bool, int]:
        """Say whether there are as many gates, and how many names are known."""
        cell, form = of
        fits = columns * len(form["weight_hh"]) == hidden * len(cell.blocks.weight_hh)
        return fits, len(arrays.keys() & _names(form))

    cell, form = max(held, key=likeness)
    same_names(name, arrays.keys(), _names(form))
    found = {"bias_hn": np.zeros(hidden, np.asarray(arrays[form["bias"][0]][1]).dtype)} if cell is GRU else {}
    for field, names in form.items():
        rows = hidden * len(getattr(cell.blocks, field)) // len(names)
        shape = {"weight_ih": (inputs, rows), "weight_hh": (hidden, rows)}.get(field, (rows,))
        found[field] = np.concatenate([array(*arrays[each], *shape).T for each in names])
    return cell, type(cell.blocks)(**found)


def _parts(arrays: Arrays) -> list[str]:
    """Return the cells within a larger tree, as the caller writes them."""
    found: dict[str, None] = {}
    for key, (path, _) in arrays.items():
        for _, form in FORMS:
            inside = key.removesuffix(f".{form['weight_hh'][0]}")
            if inside != key and f"{inside}.{form['weight_ih'][0]}" in arrays:
                found[path.rpartition("[")[0].rpartition("[")[0]] = None
    return [*found]


def _names(form: Form) -> set[str]:
    return {name for names in form.values() for name in names}


def _arrays(name: str, given: Any, modules: tuple[str, ...]) -> Arrays:
    """Return the arrays of a tree, or of such a module of nnx, but for keys of randomness, which are not weights."""
    if not isinstance(given, Mapping):
        _check_module(name, given, modules)
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(given)[0]:
        if path and getattr(path[-1], "name", None) == "value":  # a variable of nnx is a node, with its array in it
            path = path[:-1]
        key = jax.tree_util.keystr(path, simple=True, separator=".")
        if "rngs" not in key.split("."):
            found[key] = name + jax.tree_util.keystr(path), leaf
    return found


def _inside(key: str, arrays: Arrays) -> Arrays:
    """Return the arrays within `key`, where all are."""
    start = f"{key}."
    inside = all(each.startswith(start) for each in arrays)
    return {each.removeprefix(start): found for each, found in arrays.items()} if inside else arrays


def _check_module(name: str, module: Any, known: tuple[str, ...]) -> None:
    """Raise an error unless a module of nnx is one of these and computes what jlstm does."""
    kind = _kind(name, module, known)
    if kind == "Bidirectional":
        _check_function(f"{name}.merge_fn", module.merge_fn, "concatenate", lambda a, b: jnp.concat([a, b], axis=-1))
        for way in WAYS:  # it says itself who reads backwards
            rnn = getattr(module, way)
            _kind(f"{name}.{way}", rnn, ("RNN",))
            _check_module(f"{name}.{way}.cell", rnn.cell, CELLS)
    if kind == "RNN":
        if module.reverse:
            raise ValueError(f"{name}.reverse: expected False; for both directions hand over the cells, got True")
        _check_module(f"{name}.cell", module.cell, CELLS)
    if hasattr(module, "gate_fn"):
        _check_function(f"{name}.gate_fn", module.gate_fn, "sigmoid", jax.nn.sigmoid)
    if hasattr(module, "activation_fn"):
        _check_function(f"{name}.activation_fn", module.activation_fn, "tanh", jnp.tanh)
    if getattr(module, "residual", False):
        raise ValueError(f"{name}.residual: expected False, got True")


def _kind(name: str, module: Any, known: tuple[str, ...]) -> str:
    library, _, kind = kind_of(module).partition(".")
    if any(base.__module__.startswith("flax.linen") for base in type(module).__mro__):
        came = f"an nn.{kind}" if library == "flax" else kind
        raise TypeError(f"{name}: expected the tree of its parameters, got {came}, which does not hold them")
    if library != "flax":
        came = f"{describe(module)}{on_parts(module, known)}"
        raise TypeError(f"{name}: expected a tree of parameters or a module of nnx, got {came}")
    if kind not in known:
        raise TypeError(f"{name}: expected an nnx.{' or nnx.'.join(known)}, got an nnx.{kind}{on_embeddings(module)}")
    return kind


def _check_function(name: str, given: Any, expected: str, wanted: Callable) -> None:
    """Raise an error unless two functions agree."""
    points = jnp.array([[-100.0, -8.0, -3.0, -1.0, -0.1], [0.3, 0.9, 2.0, 8.0, 100.0]])
    arguments = points if expected == "concatenate" else [points]
    got, right = given(*arguments), wanted(*arguments)
    if got.shape != right.shape or not np.allclose(got, right, rtol=0, atol=1e-6):
        raise ValueError(f"{name}: expected {expected}, got {getattr(given, '__name__', None) or describe(given)}")
