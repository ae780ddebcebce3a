"""Prediction in blocks against one plain forward pass, and the number of shapes that it compiles."""

import functools
import subprocess
import sys

import jax
import numpy as np
import pytest

from jlstm import LSTMNetwork, prediction
from jlstm.cells.lstm import LSTMParams
from jlstm.config import LSTMConfig
from jlstm.gradcheck import random_problem
from jlstm.model import ModelParams, Readout, forward
from jlstm.prediction import predict

H, C = 4, 3
CONFIG, LAST = LSTMConfig(1, H, C), LSTMConfig(1, H, C, target="last")
ATOL = 2e-6  # of logits up to about 2, after up to 600 steps
RNG = np.random.default_rng(0)
LONG = RNG.normal(size=(8, 600, 1)).astype(np.float32)
SHORT = RNG.normal(size=(300, 17, 1)).astype(np.float32)


@functools.cache
def params():
    shapes = (4 * H, 1), (4 * H, H), (4 * H,), (H, C), (C,)
    *layer, weight, bias = (np.random.default_rng(1).normal(size=shape).astype(np.float32) for shape in shapes)
    return ModelParams((LSTMParams(*layer),), Readout(weight, bias))


@functools.cache
def plain(name):
    """The logits of a whole array; those of a sequence's beginning are the beginning of its logits."""
    return np.asarray(jax.jit(forward, static_argnums=2)(params(), {"long": LONG, "short": SHORT}[name], CONFIG)[0])


def assert_close(scores, expected):
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("steps", [1, 15, 16, 17, 256, 257, 600])
def test_one_sequence_of_any_length(steps):
    [each] = predict(params(), [LONG[3, :steps]], CONFIG)
    [last] = predict(params(), [LONG[3, :steps]], LAST)
    assert_close(each, plain("long")[3, :steps, :, None])
    assert_close(last, plain("long")[3, steps - 1, :, None])


@pytest.mark.parametrize("target", ["each", "last"])
def test_mixed_lengths_keep_their_order(target):
    lengths = [600, 1, 257, 16, 256, 15, 512, 17]
    sequences, config = [x[:n] for x, n in zip(LONG, lengths, strict=True)], CONFIG if target == "each" else LAST
    scores = predict(params(), sequences, config)
    assert len(scores) == 8
    for row, whole, n in zip(scores, plain("long"), lengths, strict=True):
        assert_close(row, (whole[:n] if target == "each" else whole[n - 1])[..., None])


def test_more_rows_than_a_block_holds_in_blocks_of_bounded_size(monkeypatch):
    shapes, scores_of = [], prediction._scores

    def recorded(params, xs, *arguments, **options):
        shapes.append(xs.shape)
        return scores_of(params, xs, *arguments, **options)

    monkeypatch.setattr(prediction, "_scores", recorded)
    lengths = np.random.default_rng(2).integers(1, 18, size=300)
    scores = predict(params(), [x[:n] for x, n in zip(SHORT, lengths, strict=True)], CONFIG)
    for row, whole, n in zip(scores, plain("short"), lengths, strict=True):
        assert_close(row, whole[:n, :, None])
    predict(params(), list(LONG), CONFIG)
    assert [shape[0] for shape in shapes] == [128, 128, 44, 8, 8, 8]
    assert max(shape[1] for shape in shapes) == 256


def test_one_sequence_is_one_row_and_the_state_is_only_returned_where_it_is_needed(monkeypatch):
    calls, scores_of = [], prediction._scores

    def recorded(params, xs, *arguments, goes_on, **options):
        scores, state = scores_of(params, xs, *arguments, goes_on=goes_on, **options)
        assert (state is not None) == goes_on
        calls.append((xs.shape[0], goes_on))
        return scores, state

    monkeypatch.setattr(prediction, "_scores", recorded)
    predict(params(), LONG[:1], CONFIG)
    predict(params(), LONG[:1, :256], CONFIG)
    assert calls == [(1, True), (1, True), (1, False), (1, False)]


@pytest.mark.parametrize("config", [CONFIG, LAST], ids=["each", "last"])
def test_softmax_gives_probabilities(config):
    sequences = [LONG[0, :9], LONG[1, :17]]
    both = (predict(params(), sequences, config, apply_softmax=softmax) for softmax in (False, True))
    for logits, probabilities in zip(*both, strict=True):
        exps = np.exp(logits)
        np.testing.assert_allclose(probabilities, exps / exps.sum(axis=-2, keepdims=True), atol=1e-6)
        np.testing.assert_allclose(probabilities.sum(axis=-2), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "compiled"),
    [((1, 18), (1, 32), 0), ((1, 17), (1, 16), 1), ((33, 16), (34, 3), 0), ((34, 16), (35, 16), 1)],
    ids=["length within a bucket", "length beyond it", "rows within a bucket", "rows beyond it"],
)
def test_few_shapes_are_compiled(first, second, compiled):
    config = LSTMConfig(1, H, C, input_scale=100.0 * first[0] + first[1])  # one of its own: nothing is compiled yet
    counts = []
    for rows, steps in (first, second):
        predict(params(), [np.ones((steps, 1))] * rows, config)
        counts.append(prediction._scores.__wrapped__._cache_size())
    assert counts[1] - counts[0] == compiled


@pytest.mark.parametrize(
    "config",
    [
        LSTMConfig(1, H, C, layers=2, bidirectional=True),
        LSTMConfig(1, H, C, bidirectional=True, target="last"),
        LSTMConfig(1, H, C, target="mean", cell="gru"),
    ],
    ids=["both directions", "both directions, last", "mean"],
)
def test_what_has_to_see_all_of_a_sequence_sees_it(monkeypatch, config):
    """Longer than a piece, of any lengths, and in blocks of as many rows as there is room for."""
    own = random_problem(config, 1, 1)["params"]
    sequences = [LONG[k, :steps] for k, steps in enumerate((600, 3, 300, 1))]
    padded, lengths = LONG[:4], np.array([600, 3, 300, 1])
    expected = np.asarray(forward(own, padded, config, lengths=lengths)[0])
    for found, scores, steps in zip(predict(own, sequences, config), expected, lengths, strict=True):
        assert_close(found[..., 0], scores[:steps] if config.target == "each" else scores)
    monkeypatch.setattr(prediction, "MOST_ROWS", 4)  # of 256 steps each: 600 steps leave room for one row
    whole = predict(own, LONG[:3], config)
    assert_close(whole[..., 0], np.asarray(forward(own, LONG[:3], config)[0]))


ELSEWHERE = """
import sys
import numpy
from jax import export

module = export.deserialize(open(sys.argv[1], "rb").read())
numpy.savez(sys.argv[3], *(module.call(xs) for xs in numpy.load(sys.argv[2]).values()))
assert "jlstm" not in sys.modules
"""


def test_runs_as_a_serialized_module_without_jlstm(tmp_path):
    pytest.importorskip("flatbuffers")  # by which JAX writes it
    network = LSTMNetwork(2, 8, 3, apply_softmax=True, progress=False)
    told = jax.jit(lambda xs: jax.nn.softmax(forward(network.params, xs, network.config)[0]))
    batch, time = jax.export.symbolic_shape("batch, time")
    module = jax.export.export(told)(jax.ShapeDtypeStruct((batch, time, 2), np.float32))
    (tmp_path / "predict.bin").write_bytes(module.serialize())
    rng = np.random.default_rng(0)
    xs = [rng.normal(size=(rows, steps, 2)).astype(np.float32) for rows, steps in ((4, 1), (3, 5))]
    np.savez(tmp_path / "xs.npz", *xs)
    names = [str(tmp_path / name) for name in ("predict.bin", "xs.npz", "told.npz")]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *names], check=True, cwd=tmp_path)
    for x, got in zip(xs, np.load(tmp_path / "told.npz").values(), strict=True):
        np.testing.assert_allclose(got, network.predict(x)[..., 0], rtol=0, atol=2e-6)
