"""ONNX's graphs: which layers and which readout there are in a whole one.

Between its layers a graph moves numbers about: it turns axes, takes a step, joins two directions. Each exporter has its
own way, so what it does is not read but looked at. ONNX's own reference runs it on numbers drawn at random, where each
layer gives some in place of its outputs, and what reaches the layer above has to be these, in the order jlstm has them.
"""

import os
import reprlib
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jlstm.checks import describe, is_floating, is_integer, library
from jlstm.interop.model import FOLD, Model, array, check_foreign, model_of
from jlstm.interop.onnx import ORDERS, Node, read_layer, read_readout
from jlstm.stack import directions

__all__ = ["from_onnx"]

SOME = 3  # the size of an axis that may have any
MOVING = """
    Cast CastLike Concat Constant ConstantOfShape Dropout Expand EyeLike Flatten Gather GatherElements GatherND Identity
    OneHot Range Reshape Shape Size Slice Split Squeeze Tile Transpose Unsqueeze Where
"""
# Right for sizes of axes and for a mean over all steps; where it is not, what comes out is not what it has to be.
COMPUTING = """
    Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Neg Not Or ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum Sub
"""
ACTIVATIONS: Any = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
LAST = "; `output[:, -1]` of two directions has no equal: read `h_n`"
NEXT = -0.75  # what a bias or an activation is taken to do to drawn numbers, so that they are others behind it


def from_onnx(source: Any, readout: Node | None = None) -> Model:
    """Take over the weights of recurrent nodes of ONNX, and of a dense layer on top.

    The states before the first step and the lengths of sequences are data: `jlstm.stack` is handed them.

    Args:
        source: a `Node`, or a list of them from the input upwards; or a whole graph, as an `onnx.ModelProto` or the
            path of a file. A graph has recurrent nodes that read its input, features or one-hot vectors of ids, and
            each other; a dense layer on top of them, `MatMul` and `Add` or a `Gemm`, or none; and behind that a
            `Softmax` or a `Sigmoid`, or nothing.
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
    if hasattr(source, "graph") or isinstance(source, (str, os.PathLike)):
        if readout is not None:
            raise ValueError(f"readout: expected None with a graph, which has its own, got {describe(readout)}")
        return _Walk(_proto(source)).model()
    check_foreign("source", source, "onnx", "onnx.load")
    if isinstance(source, Node) or not isinstance(source, (list, tuple)):
        found = [read_layer("source", source)]
    elif not source:
        raise ValueError("source: expected at least one Node, got an empty list")
    else:
        found = [read_layer(f"source[{k}]", node) for k, node in enumerate(source)]
    return _model(found, None if readout is None else read_readout("readout", readout))


def _model(found: list, *rest: Any) -> Model:
    """Return the model of layers, each with its cell."""
    cells, layers = zip(*found, strict=True)
    if len(set(cells)) > 1:
        names = " and ".join(dict.fromkeys(cell.name for cell in cells))
        raise ValueError(f"source: expected layers of one kind, got {names}")
    return model_of(cells[0], list(layers), *rest)


def _proto(source: Any) -> Any:
    """Return a model, or a file of one, as a model that ONNX finds well-formed."""
    if not hasattr(source, "graph"):
        os.stat(source)  # that there is no such file is told without onnx too
    onnx = library("onnx", extra="onnx")
    try:
        proto = source if hasattr(source, "graph") else onnx.load(source)
        onnx.checker.check_model(source if hasattr(source, "graph") else os.fspath(source))
    except OSError:
        raise
    except Exception as error:  # of kinds of ONNX's and of protobuf's
        raise ValueError(f"source: expected a model of ONNX, got {type(error).__name__}: {error}") from None
    return proto


class _Walk:
    """A walk through a graph, from its inputs to its outputs.

    Attributes:
        values: what each name stands for.
        fixed: the names that no input has a part in.
        given: the values of the graph's inputs.
        found: the cell and the layer of each recurrent node so far.
        gives: what the network gives so far, as it was drawn: `[time, batch, width]`, with one step of time where the
            last one or the mean is read out.
        giver: the node that gives it.
        drawn: all that was drawn in place of what layers and readout give.
        readout, target, activation: as a `Model` has them; `biased` is whether the readout has its bias.
    """

    def __init__(self, proto: Any) -> None:
        self.onnx, self.proto = library("onnx", extra="onnx"), proto
        self.rng = np.random.default_rng(0)
        self.makers = {name: node for node in proto.graph.node for name in node.output}
        self.values = {each.name: self.onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
        self.fixed = {"", *self.values}
        self.given: dict[str, np.ndarray] = {}
        self.found: list[Any] = []
        self.gives: Any = None
        self.giver: Any = None
        self.drawn: list[np.ndarray] = []
        self.readout: Any = None
        self.biased = False
        self.target: Any = "each"
        self.activation: Any = None

    def model(self) -> Model:
        """Walk, and return what was found."""
        outputs = [each.name for each in self.proto.graph.output]
        nodes = self._behind(outputs)
        first = next((node for node in nodes if _kind(node) in ORDERS), None)
        if first is None:
            kinds = sorted({_kind(node) for node in nodes})
            unrolled = "Tanh" in kinds and {"MatMul", "Gemm"} & {*kinds}
            advice = "; if the layers were unrolled into these, export with dynamo=False" if unrolled else ""
            raise ValueError(
                f"source: expected an LSTM, a GRU or an RNN in the graph, got {reprlib.repr(kinds)}{advice}"
            )
        rest = []
        for node in nodes:
            if {*node.input} <= self.fixed:
                self._move(node)
                self.fixed |= {*node.output}
            else:
                rest.append(node)
        self._draw_inputs(self.values.get(first.input[1]))
        below = [node.output[0] for node in self._behind([first.input[0]])]
        for node in (node for node in rest if node.output[0] in below):
            self._step(node)
        self._tell_lengths(first)
        for node in (node for node in rest if node.output[0] not in below):
            self._step(node)
        targets = [self._end(name) for name in outputs]
        target: Any = next((each for each in ("each", "last", "mean") if each in targets), None)
        if target is None:
            advice = next(filter(None, map(self._on_last, outputs)), "")
            expected = "what the network gives among the graph's outputs"
            raise ValueError(f"source: expected {expected}, got {outputs}{advice}")
        return _model(self.found, self.readout, target, self.activation)

    def _behind(self, names: Iterable[str]) -> list:
        """Return the nodes that have a part in these names, in their order."""
        known, todo = {""}, [*names]
        while todo:
            name = todo.pop()
            if name not in known and name in self.makers:
                todo += self.makers[name].input
            known.add(name)
        return [node for node in self.proto.graph.node if (known - {""}) & {*node.output}]

    def _draw_inputs(self, weight: Any) -> None:
        """Draw what the graph is given; `weight` is the first layer's, whose last axis is of features."""
        features = weight.shape[-1] if np.ndim(weight) == 3 else SOME
        for k, each in enumerate(self.proto.graph.input):
            if each.name in self.values:
                continue
            tensor = each.type.tensor_type
            if not each.type.HasField("tensor_type"):
                raise ValueError(f"source.graph.input[{k}]: expected a tensor, got {each.name!r}")
            shape = [axis.dim_value or SOME for axis in tensor.shape.dim]
            ones = np.ones(shape, self.onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            if is_floating(ones):
                if len(shape) == 3 and not tensor.shape.dim[2].dim_value:
                    shape[2] = features
                self.given[each.name] = self.rng.normal(size=shape).astype(ones.dtype)
            elif is_integer(ones) and len(shape) > 1:
                self.given[each.name] = self.rng.integers(features, size=shape).astype(ones.dtype)
            else:  # lengths, of which more is told later; or what is true of steps
                self.given[each.name] = ones
        self.values |= self.given

    def _tell_lengths(self, first: Any) -> None:
        """Let lengths be of all steps, as the first layer reads so many."""
        shape = self.values[first.input[0]].shape
        time = shape[1 if self._attributes(first).get("layout") == 1 else 0] if len(shape) == 3 else SOME
        lengths = {name: each for name, each in self.given.items() if is_integer(each) and each.ndim < 2}
        self.values |= {name: np.full_like(each, time) for name, each in lengths.items()}

    def _step(self, node: Any) -> None:
        """Take one node, any but those in which no input has a part."""
        kind, others = _kind(node), [name for name in node.input if name not in self.fixed]
        if kind in ORDERS:
            self._layer(node)
        elif kind in ("MatMul", "Gemm") and others == [node.input[0]] and self.found and not self.readout:
            self._dense(node)
        elif kind == "Add" and len(others) == 1 and self.readout and not self.biased and self._order(others[0]):
            [bias] = {*node.input} - {*others}
            self._bias(node, others[0], bias)
        elif kind in ACTIVATIONS and self.readout and not self.activation:
            self._activate(node)
        else:
            self._move(node)

    def _layer(self, node: Any) -> None:
        """Take a recurrent node."""
        names = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
        given = {key: name for key, name in zip(names, node.input, strict=False) if name}
        weights = {key: name for key, name in given.items() if key in names[1:4] + names[7:]}
        attributes, label = self._attributes(node), _label(node)
        for key, name in weights.items():
            if name not in self.fixed:
                raise ValueError(f"source ({label}).arrays[{key!r}]: expected weights, got {name!r}, made of inputs")
        arrays = {key: self.values[name] for key, name in weights.items()}
        cell, layer = read_layer(f"source ({label})", Node(_kind(node), attributes, arrays))

        xs, turned = self.values[given["X"]], attributes.get("layout") == 1
        xs = xs.swapaxes(0, 1) if turned and xs.ndim == 3 else xs
        wanted = [self.gives] if self.found else self._readable(arrays["W"].shape[-1])
        if self.readout or not any(each.shape == xs.shape and _same(xs, each) for each in wanted):
            reads = "what the layer below gives" if self.found else "an input, features or one-hot vectors,"
            path = self._path(given["X"])
            of_ids = "Gather" in path and any(is_integer(each) and each.ndim > 1 for each in self.given.values())
            advice = FOLD if of_ids and not self.found else ""
            raise ValueError(f"source: expected {label} to read {reads} as it is, got {path}{advice}")
        time, batch = xs.shape[:2]
        starts = np.concatenate([[0.0], *(each.ravel() for each in self.given.values() if is_floating(each))])
        for key, name in given.items():
            if key == "sequence_lens" and not (self.values[name] == time).all():
                raise ValueError(
                    f"source ({label}): expected sequence_lens that are an input, or all steps, got {name!r}"
                )
            if key.startswith("initial") and not np.isin(self.values[name], starts).all():
                raise ValueError(f"source ({label}): expected {key} that is an input, or zeros, got {name!r}")

        ways, units = len(directions(layer)), directions(layer)[0].weight_hh.shape[1]
        self.found.append((cell, layer))
        self._draw(node, (time, batch, ways * units), xs.dtype)
        outputs = self.gives.reshape(time, batch, ways, units).transpose(0, 2, 1, 3)
        ends = np.stack([outputs[-1, 0], outputs[0, -1]][:ways])
        cells = self.rng.uniform(-1, 1, ends.shape).astype(xs.dtype)
        self.drawn.append(cells)
        if turned:
            outputs, ends, cells = outputs.transpose(2, 0, 1, 3), ends.swapaxes(0, 1), cells.swapaxes(0, 1)
        self.values |= zip(node.output, (outputs, ends, cells), strict=False)

    def _readable(self, features: int) -> list[np.ndarray]:
        """Return the graph's inputs as a layer may read them, `[time, batch, features]`."""
        found = []
        for each in self.given.values():
            if is_integer(each) and each.ndim == 2:
                each = np.eye(features)[each]
            each = each[:, None] if each.ndim == 2 else each
            found += [each, each.swapaxes(0, 1)] if each.ndim == 3 and each.shape[-1] == features else []
        return found

    def _draw(self, node: Any, shape: tuple, dtype: Any) -> None:
        """Draw what a node gives; outputs of a layer are from -1 to 1."""
        self.gives, self.giver = self.rng.uniform(-1, 1, shape).astype(dtype), node
        self.drawn.append(self.gives)

    def _take(self, node: Any, name: str) -> bool:
        """Go on with what a node reads, all steps that the network gives or one for them; is batch the first axis?"""
        found = self._order(name)
        if found is None:
            expected = f"{_label(node)} to read what the layer below gives as it is"
            raise ValueError(f"source: expected {expected}, got {self._path(name)}{self._on_last(name)}")
        target, turned, rows = found
        if target != "each":
            self.target, self.gives = target, rows
        return turned

    def _dense(self, node: Any) -> None:
        """Take the dense layer on top."""
        xs, *weights = (self.values[name] for name in node.input if name)
        turned = self._take(node, node.input[0])
        arrays = dict(zip("BC", (weights[0], *map(_row, weights[1:])), strict=False))
        self.readout = read_readout(f"source ({_label(node)})", Node("Gemm", self._attributes(node), arrays))
        self.biased = "C" in arrays
        outputs = len(self.readout.bias)
        self._draw(node, (*self.gives.shape[:2], outputs), xs.dtype)
        scores = self.gives.swapaxes(0, 1) if turned else self.gives
        self.values[node.output[0]] = scores.reshape(*xs.shape[:-1], outputs)

    def _bias(self, node: Any, scores: str, bias: str) -> None:
        """Take the bias of the dense layer."""
        found = array(f"source ({_label(node)}), {bias!r}", _row(self.values[bias]), len(self.readout.bias))
        self.readout, self.biased = self.readout._replace(bias=found), True
        self._take(node, scores)
        self._redraw(node, scores)

    def _activate(self, node: Any) -> None:
        """Take what is behind the readout."""
        kind, scores = _kind(node), node.input[0]
        self._take(node, scores)
        last = self.values[scores].ndim - 1
        version = max(each.version for each in self.proto.opset_import if each.domain in ("", "ai.onnx"))
        axis = self._attributes(node).get("axis", -1 if version > 12 else 1) if kind == "Softmax" else last
        if axis not in (-1, last):
            raise ValueError(f"source ({_label(node)}).attributes['axis']: expected the last one, {last}, got {axis}")
        self.activation = ACTIVATIONS[kind]
        self._redraw(node, scores)

    def _redraw(self, node: Any, scores: str) -> None:
        """Let a node give other scores than it reads, in the same places."""
        shape = np.broadcast_shapes(*(self.values[name].shape for name in node.input))
        self.values[node.output[0]] = (NEXT * self.values[scores]).reshape(shape)
        self.gives, self.giver = NEXT * self.gives, node
        self.drawn.append(self.gives)

    def _order(self, name: str) -> tuple[Any, bool, np.ndarray] | None:
        """Return which steps of what the network gives this is, whether batch is the first axis, and these steps."""
        value, each, ways = self.values[name], self.gives, len(directions(self.found[-1][1]))
        known = [("each", False, each), ("each", True, each.swapaxes(0, 1))]
        if ways == 1 or not self.readout:
            units = each.shape[-1] // ways
            known.append(("last", False, np.concatenate([each[-1:, :, :units], each[:1, :, units:]], axis=-1)))
        if not self.activation:
            known.append(("mean", False, each.mean(0, keepdims=True)))
        return next((found for found in known if _same(value, found[2])), None)

    def _end(self, name: str) -> str | None:
        """Return which steps an output of the graph is of; None of a state or what the network does not end with."""
        value = self.values[name]
        found = self._order(name)
        if found is not None:
            return self.target if found[0] == "each" else found[0]
        if not np.isin(value, np.concatenate([each.ravel() for each in self.drawn])).all():
            raise ValueError(f"source: expected an output of what the network gives as it is, got {self._path(name)}")
        return None

    def _on_last(self, name: str) -> str:
        """Return advice where what is no end of the network is its last step: one of two directions begins there."""
        return LAST if _same(self.values[name], self.gives[-1:]) else ""

    def _path(self, name: str) -> str:
        """Return what was done to the network's input, or to what a layer gives, before it came here."""
        below = {id(node) for node in self._behind(self.giver.output)} if self.giver else set()
        nodes = [node for node in self._behind([name]) if id(node) not in below and not self.fixed >= {*node.output}]
        nodes = [node for node in nodes if _kind(node) in ORDERS or is_floating(self.values[node.output[0]])]
        nodes = [node for node in nodes if _kind(node) not in MOVING.split()] or nodes
        return f"it behind {' and '.join(map(_label, nodes))}" if nodes else f"{name!r}"

    def _move(self, node: Any) -> None:
        """Run a node that moves numbers, or computes on some."""
        if _kind(node) not in (MOVING + COMPUTING).split():
            expected = "recurrent nodes that read each other, a dense layer on top and a Softmax or Sigmoid"
            raise ValueError(f"source: expected {expected}, got {_label(node)}")
        names, outputs = dict.fromkeys(filter(None, node.input)), [*filter(None, node.output)]
        information = self.onnx.helper.make_empty_tensor_value_info
        graph = self.onnx.helper.make_graph([node], "node", [*map(information, names)], [*map(information, outputs)])
        model = self.onnx.helper.make_model(graph, opset_imports=self.proto.opset_import)
        try:
            with np.errstate(all="ignore"):
                evaluator = library("onnx.reference", extra="onnx").ReferenceEvaluator(model)
                found = evaluator.run(None, {name: self.values[name] for name in names})
        except Exception as error:  # whatever NumPy raises
            came = f"{type(error).__name__}: {error}"
            raise ValueError(f"source: expected what ONNX's reference runs, got {_label(node)}, {came}") from None
        self.values |= zip(outputs, found, strict=True)

    def _attributes(self, node: Any) -> dict[str, Any]:
        """Return a node's attributes, with strings for bytes."""
        found = {each.name: self.onnx.helper.get_attribute_value(each) for each in node.attribute}
        return {key: _decoded(value) for key, value in found.items()}


def _decoded(value: Any) -> Any:
    if isinstance(value, (str, int, float)):
        return value
    return value.decode() if isinstance(value, bytes) else [*map(_decoded, value)]


def _kind(node: Any) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _label(node: Any) -> str:
    return f"{_kind(node)} {node.name or next(filter(None, node.output))!r}"


def _row(bias: np.ndarray) -> np.ndarray:
    """Return a bias without axes of one in front."""
    return bias.reshape(-1) if bias.shape[-1:] == (bias.size,) else bias


def _same(got: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether numbers are these, but for rounding and axes of time and batch that are one."""
    if got.size != wanted.size or got.shape[-1:] != wanted.shape[-1:] or not is_floating(got):
        return False
    got = got.reshape(wanted.shape)
    return np.allclose(got.astype(float), wanted.astype(float), rtol=0, atol=8 * float(jnp.finfo(got.dtype).eps))
