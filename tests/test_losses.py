"""The losses against NumPy, their masks, and how they add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm.losses import cross_entropy, loss_fn, mse, summed_loss
from jlstm.model import LSTMConfig, init_params

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(3, 4, 5)).astype(np.float32)
IDS = RNG.integers(0, 5, (3, 4))
LENGTHS = np.array([4, 0, 2])
REAL = np.arange(4) < LENGTHS[:, None]


def entropies(scores, probabilities):
    scores = scores.astype(float)
    return -(probabilities * (scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True))).sum(axis=-1)


@pytest.mark.parametrize(
    "targets",
    [IDS, np.eye(5, dtype=np.float32)[IDS], RNG.uniform(size=(3, 4, 5)).astype(np.float32)],
    ids=["ids", "one-hot", "weights that do not sum to one"],
)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_cross_entropy(targets, lengths):
    expected = entropies(SCORES, np.eye(5)[targets] if targets.ndim == 2 else targets)
    expected = expected.mean() if lengths is None else expected[REAL].mean()
    assert float(cross_entropy(SCORES, targets, lengths)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_mse(lengths):
    errors = ((SCORES.astype(float) - 0.5) ** 2).mean(axis=-1)
    expected = errors.mean() if lengths is None else errors[REAL].mean()
    assert float(mse(SCORES, np.full_like(SCORES, 0.5), lengths)) == pytest.approx(expected, rel=1e-6)


def test_one_target_a_sequence_counts_the_sequences_that_have_a_step():
    expected = entropies(SCORES[:, 0], np.eye(5)[IDS[:, 0]])[LENGTHS > 0].mean()
    assert float(cross_entropy(SCORES[:, 0], IDS[:, 0], LENGTHS)) == pytest.approx(expected, rel=1e-6)


def test_far_scores_neither_overflow_nor_give_nan():
    logits = np.array([[[1e4, -1e4, 0.0]]], np.float32)
    assert float(cross_entropy(logits, np.array([[0]]))) == 0.0
    assert float(cross_entropy(logits, np.array([[1]]))) == 2e4


def test_nothing_real_is_no_loss():
    assert float(cross_entropy(SCORES, IDS, np.zeros(3, int))) == 0.0


def test_padding_is_not_read():
    poisoned = np.where(REAL[..., None], SCORES, np.nan)
    assert float(cross_entropy(poisoned, IDS, LENGTHS)) == float(cross_entropy(SCORES, IDS, LENGTHS))


def test_low_precision_scores_give_a_float32_loss():
    loss = cross_entropy(jnp.asarray(SCORES, jnp.bfloat16), IDS)
    assert loss.dtype == jnp.float32
    rounded = entropies(np.asarray(jnp.asarray(SCORES, jnp.bfloat16), float), np.eye(5)[IDS]).mean()
    assert float(loss) == pytest.approx(rounded, rel=1e-6)


@pytest.mark.parametrize("target", ["each", "last"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_gradient_under_jit_takes_the_configuration_as_it_is(loss, target):
    config = LSTMConfig(2, 4, 5, loss=loss, target=target)
    params = init_params(jax.random.key(0), config)
    ys = IDS if loss == "cross_entropy" else SCORES
    grads = jax.jit(jax.grad(loss_fn))(params, np.ones((3, 4, 2)), ys if target == "each" else ys[:, 0], config)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


def test_sums_add_up_over_pieces_of_the_batch_and_of_time():
    config = LSTMConfig(2, 4, 5)
    params, xs = init_params(jax.random.key(0), config), RNG.normal(size=(3, 4, 2))
    total, (count, end) = summed_loss(params, xs, IDS, config)
    assert float(count) == 12
    assert float(total / count) == pytest.approx(float(loss_fn(params, xs, IDS, config)), rel=1e-6)
    rows = [summed_loss(params, xs[k : k + 1], IDS[k : k + 1], config)[0] for k in range(3)]
    assert float(sum(rows)) == pytest.approx(float(total), rel=1e-6)
    early, (_, state) = summed_loss(params, xs[:, :1], IDS[:, :1], config)
    late, (_, state) = summed_loss(params, xs[:, 1:], IDS[:, 1:], config, state=state)
    assert float(early + late) == pytest.approx(float(total), rel=1e-6)
    np.testing.assert_allclose(state[0].c, end[0].c, atol=5e-7)
