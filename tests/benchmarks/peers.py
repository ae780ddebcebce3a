"""The programs that are compared: the same training step, forward pass and single step, each as its library writes it.

Every one starts from the weights of the same `Problem`, reads the same batches, and makes the same mean softmax
cross-entropy small with Adam at 0.001. A JAX library's network is given as pure functions, a `Network`; `jax_peer`
makes many compiled steps a call out of them, on one device or with the batch split over several.
"""

import functools
import importlib.util
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jlstm
from jlstm.devices import AXIS, replicate
from jlstm.model import step as jlstm_step

from .machine import THREADS
from .shapes import Shape, draw_data

LEARNING_RATE = 1e-3


class Problem(NamedTuple):
    """What all programs start from.

    Attributes:
        shape: the sizes.
        config: the network.
        params: its weights, NumPy arrays.
        xs: the inputs of the steps of one call, `[steps, B, T, I]`.
        ys: their targets, `[steps, B, T]`.
        resets: where jlstm's state is zero before a step of training, `[steps, B, T]` booleans; nowhere where None.
    """

    shape: Shape
    config: jlstm.LSTMConfig
    params: jlstm.ModelParams
    xs: np.ndarray
    ys: np.ndarray
    resets: np.ndarray | None = None

    @property
    def batches(self) -> tuple:
        """What training reads, `(xs, ys, resets)`."""
        return self.xs, self.ys, self.resets


def problem_of(shape: Shape, steps: int | None = None, seed: int = 0, **options: Any) -> Problem:
    """Draw weights and data, of `shape.steps` steps by default; the options are more of `LSTMConfig`'s."""
    config = jlstm.LSTMConfig(shape.I, shape.H, shape.C, **options)
    params = jax.tree.map(np.asarray, jlstm.init_params(jax.random.key(seed), config))
    return Problem(shape, config, params, *draw_data(shape, steps or shape.steps, seed))


class Peer(NamedTuple):
    """A program at one problem; its functions return when their work is done.

    Attributes:
        name: the library.
        train: `train() -> losses [steps]`: one step on each batch, from where the call before it stopped.
        forward: `forward() -> logits [steps, B, T, C]` of the first weights.
        gradient: `gradient() -> (loss, gradient)` of the first batch at the first weights.
    """

    name: str
    train: Callable[[], Any]
    forward: Callable[[], Any]
    gradient: Callable[[], tuple[Any, jlstm.ModelParams]]


class Network(NamedTuple):
    """One JAX library's network as pure functions of its own parameters.

    Attributes:
        params: the weights, a pytree as the library has it.
        scores: `scores(params, xs [B, T, I]) -> logits [B, T, C]`.
        unpack: its parameters, or their gradient, as jlstm's.
        zero_state: `zero_state(batch) -> state` before the first step.
        step: `step(params, state, x [B, I]) -> (logits [B, C], state)`, one time step; None, as the one above, where
            nothing takes single steps.
    """

    params: Any
    scores: Callable[[Any, Array], Array]
    unpack: Callable[[Any], jlstm.ModelParams]
    zero_state: Callable[[int], Any] | None = None
    step: Callable[[Any, Any, Array], tuple[Array, Any]] | None = None


def mesh_of(shape: Shape) -> Mesh | None:
    """Return all devices that a batch divides evenly over, or None where it is a single one."""
    devices = jax.local_devices()
    devices = devices[: math.gcd(shape.B, len(devices))]
    kind = (AxisType.Auto,)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=kind, devices=devices) if len(devices) > 1 else None


# --- jlstm ---


def jlstm_peer(problem: Problem, mesh: Mesh | None = None) -> Peer:
    """Many of `jlstm.trainer`'s steps in one compiled call."""
    config = problem.config
    init, step = jlstm.trainer(config, optax.adam(LEARNING_RATE), axis_name=AXIS if mesh else None)

    def scores(params: jlstm.ModelParams, xs: Array) -> Array:
        return jlstm.forward(params, xs, config)[0]

    @functools.cache
    def gradient() -> tuple[Array, jlstm.ModelParams]:
        xs, ys, resets = jax.tree.map(lambda array: array[0], problem.batches)
        return jax.jit(jax.value_and_grad(jlstm.loss_fn))(problem.params, xs, ys, config, resets=resets)

    def update(state: jlstm.TrainState, xs: Array, ys: Array, resets: Array | None) -> tuple[jlstm.TrainState, Array]:
        return step(state, jlstm.Batch(xs, ys, resets=resets))

    state = jax.jit(init)(problem.params, jax.random.key(0))
    return _compiled("jlstm", problem, mesh, update, state, scores, gradient)


def jlstm_network(problem: Problem) -> Network:
    """jlstm as the other JAX libraries are, for a loop over its single step."""
    config = problem.config

    def step(params: jlstm.ModelParams, state: Any, x: Array) -> tuple[Array, Any]:
        return jlstm_step(params, x, config, state)

    return Network(
        params=problem.params,
        scores=lambda params, xs: jlstm.forward(params, xs, config)[0],
        unpack=lambda params: params,
        zero_state=lambda batch: jlstm.zero_state(problem.params, batch),
        step=step,
    )


# --- JAX libraries ---


def mean_cross_entropy(scores: Array, ys: Array) -> Array:
    """Return the loss as whoever uses optax writes it."""
    return optax.softmax_cross_entropy_with_integer_labels(scores, ys).mean()


def jax_peer(
    name: str,
    network: Network,
    problem: Problem,
    mesh: Mesh | None = None,
    loss: Callable[[Array, Array], Array] = mean_cross_entropy,
) -> Peer:
    """A network in the usual training step, many of them in one compiled call."""
    optimizer = optax.adam(LEARNING_RATE)

    def loss_fn(params: Any, xs: Array, ys: Array) -> Array:
        return loss(network.scores(params, xs), ys)

    def step(state: tuple, xs: Array, ys: Array, resets: None) -> tuple[tuple, Array]:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, xs, ys)
        if mesh is not None:
            loss, grads = lax.pmean((loss, grads), AXIS)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    @functools.cache
    def gradient() -> tuple[Array, jlstm.ModelParams]:
        loss, grads = jax.jit(jax.value_and_grad(loss_fn))(network.params, problem.xs[0], problem.ys[0])
        return loss, network.unpack(grads)

    state = network.params, jax.jit(optimizer.init)(network.params)
    return _compiled(name, problem, mesh, step, state, network.scores, gradient)


def _split(function: Callable, mesh: Mesh | None, in_specs: tuple, out_specs: Any) -> Callable:
    """Split a batch as jlstm does, for programs that say nothing of what varies over the devices."""
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _compiled(
    name: str, problem: Problem, mesh: Mesh | None, step: Callable, state: Any, scores: Callable, gradient: Callable
) -> Peer:
    """Compile a scan of `step(state, xs, ys, resets) -> (state, loss)` over all batches, and a scan of `scores`."""

    def train_all(state: Any, batches: tuple) -> tuple[Any, Array]:
        return lax.scan(lambda state, batch: step(state, *batch), state, batches)

    def forward_all(params: Any, xs: Array) -> Array:
        return lax.map(functools.partial(scores, params), xs)

    split = P(None, AXIS)
    train_call = jax.jit(_split(train_all, mesh, (P(), split), P()))
    forward_call = jax.jit(_split(forward_all, mesh, (P(), split), split))
    batches = jax.device_put(problem.batches, NamedSharding(mesh, split) if mesh else jax.local_devices()[0])
    state = replicate(state, mesh)
    params = state.params if isinstance(state, jlstm.TrainState) else state[0]

    def train() -> Array:
        nonlocal state
        state, losses = jax.block_until_ready(train_call(state, batches))
        return losses

    return Peer(name, train, lambda: forward_call(params, batches[0]).block_until_ready(), gradient)


def flax_network(problem: Problem) -> Network:
    """Flax: `nnx.RNN` over an `OptimizedLSTMCell`, split into graph and parameters as its functional API has it."""
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
            self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(shape.I, shape.H, rngs=rngs), rngs=rngs)
            self.head = nnx.Linear(shape.H, shape.C, rngs=rngs)

        def __call__(self, xs: Array) -> Array:
            return self.head(self.rnn(xs))

    def weights(model: Model) -> tuple:
        cell, head = model.rnn.cell, model.head
        return (cell.dense_i.kernel, cell.dense_h.kernel, cell.dense_h.bias), (head.kernel, head.bias)

    model = Model(problem.shape, nnx.Rngs(0))
    given = _turned(problem.params.layers[0]), problem.params.readout
    for variables, arrays in zip(weights(model), given, strict=True):
        for variable, array in zip(variables, arrays, strict=True):
            variable[...] = jnp.asarray(array)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def merge(params: Any) -> Model:
        return nnx.merge(graph, params, rest, copy=True)  # `RNN` counts its calls, and may not do so in what is outside

    def step(params: Any, state: Any, x: Array) -> tuple[Array, Any]:
        model = merge(params)
        state, h = model.rnn.cell(state, x)
        return model.head(h), state

    def unpack(params: Any) -> jlstm.ModelParams:
        layer, readout = weights(merge(params))
        return _model_params(_turned([variable[...] for variable in layer]), [variable[...] for variable in readout])

    return Network(
        params=params,
        scores=lambda params, xs: merge(params)(xs),
        unpack=unpack,
        zero_state=lambda batch: (jnp.zeros((batch, problem.shape.H)),) * 2,
        step=step,
    )


def equinox_network(problem: Problem) -> Network:
    """Equinox: `LSTMCell` in a `lax.scan` over one sequence, mapped over the batch with `jax.vmap`."""
    import equinox as eqx

    class Model(eqx.Module):
        cell: eqx.nn.LSTMCell
        head: eqx.nn.Linear

        def __call__(self, xs: Array) -> Array:
            def step(state: tuple, x: Array) -> tuple[tuple, Array]:
                state = self.cell(x, state)
                return state, state[0]

            zeros = jnp.zeros(self.cell.hidden_size)
            _, hs = lax.scan(step, (zeros, zeros), xs)
            return jax.vmap(self.head)(hs)

    def weights(model: Model) -> tuple:
        cell, head = model.cell, model.head
        return cell.weight_ih, cell.weight_hh, cell.bias, head.weight, head.bias

    shape, (layer,), readout = problem.shape, *problem.params
    key_cell, key_head = jax.random.split(jax.random.key(0))
    model = Model(eqx.nn.LSTMCell(shape.I, shape.H, key=key_cell), eqx.nn.Linear(shape.H, shape.C, key=key_head))
    carried = *layer, readout.weight.T, readout.bias
    model = eqx.tree_at(weights, model, tuple(map(jnp.asarray, carried)))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def step(params: Any, state: Any, x: Array) -> tuple[Array, Any]:
        model = eqx.combine(params, static)
        state = jax.vmap(model.cell)(x, state)
        return jax.vmap(model.head)(state[0]), state

    def unpack(params: Any) -> jlstm.ModelParams:
        weight_ih, weight_hh, bias, weight, readout_bias = weights(params)
        return _model_params([weight_ih, weight_hh, bias], [weight.T, readout_bias])

    return Network(
        params=params,
        scores=lambda params, xs: jax.vmap(eqx.combine(params, static))(xs),
        unpack=unpack,
        zero_state=lambda batch: (jnp.zeros((batch, shape.H)),) * 2,
        step=step,
    )


def keras_network(problem: Problem) -> Network:
    """Keras on JAX: `LSTM` and `Dense` through `stateless_call`, and the same layers with their state for one step."""
    os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when it is imported
    import keras

    shape = problem.shape
    lstm = keras.layers.LSTM(shape.H, return_sequences=True, return_state=True)
    dense = keras.layers.Dense(shape.C)
    xs = keras.Input((None, shape.I))
    model = keras.Model(xs, dense(lstm(xs)[0]))
    state = [keras.Input((shape.H,)), keras.Input((shape.H,))]
    hs, *after = lstm(xs, initial_state=state)
    stepper = keras.Model([xs, *state], [dense(hs), *after])
    model.set_weights([*_turned(problem.params.layers[0]), *problem.params.readout])
    params = [variable.value for variable in model.trainable_variables]
    rest = [variable.value for variable in model.non_trainable_variables]

    def step(params: Any, state: Any, x: Array) -> tuple[Array, Any]:
        (logits, *state), _ = stepper.stateless_call(params, rest, [x[:, None], *state])
        return logits[:, 0], state

    return Network(
        params=params,
        scores=lambda params, xs: model.stateless_call(params, rest, xs)[0],
        unpack=lambda params: _model_params(_turned(params[:3]), params[3:]),
        zero_state=lambda batch: [jnp.zeros((batch, shape.H))] * 2,
        step=step,
    )


NETWORKS = {"flax": flax_network, "equinox": equinox_network, "keras": keras_network}


# --- torch ---


class TorchNetwork(NamedTuple):
    """`nn.LSTM` and `nn.Linear` with the weights of a problem; the second bias is zero and frozen."""

    recurrent: Any
    linear: Any

    def unpack(self, of: Callable[[Any], Any]) -> jlstm.ModelParams:
        """Return what `of` gives for each parameter, as jlstm's."""
        lstm, linear = self
        layer = of(lstm.weight_ih_l0), of(lstm.weight_hh_l0), of(lstm.bias_ih_l0)
        return _model_params(layer, (of(linear.weight).T, of(linear.bias)))


def torch_network(problem: Problem) -> TorchNetwork:
    """torch: its gates stand in jlstm's order, its readout is transposed."""
    import torch

    torch.set_num_threads(THREADS)
    shape, (layer,), readout = problem.shape, *problem.params
    lstm, linear = torch.nn.LSTM(shape.I, shape.H, batch_first=True), torch.nn.Linear(shape.H, shape.C)
    carried = {
        lstm.weight_ih_l0: layer.weight_ih,
        lstm.weight_hh_l0: layer.weight_hh,
        lstm.bias_ih_l0: layer.bias,
        lstm.bias_hh_l0: np.zeros_like(layer.bias),
        linear.weight: readout.weight.T,
        linear.bias: readout.bias,
    }
    carry(carried)
    lstm.bias_hh_l0.requires_grad_(False)
    return TorchNetwork(lstm, linear)


def carry(arrays: dict[Any, np.ndarray]) -> None:
    """Give each of torch's parameters the values of an array."""
    import torch

    with torch.no_grad():
        for parameter, array in arrays.items():
            parameter.copy_(torch.tensor(array))


def torch_peer(problem: Problem, build: Callable[[Problem], Any] = torch_network) -> Peer:
    """torch: the training loop of its tutorials, `inference_mode` for the forward pass.

    Args:
        problem: what it starts from.
        build: makes a network like a `TorchNetwork` of it.
    """
    import torch

    xs, ys = torch.tensor(problem.xs), torch.tensor(problem.ys, dtype=torch.int64)

    def scores(network: Any, xs: torch.Tensor) -> torch.Tensor:
        return network.linear(network.recurrent(xs)[0])

    def loss_of(network: Any, xs: torch.Tensor, ys: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(scores(network, xs).flatten(0, 1), ys.flatten())

    trained, fixed = build(problem), build(problem)
    parameters = [p for module in trained for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)

    def train() -> np.ndarray:
        losses = []
        for x, y in zip(xs, ys, strict=True):
            optimizer.zero_grad()
            loss = loss_of(trained, x, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).numpy()

    def forward() -> list[torch.Tensor]:
        with torch.inference_mode():
            return [scores(fixed, x) for x in xs]

    def gradient() -> tuple[float, jlstm.ModelParams]:
        network = build(problem)
        loss = loss_of(network, xs[0], ys[0])
        loss.backward()
        return loss.item(), network.unpack(lambda parameter: parameter.grad.numpy())

    return Peer("torch", train, forward, gradient)


# --- ONNX Runtime ---


def onnx_network(problem: Problem) -> Callable[[np.ndarray], np.ndarray]:
    """ONNX Runtime: its `LSTM` node and the readout, the weights packed once when the session is made."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    shape, (layer,), readout = problem.shape, *problem.params

    def iofc(array: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(np.asarray(array), 4)
        return np.concatenate([i, o, f, g])

    arrays = {
        "W": iofc(layer.weight_ih)[None],
        "R": iofc(layer.weight_hh)[None],
        "B": np.concatenate([iofc(layer.bias), np.zeros_like(layer.bias)])[None],
        "direction": np.array([1]),
        "V": readout.weight,
        "b": readout.bias,
    }
    nodes = (
        ("Transpose", ["xs"], "steps", {"perm": [1, 0, 2]}),
        ("LSTM", ["steps", "W", "R", "B"], "each", {"hidden_size": shape.H}),
        ("Squeeze", ["each", "direction"], "hs", {}),
        ("MatMul", ["hs", "V"], "products", {}),
        ("Add", ["products", "b"], "sums", {}),
        ("Transpose", ["sums"], "scores", {"perm": [1, 0, 2]}),
    )
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output], **options) for kind, inputs, output, options in nodes],
        "network",
        [helper.make_tensor_value_info("xs", TensorProto.FLOAT, ["batch", "time", shape.I])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "time", shape.C])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda xs: session.run(None, {"xs": xs})[0]


# --- all of them ---

PEERS = ("torch", *NETWORKS)
FORWARD_ONLY = ("onnxruntime",)


def installed() -> list[str]:
    """Return the peers that are there to compare with."""
    return [name for name in PEERS if importlib.util.find_spec(name) is not None]


def runners() -> dict[str, Callable[[Problem], Callable[[np.ndarray], np.ndarray]]]:
    """Return the programs that only run a network, from a problem to a function from inputs to logits."""
    there = all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))
    return {"onnxruntime": onnx_network} if there else {}


def missing_notes() -> list[str]:
    """Return a line for each peer that is left out."""
    left_out = [name for name in (*PEERS, *FORWARD_ONLY) if name not in (*installed(), *runners())]
    return [f"{name} is not installed and left out: pip install -e '.[bench]'" for name in left_out]


def peer(name: str, problem: Problem, mesh: Mesh | None = None) -> Peer:
    """Build a program: "jlstm" or one of `PEERS`; a mesh is for those in JAX."""
    if name == "jlstm":
        return jlstm_peer(problem, mesh)
    return torch_peer(problem) if name == "torch" else jax_peer(name, NETWORKS[name](problem), problem, mesh)


def _turned(layer: Any) -> list[Any]:
    """Return a layer's parameters with the matrices transposed, between jlstm's form and that of Flax and Keras."""
    return [array.T for array in layer]


def _model_params(layer: Any, readout: Any) -> jlstm.ModelParams:
    return jlstm.ModelParams((jlstm.LSTMParams(*layer),), jlstm.Readout(*readout))
