"""ONNX: the arrays and attributes of its recurrent nodes, `LSTM`, `GRU` and `RNN`, each of which is one layer.

Its gates are in another order, and it adds two biases where jlstm has their sum; on the way out the second is zero.
Only the candidate of a GRU with `linear_before_reset` needs both: the second is inside the product with the reset gate.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jlstm.cells import COUPLED, GRU, GRU_BEFORE, LSTM, PEEPHOLE, RNN, Cell
from jlstm.checks import describe
from jlstm.interop.model import Model, array, check_cell, check_foreign, dtype_of, gates, held, named, summed
from jlstm.model import Readout
from jlstm.stack import Bidirectional, directions

__all__ = ["Node", "layer_of", "node_of", "read_layer", "read_readout", "to_onnx"]

KINDS = {LSTM: "LSTM", PEEPHOLE: "LSTM", COUPLED: "LSTM", GRU: "GRU", GRU_BEFORE: "GRU", RNN: "RNN"}
OPTIONS = {COUPLED: {"input_forget": 1}, GRU: {"linear_before_reset": 1}, GRU_BEFORE: {"linear_before_reset": 0}}
ORDERS = {"LSTM": "iofg", "GRU": "zrn", "RNN": "h"}  # of the gates, by jlstm's names: ONNX calls a candidate c or h
PEEPHOLES = "iof"
WAYS = "forward", "bidirectional"
ALLOWED = {"direction": WAYS, "layout": (0, 1), "input_forget": (0, 1), "linear_before_reset": (0, 1)}
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


class Node(NamedTuple):
    """One node of ONNX, without its name and what it is connected to.

    Attributes:
        kind: its operator, "LSTM", "GRU" or "RNN"; of a readout "Gemm".
        attributes: its attributes by name, such as `hidden_size`; those that are not there are ONNX's defaults.
        arrays: its weights by the names of its inputs, with H units and g gates in D directions: `W` `[D, gH, I]`,
            `R` `[D, gH, H]`, `B` `[D, 2gH]`, and `P` `[D, 3H]` for peepholes; of a "Gemm", `B` `[H, C]` and `C` `[C]`.

    Example:
        >>> Node("RNN", {"hidden_size": 5}, {"W": np.ones((1, 5, 3)), "R": np.ones((1, 5, 5))}).kind
        'RNN'
    """

    kind: str
    attributes: dict[str, Any]
    arrays: dict[str, np.ndarray]


def node_of(cell: Cell, layer: Any) -> Node:
    """Return a layer as a node of ONNX.

    Args:
        cell: the layer's cell, an "lstm", "peephole", "coupled", "gru", "gru_before" or "rnn".
        layer: its parameters, `Bidirectional` where it reads in both directions.

    Returns:
        The `Node`, its arrays of the dtype that they had.

    Raises:
        TypeError, ValueError: ONNX has no such cell, or the parameters are none of the cell's; the message names it.

    Example:
        >>> layer = LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)
        >>> node = node_of(LSTM, layer)
        >>> node.kind, node.attributes, node.arrays["W"].shape
        ('LSTM', {'hidden_size': 5, 'direction': 'forward'}, (1, 20, 3))
    """
    return _node("layer", cell, layer)


def layer_of(node: Node) -> tuple[Cell, Any]:
    """Return the layer that a node of ONNX is.

    Where the input and the forget gate are coupled (`input_forget`), what the node has for a forget gate is not read,
    as ONNX does not read it either.

    Args:
        node: an "LSTM", "GRU" or "RNN", with or without biases `B` and peepholes `P`; of both layouts, which are not
            about the weights.

    Returns:
        The cell and the parameters, `Bidirectional` where it reads in both directions.

    Raises:
        TypeError, ValueError: something does not fit or has no equal here; the message names it.

    Example:
        >>> cell, layer = layer_of(Node("RNN", {}, {"W": np.ones((1, 5, 3)), "R": np.ones((1, 5, 5))}))
        >>> cell, layer.bias.shape
        (Cell('rnn'), (5,))
    """
    return read_layer("node", node)


def to_onnx(model: Model) -> tuple[list[Node], Node | None]:
    """Give the weights as ONNX has them: `from_onnx(*to_onnx(model))` is the model again.

    Which steps are read out, and what follows the readout, is in no weights and is not given.

    Args:
        model: layers of any cell that `node_of` takes.

    Returns:
        The `Node` of each layer from the input upwards, and the readout as a "Gemm", None where there is none.

    Raises:
        TypeError, ValueError: as `node_of`.

    Example:
        >>> layer = LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)
        >>> [node], readout = to_onnx(Model(LSTM, (layer,)))
        >>> node.arrays["R"].shape, readout
        ((1, 20, 5), None)
    """
    check_cell("ONNX", model, KINDS)
    nodes = [_node(f"model.layers[{k}]", model.cell, layer) for k, layer in enumerate(model.layers)]
    if model.readout is None:
        return nodes, None
    return nodes, Node("Gemm", {}, {"B": np.array(model.readout.weight), "C": np.array(model.readout.bias)})


def read_layer(name: str, node: Any) -> tuple[Cell, Any]:
    """Return the layer that the argument `name` is, a node of ONNX."""
    _check_node(name, node)
    if node.kind not in ORDERS:
        raise ValueError(f"{name}.kind: expected 'LSTM', 'GRU' or 'RNN', got {node.kind!r}")
    for field in ("attributes", "arrays"):
        if not isinstance(getattr(node, field), Mapping):
            raise TypeError(f"{name}.{field}: expected a dictionary, got {describe(getattr(node, field))}")
    options = _options(f"{name}.attributes", node)
    cell = _cell(name, node, options)
    ways = 1 + WAYS.index(options["direction"])
    square = held(f"{name}.arrays", node.arrays, "R")
    rows, units = array(f"{name}.arrays['R']", square, ways, "rows", "hidden_size").shape[1:]
    count = len(ORDERS[node.kind])
    if rows != count * units or options["hidden_size"] not in (None, units):
        expected = f"[{ways}, {count} * hidden_size, hidden_size]"
        if options["hidden_size"] is not None:
            expected += f" with hidden_size = {options['hidden_size']}"
        raise ValueError(f"{name}.arrays['R']: expected shape {expected}, got shape [{ways}, {rows}, {units}]")
    shapes: Any = {"W": (ways, rows, "inputs"), "R": (ways, rows, units), "B": (ways, 2 * rows), "P": (ways, 3 * units)}
    kept = {"W", "R"} | ({"B"} & node.arrays.keys()) | ({"P"} if cell is PEEPHOLE else set())
    found = named(f"{name}.arrays", node.arrays, {key: shapes[key] for key in shapes if key in kept})
    dtype_of(f"{name}.arrays", found)
    each = [_params(cell, {key: found[key][way] for key in found}) for way in range(ways)]
    return cell, Bidirectional(*each) if ways == 2 else each[0]


def read_readout(name: str, node: Any) -> Readout:
    """Return the readout that the argument `name` is, a "Gemm" of ONNX."""
    _check_node(name, node)
    if node.kind != "Gemm":
        raise ValueError(f"{name}.kind: expected 'Gemm', got {node.kind!r}")
    for key, value in node.attributes.items():
        expected = {"alpha": (1,), "beta": (1,), "transA": (0,), "transB": (0, 1)}.get(key, ())
        if value not in expected:
            wanted = " or ".join(map(str, expected)) or "none"
            raise ValueError(f"{name}.attributes[{key!r}]: expected {wanted}, got {describe(value)}")
    turned = node.attributes.get("transB", 0)
    axes = ("outputs", "inputs") if turned else ("inputs", "outputs")
    weight = array(f"{name}.arrays['B']", held(f"{name}.arrays", node.arrays, "B"), *axes)
    outputs = weight.shape[0 if turned else 1]
    given = {"C": np.zeros(outputs, weight.dtype)} | dict(node.arrays)
    found = named(f"{name}.arrays", given, {"B": weight.shape, "C": (outputs,)})
    return Readout(np.ascontiguousarray(found["B"].T if turned else found["B"]), found["C"])  # type: ignore[arg-type]


def _check_node(name: str, node: Any) -> None:
    check_foreign(name, node, "onnx", "onnx.load")
    if not isinstance(node, Node):
        advice = ""
        if hasattr(node, "op_type"):
            advice = "; a node of onnx comes in with its whole model, an onnx.ModelProto, or as a jlstm.interop.Node"
        elif hasattr(node, "initializer"):
            advice = "; a graph of onnx comes in with its whole model, an onnx.ModelProto"
        raise TypeError(f"{name}: expected a Node, got {describe(node)}{advice}")


def _node(name: str, cell: Cell, layer: Any) -> Node:
    """Return the argument `name`, a layer, as a node."""
    if cell not in KINDS:
        known = ", ".join(repr(each.name) for each in KINDS)
        raise ValueError(f"cell: expected one that ONNX has, {known}, got {cell.name!r}")
    each = directions(layer)
    for own, params in zip([f".{way}" for way in Bidirectional._fields] if len(each) > 1 else [""], each, strict=True):
        cell.check(f"{name}{own}", params)
    if len(sizes := {cell.sizes(params) for params in each}) > 1:
        raise ValueError(f"{name}: expected the same sizes in both directions, as one node has them, got {sizes}")
    dtype_of(name, layer)
    found = [_arrays(cell, jax.tree.map(np.asarray, params)) for params in each]
    attributes = {"hidden_size": found[0]["R"].shape[1], "direction": WAYS[len(each) - 1], **OPTIONS.get(cell, {})}
    return Node(KINDS[cell], attributes, {key: np.stack([own[key] for own in found]) for key in found[0]})


def _arrays(cell: Cell, params: Any) -> dict[str, np.ndarray]:
    """Return the arrays of one direction as ONNX has them."""
    order, wanted = cell.blocks.weight_ih, ORDERS[KINDS[cell]]
    weight_ih, weight_hh, bias, *rest = params
    second = np.zeros_like(bias)
    if cell is GRU_BEFORE:
        weight_hh, rest = np.concatenate([weight_hh, *rest]), []
    if cell is GRU:
        second = np.concatenate([second[: 2 * len(rest[0])], rest.pop()])
    if cell is COUPLED:  # the forget gate of ONNX is 1 - i then, and what stands in its place is not read
        order += "f"
        weight_ih, weight_hh, bias, second = map(_with_block, (weight_ih, weight_hh, bias, second))
    weight_ih, weight_hh, *both = (gates(each, order, wanted) for each in (weight_ih, weight_hh, bias, second))
    found = {"W": weight_ih, "R": weight_hh, "B": np.concatenate(both)}
    return found | {"P": gates(rest[0], cell.blocks.peephole, PEEPHOLES)} if rest else found


def _with_block(stacked: np.ndarray) -> np.ndarray:
    """Return three blocks with a fourth one of zeros."""
    return np.concatenate([stacked, np.zeros_like(stacked[: len(stacked) // 3])])


def _params(cell: Cell, found: dict[str, np.ndarray]) -> Any:
    """Return the parameters of one direction."""
    order, wanted = ORDERS[KINDS[cell]], cell.blocks.weight_ih
    weight_ih, weight_hh = (gates(found[key], order, wanted) for key in "WR")
    biases = found["B"] if "B" in found else np.zeros(2 * len(found["W"]), found["W"].dtype)
    first, second = (gates(each, order, wanted) for each in np.split(biases, 2))
    if cell is GRU:
        outside, inside = np.split(second, [len(second) // 3 * 2])
        bias = summed(first, np.concatenate([outside, np.zeros_like(inside)]))
        return type(cell.blocks)(weight_ih, weight_hh, bias, inside)
    rest: list[np.ndarray] = []
    if cell is GRU_BEFORE:
        weight_hh, *rest = np.split(weight_hh, [len(weight_hh) // 3 * 2])
    if cell is PEEPHOLE:
        rest = [gates(found["P"], PEEPHOLES, cell.blocks.peephole)]
    return type(cell.blocks)(weight_ih, weight_hh, summed(first, second), *rest)


def _options(name: str, node: Node) -> dict[str, Any]:
    """Return the attributes, all of which have an equal here, with ONNX's defaults for those that are missing."""
    defaults = {key: values[0] for key, values in ALLOWED.items()} | {"hidden_size": None}
    found: dict[str, Any] = defaults | {"activations": None} | dict(node.attributes)
    other = {"LSTM": {"linear_before_reset"}, "GRU": {"input_forget"}, "RNN": {"linear_before_reset", "input_forget"}}
    for key in sorted(node.attributes):
        if key not in {*ALLOWED, "hidden_size", "activations"} - other[node.kind]:
            raise ValueError(f"{name}[{key!r}]: expected none, as jlstm has no equal, got {describe(found[key])}")
    for key, values in ALLOWED.items():
        if found[key] not in values:
            expected = " or ".join(map(repr, values))
            raise ValueError(f"{name}[{key!r}]: expected {expected}, got {describe(found[key])}")
    default = [*ACTIVATIONS[node.kind]] * (1 + WAYS.index(found["direction"]))
    given = found["activations"]
    if given is not None and [str(each).lower() for each in given] != [each.lower() for each in default]:
        raise ValueError(f"{name}['activations']: expected {default}, got {given!r}")
    return found


def _cell(name: str, node: Node, options: dict[str, Any]) -> Cell:
    if node.kind == "GRU":
        return GRU if options["linear_before_reset"] else GRU_BEFORE
    if options["input_forget"] and "P" in node.arrays:
        raise ValueError(f"{name}.arrays: expected no 'P' with input_forget=1, which is no cell of jlstm, got both")
    if options["input_forget"]:
        return COUPLED
    return RNN if node.kind == "RNN" else PEEPHOLE if "P" in node.arrays else LSTM
