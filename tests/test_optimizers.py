"""The learning rate against its formula, the average against its own, and which optimisers count as one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_training import assert_close, documented_rate

from jlstm import LSTMNetwork
from jlstm.optimizers import Rate, Schedule, adam, averaged, by_what_they_compute, constant, cosine, evaluation_params


def test_shapes_of_the_rate():
    parts = jnp.linspace(0, 1, 5)
    np.testing.assert_allclose(cosine(parts), [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0], atol=1e-6)
    np.testing.assert_array_equal(constant(parts), np.ones(5))


@pytest.mark.parametrize("shape", [cosine, constant])
def test_rate_is_its_formula_over_two_trainings(shape):
    expected = documented_rate(0.1, 0.05, shape, [(4, 3), (2, 5)])
    first = Schedule(0.1, 0.05, first_step=0, first_epoch=0.0, epoch_steps=3, steps=12)
    second = Schedule(0.1, 0.05, first_step=12, first_epoch=4.0, epoch_steps=5, steps=10)
    got = [*Rate(first, shape, jnp.arange(12))(), *Rate(second, shape, jnp.arange(12, 22))()]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_rate_rises_over_the_warm_up_and_then_takes_its_shape():
    schedule = Schedule(0.1, 0.0, first_step=7, first_epoch=0.0, epoch_steps=10, steps=10, warmup=4)
    got = Rate(schedule, cosine, jnp.arange(7, 17))()
    falls = (1 + np.cos(np.pi * np.arange(6) / 6)) / 2
    np.testing.assert_allclose(got, 0.1 * np.array([0.25, 0.5, 0.75, 1.0, *falls]), rtol=1e-5)


# The average of the parameters


def test_average_is_its_formula_and_changes_no_update():
    decay, optimizer = 0.3, optax.sgd(0.5)
    with_average = optax.chain(optax.clip_by_global_norm(1e9), optimizer, averaged(decay))
    params, state = {"w": np.float32([1.0, -2.0])}, with_average.init({"w": np.float32([1.0, -2.0])})
    average = params["w"].astype(float)
    assert_close(evaluation_params(state, None), params)
    for n in range(8):
        grads = {"w": np.float32([n + 1, np.sin(n)])}
        updates, state = with_average.update(grads, state, params)
        assert_close(updates, optimizer.update(grads, optimizer.init(params))[0], atol=0)
        params = optax.apply_updates(params, updates)
        kept = min(decay, (1 + n) / (10 + n))  # the decay from n = 3 on
        average = kept * average + (1 - kept) * np.asarray(params["w"], float)
        assert_close(evaluation_params(state, None), {"w": average})


# Which optimisers count as one

PARAMS = {"w": np.ones((3, 2), np.float32), "b": np.ones(2, np.float32)}
NOISE = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def alike(optimizer, shape=cosine):
    return by_what_they_compute(optimizer, shape, PARAMS)[0]


def scaled_by(factors):
    return lambda rate: optax.chain(optax.sgd(rate), optax.stateless(lambda g, _: {"w": g["w"] * factors, "b": g["b"]}))


def test_functions_that_compute_the_same_are_equal():
    first = alike(lambda rate: optax.adamw(rate, weight_decay=0.25))
    for same in (
        lambda learning_rate: optax.adamw(learning_rate, weight_decay=0.25),
        functools.partial(optax.adamw, weight_decay=0.25),
    ):
        assert alike(same) == first
        assert hash(alike(same)) == hash(first)
        assert alike(same).function is same  # what is called is always one's own
    one, other = (by_what_they_compute(optax.sgd, lambda part: 1 - part, PARAMS) for _ in range(2))
    assert one == other
    assert alike(scaled_by(NOISE)) == alike(scaled_by(NOISE.copy()))


def of(function):
    """An optimiser of one function of all that an update is given."""

    def optimizer(rate):
        def update(grads, state, params):
            return function(rate, grads, params), state

        return optax.GradientTransformation(lambda _: (), update)

    return optimizer


def test_functions_that_compute_otherwise_are_not():
    """Numbers in a closure or in one place of an array, state, the shape of the rate, and which argument is used."""
    other = NOISE.copy()
    other[1, 1] += 1e-6
    different = [
        lambda rate: optax.sgd(rate),
        lambda rate: optax.sgd(rate, momentum=0.5),
        lambda rate: optax.sgd(rate, momentum=0.5, nesterov=True),
        lambda rate: optax.sgd(lambda n: 2 * rate(n)),
        *(lambda rate, decay=decay: optax.adamw(rate, weight_decay=decay) for decay in (0.1, 0.10000001)),
        scaled_by(NOISE),
        scaled_by(other),
        of(lambda rate, grads, params: grads),
        of(lambda rate, grads, params: params),
        of(lambda rate, grads, params: jax.tree.map(lambda _: rate.schedule.learning_rate, grads)),
        of(lambda rate, grads, params: jax.tree.map(lambda _: rate.schedule.decay_rate, grads)),
    ]
    assert len({alike(optimizer) for optimizer in different}) == len(different)
    shapes = [lambda part: 1 - part, lambda part: 1 - part**2]
    assert len({by_what_they_compute(optax.sgd, shape, PARAMS) for shape in shapes}) == 2


def test_a_number_that_changes_between_two_networks_is_seen():
    settings = {"factor": 1.0}

    def optimizer(rate):
        return optax.sgd(lambda n: settings["factor"] * rate(n))

    data = np.zeros((4, 5)), np.zeros((4, 5), int)
    moved = []
    for factor in (1.0, 0.0, 1.0):
        settings["factor"] = factor
        network = LSTMNetwork(1, 4, 3, progress=False, optimizer=optimizer)
        before = network.params.readout.bias
        network.train(*data, epochs=1)
        moved.append(not np.array_equal(network.params.readout.bias, before))
    assert moved == [True, False, True]


def test_an_optimizer_that_wants_the_loss_is_compared_too():
    one, same, other = (alike(lambda rate, size=size: optax.lbfgs(memory_size=size)) for size in (3, 3, 4))
    assert one == same
    assert one != other


def test_what_calls_back_into_python_is_only_itself():
    def telling(message):
        def update(updates, state, params=None):
            jax.debug.callback(lambda: print(message))
            return updates, state

        return lambda rate: optax.chain(optax.sgd(rate), optax.GradientTransformation(lambda _: (), update))

    functions = [telling("one"), telling("other")]
    assert [alike(function) for function in functions] == functions


def test_functions_with_a_name_are_not_looked_into():
    assert by_what_they_compute(adam, cosine, PARAMS) == (adam, cosine)
    assert by_what_they_compute(optax.sgd, constant, PARAMS) == (optax.sgd, constant)
