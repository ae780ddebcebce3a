"""Writing on from prompts, against a plain loop over the forward pass."""

import jax
import numpy as np
import pytest

from jlstm import sampling
from jlstm.model import LSTMConfig, forward, init_params
from jlstm.sampling import generate

ONE_HOT, SCALAR = LSTMConfig(5, 8, 5), LSTMConfig(1, 8, 5, input_scale=5.0)
PROMPTS = np.array([[0, 3, 1], [4, 4, 2]])


def params(config):
    return jax.tree.map(lambda array: 3 * array, init_params(jax.random.key(0), config))


@pytest.mark.parametrize("config", [ONE_HOT, SCALAR], ids=["one-hot", "one number"])
def test_at_temperature_zero_each_id_is_the_likeliest_after_all_before(config):
    written = generate(params(config), PROMPTS, 6, config, key=jax.random.key(1), temperature=0.0)
    text = np.concatenate([PROMPTS, written], axis=1)
    xs = text[..., None] / 5 if config is SCALAR else np.eye(5)[text]
    scores, _ = forward(params(config), xs, config)
    np.testing.assert_array_equal(written, scores[:, 2:-1].argmax(axis=-1))
    assert len(np.unique(written)) > 1


def test_ids_are_drawn_from_the_softmax():
    prompts, config = np.tile(PROMPTS[:1], (4000, 1)), ONE_HOT
    drawn = generate(params(config), prompts, 1, config, key=jax.random.key(1), temperature=2.0)
    expected = jax.nn.softmax(forward(params(config), np.eye(5)[PROMPTS[:1]], config)[0][0, -1] / 2)
    # Five standard errors of 4,000 draws.
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=5) / 4000, expected, atol=0.04)


def test_pieces_carry_the_state(monkeypatch):
    whole = generate(params(ONE_HOT), PROMPTS, 9, ONE_HOT, key=jax.random.key(1), temperature=0.0)
    monkeypatch.setattr(sampling, "PIECE", 4)
    jax.clear_caches()
    pieces = generate(params(ONE_HOT), PROMPTS, 9, ONE_HOT, key=jax.random.key(1), temperature=0.0)
    jax.clear_caches()
    np.testing.assert_array_equal(whole, pieces)


def test_same_key_gives_the_same_ids():
    one, same, other = (generate(params(ONE_HOT), PROMPTS, 30, ONE_HOT, key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert one.dtype == np.int32
    assert generate(params(ONE_HOT), PROMPTS, 0, ONE_HOT, key=jax.random.key(1)).shape == (2, 0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompts": [[5]]}, ValueError, "prompts: expected class ids from 0 to 4, got 5"),
        ({"prompts": [[0.5]]}, TypeError, "prompts: expected class ids as integers"),
        ({"prompts": [1, 2]}, ValueError, r"prompts: expected .*\[batch, time\], got shape \(2,\)"),
        ({"prompts": np.zeros((1, 0), int)}, ValueError, r"prompts: expected .*got shape \(1, 0\)"),
        ({"length": -1}, ValueError, "length: expected at least 0, got -1"),
        ({"temperature": -1.0}, ValueError, "temperature: expected a finite number from 0 up, got -1.0"),
    ],
    ids=str,
)
def test_mistakes_are_told(changes, error, message):
    arguments = {"prompts": PROMPTS, "length": 2, "config": ONE_HOT, "key": jax.random.key(0)} | changes
    with pytest.raises(error, match=message):
        generate(params(ONE_HOT), **arguments)
