"""`LSTMNetwork`: the documented train and predict interface, a thin shell over the pure functions."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from os import PathLike
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.tree_util import keystr

from jlstm import interop
from jlstm.cells import LSTM, Cell
from jlstm.checkpoint import Saved, Training, load, save
from jlstm.checks import alike, class_only, describe, finite_numbers, real_number, switch, whole_number, whole_seed
from jlstm.config import Inputs, Loss, LSTMConfig, Target
from jlstm.data import Streams, Windows, filled_up
from jlstm.devices import everywhere, replicate
from jlstm.export import export_onnx
from jlstm.forecasting import Feedback, check_feeds_itself, check_has_samples, forecast
from jlstm.forks import check_not_forked
from jlstm.inputs import as_batch, as_predictions, as_sequences, as_series, check_text
from jlstm.learning import Standing, learn, whole_patience
from jlstm.model import ModelParams, draw_params, params_shapes, summary, zero_state
from jlstm.objectives import OBJECTIVES, known
from jlstm.optimizers import Optimizer, Schedule, adam, by_what_they_compute, cosine, evaluation_params
from jlstm.prediction import predict
from jlstm.processes import check_same, in_accord, is_first, of_first
from jlstm.progress import Progress
from jlstm.recovery import Recovery, terms_of
from jlstm.scaling import Scalings, scalings_of
from jlstm.series import SeriesWindows
from jlstm.snapshot import arrays_of, tree_of
from jlstm.training import Evaluation, Report, TrainState, batches_of, evaluate, fit, fresh_state

__all__ = ["History", "LSTMNetwork", "Moment"]

NAMES = "X", "Y", "weights"
EVALUATED = 256  # how many sequences are evaluated together
BUILT = 2**22  # how many numbers of windows of a series are built at once to predict on them


class History(NamedTuple):
    """The losses of a training, one an epoch.

    Attributes:
        loss: the mean loss of each epoch's mini-batches, taken while the epoch trains.
        validation: the same loss on the validation data after each epoch; empty where there was none.
        accuracy: the share of the validation data's classes, or answers yes or no, that was right after each epoch;
            empty where there was none.
    """

    loss: tuple[float, ...] = ()
    validation: tuple[float, ...] = ()
    accuracy: tuple[float, ...] = ()


class Moment(NamedTuple):
    """Where a training stands when it calls back.

    Attributes:
        epoch: how many epochs of this call are done, in fractions.
        loss: the mean loss of the latest epoch's mini-batches so far.
        history: the losses of this call's finished epochs; none within the first.
    """

    epoch: float
    loss: float
    history: History


class _Trained(NamedTuple):
    """All that training changes, in one value, so that a Ctrl-C, or another thread, finds either the old or the new.

    The epochs are those that led to the state: fewer than in the history, where later ones were not kept.
    """

    state: TrainState
    history: History
    on: str = ""
    epochs: int = 0
    scalings: Scalings | None = None

    @property
    def params(self) -> ModelParams:
        """The parameters to predict with."""
        return evaluation_params(self.state.opt_state, self.state.params)


class LSTMNetwork:
    """An LSTM network that is trained on sequences and predicts on them.

    Any number of threads may use a network at once, also while one trains it: each call is of one moment of the
    training. Of two trainings at once, the network keeps what the last to report has learned, and loses the other's.

    Args:
        input_size: the number of features I of one time step.
        hidden_size: the number of hidden units H.
        output_size: the number of outputs C: classes, values, or questions that are answered by yes or no.
        apply_softmax: whether `predict` returns probabilities instead of logits: of classes the softmax, of yes the
            sigmoid, which is the softmax of a logit beside 0. Training works on logits always.
        loss: "cross_entropy" for one of C classes, "binary_cross_entropy" for C answers yes or no, "mse" for C values,
            "gaussian" or, for heavy tails, "laplace" for C values with the distribution that each is of.
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
        long_memory: the share of the units that start with a memory of up to 1,100 steps; by default
            `default_long_memory`.
        standardize: whether features, and values to tell, are brought to mean 0 and standard deviation 1 by what the
            data of the first training have. All that is returned is on their own scale, but losses: those are of the
            values so scaled, where 1 is what the mean of all would have as "mse".
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
        long_memory: float | None = None,
        standardize: bool = False,
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
        if long_memory is None:
            long_memory = default_long_memory(config)
        self.config = replace(config, input_scale=scale, long_memory=long_memory)
        self.apply_softmax, self.progress = switch("apply_softmax", apply_softmax), switch("progress", progress)
        if self.apply_softmax and config.objective.probabilities is None:
            raise ValueError(f"apply_softmax: expected False with loss={loss!r}, whose outputs are values, got True")
        self.standardize = switch("standardize", standardize)
        if self.standardize and inputs == "tokens":
            raise ValueError("standardize: expected False with inputs='tokens', which are no numbers, got True")
        self.batch_size = None if batch_size is None else whole_number("batch_size", batch_size, least=1)
        seed = whole_seed("seed", seed)
        params = draw_params(seed, self.config)
        self._optimizer, self._schedule = by_what_they_compute(optimizer, schedule, params)
        self._trained = _Trained(self._fresh_state(params, jax.random.key(seed)), History())

    def __repr__(self) -> str:
        config, on = self.config, self._trained.on
        inputs = f"{config.input_size} {config.inputs.removesuffix('s' * (config.input_size == 1))}"
        outputs = config.objective.answers.removesuffix("s" * (config.output_size == 1))
        trained = f", trained on {on}" if on else ""
        return f"LSTMNetwork({inputs}, {summary(config)}, {config.output_size} {outputs}{trained})"

    @property
    def params(self) -> ModelParams:
        """The parameters that it predicts with, as the functions take them; setting them starts the optimiser anew."""
        return self._trained.params

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
        periodic_callback: Callable[..., Any] | None = None,
        *,
        weights: Any = None,
        class_weights: Any = None,
        callback_every: float | None = None,
        validation: Any = None,
        keep_best: bool = False,
        patience: int | None = None,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: float = 60.0,
        resume: bool = True,
    ) -> History:
        """Train the network; called again, it goes on with the optimiser's state and the count of epochs.

        The learning rate is `learning_rate * schedule(p) / (1 + decay_rate * epoch)`: p is the part of this call's
        training that is done, and epoch counts from the network's first, in fractions. Ctrl-C, or an error in the
        callback, ends the training and leaves a network with all that was learned until then.

        Args:
            X: the sequences: `[N, T, I]`, `[N, T]` for one feature or for tokens, a list of N sequences that may differ
                in length, or, in place of X and Y, `SeriesWindows` of tables, or `Windows` or `Streams` of a long text,
                which may be on disk. `[N, 1]` of one feature is refused, as it may be one sequence, `X[None]`, or many
                of one step, `X[:, None]`.
            Y: the targets: for "cross_entropy" `[N, T, C, 1]`, `[N, T, C]` or class ids `[N, T]`; else values, or for
                "binary_cross_entropy" booleans or probabilities of yes, `[N, T, C, 1]`, `[N, T, C]`, or `[N, T]` for
                one output; without T where the target is "last" or "mean". NaN, and the class id -100, are unknown and
                do not count.
            epochs: how often to go through all sequences.
            learning_rate: the learning rate to start from.
            decay_rate: how much is added to the divisor of the learning rate an epoch.
            periodic_callback: called every `callback_every` epochs, between two compiled calls, without arguments, or
                with the `Moment` if it must have one; it may call `predict`, and ends the training by raising
                `StopIteration`.
            weights: how much each target counts, numbers from 0 up: `[N]`, `[N, T]` with a target for each step, or one
                for each output of those that are no classes, an array or a list as X is. The loss is the weighted mean.
            class_weights: how much each class counts, `[C]`, or no and yes, `[2]`; in the validation too. The network
                learns odds so weighted: with `[1, w]` the probability q that it tells stands for q / (q + w(1 - q)).
            callback_every: a number of epochs, up to `epochs`, or a part of one where an epoch takes long; by default a
                twenty-fifth of `epochs`.
            validation: `(X, Y)`, `(X, Y, weights)`, `SeriesWindows` or `Windows`, on which the loss and, of classes and
                questions, the accuracy are computed after each epoch.
            keep_best: whether the network is in the end the one with the lowest validation loss of this call's epochs,
                however the training ended; another training goes on from there. The callback sees the current one.
            patience: how many epochs in a row without a lower validation loss end the training; None for any number.
                The learning rate falls as if all `epochs` were to come: a training that may end at any time wants
                `schedule=jlstm.optimizers.constant`, or as few epochs as it needs.
            checkpoint: a folder for what it takes to go on. However the process ends, a call with the same arguments of
                a network made with the same ones goes on from there, to the same bits; one whose training is done
                returns at once. SIGTERM ends the training, after it was written, with the status 143.
            checkpoint_every: how many seconds lie between two writings; the end is always written.
            resume: whether to go on with a training that is in the folder; else there must be none.

        Returns:
            The losses of this call's epochs, also of those that were not kept.

        Raises:
            TypeError, ValueError: an argument does not fit, or the folder has another training; the message names it,
                and nothing was changed.
            OSError: the folder can't be written. Once the training runs, that is a warning.
            FloatingPointError: the loss became NaN; the network keeps its last finite parameters, or the best.
        """
        data, held_out = in_accord(
            lambda: (
                self._data(X, Y, NAMES, weights, class_weights),
                None if validation is None else self._validation(validation, class_weights),
            )
        )
        epochs = whole_number("epochs", epochs, least=0)
        callback = _callback(periodic_callback)
        every = _callback_every(callback, callback_every, epochs)
        if switch("keep_best", keep_best) and held_out is None:
            raise ValueError("keep_best: expected False without validation, got True")
        patience = whole_patience(patience, held_out is not None)
        batch_size = self.batch_size or max(1, min(64, (data.streams or data.sequences) // 15))
        before = self._trained
        said = {"epochs": epochs, "patience": patience, "batch_size": batch_size, "keep_best": keep_best}
        said |= {"standardize": self.standardize, "learning_rate": real_number("learning_rate", learning_rate)}
        said |= {"decay_rate": real_number("decay_rate", decay_rate)}
        held = {"X, Y and weights": data, "validation": held_out}
        at_first = {"the network's history and scaling": (before.history, before.scalings)}
        check_same({"config": self.config, "checkpoint": checkpoint is not None} | said, held | at_first)
        scalings = before.scalings or (scalings_of(data, self.config) if self.standardize else None)
        if scalings is not None:
            data, held_out = scalings.of(data), None if held_out is None else scalings.of(held_out)
        if not isinstance(data, (Windows, Streams)):
            data = data.balanced(self.config)
        recovery = None  # last of all, as it makes a folder
        if checkpoint is not None:
            recovery = self._recovery(before, checkpoint, checkpoint_every, resume, said, held)
        began = recovery.stands if recovery else None
        reports = self._fit(before, data, epochs, batch_size, learning_rate, decay_rate, began and began.report)
        sequences = data.sequences

        def trained(state: TrainState, epochs: float, history: History) -> _Trained:
            done = before.epochs + int(epochs)
            on = f"{sequences:,} sequence{'s' * (sequences > 1)} for {done} epoch{'s' * (done > 1)}"
            return _Trained(state, history, on, done, scalings)

        def check(report: Report) -> tuple[TrainState | None, Evaluation | None]:
            if held_out is None:
                return None, None
            params = evaluation_params(report.state.opt_state, report.state.params)
            found = evaluate(params, held_out, batch_size=batch_size, config=self.config, times=epochs)
            return report.state._replace(memory=None) if keep_best else None, found

        def keep(stands: Standing) -> None:
            history = History(*map(tuple.__add__, before.history, _history(stands)))
            self._trained = trained(stands.report.state, stands.epochs, history)
            if recovery is not None:
                recovery.keep(stands)

        with recovery.running() if recovery else contextlib.nullcontext():
            if began is not None:
                keep(began)
            learned = learn(
                reports,
                check,
                epochs=epochs,
                patience=patience,
                progress=Progress(epochs, sequences) if self.progress and is_first() else None,
                keep=keep,
                callback=None if callback is None else lambda stands: callback(_moment(stands)),
                callback_every=every,
                stands=began,
            )
        if learned.best is not None and learned.best.kept is not None:
            self._trained = trained(learned.best.kept, learned.best.epochs, self.history)
        try:
            if learned.error is not None:
                raise learned.error
        finally:
            del learned  # the error knows this frame: each would keep the other alive, and all data with them
        return History(*(new[len(old) :] for new, old in zip(self.history, before.history, strict=True)))

    def _recovery(
        self, before: _Trained, folder: Any, every: Any, resume: Any, said: dict[str, Any], held: dict[str, Any]
    ) -> Recovery[TrainState | None]:
        """Return the folder of a training from `before`, of what it was told and the data that it was given."""
        state = before.state._replace(memory=None)
        held = held | {"the network before": (state, before.history, before.scalings)}
        terms = terms_of({"config": self.config} | said, held, self._optimizer, self._schedule, state.params)
        memory = zero_state(state.params, 1, cell=self.config.cell) if held["X, Y and weights"].streams else None
        like = state._replace(memory=memory)
        return Recovery(folder, every, resume, terms, like, state, lambda kept: kept, lambda epochs, kept: kept)

    def evaluate(self, X: Any, Y: Any = None, *, weights: Any = None, class_weights: Any = None) -> Evaluation:
        """Compute the loss and, of classes and questions, the accuracy on sequences with their targets.

        Where several processes train together, all of them call it, and each computes its part.

        Args:
            X, Y, weights, class_weights: as for `train`; `Streams` have no evaluation.

        Returns:
            The `Evaluation`, the means over all targets that count; its `accuracy` is None of values.

        Raises:
            TypeError, ValueError: an argument does not fit; the message names it.
        """
        data = in_accord(lambda: self._without_streams(X, Y, NAMES, weights, class_weights))
        trained = self._trained
        check_same({"config": self.config}, {"X, Y and weights": data, "the network's scaling": trained.scalings})
        data = data if trained.scalings is None else trained.scalings.of(data)
        return evaluate(of_first(trained.params), data, batch_size=EVALUATED, config=self.config)

    def predict(self, x: Any, *, return_std: bool = False) -> Any:
        """Predict on one sequence, a batch, or a list; the rank decides which, never the dtype or the container.

        Args:
            x: one sequence, `[T]` or `[T, I]`, as an array or a list of numbers; a batch, `[N, T, I]`, or `[N, T]` of
                tokens; a list of arrays, each a sequence; or `SeriesWindows`, which are a batch.
            return_std: whether to return the standard deviations beside the means, of a network that tells them.

        Returns:
            A column of outputs for each step, probabilities where `apply_softmax` is set, for "gaussian" the means, for
            "laplace" the medians: `[T, C, 1]` for one sequence, `[N, T, C, 1]` for a batch, a list for a list; without
            T where the target is "last" or "mean"; in float32, values with `standardize` in float64. With `return_std`
            two of that, in a tuple.

        Raises:
            TypeError, ValueError: `x` does not fit the network; the message says what was expected and what came.
        """
        tells_std = self.config.objective.noise is not None
        if switch("return_std", return_std) and not tells_std:
            advice = "which tells no standard deviation; 'gaussian' and 'laplace' do"
            raise ValueError(f"return_std: expected False with loss={self.config.loss!r}, {advice}")
        trained = self._trained
        if isinstance(x, SeriesWindows):
            rows = max(1, BUILT // x.tables[: x.length].size)
            pieces = (x.inputs(first, first + rows) for first in range(0, len(x), rows))
            told = np.concatenate([self._told(trained, piece) for piece in pieces])
        else:
            told = self._told(trained, x)
        if not tells_std:
            return told
        outputs, deviations = _halves(told)
        return (outputs, deviations) if return_std else outputs

    def _told(self, trained: _Trained, x: Any) -> Any:
        """Return what `predict` does, any deviations behind the values."""
        sequences, kind = self._sequences(trained.scalings, x)
        told = predict(trained.params, sequences, self.config, apply_softmax=self.apply_softmax)
        if trained.scalings is not None:
            back = trained.scalings.back
            told = back(told) if isinstance(told, np.ndarray) else list(map(back, told))
        return told[0] if kind == "one" else told

    def forecast(self, x: Any, steps: int, *, samples: int | None = None, seed: int | None = 0) -> np.ndarray:
        """Forecast the values that come after sequences, each fed back, by a network trained to tell its next inputs.

        Args:
            x: one sequence, a batch or a list, as for `predict`.
            steps: how many steps to forecast; no number of them compiles anything anew.
            samples: how many paths to draw, of a network with loss "gaussian" or "laplace"; quantiles over them are
                those of the path, whose uncertainty grows from step to step. None for the one path on which each value
                is the mean, or median, of its step.
            seed: of the samples; None for others each time.

        Returns:
            The values, `[steps, C, 1]` for one sequence, else `[N, steps, C, 1]`; with `samples` as first axis where
            they are given; in float32, with `standardize` in float64.

        Raises:
            TypeError, ValueError: an argument does not fit, or the network does not read what it tells; the message
                names it.

        Example:
            >>> network = LSTMNetwork(1, 16, 1, loss="gaussian", progress=False)
            >>> network.forecast([0.0, 0.5, 1.0], 4, samples=100).shape
            (100, 4, 1, 1)
        """
        check_feeds_itself(self.config, "forecast")
        steps = whole_number("steps", steps, least=1)
        if samples is not None:
            samples = whole_number("samples", samples, least=1)
            check_has_samples(self.config)
        seed = whole_seed("seed", seed)
        trained = self._trained
        scalings = trained.scalings
        sequences, kind = self._sequences(scalings, x)
        lengths = None
        if isinstance(sequences, list):
            lengths = np.array([len(sequence) for sequence in sequences])
            sequences = np.stack([filled_up(sequence, lengths.max()) for sequence in sequences])
        paths = forecast(
            trained.params,
            sequences,
            steps,
            self.config,
            lengths=lengths,
            samples=samples,
            key=None if samples is None else jax.random.key(seed),
            feedback=None if scalings is None else Feedback(*scalings.feedback()),
        )[..., None]
        if scalings is not None:
            paths = scalings.back(paths)
        return paths[..., 0, :, :, :] if kind == "one" else paths

    def loss_function(self, predictions: Any, targets: Any) -> float:
        """Return the mean loss of what `predict` returned.

        Args:
            predictions: what `predict` returned; of "gaussian" and "laplace" with `return_std`.
            targets: the targets of the same sequences, in any form that `train` takes.

        Returns:
            The mean over all known targets; of probabilities by their logarithm, floored at the least normal float32.

        Raises:
            TypeError, ValueError: an argument does not fit.
        """
        objective, scalings = self.config.objective, self._trained.scalings
        dtype = np.float32 if scalings is None else np.float64
        if objective.noise is None:
            pairs: Any = as_predictions(predictions, targets, self.config, dtype)
        else:
            if not isinstance(predictions, tuple) or len(predictions) != 2:
                expected = "(means, deviations), as predict(x, return_std=True) returns them"
                raise TypeError(f"predictions: expected {expected}, got {describe(predictions)}")
            means, deviations = (as_predictions(part, targets, self.config, dtype) for part in predictions)
            pairs = [((mean, std), target) for (mean, target), (std, _) in zip(means, deviations, strict=True)]
        total, count = 0.0, 0
        for prediction, target in pairs:
            if scalings is not None:
                prediction, target = scalings.of_told(prediction, target)
            counts = known(target)
            places = counts.all(axis=-1) if objective.answers == "classes" and target.ndim == 2 else counts
            losses = objective.losses_of_predictions(prediction, np.where(counts, target, 0), self.apply_softmax)
            total, count = total + losses[places].sum(), count + int(places.sum())
        return float(total / max(count, 1))

    def save(self, path: str | PathLike[str], *, training: bool = True) -> None:
        """Write the network to a file, in one step: parameters, configuration, scaling, and what it takes to train on.

        Args:
            path: the file; one that is there is replaced. A name that ends in ".safetensors" is written in that format,
                with the extra "safetensors".
            training: whether the file has what it takes to train on: the optimiser's state, which for Adam is twice the
                size of the parameters, the key of the shuffles and of dropout, the history, and the count of epochs.

        Raises:
            TypeError: `training` is no boolean, or the optimiser's state has something else than numbers.
            OSError: the file can't be written.
        """
        trained = self._trained
        saved = self._saved(trained)
        save(path, saved._replace(training=_training_of(trained)) if switch("training", training) else saved)

    def export_onnx(self, path: str | PathLike[str]) -> None:
        """Write the network to a file in ONNX, which runs without jlstm, with the extra "onnx".

        Args:
            path: the file; one that is there is replaced. `jlstm.export` names its inputs and outputs.

        Raises:
            ValueError: ONNX has no such cell.
            OSError: the file can't be written.
        """
        export_onnx(path, self._saved(self._trained))

    def _saved(self, trained: _Trained) -> Saved:
        about = self.apply_softmax, trained.on, self.standardize, trained.scalings
        return Saved(trained.params, self.config, None, *about)

    def to_torch(self) -> tuple[Any, Any]:
        """Give the network as modules of torch, which has to be installed.

        Returns:
            An `nn.LSTM`, `nn.GRU` or `nn.RNN` with `batch_first=True`, and an `nn.Linear`, which give the scores of
            each step, logits or values. Which steps are read out, and what follows the scores, they do not tell.

        Raises:
            ValueError: torch has no such cell, or the weights alone do not say what the network computes.
        """
        return interop.torch_modules(interop.of_network(self))

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
        """Read a network from a file that `save` wrote; with the same optimiser, training goes on to the same bits.

        An optimiser whose state has other arrays than the file's starts anew, with a `RuntimeWarning` that says what
        differs; one that has the same arrays is taken for the same. Files that have no training start it anew.

        Args:
            path: the file.
            cell: the cell of the network, where it is one of your own.
            seed: of the shuffles and of dropout, where the training starts anew.
            optimizer, batch_size, schedule, progress: as for the class; a file has none of them.

        Returns:
            The network, which predicts the same bits, with the history that the file has.

        Raises:
            ValueError: the file is damaged, foreign, of a newer jlstm, or of a `CharLM`.
            OSError: the file is missing or can't be read.
        """
        check_not_forked()
        saved = load(path, cell=cell)
        if saved.vocabulary is not None:
            raise ValueError(f"{path}: expected a network, got a language model, which is for CharLM.load")
        options = {field.name: getattr(saved.config, field.name) for field in fields(LSTMConfig)}
        del options["segment"]
        network = cls(
            **options,
            apply_softmax=saved.apply_softmax,
            standardize=saved.standardize,
            seed=seed,
            optimizer=optimizer,
            batch_size=batch_size,
            schedule=schedule,
            progress=progress,
        )
        network.config = saved.config
        network.params = saved.params
        network._trained = network._trained._replace(on=saved.trained_on, scalings=saved.scalings)
        if saved.training is not None:
            network._trained = _going_on(network._trained, saved.training, path)
        return network

    @class_only
    def from_torch(cls, lstm: Any, linear: Any, *, prefix: str = "", **options: Any) -> "LSTMNetwork":
        """Take over a network from torch: its weights, not what belongs to training, as dropout does.

        Args:
            lstm, linear, prefix: as for `jlstm.interop.from_torch`.
            options: as for the class, but for what the layers say: sizes, cell and directions.

        Returns:
            The network, which starts its training anew.

        Raises:
            TypeError, ValueError: something does not fit or has no equal here; the message names it.
        """
        return cls._of(interop.from_torch(lstm, linear, prefix=prefix), options)

    @class_only
    def from_keras(cls, layers: Any, dense: Any = None, **options: Any) -> "LSTMNetwork":
        """Take over a network from Keras, as `from_torch` does.

        Args:
            layers, dense: a model, or layers, as for `jlstm.interop.from_keras`. They say which target there is, and
                with a softmax or a sigmoid on top which loss, and that `predict` returns probabilities.
            options: as for the class, also in place of what the layers say of target, loss and probabilities.
        """
        return cls._of(interop.from_keras(layers, dense), options)

    @class_only
    def from_flax(cls, layers: Any, dense: Any, **options: Any) -> "LSTMNetwork":
        """Take over a network from Flax, as `from_torch` does.

        Args:
            layers, dense: trees of linen or modules of nnx, as for `jlstm.interop.from_flax`.
            options: as for the class.
        """
        return cls._of(interop.from_flax(layers, dense), options)

    @class_only
    def from_equinox(cls, layers: Any, linear: Any, **options: Any) -> "LSTMNetwork":
        """Take over a network from Equinox, as `from_torch` does.

        Args:
            layers, linear: modules, as for `jlstm.interop.from_equinox`.
            options: as for the class.
        """
        return cls._of(interop.from_equinox(layers, linear), options)

    @class_only
    def from_haiku(cls, params: Any, layers: Any, linear: str, **options: Any) -> "LSTMNetwork":
        """Take over a network from Haiku, as `from_torch` does.

        Args:
            params, layers, linear: the parameters, and the names of the modules in them, as for
                `jlstm.interop.from_haiku`.
            options: as for the class.
        """
        return cls._of(interop.from_haiku(params, layers, linear), options)

    @class_only
    def from_onnx(cls, source: Any, readout: Any = None, **options: Any) -> "LSTMNetwork":
        """Take over a network from ONNX, as `from_torch` does.

        Args:
            source, readout: a file or a model, or nodes, as for `jlstm.interop.from_onnx`. A model says what it reads
                and which target there is, and with a softmax or a sigmoid on top which loss, and that `predict` returns
                probabilities.
            options: as for the class, also in place of what the model says of target, loss and probabilities.
        """
        model, inputs = interop.read_onnx(source, readout)
        return cls._of(model, {"inputs": inputs} | options)

    @class_only
    def from_documented(cls, source: Any, **options: Any) -> "LSTMNetwork":
        """Take over a network from the NumPy program that has the interface of this class, as `from_torch` does.

        Args:
            source: the path of its JSON file, or what is in it, as for `jlstm.interop.from_documented`; it is rounded
                to float32.
            options: as for the class, such as the `apply_softmax` that the program was started with.
        """
        return cls._of(interop.from_documented(source, np.float32), options)

    @classmethod
    def _of(cls, model: interop.Model, options: dict[str, Any]) -> "LSTMNetwork":
        """Return a network with the weights of another library."""
        params, sizes = interop.network_of(model)
        said: dict[str, Any] = {"target": model.target}
        if model.activation is not None:
            loss = {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy"}[model.activation]
            said |= {"apply_softmax": True, "loss": loss}
        options = said | options
        for name in sizes.keys() & options.keys():
            raise TypeError(f"{name}: expected none, as the layers say it, got {describe(options[name])}")
        scores, loss = sizes.pop("output_size"), options.get("loss", "cross_entropy")
        each = OBJECTIVES[loss].scores if isinstance(loss, str) and loss in OBJECTIVES else 1
        if scores % each:
            raise ValueError(
                f"loss: expected one with one score for each of {scores} outputs, got {loss!r}, which has {each}"
            )
        network = cls(**sizes, output_size=scores // each, **options)
        network.params = params
        return network

    def _fit(
        self,
        before: _Trained,
        data: Any,
        epochs: int,
        batch_size: int,
        learning_rate: Any,
        decay_rate: Any,
        report: Report | None,
    ) -> Iterator[Report]:
        """Train from `before`, or go on from a report of that training."""
        state, finished = before.state, len(before.history.loss)
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
            report.state if report else state,
            schedule,
            data,
            epochs=epochs,
            batch_size=batch_size,
            config=self.config,
            optimizer=self._optimizer,
            shape=self._schedule,
            place=report and report.place,
        )

    def _data(self, X: Any, Y: Any, names: tuple[str, str, str], weights: Any = None, class_weights: Any = None) -> Any:
        dtype = np.float64 if self.standardize else np.float32  # where the mean is large, the rest is small beside it
        if isinstance(X, SeriesWindows):
            _refuse(X, {names[1]: Y, names[2]: weights})
            return as_series(X, self.config, names[0], class_weights=class_weights, dtype=dtype)
        if isinstance(X, (Windows, Streams)):
            _refuse(X, {names[1]: Y, names[2]: weights, "class_weights": class_weights})
            if self.standardize:
                raise ValueError(f"{names[0]}: expected sequences of numbers with standardize=True, got {type(X)}")
            return check_text(X, self.config, names[0])
        if Y is None:
            raise ValueError(f"{names[1]}: expected targets for the sequences of {names[0]}, got None")
        return as_batch(X, Y, self.config, names, weights=weights, class_weights=class_weights, dtype=dtype)

    def _without_streams(
        self, X: Any, Y: Any, names: tuple[str, str, str], weights: Any = None, class_weights: Any = None
    ) -> Any:
        if isinstance(X, Streams):
            raise TypeError(f"{names[0]}: expected sequences, SeriesWindows or Windows, got {type(X)}")
        return self._data(X, Y, names, weights, class_weights)

    def _validation(self, validation: Any, class_weights: Any) -> Any:
        if isinstance(validation, (Windows, SeriesWindows)):
            return self._data(validation, None, ("validation", "Y", "weights"), None, class_weights)
        if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
            expected = "(X, Y), (X, Y, weights), SeriesWindows or Windows"
            raise TypeError(f"validation: expected {expected}, got {describe(validation)}")
        X, Y, *weights = validation
        names = "validation[0]", "validation[1]", "validation[2]"
        return self._without_streams(X, Y, names, weights[0] if weights else None, class_weights)

    def _sequences(self, scalings: Scalings | None, x: Any) -> tuple[Any, str]:
        """Return what to predict on, as the network reads it, and which of one, a batch and a list it was."""
        sequences, kind = as_sequences(x, self.config, np.float32 if scalings is None else np.float64)
        if scalings is None:
            return sequences, kind
        if isinstance(sequences, list):
            return [scalings.of_inputs(sequence, f"x[{k}]") for k, sequence in enumerate(sequences)], kind
        return scalings.of_inputs(sequences, "x"), kind


def _training_of(trained: _Trained) -> Training:
    """Return what it takes to train on; parameters that predict and are trained are in a file already."""
    params, state = trained.params, trained.state._replace(memory=None)
    state = state._replace(params=None) if params is state.params else state  # type: ignore[arg-type]
    return Training(trained.epochs, trained.history._asdict(), arrays_of("training", state))


def _going_on(fresh: _Trained, training: Training, path: str | PathLike[str]) -> _Trained:
    """Return a network with the history of a file, and with its training where the optimiser is the same."""
    own, state = fresh.state, fresh.state
    if not any(name.startswith(".params") for name in training.state):
        own = own._replace(params=None)  # type: ignore[arg-type]
    try:
        found = tree_of(training.state, own)
        state = everywhere(found._replace(params=found.params or state.params))
    except ValueError as error:
        if np.any(training.state.get(".step", 1)):  # nothing is lost of what was never trained
            anew = f"the optimiser starts anew, as its state is another than the file's ({error})"
            warnings.warn(f"{path}: {anew}; parameters and history are the file's", RuntimeWarning, stacklevel=3)
    return fresh._replace(state=state, history=History(**training.history), epochs=training.epochs)


def _refuse(data: Any, others: dict[str, Any]) -> None:
    """Raise a ValueError unless what the data hold themselves is None."""
    for name, value in others.items():
        if value is not None:
            kind = type(data).__name__
            series = isinstance(data, SeriesWindows) and name == "weights"
            advice = "; write SeriesWindows(..., weights=...)" if series else ""
            advice = "; write epochs=..." if isinstance(value, int) else advice
            raise ValueError(f"{name}: expected None, since {kind} hold their own targets, got {type(value)}{advice}")


def _halves(told: Any) -> tuple[Any, Any]:
    """Return the values and the deviations behind them, `[..., C, 1]` each, of an array or of a list of them."""
    if isinstance(told, list):
        return [_halves(each)[0] for each in told], [_halves(each)[1] for each in told]
    return tuple(np.split(told, 2, axis=-2))  # type: ignore[return-value]


def _moment(stands: Standing) -> Moment:
    return Moment(stands.epochs, stands.report.loss, _history(stands))


def _history(stands: Standing) -> History:
    return History(stands.losses, stands.validation, stands.accuracy)


def _callback(callback: Any) -> Callable[[Moment], Any] | None:
    """Return a callback that takes the moment, of one that takes none or one argument."""
    if callback is None:
        return None
    if not callable(callback):
        raise TypeError(f"periodic_callback: expected a callable, got {callback!r}")
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # of one that is not written in Python
        return lambda _: callback()
    for arguments in ((), (None,)):
        with contextlib.suppress(TypeError):
            signature.bind(*arguments)
            return lambda moment: callback(*(moment,) * len(arguments))
    raise TypeError(f"periodic_callback: expected a callable of no or one argument, got {callback!r} of {signature}")


def _callback_every(callback: Any, every: Any, epochs: int) -> float:
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
    tell them apart: C / 2I, and 1 at the least. Values have no classes, and steep units amplify their noise: 1.

    Args:
        config: the network.

    Returns:
        The scale, from 1 up.

    Example:
        >>> default_input_scale(LSTMConfig(input_size=1, hidden_size=250, output_size=50))
        25.0
    """
    if config.objective.answers != "classes":
        return 1.0
    return max(1.0, config.output_size / (2 * config.input_size))


def default_long_memory(config: LSTMConfig) -> float:
    """Return the share of its units that `LSTMNetwork` starts with a memory of up to 1,100 steps.

    What is told at the end of a sequence may have come at its beginning, and most units forget it within ten steps.
    With a target for each step there is one near by, from which a network learns to remember for longer.

    Args:
        config: the network.

    Returns:
        1 where there is one target for a sequence and the cell knows how to start so, else 0.

    Example:
        >>> default_long_memory(LSTMConfig(input_size=1, hidden_size=8, output_size=3, target="last"))
        1.0
    """
    return 1.0 if config.target != "each" and config.cell.remembering else 0.0
