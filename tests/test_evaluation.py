"""The loss over a whole text: against the reference in one piece, in windows of any number, and what is refused."""

import math

import jax
import numpy as np
import pytest

from jlstm import evaluation, reference
from jlstm.config import LSTMConfig
from jlstm.evaluation import TextLoss, evaluate_text
from jlstm.gradcheck import random_problem

C, H = 5, 4
TOKENS = LSTMConfig(C, H, C, inputs="tokens", layers=2, dropout=0.5)
NUMBER = LSTMConfig(1, H, C)
TEXT = np.random.default_rng(0).integers(C, size=1500)


def params_of(config, dtype="float32"):
    params = random_problem(config, batch=1, time=1)["params"]
    return jax.tree.map(lambda array: 2 * array.astype(dtype), params)


def whole(params, ids, config):
    """The same loss by the reference, all characters in one piece."""
    xs = ids[:-1] if config.inputs == "tokens" else np.float32(ids[:-1, None] / C)
    return reference.loss_and_grad(params, xs[None], ids[None, 1:], config)[0]


@pytest.mark.parametrize("config", [TOKENS, NUMBER], ids=["tokens", "number"])
def test_loss_is_that_of_the_text_in_one_piece(x64, monkeypatch, config):
    """Of texts that are shorter than a window, one window, one character more, and several windows."""
    monkeypatch.setattr(evaluation, "WINDOW", 8)
    params = params_of(config, "float64")
    for length in (2, 8, 9, 10, 17, 18, 31, 33):
        loss = evaluate_text(params, TEXT[:length], config)
        assert loss.characters == length - 1
        assert loss.nats == pytest.approx(whole(params, TEXT[:length], config), rel=1e-12), length


def test_loss_of_a_text_longer_than_a_window_in_float32():
    params = params_of(TOKENS)
    assert len(TEXT) > evaluation.WINDOW + 1
    loss = evaluate_text(params, TEXT.tolist(), TOKENS)
    assert loss.nats == pytest.approx(whole(params, TEXT, TOKENS), rel=1e-6)
    assert (type(loss.nats), type(loss.characters), loss.characters) == (float, int, 1499)
    assert evaluate_text(params, TEXT.astype(np.uint8), TOKENS) == loss


def test_longer_texts_compile_nothing_anew(monkeypatch):
    monkeypatch.setattr(evaluation, "WINDOW", 8)
    params = params_of(TOKENS)
    for length in (5, 20):
        evaluate_text(params, TEXT[:length], TOKENS)
    compiled = evaluation._read.__wrapped__._cache_size()
    for length in (2, 9, 33, 100):
        evaluate_text(params, TEXT[:length], TOKENS)
    assert evaluation._read.__wrapped__._cache_size() == compiled


def test_bits_and_perplexity():
    loss = TextLoss(nats=math.log(8), characters=3)
    assert loss.bits == pytest.approx(3, rel=1e-12)
    assert loss.perplexity == pytest.approx(8, rel=1e-12)
    params = jax.tree.map(np.zeros_like, params_of(TOKENS))
    assert evaluate_text(params, TEXT[:9], TOKENS).perplexity == pytest.approx(C, rel=1e-6)  # it knows nothing


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([], (TypeError, ValueError), "^ids: expected "),
        ([1], ValueError, r"^ids: expected at least two, \[characters\], got shape \(1,\)$"),
        (TEXT[None, :9], ValueError, r"^ids: expected at least two, \[characters\], got shape \(1, 9\)$"),
        (TEXT + 1, ValueError, "^ids: expected class ids from 0 to 4, got 5$"),
        (TEXT - 1, ValueError, "^ids: expected class ids from 0 to 4, got -1$"),
        (TEXT * 0 + 0.2, TypeError, "^ids: expected class ids as integers, got float64, 0.2 among them$"),
        ("to be", TypeError, "^ids: expected numbers, got strings$"),
    ],
    ids=["empty", "one character", "two axes", "beyond the last", "negative", "floats", "a string"],
)
def test_text_that_does_not_fit(ids, error, message):
    with pytest.raises(error, match=message):
        evaluate_text(params_of(TOKENS), ids, TOKENS)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LSTMConfig(C, 4, C, loss="mse"), "config: class ids need a network with loss='cross_entropy', got 'mse'"),
        (
            LSTMConfig(C, 4, C, target="last"),
            "config: a score at each step needs .* target='each', got 'last'",
        ),
        (LSTMConfig(2, 4, C), "config: class ids need a network with one feature .*, got 2 features"),
    ],
    ids=["mse", "last", "two features"],
)
def test_network_that_does_not_read_what_it_scores(config, message):
    with pytest.raises(ValueError, match=message):
        evaluate_text(params_of(TOKENS), TEXT, config)
