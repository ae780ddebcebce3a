"""Weights from and to Flax, beside the modules of linen and of nnx."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import Bidirectional
from jlstm.cells import GRU, LSTM, PEEPHOLE, RNN
from jlstm.interop import from_flax, to_flax, to_nnx
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
    drawn,
    gradient,
    run,
    same_bits,
    sequences,
)

pytest.importorskip("flax")
nn = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")

CELLS = {"LSTMCell": LSTM, "OptimizedLSTMCell": LSTM, "GRUCell": GRU, "SimpleCell": RNN}
SIZES = [INPUTS, 2 * HIDDEN]  # what a layer in both directions, and the one on top of it, read
REAL = np.arange(TIME) < LENGTHS[:, None]  # Flax's outputs past a length are not zero


def of_linen(kind, dtype):
    """Trees of two layers, the first in both directions, and a function that runs them."""
    rnn = lambda: nn.RNN(getattr(nn, kind)(HIDDEN, param_dtype=dtype), return_carry=True)  # noqa: E731
    modules = [nn.Bidirectional(rnn(), rnn(), return_carry=True), rnn()]
    rng, trees = np.random.default_rng(0), []
    for module, size in zip(modules, SIZES, strict=True):
        shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((BATCH, TIME, size), dtype))
        trees.append(drawn(shapes["params"], dtype, rng))

    def outputs(trees, hs, carries, lengths):
        ends = []
        for module, tree, carry in zip(modules, trees, carries, strict=True):
            end, hs = module.apply({"params": tree}, hs, initial_carry=carry, seq_lengths=lengths)
            ends.append(end)
        return hs, ends

    return trees, trees, outputs


def modules_of_nnx(kind, dtype="float32"):
    options = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
    rnn = lambda size: nnx.RNN(getattr(nnx, kind)(size, HIDDEN, **options), return_carry=True)  # noqa: E731
    modules = [nnx.Bidirectional(rnn(SIZES[0]), rnn(SIZES[0]), return_carry=True), rnn(SIZES[1])]
    rng = np.random.default_rng(0)
    for module in modules:
        nnx.update(module, jax.tree.map(jnp.asarray, drawn(nnx.state(module, nnx.Param), dtype, rng)))
    return modules


def of_nnx(kind, dtype):
    modules = modules_of_nnx(kind, dtype)
    graphs, states, rests = zip(*(nnx.split(module, nnx.Param, ...) for module in modules), strict=True)

    def outputs(states, hs, carries, lengths):
        ends = []
        for graph, state, rest, carry in zip(graphs, states, rests, carries, strict=True):
            end, hs = nnx.merge(graph, state, rest)(hs, initial_carry=carry, seq_lengths=lengths)
            ends.append(end)
        return hs, ends

    return modules, list(states), outputs


def of_flax(states):
    """The states of each layer as Flax has them, (c, h) of an LSTM."""
    of = lambda state: tuple(reversed(state)) if len(state) > 1 else state.h  # noqa: E731
    return [tuple(map(of, layer)) if isinstance(layer, Bidirectional) else of(layer) for layer in states]


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(("made", "dtype"), [(of_linen, "float32"), (of_linen, "float64"), (of_nnx, "float64")])
def test_outputs_states_and_gradients_are_those_of_flax(x64, made, kind, dtype):
    layers, trees, outputs = made(kind, dtype)
    model = from_flax(layers)
    assert model.cell is CELLS[kind]
    assert [len(directions(layer)) for layer in model.layers] == [2, 1]
    xs, state = sequences(dtype), a_state(model, dtype)
    weights = np.random.default_rng(3).normal(size=(BATCH, TIME, HIDDEN)).astype(dtype)

    @jax.jit
    def theirs(trees, xs, carries):
        def loss(trees, xs):
            return (weights * outputs(trees, xs, jax.tree.map(jnp.zeros_like, carries), None)[0]).sum()

        return outputs(trees, xs, carries, jnp.asarray(LENGTHS)), jax.grad(loss, argnums=(0, 1))(trees, xs)

    (hs, ends), (by_trees, by_xs) = theirs(trees, xs, of_flax(state))
    got, reached = run(model, xs, state, LENGTHS)
    close((got, of_flax(reached)), (hs * REAL[..., None], ends), dtype)

    of_layers, of_xs = gradient(model, xs, weights)
    close(of_xs, by_xs, dtype)
    wanted = from_flax(jax.tree.map(np.asarray, by_trees)).layers
    if made is of_nnx and model.cell is GRU:  # it has no such bias, and no gradient by it
        without = lambda params: params._replace(bias_hn=0 * params.bias_hn)  # noqa: E731
        of_layers = Bidirectional(*map(without, of_layers[0])), without(of_layers[1])
    close(of_layers, wanted, dtype)


DTYPES = ["float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_there_and_back_gives_the_same_bits(kind, both, dtype):
    model = a_model(CELLS[kind], jnp.dtype(dtype), layers=2, both=both, readout=True)
    same_bits(from_flax(*to_flax(model)), model)
    if model.cell is GRU:
        model = without_second_bias(model)
    same_bits(from_flax(*to_nnx(model, optimized=kind == "OptimizedLSTMCell")), model)


def without_second_bias(model):
    def without(params):
        return params._replace(bias_hn=np.zeros_like(params.bias_hn))

    layers = [Bidirectional(*map(without, layer)) if len(layer) == 2 else without(layer) for layer in model.layers]
    return model._replace(layers=tuple(layers))


@pytest.mark.parametrize("kind", CELLS)
def test_modules_take_the_trees(kind):
    model = a_model(CELLS[kind], layers=2, both=True, readout=True)
    rnn = lambda: nn.RNN(getattr(nn, kind)(HIDDEN))  # noqa: E731
    trees, dense = to_flax(model)
    for module, tree, size in [
        (nn.Bidirectional(rnn(), rnn()), trees[0], INPUTS),
        (nn.Dense(OUTPUTS), dense, 2 * HIDDEN),
    ]:
        shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((BATCH, TIME, size)))
        assert jax.tree.map(np.shape, {"params": tree}) == jax.tree.map(np.shape, shapes)

    model = without_second_bias(model) if model.cell is GRU else model
    trees, dense = to_nnx(model, optimized=kind == "OptimizedLSTMCell")
    rnn = lambda size: nnx.RNN(getattr(nnx, kind)(size, HIDDEN, rngs=nnx.Rngs(0)))  # noqa: E731
    modules = [nnx.Bidirectional(rnn(size), rnn(size)) for size in (INPUTS, 2 * HIDDEN)]
    linear = nnx.Linear(2 * HIDDEN, OUTPUTS, rngs=nnx.Rngs(0))
    for module, tree in zip([*modules, linear], [*trees, dense], strict=True):
        assert jax.tree.structure(nnx.to_pure_dict(nnx.state(module, nnx.Param))) == jax.tree.structure(tree)
        nnx.update(module, tree)
    same_bits(from_flax(modules, linear), model)


def test_layers_are_given_in_any_form():
    trees, dense = to_flax(a_model(LSTM, layers=2, both=True, readout=True))
    wanted = from_flax(trees, dense)
    cells = [Bidirectional(tree["forward_rnn"]["cell"], {"params": tree["backward_rnn"]}) for tree in trees]
    same_bits(from_flax(tuple(cells), {"params": dense}), wanted)
    same_bits(from_flax([{"params": tree} for tree in trees], dense), wanted)

    modules = modules_of_nnx("GRUCell")
    states = [nnx.state(module) for module in modules]  # with what its keys have counted
    for given in (states, [nnx.to_pure_dict(state) for state in states]):
        same_bits(from_flax(given), from_flax(modules))
    [lower, upper] = modules
    of_cells = [Bidirectional(lower.forward_rnn.cell, lower.backward_rnn), nnx.state(upper.cell)]
    same_bits(from_flax(of_cells), from_flax(modules))


def test_a_single_layer_is_not_in_a_list():
    model = a_model(RNN)
    [tree], _ = to_flax(model)
    same_bits(from_flax(tree), model)
    same_bits(from_flax(tree["cell"]), model)


def test_trees_lie_next_to_each_other_in_a_larger_model():
    class Tagger(nn.Module):
        @nn.compact
        def __call__(self, xs):
            rnn = lambda: nn.RNN(nn.OptimizedLSTMCell(HIDDEN))  # noqa: E731
            hs = nn.Bidirectional(rnn(), rnn())(xs)
            return nn.Dense(OUTPUTS, use_bias=False)(rnn()(hs))

    xs = sequences()
    tagger = Tagger()
    scores, variables = jax.jit(tagger.init_with_output)(jax.random.key(0), xs)
    of = variables["params"]
    both = Bidirectional(of["OptimizedLSTMCell_0"], of["OptimizedLSTMCell_1"])
    model = from_flax([both, of["OptimizedLSTMCell_2"]], of["Dense_0"])
    close(run(model, xs)[0], scores, "float32")
    assert not model.readout.bias.any()


def test_what_was_given_is_a_copy():
    model = a_model(LSTM, readout=True)
    for to in (to_flax, to_nnx):
        [tree], dense = to(model)
        tree["cell"]["ii"]["kernel"][:] = tree["cell"]["hf"]["bias"][:] = dense["kernel"][:] = 0
    assert all(each.all() for each in (*model.layers[0], *model.readout))


def cell(kind="LSTMCell", **options):
    return getattr(nnx, kind)(INPUTS, HIDDEN, rngs=nnx.Rngs(0), **options)


def both_ways(**options):
    return nnx.Bidirectional(nnx.RNN(cell()), nnx.RNN(cell()), **options)


class Tagger(nn.Module):
    @nn.compact
    def __call__(self, xs):
        return nn.RNN(nn.LSTMCell(HIDDEN))(xs)


class Own(nnx.Module):
    def __init__(self):
        self.rnn, self.cell = nnx.RNN(cell()), cell("GRUCell")
        self.linear = nnx.Linear(HIDDEN, OUTPUTS, rngs=nnx.Rngs(0))


def hard_sigmoid(x):
    return jnp.clip(x / 6 + 0.5, 0, 1)


[TREE] = to_flax(a_model(LSTM))[0]


def changed(**parts):
    return {"cell": {name: each for name, each in (TREE["cell"] | parts).items() if each is not None}}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: ([],), ValueError, "layers: expected at least one, got an empty list"),
        (lambda: (3,), TypeError, "layers: expected a tree of parameters or a module of nnx, got 3"),
        (
            lambda: ([TREE, (TREE, TREE)],),
            TypeError,
            "layers[1]: expected a tree of parameters or a module of nnx, got a tuple of 2",
        ),
        (
            lambda: (Own(),),
            TypeError,
            "module of nnx, got Own; of a module of your own, m, hand over its parts: m.rnn, m.cell",
        ),
        (
            lambda: (nnx.Embed(3, 4, rngs=nnx.Rngs(0)),),
            TypeError,
            "got an nnx.Embed; fold the embedding in, weight_ih @ embedding.T for the first weight_ih",
        ),
        (
            lambda: (TREE, "dense"),
            TypeError,
            "dense: expected what flax has, got the path 'dense'; hand over what your checkpointer reads from it",
        ),
        (lambda: (a_model(LSTM),), TypeError, "layers: expected what flax has, got a Model; to_flax takes that"),
        (
            lambda: (Tagger(),),
            TypeError,
            "layers: expected the tree of its parameters, got Tagger, which does not hold them",
        ),
        (
            lambda: (nn.RNN(nn.LSTMCell(3)),),
            TypeError,
            "layers: expected the tree of its parameters, got an nn.RNN, which does not hold them",
        ),
        (
            lambda: (nnx.Linear(3, 4, rngs=nnx.Rngs(0)),),
            TypeError,
            "layers: expected an nnx.LSTMCell or nnx.OptimizedLSTMCell or nnx.GRUCell or nnx.SimpleCell or nnx.RNN or "
            "nnx.Bidirectional, got an nnx.Linear",
        ),
        (
            lambda: (nnx.Bidirectional(both_ways(), nnx.RNN(cell())),),
            TypeError,
            "layers.forward_rnn: expected an nnx.RNN, got an nnx.Bidirectional",
        ),
        (
            lambda: (nnx.RNN(nnx.RNN(cell())),),
            TypeError,
            "layers.cell: expected an nnx.LSTMCell or nnx.OptimizedLSTMCell or nnx.GRUCell or nnx.SimpleCell, got an n",
        ),
        (
            lambda: ([cell(gate_fn=hard_sigmoid)],),
            ValueError,
            "layers[0].gate_fn: expected sigmoid, got hard_sigmoid",
        ),
        (
            lambda: (nnx.Bidirectional(nnx.RNN(cell()), nnx.RNN(cell("GRUCell", gate_fn=nnx.relu))),),
            ValueError,
            "layers.backward_rnn.cell.gate_fn: expected sigmoid, got relu",
        ),
        (
            lambda: (nnx.RNN(cell("SimpleCell", activation_fn=nnx.relu)),),
            ValueError,
            "layers.cell.activation_fn: expected tanh, got relu",
        ),
        (
            lambda: (cell("SimpleCell", residual=True),),
            ValueError,
            "layers.residual: expected False, got True",
        ),
        (
            lambda: (nnx.RNN(cell(), reverse=True),),
            ValueError,
            "layers.reverse: expected False; for both directions hand over the cells, got True",
        ),
        (
            lambda: (both_ways(merge_fn=jnp.add),),
            ValueError,
            "layers.merge_fn: expected concatenate, got add",
        ),
        (
            lambda: (nnx.Bidirectional(nnx.RNN(cell()), nnx.RNN(cell("GRUCell"))),),
            ValueError,
            "layers: expected directions of one kind, got lstm and gru",
        ),
        (
            lambda: ([cell(), nnx.GRUCell(HIDDEN, HIDDEN, rngs=nnx.Rngs(0))],),
            ValueError,
            "layers: expected layers of one kind, got lstm and gru",
        ),
        (
            lambda: ({},),
            ValueError,
            "layers: expected the parameters of LSTMCell, OptimizedLSTMCell, GRUCell, SimpleCell, or of an RNN or a "
            "Bidirectional of them, got []",
        ),
        (
            lambda: (nn.RNN(nn.MGUCell(3)).init(jax.random.key(0), sequences()),),
            ValueError,
            "SimpleCell, or of an RNN or a Bidirectional of them, got ['hf.kernel', ",
        ),
        (
            lambda: ({"LSTMCell_0": TREE["cell"], "Dense_0": {"kernel": np.ones((8, 2))}},),
            ValueError,
            "layers: expected the parameters of LSTMCell, OptimizedLSTMCell, GRUCell, SimpleCell, or of an RNN or a "
            "Bidirectional of them, got [",
        ),
        (
            lambda: ({"Able": {"h": {"kernel": np.ones((8, 8))}}, "LSTMCell_0": TREE["cell"]},),
            ValueError,
            "; hand over one part, layers['LSTMCell_0']",
        ),
        (
            lambda: ({"params": {"LSTMCell_0": TREE["cell"], "RNN_0": TREE, "Dense_0": {"kernel": np.ones((8, 2))}}},),
            ValueError,
            "; hand over one part, layers['params']['LSTMCell_0'] or layers['params']['RNN_0']['cell']",
        ),
        (
            lambda: (nnx.state(Own(), nnx.Param),),
            ValueError,
            "; hand over one part, layers['cell'] or layers['rnn']['cell']",
        ),
        (
            lambda: ([changed(hf=None)],),
            ValueError,
            "layers[0]: expected 12 names, got 10, with ['hf.bias', 'hf.kernel'] missing and [] unknown",
        ),
        (
            lambda: ([changed(hf={"kernel": np.ones((8, 8), np.float32)})],),
            ValueError,
            "layers[0]: expected 12 names, got 11, with ['hf.bias'] missing and [] unknown",
        ),
        (
            lambda: ([TREE, changed(LayerNorm_0={"scale": np.ones(8, np.float32)})],),
            ValueError,
            "layers[1]: expected 12 names, got 13, with [] missing and ['LayerNorm_0.scale'] unknown",
        ),
        (
            lambda: ({"params": TREE, "batch_stats": {"mean": np.ones(8)}},),
            ValueError,
            "layers: expected the parameters of LSTMCell, ",
        ),
        (
            lambda: ({"forward_rnn": TREE, "norm": TREE},),
            ValueError,
            "layers: expected 2 names, got 2, with ['backward_rnn'] missing and ['norm'] unknown",
        ),
        (
            lambda: ([{"forward_rnn": TREE, "backward_rnn": changed(io=None)}],),
            ValueError,
            "layers[0]['backward_rnn']: expected 12 names, got 11, with ['io.kernel'] missing",
        ),
        (
            lambda: (Bidirectional(TREE, {"forward_rnn": TREE, "backward_rnn": TREE}),),
            TypeError,
            "layers[0].backward: expected LSTMParams, got Bidirectional",
        ),
        (
            lambda: ([changed(hf={"kernel": np.ones((8, 8), np.float32), "bias": np.ones(7, np.float32)})],),
            ValueError,
            "layers[0]['cell']['hf']['bias']: expected shape [8], got float32 of shape (7,)",
        ),
        (
            lambda: (nnx.state(nnx.RNN(wrong(cell(), np.ones((4, 7)))), nnx.Param),),
            ValueError,
            "layers['cell']['ig']['kernel']: expected shape [4, 8], got float32 of shape (4, 7)",
        ),
        (
            lambda: (wrong(cell(), np.full((4, 8), np.nan)),),
            ValueError,
            "layers.ig.kernel: expected finite numbers, got NaN or infinity",
        ),
        (
            lambda: ([changed(ig={"kernel": np.ones((4, 8), int)})],),
            TypeError,
            "layers[0]['cell']['ig']['kernel']: expected floats, got int64 of shape (4, 8)",
        ),
        (
            lambda: ([changed(ig={"kernel": np.ones((4, 8))})],),
            TypeError,
            "layers and readout: expected arrays of one dtype, got float32 and float64",
        ),
        (
            lambda: ([TREE, TREE],),
            ValueError,
            "layers[1]: expected weights for the 8 outputs of the layer below, got weights for 4",
        ),
        (
            lambda: (TREE, {"kernel": np.ones((7, 2), np.float32)}),
            ValueError,
            "readout: expected weights for the 8 outputs of the layer below, got weights for 7",
        ),
        (
            lambda: (TREE, {"kernel": np.ones((8, 2)), "scale": np.ones(2)}),
            ValueError,
            "dense: expected 2 names, got 3, with [] missing and ['scale'] unknown",
        ),
        (lambda: (TREE, cell()), TypeError, "dense: expected an nnx.Linear, got an nnx.LSTMCell"),
        (lambda: (TREE, nn.Dense(3)), TypeError, "dense: expected the tree of its parameters, got an nn.Dense, which"),
        (lambda: (TREE, 3), TypeError, "dense: expected a tree of parameters or a module of nnx, got 3"),
    ],
)
def test_names_what_can_not_be_taken_over(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        from_flax(*given())


def wrong(module, kernel):
    module.ig.kernel = nnx.Param(jnp.asarray(kernel, jnp.float32))
    return module


def test_in_a_compact_module_a_cell_lies_by_itself():
    model, xs = a_model(LSTM), sequences()
    [tree], _ = to_flax(model)
    hs = Tagger().apply({"params": {"LSTMCell_0": tree["cell"]}}, xs)
    close(hs, run(model, xs)[0], "float32")
    close(nn.RNN(nn.OptimizedLSTMCell(HIDDEN)).apply({"params": tree}, xs), hs, "float32")


def test_names_what_flax_does_not_have():
    with pytest.raises(ValueError, match="cell: expected one that Flax has, 'lstm', 'gru', 'rnn', got 'peephole'"):
        to_flax(a_model(PEEPHOLE))
    with pytest.raises(ValueError, match="optimized: expected False, of all cells but 'lstm', got True for 'rnn'"):
        to_nnx(a_model(RNN), optimized=True)
    with pytest.raises(ValueError, match=r"layers\[0\].bias_hn: expected zeros, as an nnx.GRUCell has no such bias"):
        to_nnx(a_model(GRU))
