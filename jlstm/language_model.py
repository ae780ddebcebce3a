"""`CharLM`: a character language model, text in and text out, a thin shell over the pure functions."""

import contextlib
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jlstm import checkpoint, sampling
from jlstm.cells import LSTM, Cell, cell_of
from jlstm.checks import alike, class_only, describe, real_number, whole_number, whole_seed
from jlstm.config import LSTMConfig
from jlstm.data import Streams, Windows
from jlstm.evaluation import TextLoss, evaluate_text
from jlstm.export import export_onnx
from jlstm.forks import check_not_forked
from jlstm.inputs import check_scores_ids
from jlstm.learning import Standing, learn, whole_patience
from jlstm.model import ModelParams, draw_params, params_shapes, summary, zero_state
from jlstm.optimizers import Rate, Schedule, averaged, cosine, evaluation_params
from jlstm.processes import ProcessLost, check_same, is_first, of_first
from jlstm.progress import Progress
from jlstm.recovery import Recovery, terms_of
from jlstm.training import Evaluation, Report, evaluate, fit, fresh_state

__all__ = ["CharLM", "Checked", "decode", "default_dropout", "encode"]

SIZES: dict[str, Any] = {"hidden_size": 384, "layers": 2, "cell": LSTM, "projection_size": None, "residual": False}
WARMUP_STEPS = 200
LAST_RATE = 0.02  # the learning rate ends at this part of its highest
AVERAGED = 0.2  # over about this part of the steps the weights are averaged
STEPS_AT_ONCE = 2**14  # of windows that are evaluated together, so that memory does not grow with their length


class Checked(NamedTuple):
    """Where a training stands at a check.

    Attributes:
        epoch: how many epochs are done; not a whole number only where Ctrl-C ended the training.
        loss: the mean loss of the last epoch's windows while they were trained on, with dropout, nats a character.
        validation: the loss on the validation text; None where there is none.
        best: whether the model is the best so far: the lowest validation loss, or the latest where there is none.
        seconds: how long the training has run.
    """

    epoch: float
    loss: float
    validation: TextLoss | None
    best: bool
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class CharLM:
    """A language model of characters; `CharLM.train` or `CharLM.load` makes one.

    Args:
        params: the network's parameters.
        config: the network.
        vocabulary: its characters; the k-th is class id k.
        trained_on: what it was trained on, in a few words.

    Raises:
        TypeError, ValueError: the network scores no class ids, or `vocabulary` has not one character for each.

    Example:
        >>> text = "to be or not to be, " * 10
        >>> model = CharLM.train(text, hidden_size=32, dropout=0, epochs=50, streams=1, window=20, progress=False)
        >>> model.generate("to be or ", 9, temperature=0)
        'not to be'
    """

    params: ModelParams
    config: LSTMConfig
    vocabulary: str
    trained_on: str = ""

    def __repr__(self) -> str:
        trained_on = f", trained on {self.trained_on}" if self.trained_on else ""
        return f"CharLM({len(self.vocabulary)} characters, {summary(self.config)}{trained_on})"

    def __post_init__(self) -> None:
        check_scores_ids(self.config)
        alike("params", self.params, params_shapes(self.config))
        if len(set(_text("vocabulary", self.vocabulary))) != len(self.vocabulary):
            raise ValueError(f"vocabulary: expected each character once, got {self.vocabulary!r}")
        if len(self.vocabulary) != self.config.output_size:
            expected = f"output_size = {self.config.output_size} characters"
            raise ValueError(f"vocabulary: expected {expected}, got {len(self.vocabulary)}")

    @class_only
    def train(
        cls,
        text: str,
        *,
        validation: str | None = None,
        start: "CharLM | None" = None,
        hidden_size: int | None = None,
        layers: int | None = None,
        cell: Cell | str | None = None,
        residual: bool | None = None,
        dropout: float | None = None,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        weight_dropout: float = 0.0,
        projection_size: int | None = None,
        epochs: int = 20,
        learning_rate: float = 0.003,
        weight_decay: float = 0.05,
        streams: int = 32,
        window: int = 64,
        seed: int | None = 0,
        callback: Callable[["CharLM", Checked], Any] | None = None,
        check_every: int = 1,
        patience: int | None = None,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: float = 60.0,
        resume: bool = True,
        progress: bool = True,
    ) -> "CharLM":
        """Train a model on a text by truncated backpropagation through time, the state carried from window to window.

        The optimiser is AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019) behind clipping of
        the gradient's norm at 1. The learning rate rises over 200 steps, or half of them all, and falls as a cosine to
        a fiftieth. The model has the average of the weights over the last fifth of the steps or so (Polyak and
        Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992). Ctrl-C ends the training early and
        returns what was learned. It makes a new model each time, so it is called on the class.

        Args:
            text: what to learn; its characters, together with those of `validation`, are the vocabulary.
            validation: a text held out; where it is given, the best model on it of all checks is returned.
            start: a model to go on from, with this text or another one; its optimiser starts anew. Its vocabulary is
                kept, and what it has not seen is added behind, which is said where there is progress.
            hidden_size: the number of hidden units of each layer; 384 by default, or those of `start`.
            layers: the number of layers; 2 by default, or those of `start`.
            cell: the name of a cell in `jlstm.cells`, or a `Cell` of your own; "lstm" by default, or that of `start`.
            dropout: the share of each layer's outputs that a step leaves out; by default `default_dropout`.
            residual, projection_size: as for `LSTMConfig`, or those of `start`.
            input_dropout, recurrent_dropout, zoneout, weight_dropout: as for `LSTMConfig`.
            epochs: how often to go through the text.
            learning_rate: the highest learning rate.
            weight_decay: the part of each weight that a step at a rate of 1 would take away.
            streams: as how many parallel streams the text is read.
            window: over how many characters the gradient reaches back.
            seed: of the parameters, of where the streams start, and of dropout; None for another one each time.
            callback: called with the model and a `Checked` at every check; it ends the training by raising
                `StopIteration`.
            check_every: from one check to the next, in epochs; the last epoch is always checked.
            patience: how many checks in a row without a lower loss on `validation` end the training; None for any
                number. The learning rate falls as if all `epochs` were to come.
            checkpoint: a folder for what it takes to go on. However the process ends, a call with the same arguments
                goes on from there, to the same bits; one whose training is done returns its model. SIGTERM ends the
                training, after it was written, with the status 143.
            checkpoint_every: how many seconds lie between two writings; the end is always written.
            resume: whether to go on with a training that is in the folder; else there must be none.
            progress: whether to show the progress on standard error.

        Returns:
            The model.

        Raises:
            TypeError, ValueError: an argument is of the wrong type or value, or the folder has another training; the
                message names it.
            OSError: the folder can't be written. Once the training runs, that is a warning.
            FloatingPointError: the loss became NaN before the first check. After it, NaN or any other error, in the
                callback too, ends the training with a `RuntimeWarning`, and the best model is returned.
        """
        if start is not None and not isinstance(start, CharLM):
            raise TypeError(f"start: expected a CharLM, got {describe(start)}")
        known = "" if start is None else start.vocabulary
        new = "".join(sorted({*_content("text", text), *_content("validation", validation or "")} - {*known}))
        vocabulary = known + new
        data = _streams(text, vocabulary, streams, window)
        if len(vocabulary) < 2:
            raise ValueError(f"text: expected at least two different characters, got only {vocabulary!r}")
        held_out = None if validation is None else _encode_some("validation", validation, vocabulary)
        characters = len(vocabulary)
        epochs, check_every = whole_number("epochs", epochs, least=1), whole_number("check_every", check_every, least=1)
        sizes = {"hidden_size": hidden_size, "layers": layers, "cell": cell}
        sizes |= {"projection_size": projection_size, "residual": residual}
        config = LSTMConfig(
            characters,
            output_size=characters,
            inputs="tokens",
            **_sizes(sizes, start),
            input_dropout=input_dropout,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            weight_dropout=weight_dropout,
        )
        config = replace(config, dropout=default_dropout(config, len(text), epochs) if dropout is None else dropout)
        if callback is not None and not callable(callback):
            raise TypeError(f"callback: expected a callable, got {callback!r}")
        patience = whole_patience(patience, held_out is not None)
        learning_rate = real_number("learning_rate", learning_rate)
        optimizer, seed = _AdamW(real_number("weight_decay", weight_decay)), of_first(whole_seed("seed", seed))
        params = draw_params(seed, config)
        params = params if start is None else _with_more(start.params, params)
        state = fresh_state(params, jax.random.key(seed), config=config, optimizer=optimizer)
        progress = progress and is_first()
        if new and start is not None and progress:
            print(f"characters that the model to start from does not know: {new!r}", file=sys.stderr)
        started = time.perf_counter()

        def made(params: ModelParams, done: float) -> "CharLM":
            return cls(params, config, vocabulary, f"{len(text):,} characters for {done:.3g} epochs")

        def made_of(report: Report) -> "CharLM":
            return made(evaluation_params(report.state.opt_state, report.state.params), report.epoch + report.part)

        def check(report: Report) -> tuple[_Kept, Evaluation | None]:
            model = made_of(report)
            loss = None if held_out is None else _told_by_first(model.params, held_out, config)
            return (model, loss), None if loss is None else Evaluation(loss.nats)

        said = {"config": config, "vocabulary": vocabulary, "epochs": epochs, "learning_rate": learning_rate}
        said |= {"seed": seed, "check_every": check_every, "patience": patience}
        held = {"text, streams and window": data, "validation": held_out, "start": start and start.params}
        check_same(said | {"checkpoint": checkpoint is not None}, held)
        recovery: Recovery[_Kept] | None = None
        if checkpoint is not None:
            recovery = Recovery(
                checkpoint,
                checkpoint_every,
                resume,
                terms_of(said, held, optimizer, _cosine_to_last_rate, state.params),
                state._replace(memory=zero_state(state.params, 1, cell=config.cell)),
                state.params,
                pack=lambda kept: kept[0].params,
                unpack=lambda done, params: (made(params, done), None),
            )
        began = recovery.stands if recovery else None
        reports = _fit(
            began.report if began else Report(state, 0, 0.0, 0.0), data, config, optimizer, epochs, learning_rate
        )
        characters_an_epoch = data.windows * data.streams * data.length
        with recovery.running() if recovery else contextlib.nullcontext():
            report, best, error = learn(
                reports,
                check,
                epochs=epochs,
                check_every=check_every,
                check_interrupted=True,
                patience=patience,
                progress=Progress(epochs, characters_an_epoch, "characters") if progress else None,
                keep=None if recovery is None else recovery.keep,
                callback=None
                if callback is None
                else lambda stands: _tell(callback, stands, time.perf_counter() - started),
                stands=began,
            )
        if error is not None:
            if best is None and report is not None and isinstance(error, KeyboardInterrupt):
                return made_of(report)
            if best is None or isinstance(error, ProcessLost) or not isinstance(error, (Exception, KeyboardInterrupt)):
                raise error
            if isinstance(error, Exception):
                message = "The training ended early, and the model is the best of the checks before:\n"
                warnings.warn(message + "".join(traceback.format_exception(error)), RuntimeWarning, stacklevel=2)
        assert best is not None  # the last epoch is always checked
        return best.kept[0]

    def evaluate(self, text: str, *, window: int | None = None) -> TextLoss:
        """Compute the mean loss over a text: the exact one, with the state carried through, where `window` is None.

        With `window`, where several processes train together, all of them call it, and each computes its part.

        Args:
            text: at least two characters, all of the vocabulary.
            window: if given, the text is read in windows of so many characters, each from a state of zeros, as models
                without a state are evaluated; what does not fill a window is left out.

        Returns:
            The loss in nats a character, with its bits and its perplexity.

        Raises:
            TypeError, ValueError: `text` has a character outside the vocabulary, which the message names, or is too
                short.
        """
        ids = _encode_some("text", _content("text", text), self.vocabulary)
        if window is None:
            return evaluate_text(self.params, ids, self.config)
        window = whole_number("window", window, least=1)
        if len(ids) <= window:
            raise ValueError(f"text: expected more than window = {window} characters, got {len(ids)}")
        windows = Windows(ids, window, window)
        check_same({"config": self.config}, {"text and window": windows})
        rows = max(1, STEPS_AT_ONCE // window)
        nats = evaluate(of_first(self.params), windows, batch_size=rows, config=self.config).loss
        return TextLoss(nats, len(windows) * window)

    def generate(
        self,
        prompt: str | list[str],
        length: int = 500,
        *,
        samples: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: str | None = None,
        seed: int | None = 0,
    ) -> str | list[Any]:
        """Write on from a prompt, or from many at once.

        The first call of a process compiles, for some seconds; a server does that before its first request by a call of
        its own for one character, with as many prompts and samples, and with `top_k` and `top_p` where requests have
        them.

        Args:
            prompt: at least one character, all of the vocabulary; or a list of prompts, of any lengths.
            length: how many characters to write, at most.
            samples: how many texts to write at once, of which the first is what there is without; one, not in a list,
                where None.
            temperature: below 1 for likelier characters, above 1 for more surprising ones, 0 for the likeliest only.
            top_k: choose among the k likeliest characters only.
            top_p: choose among the fewest likeliest characters whose probabilities add up to at least p.
            stop: a text that ends the writing, itself included.
            seed: the same seed gives the same text; None another one each time.

        Returns:
            What was written, without the prompt: a string, or a list of `samples` strings; for a list of prompts a list
            of that.

        Raises:
            TypeError, ValueError: an argument is of the wrong type or value; the message names it.
        """
        rows = 1 if samples is None else whole_number("samples", samples, least=1)
        many = isinstance(prompt, (list, tuple, np.ndarray))
        prompts = [self._encode_prompt(f"prompt[{k}]", one) for k, one in enumerate(prompt)] if many else []
        if many and not prompts:
            raise ValueError("prompt: expected at least one, got an empty list")
        prompts = prompts or [self._encode_prompt("prompt", prompt)]
        choice = self._choice(temperature, top_k, top_p, stop, seed)
        each = prompts * rows  # the first samples first: a row's number decides what it draws
        ids = sampling.generate(self.params, each, length, self.config, **choice)
        texts = [decode(row[row >= 0], self.vocabulary) for row in ids]
        found: list[Any] = texts if samples is None else [texts[k :: len(prompts)] for k in range(len(prompts))]
        return found if many else found[0]

    def stream(
        self,
        prompt: str,
        length: int = 500,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: str | None = None,
        seed: int | None = 0,
    ) -> Iterator[str]:
        """Write on from a prompt as `generate` does, and hand the text out as it is made.

        Args:
            prompt, length, temperature, top_k, top_p, stop, seed: as for `generate`.

        Returns:
            An iterator over pieces of the text.

        Raises:
            TypeError, ValueError: an argument is of the wrong type or value; the message names it.
        """
        prompts, choice = [self._encode_prompt("prompt", prompt)], self._choice(temperature, top_k, top_p, stop, seed)
        pieces = sampling.stream(self.params, prompts, length, self.config, **choice)
        return (decode(piece[0], self.vocabulary) for piece in pieces)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to a file, in one step.

        Args:
            path: the file; one that is there is replaced.

        Raises:
            OSError: the file can't be written.
        """
        checkpoint.save(path, self._saved()._replace(apply_softmax=True))

    def export_onnx(self, path: str | PathLike[str]) -> None:
        """Write the model to a file in ONNX, which runs without jlstm and gives logits, with the extra "onnx".

        Args:
            path: the file; one that is there is replaced. `jlstm.export` names its inputs and outputs.

        Raises:
            ValueError: ONNX has no such cell.
            OSError: the file can't be written.
        """
        export_onnx(path, self._saved())

    def _saved(self) -> checkpoint.Saved:
        return checkpoint.Saved(self.params, self.config, self.vocabulary, False, self.trained_on)

    @class_only
    def load(cls, path: str | PathLike[str], *, cell: Cell | None = None) -> "CharLM":
        """Read a model from a file that `save` wrote.

        Args:
            path: the file.
            cell: the cell of the network, where it is one of your own.

        Returns:
            The model, to the same bits.

        Raises:
            ValueError: the file is damaged, foreign, of a newer jlstm, or holds no vocabulary.
            OSError: the file is missing or can't be read.
        """
        check_not_forked()
        saved = checkpoint.load(path, cell=cell)
        if saved.vocabulary is None:
            raise ValueError(f"{path}: expected a language model, got a network without a vocabulary")
        return cls(saved.params, saved.config, saved.vocabulary, saved.trained_on)

    def _encode_prompt(self, name: str, prompt: Any) -> np.ndarray:
        if _text(name, prompt) == "":
            raise ValueError(f"{name}: expected at least one character, got none")
        return encode(name, prompt, self.vocabulary)

    def _choice(
        self, temperature: float, top_k: int | None, top_p: float | None, stop: str | None, seed: int | None
    ) -> dict:
        if stop == "":
            raise ValueError("stop: expected at least one character, got none")
        return {
            "key": jax.random.key(whole_seed("seed", seed)),
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "stop": None if stop is None else encode("stop", stop, self.vocabulary),
        }


def _told_by_first(params: ModelParams, ids: np.ndarray, config: LSTMConfig) -> TextLoss:
    """Return the loss over a text, which can't be split: process 0 computes it, and tells the others."""
    found = evaluate_text(params, ids, config) if is_first() else TextLoss(0.0, 0)
    return TextLoss(*of_first(tuple(found)))


_Kept = tuple[CharLM, TextLoss | None]  # of a check


def _tell(callback: Callable[[CharLM, Checked], Any], stands: Standing[_Kept], seconds: float) -> None:
    assert stands.latest is not None  # it is called at checks
    model, loss = stands.latest.kept
    is_best = stands.latest is stands.best
    callback(model, Checked(stands.epochs, stands.report.loss, loss, is_best, seconds))


def encode(name: str, text: Any, vocabulary: str) -> np.ndarray:
    """Return the argument `name` as class ids.

    Args:
        name: what to call the text in an error.
        text: a string of characters of the vocabulary.
        vocabulary: the characters; the k-th is class id k.

    Returns:
        `[characters]` in int32.

    Raises:
        TypeError: `text` is not a string.
        ValueError: `text` has characters outside the vocabulary; the message names them.

    Example:
        >>> encode("prompt", "cab", "abc")
        array([2, 0, 1], dtype=int32)
    """
    id_of = {character: k for k, character in enumerate(vocabulary)}
    unknown = sorted({*_text(name, text)} - id_of.keys())
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise ValueError(
            f"{name}: expected characters that the model knows, got {', '.join(map(repr, unknown[:10]))}{more}"
        )
    return np.fromiter(map(id_of.__getitem__, text), np.int32, len(text))


def decode(ids: np.ndarray, vocabulary: str) -> str:
    """Return class ids `[characters]` as text.

    Example:
        >>> decode(np.array([2, 0, 1]), "abc")
        'cab'
    """
    return "".join(vocabulary[k] for k in ids)


def _text(name: str, text: Any) -> str:
    if isinstance(text, os.PathLike):
        raise TypeError(f"{name}: expected the text itself as a string, got a path; write path.read_text()")
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected a string, got {type(text).__name__}")
    return text


def _content(name: str, text: Any) -> str:
    """Return a text that was handed over to be learned or measured, and not the name of a file with it."""
    if len(_text(name, text)) < 256 and os.path.exists(text):
        raise ValueError(f"{name}: expected the text itself, got the name of a file; write open({text!r}).read()")
    return text


def _encode_some(name: str, text: str, vocabulary: str) -> np.ndarray:
    ids = encode(name, text, vocabulary)
    if len(ids) < 2:
        raise ValueError(f"{name}: expected at least two characters, got {text!r}")
    return ids


def _streams(text: str, vocabulary: str, streams: int, window: int) -> Streams:
    streams, window = whole_number("streams", streams, least=1), whole_number("window", window, least=1)
    if len(text) <= streams * window:
        fewer, least = (len(text) - 1) // window, f"streams * window = {streams} * {window} = {streams * window:,}"
        advice = f"streams={fewer}" if fewer > 0 else f"streams=1, window={len(text) - 1}"
        advice = f"; it is enough for {advice}" if len(text) > 1 else ""
        raise ValueError(f"text: expected more than {least} characters, got {len(text):,}{advice}")
    return Streams(encode("text", text, vocabulary), streams, window)


def _fit(
    report: Report, data: Streams, config: LSTMConfig, optimizer: "_AdamW", epochs: int, learning_rate: float
) -> Iterator[Report]:
    """Train on from a report, whose place is None at the beginning."""
    steps = epochs * data.windows
    schedule = Schedule(
        learning_rate=learning_rate,
        decay_rate=0.0,
        first_step=0,
        first_epoch=0.0,
        epoch_steps=float(data.windows),
        steps=float(steps),
        warmup=min(WARMUP_STEPS, steps // 2),
    )
    return fit(
        report.state,
        schedule,
        data,
        epochs=epochs,
        batch_size=data.streams,
        config=config,
        optimizer=optimizer,
        shape=_cosine_to_last_rate,
        place=report.place,
    )


def _sizes(given: dict[str, Any], start: CharLM | None) -> dict[str, Any]:
    """Return how large a network is to be: as given, or as the model that it starts from is, or as by default."""
    found = SIZES if start is None else {name: getattr(start.config, name) for name in SIZES}
    for name, value in given.items():
        if value is None:
            continue
        if start is not None and (cell_of(name, value) if name == "cell" else value) != found[name]:
            raise ValueError(f"{name}: expected {found[name]!r}, as the model to start from has, got {value!r}")
        found = found | {name: value}
    return found


def _with_more(params: ModelParams, drawn: ModelParams) -> ModelParams:
    """Return the parameters of a model with those that were drawn for characters behind its own."""

    def grown(own: Any, wide: Any) -> np.ndarray:
        array = np.array(wide)
        array[tuple(map(slice, own.shape))] = own
        return array

    return jax.tree.map(grown, params, drawn)


def default_dropout(config: LSTMConfig, characters: int, epochs: int) -> float:
    """Return the dropout that `CharLM.train` takes by default.

    Args:
        config: the network.
        characters: how many the text has.
        epochs: how often it is gone through.

    Returns:
        0.45, which serves 2 layers of 384 units that read a million characters 20 times, times two parts of 1: how much
        of 20 million characters are read in all, since a short training does not come to learning by heart (10 epochs
        of 200,000 lost 0.04 nats at 0.45), and how many parameters there are for each character, of one and a half,
        since a small network can't (128 units lost 0.05 at 0.3 over 5 million). Measured on Shakespeare's plays.

    Example:
        >>> config = LSTMConfig(65, 384, 65, inputs="tokens", layers=2)
        >>> default_dropout(config, characters=1_000_000, epochs=20), default_dropout(config, 200_000, epochs=10)
        (0.45, 0.05)
    """
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params_shapes(config)))
    length, size = min(1, characters * epochs / 2e7), min(1, numbers / characters / 1.5)
    return round(0.45 * length * size, 2)


@dataclass(frozen=True)
class _AdamW:
    """The optimiser as a value, so that a second training with the same weight decay compiles nothing anew."""

    weight_decay: float

    def __call__(self, rate: Rate) -> optax.GradientTransformation:
        adamw = optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=self.weight_decay)
        average = averaged(1 - 1 / jnp.maximum(1, AVERAGED * rate.schedule.steps))
        return optax.chain(optax.clip_by_global_norm(1.0), adamw, average)


def _cosine_to_last_rate(part: Array) -> Array:
    return LAST_RATE + (1 - LAST_RATE) * cosine(part)
