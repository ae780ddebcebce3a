"""Every cell by its name: a new one is a file and a row."""

from jlstm.reference.cell import Cell
from jlstm.reference.coupled import COUPLED
from jlstm.reference.gru import GRU
from jlstm.reference.gru_before import GRU_BEFORE
from jlstm.reference.layer_norm import LAYER_NORM
from jlstm.reference.lstm import LSTM
from jlstm.reference.peephole import PEEPHOLE
from jlstm.reference.projected import PROJECTED
from jlstm.reference.rnn import RNN
from jlstm.reference.slstm import SLSTM

__all__ = ["CELLS"]

CELLS: dict[str, Cell] = {
    "lstm": LSTM,
    "peephole": PEEPHOLE,
    "coupled": COUPLED,
    "projected": PROJECTED,
    "layer_norm": LAYER_NORM,
    "gru": GRU,
    "gru_before": GRU_BEFORE,
    "rnn": RNN,
    "slstm": SLSTM,
}
