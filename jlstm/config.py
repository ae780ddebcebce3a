"""What a network is, apart from its parameters: one screen to configure it."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax

from jlstm.cells import LSTM, cell_of
from jlstm.cells.cell import Sizes
from jlstm.checks import describe, real_number, switch, whole_number
from jlstm.objectives import OBJECTIVES, Objective

__all__ = ["Inputs", "LSTMConfig", "Loss", "Target", "check_config"]

MOST_SCALE = 1e30  # beyond it, weights are infinite in float32

Loss = Literal["cross_entropy", "mse", "binary_cross_entropy", "gaussian", "laplace"]
Target = Literal["each", "last", "mean"]
Inputs = Literal["features", "tokens"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class LSTMConfig:
    """What a recurrent network is, apart from its parameters.

    It is hashable and a static pytree, so `jax.jit` and `jax.grad` take it as an ordinary argument.

    Args:
        input_size: the number of features I of one time step, or of tokens.
        hidden_size: the number of hidden units H of each layer.
        output_size: the number of outputs C: classes, values, or questions that are answered by yes or no.
        loss: "cross_entropy" of classes (Bridle, 1990); "mse" of values; "binary_cross_entropy" of questions;
            "gaussian" and "laplace", the negative log-likelihood of values under a distribution whose location and
            scale the network tells (Nix and Weigend, "Estimating the Mean and Variance of the Target Probability
            Distribution", 1994), the second for values with heavy tails.
        target: "each": a target for each time step; "last": one for the whole sequence, read at its last real step, and
            of a backward direction at the first, where each has read everything; "mean": one for the whole sequence,
            read from the mean of the outputs over its real steps.
        inputs: "features": numbers `[batch, time, I]`; "tokens": ids `[batch, time]`, each for a one-hot vector.
        layers: the number of layers on top of each other.
        dropout: the share of each layer's outputs that training leaves out, the same ones at all steps of a sequence
            (Srivastava et al., 2014; Gal and Ghahramani, 2016), from 0 to below 1, as the next four.
        input_scale: how much wider than usual the first layer's candidate reads its input.
        long_memory: the share of each layer's units that start with a memory of 1 to 1,100 steps, of a cell that knows
            how (see `Cell.remembering`; the LSTM does); the others start with one of a few.
        segment: how many steps the gradient keeps at a time, for sequences of many thousand steps; all where None.
        cell: the name of a cell in `jlstm.cells`, or a `Cell` of your own.
        projection_size: the width P of the hidden state of the cell "projected", below H; None for all others.
        bidirectional: whether each layer reads the sequence in both directions, its outputs next to each other
            (Schuster and Paliwal, "Bidirectional Recurrent Neural Networks", 1997).
        residual: whether each layer from the second on adds what it reads to what it gives (He et al., "Deep Residual
            Learning for Image Recognition", 2016; Wu et al., "Google's Neural Machine Translation System", 2016).
        input_dropout: the share of the features, or of the tokens of the vocabulary, that training leaves out of what a
            sequence reads (Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural
            Networks", 2016).
        recurrent_dropout: the share of each layer's hidden state that training leaves out before the products, the same
            units at all steps of a sequence (Gal and Ghahramani, 2016).
        zoneout: the share of each layer's state that keeps its old value at a step of training; otherwise the state
            is the expectation of that (Krueger et al., "Zoneout", 2017).
        weight_dropout: the share of each layer's recurrent weights that a training step leaves out (Wan et al.,
            "Regularization of Neural Networks using DropConnect", 2013; Merity, Keskar and Socher, "Regularizing and
            Optimizing LSTM Language Models", 2018).

    Raises:
        TypeError: a size is not an integer, a share or `input_scale` not a number, or `cell` is none.
        ValueError: a size or `input_scale` is not positive, a share is 1 or more, a name is none of those above, there
            is one class alone, which would always be right, or two arguments do not go together.

    Example:
        >>> LSTMConfig(input_size=1, hidden_size=8, output_size=3).loss
        'cross_entropy'
    """

    input_size: int
    hidden_size: int
    output_size: int
    loss: Loss = "cross_entropy"
    target: Target = "each"
    inputs: Inputs = "features"
    layers: int = 1
    dropout: float = 0.0
    input_scale: float = 1.0
    segment: int | None = None
    cell: Any = LSTM  # a `Cell` always, also where its name was given
    projection_size: int | None = None
    bidirectional: bool = False
    residual: bool = False
    input_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0
    weight_dropout: float = 0.0
    long_memory: float = 0.0

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name in ("input_size", "hidden_size", "output_size", "layers"):
            put(name, whole_number(name, getattr(self, name), least=1))
        for name, allowed in (("loss", get_args(Loss)), ("target", get_args(Target)), ("inputs", get_args(Inputs))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {allowed}, got {getattr(self, name)!r}")
        if self.loss == "cross_entropy" and self.output_size == 1:
            raise ValueError(
                "output_size: expected at least 2 classes with loss='cross_entropy', got 1; a network that says yes or "
                "no has loss='binary_cross_entropy', or output_size=2 and the class ids 0 and 1; one that gives a "
                "value has loss='mse'"
            )
        for name in ("dropout", "input_dropout", "recurrent_dropout", "zoneout", "weight_dropout"):
            put(name, real_number(name, getattr(self, name)))
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}: expected a number below 1, got {getattr(self, name)}")
        put("long_memory", real_number("long_memory", self.long_memory))
        if self.long_memory > 1:
            raise ValueError(f"long_memory: expected a number up to 1, got {self.long_memory}")
        put("input_scale", real_number("input_scale", self.input_scale))
        if not 0 < self.input_scale <= MOST_SCALE:
            raise ValueError(f"input_scale: expected a positive number up to {MOST_SCALE}, got {self.input_scale}")
        if self.segment is not None:
            put("segment", whole_number("segment", self.segment, least=1))
        for name in ("bidirectional", "residual"):
            put(name, switch(name, getattr(self, name)))
        self._check_cell(put)

    def _check_cell(self, put: Any) -> None:
        cell = cell_of("cell", self.cell)
        put("cell", cell)
        outputs = cell.output_size(self.hidden_size, self.projection_size)
        put("projection_size", outputs if cell.projects else None)
        if self.zoneout and not cell.averages:
            raise ValueError(
                f"zoneout: expected 0 with cell={cell.name!r}, whose state is kept in parts of a changing scale and "
                f"has no average, got {self.zoneout}"
            )
        if self.long_memory and cell.remembering is None:
            raise ValueError(
                f"long_memory: expected 0 with cell={cell.name!r}, which knows no biases for it, got {self.long_memory}"
            )
        known = getattr(cell.shapes(self.sizes(0)), "_fields", ()) if self.weight_dropout else cell.recurrent
        if missing := {*cell.recurrent} - {*known}:
            raise ValueError(
                f"weight_dropout: expected 0 with cell={cell.name!r}, whose parameters have no {sorted(missing)}, got "
                f"{self.weight_dropout}"
            )

    @property
    def objective(self) -> Objective:
        """What the scores say, and what it costs when they are wrong."""
        return OBJECTIVES[self.loss]

    @property
    def readout_width(self) -> int:
        """How many scores there are at a place: one or several for each output."""
        return self.output_size * self.objective.scores

    @property
    def in_pieces(self) -> bool:
        """Whether the scores of a sequence can be computed piece by piece, the state carried from each to the next."""
        return not self.bidirectional and self.target != "mean"

    @property
    def leaves_out(self) -> bool:
        """Whether training leaves something out."""
        return any((self.dropout, self.input_dropout, self.recurrent_dropout, self.zoneout, self.weight_dropout))

    @property
    def output_width(self) -> int:
        """How many numbers each layer gives at a step: the hidden state of one direction, or of both."""
        return (self.projection_size or self.hidden_size) * (2 if self.bidirectional else 1)

    def sizes(self, layer: int) -> Sizes:
        """Return how wide a layer is, or one of its directions; they are counted from 0."""
        inputs = self.output_width if layer else self.input_size
        return Sizes(inputs, self.hidden_size, self.projection_size or self.hidden_size)


def check_config(config: Any) -> None:
    """Raise a TypeError unless this is an `LSTMConfig`."""
    if not isinstance(config, LSTMConfig):
        raise TypeError(f"config: expected an LSTMConfig, got {describe(config)}")
