"""Losses against NumPy, their masks, and what lets them be added up in pieces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import reference
from jlstm.cells.lstm import LSTMParams, LSTMState
from jlstm.config import LSTMConfig
from jlstm.losses import cross_entropy, loss_fn, mse, summed_loss
from jlstm.model import ModelParams, Readout
from jlstm.regularizers import draw_masks

B, T, INPUTS, H, C = 3, 4, 2, 3, 5
LENGTHS = np.array([2, 0, 3])
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(B, T, C)).astype(np.float32)
IDS = RNG.integers(C, size=(B, T))
PROBABILITIES = RNG.uniform(size=(B, T, C)).astype(np.float32)  # they do not sum to one
VALUES = RNG.normal(size=(B, T, C)).astype(np.float32)


def cross_entropies(logits, probabilities):
    """Of each step, in float64."""
    logits = np.float64(logits) - np.max(logits, axis=-1, keepdims=True)
    return -(probabilities * (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))).sum(axis=-1)


def squared_errors(predictions, values):
    return ((np.float64(predictions) - values) ** 2).mean(axis=-1)


LOSSES = {
    "ids": (cross_entropy, IDS, cross_entropies(SCORES, np.eye(C)[IDS])),
    "one-hot": (cross_entropy, np.eye(C, dtype=np.float32)[IDS], cross_entropies(SCORES, np.eye(C)[IDS])),
    "integer one-hot": (cross_entropy, np.eye(C, dtype=int)[IDS], cross_entropies(SCORES, np.eye(C)[IDS])),
    "probabilities": (cross_entropy, PROBABILITIES, cross_entropies(SCORES, PROBABILITIES)),
    "mse": (mse, VALUES, squared_errors(SCORES, VALUES)),
}
every_loss = pytest.mark.parametrize(("loss", "targets", "steps"), LOSSES.values(), ids=LOSSES)


def assert_close(got, expected, atol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def real(lengths):
    return np.arange(T) < lengths[:, None]


@every_loss
def test_mean_over_all_steps(loss, targets, steps):
    got = loss(SCORES, targets)
    assert (got.shape, got.dtype) == ((), np.float32)
    np.testing.assert_allclose(got, steps.mean(), rtol=1e-6)


@every_loss
def test_mean_over_the_real_steps(loss, targets, steps):
    np.testing.assert_allclose(loss(SCORES, targets, LENGTHS), steps[real(LENGTHS)].mean(), rtol=1e-6)


@every_loss
def test_one_target_a_sequence(loss, targets, steps):
    np.testing.assert_allclose(loss(SCORES[:, 0], targets[:, 0]), steps[:, 0].mean(), rtol=1e-6)
    np.testing.assert_allclose(loss(SCORES[:, 0], targets[:, 0], LENGTHS), steps[LENGTHS > 0, 0].mean(), rtol=1e-6)


@every_loss
def test_without_a_real_step_it_is_zero(loss, targets, steps):
    assert loss(SCORES, targets, np.zeros(B, int)) == loss(SCORES[:, 0], targets[:, 0], np.zeros(B, int)) == 0


@every_loss
def test_padding_counts_for_nothing(loss, targets, steps):
    padding = ~real(LENGTHS)
    other = targets.copy()
    other[padding] = 0
    scores = np.where(padding[..., None], 1e9, SCORES).astype(np.float32)
    assert loss(scores, other, LENGTHS) == loss(SCORES, targets, LENGTHS)
    grads = jax.jit(jax.grad(loss))(scores, other, LENGTHS)
    np.testing.assert_array_equal(np.any(grads, axis=-1), ~padding)


@every_loss
def test_scores_in_bfloat16_give_a_loss_in_float32(loss, targets, steps):
    low = SCORES.astype(jnp.bfloat16)
    got = loss(low, targets)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, loss(low.astype(np.float32), targets), rtol=1e-6)


@every_loss
def test_scores_in_float64_give_a_loss_in_float64(x64, loss, targets, steps):
    got = jax.jit(loss)(SCORES.astype(np.float64), targets)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, steps.mean(), rtol=1e-14)


def test_mse_of_targets_of_another_shape_is_no_silent_broadcast():
    with pytest.raises((ValueError, TypeError)):
        mse(SCORES[:, 0, :1], VALUES[:, 0, 0])


@pytest.mark.parametrize(("loss", "targets"), [(mse, VALUES), (cross_entropy, PROBABILITIES)])
def test_nan_targets_in_the_padding_do_the_gradient_no_harm(loss, targets):
    dirty = np.where(real(LENGTHS)[..., None], targets, np.nan)
    grad = jax.jit(jax.grad(loss))
    np.testing.assert_array_equal(grad(SCORES, dirty, LENGTHS), grad(SCORES, targets, LENGTHS))


@pytest.mark.parametrize("form", ["ids", "one-hot"])
@pytest.mark.parametrize(("target", "expected"), [(0, 0.0), (1, 1e4), (2, 2e4)])
def test_cross_entropy_of_extreme_logits(form, target, expected):
    logits = np.array([[[1e4, 0.0, -1e4]]], np.float32)
    targets = np.array([[target]]) if form == "ids" else np.eye(3, dtype=np.float32)[[[target]]]
    loss, grads = jax.jit(jax.value_and_grad(cross_entropy))(logits, targets)
    assert loss == expected
    np.testing.assert_array_equal(grads, [[np.eye(3)[0] - np.eye(3)[target]]])


CONFIGS = {
    "ids": (LSTMConfig(INPUTS, H, C), IDS),
    "probabilities": (LSTMConfig(INPUTS, H, C), PROBABILITIES),
    "mse": (LSTMConfig(INPUTS, H, C, loss="mse"), VALUES),
    "last ids": (LSTMConfig(INPUTS, H, C, target="last"), IDS[:, 0]),
    "last mse": (LSTMConfig(INPUTS, H, C, target="last", loss="mse"), VALUES[:, 0]),
}
every_config = pytest.mark.parametrize(("config", "targets"), CONFIGS.values(), ids=CONFIGS)
XS = RNG.normal(size=(B, T, INPUTS)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    def normal(*shape):
        return np.random.default_rng(1).normal(size=shape).astype(np.float32)

    layer = LSTMParams(normal(4 * H, INPUTS), normal(4 * H, H), normal(4 * H))
    return ModelParams((layer,), Readout(normal(H, C), normal(C)))


@every_config
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "of different lengths"])
def test_summed_loss_is_that_of_the_reference(params, config, targets, lengths):
    total, (count, state) = jax.jit(summed_loss)(params, XS, targets, config, lengths=lengths)
    expected, _ = reference.loss_and_grad(params, XS, targets, config, lengths=lengths)
    np.testing.assert_allclose(total / count, expected, rtol=1e-5)
    steps = np.full(B, T) if lengths is None else lengths
    assert count == (steps.sum() if config.target == "each" else (steps > 0).sum())
    assert_close(state, reference.forward(params, XS, config, lengths=lengths)[1], 1e-5)


@every_config
def test_value_and_grad_take_the_config_as_an_ordinary_argument(params, config, targets):
    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(params, XS, targets, config)
    np.testing.assert_allclose(loss, reference.loss_and_grad(params, XS, targets, config)[0], rtol=1e-5)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    assert all(np.isfinite(array).all() and np.any(array) for array in jax.tree.leaves(grads))


def test_loss_fn_takes_state_and_lengths(params):
    config, targets = CONFIGS["ids"]
    state = (LSTMState(*RNG.normal(size=(2, B, H)).astype(np.float32)),)
    got = jax.jit(loss_fn)(params, XS, targets, config, state=state, lengths=LENGTHS)
    expected, _ = reference.loss_and_grad(params, XS, targets, config, state=state, lengths=LENGTHS)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert jax.jit(loss_fn)(params, XS, targets, config, state=state, lengths=0 * LENGTHS) == 0


@pytest.mark.parametrize("form", ["ids", "last mse"])
def test_key_leaves_out_what_its_masks_do(params, form):
    config, targets = CONFIGS[form]
    config, key = dataclasses.replace(config, dropout=0.4), jax.random.key(2)
    masks = draw_masks(key, config, B, XS.shape[1])
    got = jax.jit(loss_fn)(params, XS, targets, config, lengths=LENGTHS, key=key)
    expected, _ = reference.loss_and_grad(params, XS, targets, config, lengths=LENGTHS, masks=masks)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    whole = jax.jit(loss_fn)(params, XS, targets, config, lengths=LENGTHS)
    np.testing.assert_allclose(whole, reference.loss_and_grad(params, XS, targets, config, lengths=LENGTHS)[0], 1e-5)
    assert abs(got - whole) > 1e-3


def test_equal_configs_retrace_nothing(params):
    traced = []

    @jax.jit
    def counted(*args):
        traced.append(1)
        return loss_fn(*args)

    counted(params, XS, IDS, LSTMConfig(INPUTS, H, C))
    counted(params, XS, IDS, LSTMConfig(np.int64(INPUTS), H, C, input_scale=1))
    assert len(traced) == 1


@pytest.mark.parametrize("form", ["probabilities", "mse", "last ids"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "of different lengths"])
def test_summed_loss_adds_up_over_pieces_of_a_batch(params, form, lengths):
    config, targets = CONFIGS[form]

    def summed(rows):
        some = None if lengths is None else lengths[rows]
        total, (count, _) = jax.jit(summed_loss)(params, XS[rows], targets[rows], config, lengths=some)
        return np.array([total, count])

    np.testing.assert_allclose(summed([0]) + summed([1]) + summed([2]), summed([0, 1, 2]), rtol=1e-6)


@pytest.mark.parametrize("form", ["ids", "mse"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "of different lengths"])
def test_summed_loss_adds_up_over_pieces_of_time(params, form, lengths):
    config, targets = CONFIGS[form]

    def summed(start, stop, state=None):
        left = None if lengths is None else np.clip(lengths - start, 0, stop - start)
        total, (count, state) = jax.jit(summed_loss)(
            params, XS[:, start:stop], targets[:, start:stop], config, state=state, lengths=left
        )
        return np.array([total, count]), state

    whole, last = summed(0, T)
    first, state = summed(0, T // 2, jax.tree.map(np.zeros_like, last))
    second, state = summed(T // 2, T, state)
    np.testing.assert_allclose(first + second, whole, rtol=1e-6)
    assert_close(state, last, 1e-6)


def test_parameters_in_bfloat16_give_a_loss_in_float32(params):
    config, targets = CONFIGS["ids"]
    low = jax.tree.map(lambda array: array.astype(jnp.bfloat16), params)
    total, (count, _) = jax.jit(summed_loss)(low, XS, targets, config)
    assert total.dtype == count.dtype == np.float32
    np.testing.assert_allclose(total / count, reference.loss_and_grad(low, XS, targets, config)[0], rtol=0.02)


@every_loss
def test_one_target_of_a_sequence_of_a_single_step_counts(loss, targets, steps):
    got = loss(SCORES[:, 0], targets[:, 0], np.array([1, 0, 2]))
    np.testing.assert_allclose(got, steps[[0, 2], 0].mean(), rtol=1e-6)
