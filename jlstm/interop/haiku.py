"""Haiku: `hk.LSTM` and `hk.GRU`.

`hk.LSTM` has one matrix `[I + H, 4H]` for the input and the hidden state, its gates in the order i, g, f, o, and adds 1
to the forget gate where it computes it. `hk.GRU` resets before the product, as `gru_before` does, its gates in the
order z, r, n; its z is how much is renewed, here how much is kept: since 1 - σ(a) = σ(-a), the signs of z turn.
"""

import itertools
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jlstm.cells import GRU_BEFORE, LSTM, Cell, GRUBeforeParams, LSTMParams
from jlstm.checks import describe
from jlstm.interop.model import (
    Model,
    array,
    check_cell,
    check_foreign,
    gates,
    held,
    model_of,
    named,
    read_dense,
    read_layers,
)
from jlstm.stack import Bidirectional, directions

__all__ = ["from_haiku", "to_haiku"]

MODULES = {LSTM: "LSTM", GRU_BEFORE: "GRU"}


def from_haiku(params: Any, layers: Any, linear: str | None = None) -> Model:
    """Take over the weights of Haiku's recurrent cores, and of a linear layer on top.

    Haiku's forget gate is σ(z + 1), so the bias of jlstm's is its own and 1, which is rounded: see `to_haiku`.

    Args:
        params: the parameters, as `init` of a transformed function gives them.
        layers: the name of an `hk.LSTM` or `hk.GRU` in them, such as "lstm" or "agent/~/lstm_1"; or a list of such,
            from the input upwards, `jlstm.Bidirectional("lstm", "lstm_1")` where two read in both directions. What is
            not named is not taken over.
        linear: the name of the `hk.Linear` on top; None where there is none.

    Returns:
        The `Model`, its arrays of the dtype that they had.

    Raises:
        TypeError, ValueError: something does not fit or has no equal here; the message names it.

    Example:
        >>> params = {"lstm/linear": {"w": np.ones((8, 20)), "b": np.zeros(20)}}
        >>> from_haiku(params, "lstm").layers[0].weight_ih.shape
        (20, 3)
    """
    check_foreign("params", params, "haiku", "pickle or NumPy")
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a dictionary of dictionaries of arrays, got {describe(params)}")
    cell, found = read_layers("layers", layers, lambda name, module: _core(params, name, module))
    readout = None
    if linear is not None:
        if _string("linear", linear) not in params:
            raise ValueError(f"linear: expected the name of an hk.Linear, {_one_of(_linears(params))}, got {linear!r}")
        readout = read_dense(f"params[{linear!r}]", params[linear], "w", "b")
    return model_of(cell, found, readout)


def to_haiku(model: Model, layers: Any, linear: str | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Give the weights as Haiku has them.

    The forget biases lose the 1 that Haiku adds. There and back, one from 1/2 to 100, where training starts, has the
    same bits; one from -100 to 1/2, b, is off by half a unit in the last place of 1 + |b| at most.

    Args:
        model: layers of an "lstm" or a "gru_before".
        layers: how Haiku calls the module of each layer, as for `from_haiku`: of their own accord "lstm", "lstm_1".
        linear: how it calls the `hk.Linear` on top; None without a readout.

    Returns:
        The parameters, as `apply` of a transformed function takes them.

    Raises:
        ValueError: Haiku has no such cell, or a name is missing or not alone.

    Example:
        >>> import jax
        >>> layer = LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)
        >>> to_haiku(Model(LSTM, (layer,)), "lstm")["lstm/linear"]["w"].shape
        (8, 20)
    """
    check_cell("Haiku", model, MODULES)
    _, names = read_layers("layers", layers, lambda name, module: (model.cell, _string(name, module)))
    wanted, given = ([len(directions(each)) for each in several] for several in (model.layers, names))
    if given != wanted:
        expected = f"names for layers of {wanted} directions, such as {_names(model)}"
        raise ValueError(f"layers: expected {expected}, got some for {given}")
    if (linear is None) != (model.readout is None):
        expected = "None, as there is no readout" if model.readout is None else "a name for the readout"
        raise ValueError(f"linear: expected {expected}, got {linear!r}")
    pairs = [
        pair for each in zip(names, model.layers, strict=True) for pair in zip(*map(directions, each), strict=True)
    ]
    modules: list[Any] = [_module(name, params) for name, params in pairs]
    if model.readout is not None:
        modules.append((linear, {"w": np.array(model.readout.weight), "b": np.array(model.readout.bias)}))
    found = dict(modules)
    if len(found) < len(modules):
        raise ValueError(
            f"layers and linear: expected a name for each, got {reprlib.repr([key for key, _ in modules])}"
        )
    return found


def _names(model: Model) -> str:
    """Return how names for a model's layers are written, with those that Haiku gives of its own accord."""
    kind = MODULES[model.cell].lower()
    own = (repr(f"{kind}_{k}" if k else kind) for k in itertools.count())
    each = [", ".join(itertools.islice(own, len(directions(layer)))) for layer in model.layers]
    pairs = [isinstance(layer, Bidirectional) for layer in model.layers]
    written = [f"jlstm.Bidirectional({names})" if two else names for names, two in zip(each, pairs, strict=True)]
    return f"[{', '.join(written)}]"


def _module(name: str, params: Any) -> tuple[str, dict[str, np.ndarray]]:
    """Return one direction as Haiku has it, with the name of the module that holds the arrays."""
    if isinstance(params, LSTMParams):
        weight = np.concatenate([params.weight_ih, params.weight_hh], axis=1)
        bias = _forget_plus(-1, np.asarray(params.bias))
        w, b = (gates(each, "ifgo", "igfo").T for each in (weight, bias))
        return f"{name}/linear", {"w": np.ascontiguousarray(w), "b": b}
    arrays = params.weight_ih, np.concatenate([params.weight_hh, params.weight_hn]), np.asarray(params.bias)
    w_i, w_h, b = (gates(_complement(each), "rzn", "zrn").T for each in arrays)
    return name, {"w_i": np.ascontiguousarray(w_i), "w_h": np.ascontiguousarray(w_h), "b": b}


def _core(params: Mapping, name: str, module: Any) -> tuple[Cell, Any]:
    """Return the cell of the module of this name, and its parameters."""
    within = f"{_string(name, module)}/linear"
    if f"{within}_1" in params:
        raise ValueError(
            f"{name}: expected an hk.LSTM or an hk.GRU, got {module!r}, an hk.VanillaRNN, which has a ReLU"
        )
    if within in params:
        return LSTM, _lstm(f"params[{within!r}]", params[within])
    if module in params and not any(_shape(params[module])):
        return GRU_BEFORE, _gru(f"params[{module!r}]", params[module])
    raise ValueError(f"{name}: expected the name of an hk.LSTM or an hk.GRU, {_one_of(_cores(params))}, got {module!r}")


def _lstm(name: str, arrays: Any) -> LSTMParams:
    rows, columns = array(f"{name}['w']", held(name, arrays, "w"), "inputs + hidden", "4 hidden").shape
    hidden = columns // 4
    if columns % 4 or rows <= hidden:
        expected = "[inputs + hidden, 4 hidden], of an LSTM"
        raise ValueError(f"{name}['w']: expected shape {expected}, got shape [{rows}, {columns}]")
    found = named(name, arrays, {"w": (rows, columns), "b": (columns,)})
    weight, bias = (gates(each.T, "igfo", "ifgo") for each in (found["w"], found["b"]))
    weight_ih, weight_hh = map(np.ascontiguousarray, np.split(weight, [rows - hidden], axis=1))
    return LSTMParams(weight_ih, weight_hh, _forget_plus(1, bias))  # type: ignore[arg-type]


def _gru(name: str, arrays: Any) -> GRUBeforeParams:
    inputs = array(f"{name}['w_i']", held(name, arrays, "w_i"), "inputs", "3 hidden").shape[0]
    hidden = array(f"{name}['w_h']", held(name, arrays, "w_h"), "hidden", "3 hidden").shape[0]
    found = named(name, arrays, {"w_i": (inputs, 3 * hidden), "w_h": (hidden, 3 * hidden), "b": (3 * hidden,)})
    weight_ih, square, bias = (_complement(gates(each.T, "zrn", "rzn")) for each in found.values())
    weight_hh, weight_hn = np.split(square, [2 * hidden])
    return GRUBeforeParams(weight_ih, weight_hh, bias, weight_hn)  # type: ignore[arg-type]


def _forget_plus(one: int, bias: np.ndarray) -> np.ndarray:
    """Return the biases of the gates i, f, g, o with this added to those of f."""
    i, f, g, o = np.split(bias, 4)
    return np.concatenate([i, f + one, g, o])


def _complement(stacked: np.ndarray) -> np.ndarray:
    """Return the gates r, z, n with the sign of z turned, which makes 1 - σ of σ."""
    r, z, n = np.split(np.asarray(stacked), 3)
    return np.concatenate([r, -z, n])


def _string(name: str, module: Any) -> str:
    if not isinstance(module, str):
        raise TypeError(f"{name}: expected the name of a module, got {describe(module)}")
    return module


def _cores(params: Mapping) -> list[str]:
    """Return the names of the modules that may be cores."""
    found = [key for key, arrays in params.items() if isinstance(arrays, Mapping) and {"w_i", "w_h"} <= arrays.keys()]
    for key in map(str, params):
        name = key.removesuffix("/linear")
        rows, columns = _shape(params.get(key))
        if name != key and f"{key}_1" not in params and columns % 4 == 0 and rows > columns // 4:
            found.append(name)
    return found


def _linears(params: Mapping) -> list[str]:
    """Return the names of the modules that may be linear layers, and are not within a core."""
    within = {f"{name}/linear" for name in _cores(params)}
    return [key for key, arrays in params.items() if any(_shape(arrays)) and key not in within]


def _shape(arrays: Any) -> tuple[int, int]:
    """Return the shape of the matrix of a linear layer, zeros of any other."""
    of_linear = isinstance(arrays, Mapping) and {"w"} <= arrays.keys() <= {"w", "b"}
    return np.shape(arrays["w"]) if of_linear and np.ndim(arrays["w"]) == 2 else (0, 0)


def _one_of(names: list[str]) -> str:
    return f"one of {reprlib.repr(sorted(names))}" if names else "of which there is none"
