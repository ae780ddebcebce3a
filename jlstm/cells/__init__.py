"""One time step: the cells that a layer can be made of, one file each. A new one is a file and a row here."""

from typing import Any

from jlstm.cells.cell import Cell, Sizes
from jlstm.cells.coupled import COUPLED, CoupledParams
from jlstm.cells.gru import GRU, GRUParams, GRUState
from jlstm.cells.gru_before import GRU_BEFORE, GRUBeforeParams
from jlstm.cells.layer_norm import LAYER_NORM, LayerNormParams
from jlstm.cells.lstm import LSTM, LSTMParams, LSTMState
from jlstm.cells.peephole import PEEPHOLE, PeepholeParams
from jlstm.cells.products import times
from jlstm.cells.projected import PROJECTED, ProjectedParams
from jlstm.cells.rnn import RNN, RNNParams, RNNState
from jlstm.cells.slstm import SLSTM, SLSTMParams, SLSTMState
from jlstm.checks import describe

__all__ = [
    "CELLS",
    "COUPLED",
    "GRU",
    "GRU_BEFORE",
    "LAYER_NORM",
    "LSTM",
    "PEEPHOLE",
    "PROJECTED",
    "RNN",
    "SLSTM",
    "Cell",
    "CoupledParams",
    "GRUBeforeParams",
    "GRUParams",
    "GRUState",
    "LSTMParams",
    "LSTMState",
    "LayerNormParams",
    "PeepholeParams",
    "ProjectedParams",
    "RNNParams",
    "RNNState",
    "SLSTMParams",
    "SLSTMState",
    "Sizes",
    "cell_of",
    "times",
]

CELLS = {cell.name: cell for cell in (LSTM, PEEPHOLE, COUPLED, PROJECTED, LAYER_NORM, GRU, GRU_BEFORE, RNN, SLSTM)}


def cell_of(name: str, value: Any) -> Cell:
    """Return the argument `name`, a cell or the name of one, as a cell that a network can be made of.

    Raises:
        TypeError: it is neither.
        ValueError: there is no cell of this name; or the cell has none or that of another one, or draws no parameters.

    Example:
        >>> cell_of("cell", "gru")
        Cell('gru')
    """
    if isinstance(value, str):
        if value not in CELLS:
            raise ValueError(f"{name}: expected one of {', '.join(map(repr, CELLS))}, or a Cell, got {value!r}")
        return CELLS[value]
    if not isinstance(value, Cell):
        raise TypeError(f"{name}: expected the name of a cell or a Cell, got {describe(value)}")
    if value.draw is None:
        raise ValueError(
            f"{name}: expected a cell that draws its parameters, Cell(..., draw=...), got one that does not"
        )
    if CELLS.get(value.name, value) != value or not value.name:
        raise ValueError(f"{name}: expected a cell with a name of its own, Cell(..., name=...), got {value.name!r}")
    return value
