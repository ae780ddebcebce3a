"""Weights from and to ONNX, beside ONNX Runtime and, in float64, ONNX's own reference, which have no gradients."""

import contextlib
import io
import re
import sys
import tracemalloc
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import Bidirectional, LSTMNetwork, Readout
from jlstm.cells import COUPLED, GRU, GRU_BEFORE, LAYER_NORM, LSTM, PEEPHOLE, PROJECTED, RNN, LSTMParams
from jlstm.interop import Model, Node, from_onnx, from_torch, layer_of, node_of, of_network, read_onnx, to_onnx
from jlstm.stack import directions
from tests.exchange import (
    BATCH,
    HIDDEN,
    INPUTS,
    LENGTHS,
    OUTPUTS,
    TIME,
    a_model,
    a_state,
    close,
    run,
    same_bits,
    sequences,
)

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
reference = pytest.importorskip("onnx.reference")

CELLS = {cell.name: cell for cell in (LSTM, PEEPHOLE, COUPLED, GRU, GRU_BEFORE, RNN)}
FORMS = {"one layer": (1, False), "two layers in both directions": (2, True)}


class Graph:
    """A graph as it grows."""

    def __init__(self):
        self.nodes, self.constants, self.inputs, self.outputs = [], {}, [], []

    def add(self, kind, inputs, output, **attributes):
        given = []
        for k, each in enumerate(inputs):
            given.append(each if isinstance(each, str) else f"{output}_{k}")
            if not isinstance(each, str):
                self.constants[given[-1]] = np.array(each)
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(onnx.helper.make_node(kind, given, outputs, name=f"to_{outputs[0]}", **attributes))
        return outputs[0]

    def proto(self, opset=17):
        kinds = onnx.helper.np_dtype_to_tensor_dtype
        inputs, outputs = (
            [onnx.helper.make_tensor_value_info(name, kinds(np.dtype(dtype)), shape) for name, dtype, shape in each]
            for each in (self.inputs, self.outputs)
        )
        constants = [onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = onnx.helper.make_graph(self.nodes, "network", inputs, outputs, constants)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9)


def network(model, *, layout=0, data=(), readout="MatMul", ids=False, opset=17):
    """A graph of a model, that reads `x` and, where `data` says so, `lengths` and the states `h0`, `c0`, ..."""
    graph, nodes = Graph(), to_onnx(model)[0]
    dtype = nodes[0].arrays["W"].dtype
    below = "x"
    graph.inputs.append(("x", "int64", ["batch", "time"]) if ids else ("x", dtype, ["batch", "time", INPUTS]))
    if ids:
        below = graph.add("OneHot", ["x", np.array(INPUTS), np.array([0, 1], dtype)], "vectors")
    if not layout:
        below = graph.add("Transpose", [below], "x_by_time", perm=[1, 0, 2])
    if "lengths" in data:
        graph.inputs.append(("lengths", "int32", ["batch"]))
    for k, node in enumerate(nodes):
        kept = ["Y", "Y_h", "Y_c"][: 3 if node.kind == "LSTM" else 2]
        states = [f"{each[-1]}{k}" for each in kept[1:]] if "states" in data else [""] * len(kept[1:])
        graph.inputs += [(name, dtype, [None, None, HIDDEN]) for name in states if name]
        names = [below, "W", "R", "B", "lengths" if "lengths" in data else "", *states]
        names += ["P"] if "P" in node.arrays else []
        graph.constants |= {f"{key}{k}": each for key, each in node.arrays.items()}
        names = [f"{name}{k}" if name in node.arrays else name for name in names]
        outputs = [f"{name}{k}" for name in kept]
        attributes = node.attributes | ({"layout": 1} if layout else {})
        graph.add(node.kind, names, outputs, **attributes)
        graph.outputs += [(name, dtype, [None, None, HIDDEN]) for name in outputs[1:]]
        # [time, directions, batch, H] or [batch, time, directions, H]
        below = f"Y{k}" if layout else graph.add("Transpose", [f"Y{k}"], f"ways{k}", perm=[0, 2, 1, 3])
        below = graph.add("Reshape", [below, np.array([0, 0, -1])], f"hs{k}")
    below = below if layout else graph.add("Transpose", [below], "hs", perm=[1, 0, 2])
    if model.target == "last":  # the states at the end, [directions, batch, H] or [batch, directions, H]
        end = f"Y_h{len(nodes) - 1}"
        below = end if layout else graph.add("Transpose", [end], "end", perm=[1, 0, 2])
        below = graph.add("Reshape", [below, np.array([0, -1])], "last")
    elif model.target == "mean" and "lengths" in data:  # what is read of padding is zero
        total = graph.add("ReduceSum", [below, np.array([1])], "total", keepdims=0)
        real = graph.add("Cast", ["lengths"], "real", to=onnx.helper.np_dtype_to_tensor_dtype(dtype))
        below = graph.add("Div", [total, graph.add("Unsqueeze", [real, np.array([1])], "count")], "mean")
    elif model.target == "mean":
        axes = {"axes": [1]} if opset < 18 else {}
        below = graph.add("ReduceMean", [below, *([] if axes else [np.array([1])])], "mean", keepdims=0, **axes)
    if model.readout is not None:
        weight, bias = model.readout
        if readout == "MatMul":
            below = graph.add("Add", [graph.add("MatMul", [below, weight], "product"), bias], "scores")
        else:
            below = graph.add("Gemm", [below, weight.T, bias], "scores", transB=1)
    if model.activation:
        below = graph.add({"softmax": "Softmax", "sigmoid": "Sigmoid"}[model.activation], [below], "y")
    graph.outputs.insert(0, (below, dtype, [None] * (3 if model.target == "each" else 2)))
    return graph.proto(opset)


def arrays_of(state):
    """A layer's state as ONNX has it, arrays `[directions, batch, H]`."""
    return [np.stack(each) for each in zip(*directions(state), strict=True)]


def feeds(xs, state=None, lengths=None, layout=0):
    given = {"x": xs}
    for k, each in enumerate(state or ()):
        arrays = zip("hc", arrays_of(each), strict=False)
        given |= {f"{name}{k}": array.swapaxes(0, 1) if layout else array for name, array in arrays}
    return given if lengths is None else given | {"lengths": lengths.astype(np.int32)}


def by_runtime(proto, given):
    session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, given)


@pytest.mark.parametrize(("name", "form"), [("lstm", (1, False)), *((name, (2, True)) for name in CELLS)])
def test_outputs_and_states_are_those_of_onnx_runtime(name, form):
    layers, both = form
    model = a_model(CELLS[name], layers=layers, both=both)
    xs, state = sequences(), a_state(model)
    proto = network(model, data=("states", "lengths"))
    hs, *ends = by_runtime(proto, feeds(xs, state, LENGTHS))
    got, reached = run(model, xs, state, LENGTHS)
    close((got, [arrays_of(each) for each in reached]), (hs, ends), "float32")
    same_bits(from_onnx(proto), model)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("name", [name for name in CELLS if name != "coupled"])  # the reference couples nothing
def test_in_float64_they_are_those_of_the_reference(x64, name, layout):
    model = a_model(CELLS[name], "float64", layers=2, both=True)
    xs, state = sequences("float64"), a_state(model, "float64")
    proto = network(model, layout=layout, data=("states",))
    hs, *ends = reference.ReferenceEvaluator(proto).run(None, feeds(xs, state, layout=layout))
    got, reached = run(model, xs, state)
    ends = [each.swapaxes(0, 1) if layout else each for each in ends]
    close((got, [arrays_of(each) for each in reached]), (hs, ends), "float64")
    same_bits(from_onnx(proto), model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CELLS)
def test_there_and_back_gives_the_same_bits(name, form, dtype):
    layers, both = FORMS[form]
    model = a_model(CELLS[name], jnp.dtype(dtype), layers=layers, both=both, readout=True)
    nodes, readout = to_onnx(model)
    same_bits(from_onnx(nodes, readout), model)
    same_bits(from_onnx(nodes[0]), Model(model.cell, model.layers[:1]))
    cell, layer = layer_of(node_of(model.cell, model.layers[0]))
    same_bits(Model(cell, (layer,)), Model(model.cell, model.layers[:1]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("target", ["each", "last", "mean"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("layout", [0, 1])
def test_a_graph_there_and_back_gives_the_same_bits(layout, both, target, dtype):
    opset = 22 if dtype == "bfloat16" else 17
    model = a_model(LSTM, jnp.dtype(dtype), layers=2, both=both, readout=True)
    for activation, data in ((None, ()), ("softmax", ("states",)), ("sigmoid", ("lengths",))):
        wanted = model._replace(target=target, activation=activation)
        same_bits(from_onnx(network(wanted, layout=layout, data=data, opset=opset)), wanted)


@pytest.mark.parametrize("name", CELLS)
def test_all_that_a_node_has_is_read(name):
    """Both biases, and of coupled gates a forget gate that is not looked at."""
    cell, rng = CELLS[name], np.random.default_rng(4)
    node = node_of(cell, a_model(cell, both=True).layers[0])
    arrays = {key: rng.normal(scale=0.5, size=each.shape).astype(each.dtype) for key, each in node.arrays.items()}
    node = node._replace(arrays=arrays)
    graph = Graph()
    graph.inputs.append(("x", "float32", [TIME, BATCH, INPUTS]))
    graph.outputs.append(("Y", "float32", [TIME, 2, BATCH, HIDDEN]))
    names = ["x", *(arrays[key] for key in "WRB"), *(["", "", "", arrays["P"]] if "P" in arrays else [])]
    graph.add(node.kind, names, "Y", **node.attributes)
    xs = sequences()
    [outputs] = by_runtime(graph.proto(), {"x": xs.swapaxes(0, 1)})
    outputs = outputs.transpose(2, 0, 1, 3).reshape(BATCH, TIME, 2 * HIDDEN)
    close(run(from_onnx(node), xs)[0], outputs, "float32")


@pytest.mark.parametrize("target", ["each", "last"])
@pytest.mark.parametrize("readout", ["MatMul", "Gemm"])
def test_the_readout_is_read(readout, target):
    model = a_model(LSTM, readout=True)._replace(target=target)
    xs = sequences()
    proto = network(model, readout=readout if target == "last" else "MatMul")
    scores = by_runtime(proto, {"x": xs})[0]
    found = from_onnx(proto)
    same_bits(found, model)
    close(
        run(found, xs)[0][:, -1:] if target == "last" else run(found, xs)[0],
        scores.reshape(BATCH, -1, OUTPUTS),
        "float32",
    )


def test_a_readout_has_no_bias_or_one_that_comes_later():
    model = a_model(LSTM, readout=True)
    wanted = model._replace(readout=Readout(model.readout.weight, np.zeros_like(model.readout.bias)))
    proto = network(model)
    assert proto.graph.node[-1].op_type == "Add"
    del proto.graph.node[-1]
    proto.graph.output[0].name = "product"
    same_bits(from_onnx(proto), wanted)
    weight, bias = model.readout
    nodes, gemm = to_onnx(model)
    same_bits(from_onnx(nodes, Node("Gemm", {"transB": 1, "alpha": 1.0}, {"B": weight.T, "C": bias})), model)
    same_bits(from_onnx(nodes, Node("Gemm", {}, {"B": weight})), wanted)
    assert gemm.arrays.keys() == {"B", "C"}


@pytest.mark.parametrize("layout", [0, 1])
def test_ids_are_read_as_one_hot_vectors(layout):
    model = a_model(LSTM, layers=2, readout=True)._replace(activation="softmax")
    same_bits(from_onnx(network(model, layout=layout, ids=True)), model)


def test_what_moves_numbers_is_no_matter():
    model = a_model(LSTM, layers=2, both=True, readout=True)
    proto = network(model, data=("lengths",))
    for name in ("x", "Y0", "W1", "hs", "scores_1"):
        proto = between(proto, name, "Identity")
    proto = between(proto, "hs", "Cast", to=onnx.TensorProto.DOUBLE)
    proto = between(proto, "to_hs_Cast", "Cast", to=onnx.TensorProto.FLOAT)
    proto.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value")
    proto = between(proto, "lengths", "Cast", to=onnx.TensorProto.INT32)
    proto.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    bias = next(each for each in proto.graph.initializer if each.name == "scores_1")
    bias.dims[:] = [1, 1, OUTPUTS]
    same_bits(from_onnx(proto), model)
    bias.dims[:] = [OUTPUTS, 1]
    with pytest.raises(ValueError, match=re.escape("expected shape [2], got float32 of shape (2, 1)")):
        from_onnx(proto)


def test_a_file_is_read(tmp_path):
    model, path = a_model(GRU, layers=2, readout=True), tmp_path / "model.onnx"
    onnx.save(network(model), path)
    same_bits(from_onnx(path), model)
    same_bits(from_onnx(str(path)), model)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none.onnx")
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match="source: expected a model of ONNX, got "):
        from_onnx(path)


def test_graphs_alone_need_onnx(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert from_onnx(NODE).cell is LSTM
    path = tmp_path / "model.onnx"
    with pytest.raises(FileNotFoundError):
        from_onnx(path)
    path.touch()
    with pytest.raises(ModuleNotFoundError, match=re.escape("onnx is not installed: pip install 'jlstm[onnx]'")):
        from_onnx(path)


def between(proto, name, kind, *constants, only=None, **attributes):
    """Put an operator behind a name, before all that read it, or those that are of one kind."""
    made, copy = f"to_{name}_{kind}", onnx.ModelProto.FromString(proto.SerializeToString())
    nodes = copy.graph.node
    for node in nodes:
        if only in (None, node.op_type):
            node.input[:] = [made if each == name else each for each in node.input]
    for output in copy.graph.output:
        output.name = made if output.name == name else output.name
    given = [f"{made}_{k}" for k in range(len(constants))]
    copy.graph.initializer.extend(map(onnx.numpy_helper.from_array, constants, given))
    place = 1 + max((k for k, node in enumerate(nodes) if name in node.output), default=-1)
    nodes.insert(place, onnx.helper.make_node(kind, [name, *given], [made], name=kind.lower(), **attributes))
    return copy


def exported(module, *given, free=True, **options):
    """What torch writes of a module that reads `x`, and may be `lengths` or states."""
    torch, file = pytest.importorskip("torch"), io.BytesIO()
    names = ["x", *(["lengths"] if len(given) == 2 else ["h0", "c0"])][: len(given)]
    axes = {"x": {0: "batch", 1: "time"}, "lengths": {0: "batch"}, "h0": {1: "batch"}, "c0": {1: "batch"}}
    options |= {"dynamic_axes": {name: axes[name] for name in names}} if free else {}
    with warnings.catch_warnings():  # that tracing is an old way, and of each shape that is looked at
        warnings.simplefilter("ignore")
        given = tuple(torch.as_tensor(each) for each in given)
        torch.onnx.export(module, given, file, dynamo=False, input_names=names, **options)
    return onnx.load_from_string(file.getvalue())


def every(hs, h_n):
    return hs


def last(hs, h_n):
    return hs[:, -1]


def at_the_end(hs, h_n):
    return h_n[-1]


def both_at_the_end(hs, h_n):
    return h_n[-2:].transpose(0, 1).flatten(1)


def both_joined(hs, h_n):
    return pytest.importorskip("torch").cat([h_n[-2], h_n[-1]], 1)


def both_the_other_way(hs, h_n):
    return pytest.importorskip("torch").cat([h_n[-1], h_n[-2]], 1)


def one_twice(hs, h_n):
    return pytest.importorskip("torch").cat([h_n[-2], h_n[-2]], 1)


def both_by_layer(hs, h_n):
    return h_n.view(2, 2, -1, HIDDEN)[-1].transpose(0, 1).reshape(-1, 2 * HIDDEN)


def mean(hs, h_n):
    return hs.mean(1)


def total(hs, h_n):
    return hs.sum(1) / hs.shape[1]


def torch_net(kind="LSTM", early=every, late=every, before=None, outputs=OUTPUTS, **options):
    """A module of torch, with what is done before its layers, between them and the readout, and behind that."""
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = getattr(torch.nn, kind)(INPUTS, HIDDEN, **{"batch_first": True} | options)
            self.fc = torch.nn.Linear(HIDDEN * (1 + options.get("bidirectional", False)), outputs)

        def forward(self, xs, *state):
            hs, h_n = self.lstm(xs if before is None else before(xs), state or None)
            h_n = h_n[0] if isinstance(h_n, tuple) else h_n
            return late(self.fc(early(hs, h_n)), h_n)

    return Net().eval()


def whole(model, xs):
    """What a model gives of whole sequences, with its target, readout and activation."""
    hs = np.asarray(run(model._replace(readout=None), xs)[0])
    ways = len(directions(model.layers[-1]))
    last = [hs[:, -1, :HIDDEN], hs[:, 0, HIDDEN:]][:ways]
    read = {"each": hs, "last": np.concatenate(last, 1), "mean": hs.mean(1)}[model.target]
    scores = read if model.readout is None else read @ model.readout.weight + model.readout.bias
    return scores if model.activation is None else getattr(jax.nn, model.activation)(scores)


REFUSED = "^source.*: expected (?!a model of ONNX)"
DEEP = {"num_layers": 2, "bidirectional": True}


@pytest.mark.parametrize(
    ("kind", "options", "early", "late", "target"),
    [
        ("LSTM", {}, every, every, "each"),
        ("LSTM", DEEP, every, every, "each"),
        ("GRU", {"num_layers": 2}, last, every, "last"),
        ("LSTM", {}, every, last, "last"),
        ("LSTM", {"num_layers": 2}, at_the_end, every, "last"),
        ("RNN", {"bidirectional": True}, both_joined, every, "last"),
        ("GRU", DEEP, both_joined, every, "last"),
        ("LSTM", DEEP, both_at_the_end, every, "last"),
        ("LSTM", DEEP, both_by_layer, every, "last"),
        ("RNN", {"bidirectional": True, "bias": False}, mean, every, "mean"),
        ("GRU", {}, every, mean, "mean"),
        ("LSTM", DEEP, total, every, "mean"),
    ],
)
def test_what_torch_exports_is_read(kind, options, early, late, target):
    net = torch_net(kind, early, lambda scores, h_n: late(scores, h_n).softmax(-1), **options)
    wanted, xs = from_torch(net.lstm, net.fc)._replace(target=target, activation="softmax"), sequences()
    proto = exported(net, xs)
    same_bits(from_onnx(proto), wanted)
    close(whole(wanted, xs), by_runtime(proto, {"x": xs})[0], "float32")
    same_bits(from_onnx(exported(net, xs, do_constant_folding=False)), wanted)
    same_bits(from_onnx(exported(net, xs[:1], free=False)), wanted)


@pytest.mark.parametrize(
    ("early", "late"),
    [
        (both_the_other_way, every),
        (one_twice, every),
        (last, every),
        (every, last),
        (lambda hs, h_n: hs[:, ::2], every),
        (lambda hs, h_n: hs.flip(1), every),
        (lambda hs, h_n: hs.mean(0), every),
        (lambda hs, h_n: hs.amax(1), every),
        (lambda hs, h_n: hs[:, :, HIDDEN // 2 :].repeat(1, 1, 2)[:, :, : 2 * HIDDEN], every),
        (every, lambda scores, h_n: scores.softmax(-1).mean(1)),
        (every, lambda scores, h_n: scores.softmax(1)),
        (every, lambda scores, h_n: scores.transpose(1, 2) + scores.new_ones(1)),
        (every, lambda scores, h_n: (scores, scores.sum(1))),
        (every, lambda scores, h_n: scores[:, 2]),
        (every, lambda scores, h_n: scores[:, :, [1, 0]]),
        (every, lambda scores, h_n: scores[:, :, :1]),
    ],
)
def test_what_torch_exports_is_refused_where_it_is_no_network(early, late):
    with pytest.raises(ValueError, match=REFUSED):
        from_onnx(exported(torch_net("GRU", early, late, bidirectional=True), sequences()))


def test_a_readout_of_another_axis_is_refused():
    """Of as many sequences as units, or as many steps as classes, the sizes fit."""
    proto = between(network(a_model(LSTM, readout=True)), "hs", "Transpose", perm=[1, 2, 0])
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = HIDDEN
    with pytest.raises(ValueError, match="got MatMul 'to_product' of what the network gives"):
        from_onnx(proto)
    proto = between(network(a_model(LSTM, readout=True)), "product", "Transpose", perm=[0, 2, 1])
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = OUTPUTS
    with pytest.raises(ValueError, match="got Add 'to_scores' of what the network gives"):
        from_onnx(proto)


def test_the_target_is_of_what_the_graph_ends_with():
    proto = network(a_model(LSTM, readout=True)._replace(target="last"))
    proto.graph.output.insert(0, onnx.helper.make_tensor_value_info("hs", onnx.TensorProto.FLOAT, [None] * 3))
    assert from_onnx(proto).target == "last"


def test_what_torch_exports_of_states_and_of_time_first_is_read():
    state = [np.zeros((2, BATCH, HIDDEN), np.float32)] * 2
    net = torch_net(num_layers=2)
    same_bits(from_onnx(exported(net, sequences(), *state)), from_torch(net.lstm, net.fc))
    net = torch_net(batch_first=False, bidirectional=True)
    same_bits(from_onnx(exported(net, sequences())), from_torch(net.lstm, net.fc))
    alone = pytest.importorskip("torch").nn.LSTM(INPUTS, HIDDEN, num_layers=2)
    same_bits(from_onnx(exported(alone, sequences())), from_torch(alone))


@pytest.mark.parametrize("late", [lambda scores, _: scores.squeeze(-1), lambda scores, _: scores.squeeze(-1).sigmoid()])
def test_a_last_axis_of_one_may_be_missing(late):
    net = torch_net(late=late, outputs=1)
    found = from_onnx(exported(net, sequences()))
    same_bits(found._replace(activation=None), from_torch(net.lstm, net.fc))


def test_ids_that_torch_exports_are_read():
    torch = pytest.importorskip("torch")
    net = torch_net(before=lambda ids: torch.nn.functional.one_hot(ids, INPUTS).float())
    model, inputs = read_onnx(exported(net, np.zeros((BATCH, TIME), int)))
    same_bits(model, from_torch(net.lstm, net.fc))
    assert inputs == "tokens"
    assert read_onnx(exported(torch_net(), sequences()))[1] == "features"


OWN = [
    {"layers": 2},
    {"target": "last"},
    {"layers": 2, "target": "last", "bidirectional": True, "cell": "gru"},
    {"layers": 2, "target": "mean", "bidirectional": True},
    {"target": "mean", "cell": "coupled"},
    {"inputs": "tokens", "layers": 2, "cell": "peephole", "apply_softmax": True},
    {"cell": "rnn", "loss": "binary_cross_entropy", "apply_softmax": True},
]


@pytest.mark.parametrize("options", OWN)
def test_what_jlstm_exports_is_read(tmp_path, options):
    network = LSTMNetwork(INPUTS, HIDDEN, 3, **options, progress=False)
    network.export_onnx(tmp_path / "network.onnx")
    model, inputs = read_onnx(tmp_path / "network.onnx")
    answers = {None: None, "cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}
    activation = answers[network.config.loss if network.apply_softmax else None]
    same_bits(model, of_network(network)._replace(activation=activation))
    assert inputs == network.config.inputs


@pytest.mark.parametrize(
    ("options", "kind"), [({"loss": "gaussian"}, "Softplus"), ({"layers": 2, "residual": True, "loss": "mse"}, "Add")]
)
def test_what_weights_alone_do_not_tell_of_is_said(tmp_path, options, kind):
    LSTMNetwork(INPUTS, HIDDEN, 2, **options, progress=False).export_onnx(tmp_path / "network.onnx")
    with pytest.raises(ValueError, match=f"got {kind} .* which weights alone do not tell of"):
        from_onnx(tmp_path / "network.onnx")


def test_ids_and_states_are_read_behind_what_keeps_them_right():
    """As jlstm writes them: no id is negative, and no steps leave a state as it is."""
    model = a_model(LSTM, readout=True)
    proto = network(model, ids=True, data=("states", "lengths"))
    proto = chosen(proto, "x", "Less", np.array(0), np.array(INPUTS))
    proto = between(proto, "to_x_Where", "Identity")
    table = onnx.numpy_helper.from_array(np.arange(INPUTS), "table")
    [node] = [node for node in proto.graph.node if node.op_type == "Identity"]
    node.op_type, node.input[:] = "Gather", ["table", "to_x_Where"]
    proto.graph.initializer.append(table)
    kept = chosen(proto, "Y_c0", "Equal", np.array(0, np.int32), "c0", asked="lengths", axes=[0, 2])
    same_bits(from_onnx(kept), model)
    for other in (np.array(1, np.int32), np.array(-1, np.int32)):
        with pytest.raises(ValueError, match="got Where "):
            from_onnx(chosen(proto, "Y_c0", "Equal", other, "c0", asked="lengths", axes=[0, 2]))
    with pytest.raises(ValueError, match="got Where "):
        from_onnx(chosen(proto, "Y_c0", "Equal", np.array(0, np.int32), "c0", asked="lengths", axes=[1, 2]))


def chosen(proto, name, kind, number, instead, *, asked=None, axes=()):
    """Put a Where behind a name: where what is asked is so, something else is taken in its place."""
    proto = between(proto, name, "Where")
    [node] = [node for node in proto.graph.node if node.name == "where" and node.output[0] == f"to_{name}_Where"]
    node.name, condition, given = f"where_{name}", [f"{name}_condition"], []
    constants = {f"{name}_number": number, f"{name}_instead": instead, f"{name}_axes": np.array(axes)}
    for key, value in constants.items():
        if isinstance(value, np.ndarray) and value.shape != (0,):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(value, key))
    given.append(onnx.helper.make_node(kind, [asked or name, f"{name}_number"], condition))
    if axes:
        condition.append(f"{name}_turned")
        given.append(onnx.helper.make_node("Unsqueeze", [condition[0], f"{name}_axes"], condition[1:]))
    node.input[:] = [condition[-1], instead if isinstance(instead, str) else f"{name}_instead", name]
    place = [each.name for each in proto.graph.node].index(node.name)
    for each in reversed(given):
        proto.graph.node.insert(place, each)
    return proto


def number(value):
    return np.array(value, np.float32)


def masked(place):
    """A graph that is given which steps are real, and does away with the others."""
    proto = between(deep(), place, "Where")
    [node] = [node for node in proto.graph.node if node.op_type == "Where"]
    proto.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.BOOL, ["batch", "time", 1]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(number(-1e9), "nothing"))
    node.input[:] = ["mask", place, "nothing"]
    return proto


@pytest.mark.parametrize(
    "given",
    [
        lambda: between(deep(), "scores", "Min", number(30)),
        lambda: between(between(deep(), "x", "Max", number(-30)), "to_x_Max", "Min", number(30)),
        lambda: between(deep(), "hs0", "Max", number(-1)),
        lambda: chosen(deep(), "x", "Greater", number(30), number(30)),
        lambda: chosen(deep(), "x", "LessOrEqual", number(-50), number(0)),
        lambda: chosen(deep(), "x", "Less", number(0), number(0)),
        lambda: chosen(deep(), "scores", "Greater", number(50), number(50)),
        lambda: between(deep(), "x", "Mod", number(50), fmod=1),
        lambda: between(deep(), "x", "Clip", number(-30), number(30)),
        lambda: between(deep(), "scores", "Mul", number(1 + 1e-6)),
        lambda: between(between(deep(), "x", "Cast", to=10), "to_x_Cast", "Cast", to=1),
        lambda: between(between(deep(), "hs0", "Cast", to=10), "to_hs0_Cast", "Cast", to=1),
        lambda: between(deep(), "x", "Dropout", number(0.5), np.array(True)),
        lambda: masked("x"),
        lambda: masked("scores"),
    ],
)
def test_what_depends_on_numbers_is_an_error_however_seldom_they_come(given):
    with pytest.raises(ValueError, match=REFUSED):
        from_onnx(given())


def clipped_lengths(number):
    return between(deep(), "lengths", "Min", np.array([number], np.int32))


def all_steps(number):
    """A graph of sequences that all have so many steps, whatever came."""
    proto = network(a_model(LSTM))
    made = Graph()
    made.add("Shape", ["x"], "shape")
    made.add("Slice", ["shape", np.array([0]), np.array([1])], "sequences")
    if number is None:
        number = made.add("Cast", [made.add("Slice", ["shape", np.array([1]), np.array([2])], "time")], "steps", to=6)
    made.add("Expand", [number if isinstance(number, str) else np.array([number], np.int32), "sequences"], "so_many")
    made = made.proto().graph
    for node in reversed(made.node):
        proto.graph.node.insert(0, node)
    proto.graph.initializer.extend(made.initializer)
    [layer] = [node for node in proto.graph.node if node.op_type == "LSTM"]
    layer.input[4] = "so_many"
    return proto


def sliced(name, start, stop, steps=1):
    return between(deep(), name, "Slice", *(np.array([number]) for number in (start, stop, 1, steps)))


def with_one_hot(values):
    """A graph whose vectors of ids have other numbers than 0 and 1."""
    proto = network(a_model(LSTM), ids=True)
    [constant] = [each for each in proto.graph.initializer if each.name == "vectors_2"]
    constant.CopyFrom(onnx.numpy_helper.from_array(number(values), "vectors_2"))
    return proto


MEAN = a_model(LSTM, readout=True)._replace(target="mean")


def mean_of_real():
    return network(MEAN, data=("lengths",))


def divided(by):
    proto = between(network(a_model(LSTM, readout=True)), "hs", "ReduceSum", np.array([1]), keepdims=0)
    return between(proto, "to_hs_ReduceSum", "Div", number(by))


@pytest.mark.parametrize(
    "given",
    [
        lambda: sliced("x", 0, 3),
        lambda: sliced("x", 0, 100),
        lambda: sliced("x", 0, 100_000),
        lambda: sliced("x", -3, 2**31),
        lambda: sliced("x", 1, 2**31),
        lambda: between(network(a_model(LSTM, readout=True)), "hs", "Gather", np.array(2), axis=1),
        lambda: between(network(a_model(LSTM, readout=True)), "hs", "Gather", np.array(6), axis=1),
        lambda: between(network(a_model(LSTM, readout=True)), "hs", "Gather", np.array(0), axis=1),
        lambda: between(network(a_model(LSTM, readout=True), data=("lengths",)), "hs", "Gather", np.array(-1), axis=1),
        lambda: between(network(a_model(LSTM, readout=True), data=("lengths",)), "hs", "ReduceMean", axes=[1]),
        lambda: sliced("x", 0, 2**31, steps=2),
        lambda: fed(4, ""),
        lambda: with_one_hot([1, 0]),
        lambda: with_one_hot([0, 2]),
        lambda: between(network(a_model(LSTM), ids=True), "x", "Min", np.array(2)),
        lambda: between(network(a_model(LSTM), ids=True), "x", "Max", np.array(0)),
        lambda: between(mean_of_real(), "lengths", "Sub", np.array([1], np.int32), only="Cast"),
        lambda: between(mean_of_real(), "lengths", "Max", np.array([2], np.int32), only="Cast"),
        lambda: divided(3),
        lambda: divided(7),
        lambda: all_steps(3),
        lambda: all_steps(11),
        lambda: clipped_lengths(3),
        lambda: clipped_lengths(1000),
        lambda: between(deep(), "lengths", "Sub", np.array([1], np.int32)),
        lambda: between(deep(), "lengths", "Max", np.array([1], np.int32)),
        lambda: between(deep(), "x", "Expand", np.array([7, 11, INPUTS])),
        lambda: between(deep(), "hs0", "Reshape", np.array([11, 7, HIDDEN])),
    ],
)
def test_what_depends_on_sizes_is_an_error_whatever_they_are(given):
    with pytest.raises(ValueError, match=REFUSED):
        from_onnx(given())


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}])
def test_the_last_step_is_the_last_real_one(tmp_path, options):
    LSTMNetwork(INPUTS, HIDDEN, 3, target="last", **options, progress=False).export_onnx(tmp_path / "network.onnx")
    proto = onnx.load(tmp_path / "network.onnx")
    assert from_onnx(proto).target == "last"
    [step] = [node for node in proto.graph.node if node.op_type == "Sub"]
    [one] = [each for each in proto.graph.initializer if each.name == step.input[1]]
    one.CopyFrom(onnx.numpy_helper.from_array(np.array([2]), one.name))
    with pytest.raises(ValueError, match="got GatherElements "):
        from_onnx(proto)


def test_a_mean_of_scores_is_none_where_some_are_of_padding():
    """A readout gives its bias there."""
    proto = network(a_model(LSTM, readout=True), data=("lengths",))
    with pytest.raises(ValueError, match="got ReduceSum 'reducesum' of what the network gives"):
        from_onnx(between(proto, "scores", "ReduceSum", np.array([1]), keepdims=0))


def test_what_is_all_there_is_read():
    same_bits(from_onnx(between(mean_of_real(), "lengths", "Max", np.array([1], np.int32), only="Cast")), MEAN)
    model = a_model(LSTM, layers=2, readout=True)._replace(activation="softmax")
    for start, stop in ((0, 2**31 - 1), (0, 2**63 - 1), (-(2**63), 2**63 - 1)):
        same_bits(from_onnx(sliced("x", start, stop)), model)
    same_bits(from_onnx(clipped_lengths(2**31 - 1)), model)
    same_bits(from_onnx(between(deep(), "lengths", "Max", np.array([0], np.int32))), model)
    same_bits(from_onnx(all_steps(None)), a_model(LSTM))


def test_a_state_to_start_from_is_an_input_of_its_own():
    proto = network(a_model(LSTM)._replace(layers=(LSTMParams(*map(np.float32, square())),)))
    made = Graph()
    made.add("Unsqueeze", [made.add("Gather", ["x", np.array(-1)], "end", axis=1), np.array([0])], "start")
    made = made.proto().graph
    for node in reversed(made.node):
        proto.graph.node.insert(0, node)
    proto.graph.initializer.extend(made.initializer)
    [layer] = [node for node in proto.graph.node if node.op_type == "LSTM"]
    layer.input.extend([""] * (6 - len(layer.input)))
    layer.input[5] = "start"
    with pytest.raises(ValueError, match="expected initial_h that is an input of its own, or zeros, got 'x'"):
        from_onnx(proto)


def square():
    """Parameters of as many units as there are inputs."""
    return np.ones((4 * INPUTS, INPUTS)), np.ones((4 * INPUTS, INPUTS)), np.ones(4 * INPUTS)


def test_weights_that_are_made_of_sizes_are_an_error():
    proto = network(a_model(RNN, readout=True))
    made = Graph()
    made.add("Slice", [made.add("Shape", ["x"], "shape"), np.array([1]), np.array([2])], "time")
    made.add("Mul", [made.add("Cast", ["time"], "as_float", to=1), np.ones(OUTPUTS, np.float32)], "by_time")
    made = made.proto().graph
    for node in reversed(made.node):
        proto.graph.node.insert(0, node)
    proto.graph.initializer.extend(made.initializer)
    proto.graph.node[-1].input[1] = "by_time"
    with pytest.raises(
        ValueError, match="source: expected weights that are constants, got some that are made of sizes"
    ):
        from_onnx(proto)


@pytest.mark.parametrize(
    "hostile",
    [
        lambda: made_first("ConstantOfShape", np.array([2**33])),
        lambda: made_first("Expand", number([1]), np.array([2**33])),
        lambda: made_first("Expand", number([[1], [2]]), np.array([2, 2**40])),
        lambda: made_first("Range", np.array(0), np.array(2**33), np.array(1)),
        lambda: made_first("Tile", number([1]), np.array([2**33])),
        lambda: made_first("OneHot", np.arange(9), np.array(2**33), np.array([0, 1])),
        lambda: made_first("Add", np.ones((2**15, 1), np.float32), np.ones((1, 2**15), np.float32)),
    ],
)
def test_what_takes_room_without_end_is_not_run(hostile):
    with tracing() as most, pytest.raises(ValueError, match=REFUSED):
        from_onnx(hostile())
    assert most() < 2**26


@contextlib.contextmanager
def tracing():
    """The most bytes that were held at a time."""
    tracemalloc.start()
    try:
        yield lambda: most
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def made_first(kind, *constants):
    """A graph whose bias of the readout is made by a node."""
    proto = network(a_model(RNN, readout=True))
    made = Graph()
    made.add(kind, constants, "made")
    made = made.proto().graph
    proto.graph.node.insert(0, made.node[0])
    proto.graph.initializer.extend(made.initializer)
    proto.graph.node[-1].input[1] = "made"
    return proto


def test_room_does_not_double_with_each_node():
    proto = network(a_model(RNN, readout=True))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2**10, np.float32), "made0"))
    doubled = [onnx.helper.make_node("Concat", [f"made{k}"] * 2, [f"made{k + 1}"], axis=0) for k in range(16)]
    for node in reversed(doubled):
        proto.graph.node.insert(0, node)
    proto.graph.node[-1].input[1] = "made16"
    with tracing() as most, pytest.raises(ValueError, match="got Concat 'made"):
        from_onnx(proto)
    assert most() < 2**26


def test_weights_in_another_file_are_read_from_there_alone(tmp_path, monkeypatch):
    model, path = a_model(LSTM, layers=2), tmp_path / "model.onnx"
    onnx.save(network(model), path, save_as_external_data=True, location="weights", size_threshold=0)
    same_bits(from_onnx(path), model)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"expected a model with its weights, got '.*' in another file"):
        from_onnx(onnx.load(path, load_external_data=False))


@pytest.mark.parametrize(
    "given", [lambda: b"model", lambda: None, lambda: deep().graph, lambda: deep().graph.node[0], lambda: {"graph": 3}]
)
def test_says_what_is_taken(given):
    expected = "expected the path of a file, an onnx.ModelProto, or a jlstm.interop.Node or a list of them, got "
    with pytest.raises(TypeError, match=f"source: {expected}"):
        from_onnx(given())


def test_names_functions_and_old_operators():
    proto = deep()
    proto.functions.append(
        onnx.helper.make_function("own", "twice", ["a"], ["b"], [onnx.helper.make_node("Add", ["a", "a"], ["b"])], [])
    )
    proto.functions[0].opset_import.extend(proto.opset_import)
    with pytest.raises(ValueError, match="source: expected no functions in the model, got 'twice'"):
        from_onnx(proto)
    proto = deep()
    proto.opset_import[0].version = 6
    with pytest.raises(ValueError, match="source: expected version 7 of ONNX's operators, or a later one, got 6"):
        from_onnx(proto)


def test_arrays_that_are_not_read_are_not_left_out():
    proto = network(a_model(LSTM))
    [place] = [k for k, each in enumerate(proto.graph.initializer) if each.name == "B0"]
    dense = proto.graph.initializer.pop(place)
    values = onnx.helper.make_tensor("B0", onnx.TensorProto.FLOAT, [1], [0.5])
    at = onnx.helper.make_tensor("at", onnx.TensorProto.INT64, [1], [3])
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, at, dense.dims))
    with pytest.raises(ValueError, match="got LSTM 'to_Y0' of 'x'"):
        from_onnx(proto)


def test_weights_may_be_listed_among_the_inputs():
    """As versions of ONNX before 2019 list them all."""
    proto, dtype = deep(), onnx.TensorProto.FLOAT
    shape = [1, 4 * HIDDEN, INPUTS]
    proto.graph.input.append(onnx.helper.make_tensor_value_info("W0", dtype, shape))
    same_bits(from_onnx(proto), from_onnx(deep()))


NODE = node_of(LSTM, a_model(LSTM).layers[0])
ARRAYS = NODE.arrays
GEMM = to_onnx(a_model(LSTM, readout=True))[1]
KNOWN = "'lstm', 'peephole', 'coupled', 'gru', 'gru_before', 'rnn'"


def with_attributes(**attributes):
    return NODE._replace(attributes=NODE.attributes | attributes)


def with_arrays(**arrays):
    return NODE._replace(arrays=NODE.arrays | arrays)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: 3, TypeError, "node: expected a Node, got 3"),
        (lambda: NODE._replace(kind="Conv"), ValueError, "node.kind: expected 'LSTM', 'GRU' or 'RNN', got 'Conv'"),
        (lambda: NODE._replace(arrays=None), TypeError, "node.arrays: expected a dictionary, got None"),
        (lambda: NODE._replace(attributes=[]), TypeError, "node.attributes: expected a dictionary, got []"),
        (
            lambda: with_attributes(clip=3.0),
            ValueError,
            "node.attributes['clip']: expected none, as jlstm has no equal, got 3.0",
        ),
        (
            lambda: with_attributes(activation_alpha=[0.2]),
            ValueError,
            "node.attributes['activation_alpha']: expected none, as jlstm has no equal, got [0.2]",
        ),
        (
            lambda: with_attributes(linear_before_reset=1),
            ValueError,
            "node.attributes['linear_before_reset']: expected none, as jlstm has no equal, got 1",
        ),
        (
            lambda: NODE._replace(kind="GRU", attributes={"input_forget": 1}),
            ValueError,
            "node.attributes['input_forget']: expected none, as jlstm has no equal, got 1",
        ),
        (
            lambda: with_attributes(direction="reverse"),
            ValueError,
            "node.attributes['direction']: expected 'forward' or 'bidirectional', got 'reverse'",
        ),
        (
            lambda: with_attributes(layout=2),
            ValueError,
            "node.attributes['layout']: expected 0 or 1, got 2",
        ),
        (
            lambda: with_attributes(activations=["HardSigmoid", "Tanh", "Tanh"]),
            ValueError,
            "node.attributes['activations']: expected ['Sigmoid', 'Tanh', 'Tanh'], got ['HardSigmoid', 'Tanh', 'Tanh']",
        ),
        (
            lambda: Node("RNN", {"activations": ["Relu"]}, {}),
            ValueError,
            "node.attributes['activations']: expected ['Tanh'], got ['Relu']",
        ),
        (
            lambda: with_attributes(hidden_size=7),
            ValueError,
            "node.arrays['R']: expected shape [1, 4 * hidden_size, hidden_size] with hidden_size = 7, got shape ",
        ),
        (
            lambda: NODE._replace(kind="GRU"),
            ValueError,
            "node.arrays['R']: expected shape [1, 3 * hidden_size, hidden_size] with hidden_size = 8, got shape ",
        ),
        (
            lambda: with_attributes(direction="bidirectional"),
            ValueError,
            "node.arrays['R']: expected shape [2, rows, hidden_size], got float32 of shape (1, 32, 8)",
        ),
        (
            lambda: with_arrays(P=np.ones((1, 24), np.float32), W=ARRAYS["W"][:, :5]),
            ValueError,
            "node.arrays['W']: expected shape [1, 32, inputs], got float32 of shape (1, 5, 4)",
        ),
        (
            lambda: with_arrays(P=np.ones((1, 8), np.float32)),
            ValueError,
            "node.arrays['P']: expected shape [1, 24], got float32 of shape (1, 8)",
        ),
        (
            lambda: with_arrays(B=np.ones((1, 32), np.float32)),
            ValueError,
            "node.arrays['B']: expected shape [1, 64], got float32 of shape (1, 32)",
        ),
        (
            lambda: with_arrays(B=np.full((1, 64), np.nan, np.float32)),
            ValueError,
            "node.arrays['B']: expected finite numbers, got NaN or infinity",
        ),
        (lambda: with_arrays(B=np.ones((1, 64), int)), TypeError, "node.arrays['B']: expected floats, got int64 of sh"),
        (
            lambda: with_arrays(B=np.ones((1, 64))),
            TypeError,
            "node.arrays: expected arrays of one dtype, got float32 and float64",
        ),
        (
            lambda: NODE._replace(arrays={"R": ARRAYS["R"]}),
            ValueError,
            "node.arrays: expected 2 names, got 1, with ['W'] missing and [] unknown",
        ),
        (lambda: NODE._replace(arrays={"W": ARRAYS["W"]}), ValueError, "node.arrays: expected an array 'R', got ['W']"),
        (
            lambda: with_arrays(initial_h=np.ones((1, 3, 8), np.float32)),
            ValueError,
            "node.arrays: expected 3 names, got 4, with [] missing and ['initial_h'] unknown",
        ),
        (
            lambda: with_arrays(P=np.ones((1, 24), np.float32))._replace(attributes={"input_forget": 1}),
            ValueError,
            "node.arrays: expected no 'P' with input_forget=1, which is no cell of jlstm, got both",
        ),
    ],
)
def test_names_what_a_node_has_of_which_there_is_no_equal(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        layer_of(given())


def test_a_node_may_say_or_leave_out_what_is_the_default():
    kept = Model(LSTM, a_model(LSTM).layers)
    same_bits(from_onnx(NODE._replace(attributes={})), kept)
    spelled = {"activations": ["sigmoid", "TANH", "Tanh"], "input_forget": 0, "layout": 1}
    same_bits(from_onnx(with_attributes(**spelled)), kept)
    without = from_onnx(NODE._replace(arrays={key: ARRAYS[key] for key in "WR"})).layers[0]
    assert not without.bias.any()
    assert (without.bias.dtype, without.bias.shape) == (np.float32, (4 * HIDDEN,))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: ([],), ValueError, "source: expected at least one Node, got an empty list"),
        (
            lambda: (3,),
            TypeError,
            "source: expected the path of a file, an onnx.ModelProto, or a jlstm.interop.Node or a ",
        ),
        (
            lambda: (deep().graph.node[0],),
            TypeError,
            "or a jlstm.interop.Node or a list of them, got NodeProto",
        ),
        (lambda: (a_model(LSTM),), TypeError, "source: expected what onnx has, got a Model; to_onnx takes that"),
        (lambda: (NODE, GEMM._replace(arrays={})), ValueError, "readout.arrays: expected an array 'B', got []"),
        (lambda: ([NODE, 3],), TypeError, "source[1]: expected a Node, got 3"),
        (
            lambda: ([NODE, with_attributes(clip=3.0)],),
            ValueError,
            "source[1].attributes['clip']: expected none, as jlstm has no equal, got 3.0",
        ),
        (
            lambda: ([NODE, NODE],),
            ValueError,
            "layers[1]: expected weights for the 8 outputs of the layer below, got weights for 4",
        ),
        (
            lambda: ([NODE, node_of(GRU, a_model(GRU).layers[0])],),
            ValueError,
            "source: expected layers of one kind, got lstm and gru",
        ),
        (lambda: (NODE, 3), TypeError, "readout: expected a Node, got 3"),
        (lambda: (NODE, NODE), ValueError, "readout.kind: expected 'Gemm', got 'LSTM'"),
        (
            lambda: (NODE, GEMM._replace(attributes={"alpha": 0.5})),
            ValueError,
            "readout.attributes['alpha']: expected 1, got 0.5",
        ),
        (
            lambda: (NODE, GEMM._replace(attributes={"beta": 0.5})),
            ValueError,
            "readout.attributes['beta']: expected 1, got 0.5",
        ),
        (
            lambda: (NODE, GEMM._replace(attributes={"broadcast": 1})),
            ValueError,
            "readout.attributes['broadcast']: expected none, got 1",
        ),
        (
            lambda: (NODE, GEMM._replace(attributes={"transB": 1})),
            ValueError,
            "readout.arrays['C']: expected shape [8], got float32 of shape (2,)",
        ),
        (
            lambda: (NODE, Node("Gemm", {}, {"B": GEMM.arrays["B"][:7]})),
            ValueError,
            "readout: expected weights for the 8 outputs of the layer below, got weights for 7",
        ),
        (
            lambda: (network(a_model(LSTM)), GEMM),
            ValueError,
            "readout: expected None with a graph, which has its own, got Node",
        ),
    ],
)
def test_names_what_can_not_be_taken_over(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        from_onnx(*given())


def deep():
    return network(a_model(LSTM, layers=2, readout=True)._replace(activation="softmax"), data=("states", "lengths"))


def changed(**attributes):
    """A graph whose second layer has such attributes."""
    proto = deep()
    [_, node] = [node for node in proto.graph.node if node.op_type == "LSTM"]
    node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    return proto


def fed(place, name, value=None):
    """A graph whose second layer reads something else in a place."""
    proto = deep()
    [_, node] = [node for node in proto.graph.node if node.op_type == "LSTM"]
    node.input[place] = name
    if value is not None:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return proto


def above_the_readout():
    """A layer that reads scores."""
    proto = between(network(a_model(LSTM, readout=True)), "scores", "Transpose", perm=[1, 0, 2])
    weights = {"W9": np.ones((1, 32, OUTPUTS), np.float32), "R9": np.ones((1, 32, HIDDEN), np.float32)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(each, name) for name, each in weights.items())
    proto.graph.node.append(onnx.helper.make_node("LSTM", ["to_scores_Transpose", *weights], ["Y9"], name="above"))
    proto.graph.output[0].name = "Y9"
    return proto


def past_the_bias():
    """A softmax of scores without their bias, which are an output with it."""
    proto = deep()
    proto.graph.node[-1].input[0] = "product"
    proto.graph.output.add().CopyFrom(proto.graph.output[0])
    proto.graph.output[-1].name = "scores"
    return proto


def halves():
    """Some scores of the last step and some of the first, which is no readout of both directions."""
    proto = between(network(a_model(LSTM, both=True, readout=True)), "scores", "Gather", np.array(-1), axis=1)
    proto = between(proto, "to_scores_Gather", "Where")
    [node] = [node for node in proto.graph.node if node.op_type == "Where"]
    constants = {"first": np.array(0), "choice": np.array([True, False])}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(each, name) for name, each in constants.items())
    place = [*proto.graph.node].index(node)
    proto.graph.node.insert(place, onnx.helper.make_node("Gather", ["scores", "first"], ["start"], axis=1))
    proto.graph.node[place + 1].input[:] = ["choice", "to_scores_Gather", "start"]
    return proto


def of_a_table():
    """Vectors of ids that are others than one-hot vectors."""
    proto = network(a_model(LSTM), ids=True)
    [node] = [node for node in proto.graph.node if node.op_type == "OneHot"]
    node.op_type = "Gather"
    node.input[:] = ["table", "x"]
    node.ClearField("attribute")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32)[[0, 2, 1, 3]], "table"))
    return proto


def residual():
    proto = between(deep(), "hs1", "Identity")
    [node] = [node for node in proto.graph.node if node.op_type == "Identity"]
    node.op_type, node.name = "Add", "residual"
    node.input.append("hs0")
    return proto


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: between(deep(), "hs0", "Relu"), "got Relu 'relu'"),
        (lambda: between(deep(), "x", "Tanh"), "got Tanh 'tanh'"),
        (
            lambda: between(deep(), "x", "Sub", np.float32(1)),
            "source (LSTM 'to_Y0'): expected X to be an input as it is, features or one-hot vectors of ids, got 'x' "
            "[x[1], x[0], x[2]] behind Sub",
        ),
        (
            lambda: between(deep(), "hs0", "Mul", np.float32(0.5)),
            "source: expected recurrent nodes that read each other, a dense layer on top, and a Softmax or Sigmoid, "
            "got Mul 'mul' of what the network gives [time, batch, units], which weights alone do not tell of",
        ),
        (
            lambda: between(deep(), "hs", "Neg"),
            "got Neg 'neg' of what the network gives [batch, time, units], which weights alone do not tell of",
        ),
        (
            lambda: between(network(a_model(LSTM, both=True, readout=True)), "hs", "Gather", np.array(-1), axis=1),
            "got MatMul 'to_product' of what the network gives [batch, directions x units], of which (10, 11) of x[1], "
            "which weights alone do not tell of; `output[:, -1]` of two directions has no equal: read `h_n`",
        ),
        (
            lambda: between(network(a_model(LSTM, both=True)), "hs", "Gather", np.array(-1), axis=1),
            "; `output[:, -1]` of two directions has no equal: read `h_n`",
        ),
        (past_the_bias, "source: expected outputs of one network, got some of two"),
        (
            halves,
            "got Where 'where' of what the network gives [batch, classes], of which (10, 11) of x[1] and what the",
        ),
        (of_a_table, "got Gather 'to_vectors' of 'x' [x[0], x[1]], which weights alone do not tell of; fold the e"),
        (
            lambda: between(deep(), "y", "ReduceMean", axes=[1]),
            "got ReduceMean 'reducemean' of what the network gives [batch, time, classes], which",
        ),
        (
            residual,
            "got Add 'residual' of what the network gives [time, batch, units] and what the network gives [time,",
        ),
        (
            lambda: (
                between(deep(), "hs", "Transpose", perm=[0, 1, 2])
                and between(deep(), "hs0", "Transpose", perm=[1, 0, 2])
            ),
            "source (LSTM 'to_Y1'): expected X to be all that the layer below gives, with its lengths 'lengths', got "
            "what the network gives [batch, time, units] and lengths 'lengths'",
        ),
        (lambda: fed(0, "x_by_time"), "source: expected outputs of one network, got some of two"),
        (
            lambda: between(deep(), "scores", "Mul", np.float32(0.5)),
            "got Mul 'mul' of what the network gives [batch, time, classes], which",
        ),
        (
            lambda: between(deep(), "scores", "Add", np.ones(2, np.float32)),
            "got Add 'add' of what the network gives [batch, time, classes], ",
        ),
        (
            lambda: between(
                network(a_model(LSTM, readout=True)._replace(target="last", activation="softmax"), readout="Gemm"),
                "scores",
                "Add",
                np.ones(2, np.float32),
            ),
            "got Add 'add' of what the network gives [batch, classes] behind last, ",
        ),
        (
            above_the_readout,
            "source (LSTM 'above'): expected X to be all that the layer below gives, with its lengths None, got what",
        ),
        (lambda: between(deep(), "product", "MatMul", np.eye(2, dtype=np.float32)), "got MatMul 'matmul'"),
        (lambda: between(deep(), "scores", "LogSoftmax"), "got LogSoftmax 'logsoftmax'"),
        (
            lambda: between(deep(), "y", "Neg"),
            "got Neg 'neg' of what the network gives [batch, time, classes], ",
        ),
        (
            lambda: between(deep(), "Y_c0", "Neg"),
            "got Neg 'neg' of what the network gives [1, batch, units] behind cell, ",
        ),
        (lambda: changed(clip=3.0), "source (LSTM 'to_Y1').attributes['clip']: expected none, as jlstm has no equal, "),
        (
            lambda: changed(activations=["Sigmoid", "Relu", "Tanh"]),
            "source (LSTM 'to_Y1').attributes['activations']: expected ['Sigmoid', 'Tanh', 'Tanh'], got ['Sigmoid', 'R",
        ),
        (
            lambda: fed(1, "x_by_time"),
            "source (LSTM 'to_Y1').arrays['W']: expected weights, got 'x' [x[1], x[0], x[2]]",
        ),
        (
            lambda: fed(5, "start", np.ones((1, 1, HIDDEN), np.float32)),
            "source (LSTM 'to_Y1'): expected initial_h that is an input of its own, or zeros, got fl",
        ),
        (lambda: fed(6, "Y_c0"), "(LSTM 'to_Y1'): expected initial_c that is an input of its own, or zeros, got what"),
        (
            lambda: fed(4, "some", np.full(BATCH, 2, np.int32)),
            "source (LSTM 'to_Y1'): expected sequence_lens that are an input of their own, or all steps, got in",
        ),
        (lambda: between(deep(), "W1", "Relu"), "got Relu 'relu'"),
        (
            lambda: between(deep(), "hs0", "Reshape", np.array([7, 7, -1])),
            "got Reshape 'reshape' of what the network gives [time, batch, units], ",
        ),
    ],
)
def test_names_what_a_graph_does_that_is_no_part_of_a_model(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        from_onnx(given())


def test_names_what_is_no_network():
    graph = Graph()
    graph.inputs.append(("x", "float32", [3]))
    graph.outputs.append(("y", "float32", [3]))
    graph.add("Neg", ["x"], "y")
    with pytest.raises(ValueError, match=re.escape("got Neg 'to_y' of 'x' [x[0]], which weights alone do not tell of")):
        from_onnx(graph.proto())
    graph.nodes.clear()
    graph.add("Tanh", [graph.add("MatMul", ["x", np.ones((3, 3), np.float32)], "product")], "y")
    with pytest.raises(ValueError, match="; if the layers were unrolled into these, export with dynamo=False"):
        from_onnx(graph.proto())
    states = deep()
    del states.graph.output[:-1]
    with pytest.raises(
        ValueError, match="source: expected all steps, the last one or the mean among the outputs, got what"
    ):
        from_onnx(states)
    states.graph.node[0].op_type = "Unheard"
    with pytest.raises(ValueError, match="source: expected a model of ONNX, got ValidationError: "):
        from_onnx(states)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_softmax_is_over_classes(axis):
    proto = deep()
    proto.graph.node[-1].attribute.append(onnx.helper.make_attribute("axis", axis))
    message = f"source (Softmax 'to_y').attributes['axis']: expected the one of classes, got {axis}"
    with pytest.raises(ValueError, match=re.escape(message)):
        from_onnx(proto)


def test_a_softmax_was_over_the_second_axis_once():
    """What it has by default depends on the version of ONNX's operators."""
    model = a_model(LSTM, readout=True)._replace(activation="softmax", target="last")
    same_bits(from_onnx(network(model, layout=1)), model)
    proto = network(model._replace(target="each"))
    proto.opset_import[0].version = 11
    with pytest.raises(ValueError, match=re.escape("attributes['axis']: expected the one of classes, got 1")):
        from_onnx(proto)


def test_names_what_onnx_does_not_have():
    for cell in (PROJECTED, LAYER_NORM):
        with pytest.raises(
            ValueError, match=re.escape(f"cell: expected one that ONNX has, {KNOWN}, got '{cell.name}'")
        ):
            node_of(cell, a_model(cell).layers[0])
    [wide] = a_model(LSTM).layers
    narrow = LSTMParams(np.ones((16, INPUTS)), np.ones((16, 4)), np.ones(16))
    with pytest.raises(ValueError, match=re.escape("layer: expected the same sizes in both directions")):
        node_of(LSTM, Bidirectional(wide, narrow))
    with pytest.raises(TypeError, match=re.escape("layer.backward: expected LSTMParams, got 3")):
        node_of(LSTM, Bidirectional(wide, 3))
    with pytest.raises(TypeError, match=re.escape("model.layers[1]: expected GRUParams, got LSTMParams")):
        to_onnx(Model(GRU, (a_model(GRU).layers[0], wide)))
    with pytest.raises(TypeError, match=re.escape("layer: expected arrays of one dtype, got float32 and float64")):
        node_of(LSTM, a_model(LSTM).layers[0]._replace(bias=np.ones(32)))


def test_what_is_given_is_a_copy():
    model = a_model(RNN, readout=True)
    [node], readout = to_onnx(model)
    for array in (*node.arrays.values(), *readout.arrays.values()):
        array[:] = 0
    assert all(np.all(leaf) for leaf in jax.tree.leaves(model[1:3]))
