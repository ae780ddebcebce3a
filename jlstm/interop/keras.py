"""Keras: layers, models that are a chain of them, or the lists of arrays that `get_weights` gives.

Keras's arrays are jlstm's, turned. Its GRU has the update gate first and, with `reset_after`, a second bias: jlstm has
the sum, but for the candidate, whose second is inside the product with the reset gate.
"""

import itertools
from typing import Any

import numpy as np

from jlstm.cells import GRU, GRU_BEFORE, LSTM, RNN, Cell, GRUParams
from jlstm.checks import describe
from jlstm.interop.model import (
    Model,
    array,
    check_cell,
    check_foreign,
    gates,
    model_of,
    on_embeddings,
    on_parts,
    one_kind,
    summed,
)
from jlstm.model import Readout
from jlstm.stack import Bidirectional, directions

__all__ = ["from_keras", "to_keras"]

ORDERS = {LSTM: "ifgo", GRU: "zrn", GRU_BEFORE: "zrn", RNN: "h"}  # the gates as Keras stacks them
CELLS = {"LSTM": LSTM, "GRU": GRU, "SimpleRNN": RNN}
LIST = "list of arrays"
RECURRENT = {*CELLS, "Bidirectional", LIST}
DENSE = {"Dense", "TimeDistributed", LIST}
DROPOUTS = {"Dropout", "SpatialDropout1D", "GaussianDropout", "AlphaDropout"}
IDENTITIES = {"InputLayer", "GaussianNoise", "ActivityRegularization", *DROPOUTS}  # outside of training
ACTIVATIONS = {"linear": None, "softmax": "softmax", "sigmoid": "sigmoid"}
CHAIN = (
    "LSTM, GRU, SimpleRNN or Bidirectional layers, then at most a GlobalAveragePooling1D, a Dense and its Activation "
    "or Softmax"
)


def from_keras(layers: Any, dense: Any = None) -> Model:
    """Take over the weights of Keras's recurrent layers, and of a dense layer on top.

    What belongs to training, dropout among it, is not in the weights and is not taken over, even where a layer is told
    to drop always, by `training=True`. Nor is how a layer passes
    its state on, `stateful` and `return_state`: here whoever runs the layers has it. A `Masking` layer is an error, as
    no weights stand for it: leave it out, `from_keras(model.layers[1:])`, and give `lengths` to what runs the layers.

    Args:
        layers: a layer, an `LSTM`, `GRU` or `SimpleRNN` with tanh and sigmoid or a `Bidirectional` of one; the list of
            arrays that its `get_weights` gives, which says nothing of its activations: they are taken to be these; a
            list of such, from the input upwards; or a `Sequential` or functional model. A list or model may have on top
            a `GlobalAveragePooling1D`, a `Dense` and its `Activation` or `Softmax`, each of them or not.
        dense: the `Dense` on top, plain or `TimeDistributed`, or what its `get_weights` gives, where `layers` has none.

    Returns:
        The `Model`, its arrays of the dtype that they had. Its target is "last" where the top layer has
        `return_sequences=False`, "mean" under a `GlobalAveragePooling1D`, and "each" otherwise, as of lists of arrays.

    Raises:
        TypeError, ValueError: something does not fit or has no equal here; the message names it, the layers of a model
            as `model.layers[0]`.

    Example:
        >>> from_keras([np.ones((3, 20)), np.ones((5, 20)), np.ones(20)]).layers[0].weight_ih.shape
        (20, 3)
    """
    for name, given in (("layers", layers), ("dense", dense)):
        check_foreign(name, given, "keras", "keras.models.load_model")
    chain = [(name, each) for name, each in _chain("layers", layers) if _kind(each) not in IDENTITIES]
    below = list(itertools.takewhile(lambda named: _kind(named[1]) in RECURRENT, chain))
    above = chain[len(below) :] + ([] if dense is None else [("dense", dense)])
    if not below:
        raise _unknown(*chain[0]) if chain else TypeError(f"layers: expected {CHAIN}, got none of them")
    _check_one_dense(chain[len(below) :], dense)
    for name, each in below[:-1]:
        _expect(name, each, return_sequences=True)
    cells, found = zip(*(_layer(name, each) for name, each in below), strict=True)
    readout, target, activation = _on_top(above, "each" if _gives_each(below[-1][1]) else "last")
    return model_of(one_kind("layers", cells), list(found), readout, target, activation)


def to_keras(model: Model) -> tuple[list[list[np.ndarray]], list[np.ndarray] | None]:
    """Give the weights as Keras has them.

    Args:
        model: layers of an "lstm", "gru", "gru_before" or "rnn". Its target and activation are in no weights: in Keras
            they are the top layer's `return_sequences` and the `activation` of the `Dense`.

    Returns:
        A list of arrays for each layer's `set_weights`, and one for a `Dense`'s, None without a readout. A "gru" is a
        `GRU` with `reset_after=True`, its second biases zero but for the candidate's; a "gru_before" is one without.

    Raises:
        ValueError: Keras has no such cell.

    Example:
        >>> import jax
        >>> layer = LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)
        >>> [each.shape for each in to_keras(Model(LSTM, (layer,)))[0][0]]
        [(3, 20), (5, 20), (20,)]
    """
    check_cell("Keras", model, ORDERS)
    layers = [[each for own in directions(layer) for each in _turned(model.cell, own)] for layer in model.layers]
    return layers, model.readout and [np.array(each) for each in model.readout]


def _turned(cell: Cell, params: Any) -> list[np.ndarray]:
    """Return the arrays of one direction as Keras has them."""
    ours, theirs = cell.blocks.weight_ih, ORDERS[cell]
    recurrent, bias = params.weight_hh, gates(params.bias, ours, theirs)
    if cell is GRU_BEFORE:
        recurrent = np.concatenate([recurrent, params.weight_hn])
    if cell is GRU:
        outside = np.zeros_like(params.bias[: -len(params.bias_hn)])
        bias = np.stack([bias, gates(np.concatenate([outside, params.bias_hn]), ours, theirs)])
    kernels = [np.ascontiguousarray(gates(each, ours, theirs).T) for each in (params.weight_ih, recurrent)]
    return [*kernels, bias]


def _is_of_keras(given: Any) -> bool:
    """Whether a class or function is one of Keras, which need not be imported to tell."""
    return str(getattr(given, "__module__", "")).split(".")[0] == "keras"


def _kind(given: Any) -> str:
    """Return the name of the class of a layer of Keras; "" of what is none."""
    if isinstance(given, (list, tuple)):
        return LIST
    return type(given).__name__ if _is_of_keras(type(given)) else ""


def _shown(given: Any) -> str:
    """Return a layer as an error shows it."""
    named = hasattr(given, "name") and not isinstance(given, type)
    return f"{type(given).__name__} {given.name!r}" if named else describe(given)


def _unknown(name: str, given: Any) -> TypeError:
    """Return the error about a layer that has no equal here, or stands where it can not."""
    return TypeError(f"{name}: expected {CHAIN}, got {_shown(given)}{on_embeddings(given)}{on_parts(given, RECURRENT)}")


def _chain(name: str, given: Any) -> list[tuple[str, Any]]:
    """Return the layers from the input upwards, and how they are written."""
    if _kind(given) in {"Sequential", "Functional"}:
        name, parts = "model.layers", given.layers
    elif _kind(given) == LIST and not any(hasattr(each, "shape") for each in given):
        parts = given
    else:
        return [(name, given)]
    named = [(f"{name}[{k}]", each) for k, each in enumerate(parts)]
    for k, (at, each) in enumerate(named):
        if _kind(each) == "Masking":
            advice = f"hand over {name}[{k + 1}:], and lengths to what runs the layers"
            raise ValueError(f"{at}: expected no Masking, which has no weights, got {_shown(each)}; {advice}")
    if _kind(given) == "Functional":
        _check_chain(named, given.outputs)
    return named


def _check_chain(named: list[tuple[str, Any]], outputs: list) -> None:
    """Raise an error unless each layer of a functional model reads the one below, and the top one's is the output."""
    given = [each.output[0] if isinstance(each.output, list) else each.output for _, each in named]
    for output, (name, layer) in zip(given, named[1:], strict=False):
        if layer.input is not output:
            raise ValueError(f"{name}: expected to be called once, on what the layer below gives, got {_shown(layer)}")
    if len(outputs) != 1 or outputs[0] is not given[-1]:
        name, layer = named[-1]
        raise ValueError(f"{name}: expected to be called once, for the model's only output, got {_shown(layer)}")


def _expect(name: str, layer: Any, **wanted: Any) -> None:
    """Raise an error unless a layer, of which a list of arrays says nothing, is set so."""
    for attribute, expected in wanted.items():
        value = expected if _kind(layer) == LIST else getattr(layer, attribute)
        if value != expected:
            raise ValueError(f"{name}.{attribute}: expected {expected!r}, got {value!r}")


def _gives_each(layer: Any) -> bool:
    return _kind(layer) == LIST or layer.return_sequences


def _activation(name: str, layer: Any, attribute: str, known: dict[str, Any]) -> Any:
    """Return what a function of Keras is called here."""
    function = getattr(layer, attribute)
    called = getattr(function, "__name__", "") if _is_of_keras(function) else ""
    if called not in known:
        expected = " or ".join(repr(each) for each in known)
        raise ValueError(f"{name}.{attribute}: expected {expected}, got {called or function!r}")
    return known[called]


def _layer(name: str, given: Any) -> tuple[Cell, Any]:
    """Return the cell of a layer, and its parameters."""
    if _kind(given) == LIST:
        found = [_params(name, each, None) for each in _ways(name, given)]
    elif _kind(given) == "Bidirectional":
        _expect(name, given, merge_mode="concat")
        found = [
            _direction(f"{name}.forward_layer", given.forward_layer, backwards=False),
            _direction(f"{name}.backward_layer", given.backward_layer, backwards=True),
        ]
    else:
        found = [_direction(name, given, backwards=False)]
    cells, params = zip(*found, strict=True)
    return one_kind(name, cells), Bidirectional(*params) if len(params) > 1 else params[0]


def _direction(name: str, layer: Any, backwards: bool) -> tuple[Cell, Any]:
    """Return the cell of a layer that reads in one direction, and its parameters."""
    kind = _kind(layer)
    if kind not in CELLS:
        raise TypeError(f"{name}: expected one of {', '.join(CELLS)}, got {_shown(layer)}")
    _activation(name, layer, "activation", {"tanh": "tanh"})
    if kind != "SimpleRNN":
        _activation(name, layer, "recurrent_activation", {"sigmoid": "sigmoid"})
    _expect(name, layer, go_backwards=backwards)
    cell = GRU_BEFORE if kind == "GRU" and not layer.reset_after else CELLS[kind]
    return _params(name, _arrays(name, layer), cell)


def _arrays(name: str, layer: Any) -> dict[str, Any]:
    """Return the arrays of a layer, or of a list, by how they are written."""
    if _kind(layer) == LIST:
        return {f"{name}[{k}]": each for k, each in enumerate(layer)}
    if not layer.built:
        raise ValueError(f"{name}: expected a layer that was built, which its first inputs do, got {_shown(layer)}")
    return {f"{name}.get_weights()[{k}]": each for k, each in enumerate(layer.get_weights())}


def _ways(name: str, given: Any) -> list[dict[str, Any]]:
    """Return the arrays of each direction of a list."""
    arrays = [*_arrays(name, given).items()]
    if len(arrays) not in (2, 3, 4, 6):
        expected = "the 2 or 3 arrays of a layer, with a bias or none, or the 4 or 6 of a Bidirectional"
        advice = "of several layers hand over a list of the get_weights() of each layer"
        raise ValueError(f"{name}: expected {expected}, got {len(arrays)}; {advice}")
    half = len(arrays) // 2
    return [dict(each) for each in ([arrays[:half], arrays[half:]] if len(arrays) > 3 else [arrays])]


def _params(name: str, arrays: dict[str, Any], cell: Cell | None) -> tuple[Cell, Any]:
    """Return the cell of one direction, told by its arrays where None is given, and its parameters."""
    (of_kernel, kernel), (of_recurrent, recurrent), *bias = arrays.items()
    units, columns = array(of_recurrent, recurrent, "units", "columns").shape
    if cell is None:
        cell = _cell(name, of_recurrent, units, columns, [np.ndim(each) for _, each in bias])
    weight_ih, recurrent = array(of_kernel, kernel, "inputs", columns).T, np.asarray(recurrent).T
    shape = (2, columns) if cell is GRU else (columns,)
    biases = array(*bias[0], *shape) if bias else np.zeros(shape, weight_ih.dtype)
    theirs, blocks = ORDERS[cell], cell.blocks
    weight_ih, weight_hh = gates(weight_ih, theirs, blocks.weight_ih), gates(recurrent, theirs, blocks.weight_hh)
    if cell is GRU:
        first, second = biases
        outside: Any = np.concatenate([gates(summed(first, second), theirs, "rz"), gates(first, theirs, "n")])
        return cell, GRUParams(weight_ih, weight_hh, outside, gates(second, theirs, "n"))
    rest = [gates(recurrent, theirs, blocks.weight_hn)] if cell is GRU_BEFORE else []
    return cell, type(blocks)(weight_ih, weight_hh, gates(biases, theirs, blocks.bias), *rest)


def _cell(name: str, of_recurrent: str, units: int, columns: int, bias: list[int]) -> Cell:
    """Return the cell whose recurrent kernel has this shape, its bias, where there is one, so many axes."""
    if columns == 3 * units and not bias:
        raise ValueError(
            f"{name}: expected a bias, whose shape tells the two forms of a GRU apart, or the layer itself, got none"
        )
    gru = GRU if bias == [2] else GRU_BEFORE
    for cell in (LSTM, gru, RNN):
        if columns == len(ORDERS[cell]) * units:
            return cell
    expected = " or ".join(str(len(ORDERS[cell]) * units) for cell in (LSTM, GRU, RNN))
    raise ValueError(
        f"{of_recurrent}: expected {expected} columns, of an LSTM, a GRU or a SimpleRNN, got shape [{units}, {columns}]"
    )


def _on_top(above: list[tuple[str, Any]], target: Any) -> tuple[Readout | None, Any, Any]:
    """Return the readout, the target and the activation that the layers above the recurrent ones are."""
    readout, activation, rest = None, None, list(above)
    if rest and _kind(rest[0][1]) == "GlobalAveragePooling1D" and target == "each":
        _expect(*rest.pop(0), keepdims=False, data_format="channels_last")
        target = "mean"
    if rest and _kind(rest[0][1]) in DENSE:
        readout, activation = _dense(*rest.pop(0))
        if rest and not activation and _kind(rest[0][1]) == "Softmax":
            _expect(*rest.pop(0), axis=-1)
            activation = "softmax"
        elif rest and not activation and _kind(rest[0][1]) == "Activation":
            activation = _activation(*rest.pop(0), "activation", ACTIVATIONS)
    if rest:
        raise _unknown(*rest[0])
    return readout, target, activation


def _check_one_dense(above: list[tuple[str, Any]], dense: Any) -> None:
    """Raise an error if more than one dense layer is above the recurrent ones."""
    found = [_shown(each) for _, each in above if _kind(each) in DENSE]
    if found and dense is not None:
        raise ValueError(f"dense: expected None, as layers has {found[-1]} on top, got {_shown(dense)}; leave it out")
    if len(found) > 1:
        raise ValueError(f"layers: expected one Dense on top, got {len(found)}, {' and '.join(found)}")


def _dense(name: str, layer: Any) -> tuple[Readout, Any]:
    if _kind(layer) == "TimeDistributed":
        name, layer = f"{name}.layer", layer.layer
    if _kind(layer) not in ("Dense", LIST):
        raise TypeError(f"{name}: expected a Dense, got {_shown(layer)}")
    activation = None if _kind(layer) == LIST else _activation(name, layer, "activation", ACTIVATIONS)
    arrays = [*_arrays(name, layer).items()]
    if len(arrays) not in (1, 2):
        raise ValueError(f"{name}: expected 1 or 2 arrays, with a bias or none, got {len(arrays)}")
    weight = array(*arrays[0], "inputs", "outputs")
    bias = array(*arrays[1], weight.shape[1]) if len(arrays) > 1 else np.zeros(weight.shape[1], weight.dtype)
    return Readout(np.array(weight), np.array(bias)), activation  # type: ignore[arg-type]
