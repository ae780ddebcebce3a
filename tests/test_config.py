"""What a network can be, and the errors of what it can't."""

import dataclasses
import re

import jax
import pytest

from jlstm.cells import CELLS, GRU, LSTM, PROJECTED, Cell
from jlstm.cells.cell import Sizes
from jlstm.config import LSTMConfig, check_config

SIZES = {"input_size": 3, "hidden_size": 5, "output_size": 4}
SHARES = ["dropout", "input_dropout", "recurrent_dropout", "zoneout", "weight_dropout"]
NO_RECURRENT = dataclasses.replace(LSTM, name="own", recurrent=("weights",))


def test_a_name_is_its_cell():
    for name, cell in CELLS.items():
        assert LSTMConfig(**SIZES, cell=name, projection_size=2 if cell.projects else None).cell is cell
    assert LSTMConfig(**SIZES).cell is LSTM
    assert LSTMConfig(**SIZES, cell="gru") == LSTMConfig(**SIZES, cell=GRU) != LSTMConfig(**SIZES)


def test_a_configuration_is_static_and_hashable():
    config = LSTMConfig(**SIZES, cell="gru", zoneout=0.1)
    assert jax.tree.leaves(config) == []
    assert len({config, LSTMConfig(**SIZES, cell=GRU, zoneout=0.1)}) == 1


@pytest.mark.parametrize(
    ("options", "sizes", "width"),
    [
        ({}, [(3, 5, 5), (5, 5, 5)], 5),
        ({"bidirectional": True}, [(3, 5, 5), (10, 5, 5)], 10),
        ({"cell": "projected", "projection_size": 2}, [(3, 5, 2), (2, 5, 2)], 2),
        ({"cell": PROJECTED, "projection_size": 2, "bidirectional": True}, [(3, 5, 2), (4, 5, 2)], 4),
    ],
)
def test_sizes_of_the_layers(options, sizes, width):
    config = LSTMConfig(**SIZES, layers=2, **options)
    assert [config.sizes(layer) for layer in range(2)] == [Sizes(*each) for each in sizes]
    assert config.output_width == width


@pytest.mark.parametrize("name", SHARES)
def test_shares(name):
    assert not LSTMConfig(**SIZES).leaves_out
    config = LSTMConfig(**SIZES, **{name: 0.25})
    assert config.leaves_out
    assert getattr(LSTMConfig(**SIZES, **{name: 0}), name) == 0.0
    for wrong, error, message in (
        (1, ValueError, f"{name}: expected a number below 1, got 1.0"),
        (1.5, ValueError, f"{name}: expected a number below 1, got 1.5"),
        (-0.1, ValueError, f"{name}: expected a finite number from 0 up, got -0.1"),
        (float("nan"), ValueError, f"{name}: expected a finite number from 0 up, got nan"),
        ("0.5", TypeError, f"{name}: expected a number, got '0.5'"),
        (True, TypeError, f"{name}: expected a number, got True"),
        (None, TypeError, f"{name}: expected a number, got None"),
    ):
        with pytest.raises(error, match=f"^{re.escape(message)}"):
            LSTMConfig(**SIZES, **{name: wrong})


MISTAKES = {
    "an unknown cell": ({"cell": "LSTM"}, ValueError, "cell: expected one of 'lstm', 'peephole', "),
    "no cell": ({"cell": None}, TypeError, "cell: expected the name of a cell or a Cell, got None"),
    "a function": ({"cell": LSTM.gates}, TypeError, "cell: expected the name of a cell or a Cell, got <function"),
    "a cell that draws nothing": (
        {"cell": Cell(LSTM.linear, LSTM.gates, LSTM.zero_state, name="own")},
        ValueError,
        "cell: expected a cell that draws its parameters, Cell(..., draw=...), got one that does not",
    ),
    "a cell with another's name": (
        {"cell": dataclasses.replace(LSTM, pads=False)},
        ValueError,
        "cell: expected a cell with a name of its own, Cell(..., name=...), got 'lstm'",
    ),
    "a projection of no size": (
        {"cell": "projected"},
        ValueError,
        "projection_size: expected the width of the hidden state of cell='projected', got None",
    ),
    "a projection that is none": (
        {"cell": "projected", "projection_size": 5},
        ValueError,
        "projection_size: expected less than hidden_size = 5, got 5",
    ),
    "a projection to nothing": (
        {"cell": "projected", "projection_size": 0},
        ValueError,
        "projection_size: expected at least 1, got 0",
    ),
    "a projection to a half": (
        {"cell": "projected", "projection_size": 2.5},
        TypeError,
        "projection_size: expected an integer, got 2.5",
    ),
    "a projection by a cell that has none": (
        {"cell": "gru", "projection_size": 2},
        ValueError,
        "projection_size: expected None with cell='gru', which projects nothing, got 2; the cell that does is 'proj",
    ),
    "a direction that is none": (
        {"bidirectional": "yes"},
        TypeError,
        "bidirectional: expected True or False, got 'yes'",
    ),
    "a residual that is none": ({"residual": 1}, TypeError, "residual: expected True or False, got 1"),
    "an average of what has none": (
        {"cell": "slstm", "zoneout": 0.5},
        ValueError,
        "zoneout: expected 0 with cell='slstm', whose state is kept in parts of a changing scale and has no average, "
        "got 0.5",
    ),
    "weights to leave out that are none": (
        {"cell": NO_RECURRENT, "weight_dropout": 0.5},
        ValueError,
        "weight_dropout: expected 0 with cell='own', whose parameters have no ['weights'], got 0.5",
    ),
    "a long memory of a cell that knows none": (
        {"cell": "gru", "long_memory": 0.5},
        ValueError,
        "long_memory: expected 0 with cell='gru', which knows no biases for it, got 0.5",
    ),
    "a long memory of more than all": (
        {"long_memory": 1.5},
        ValueError,
        "long_memory: expected a number up to 1, got 1.5",
    ),
    "an unknown target": (
        {"target": "first"},
        ValueError,
        "target: expected one of ('each', 'last', 'mean'), got 'first'",
    ),
    "a segment of nothing": ({"segment": 0}, ValueError, "segment: expected at least 1, got 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    options, error, message = MISTAKES[name]
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        LSTMConfig(**SIZES, **options)


def test_what_is_not_asked_for_may_be_missing():
    assert LSTMConfig(**SIZES, cell=NO_RECURRENT, zoneout=0.5).cell is NO_RECURRENT
    assert LSTMConfig(**SIZES, cell="slstm", weight_dropout=0.5, zoneout=0.0).leaves_out


def test_check_config():
    check_config(LSTMConfig(**SIZES))
    with pytest.raises(TypeError, match=r"^config: expected an LSTMConfig, got \{'"):
        check_config(SIZES)
