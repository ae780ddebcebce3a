"""ONNX's graphs: which layers and which readout there are in a whole one.

A graph is read node by node, and what each name in it stands for is known exactly: an array of weights or of sizes, or
a `Tensor` of a network so far or of an input, of which no number is looked at. A node whose part in a network is not
known is an error. Sizes that may be any are taken twice, small and beyond all that a graph cuts off at.
"""

import math
import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from jlstm.checks import describe, library
from jlstm.interop.model import FOLD, Model, check_foreign, kind_of, model_of, one_kind
from jlstm.interop.onnx import ORDERS, Node, read_layer, read_readout
from jlstm.interop.onnx_operators import OPERATORS, Step, refuse, told
from jlstm.interop.onnx_tensor import REPEATED, Atom, Network, Refused, Tensor, axis_of

__all__ = ["from_onnx", "read_onnx"]

SIZES: Any = (lambda k: 7 + 4 * k), (lambda k: 2**24 - 3 - 10 * k)  # of axes that may be any, exact in float32
ROOM = 2**16  # numbers, of what is made of shapes
REPEATS = {"ConstantOfShape", "Expand"}
MOVES = {"Cast", "Concat", "Constant", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
COMPUTES = MOVES | {
    *("Abs", "Add", "And", "Ceil", "Div", "Equal", "Floor", "Gather", "Greater", "GreaterOrEqual", "Less"),
    *("LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "ReduceMax", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "Shape", "Size", "Sub", "Where"),
}


def from_onnx(source: Any, readout: Node | None = None) -> Model:
    """Take over the weights of recurrent nodes of ONNX, and of a dense layer on top.

    The states before the first step and the lengths of sequences are data: `jlstm.stack` is handed them.

    Args:
        source: a `Node`, or a list of them from the input upwards; or a whole graph, as an `onnx.ModelProto` or the
            path of a file. A graph has recurrent nodes that read its input, features or one-hot vectors of ids, and
            each other; a dense layer on top of them, `MatMul` and `Add` or a `Gemm`, or none; and behind that a
            `Softmax` or a `Sigmoid`, or nothing. Its first output that is of all steps, the last one or their mean
            says which of them is the target; others may be of layers below, and of states.
        readout: next to nodes, the dense layer on top of them, a `Node` "Gemm"; None where there is none.

    Returns:
        The `Model`, its arrays of the dtype that they had; of a graph with its `target` and `activation`.

    Raises:
        TypeError, ValueError: something does not fit or has no equal here; the message names it.
        OSError: there is no such file.
        ModuleNotFoundError: onnx is not installed, which a graph needs.

    Example:
        >>> node = Node("GRU", {"hidden_size": 5}, {"W": np.ones((1, 15, 3)), "R": np.ones((1, 15, 5))})
        >>> from_onnx([node]).cell
        Cell('gru_before')
    """
    return read_onnx(source, readout)[0]


def read_onnx(source: Any, readout: Node | None = None) -> tuple[Model, Literal["features", "tokens"]]:
    """Return what `from_onnx` does, and whether the first layer reads features or ids, as `LSTMConfig` calls them.

    Args:
        source, readout: as for `from_onnx`.

    Returns:
        The `Model`, and "tokens" of a graph that makes one-hot vectors of its input, which is ids; or "features".

    Raises:
        TypeError, ValueError, ModuleNotFoundError: as `from_onnx`.

    Example:
        >>> read_onnx(Node("RNN", {}, {"W": np.ones((1, 5, 3)), "R": np.ones((1, 5, 5))}))[1]
        'features'
    """
    if kind_of(source) == "onnx.ModelProto" or isinstance(source, (str, os.PathLike)):
        if readout is not None:
            raise ValueError(f"readout: expected None with a graph, which has its own, got {describe(readout)}")
        proto = _proto(source)
        (model, inputs), (other, _) = (_read(proto, sizes) for sizes in SIZES)
        if not jax.tree.all(jax.tree.map(np.array_equal, model[1:3], other[1:3])):
            raise ValueError("source: expected weights that are constants, got some that are made of sizes of inputs")
        return model, inputs
    check_foreign("source", source, "onnx", "onnx.load")
    if isinstance(source, Node):
        found = [read_layer("source", source)]
    elif not isinstance(source, (list, tuple)):
        expected = "the path of a file, an onnx.ModelProto, or a jlstm.interop.Node or a list of them"
        raise TypeError(f"source: expected {expected}, got {describe(source)}")
    elif not source:
        raise ValueError("source: expected at least one Node, got an empty list")
    else:
        found = [read_layer(f"source[{k}]", node) for k, node in enumerate(source)]
    return _model(found, None if readout is None else read_readout("readout", readout)), "features"


def _model(found: Any, *rest: Any) -> Model:
    """Return the model of layers, each with its cell."""
    cells, layers = zip(*found, strict=True)
    return model_of(one_kind("source", cells), list(layers), *rest)


def _proto(source: Any) -> Any:
    """Return a model, or a file of one, as a model that ONNX finds well-formed."""
    if isinstance(source, (str, os.PathLike)):
        os.stat(source)  # that there is no such file is told without onnx too
    onnx = library("onnx", extra="onnx")
    given = isinstance(source, onnx.ModelProto)
    try:
        proto = source if given else onnx.load(source)
        tensors = [*proto.graph.initializer, *(each.t for node in proto.graph.node for each in node.attribute)]
        outside = [each.name for each in tensors if each.data_location == onnx.TensorProto.EXTERNAL]
        if not outside:
            onnx.checker.check_model(source if given else os.fspath(source))
    except OSError:
        raise
    except Exception as error:  # of kinds of ONNX's and of protobuf's
        raise ValueError(f"source: expected a model of ONNX, got {type(error).__name__}: {error}") from None
    if outside:
        raise ValueError(f"source: expected a model with its weights, got {outside[0]!r} in another file")
    if proto.functions:
        raise ValueError(f"source: expected no functions in the model, got {proto.functions[0].name!r}")
    return proto


def _read(proto: Any, sizes: Callable[[int], int]) -> tuple[Model, Any]:
    """Read a graph whose axes that may be any have these sizes."""
    onnx = library("onnx", extra="onnx")
    values: dict[str, Any] = {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
    values |= _inputs(onnx, proto.graph.input, values, sizes) | {"": None}
    version = max(each.version for each in proto.opset_import if each.domain in ("", "ai.onnx"))
    if version < 7:
        raise ValueError(f"source: expected version 7 of ONNX's operators, or a later one, got {version}")
    for node in _behind(proto.graph):
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        label = f"{kind} {node.name or next(filter(None, node.output))!r}"
        attributes = {each.name: _decoded(onnx.helper.get_attribute_value(each)) for each in node.attribute}
        step = Step(kind, label, attributes, tuple(values.get(name) for name in node.input), len(node.output), version)
        try:
            if any(name not in values for name in node.input):  # what is given in no way that is read here
                raise Refused
            if any(isinstance(each, Tensor) for each in step.given):
                found = OPERATORS[kind](step) if kind in OPERATORS else refuse()
            else:
                found = _computed(onnx, proto, node, step)
        except Refused:
            expected = "recurrent nodes that read each other, a dense layer on top, and a Softmax or Sigmoid"
            given = [told(each) for each in step.given if isinstance(each, Tensor)]
            got = f"{label} of {' and '.join(given) or 'constants'}"
            advice = _advice(proto.graph, step.given, step.kind)
            raise ValueError(
                f"source: expected {expected}, got {got}, which weights alone do not tell of{advice}"
            ) from None
        values |= zip(node.output, found if isinstance(found, list) else [found], strict=False)
    return _network(proto.graph, values)


def _inputs(onnx: Any, given: Any, constants: Any, sizes: Callable[[int], int]) -> dict[str, Tensor]:
    """Return the graph's inputs; a constant of fixed sizes among them is one, as old versions of ONNX list all."""
    found, known = {}, {}  # type: dict[str, Tensor], dict[Any, int]
    for k, each in enumerate(given):
        tensor = each.type.tensor_type
        if not tensor.HasField("shape"):
            raise ValueError(f"source.graph.input[{k}]: expected a tensor of known axes, got {each.name!r}")
        axes = []
        for place, dim in enumerate(tensor.shape.dim):
            free, key = dim.dim_value < 1, dim.dim_param or (each.name, place)
            size = known.setdefault(key, sizes(len(known))) if free else dim.dim_value
            axes.append(axis_of(Atom(f"{each.name}[{place}]", size, free)))
        if each.name not in constants or any(atom.free for axis in axes for atom in axis):
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            found[each.name] = Tensor(each.name, tuple(axes), dtype)
    return found


def _behind(graph: Any) -> list:
    """Return the nodes that have a part in the outputs, in their order."""
    wanted, found = {each.name for each in graph.output}, []
    for node in reversed(graph.node):
        if wanted & {*node.output} - {""}:
            found.append(node)
            wanted |= {*node.input}
    return found[::-1]


def _network(graph: Any, values: dict[str, Any]) -> tuple[Model, Any]:
    """Return what the outputs are of: one network, of which the first one that has its last word says the target."""
    networks, outputs = [], []  # type: list[Network], list[Tensor]
    for each in graph.output:
        value = values.get(each.name)
        if not isinstance(value, Tensor) or not isinstance(value.of, tuple) or value.how == ("sum",):
            raise ValueError(f"source: expected {each.name!r} to be given by recurrent nodes, got {told(value)}")
        outputs.append(value)
        networks += [value.of] if isinstance(value.of, Network) else value.of
    chains = [[*_chain(network)] for network in networks]
    chain = max(chains, key=len)
    if any(network is not chain[-len(each)] for network, each in zip(networks, chains, strict=True)):
        raise ValueError("source: expected outputs of one network, got some of two")
    top = chain[0]
    target = next((each.target for each in outputs if each.of is top and each.target), None)
    if target is None or any(each.picks and not each.how for each in outputs):  # some steps, which may be what is meant
        got = f"{' and '.join(map(told, outputs))}{_advice(graph, outputs)}"
        raise ValueError(f"source: expected all steps, the last one or the mean among the outputs, got {got}")
    return _model(top.layers, top.readout, target, top.activation), "tokens" if top.ids else "features"


def _advice(graph: Any, given: Any, kind: str = "") -> str:
    """Return what to do about what has no equal here, where that is known."""
    kinds = {node.op_type for node in graph.node}
    if not kinds & {*ORDERS}:
        unrolled = "Tanh" in kinds and kinds & {"MatMul", "Gemm"}
        return "; if the layers were unrolled into these, export with dynamo=False" if unrolled else ""
    if kind == "Gather" and not isinstance(given[0], Tensor):
        return FOLD
    networks = [each for each in given if isinstance(each, Tensor) and isinstance(each.of, Network)]
    steps = [atom.name for each in networks if each.of.ways > 1 for atom in each.of.time]
    cut = any(name in steps for each in networks for name, *_ in each.picks)
    return "; `output[:, -1]` of two directions has no equal: read `h_n`" if cut else ""


def _chain(network: Network | None) -> Any:
    while network is not None:
        yield network
        network = network.below


def _computed(onnx: Any, proto: Any, node: Any, step: Step) -> Any:
    """Run a node that is given arrays, in no more room than the file takes, or than shapes do."""
    sizes = [each.size for each in step.given if each is not None]
    moves = step.kind in MOVES and sum(sizes) <= max(ROOM, proto.ByteSize())
    if not (moves or step.kind in REPEATS or (step.kind in COMPUTES and math.prod(sizes) <= ROOM)):
        raise Refused
    names, outputs = dict.fromkeys(filter(None, node.input)), [*filter(None, node.output)]
    information = onnx.helper.make_empty_tensor_value_info
    try:
        if step.kind in REPEATS:
            return _repeated(onnx, step)
        graph = onnx.helper.make_graph([node], "node", [*map(information, names)], [*map(information, outputs)])
        model = onnx.helper.make_model(graph, opset_imports=proto.opset_import)
        with np.errstate(all="ignore"):
            evaluator = library("onnx.reference", extra="onnx").ReferenceEvaluator(model)
            return evaluator.run(None, dict(zip(node.input, step.given, strict=True)))
    except Exception as error:  # whatever NumPy raises
        came = f"{type(error).__name__}: {error}"
        raise ValueError(f"source: expected what ONNX's reference runs, got {step.label}, {came}") from None


def _repeated(onnx: Any, step: Step) -> Any:
    """Return numbers over and over, without room for each."""
    value, shape = step.given[0], tuple(step.given[-1].tolist())
    if step.kind == "ConstantOfShape":
        given = step.attributes.get("value")
        value = np.zeros((), np.float32) if given is None else onnx.numpy_helper.to_array(given).reshape(())
    shape = np.broadcast_shapes(value.shape, shape)
    if math.prod(shape) <= ROOM:
        return np.broadcast_to(value, shape)
    return Tensor(value, tuple(axis_of(Atom(REPEATED, size)) for size in shape), value.dtype)


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [*map(_decoded, value)]
    return value.decode() if isinstance(value, bytes) else value
