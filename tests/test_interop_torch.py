"""Weights from and to torch, beside torch's own modules."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm.cells import GRU, LAYER_NORM, LSTM, PROJECTED, RNN
from jlstm.interop import Model, from_torch, to_torch, torch_modules
from jlstm.stack import directions
from tests.exchange import (
    BOUNDS,
    HIDDEN,
    INPUTS,
    LENGTHS,
    OUTPUTS,
    PROJECTION,
    a_model,
    a_state,
    close,
    gradient,
    run,
    same_bits,
    sequences,
)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

CELLS = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN, "LSTM, proj_size": PROJECTED}
FORMS = {"one layer": (1, False), "two layers in both directions": (2, True)}


def module(name, dtype, form=(1, False), bias=True):
    kind, _, projected = name.partition(", ")
    layers, both = form
    made = getattr(torch.nn, kind)(
        INPUTS,
        HIDDEN,
        num_layers=layers,
        bidirectional=both,
        bias=bias,
        batch_first=True,
        **({"proj_size": PROJECTION} if projected else {}),
    ).to(getattr(torch, dtype))
    torch.manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def of_torch(states):
    """The states of each layer as torch has them: one array of all layers and directions for each of h and c."""
    flat = [own for layer in states for own in directions(layer)]
    arrays = [torch.tensor(np.stack(each)) for each in zip(*flat, strict=True)]
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CELLS)
def test_outputs_states_and_gradients_are_those_of_torch(x64, name, form, dtype):
    theirs = module(name, dtype, FORMS[form])
    model = from_torch(theirs)
    assert model.cell is CELLS[name]
    xs, state = sequences(dtype), a_state(model, dtype)

    hs, end = theirs(torch.tensor(xs), of_torch(state))
    got, reached = run(model, xs, state)
    close(got, hs.detach(), dtype)
    close(of_torch(reached), jax.tree.map(lambda each: each.detach(), end), dtype)

    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(xs), torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    hs, end = theirs(packed, of_torch(state))
    hs, _ = torch.nn.utils.rnn.pad_packed_sequence(hs, batch_first=True)
    got, reached = run(model, xs, state, LENGTHS)
    close(got, hs.detach(), dtype)
    close(of_torch(reached), jax.tree.map(lambda each: each.detach(), end), dtype)

    weights = np.random.default_rng(3).normal(size=got.shape).astype(dtype)
    mine = torch.tensor(xs, requires_grad=True)
    (torch.tensor(weights) * theirs(mine)[0]).sum().backward()
    by_layers, by_xs = gradient(model, xs, weights)
    close(by_xs, mine.grad, dtype)
    wanted = {key: parameter.grad.numpy() for key, parameter in theirs.named_parameters()}
    got, _ = to_torch(Model(model.cell, jax.tree.map(np.asarray, by_layers)))
    for key in wanted:
        # Of a sum, both have the same gradient; to_torch has put it in one of them, but for a GRU's candidate.
        if not key.startswith("bias_hh"):
            close(got[key], wanted[key], dtype)
        elif model.cell is GRU:
            close(got[key][2 * HIDDEN :], wanted[key][2 * HIDDEN :], dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CELLS)
def test_there_and_back_gives_the_same_bits(name, form, dtype):
    layers, both = FORMS[form]
    model = a_model(CELLS[name], jnp.dtype(dtype), layers=layers, both=both, readout=True)
    same_bits(from_torch(*to_torch(model)), model)
    lstm, linear = torch_modules(model)
    assert (lstm.num_layers, lstm.bidirectional, lstm.batch_first) == (layers, both, True)
    assert lstm.weight_ih_l0.dtype == linear.weight.dtype == getattr(torch, dtype)
    same_bits(from_torch(lstm, linear), model)


def test_without_biases_they_are_zero():
    model = from_torch(module("GRU", "float32", bias=False), torch.nn.Linear(HIDDEN, OUTPUTS, bias=False))
    [layer], readout = model.layers, model.readout
    assert not any(bias.any() for bias in (layer.bias, layer.bias_hn, readout.bias))
    assert layer.bias.dtype == readout.bias.dtype == np.float32


def test_a_linear_layer_is_the_readout():
    theirs, linear = module("LSTM", "float32"), torch.nn.Linear(HIDDEN, OUTPUTS)
    xs = sequences()
    close(run(from_torch(theirs, linear), xs)[0], linear(theirs(torch.tensor(xs))[0]).detach(), "float32")


def test_layers_lie_in_the_state_dict_of_a_larger_model():
    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.ModuleDict({"lstm": module("LSTM", "float32", (2, True))})
            self.fc = torch.nn.Linear(2 * HIDDEN, OUTPUTS)

    tagger = Tagger()
    wanted = from_torch(tagger.encoder["lstm"], tagger.fc)
    state = tagger.state_dict()
    same_bits(from_torch(state, "fc", prefix="encoder.lstm"), wanted)
    same_bits(from_torch(state, "fc.", prefix="encoder.lstm."), wanted)
    same_bits(from_torch({key: value.numpy() for key, value in state.items()}, "fc", prefix="encoder.lstm"), wanted)


def test_modules_lie_on_top_of_each_other():
    below, above = module("LSTM", "float32", (1, True)), torch.nn.LSTM(2 * HIDDEN, 5, batch_first=True)
    xs = sequences()
    hs = above(below(torch.tensor(xs))[0])[0]
    model = from_torch([below, above.state_dict()])
    assert [type(layer).__name__ for layer in model.layers] == ["Bidirectional", "LSTMParams"]
    close(run(model, xs)[0], hs.detach(), "float32")
    with pytest.raises(ValueError, match=re.escape("layers: expected the same units and directions in all")):
        to_torch(model)


def test_what_was_taken_over_is_a_copy_or_not_changed():
    theirs = module("LSTM", "float32")
    before = {key: value.clone() for key, value in theirs.state_dict().items()}
    run(from_torch(theirs), sequences())
    assert all(torch.equal(value, before[key]) for key, value in theirs.state_dict().items())
    model = a_model(LSTM)
    arrays, _ = to_torch(model)
    arrays["weight_ih_l0"][:] = 0
    assert model.layers[0].weight_ih.all()


STATE = to_torch(a_model(LSTM, layers=2))[0]


class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm, self.fc = torch.nn.Embedding(7, 3), torch.nn.LSTM(3, 5), torch.nn.Linear(5, 2)


def without(*names):
    return {key: value for key, value in STATE.items() if key not in names}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: (torch.nn.RNN(3, 5, nonlinearity="relu"),), ValueError, "lstm.nonlinearity: expected 'tanh', got 're"),
        (lambda: (torch.nn.Linear(3, 5),), TypeError, "lstm: expected an nn.LSTM, nn.GRU or nn.RNN, or a state_dict, "),
        (lambda: (3,), TypeError, "lstm: expected an nn.LSTM, nn.GRU or nn.RNN, or a state_dict, got 3"),
        (
            lambda: ("m.pt",),
            TypeError,
            "lstm: expected what torch has, got the path 'm.pt'; hand over what torch.load reads from it",
        ),
        (lambda: (a_model(LSTM),), TypeError, "lstm: expected what torch has, got a Model; to_torch takes that"),
        (
            lambda: (torch.nn.ModuleDict({"encoder": torch.nn.Sequential(torch.nn.LSTM(3, 5)), "top": Own()}),),
            TypeError,
            "lstm: expected an nn.LSTM, nn.GRU or nn.RNN, or a state_dict, got ModuleDict; of a module of your own, m, "
            "hand over its parts, m.encoder[0] and m.top.lstm, or m.state_dict() with prefix='encoder.0'; fold the "
            "embedding in, weight_ih @ embedding.T",
        ),
        (
            lambda: ([torch.nn.Embedding(3, 4), STATE],),
            TypeError,
            "lstm[0]: expected an nn.LSTM, nn.GRU or nn.RNN, or a state_dict, got Embedding(3, 4); fold the ",
        ),
        (
            lambda: (STATE, {"weight": np.ones(8)}),
            ValueError,
            "linear['weight']: expected shape [outputs, inputs], got float64 of shape (8,)",
        ),
        (lambda: (STATE, {}), ValueError, "linear: expected an array 'weight', got []"),
        (
            lambda: (STATE | {"weight_ih_l0": np.ones(3)},),
            ValueError,
            "lstm['weight_ih_l0']: expected shape [rows, inputs], got float64 of shape (3,)",
        ),
        (lambda: ([],), ValueError, "lstm: expected at least one, got an empty list"),
        (lambda: ({},), ValueError, "lstm: expected an array 'weight_ih_l0', got []"),
        (
            lambda: ({f"a.lstm.{key}": value for key, value in STATE.items()},),
            ValueError,
            "; write prefix='a.lstm'",
        ),
        (
            lambda: (STATE | {"fc.weight": np.ones(3)},),
            ValueError,
            "lstm: expected 8 names, got 9, with [] missing and",
        ),
        (lambda: (without("bias_hh_l1"),), ValueError, "lstm: expected 8 names, got 7, with ['bias_hh_l1'] missing"),
        (lambda: (without("weight_hh_l0"),), ValueError, "lstm: expected an array 'weight_hh_l0', got ["),
        (
            lambda: (STATE | {"bias_hh_l1": np.ones(31, np.float32)},),
            ValueError,
            "lstm['bias_hh_l1']: expected shape [32], got float32 of shape (31,)",
        ),
        (
            lambda: (STATE | {"weight_hh_l0": np.ones((32, 7), np.float32)},),
            ValueError,
            "lstm['weight_hh_l0']: expected 28 or 21 or 7 rows, of an LSTM, a GRU or an RNN, got shape [32, 7]",
        ),
        (
            lambda: (STATE | {"bias_hh_l1": np.full(32, np.nan, np.float32)},),
            ValueError,
            "lstm['bias_hh_l1']: expected finite numbers, got NaN or infinity",
        ),
        (
            lambda: (STATE | {"bias_hh_l1": np.ones(32, int)},),
            TypeError,
            "lstm['bias_hh_l1']: expected floats, got int64 of shape (32,)",
        ),
        (
            lambda: (STATE | {"bias_hh_l1": np.ones(32), "bias_ih_l1": np.ones(32)},),
            TypeError,
            "layers and readout: expected arrays of one dtype, got float32 and float64",
        ),
        (
            lambda: (STATE, torch.nn.Linear(7, 2)),
            ValueError,
            "readout: expected weights for the 8 outputs of the layer below, got weights for 7",
        ),
        (lambda: (STATE, "fc"), ValueError, "linear: expected names that begin with 'fc.', got ["),
        (lambda: (STATE, 3), TypeError, "linear: expected a module of torch or a state_dict, got 3"),
        (
            lambda: ([STATE, torch.nn.LSTM(7, 8)],),
            ValueError,
            "layers[2]: expected weights for the 8 outputs of the layer below, got weights for 7",
        ),
        (
            lambda: ([STATE, torch.nn.GRU(8, 8)],),
            ValueError,
            "lstm: expected layers of one kind, got lstm and gru",
        ),
    ],
)
def test_names_what_can_not_be_taken_over(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        from_torch(*given())


class Scaled(torch.nn.LSTM):
    """An LSTM that computes something else, as a class of one's own may."""

    def forward(self, xs):
        return super().forward(10 * xs)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            lambda: (Scaled(3, 5),),
            TypeError,
            "expected an nn.LSTM, nn.GRU or nn.RNN, or a state_dict, got Scaled",
        ),
        (
            lambda: (STATE, torch.nn.Embedding(2, 8)),
            TypeError,
            "linear: expected an nn.Linear, or a state_dict, got Embedding(2, 8)",
        ),
        (
            lambda: (torch.nn.LSTM(3, 5, device="meta"),),
            ValueError,
            "lstm['weight_ih_l0']: expected numbers, got a tensor on the device 'meta', which has none",
        ),
    ],
)
def test_takes_the_classes_of_torch_with_numbers_in_them(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        from_torch(*given())


def test_a_class_of_ones_own_is_taken_by_its_weights():
    lstm = Scaled(INPUTS, HIDDEN)
    assert from_torch(lstm.state_dict()).cell is LSTM


def test_names_what_torch_does_not_have():
    with pytest.raises(ValueError, match=r"cell: expected one that torch has, 'lstm', .*'rnn', got 'layer_norm'"):
        to_torch(a_model(LAYER_NORM))
