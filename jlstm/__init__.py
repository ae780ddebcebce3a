"""LSTMs in JAX: simple to read, proved correct, fast on a CPU."""

from jlstm import cells
from jlstm.cells import LSTM, Cell
from jlstm.cells.lstm import LSTMParams, LSTMState, lstm_cell
from jlstm.config import LSTMConfig
from jlstm.data import Batch, Streams, Windows
from jlstm.devices import use_cpu_cores
from jlstm.evaluation import TextLoss, evaluate_text
from jlstm.forecasting import forecast
from jlstm.language_model import CharLM, Checked
from jlstm.losses import binary_cross_entropy, cross_entropy, loss_fn, mse
from jlstm.model import ModelParams, Readout, forward, init_params, step, zero_state
from jlstm.network import History, LSTMNetwork, Moment
from jlstm.processes import use_distributed
from jlstm.sampling import generate, stream
from jlstm.series import SeriesWindows
from jlstm.stack import Bidirectional, stack
from jlstm.training import Evaluation, Trainer, TrainState, trainer
from jlstm.unroll import activations, unroll

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "Batch",
    "Bidirectional",
    "Cell",
    "CharLM",
    "Checked",
    "Evaluation",
    "History",
    "LSTMConfig",
    "LSTMNetwork",
    "LSTMParams",
    "LSTMState",
    "ModelParams",
    "Moment",
    "Readout",
    "SeriesWindows",
    "Streams",
    "TextLoss",
    "TrainState",
    "Trainer",
    "Windows",
    "activations",
    "binary_cross_entropy",
    "cells",
    "cross_entropy",
    "evaluate_text",
    "forecast",
    "forward",
    "generate",
    "init_params",
    "loss_fn",
    "lstm_cell",
    "mse",
    "stack",
    "step",
    "stream",
    "trainer",
    "unroll",
    "use_cpu_cores",
    "use_distributed",
    "zero_state",
]
