"""Out into the world: a whole network as one file in ONNX, which runs where there is neither JAX nor Python.

Batch and time are free axes. The inputs are

    x           features [batch, time, I] in float32, with `standardize` in float64; or ids [batch, time] in int64
    lengths     how many steps of each sequence are real, [batch] in int64, or [1] for all; may be left out
    h_0, c_0    the state to start from, [layers, batch, H], or [layers, 1, H] for all; may be left out

and the outputs

    outputs     what `predict` gives, without its last axis: [batch, time, C], or [batch, C] of one target a sequence
    deviations  the standard deviations beside, of "gaussian" and "laplace"
    h_n, c_n    the state after each sequence's last real step, [layers, batch, H], to go on from

A network that reads in both directions, or tells the mean, reads whole sequences: it has no state. A GRU and a plain
RNN have no c. An id that the network does not know is an error; NaN is read as it is. There has to be one sequence and
one step at the least. A language model gives logits, and "vocabulary" in the file's metadata is a string in JSON whose
k-th character is id k. ONNX Runtime warns of each input that may be left out, as it is no constant:
`SessionOptions.log_severity_level = 3` says that this is meant.
"""

import json
import os
from typing import Any

import jax
import numpy as np

from jlstm.checks import library
from jlstm.config import LSTMConfig
from jlstm.files import name_of, write
from jlstm.interop.onnx import node_of
from jlstm.objectives import LEAST_SCALE
from jlstm.saved import Saved

__all__ = ["export_onnx"]

OPSET, IR_VERSION = 17, 9  # of 2022 and 2023: what runs ONNX today knows them
ALL_STEPS = 2**31 - 1
PROBABILITIES = {"classes": "Softmax", "questions": "Sigmoid"}


def export_onnx(path: str | os.PathLike[str], saved: Saved) -> None:
    """Write a network to a file in ONNX, in one step, its weights in float32.

    Args:
        path: the file; one that is there is replaced.
        saved: the network, of a cell that ONNX has: "lstm", "peephole", "coupled", "gru", "gru_before" or "rnn".

    Raises:
        ValueError: ONNX has no such cell.
        OSError: the file can't be written.
        ModuleNotFoundError: onnx is not installed.
    """
    name = name_of(path)
    graph = _Graph(library("onnx", extra="onnx"))
    _network(graph, saved._replace(params=jax.tree.map(_in_float32, saved.params)))
    about = {} if saved.vocabulary is None else {"vocabulary": json.dumps(saved.vocabulary)}
    write(name, graph.model(about).SerializeToString())


def _in_float32(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.float32)


def _network(graph: "_Graph", saved: Saved) -> None:
    """Put the network's equations into a graph, time first inside, as ONNX's layers are."""
    config, readout, scalings = saved.config, saved.params.readout, saved.scalings
    batch, time, xs = _inputs(graph, saved)
    given = graph.input("lengths", np.int64, ["lengths"], default=np.array([ALL_STEPS]))
    lengths = graph.add("Expand", graph.add("Max", graph.add("Min", given, time), [0]), batch)
    hs, states = _layers(graph, saved, xs, lengths, batch)
    if config.target == "last":
        hs = _last(graph, hs, lengths, config)
    elif config.target == "mean":
        steps = graph.add("Cast", graph.add("Max", lengths, [1]), to=np.float32)
        hs = graph.add("Div", graph.add("ReduceSum", hs, [0], keepdims=0), graph.add("Unsqueeze", steps, [1]))
    scores = graph.add("Add", graph.add("MatMul", hs, readout.weight), readout.bias)
    scores = graph.add("Transpose", scores, perm=[1, 0, 2]) if config.target == "each" else scores
    dtype = np.float32 if scalings is None or scalings.targets is None else np.float64
    for name, told in _told(graph, scores, saved).items():
        graph.output(name, told, dtype, "batch", *["time"] * (config.target == "each"), config.output_size)
    for name, state in states.items():
        graph.output(name, state, np.float32, config.layers, "batch", config.hidden_size)


def _inputs(graph: "_Graph", saved: Saved) -> tuple[str, str, str]:
    """Return the two sizes, `[1]` each, and what the first layer reads, `[time, batch, I]`."""
    config, scalings = saved.config, saved.scalings
    if config.inputs == "tokens":
        given = graph.input("x", np.int64, ["batch", "time"])
        # OneHot takes an id from I up for none, and one below 0 for one from the end; Gather refuses what is not there.
        there = graph.add("Where", graph.add("Less", given, np.array(0)), np.array(config.input_size), given)
        ids = graph.add("Gather", np.arange(config.input_size), there)
        xs = graph.add("OneHot", ids, np.array(config.input_size), np.array([0, 1], np.float32))
    else:
        xs = graph.input("x", np.float64 if saved.standardize else np.float32, ["batch", "time", config.input_size])
        if scalings is not None:
            xs = graph.add("Div", graph.add("Sub", xs, scalings.inputs.mean), scalings.inputs.deviation)
        xs = graph.add("Cast", xs, to=np.float32) if saved.standardize else xs
    batch, time = (graph.add("Slice", graph.add("Shape", "x"), [k], [k + 1]) for k in (0, 1))
    return batch, time, graph.add("Transpose", xs, perm=[1, 0, 2])


def _layers(graph: "_Graph", saved: Saved, hs: str, lengths: str, batch: str) -> tuple[str, dict[str, str]]:
    """Return the top layer's outputs, `[time, batch, H]`, and the states at the end, `[layers, batch, H]`, by name."""
    config, count = saved.config, saved.config.layers
    nodes = [node_of(config.cell, layer) for layer in saved.params.layers]
    names = ["h", "c"] if nodes[0].kind == "LSTM" else ["h"]
    steps = graph.add("Cast", lengths, to=np.int32)
    starts = [_starts(graph, f"{name}_0", config, batch) for name in names] if config.in_pieces else [[""] * count] * 2
    ends = []
    for k, (node, *state) in enumerate(zip(nodes, *starts, strict=False)):
        weights, peepholes = (node.arrays[name] for name in "WRB"), [node.arrays["P"]] if "P" in node.arrays else []
        inputs = [hs, *weights, steps, *state[: len(names)], *peepholes]
        above, *end = graph.several(node.kind, 1 + len(names), *inputs, **node.attributes)
        # Of both directions, next to each other.
        above = graph.add("Reshape", graph.add("Transpose", above, perm=[0, 2, 1, 3]), [0, 0, config.output_width])
        hs = graph.add("Add", above, hs) if config.residual and k else above
        ends.append(end)
    if not config.in_pieces:
        return hs, {}
    found = {}
    none = graph.add(
        "Unsqueeze", graph.add("Equal", lengths, [0]), [0, 2]
    )  # after no steps, some give a state of zeros
    for name, start, reached in zip(names, starts, zip(*ends, strict=True), strict=True):
        kept = [graph.add("Where", none, *both) for both in zip(start, reached, strict=True)]
        found[f"{name}_n"] = graph.add("Concat", *kept, axis=0)
    return hs, found


def _starts(graph: "_Graph", name: str, config: LSTMConfig, batch: str) -> list[str]:
    """Return the state that each layer starts from, `[1, batch, H]`."""
    zeros = np.zeros((config.layers, 1, config.hidden_size), np.float32)
    given = graph.input(name, np.float32, [config.layers, f"{name}_batch", config.hidden_size], default=zeros)
    shape = graph.add("Concat", [config.layers], batch, [config.hidden_size], axis=0)
    states = graph.add("Expand", given, shape)
    return graph.several("Split", config.layers, states, axis=0) if config.layers > 1 else [states]


def _last(graph: "_Graph", hs: str, lengths: str, config: LSTMConfig) -> str:
    """Return each sequence's outputs where all of it was read, at its last real step and backwards at the first."""
    forward = config.output_width // (1 + config.bidirectional)
    step = graph.add("Max", graph.add("Sub", lengths, [1]), [0])
    place = graph.add("Unsqueeze", step, [0, 2])  # [1, batch, 1]
    ways = graph.several("Split", 2, hs, axis=2) if config.bidirectional else [hs]
    shape = graph.add("Concat", [1], graph.add("Slice", graph.add("Shape", hs), [1], [2]), [forward], axis=0)
    found = [graph.add("GatherElements", ways[0], graph.add("Expand", place, shape), axis=0)]
    found += [graph.add("Slice", way, [0], [1], [0]) for way in ways[1:]]
    whole = graph.add("Concat", *found, axis=2)
    return graph.add("Squeeze", whole, [0])


def _told(graph: "_Graph", scores: str, saved: Saved) -> dict[str, str]:
    """Return what scores tell a user, as `jlstm.objectives.told` does."""
    objective = saved.config.objective
    scaling = None if saved.scalings is None else saved.scalings.targets
    if saved.apply_softmax and objective.probabilities is not None:
        options = {"axis": -1} if objective.answers == "classes" else {}
        return {"outputs": graph.add(PROBABILITIES[objective.answers], scores, **options)}
    told = {"outputs": scores}
    if objective.noise is not None:
        values, raw = graph.several("Split", 2, scores, axis=-1)
        scale = graph.add("Add", graph.add("Softplus", raw), np.float32(LEAST_SCALE))
        told = {"outputs": values, "deviations": graph.add("Mul", scale, np.float32(objective.deviation))}
    if scaling is None:
        return told
    for name, each in told.items():
        told[name] = graph.add("Mul", graph.add("Cast", each, to=np.float64), scaling.deviation)
    return told | {"outputs": graph.add("Add", told["outputs"], scaling.mean)}


class _Graph:
    """A graph that grows operation by operation; each gives the names of its outputs."""

    def __init__(self, onnx: Any) -> None:
        self.onnx, self.nodes, self.constants = onnx, [], []  # type: Any, list[Any], list[Any]
        self.inputs, self.outputs = [], []  # type: list[Any], list[Any]

    def input(self, name: str, dtype: Any, shape: list[str | int], default: np.ndarray | None = None) -> str:
        """Add an input; one that has a default may be left out."""
        self.inputs.append(self._value(name, dtype, shape))
        if default is not None:
            self.constants.append(self.onnx.numpy_helper.from_array(default.astype(dtype), name))
        return name

    def output(self, name: str, value: str, dtype: Any, *shape: str | int) -> None:
        """Add an output under a name of its own."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        self.outputs.append(self._value(name, dtype, [*shape]))

    def add(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Add an operation with one output; what is no name is a constant, of integers in int64."""
        return self.several(kind, 1, *inputs, **attributes)[0]

    def several(self, kind: str, count: int, *inputs: Any, **attributes: Any) -> list[str]:
        """Add an operation with so many outputs."""
        if isinstance(attributes.get("to"), type):
            attributes["to"] = self._type(attributes["to"])
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        outputs = [f"{kind}_{len(self.nodes)}_{k}" for k in range(count)]
        self.nodes.append(self.onnx.helper.make_node(kind, names, outputs, **attributes))
        return outputs

    def model(self, metadata: dict[str, str]) -> Any:
        """Return the finished model, checked."""
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "network", self.inputs, self.outputs, self.constants)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="jlstm")
        helper.set_model_props(model, metadata)
        self.onnx.checker.check_model(model, full_check=True)
        return model

    def _constant(self, value: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def _value(self, name: str, dtype: Any, shape: list[str | int]) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self._type(dtype), shape)

    def _type(self, dtype: Any) -> int:
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
