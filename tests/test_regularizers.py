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
from jlstm.regularizers import _chosen, draw_masks

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


def each_row(masks):
    """Return the masks that sequences have, without those of weights."""
    layers = jax.tree.map(
        lambda own: own._replace(weight=None), masks.layers, is_leaf=lambda own: hasattr(own, "weight")
    )
    return masks._replace(layers=layers)


def of_weights(masks):
    return [way.weight for layer in masks.layers for way in layer]


def assert_same(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_masks_of_a_batch_are_those_of_its_parts():
    """Of all kinds; where a part begins may be traced. What is behind a batch, sequences or steps, changes none."""
    part = jax.jit(lambda first_row: draw_masks(KEY, WIDE, 5, T, first_row=first_row))
    for first in (0, 5, 11):
        masks = part(first)
        assert_same(each_row(masks), jax.tree.map(lambda mask, first=first: mask[first : first + 5], each_row(drawn())))
        assert_same(of_weights(masks), of_weights(drawn()))
    padded = draw_masks(KEY, WIDE, B + 1, T + 3, first_row=np.int64(0))
    steps = [mask.shape[1:2] == (T + 3,) for mask in jax.tree.leaves(each_row(padded))]
    assert sum(steps) == 2 * 2 * 2
    cut = jax.tree.map(lambda mask: mask[:B, :T] if mask.shape[1] == T + 3 else mask[:B], each_row(padded))
    assert_same(cut, each_row(drawn()))
    assert_same(of_weights(padded), of_weights(drawn()))


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_masks_of_parts_are_those_of_any_kind_of_key(kind):
    """Mapped over parts, too, where bits of other kinds depend on which these are."""
    config, key = dataclasses.replace(SMALL, layers=1, bidirectional=True), jax.random.key(3, impl=kind)

    def masks(first_row, rows):
        found = draw_masks(key, config, rows, 3, first_row=first_row)
        return each_row(found), of_weights(found)

    parts = jax.vmap(functools.partial(masks, rows=2), out_axes=(0, None))
    (rows, weights), expected = jax.jit(lambda: (parts(jnp.array([2, 0])), masks(0, rows=4)))()
    in_order = jax.tree.map(lambda mask: mask[::-1].reshape(4, *mask.shape[2:]), rows)
    assert_same((in_order, weights), expected)


def test_masks_of_symbolic_sizes_are_the_same():
    batch, time = jax.export.symbolic_shape("b, t")
    exported = jax.export.export(jax.jit(lambda xs: draw_masks(KEY, SMALL, *xs.shape)))(
        jax.ShapeDtypeStruct((batch, time), jnp.float32)
    )
    assert_same(exported.call(np.zeros((2, 3), np.float32)), jax.jit(lambda: draw_masks(KEY, SMALL, 2, 3))())


@pytest.mark.parametrize("share", [1 / 3, 0.001, 0.75, 0.9999, 1 - 2**-40])
def test_each_entry_is_left_out_with_the_probability_that_was_asked_for(share):
    """Of all 256 values of 8 bits, one more or one less, each as often as makes the share."""
    values = np.arange(256, dtype=np.uint8).view(np.uint32)
    often, rare = (_chosen(np.append(np.uint32(word), values), share, (256,)) for word in (0, 2**32 - 1))
    assert not (rare & ~often).any()
    less, more = int(rare.sum()), int(often.sum())
    assert less == int(share * 256)
    part = share * 256 - less  # of all words, so many are below
    assert more == less + (part > 0)
    if part > 0:
        bound = int(part * 2**32)
        one, other = (_chosen(np.append(np.uint32(word), values), share, (256,)).sum() for word in (bound - 1, bound))
        assert (one, other) == (more, less)


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
        ((KEY, SMALL, 2, 3, float, -1), ValueError, "first_row: expected at least 0, got -1"),
        ((KEY, SMALL, 2, 3, float, 0.0), TypeError, r"first_row: expected an integer, got 0\.0"),
    ],
)
def test_mistakes_are_named(given, error, message):
    with pytest.raises(error, match=f"^{message}"):
        draw_masks(*given)
