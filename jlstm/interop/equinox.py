"""Equinox: `eqx.nn.LSTMCell` and `eqx.nn.GRUCell`, whose arrays are jlstm's.

A GRU's second bias, `bias_n`, is jlstm's `bias_hn`; `eqx.nn.Linear` has its weights transposed.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlstm.cells import GRU, LSTM, Cell
from jlstm.checks import describe, library
from jlstm.interop.model import (
    Model,
    array,
    check_cell,
    check_foreign,
    dtype_of,
    held,
    kind_of,
    model_of,
    named,
    on_embeddings,
    on_parts,
    read_dense,
    read_layers,
)
from jlstm.stack import Bidirectional, directions

__all__ = ["from_equinox", "to_equinox"]

MODULES = {LSTM: "LSTMCell", GRU: "GRUCell"}
FIELDS = {"weight_ih": "weight_ih", "weight_hh": "weight_hh", "bias": "bias", "bias_hn": "bias_n"}  # Equinox's names


def from_equinox(layers: Any, linear: Any = None) -> Model:
    """Take over the weights of Equinox's recurrent cells, and of a linear layer on top.

    Args:
        layers: an `eqx.nn.LSTMCell` or `eqx.nn.GRUCell`, with or without biases; `jlstm.Bidirectional(forward,
            backward)` of two that read in both directions; or a list of such, from the input upwards. A dictionary of
            a cell's arrays, by the names of its fields, stands for it.
        linear: the `eqx.nn.Linear` on top, or a dictionary of its arrays; None where there is none.

    Returns:
        The `Model`, its arrays of the dtype that they had.

    Raises:
        TypeError, ValueError: something does not fit or has no equal here; the message names it.

    Example:
        >>> arrays = {"weight_ih": np.ones((20, 3)), "weight_hh": np.ones((20, 5)), "bias": np.ones(20)}
        >>> from_equinox([arrays, arrays | {"weight_ih": np.ones((20, 5))}]).layers[1].weight_ih.shape
        (20, 5)
    """
    for name, given in (("layers", layers), ("linear", linear)):
        check_foreign(name, given, "equinox", "eqx.tree_deserialise_leaves")
    cell, found = read_layers("layers", layers, _params)
    readout = None
    if linear is not None:
        arrays = _arrays("linear", linear, ("Linear",), ("weight", "bias"))
        readout = read_dense("linear", arrays, "weight", "bias", transposed=True)
    return model_of(cell, found, readout)


def to_equinox(model: Model) -> tuple[list, Any]:
    """Give the weights as Equinox's modules.

    Args:
        model: layers of an "lstm" or a "gru".

    Returns:
        An `eqx.nn.LSTMCell` or `eqx.nn.GRUCell` for each layer, `jlstm.Bidirectional` of two where it reads in both
        directions; and an `eqx.nn.Linear`, None without a readout.

    Raises:
        ValueError: Equinox has no such cell; or the arrays need `jax_enable_x64`, and it is off.
        ModuleNotFoundError: Equinox is not installed.
    """
    check_cell("Equinox", model, MODULES)
    dtype = dtype_of("model", [model.layers, model.readout])
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        came = f"{dtype}, which needs jax_enable_x64"
        raise ValueError(f"model: expected a dtype of 32 bits or less, got {came}; write astype(np.float32)")
    layers = []
    for layer in model.layers:
        cells = [_cell(MODULES[model.cell], params) for params in directions(layer)]
        layers.append(Bidirectional(*cells) if len(cells) > 1 else cells[0])
    readout = model.readout
    if readout is None:
        return layers, None
    return layers, _module("Linear", *readout.weight.shape, weight=readout.weight.T, bias=readout.bias)


def _cell(kind: str, params: Any) -> Any:
    arrays = {FIELDS[field]: each for field, each in params._asdict().items()}
    return _module(kind, params.weight_ih.shape[1], params.weight_hh.shape[1], **arrays)


def _module(kind: str, inputs: int, outputs: int, **arrays: Any) -> Any:
    """Return a module of Equinox of these sizes, with these arrays in place of the ones that it would draw."""
    equinox = library("equinox", extra="interop")
    empty = equinox.filter_eval_shape(getattr(equinox.nn, kind), inputs, outputs, key=jax.random.key(0))
    return equinox.tree_at(
        lambda module: [getattr(module, name) for name in arrays], empty, [jnp.array(each) for each in arrays.values()]
    )


def _arrays(name: str, given: Any, kinds: Collection[str], fields: Collection[str]) -> Mapping[str, Any]:
    """Return those of the fields of such a module, or of a dictionary, that there are."""
    if isinstance(given, Mapping):
        return given
    if kind_of(given) not in [f"equinox.{kind}" for kind in kinds]:
        came = f"{describe(given)}{on_embeddings(given)}{on_parts(given, kinds)}"
        raise TypeError(f"{name}: expected an eqx.nn.{' or eqx.nn.'.join(kinds)}, got {came}")
    found = {field: getattr(given, field, None) for field in fields}
    return {field: each for field, each in found.items() if each is not None}


def _params(name: str, given: Any) -> tuple[Cell, Any]:
    """Return the cell of one direction, and its parameters."""
    arrays = _arrays(name, given, MODULES.values(), FIELDS.values())
    rows, inputs = array(f"{name}['weight_ih']", held(name, arrays, "weight_ih"), "rows", "inputs").shape
    hidden = array(f"{name}['weight_hh']", held(name, arrays, "weight_hh"), rows, "hidden").shape[1]
    cells = {len(cell.blocks.weight_hh) * hidden: cell for cell in MODULES}
    if rows not in cells:
        expected = f"{' or '.join(map(str, cells))} rows, of an LSTM or a GRU"
        raise ValueError(f"{name}['weight_hh']: expected {expected}, got shape [{rows}, {hidden}]")
    cell = cells[rows]
    biases: dict[str, Any] = {"bias": (rows,)} if cell is LSTM else {"bias": (rows,), "bias_n": (hidden,)}
    if not arrays.keys() & biases:
        arrays = {**arrays, **{each: np.zeros(shape, arrays["weight_ih"].dtype) for each, shape in biases.items()}}
    found = named(name, arrays, {"weight_ih": (rows, inputs), "weight_hh": (rows, hidden)} | biases)
    return cell, type(cell.blocks)(*found.values())
