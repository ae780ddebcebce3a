"""Writing on from prompts, against a plain loop over the forward pass and NumPy's idea of top-k and top-p."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import reading, sampling
from jlstm.config import LSTMConfig
from jlstm.model import forward, init_params
from jlstm.sampling import generate, stream

ONE_HOT, SCALAR = LSTMConfig(5, 8, 5), LSTMConfig(1, 8, 5, input_scale=5.0)
TOKENS = LSTMConfig(5, 8, 5, inputs="tokens", layers=2)
PROMPTS = np.array([[0, 3, 1], [4, 4, 2]])
KEY = jax.random.key(1)
SHARES, EVEN = (0.1, 0.4, 0.05, 0.3, 0.15), (0.2, 0.2, 0.2, 0.2, 0.2)


@functools.cache
def params(config):
    return jax.tree.map(lambda array: 3 * array, init_params(jax.random.key(0), config))


def always(shares):
    """The parameters of a network whose probabilities are `shares` at every step."""
    shapes = jax.eval_shape(lambda: init_params(KEY, ONE_HOT))
    zeros = jax.tree.map(lambda array: np.zeros(array.shape, np.float32), shapes)
    with np.errstate(divide="ignore"):
        return zeros._replace(readout=zeros.readout._replace(bias=np.log(np.float32(shares))))


def scores_of(config, text):
    xs = {ONE_HOT: np.eye(5)[text], SCALAR: text[..., None] / 5, TOKENS: text}[config]
    return jax.jit(forward)(params(config), xs, config)[0]


@pytest.mark.parametrize("config", [ONE_HOT, SCALAR, TOKENS], ids=["one-hot", "one number", "tokens, two layers"])
def test_at_temperature_zero_each_id_is_the_likeliest_after_all_before(config):
    written = generate(params(config), PROMPTS, 6, config, key=KEY, temperature=0.0)
    text = np.concatenate([PROMPTS, written], axis=1)
    np.testing.assert_array_equal(written, scores_of(config, text)[:, 2:-1].argmax(axis=-1))
    assert len(np.unique(written)) > 1


@pytest.mark.parametrize("time", [1, 8, 9, 21])
def test_a_prompt_in_blocks_is_read_as_it_is_whole(monkeypatch, time):
    monkeypatch.setattr(reading, "READ", 8)
    prompts = np.random.default_rng(0).integers(5, size=(40, time))
    written = generate(params(ONE_HOT), prompts, 1, ONE_HOT, key=KEY, temperature=0.0)
    np.testing.assert_array_equal(written[:, 0], scores_of(ONE_HOT, prompts)[:, -1].argmax(axis=-1))


@pytest.mark.parametrize("config", [SCALAR, TOKENS], ids=["one number", "tokens, two layers"])
def test_prompts_of_different_length_are_read_as_if_each_were_alone(monkeypatch, config):
    monkeypatch.setattr(reading, "READ", 8)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, size=time) for time in (1, 8, 9, 21, 3)]
    together = generate(params(config), prompts, 6, config, key=KEY, temperature=0.0)
    for prompt, row in zip(prompts, together, strict=True):
        alone = generate(params(config), prompt[None], 6, config, key=KEY, temperature=0.0)
        np.testing.assert_array_equal(row, alone[0])


def test_a_row_draws_what_it_draws_without_the_others():
    many = generate(params(TOKENS), PROMPTS[[0, 1, 1]], 100, TOKENS, key=KEY)
    alone = generate(params(TOKENS), PROMPTS[:1], 100, TOKENS, key=KEY)
    np.testing.assert_array_equal(many[0], alone[0])
    assert (many[1] != many[2]).any()


def test_ids_are_drawn_from_the_softmax():
    drawn = generate(params(ONE_HOT), np.tile(PROMPTS[:1], (4000, 1)), 1, ONE_HOT, key=KEY, temperature=2.0)
    expected = jax.nn.softmax(scores_of(ONE_HOT, PROMPTS[:1])[0, -1] / 2)
    # Five standard errors of 4,000 draws.
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=5) / 4000, expected, atol=0.04)


def expected_shares(shares, temperature, top_k, top_p):
    """Sharpen, keep k, scale up, keep the fewest that add up to p, scale up: one id at a time."""
    left = {k: (share / max(shares)) ** (1 / temperature) for k, share in enumerate(shares)}
    order = sorted(left, key=lambda k: (-shares[k], k))[:top_k]
    total, summed, kept = sum(left[k] for k in order), 0.0, []
    for k in order:
        kept.append(k)
        summed += left[k] / total
        if top_p is not None and summed >= top_p:
            break
    return np.array([left[k] if k in kept else 0.0 for k in range(5)]) / sum(left[k] for k in kept)


@pytest.mark.parametrize(
    ("shares", "temperature", "top_k", "top_p", "ids"),
    [
        (SHARES, 1.0, None, None, {0, 1, 2, 3, 4}),
        (SHARES, 1e-3, None, None, {1}),
        (SHARES, 1e300, None, None, {0, 1, 2, 3, 4}),
        (SHARES, 1.0, 1, None, {1}),
        (SHARES, 1.0, 3, None, {1, 3, 4}),
        (SHARES, 0.7, 4, None, {0, 1, 3, 4}),
        (SHARES, 1.0, 99, None, {0, 1, 2, 3, 4}),
        (EVEN, 1.0, 2, None, {0, 1}),
        (SHARES, 1.0, None, 1e-50, {1}),
        (SHARES, 1.0, None, 0.39, {1}),
        (SHARES, 1.0, None, 0.41, {1, 3}),
        (SHARES, 1.0, None, 0.75, {1, 3, 4}),
        (SHARES, 0.5, None, 0.75, {1, 3}),
        (SHARES, 2.0, None, 0.75, {0, 1, 3, 4}),
        (EVEN, 1.0, None, 0.5, {0, 1, 2}),
        (SHARES, 1.0, 3, 0.8, {1, 3}),  # 0.7 / 0.85; before top_k it would take {1, 3, 4}
        (SHARES, 1.0, 2, 0.99, {1, 3}),
        (SHARES, 2.0, 3, 0.8, {1, 3, 4}),
    ],
    ids=str,
)
def test_what_top_k_and_top_p_leave(shares, temperature, top_k, top_p, ids):
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    drawn = generate(always(shares), np.zeros((4000, 1), int), 5, ONE_HOT, key=KEY, **options)
    expected = expected_shares(shares, **options)
    assert set(np.unique(drawn)) == ids == set(np.flatnonzero(expected > 1e-9))
    errors = 5 * np.sqrt(expected * (1 - expected) / drawn.size)
    assert (np.abs(np.bincount(drawn.ravel(), minlength=5) / drawn.size - expected) <= errors + 1e-6).all()


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"top_k": 1}, {"temperature": 0.0}),
        ({"temperature": 0.0, "top_k": 3, "top_p": 0.9}, {"temperature": 0.0}),
        ({"top_p": 1}, {}),
        ({"top_k": 3, "top_p": 1.0}, {"top_k": 3}),
        ({"top_k": 5}, {"top_k": 1000}),
    ],
    ids=str,
)
def test_two_ways_to_ask_for_the_same(options, same):
    one, other = (generate(params(TOKENS), PROMPTS, 100, TOKENS, key=KEY, **o) for o in (options, same))
    np.testing.assert_array_equal(one, other)


def test_every_draw_is_independent():
    rows, expected = 4000, np.square(SHARES).sum()
    block = sampling.NOISE // (5 * rows)
    written = generate(always(SHARES), np.zeros((rows, 1), int), block + 2, ONE_HOT, key=KEY)
    pairs = [(written[:, 0], written[:, t]) for t in (1, block, block + 1)] + [(written[0::2, 0], written[1::2, 0])]
    for one, other in pairs:
        assert abs((one == other).mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / len(one))


def test_the_key_decides():
    one, same, other = (generate(params(ONE_HOT), PROMPTS, 30, ONE_HOT, key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    longer = generate(params(ONE_HOT), PROMPTS, 1100, ONE_HOT, key=KEY)
    np.testing.assert_array_equal(one, longer[:, :30])
    assert one.dtype == np.int32
    assert generate(params(ONE_HOT), PROMPTS, 0, ONE_HOT, key=KEY).shape == (2, 0)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"top_k": 2, "top_p": 0.9}, {"stop": [0, 1, 2, 3]}], ids=str
)
@pytest.mark.parametrize("length", [0, 1, 32, 1100])
def test_the_pieces_of_a_stream_are_what_generate_returns(options, length):
    pieces = list(stream(params(TOKENS), PROMPTS, length, TOKENS, key=KEY, **options))
    whole = generate(params(TOKENS), PROMPTS, length, TOKENS, key=KEY, **options)
    assert [piece.shape[1] for piece in pieces[:-1]] == [32] * len(pieces[:-1])
    np.testing.assert_array_equal(np.concatenate([np.zeros((2, 0), int), *pieces], axis=1), whole)
    assert all(piece.flags.writeable and piece.dtype == np.int32 for piece in pieces)


def test_a_stream_computes_only_what_is_asked_for():
    pieces = stream(params(TOKENS), PROMPTS, 2**31 - 1, TOKENS, key=KEY)
    assert next(pieces).shape == (2, 32)


def cut(row, stop):
    """The row through the first occurrence of `stop`, found in strings."""
    before, found, _ = "".join(map(str, row)).partition("".join(map(str, stop)))
    return row[: len(before) + len(found)]


def stops():
    """Texts to stop at, with the ids written where nothing stops."""
    written = generate(params(ONE_HOT), np.repeat(PROMPTS, 20, axis=0), 200, ONE_HOT, key=KEY)
    row = written[0]
    boundaries = [row[at : at + 5] for at in range(27, 33)]  # in the last places of one piece and the first of the next
    begun = np.array([PROMPTS[0, -1], row[0]])  # the prompt's last id is none that was written
    return written, [*boundaries, begun, row[:1], row[63:65], row[:70], np.array([0] * 40)]


def test_a_row_ends_with_the_first_stop_in_what_was_written():
    written, texts = stops()
    for stop in texts:
        got = generate(params(ONE_HOT), np.repeat(PROMPTS, 20, axis=0), 200, ONE_HOT, key=KEY, stop=stop)
        expected = [cut(row, stop) for row in written]
        assert got.shape[1] == max(map(len, expected))
        for row, text in zip(got, expected, strict=True):
            np.testing.assert_array_equal(row, np.pad(text, (0, got.shape[1] - len(text)), constant_values=-1))
    ends = [len(cut(written[0], stop)) for stop in texts]
    assert ends[:6] == [32, 33, 34, 35, 36, 37]
    assert ends[6] != 1
    assert ends[-1] == 200


def test_a_stream_ends_when_every_row_has():
    pieces = list(stream(always((0, 0.5, 0.5, 0, 0)), [[0]] * 40, 10_000, ONE_HOT, key=KEY, stop=[1, 1, 1, 1, 1]))
    assert all(piece.size for piece in pieces)
    written = np.concatenate(pieces, axis=1)
    assert (written >= 0).any(axis=0).all()
    assert all(row[row >= 0][-5:].tolist() == [1] * 5 for row in written)


def test_no_value_compiles_anything_anew(caplog):
    config = LSTMConfig(5, 9, 5, inputs="tokens")  # no other test's, which may have compiled it already
    start = params(config)

    def write(time, length, **options):
        for call in (generate, stream):
            list(call(start, np.zeros((2, time), int), length, config, key=KEY, **options))

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        write(3, 40)
        write(3, 40, top_k=2, top_p=0.5)
        assert "Compiling" in caplog.text
        caplog.clear()
        write(1500, 1100, temperature=0.0)
        write(1, 7, temperature=2)
        write(7, 33, top_k=4, top_p=0.7, temperature=0.3, stop=[1])
        assert "Compiling" not in caplog.text


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_other_dtypes(x64, dtype):
    cast = jax.tree.map(lambda array: jnp.asarray(array, dtype), always(SHARES))
    drawn = generate(cast, np.zeros((4000, 1), int), 5, ONE_HOT, key=KEY, top_k=3, top_p=0.8)
    np.testing.assert_allclose(np.bincount(drawn.ravel(), minlength=5) / drawn.size, [0, 4 / 7, 0, 3 / 7, 0], atol=0.02)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompts": [[5]]}, ValueError, r"prompts\[0\]: expected class ids from 0 to 4, got 5"),
        ({"prompts": [[0.5]]}, TypeError, r"prompts\[0\]: expected class ids as integers"),
        ({"prompts": [1, 2]}, ValueError, r"prompts: expected .*\[batch, time\] or .*, got shape \(2,\)"),
        ({"prompts": [[1, 2], []]}, ValueError, r"prompts\[1\]: expected at least one id, \[time\], got shape \(0,\)"),
        ({"prompts": [[1, 2], [7]]}, ValueError, r"prompts\[1\]: expected class ids from 0 to 4, got 7"),
        ({"prompts": [[1, 2], 3]}, ValueError, r"prompts\[1\]: expected at least one id, \[time\], got shape \(\)"),
        ({"prompts": np.zeros((1, 0), int)}, ValueError, r"prompts: expected .*got shape \(1, 0\)"),
        ({"length": -1}, ValueError, "length: expected at least 0, got -1"),
        ({"length": 2.5}, TypeError, "length: expected an integer, got 2.5"),
        ({"temperature": -1.0}, ValueError, "temperature: expected a finite number from 0 up, got -1.0"),
        ({"top_k": 0}, ValueError, "top_k: expected at least 1, got 0"),
        ({"top_k": 2.0}, TypeError, "top_k: expected an integer, got 2.0"),
        ({"top_p": 0}, ValueError, "top_p: expected a number above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, ValueError, "top_p: expected a number above 0 and at most 1, got 1.5"),
        ({"top_p": "0.9"}, TypeError, "top_p: expected a number, got '0.9'"),
        ({"stop": [7]}, ValueError, "stop: expected class ids from 0 to 4, got 7"),
        ({"stop": "abc"}, TypeError, "stop: expected numbers, got strings"),
        ({"stop": 3}, ValueError, r"stop: expected at least one id, \[n\], got shape \(\)"),
        ({"stop": np.zeros(0, int)}, ValueError, r"stop: expected at least one id, \[n\], got shape \(0,\)"),
        ({"key": 0}, TypeError, "key: expected one key of jax.random.key, got 0"),
        ({"key": jax.random.split(KEY)}, TypeError, "key: expected one key of jax.random.key, got key"),
        (
            {"config": LSTMConfig(5, 8, 5, loss="mse")},
            ValueError,
            "config: class ids .*loss='cross_entropy', got 'mse'",
        ),
        ({"config": LSTMConfig(5, 8, 5, target="last")}, ValueError, "config: a score .*target='each', got 'last'"),
        ({"config": LSTMConfig(3, 8, 5)}, ValueError, "config: class ids need .* got 3 features"),
        ({"config": LSTMConfig(1, 8, 5, inputs="tokens")}, ValueError, "config: class ids need .* got 1 tokens"),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", [generate, stream])
def test_mistakes_are_told_at_the_call(call, changes, error, message):
    arguments = {"prompts": PROMPTS, "length": 2, "config": ONE_HOT, "key": KEY} | changes
    with pytest.raises(error, match=message):
        call(params(ONE_HOT), **arguments)
