"""The JSON of the NumPy program that has the interface of `LSTMNetwork`: an LSTM of one layer and a readout.

It has a matrix for each gate, which works on the hidden state with the input behind it, `[h; x]`, and biases that are
columns:

    f, i, o = σ(W_f [h; x] + b_f), σ(W_i [h; x] + b_i), σ(W_o [h; x] + b_o)
    c'      = f ⊙ c + i ⊙ tanh(W_c [h; x] + b_c)
    h'      = o ⊙ tanh(c')
    y       = W_y h' + b_y
"""

import json
import os
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jlstm.cells import LSTM, LSTMParams
from jlstm.checks import describe, floating, is_floating, is_integer, numbers, same_names
from jlstm.interop.model import Model, array, check_cell, dtype_of, model_of, named
from jlstm.model import Readout
from jlstm.stack import Bidirectional

__all__ = ["from_documented", "to_documented"]

GATES = "ifco"  # jlstm's order, by the program's names


def from_documented(source: Any, dtype: Any = None) -> Model:
    """Take over the weights of the NumPy program.

    Args:
        source: the path of its JSON file, or what is in it, a dictionary of lists or arrays: `Wf`, `Wi`, `Wc` and `Wo`
            `[H, H + I]`, `Wy` `[C, H]`, `bf`, `bi`, `bc` and `bo` `[H, 1]` and `by` `[C, 1]`, or `[H]` and `[C]`.
        dtype: what the weights are rounded to, such as `np.float32`, in which networks are; where None, nothing is
            rounded: lists are float64, as the program's own weights, and arrays what they are.

    Returns:
        The `Model`.

    Raises:
        OSError: there is no such file.
        TypeError, ValueError: something does not fit; the message names it.

    Example:
        >>> weights = {"Wy": np.ones((2, 5)), "by": np.ones((2, 1))}
        >>> weights |= {f"W{gate}": np.ones((5, 8)) for gate in "fico"}
        >>> weights |= {f"b{gate}": np.ones((5, 1)) for gate in "fico"}
        >>> from_documented(weights).layers[0].weight_ih.shape
        (20, 3)
    """
    given = _read(source) if isinstance(source, (str, os.PathLike)) else source
    if not isinstance(given, Mapping):
        raise TypeError(f"source: expected the path of a JSON file or a dictionary, got {describe(given)}")
    dtype = None if dtype is None else floating("dtype", dtype)
    same_names("source", given, [f"{kind}{name}" for kind in "Wb" for name in "ficoy"])
    values: Any = {key: _floats(f"source[{key!r}]", value, dtype) for key, value in given.items()}
    units, width = array("source['Wf']", values["Wf"], "H", "H + I").shape
    outputs = array("source['Wy']", values["Wy"], "C", units).shape[0]
    if width <= units:
        raise ValueError(f"source['Wf']: expected shape [H, H + I], got shape [{units}, {width}]")
    shapes: dict[str, tuple[int, ...]] = {f"W{gate}": (units, width) for gate in GATES} | {"Wy": (outputs, units)}
    for key, size in [*((f"b{gate}", units) for gate in GATES), ("by", outputs)]:
        shapes[key] = (size,) if np.ndim(values[key]) == 1 else (size, 1)
    found = named("source", values, shapes)
    dtype_of("source", found)
    weights = np.concatenate([found[f"W{gate}"] for gate in GATES])
    bias: Any = np.concatenate([found[f"b{gate}"].reshape(-1) for gate in GATES])
    parts: Any = map(np.ascontiguousarray, (weights[:, units:], weights[:, :units], found["Wy"].T))
    weight_ih, weight_hh, weight_out = parts
    return model_of(LSTM, [LSTMParams(weight_ih, weight_hh, bias)], Readout(weight_out, found["by"].reshape(-1)))


def to_documented(model: Model) -> dict[str, list]:
    """Give the weights as the NumPy program has them, ready for `json.dump`.

    The program is told of a softmax when it is started: its weights do not say whether there is one.

    Args:
        model: one layer of an "lstm" in one direction, with a readout of each step.

    Returns:
        Nested lists of floats by the program's names. A float32 or float64 is the same number when it is read again.

    Raises:
        ValueError: the program has no such layers or readout.

    Example:
        >>> import jax
        >>> layer = LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)
        >>> list(to_documented(Model(LSTM, (layer,), Readout(np.ones((5, 2)), np.ones(2)))))
        ['Wf', 'Wi', 'Wc', 'Wo', 'Wy', 'bf', 'bi', 'bc', 'bo', 'by']
    """
    check_cell("the program", model, {LSTM: "LSTM"})
    if len(model.layers) != 1 or isinstance(model.layers[0], Bidirectional):
        came = f"{len(model.layers)} layers" if len(model.layers) != 1 else "one in both directions"
        raise ValueError(f"model.layers: expected one in one direction, as the program has it, got {came}")
    if model.readout is None:
        raise ValueError("model.readout: expected one, as the program has it, got None")
    if model.target != "each" or model.activation == "sigmoid":
        field, expected = ("target", "'each'") if model.target != "each" else ("activation", "None or 'softmax'")
        raise ValueError(f"model.{field}: expected {expected}, as the program has it, got {getattr(model, field)!r}")
    [layer] = model.layers
    weights = dict(zip(GATES, np.split(np.concatenate([layer.weight_hh, layer.weight_ih], axis=1), 4), strict=True))
    biases = dict(zip(GATES, np.split(np.asarray(layer.bias), 4), strict=True))
    weights["y"], biases["y"] = np.asarray(model.readout.weight).T, np.asarray(model.readout.bias)
    found = {f"W{gate}": weights[gate] for gate in "ficoy"} | {f"b{gate}": biases[gate][:, None] for gate in "ficoy"}
    return {key: value.astype(np.float64).tolist() for key, value in found.items()}


def _read(path: Any) -> Any:
    """Return the object that a file of JSON is of."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        found = json.loads(data, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:  # of which some are of json's and of codecs' own kinds
        raise ValueError(f"source: expected JSON, got {type(error).__name__}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"source: expected an object of JSON, got {describe(found)}")
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = sorted(key for key in found if sum(key == each for each, _ in pairs) > 1)
        raise ValueError(f"{reprlib.repr(twice)} more than once")
    return found


def _floats(name: str, value: Any, dtype: Any) -> Any:
    """Return numbers as an array, a list's in float64, as JSON knows no integers; or rounded to a dtype."""
    found = np.asarray(numbers(name, value))
    if isinstance(value, (list, tuple)) and is_integer(found):
        found = found.astype(np.float64)
    if dtype is None or not is_floating(found):
        return found
    with np.errstate(over="ignore"):
        return found.astype(dtype)
