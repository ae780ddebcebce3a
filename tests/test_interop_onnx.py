"""Weights from and to ONNX, beside ONNX Runtime and, in float64, ONNX's own reference, which have no gradients."""

import io
import re
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import Bidirectional, Readout
from jlstm.cells import COUPLED, GRU, GRU_BEFORE, LAYER_NORM, LSTM, PEEPHOLE, PROJECTED, RNN, LSTMParams
from jlstm.interop import Model, Node, from_onnx, from_torch, layer_of, node_of, to_onnx
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


def test_a_mean_over_the_steps_that_are_real_is_read():
    model = a_model(LSTM, readout=True)._replace(target="mean")
    graph, proto = Graph(), network(model._replace(target="each"), data=("lengths",))
    graph.add("ReduceSum", ["hs", np.array([1])], "total", keepdims=0)
    count = graph.add("Unsqueeze", [graph.add("Cast", ["lengths"], "real", to=1), np.array([1])], "count")
    graph.add("Div", ["total", count], "mean")
    made = graph.proto().graph
    product = next(node for node in proto.graph.node if node.op_type == "MatMul")
    product.input[0] = "mean"
    before = [node for node in proto.graph.node if node not in (product, proto.graph.node[-1])]
    total, real, count, mean = made.node
    nodes = [real, count, *before, total, mean, product, proto.graph.node[-1]]
    whole = onnx.ModelProto.FromString(proto.SerializeToString())
    del whole.graph.node[:]
    whole.graph.node.extend(nodes)
    whole.graph.initializer.extend(made.initializer)
    same_bits(from_onnx(whole), model)


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


def between(proto, name, kind, *constants, **attributes):
    """Put an operator behind a name, before all that read it."""
    made, copy = f"to_{name}_{kind}", onnx.ModelProto.FromString(proto.SerializeToString())
    nodes = copy.graph.node
    for node in nodes:
        node.input[:] = [made if each == name else each for each in node.input]
    for output in copy.graph.output:
        output.name = made if output.name == name else output.name
    given = [f"{made}_{k}" for k in range(len(constants))]
    copy.graph.initializer.extend(map(onnx.numpy_helper.from_array, constants, given))
    place = 1 + max((k for k, node in enumerate(nodes) if name in node.output), default=-1)
    nodes.insert(place, onnx.helper.make_node(kind, [name, *given], [made], name=kind.lower(), **attributes))
    return copy


def every(hs):
    return hs


def last(hs):
    return hs[:, -1]


def mean(hs):
    return hs.mean(1)


def exported(module, xs):
    torch, file = pytest.importorskip("torch"), io.BytesIO()
    axes = {"x": {0: "batch", 1: "time"}}
    with warnings.catch_warnings():  # that tracing is an old way, and of each shape that is looked at
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.tensor(xs),), file, dynamo=False, input_names=["x"], dynamic_axes=axes)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize(
    ("kind", "options", "early", "late", "target"),
    [
        ("LSTM", {}, every, every, "each"),
        ("LSTM", {"num_layers": 2, "bidirectional": True}, every, every, "each"),
        ("GRU", {"num_layers": 2}, last, every, "last"),
        ("LSTM", {}, every, last, "last"),
        ("RNN", {"bidirectional": True, "bias": False}, mean, every, "mean"),
        ("GRU", {}, every, mean, "mean"),
    ],
)
def test_what_torch_exports_is_read(kind, options, early, late, target):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = getattr(torch.nn, kind)(INPUTS, HIDDEN, batch_first=True, **options)
            self.fc = torch.nn.Linear(HIDDEN * (1 + options.get("bidirectional", False)), OUTPUTS)

        def forward(self, xs):
            scores = self.fc(early(self.lstm(xs)[0]))
            return torch.softmax(late(scores), -1)

    net = Net()
    wanted = from_torch(net.lstm, net.fc)._replace(target=target, activation="softmax")
    same_bits(from_onnx(exported(net, sequences())), wanted)


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
        (lambda: a_model(LSTM), TypeError, "node: expected what onnx has, got a Model; to_onnx takes that"),
        (
            lambda: deep().graph.node[0],
            TypeError,
            "node: expected a Node, got NodeProto; a node of onnx comes in with its whole model, an onnx.ModelProto, ",
        ),
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
        (lambda: (3,), TypeError, "source: expected a Node, got 3"),
        (
            lambda: (deep().graph.node[0],),
            TypeError,
            "source: expected a Node, got NodeProto; a node of onnx comes in with its whole model, an onnx.ModelProto, "
            "or as a jlstm.interop.Node",
        ),
        (
            lambda: (deep().graph,),
            TypeError,
            "source: expected a Node, got GraphProto('n...de=<11 nodes>); a graph of onnx comes in with ",
        ),
        (lambda: (a_model(LSTM),), TypeError, "source: expected what onnx has, got a Model; to_onnx takes that"),
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
        (lambda: (NODE, GEMM._replace(arrays={})), ValueError, "readout.arrays: expected an array 'B', got []"),
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
            lambda: between(
                between(deep(), "x", "Sub", np.ones(INPUTS, np.float32)), "to_x_Sub", "Div", np.full(4, 2, np.float32)
            ),
            "source: expected LSTM 'to_Y0' to read an input, features or one-hot vectors, as it is, got it behind "
            "Sub 'sub' and Div 'div'",
        ),
        (
            lambda: between(deep(), "hs0", "Mul", np.float32(0.5)),
            "source: expected LSTM 'to_Y1' to read what the layer below gives as it is, got it behind Mul 'mul'",
        ),
        (
            lambda: between(deep(), "hs", "Neg"),
            "source: expected MatMul 'to_product' to read what the layer below gives as it is, got it behind Neg 'neg'",
        ),
        (
            lambda: between(network(a_model(LSTM, both=True, readout=True)), "hs", "Gather", np.array(-1), axis=1),
            "MatMul 'to_product' to read what the layer below gives as it is, got it behind Transpose 'to_ways0' and "
            "Reshape 'to_hs0' and Transpose 'to_hs' and Gather 'gather'; `output[:, -1]` of two directions",
        ),
        (
            lambda: between(network(a_model(LSTM, both=True)), "hs", "Gather", np.array(-1), axis=1),
            "got ['to_hs_Gather', 'Y_h0', 'Y_c0']; `output[:, -1]` of two directions has no equal: read `h_n`",
        ),
        (past_the_bias, "Softmax 'to_y' to read what the layer below gives as it is, got 'product'"),
        (halves, "source: expected what the network gives among the graph's outputs, got ["),
        (
            of_a_table,
            "features or one-hot vectors, as it is, got it behind Gather 'to_vectors' and Transpose 'to_x_by_time'; fo",
        ),
        (
            lambda: between(deep(), "y", "ReduceMean", axes=[1]),
            "expected an output of what the network gives as it is, got it behind ReduceMean",
        ),
        (residual, "to read what the layer below gives as it is, got it behind Add 'residual'"),
        (
            lambda: (
                between(deep(), "hs", "Transpose", perm=[0, 1, 2])
                and between(deep(), "hs0", "Transpose", perm=[1, 0, 2])
            ),
            "source: expected LSTM 'to_Y1' to read what the layer below gives as it is, got it behind Transpose",
        ),
        (lambda: fed(0, "x_by_time"), "LSTM 'to_Y1' to read what the layer below gives as it is, got 'x_by_time'"),
        (
            lambda: between(deep(), "scores", "Mul", np.float32(0.5)),
            "Softmax 'to_y' to read what the layer below gives as it is, got it behind Mul 'm",
        ),
        (lambda: between(deep(), "scores", "Add", np.ones(2, np.float32)), "gives as it is, got it behind Add 'add'"),
        (
            lambda: between(
                network(a_model(LSTM, readout=True)._replace(target="last", activation="softmax"), readout="Gemm"),
                "scores",
                "Add",
                np.ones(2, np.float32),
            ),
            "Softmax 'to_y' to read what the layer below gives as it is, got it behind Add 'add'",
        ),
        (
            above_the_readout,
            "LSTM 'above' to read what the layer below gives as it is, got it behind Transpose 'transp",
        ),
        (lambda: between(deep(), "product", "MatMul", np.eye(2, dtype=np.float32)), "got MatMul 'matmul'"),
        (lambda: between(deep(), "y", "ArgMax"), "got ArgMax 'argmax'"),
        (
            lambda: between(deep(), "y", "Neg"),
            "source: expected an output of what the network gives as it is, got it behind Neg",
        ),
        (
            lambda: between(deep(), "Y_c0", "Neg"),
            "source: expected an output of what the network gives as it is, got it b",
        ),
        (lambda: changed(clip=3.0), "source (LSTM 'to_Y1').attributes['clip']: expected none, as jlstm has no equal, "),
        (
            lambda: changed(activations=["Sigmoid", "Relu", "Tanh"]),
            "source (LSTM 'to_Y1').attributes['activations']: expected ['Sigmoid', 'Tanh', 'Tanh'], got ['Sigmoid', 'R",
        ),
        (
            lambda: fed(1, "x_by_time"),
            "source (LSTM 'to_Y1').arrays['W']: expected weights, got 'x_by_time', made of inp",
        ),
        (
            lambda: fed(5, "start", np.ones((1, 1, HIDDEN), np.float32)),
            "source (LSTM 'to_Y1'): expected initial_h that is an input, or zeros, got 'start'",
        ),
        (lambda: fed(6, "Y_c0"), "source (LSTM 'to_Y1'): expected initial_c that is an input, or zeros, got 'Y_c0'"),
        (
            lambda: fed(4, "some", np.full(BATCH, 2, np.int32)),
            "source (LSTM 'to_Y1'): expected sequence_lens that are an input, or all steps, got 'some'",
        ),
        (lambda: between(deep(), "W1", "Relu"), "got Relu 'relu'"),
        (
            lambda: between(deep(), "hs0", "Reshape", np.array([7, 7])),
            "source: expected what ONNX's reference runs, got Reshape 'reshape', ValueError: ",
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
    graph.add("MatMul", ["x", np.ones((3, 3), np.float32)], "y")
    with pytest.raises(ValueError, match=re.escape("an LSTM, a GRU or an RNN in the graph, got ['MatMul']") + "$"):
        from_onnx(graph.proto())
    graph.nodes.clear()
    graph.add("Tanh", [graph.add("MatMul", ["x", np.ones((3, 3), np.float32)], "product")], "y")
    message = "got ['MatMul', 'Tanh']; if the layers were unrolled into these, export with dynamo=False"
    with pytest.raises(ValueError, match=re.escape(message)):
        from_onnx(graph.proto())
    states = deep()
    del states.graph.output[:-1]
    with pytest.raises(
        ValueError, match=re.escape("source: expected what the network gives among the graph's outputs")
    ):
        from_onnx(states)
    states.graph.node[0].op_type = "Unheard"
    with pytest.raises(ValueError, match="source: expected a model of ONNX, got ValidationError: "):
        from_onnx(states)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_softmax_is_over_classes(axis):
    proto = deep()
    proto.graph.node[-1].attribute.append(onnx.helper.make_attribute("axis", axis))
    message = f"source (Softmax 'to_y').attributes['axis']: expected the last one, 2, got {axis}"
    with pytest.raises(ValueError, match=re.escape(message)):
        from_onnx(proto)


def test_a_softmax_was_over_the_second_axis_once():
    """What it has by default depends on the version of ONNX's operators."""
    model = a_model(LSTM, readout=True)._replace(activation="softmax", target="last")
    same_bits(from_onnx(network(model, layout=1)), model)
    proto = network(model._replace(target="each"))
    proto.opset_import[0].version = 11
    with pytest.raises(ValueError, match=re.escape("attributes['axis']: expected the last one, 2, got 1")):
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
