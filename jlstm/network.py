"""`LSTMNetwork`: the documented train and predict interface, a thin shell over the pure functions."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from os import PathLike
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.tree_util import keystr

from jlstm.cells import LSTM, Cell
from jlstm.checkpoint import Saved, load, save
from jlstm.checks import alike, class_only, finite_numbers, real_number, switch, whole_number, whole_seed
from jlstm.config import Inputs, Loss, LSTMConfig, Target
from jlstm.data import Streams, Windows
from jlstm.devices import everywhere, replicate
from jlstm.inputs import as_batch, as_predictions, as_sequences, check_text
from jlstm.learning import Standing, learn, whole_patience
from jlstm.model import ModelParams, draw_params, params_shapes, summary
from jlstm.optimizers import Optimizer, Schedule, adam, by_what_they_compute, cosine, evaluation_params
from jlstm.prediction import predict
from jlstm.progress import Progress
from jlstm.training import Report, TrainState, batches_of, evaluate, fit, fresh_state

__all__ = ["History", "LSTMNetwork"]


class History(NamedTuple):
    """The losses of a training, one an epoch.

    Attributes:
        loss: the mean loss of each epoch's mini-batches, taken while the epoch trains.
        validation: the loss on the validation data after each epoch; empty where there was none.
    """

    loss: tuple[float, ...] = ()
    validation: tuple[float, ...] = ()


class _Trained(NamedTuple):
    """All that training changes, in one value, so that a Ctrl-C finds either the old or the new.

    The epochs are those that led to the state: fewer than in the history, where later ones were not kept.
    """

    state: TrainState
    history: History
    on: str = ""
    epochs: int = 0


class LSTMNetwork:
    """An LSTM network that is trained on sequences and predicts on them.

    Args:
        input_size: the number of features I of one time step.
        hidden_size: the number of hidden units H.
        output_size: the number of outputs C: classes for "cross_entropy", values for "mse".
        apply_softmax: whether `predict` returns probabilities instead of logits; training works on logits always.
        loss: "cross_entropy" or "mse".
        target: "each": a target for each time step; "last" and "mean": one for the whole sequence, read at its end or
            from the mean of the outputs, which classifies better.
        inputs: "features": sequences of numbers, `[T, I]`; "tokens": sequences of ids below I, `[T]`.
        layers: the number of layers on top of each other.
        dropout: the share of each layer's outputs that a training step leaves out, from 0 to below 1.
        cell: the name of a cell in `jlstm.cells`, or a `Cell` of your own.
        projection_size, bidirectional, residual, input_dropout, recurrent_dropout, zoneout, weight_dropout: as for
            `LSTMConfig`.
        seed: the seed of the parameters and of the shuffles; None for another one each time.
        optimizer: a callable from a learning-rate schedule to what optax calls an optimiser, such as `optax.adam`,
            `lambda rate: optax.chain(optax.clip(1.0), optax.sgd(rate))` or `lambda rate: optax.MultiSteps(
            optax.adam(rate), 4)`; by default Adam behind clipping at norm 1. It is offered the loss, for those that
            want it. With one that keeps other parameters for evaluation, such as `optax.contrib.schedule_free_adamw`,
            the network predicts with those. Callables that compute the same are compiled once, unless they call back
            into Python; to find that out takes 20 ms where one is not found by name in a module, as a lambda is not.
        batch_size: the sequences of a mini-batch; by default a fifteenth of them, at least 1 and at most 64. `Streams`
            have their own.
        schedule: the shape of the learning rate over a training, a function from the part that is done (0 to 1) to a
            factor; by default a cosine from 1 to 0.
        input_scale: how much wider the candidate's input weights are drawn; by default `default_input_scale`.
        progress: whether `train` shows its progress on standard error.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value; the message names it. One class alone is
            refused: a network that says yes or no has two, with the ids 0 and 1.

    Example:
        >>> network = LSTMNetwork(1, 16, 3, apply_softmax=True, progress=False)
        >>> X = np.array([[0.0, 0.5, 1.0], [0.5, 1.0, 0.0]])
        >>> history = network.train(X, np.array([[1, 2, 0], [2, 0, 1]]), epochs=30, learning_rate=0.03)
        >>> network.predict([0.0, 0.5]).shape
        (2, 3, 1)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        apply_softmax: bool = False,
        loss: Loss = "cross_entropy",
        *,
        target: Target = "each",
        inputs: Inputs = "features",
        layers: int = 1,
        dropout: float = 0.0,
        cell: Cell | str = LSTM,
        projection_size: int | None = None,
        bidirectional: bool = False,
        residual: bool = False,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        weight_dropout: float = 0.0,
        seed: int | None = 0,
        optimizer: Optimizer = adam,
        batch_size: int | None = None,
        schedule: Callable[[Array], Array] = cosine,
        input_scale: float | None = None,
        progress: bool = True,
    ) -> None:
        config = LSTMConfig(
            input_size,
            hidden_size,
            output_size,
            loss,
            target,
            inputs,
            layers,
            dropout,
            cell=cell,
            projection_size=projection_size,
            bidirectional=bidirectional,
            residual=residual,
            input_dropout=input_dropout,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            weight_dropout=weight_dropout,
        )
        scale = default_input_scale(config) if input_scale is None else input_scale
        self.config = replace(config, input_scale=scale)
        self.apply_softmax, self.progress = switch("apply_softmax", apply_softmax), switch("progress", progress)
        if self.apply_softmax and loss == "mse":
            raise ValueError("apply_softmax: expected False with loss='mse', whose outputs are values, got True")
        self.batch_size = None if batch_size is None else whole_number("batch_size", batch_size, least=1)
        seed = whole_seed("seed", seed)
        params = draw_params(seed, self.config)
        self._optimizer, self._schedule = by_what_they_compute(optimizer, schedule, params)
        self._trained = _Trained(self._fresh_state(params, jax.random.key(seed)), History())

    def __repr__(self) -> str:
        config, on = self.config, self._trained.on
        inputs = f"{config.input_size} {config.inputs.removesuffix('s' * (config.input_size == 1))}"
        outputs = "classes" if config.loss == "cross_entropy" else f"value{'s' * (config.output_size > 1)}"
        trained = f", trained on {on}" if on else ""
        return f"LSTMNetwork({inputs}, {summary(config)}, {config.output_size} {outputs}{trained})"

    @property
    def params(self) -> ModelParams:
        """The parameters that it predicts with, as the functions take them; setting them starts the optimiser anew."""
        state = self._trained.state
        return evaluation_params(state.opt_state, state.params)

    @params.setter
    def params(self, params: ModelParams) -> None:
        form: Any = jax.tree.structure(alike("params", params, params_shapes(self.config)))
        leaves = jax.tree.leaves_with_path(params)
        params = jax.tree.unflatten(form, [finite_numbers(f"params{keystr(path)}", leaf) for path, leaf in leaves])
        self._trained = self._trained._replace(state=self._fresh_state(params, self._trained.state.key), on="")

    def _fresh_state(self, params: ModelParams, key: Array) -> TrainState:
        params, key = replicate((params, key), None)
        return everywhere(fresh_state(params, key, config=self.config, optimizer=self._optimizer))

    @property
    def history(self) -> History:
        """The losses of all finished epochs."""
        return self._trained.history

    def train(
        self,
        X: Any,
        Y: Any = None,
        epochs: int = 100,
        learning_rate: float = 0.01,
        decay_rate: float = 0.0,
        periodic_callback: Callable[[], Any] | None = None,
        *,
        callback_every: float | None = None,
        validation: Any = None,
        keep_best: bool = False,
        patience: int | None = None,
    ) -> History:
        """Train the network; called again, it goes on with the optimiser's state and the count of epochs.

        The learning rate is `learning_rate * schedule(p) / (1 + decay_rate * epoch)`: p is the part of this call's
        training that is done, and epoch counts from the network's first, in fractions. Ctrl-C, or an error in the
        callback, ends the training and leaves a network with all that was learned until then.

        Args:
            X: the sequences: `[N, T, I]`, `[N, T]` for one feature or for tokens, a list of N sequences that may differ
                in length, or, in place of X and Y, `Windows` or `Streams` of a long text. `[N, 1]` of one feature
                is refused, as it may be one sequence, `X[None]`, or many of one step, `X[:, None]`.
            Y: the targets: for "cross_entropy" `[N, T, C, 1]`, `[N, T, C]` or class ids `[N, T]`, for "mse"
                `[N, T, C, 1]`, `[N, T, C]`, or `[N, T]` for one output; without T where the target is "last" or "mean".
            epochs: how often to go through all sequences.
            learning_rate: the learning rate to start from.
            decay_rate: how much is added to the divisor of the learning rate an epoch.
            periodic_callback: called without arguments every `callback_every` epochs, between two compiled calls; it
                may call `predict`, and ends the training by raising `StopIteration`.
            callback_every: a number of epochs, up to `epochs`, or a part of one where an epoch takes long; by default a
                twenty-fifth of `epochs`.
            validation: `(X, Y)` or `Windows`, on which the loss is computed after each epoch.
            keep_best: whether the network is in the end the one with the lowest validation loss of this call's epochs,
                however the training ended; another training goes on from there. The callback sees the current one.
            patience: how many epochs in a row without a lower validation loss end the training; None for any number.
                The learning rate falls as if all `epochs` were to come.

        Returns:
            The losses of this call's epochs, also of those that were not kept.

        Raises:
            TypeError, ValueError: an argument does not fit; the message names it, and nothing was changed.
            FloatingPointError: the loss became NaN; the network keeps its last finite parameters, or the best.
        """
        data = self._data(X, Y, ("X", "Y"))
        held_out = None if validation is None else self._validation(validation)
        epochs = whole_number("epochs", epochs, least=0)
        every = _callback_every(periodic_callback, callback_every, epochs)
        if switch("keep_best", keep_best) and held_out is None:
            raise ValueError("keep_best: expected False without validation, got True")
        patience = whole_patience(patience, held_out is not None)
        batch_size = self.batch_size or max(1, min(64, (data.streams or data.sequences) // 15))
        reports = self._fit(data, epochs, batch_size, learning_rate, decay_rate)
        before = self._trained
        sequences = data.sequences

        def trained(report: Report, history: History) -> _Trained:
            done = before.epochs + report.epoch + int(report.part)
            on = f"{sequences:,} sequence{'s' * (sequences > 1)} for {done} epoch{'s' * (done > 1)}"
            return _Trained(report.state, history, on, done)

        def check(report: Report) -> tuple[Report | None, float | None]:
            if held_out is None:
                return None, None
            params = evaluation_params(report.state.opt_state, report.state.params)
            loss = evaluate(params, held_out, batch_size=batch_size, config=self.config, times=epochs)
            return report if keep_best else None, loss

        def keep(stands: Standing) -> None:
            history = History(before.history.loss + stands.losses, before.history.validation + stands.validation)
            self._trained = trained(stands.report, history)

        learned = learn(
            reports,
            check,
            epochs=epochs,
            patience=patience,
            progress=Progress(epochs, sequences) if self.progress else None,
            keep=keep,
            callback=None if periodic_callback is None else lambda _: periodic_callback(),
            callback_every=every,
        )
        if learned.best is not None and learned.best.kept is not None:
            self._trained = trained(learned.best.kept, self.history)
        try:
            if learned.error is not None:
                raise learned.error
        finally:
            del learned  # the error knows this frame: each would keep the other alive, and all data with them
        loss, validation_loss = (new[len(old) :] for new, old in zip(self.history, before.history, strict=True))
        return History(loss, validation_loss)

    def predict(self, x: Any) -> np.ndarray | list[np.ndarray]:
        """Predict on one sequence, a batch, or a list; the rank decides which, never the dtype or the container.

        Args:
            x: one sequence, `[T]` or `[T, I]`, as an array or a list of numbers; a batch, `[N, T, I]`, or `[N, T]` of
                tokens; or a list of arrays, each a sequence.

        Returns:
            A column of outputs for each step in float32, probabilities where `apply_softmax` is set: `[T, C, 1]` for
            one sequence, `[N, T, C, 1]` for a batch, a list for a list; without T where the target is "last" or "mean".

        Raises:
            TypeError, ValueError: x does not fit; the message says what was expected and what came.
        """
        sequences, kind = as_sequences(x, self.config)
        outputs = predict(self.params, sequences, self.config, apply_softmax=self.apply_softmax)
        return outputs[0] if kind == "one" else outputs

    def loss_function(self, predictions: Any, targets: Any) -> float:
        """Return the mean loss of what `predict` returned.

        Args:
            predictions: what `predict` returned.
            targets: the targets of the same sequences, in any form that `train` takes.

        Returns:
            The mean over all steps, of probabilities by their logarithm, floored at the smallest normal float32.

        Raises:
            TypeError, ValueError: an argument does not fit.
        """
        losses = []
        for prediction, target in as_predictions(predictions, targets, self.config):
            if self.config.loss == "mse":
                losses.append(((prediction - target) ** 2).mean(axis=1))
                continue
            if self.apply_softmax:
                logs = np.log(np.maximum(prediction, np.finfo(np.float32).tiny))
            else:
                logs = prediction - np.logaddexp.reduce(prediction, axis=1, keepdims=True)
            one_hot = np.eye(self.config.output_size)[target] if target.ndim == 1 else target
            losses.append(-(one_hot * logs).sum(axis=1))
        return float(np.concatenate(losses).mean())

    def save(self, path: str | PathLike[str]) -> None:
        """Write the network to a file, in one step: its parameters and its configuration, not the optimiser's state.

        Args:
            path: the file; one that is there is replaced.

        Raises:
            OSError: the file can't be written.
        """
        save(path, Saved(self.params, self.config, None, self.apply_softmax, self._trained.on))

    @class_only
    def load(
        cls,
        path: str | PathLike[str],
        *,
        cell: Cell | None = None,
        seed: int | None = 0,
        optimizer: Optimizer = adam,
        batch_size: int | None = None,
        schedule: Callable[[Array], Array] = cosine,
        progress: bool = True,
    ) -> "LSTMNetwork":
        """Read a network from a file that `save` wrote; further training starts the optimiser's state anew.

        Args:
            path: the file.
            cell: the cell of the network, where it is one of your own.
            seed: of the shuffles and of dropout.
            optimizer, batch_size, schedule, progress: as for the class.

        Returns:
            The network, which predicts the same bits.

        Raises:
            ValueError: the file is damaged, foreign, of a newer jlstm, or of a `CharLM`.
            OSError: the file is missing or can't be read.
        """
        saved = load(path, cell=cell)
        if saved.vocabulary is not None:
            raise ValueError(f"{path}: expected a network, got a language model, which is for CharLM.load")
        options = {field.name: getattr(saved.config, field.name) for field in fields(LSTMConfig)}
        del options["segment"]
        network = cls(
            **options,
            apply_softmax=saved.apply_softmax,
            seed=seed,
            optimizer=optimizer,
            batch_size=batch_size,
            schedule=schedule,
            progress=progress,
        )
        network.config = saved.config
        network.params = saved.params
        network._trained = network._trained._replace(on=saved.trained_on)
        return network

    def _fit(self, data: Any, epochs: int, batch_size: int, learning_rate: Any, decay_rate: Any) -> Iterator[Report]:
        state, finished = self._trained.state, len(self.history.loss)
        batches = batches_of(data, batch_size, state.params, finished + epochs)
        schedule = Schedule(
            learning_rate=real_number("learning_rate", learning_rate),
            decay_rate=real_number("decay_rate", decay_rate),
            first_step=state.step,
            first_epoch=float(finished),
            epoch_steps=float(batches),
            steps=float(epochs * batches),
        )
        return fit(
            state,
            schedule,
            data,
            epochs=epochs,
            batch_size=batch_size,
            config=self.config,
            optimizer=self._optimizer,
            shape=self._schedule,
        )

    def _data(self, X: Any, Y: Any, names: tuple[str, str]) -> Any:
        if isinstance(X, (Windows, Streams)):
            if Y is not None:
                kind = type(X).__name__
                raise ValueError(f"{names[1]}: expected None, since {kind} hold their own targets, got {type(Y)}")
            return check_text(X, self.config, names[0])
        if Y is None:
            raise ValueError(f"{names[1]}: expected targets for the sequences of {names[0]}, got None")
        return as_batch(X, Y, self.config, names)

    def _validation(self, validation: Any) -> Any:
        if isinstance(validation, Windows):
            return check_text(validation, self.config, "validation")
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise TypeError(f"validation: expected (X, Y) or Windows, got {type(validation)}")
        X, Y = validation
        return self._data(X, Y, ("validation[0]", "validation[1]"))


def _callback_every(callback: Any, every: Any, epochs: int) -> float:
    if callback is not None and not callable(callback):
        raise TypeError(f"periodic_callback: expected a callable, got {callback!r}")
    if every is None:
        return epochs / 25
    every = real_number("callback_every", every)
    if every == 0:
        raise ValueError("callback_every: expected a positive number of epochs, got 0")
    if callback and epochs and every > epochs:
        raise ValueError(f"callback_every: expected at most epochs = {epochs}, got {every:g}: it would not be called")
    return every


def default_input_scale(config: LSTMConfig) -> float:
    """Return how much wider than LeCun's `LSTMNetwork` draws the candidate's input weights.

    Where I numbers name one of C classes, neighbouring classes lie about I / C apart, and a unit must be as steep to
    tell them apart: C / 2I, and 1 at the least. A regression has no classes, and steep units amplify its noise: 1.

    Args:
        config: the network.

    Returns:
        The scale, from 1 up.

    Example:
        >>> default_input_scale(LSTMConfig(input_size=1, hidden_size=250, output_size=50))
        25.0
    """
    if config.loss == "mse":
        return 1.0
    return max(1.0, config.output_size / (2 * config.input_size))
