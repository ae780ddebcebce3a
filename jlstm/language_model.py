"""`CharLM`: a character language model, text in and text out, a thin shell over the pure functions."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jlstm import checkpoint, sampling
from jlstm.checks import real_number, whole_number
from jlstm.data import Streams, Windows, check_scores_ids
from jlstm.evaluation import TextLoss, evaluate_text
from jlstm.model import LSTMConfig, ModelParams, draw_params
from jlstm.optimizers import Rate, Schedule, averaged, cosine, evaluation_params
from jlstm.progress import Progress
from jlstm.training import Report, evaluate, fit, fresh_state

__all__ = ["CharLM", "Checked", "decode", "encode"]

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


@dataclass(frozen=True, eq=False)
class CharLM:
    """A language model of characters; `CharLM.train` or `CharLM.load` makes one.

    Args:
        params: the network's parameters.
        config: the network.
        vocabulary: its characters; the k-th is class id k.

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

    def __post_init__(self) -> None:
        check_scores_ids(self.config)
        if len(set(_text("vocabulary", self.vocabulary))) != len(self.vocabulary):
            raise ValueError(f"vocabulary: expected each character once, got {self.vocabulary!r}")
        if len(self.vocabulary) != self.config.output_size:
            expected = f"output_size = {self.config.output_size} characters"
            raise ValueError(f"vocabulary: expected {expected}, got {len(self.vocabulary)}")

    @classmethod
    def train(
        cls,
        text: str,
        *,
        validation: str | None = None,
        hidden_size: int = 384,
        layers: int = 2,
        dropout: float = 0.45,
        epochs: int = 20,
        learning_rate: float = 0.003,
        weight_decay: float = 0.05,
        streams: int = 32,
        window: int = 64,
        seed: int = 0,
        callback: Callable[["CharLM", Checked], Any] | None = None,
        check_every: int = 1,
        progress: bool = True,
    ) -> "CharLM":
        """Train a model on a text by truncated backpropagation through time, the state carried from window to window.

        The optimiser is AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019) behind clipping of
        the gradient's norm at 1. The learning rate rises over 200 steps, or half of them all, and falls as a cosine to
        a fiftieth. The model has the average of the weights over the last fifth of the steps or so (Polyak and
        Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992). Ctrl-C ends the training early and
        returns what was learned.

        Args:
            text: what to learn; its characters, together with those of `validation`, are the vocabulary.
            validation: a text held out; where it is given, the best model on it of all checks is returned.
            hidden_size: the number of hidden units of each layer.
            layers: the number of LSTM layers.
            dropout: the share of each layer's outputs that a step leaves out.
            epochs: how often to go through the text.
            learning_rate: the highest learning rate.
            weight_decay: the part of each weight that a step at a rate of 1 would take away.
            streams: as how many parallel streams the text is read.
            window: over how many characters the gradient reaches back.
            seed: of the parameters, of where the streams start, and of dropout.
            callback: called with the model and a `Checked` at every check; an error in it ends the training.
            check_every: from one check to the next, in epochs; the last epoch is always checked.
            progress: whether to show the progress on standard error.

        Returns:
            The model.

        Raises:
            TypeError, ValueError: an argument is of the wrong type or value; the message names it.
            FloatingPointError: the loss became NaN before the first check; after it there is a warning, and the best
                model is returned.
        """
        vocabulary = "".join(sorted({*_text("text", text), *_text("validation", validation or "")}))
        data = _streams(text, vocabulary, streams, window)
        held_out = None if validation is None else _encode_some("validation", validation, vocabulary)
        characters = len(vocabulary)
        config = LSTMConfig(characters, hidden_size, characters, inputs="tokens", layers=layers, dropout=dropout)
        epochs, check_every = whole_number("epochs", epochs, least=1), whole_number("check_every", check_every, least=1)
        if callback is not None and not callable(callback):
            raise TypeError(f"callback: expected a callable, got {callback!r}")
        steps = epochs * data.windows
        optimizer = _AdamW(real_number("weight_decay", weight_decay))
        schedule = Schedule(
            learning_rate=real_number("learning_rate", learning_rate),
            decay_rate=0.0,
            first_step=0,
            first_epoch=0.0,
            epoch_steps=float(data.windows),
            steps=float(steps),
            warmup=min(WARMUP_STEPS, steps // 2),
        )
        seed = whole_number("seed", seed, least=0, most=2**63 - 1)

        began, best, lowest, latest, checked = time.perf_counter(), None, np.inf, None, 0.0
        shown = Progress(epochs, data.windows * data.streams * data.length, "characters") if progress else None

        def check(report: Report) -> None:
            nonlocal best, lowest, latest, checked
            model = cls(evaluation_params(report.state.opt_state, report.state.params), config, vocabulary)
            loss = None if held_out is None else evaluate_text(model.params, held_out, config)
            is_best = loss is None or loss.nats < lowest
            if is_best:
                best, lowest = model, np.inf if loss is None else loss.nats
            checked = report.epoch + report.part
            latest = None if loss is None else loss.nats
            if shown:
                shown.update(checked, report.loss, latest)
            if callback:
                if shown:
                    shown.clear()
                callback(model, Checked(checked, report.loss, loss, is_best, time.perf_counter() - began))

        report = None
        try:
            key = jax.random.key(seed)
            state = fresh_state(draw_params(seed, config), key, config=config, optimizer=optimizer)
            for report in fit(
                state,
                schedule,
                data,
                epochs=epochs,
                batch_size=data.streams,
                config=config,
                optimizer=optimizer,
                shape=_cosine_to_last_rate,
            ):
                done = report.epoch + report.part
                if report.part == 1 and (done % check_every == 0 or done == epochs):
                    check(report)
                elif shown:
                    shown.update(done, report.loss, latest)
        except FloatingPointError as error:
            if best is None:
                raise
            warnings.warn(f"{error}. The model is the best of the checks before", stacklevel=2)
        except KeyboardInterrupt:
            if report is None:
                raise
            with contextlib.suppress(KeyboardInterrupt):  # a second one ends the check, and loses nothing either
                if report.epoch + report.part > checked:
                    check(report)
            if best is None:
                best = cls(evaluation_params(report.state.opt_state, report.state.params), config, vocabulary)
        finally:
            if shown:
                shown.close()
        assert best is not None  # the last epoch is always checked
        return best

    def evaluate(self, text: str, *, window: int | None = None) -> TextLoss:
        """Compute the mean loss over a text: the exact one, with the state carried through, where `window` is None.

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
        ids = _encode_some("text", text, self.vocabulary)
        if window is None:
            return evaluate_text(self.params, ids, self.config)
        window = whole_number("window", window, least=1)
        if len(ids) <= window:
            raise ValueError(f"text: expected more than window = {window} characters, got {len(ids)}")
        windows = Windows(ids, window, window)
        nats = evaluate(self.params, windows, batch_size=max(1, STEPS_AT_ONCE // window), config=self.config)
        return TextLoss(nats, len(windows) * window)

    def generate(
        self,
        prompt: str,
        length: int = 500,
        *,
        samples: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: str | None = None,
        seed: int = 0,
    ) -> str | list[str]:
        """Write on from a prompt.

        Args:
            prompt: at least one character, all of the vocabulary.
            length: how many characters to write, at most.
            samples: how many texts to write at once; one, not in a list, where None.
            temperature: below 1 for likelier characters, above 1 for more surprising ones, 0 for the likeliest only.
            top_k: choose among the k likeliest characters only.
            top_p: choose among the fewest likeliest characters whose probabilities add up to at least p.
            stop: a text that ends the writing, itself included.
            seed: the same seed gives the same text.

        Returns:
            What was written, without the prompt: a string, or a list of `samples` strings.

        Raises:
            TypeError, ValueError: an argument is of the wrong type or value; the message names it.
        """
        rows = 1 if samples is None else whole_number("samples", samples, least=1)
        ids = sampling.generate(
            *self._task(prompt, rows, length), **self._choice(temperature, top_k, top_p, stop, seed)
        )
        texts = [decode(row[row >= 0], self.vocabulary) for row in ids]
        return texts[0] if samples is None else texts

    def stream(
        self,
        prompt: str,
        length: int = 500,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: str | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Write on from a prompt as `generate` does, and hand the text out as it is made.

        Args:
            prompt, length, temperature, top_k, top_p, stop, seed: as for `generate`.

        Returns:
            An iterator over pieces of the text.

        Raises:
            TypeError, ValueError: an argument is of the wrong type or value; the message names it.
        """
        task = self._task(prompt, 1, length)
        pieces = sampling.stream(*task, **self._choice(temperature, top_k, top_p, stop, seed))
        return (decode(piece[0], self.vocabulary) for piece in pieces)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to a file, in one step.

        Args:
            path: the file; one that is there is replaced.

        Raises:
            OSError: the file can't be written.
        """
        checkpoint.save(path, checkpoint.Saved(self.params, self.config, self.vocabulary, apply_softmax=True))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "CharLM":
        """Read a model from a file that `save` wrote.

        Args:
            path: the file.

        Returns:
            The model, to the same bits.

        Raises:
            ValueError: the file is damaged, foreign, of a newer jlstm, or holds no vocabulary.
            OSError: the file is missing or can't be read.
        """
        saved = checkpoint.load(path)
        if saved.vocabulary is None:
            raise ValueError(f"{path}: expected a language model, got a network without a vocabulary")
        return cls(saved.params, saved.config, saved.vocabulary)

    def _task(self, prompt: str, rows: int, length: int) -> tuple[ModelParams, np.ndarray, int, LSTMConfig]:
        ids = encode("prompt", prompt, self.vocabulary)
        if not prompt:
            raise ValueError("prompt: expected at least one character, got none")
        return self.params, np.tile(ids, (rows, 1)), length, self.config

    def _choice(self, temperature: float, top_k: int | None, top_p: float | None, stop: str | None, seed: int) -> dict:
        if stop == "":
            raise ValueError("stop: expected at least one character, got none")
        return {
            "key": jax.random.key(whole_number("seed", seed, least=0, most=2**63 - 1)),
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "stop": None if stop is None else encode("stop", stop, self.vocabulary),
        }


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
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected a string, got {type(text).__name__}")
    return text


def _encode_some(name: str, text: str, vocabulary: str) -> np.ndarray:
    ids = encode(name, text, vocabulary)
    if len(ids) < 2:
        raise ValueError(f"{name}: expected at least two characters, got {text!r}")
    return ids


def _streams(text: str, vocabulary: str, streams: int, window: int) -> Streams:
    streams, window = whole_number("streams", streams, least=1), whole_number("window", window, least=1)
    if len(text) <= streams * window:
        least = f"streams * window = {streams} * {window} = {streams * window:,}"
        raise ValueError(f"text: expected more than {least} characters, got {len(text):,}")
    return Streams(encode("text", text, vocabulary), streams, window)


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
