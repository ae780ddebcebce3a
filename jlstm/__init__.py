"""LSTMs in JAX: simple to read, proved correct, fast on a CPU."""

from jlstm.cell import LSTM, Cell, LSTMParams, LSTMState, lstm_cell
from jlstm.data import Batch, Windows
from jlstm.losses import cross_entropy, loss_fn, mse
from jlstm.model import LSTMConfig, ModelParams, Readout, forward, init_params
from jlstm.network import History, LSTMNetwork
from jlstm.training import Trainer, TrainState, trainer
from jlstm.unroll import unroll

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "Batch",
    "Cell",
    "History",
    "LSTMConfig",
    "LSTMNetwork",
    "LSTMParams",
    "LSTMState",
    "ModelParams",
    "Readout",
    "TrainState",
    "Trainer",
    "Windows",
    "cross_entropy",
    "forward",
    "init_params",
    "loss_fn",
    "lstm_cell",
    "mse",
    "trainer",
    "unroll",
]
