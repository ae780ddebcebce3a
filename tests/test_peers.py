"""The cells beside those that other libraries have, with the same weights: outputs and, where there are any, gradients.

A peer is a function `(params, xs) -> hs` of jlstm's parameters, so that its gradient needs no translation back.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm.cells import COUPLED, GRU, GRU_BEFORE, LSTM, PEEPHOLE, PROJECTED, RNN
from jlstm.cells.cell import Sizes
from jlstm.stack import Bidirectional, stack
from jlstm.unroll import unroll

os.environ.setdefault("KERAS_BACKEND", "jax")  # whoever imports Keras first decides

BATCH, TIME, INPUTS, HIDDEN, PROJECTION = 3, 6, 4, 8, 5
BOUNDS = {"float32": 2e-6, "float64": 1e-11}  # as parts of the largest value


def drawn(cell, dtype, seed=0):
    """Parameters of which none is zero, as the ones that training starts from are in part."""
    rng = np.random.default_rng(seed)
    shapes = cell.shapes(Sizes(INPUTS, HIDDEN, PROJECTION if cell.projects else HIDDEN))
    return jax.tree.map(lambda array: rng.normal(scale=0.5, size=array.shape).astype(dtype), shapes)


def close(got, wanted, dtype):
    got, wanted = jax.tree.leaves(got), jax.tree.leaves(wanted)
    for a, b in zip(got, wanted, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype.name, b.dtype.name) == (b.shape, dtype, dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=BOUNDS[dtype] * np.abs(b).max())


def blocks(order, array):
    """Turn an order of gates, given as the places that they have in jlstm's, into an array of theirs."""
    return jnp.concatenate([jnp.split(array, len(order))[k] for k in order])


# --- in JAX ---


def flax_gru(params, xs):
    import flax.linen as nn

    (ir, iz, i_n), (hr, hz, hn), bias = (jnp.split(array, 3) for array in params[:3])
    gates = {"ir": (ir, bias[0]), "iz": (iz, bias[1]), "in": (i_n, bias[2]), "hn": (hn, params.bias_hn)}
    cell = {name: {"kernel": weight.T, "bias": b} for name, (weight, b) in gates.items()}
    cell |= {"hr": {"kernel": hr.T}, "hz": {"kernel": hz.T}}
    return nn.RNN(nn.GRUCell(HIDDEN, param_dtype=xs.dtype)).apply({"params": {"cell": cell}}, xs)


def flax_rnn(params, xs):
    import flax.linen as nn

    cell = {"i": {"kernel": params.weight_ih.T, "bias": params.bias}, "h": {"kernel": params.weight_hh.T}}
    return nn.RNN(nn.SimpleCell(HIDDEN, param_dtype=xs.dtype)).apply({"params": {"cell": cell}}, xs)


def equinox_gru(params, xs):
    import equinox as eqx

    cell = eqx.nn.GRUCell(INPUTS, HIDDEN, key=jax.random.key(0))
    cell = eqx.tree_at(lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias, cell.bias_n), cell, tuple(params))

    def of_one(xs):
        def step(h, x):
            h = cell(x, h)
            return h, h

        return jax.lax.scan(step, jnp.zeros(HIDDEN, xs.dtype), xs)[1]

    return jax.vmap(of_one)(xs)


ZRN = (1, 0, 2)  # Keras and ONNX have the update gate first


def keras_outputs(name, weights, xs, **options):
    import keras

    layer = getattr(keras.layers, name)(HIDDEN, return_sequences=True, **options)
    layer.build(xs.shape)
    rest = [variable.value for variable in layer.non_trainable_variables]
    return layer.stateless_call(weights, rest, xs)[0]


def keras_gru(params, xs):
    inside = jnp.concatenate([jnp.zeros(2 * HIDDEN, xs.dtype), params.bias_hn])
    weights = [blocks(ZRN, weight).T for weight in params[:2]]
    biases = jnp.stack([blocks(ZRN, params.bias), inside])
    return keras_outputs("GRU", [*weights, biases], xs, reset_after=True)


def keras_gru_before(params, xs):
    recurrent = jnp.concatenate([params.weight_hh, params.weight_hn])
    weights = [blocks(ZRN, weight).T for weight in (params.weight_ih, recurrent)]
    return keras_outputs("GRU", [*weights, blocks(ZRN, params.bias)], xs, reset_after=False)


def keras_rnn(params, xs):
    return keras_outputs("SimpleRNN", [params.weight_ih.T, params.weight_hh.T, params.bias], xs)


IN_JAX = {
    "flax GRU": (GRU, flax_gru),
    "flax RNN": (RNN, flax_rnn),
    "equinox GRU": (GRU, equinox_gru),
    "keras GRU, reset_after": (GRU, keras_gru),
    "keras GRU, not reset_after": (GRU_BEFORE, keras_gru_before),
    "keras RNN": (RNN, keras_rnn),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    # Keras rounds to float32 in its tanh (3.15).
    [(name, dtype) for name in IN_JAX for dtype in BOUNDS if dtype == "float32" or not name.startswith("keras")],
)
def test_outputs_and_gradients_are_those_of_libraries_in_jax(x64, name, dtype):
    pytest.importorskip(name.split()[0])
    cell, peer = IN_JAX[name]
    params, (xs, weights) = drawn(cell, dtype), inputs_and_weights(HIDDEN, dtype)

    def loss(run, params, xs):
        hs = run(params, xs)
        return (weights * hs).sum(), hs

    ours = lambda params, xs: unroll(params, xs, cell=cell)[0]  # noqa: E731
    found = []
    for run in (ours, peer):
        gradient = jax.jit(jax.grad(functools.partial(loss, run), argnums=(0, 1), has_aux=True))
        found.append(gradient(params, xs))
    close(*found, dtype)


def inputs_and_weights(width, dtype):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(BATCH, TIME, size)).astype(dtype) for size in (INPUTS, width)]


# --- torch ---


def torch_lstm(params, torch):
    projection = {"proj_size": PROJECTION} if len(params) == 4 else {}
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "weight_hr_l0")
    return torch.nn.LSTM(INPUTS, HIDDEN, batch_first=True, **projection), dict(zip(names, params, strict=False))


def torch_both(params, torch):
    ways = zip(("", "_reverse"), params, strict=True)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
    arrays = {name + way: array for way, each in ways for name, array in zip(names, each, strict=True)}
    return torch.nn.LSTM(INPUTS, HIDDEN, batch_first=True, bidirectional=True), arrays


def torch_gru(params, torch):
    arrays = dict(zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"), params, strict=False))
    zeros = torch.zeros(2 * HIDDEN, dtype=params[3].dtype)
    arrays["bias_hh_l0"] = torch.cat([zeros, params[3]])
    return torch.nn.GRU(INPUTS, HIDDEN, batch_first=True), arrays


def torch_rnn(params, torch):
    arrays = dict(zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"), params, strict=True))
    return torch.nn.RNN(INPUTS, HIDDEN, batch_first=True), arrays


TORCH = {
    "LSTM": (LSTM, torch_lstm),
    "LSTM, both directions": (LSTM, torch_both),
    "LSTM, proj_size": (PROJECTED, torch_lstm),
    "GRU": (GRU, torch_gru),
    "RNN": (RNN, torch_rnn),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", TORCH)
def test_outputs_and_gradients_are_those_of_torch(x64, name, dtype):
    torch = pytest.importorskip("torch")
    cell, build = TORCH[name]
    both = "directions" in name
    params = Bidirectional(*(drawn(cell, dtype, seed) for seed in (0, 1))) if both else drawn(cell, dtype)
    width = 2 * HIDDEN if both else PROJECTION if cell.projects else HIDDEN
    xs, weights = inputs_and_weights(width, dtype)

    def loss(params, xs):
        hs, _ = stack([params], xs, cell=cell)
        return (weights * hs).sum(), hs

    wanted = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, xs)
    mine = jax.tree.map(lambda array: torch.tensor(array, requires_grad=True), (params, xs))
    module, arrays = build(mine[0], torch)
    module = module.to(mine[1].dtype)
    zeros = {key: torch.zeros_like(each) for key, each in module.named_parameters()}  # the second biases
    hs, _ = torch.func.functional_call(module, zeros | arrays, (mine[1],))
    gradient = torch.autograd.grad(hs, jax.tree.leaves(mine), torch.tensor(weights))
    close([*gradient, hs.detach()], wanted, dtype)


# --- ONNX Runtime ---

IOFG = (0, 3, 1, 2)  # ONNX has the output gate second


def onnx_lstm(params):
    return "LSTM", [blocks(IOFG, array) for array in params], None, {}


def onnx_peephole(params):
    *arrays, peephole = params
    return "LSTM", [blocks(IOFG, array) for array in arrays], blocks((0, 2, 1), peephole), {}


def onnx_coupled(params):
    def with_forget(array):  # its own forget gate is 1 - i; the one that is given here is not looked at
        i, g, o = jnp.split(array, 3)
        return jnp.concatenate([i, o, jnp.zeros_like(i), g])

    return "LSTM", list(map(with_forget, params)), None, {"input_forget": 1}


def onnx_gru(params):
    *arrays, inside = params
    second = jnp.concatenate([jnp.zeros(2 * HIDDEN, inside.dtype), inside])
    return "GRU", [*(blocks(ZRN, array) for array in arrays), second], None, {"linear_before_reset": 1}


def onnx_gru_before(params):
    recurrent = jnp.concatenate([params.weight_hh, params.weight_hn])
    arrays = params.weight_ih, recurrent, params.bias
    return "GRU", [blocks(ZRN, array) for array in arrays], None, {"linear_before_reset": 0}


def onnx_rnn(params):
    return "RNN", list(params), None, {}


ONNX = {
    "LSTM": (LSTM, onnx_lstm),
    "LSTM, P": (PEEPHOLE, onnx_peephole),
    "LSTM, input_forget": (COUPLED, onnx_coupled),
    "GRU, linear_before_reset": (GRU, onnx_gru),
    "GRU, not linear_before_reset": (GRU_BEFORE, onnx_gru_before),
    "RNN": (RNN, onnx_rnn),
}


@pytest.mark.parametrize("name", ONNX)
def test_outputs_are_those_of_onnx_runtime(name):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    cell, node = ONNX[name]
    params, (xs, _) = drawn(cell, "float32"), inputs_and_weights(HIDDEN, "float32")
    hs, _ = jax.jit(functools.partial(unroll, cell=cell))(params, xs)
    close(onnx_outputs(*node(params), xs), hs, "float32")


def onnx_outputs(kind, arrays, peephole, options, xs):
    """Run one node, whose outputs are `[time, directions, batch, H]`; its second bias is zero where none is given."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weight_ih, weight_hh, bias, *second = arrays
    given = {"W": weight_ih, "R": weight_hh, "B": jnp.concatenate([bias, *(second or [jnp.zeros_like(bias)])])}
    names = ["xs", "W", "R", "B"]
    if peephole is not None:
        given, names = given | {"P": peephole}, [*names, "", "", "", "P"]
    inputs = [helper.make_tensor_value_info("xs", TensorProto.FLOAT, [TIME, BATCH, INPUTS])]
    outputs = [helper.make_tensor_value_info("hs", TensorProto.FLOAT, [TIME, 1, BATCH, HIDDEN])]
    constants = [numpy_helper.from_array(np.array(array)[None], key) for key, array in given.items()]
    operation = helper.make_node(kind, names, ["hs"], hidden_size=HIDDEN, **options)
    graph = helper.make_graph([operation], "cell", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"xs": xs.swapaxes(0, 1)})[0][:, 0].swapaxes(0, 1)
