"""torch: `nn.LSTM`, `nn.GRU` and `nn.RNN`, whose arrays are jlstm's but for a second bias.

torch adds two biases where one would do, and jlstm has their sum; on the way out the second is zero. A GRU's candidate
alone needs both: the second, `b_hn`, is inside the product with the reset gate.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jlstm.cells import GRU, LSTM, PROJECTED, RNN, Cell, GRUParams
from jlstm.checks import describe, library
from jlstm.interop.model import (
    Model,
    array,
    check_cell,
    check_foreign,
    dtype_of,
    gates,
    kind_of,
    model_of,
    named,
    on_embeddings,
    one_kind,
    read_dense,
    summed,
)
from jlstm.stack import Bidirectional, directions

__all__ = ["from_torch", "to_torch", "torch_modules"]

CELLS = {4: LSTM, 3: GRU, 1: RNN}  # by how many gates are stacked
MODES = {LSTM: "LSTM", PROJECTED: "LSTM", GRU: "GRU", RNN: "RNN_TANH"}
RECURRENT = "torch.LSTM", "torch.GRU", "torch.RNN"
WAYS = "", "_reverse"
PARTS = "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"


def from_torch(lstm: Any, linear: Any = None, *, prefix: str = "") -> Model:
    """Take over the weights of torch's recurrent layers, and of a dense layer on top.

    What belongs to training, dropout among it, is not in the weights and is not taken over. A class of your own
    that is derived from torch's may compute anything: its `state_dict` is taken.

    Args:
        lstm: an `nn.LSTM`, `nn.GRU` or `nn.RNN` with tanh, of any layers, directions, `proj_size` and with or without
            biases; a `state_dict` of one, whose arrays may be NumPy's; or a list of them, from the input upwards. A
            `state_dict` says nothing of an RNN's activation, which is taken to be tanh.
        linear: the `nn.Linear` on top, or its `state_dict`; or, of a `state_dict` of a larger model, what the names of
            its arrays begin with, such as "fc". None where there is none.
        prefix: of a `state_dict` of a larger model, what the names of the layers' arrays begin with, such as "encoder".

    Returns:
        The `Model`, its arrays of the dtype that they had.

    Raises:
        TypeError, ValueError: something does not fit or has no equal here; the message names it.

    Example:
        >>> arrays = {"weight_ih_l0": np.ones((20, 3)), "weight_hh_l0": np.ones((20, 5))}
        >>> from_torch(arrays).layers[0].bias.shape
        (20,)
    """
    check_foreign("lstm", lstm, "torch", "torch.load")
    if isinstance(linear, str):
        linear = _under("linear", lstm, linear)
    parts = lstm if isinstance(lstm, (list, tuple)) else [lstm]
    names = [f"lstm[{k}]" for k in range(len(parts))] if isinstance(lstm, (list, tuple)) else ["lstm"]
    if not parts:
        raise ValueError("lstm: expected at least one, got an empty list")
    cells, layers = [], []
    for name, part in zip(names, parts, strict=True):
        mode = None if isinstance(part, Mapping) else _mode(name, part)
        arrays = _under(name, part, prefix) if prefix else _arrays(name, part)
        cell, found = _layers(name, arrays, mode)
        cells.append(cell)
        layers += found
    readout = None
    if linear is not None:
        if hasattr(linear, "state_dict") and kind_of(linear) != "torch.Linear":
            raise TypeError(f"linear: expected an nn.Linear, or a state_dict, got {describe(linear)}")
        readout = read_dense("linear", _arrays("linear", linear), "weight", "bias", transposed=True)
    return model_of(one_kind("lstm", cells), layers, readout)


def to_torch(model: Model) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """Give the weights as torch has them.

    Args:
        model: layers of an "lstm", "projected", "gru" or "rnn", all with the same units and directions, as an
            `nn.LSTM` with several layers has them.

    Returns:
        The arrays of the layers by their names in a `state_dict`, and those of an `nn.Linear`, None without a readout;
        the second biases are zero.

    Raises:
        ValueError: torch has no such cell, or no such layers in one module.

    Example:
        >>> import jax
        >>> layer = LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)
        >>> list(to_torch(Model(LSTM, (layer,)))[0])
        ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
    """
    _check_in_torch(model)
    arrays: dict[str, Any] = {}
    for k, layer in enumerate(model.layers):
        for way, params in zip(WAYS, directions(layer), strict=False):
            bias, second = np.asarray(params.bias), np.zeros_like(params.bias)
            if isinstance(params, GRUParams):
                second = np.concatenate([second[: 2 * len(params.bias_hn)], params.bias_hn])
            found = {"weight_ih": params.weight_ih, "weight_hh": params.weight_hh, "bias_ih": bias, "bias_hh": second}
            if model.cell is PROJECTED:
                found["weight_hr"] = params.weight_hr
            arrays |= {f"{name}_l{k}{way}": np.array(each) for name, each in found.items()}
    readout = model.readout
    return arrays, readout and {"weight": np.array(readout.weight.T), "bias": np.array(readout.bias)}


def torch_modules(model: Model) -> tuple[Any, Any]:
    """Give the weights as torch's modules.

    Args:
        model: as for `to_torch`.

    Returns:
        An `nn.LSTM`, `nn.GRU` or `nn.RNN`, with `batch_first=True`, and an `nn.Linear`, None without a readout.

    Raises:
        ValueError: as `to_torch`.
        ModuleNotFoundError: torch is not installed.
    """
    arrays, linear = to_torch(model)
    torch = library("torch", extra="interop")
    sizes: Any = model.cell.sizes(directions(model.layers[0])[0])
    options = {"proj_size": sizes.outputs} if model.cell is PROJECTED else {}
    lstm = getattr(torch.nn, MODES[model.cell].removesuffix("_TANH"))(
        sizes.inputs,
        sizes.hidden,
        num_layers=len(model.layers),
        batch_first=True,
        bidirectional=isinstance(model.layers[0], Bidirectional),
        **options,
    )
    on_top: Any = None if model.readout is None else torch.nn.Linear(*model.readout.weight.shape)
    for module, state in ((lstm, arrays), (on_top, linear)):
        if state is not None:
            dtype = getattr(torch, dtype_of("model", state).name)
            module.to(dtype).load_state_dict({name: _tensor(torch, each, dtype) for name, each in state.items()})
    return lstm, on_top


def _tensor(torch: Any, each: np.ndarray, dtype: Any) -> Any:
    return torch.from_numpy(each.astype(np.float32) if each.dtype == jnp.bfloat16 else each).to(dtype)


def _check_in_torch(model: Model) -> None:
    check_cell("torch", model, MODES)
    ways = {len(directions(layer)) for layer in model.layers}
    units = {model.cell.sizes(own)[1:] for layer in model.layers for own in directions(layer)}  # type: ignore[index]
    if len(ways) > 1 or len(units) > 1:
        raise ValueError("layers: expected the same units and directions in all, as one module of torch has them")


def _mode(name: str, module: Any) -> str:
    """Return the kind of a module, without importing torch."""
    kind: Any = getattr(module, "mode", None)
    if kind_of(module) not in RECURRENT:  # a class of one's own may compute anything
        came = f"{describe(module)}{on_embeddings(module)}{_on_parts(module)}"
        raise TypeError(f"{name}: expected an nn.LSTM, nn.GRU or nn.RNN, or a state_dict, got {came}")
    if kind not in MODES.values():
        activation = kind.removeprefix("RNN_").lower()
        raise ValueError(f"{name}.nonlinearity: expected 'tanh', got {activation!r}")
    return kind


def _on_parts(module: Any) -> str:
    """Return advice on what to hand over of a larger module; "" where it is none."""
    inside = dict(module.named_modules()) if hasattr(module, "named_modules") else {}
    names = [name for name, each in inside.items() if getattr(each, "mode", None) in MODES.values()]
    if not names:
        return ""
    parts = ["m" + "".join(f"[{key}]" if key.isdigit() else f".{key}" for key in name.split(".")) for name in names]
    whole = f"m.state_dict() with prefix={names[0]!r}"
    folded = next(filter(None, map(on_embeddings, inside.values())), "")
    return f"; of a module of your own, m, hand over its parts, {' and '.join(parts)}, or {whole}{folded}"


def _arrays(name: str, given: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a module or a state_dict as NumPy's."""
    state = given.state_dict() if hasattr(given, "state_dict") else given
    if not isinstance(state, Mapping):
        raise TypeError(f"{name}: expected a module of torch or a state_dict, got {describe(given)}")
    for key, value in state.items():
        if getattr(value, "is_meta", False):
            raise ValueError(f"{name}[{key!r}]: expected numbers, got a tensor on the device 'meta', which has none")
    return {str(key): _plain(value) for key, value in state.items()}


def _under(name: str, given: Any, prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays of a state_dict whose names begin so, without that."""
    start = prefix if prefix.endswith(".") else f"{prefix}."
    state = _arrays(name, given)
    found = {key.removeprefix(start): each for key, each in state.items() if key.startswith(start)}
    if not found:
        raise ValueError(f"{name}: expected names that begin with {start!r}, got {reprlib.repr(sorted(state))}")
    return found


def _plain(value: Any) -> Any:
    """Return a tensor as NumPy's array, and anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    # NumPy knows bfloat16 by JAX alone; each is a float32.
    return tensor.float().numpy().astype(jnp.bfloat16) if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy()


def _layers(name: str, arrays: dict[str, Any], mode: str | None) -> tuple[Cell, list]:
    """Return the cell of one module, and its layers."""
    cell, inputs, sizes = _sizes(name, arrays)
    if mode is not None and mode != MODES[cell]:
        raise ValueError(f"{name}: expected the arrays of {mode}, got those of {MODES[cell]}")
    ways = WAYS if "weight_ih_l0_reverse" in arrays else WAYS[:1]
    depth = sum(f"weight_ih_l{k}" in arrays for k in range(len(arrays)))
    biases = ("bias_ih", "bias_hh") if "bias_ih_l0" in arrays else ()
    shapes: dict[str, tuple[int, ...]] = {}
    for k in range(depth):
        of_layer = sizes | {"weight_ih": (*sizes["bias_ih"], len(ways) * sizes["weight_hh"][1] if k else inputs)}
        kept = [part for part in of_layer if part in biases or not part.startswith("bias")]
        shapes |= {f"{part}_l{k}{way}": of_layer[part] for way in ways for part in kept}
    found = named(name, arrays, shapes)
    layers = []
    for k in range(depth):
        each = [_params(cell, {part: found.get(f"{part}_l{k}{way}") for part in PARTS}) for way in ways]
        layers.append(Bidirectional(*each) if len(each) > 1 else each[0])
    return cell, layers


def _sizes(name: str, arrays: dict[str, Any]) -> tuple[Cell, int, dict[str, tuple[int, ...]]]:
    """Return the cell, how many features the first layer reads, and the shapes of a layer's other arrays."""
    for first in ("weight_ih_l0", "weight_hh_l0"):
        if first not in arrays:
            under = sorted(known.removesuffix(f".{first}") for known in arrays if known.endswith(f".{first}"))
            advice = f"; write prefix={under[0]!r}" if under else ""
            raise ValueError(f"{name}: expected an array {first!r}, got {reprlib.repr(sorted(arrays))}{advice}")
    rows, inputs = array(f"{name}['weight_ih_l0']", arrays["weight_ih_l0"], "rows", "inputs").shape
    outputs = array(f"{name}['weight_hh_l0']", arrays["weight_hh_l0"], rows, "hidden").shape[1]
    shapes: dict[str, tuple[int, ...]] = {"weight_hh": (rows, outputs), "bias_ih": (rows,), "bias_hh": (rows,)}
    if "weight_hr_l0" in arrays:
        return PROJECTED, inputs, shapes | {"weight_hr": (outputs, rows // 4)}
    for count, cell in CELLS.items():
        if rows == count * outputs:
            return cell, inputs, shapes
    expected = f"{' or '.join(str(count * outputs) for count in CELLS)} rows, of an LSTM, a GRU or an RNN"
    raise ValueError(f"{name}['weight_hh_l0']: expected {expected}, got shape [{rows}, {outputs}]")


def _params(cell: Cell, found: dict[str, Any]) -> Any:
    """Return the parameters of one direction."""
    weight_ih, weight_hh, first, second, weight_hr = (found[part] for part in PARTS)
    if first is None:
        first = second = np.zeros(len(weight_ih), weight_ih.dtype)
    if cell is GRU:
        inside = gates(second, "rzn", "n")
        outside = np.concatenate([gates(second, "rzn", "rz"), np.zeros_like(inside)])
        return GRUParams(weight_ih, weight_hh, summed(first, outside), inside)
    rest = (weight_hr,) if cell is PROJECTED else ()
    return type(cell.blocks)(weight_ih, weight_hh, summed(first, second), *rest)
