"""What training leaves out: how much, of what, and that prediction knows nothing of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import Bidirectional, reference
from jlstm.cells import CELLS
from jlstm.cells.lstm import LSTMState
from jlstm.config import LSTMConfig
from jlstm.gradcheck import gradcheck, random_problem
from jlstm.model import forward, step
from jlstm.regularizers import draw_masks

SHARES = {
    "dropout": 0.25,
    "input_dropout": 0.5,
    "recurrent_dropout": 0.2,
    "zoneout": 0.1,
    "weight_dropout": 0.4,
}
B, T, KEY = 16, 12, jax.random.key(3)
WIDE = LSTMConfig(30, 32, 4, layers=2, bidirectional=True, **SHARES)
SMALL = LSTMConfig(3, 5, 4, layers=2, residual=True, **SHARES)


@functools.cache
def drawn():
    return jax.device_get(draw_masks(KEY, WIDE, B, T))


def assert_share(mask, share, scaled=True):
    """Assert that a share of the entries is left out, to five standard errors, and what stays is scaled up."""
    mask = np.asarray(mask)
    out = mask == 0 if scaled else mask
    assert np.mean(out) == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / mask.size) + 2**-17)
    assert mask.dtype == (np.float32 if scaled else bool)
    if scaled:
        np.testing.assert_allclose(mask[~out], 1 / (1 - share), rtol=1e-6)


def test_masks_leave_out_the_documented_shares():
    masks = drawn()
    assert masks.inputs.shape == (B, 1, 30)
    assert_share(masks.inputs, 0.5)
    assert [mask.shape for mask in masks.outputs] == [(B, 1, 64)] * 2
    for layer, outputs in zip(masks.layers, masks.outputs, strict=True):
        assert_share(outputs, 0.25)
        assert isinstance(layer, Bidirectional)
        for way in layer:
            assert way.recurrent.shape == (B, 32)
            assert_share(way.recurrent, 0.2)
            assert isinstance(way.zoneout, LSTMState)
            assert [mask.shape for mask in way.zoneout] == [(B, T, 32)] * 2
            assert_share(way.zoneout.h, 0.1, scaled=False)
            assert_share(way.zoneout.c, 0.1, scaled=False)
            assert way.weight.weight_hh.shape == (128, 32)
            assert_share(way.weight.weight_hh, 0.4)
            assert way.weight.weight_ih is way.weight.bias is None


def test_no_two_masks_are_alike():
    """Neither of two layers, directions or parts of the state, nor of two sequences, units or steps."""
    leaves = jax.tree.leaves(drawn())
    assert len(leaves) == 1 + 2 * (1 + 2 * 4)
    for k, mask in enumerate(leaves):
        out = mask if mask.dtype == bool else mask == 0
        assert all(len(np.unique(out, axis=axis)) > 1 for axis in range(out.ndim) if out.shape[axis] > 1)
        for other in leaves[:k]:
            others = other if other.dtype == bool else other == 0
            flat, beside = out.ravel(), others.ravel()
            size = min(flat.size, beside.size)
            together = np.mean(flat[:size] & beside[:size])  # as if independent of each other
            expected = np.mean(flat[:size]) * np.mean(beside[:size])
            assert together == pytest.approx(expected, abs=5 * np.sqrt(expected / size))


@pytest.mark.parametrize("name", SHARES)
def test_what_has_no_share_has_no_mask(name):
    masks = draw_masks(KEY, LSTMConfig(3, 5, 4, **{name: SHARES[name]}), 2, 3)
    (layer,) = masks.layers
    (outputs,) = masks.outputs or (None,)
    found = [outputs, masks.inputs, layer.recurrent, layer.zoneout, layer.weight]
    assert [mask is not None for mask in found] == [name == each for each in SHARES]


def test_masks_are_those_of_the_key_and_of_no_dtype():
    config = dataclasses.replace(SMALL, layers=1)
    one, same, other = (draw_masks(key, config, 2, 3) for key in (KEY, jax.random.key(3), jax.random.key(4)))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    for mask, another in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        assert (mask != another).any()
    with jax.enable_x64(True):
        double = draw_masks(KEY, config, 2, 3, jnp.float64)
    assert {mask.dtype.name for mask in jax.tree.leaves(double)} == {"float64", "bool"}
    for mask, wide in zip(*map(jax.tree.leaves, (one, double)), strict=True):
        np.testing.assert_allclose(mask, np.asarray(wide, mask.dtype), rtol=1e-6)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_cell_has_masks_of_its_recurrent_arrays_alone_and_like_its_state(cell):
    zoneout = 0.5 if cell.averages else 0.0
    projection = 2 if cell.projects else None
    config = LSTMConfig(3, 6, 4, cell=cell, projection_size=projection, zoneout=zoneout, weight_dropout=0.5)
    shapes = jax.eval_shape(lambda: draw_masks(KEY, config, 2, 3)).layers[0]
    sizes = config.sizes(0)
    params = cell.shapes(sizes)
    assert {name for name, mask in shapes.weight._asdict().items() if mask is not None} == {*cell.recurrent}
    assert all(getattr(shapes.weight, name).shape == getattr(params, name).shape for name in cell.recurrent)
    if zoneout:
        state = jax.eval_shape(cell.zero_state, params)
        assert jax.tree.map(lambda leaf: leaf.shape[2:], shapes.zoneout) == jax.tree.map(lambda leaf: leaf.shape, state)


def test_prediction_leaves_nothing_out():
    """But for zoneout, whose expectation it takes."""
    plain, without = LSTMConfig(3, 5, 4, layers=2, residual=True), dataclasses.replace(SMALL, zoneout=0.0)
    problem = random_problem(plain, 2, 4)
    params, xs, state = problem["params"], problem["xs"], problem["state"]

    def program(config, function=forward, **given):
        return str(jax.make_jaxpr(lambda *args: function(*args, config, state, **given))(params, xs))

    assert program(without) == program(plain) == program(plain, key=KEY)
    assert program(without, key=KEY) != program(plain)
    of_step = [program_of_step(config, params, xs[:, 0], state) for config in (plain, without)]
    assert of_step[0] == of_step[1]


def program_of_step(config, *args):
    return str(jax.make_jaxpr(lambda params, x, state: step(params, x, config, state))(*args))


def test_zoneout_in_prediction_is_the_expectation(x64):
    """Of each part of the state, at each step, by the whole sequence and by single steps."""
    config = LSTMConfig(3, 5, 4, layers=2, zoneout=0.3)
    problem = random_problem(config, 3, 4)
    params, xs, state = (problem[name] for name in ("params", "xs", "state"))
    params, xs, state = jax.tree.map(lambda array: array.astype(float), (params, xs, state))
    got = jax.jit(forward)(params, xs, config, state)
    expected, ends = reference.forward(params, xs, config, state=state)
    np.testing.assert_allclose(got[0], expected, rtol=0, atol=1e-13)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13), got[1], ends)
    one_step = jax.jit(step)
    for t in range(4):
        scores, state = one_step(params, xs[:, t], config, state)
        np.testing.assert_allclose(scores, expected[:, t], rtol=0, atol=1e-13)

    def two_steps(masks):  # linear in each mask only where there is one step
        found = reference.forward(params, xs[:, :1], config, state=problem["state"], masks=masks)[1]
        return np.stack([array for layer in found[:1] for array in layer])

    masks = [draw_masks(jax.random.key(k), config, 3, 1) for k in range(200)]
    mean = np.mean([two_steps(mask) for mask in map(functools.partial(jax.tree.map, np.asarray), masks)], axis=0)
    exact = reference.forward(params, xs[:, :1], config, state=problem["state"])[1][0]
    # A unit is off by at most 0.46 of what lies between its two values: five standard errors of 200 draws are a sixth.
    spread = np.abs(np.stack(exact)).max() * 2
    np.testing.assert_allclose(mean, np.stack(exact), rtol=0, atol=spread / 6)


def test_training_is_the_reference_with_the_masks_handed_over():
    """All of them at once in both directions, in values and gradients, with lengths and resets."""
    config = dataclasses.replace(SMALL, bidirectional=True, target="mean")
    problem = random_problem(config, 3, 5, seed=1)
    problem |= {"resets": np.random.default_rng(0).random((3, 5)) < 0.3}
    report = gradcheck(**problem)
    assert report.passed, f"\n{report}"


def test_forward_is_the_reference_with_the_masks_handed_over(x64):
    config = dataclasses.replace(SMALL, inputs="tokens")
    problem = random_problem(config, 3, 5)
    key, *_ = (problem.pop(name) for name in ("key", "ys", "weights"))
    problem["params"] = jax.tree.map(lambda array: array.astype(float), problem["params"])
    run = jax.jit(forward)
    scores, ends = run(**problem, key=key)
    masks = jax.tree.map(np.asarray, draw_masks(key, config, 3, 5, jnp.float64))
    expected, expected_ends = reference.forward(**problem, masks=masks)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-13)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13), ends, expected_ends)
    assert abs(scores - run(**problem, key=jax.random.key(7))[0]).max() > 1e-3


def test_an_unknown_token_is_nan_where_inputs_are_left_out():
    config = LSTMConfig(3, 5, 4, inputs="tokens", input_dropout=0.5)
    problem = random_problem(config, 2, 4)
    ids = np.array([[0, 1, 2, 0], [0, -1, 3, 0]])
    scores, _ = forward(problem["params"], ids, config, key=KEY)
    assert np.isfinite(scores[0]).all()
    assert np.isfinite(scores[1, 0]).all()
    assert np.isnan(scores[1, 1:]).all()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((3, SMALL, 2, 3), TypeError, r"key: expected one key of jax\.random\.key, got 3"),
        ((KEY, "lstm", 2, 3), TypeError, "config: expected an LSTMConfig, got 'lstm'"),
        ((KEY, SMALL, -1, 3), ValueError, "batch: expected at least 0, got -1"),
        ((KEY, SMALL, 2, 3.0), TypeError, r"time: expected an integer, got 3\.0"),
        ((KEY, SMALL, 2, 3, int), TypeError, "dtype: expected a dtype of floats, got <class 'int'>"),
    ],
)
def test_mistakes_are_named(given, error, message):
    with pytest.raises(error, match=f"^{message}"):
        draw_masks(*given)
