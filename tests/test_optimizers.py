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
    assert_close(evaluation_params(state, params), params)
    for n in range(8):
        grads = {"w": np.float32([n + 1, np.sin(n)])}
        updates, state = with_average.update(grads, state, params)
        assert_close(updates, optimizer.update(grads, optimizer.init(params))[0], atol=0)
        params = optax.apply_updates(params, updates)
        kept = min(decay, (1 + n) / (10 + n))  # the decay from n = 3 on
        average = kept * average + (1 - kept) * np.asarray(params["w"], float)
        assert_close(evaluation_params(state, params), {"w": average})


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


# The rate in a network's training, whatever wraps its optimiser

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 5)), RNG.integers(3, size=(32, 5))


def rates_of(wrap, batch_size, trainings, shape=cosine, **options):
    """Train a network and return the rates of its updates, and its parameters."""
    rates = []

    def optimizer(rate):
        def update(updates, state, params=None):
            now = rate(12345)  # the count that optax gives is not asked
            jax.debug.callback(lambda now, state: rates.append((int(state), float(now))), now, state, ordered=False)
            return jax.tree.map(lambda update: -now * update, updates), state + 1

        return wrap(optax.GradientTransformation(lambda params: jnp.zeros((), int), update))

    network = LSTMNetwork(1, 4, 3, progress=False, optimizer=optimizer, batch_size=batch_size, schedule=shape)
    for epochs in trainings:
        network.train(X, Y, epochs=epochs, learning_rate=0.1, **options)
    jax.effects_barrier()
    return rates, network.params


@pytest.mark.parametrize("decay_rate", [0.0, 0.5])
@pytest.mark.parametrize("shape", [cosine, constant])
def test_batches_that_are_added_up_are_one_batch(shape, decay_rate):
    """Four of 8 are one of 32, in the second training too."""
    options = {"shape": shape, "decay_rate": decay_rate}
    four = rates_of(lambda tx: optax.MultiSteps(tx, 4), 8, (4, 3), **options)
    one = rates_of(lambda tx: tx, 32, (4, 3), **options)
    last = dict(four[0])  # of those at one count, as each batch computes an update and the last is taken
    expected = documented_rate(0.1, decay_rate, shape, [(4, 1), (3, 1)])
    np.testing.assert_allclose([last[count] for count in range(7)], expected, rtol=1e-5)
    np.testing.assert_allclose([rate for _, rate in one[0]], expected, rtol=1e-5)
    assert_close(four[1], one[1], atol=1e-6)


def test_batches_left_over_from_a_training_do_not_turn_the_rate_round():
    """Three batches an epoch, four an update: the first update of a training may begin in the one before."""
    rates, _ = rates_of(lambda tx: optax.MultiSteps(tx, 4), 11, [1] * 8, constant, decay_rate=0.5)
    assert len(rates) == 24
    assert all(0.01 < rate < 0.1001 for _, rate in rates)
    network = LSTMNetwork(
        1,
        4,
        1,
        loss="mse",
        progress=False,
        schedule=constant,
        batch_size=11,
        optimizer=lambda rate: optax.MultiSteps(optax.sgd(rate), 4),
    )
    losses = [network.train(X, X + 1, epochs=1, learning_rate=0.1).loss[0] for _ in range(8)]
    assert losses[-1] < losses[0] / 1.5


WRAPPERS = {
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step: True),
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "apply_every": lambda tx: optax.chain(tx, optax.apply_every(2)),
    "masked": lambda tx: optax.masked(tx, lambda params: jax.tree.map(lambda _: True, params)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_rate_is_that_of_the_step_in_every_wrapper(wrap):
    rates, _ = rates_of(wrap, 16, (2, 3))
    np.testing.assert_allclose(
        [rate for _, rate in rates], documented_rate(0.1, 0.0, cosine, [(2, 2), (3, 2)]), rtol=1e-5
    )


def test_steps_that_are_left_out_take_their_time_all_the_same():
    """A step whose gradient is not finite is one of the training's, also where the optimiser does not count it."""

    def with_gaps(tx):
        def update(updates, state, params=None):
            bad = state == 1
            return jax.tree.map(lambda update: jnp.where(bad, jnp.nan, update), updates), state + 1

        gaps = optax.GradientTransformation(lambda params: jnp.zeros((), int), update)
        return optax.chain(gaps, optax.apply_if_finite(tx, 3))

    rates, params = rates_of(with_gaps, 8, (1,))
    expected = documented_rate(0.1, 0.0, cosine, [(1, 4)])
    assert [count for count, _ in rates] == [0, 1, 2]
    np.testing.assert_allclose([rate for _, rate in rates], np.array(expected)[[0, 2, 3]], rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


# Anything that optax calls an optimiser

OPTIMIZERS = {
    "MultiSteps": lambda rate: optax.MultiSteps(optax.adam(rate), 2),
    "reduce_on_plateau": lambda rate: optax.chain(optax.adam(rate), optax.contrib.reduce_on_plateau()),
    "polyak_sgd": lambda rate: optax.polyak_sgd(max_learning_rate=0.5),
    "lbfgs": lambda rate: optax.lbfgs(),
    "lbfgs, backtracking": lambda rate: optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(10)),
    "schedule_free": lambda rate: optax.contrib.schedule_free_adamw(0.05),
    "inject_hyperparams": lambda rate: optax.inject_hyperparams(optax.adam)(learning_rate=rate),
    "sam": lambda rate: optax.contrib.sam(optax.sgd(rate), optax.sgd(0.01)),
    "prodigy": lambda rate: optax.contrib.prodigy(),
    "momo_adam": lambda rate: optax.contrib.momo_adam(rate),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_optimizer_trains(optimizer):
    network = LSTMNetwork(1, 4, 3, progress=False, optimizer=optimizer, batch_size=16)
    losses = network.train(X, Y, epochs=12, learning_rate=0.05).loss
    assert min(losses[1:]) < losses[0]


def test_plateau_sees_the_loss():
    """A loss that never falls makes the rate fall."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
    network = LSTMNetwork(1, 4, 3, progress=False, optimizer=lambda rate: optax.chain(optax.sgd(0.0), plateau))
    network.train(X, Y, epochs=2)
    assert float(optax.tree.get(network._trained.state.opt_state, "scale")) < 0.1


def test_schedule_free_predicts_with_the_parameters_for_evaluation(tmp_path):
    options = {"progress": False, "optimizer": lambda rate: optax.contrib.schedule_free_sgd(0.5)}
    network = LSTMNetwork(1, 4, 3, batch_size=8, **options)
    network.train(X, Y, epochs=3, validation=(X, Y))
    state = network._trained.state
    expected = optax.contrib.schedule_free_eval_params(state.opt_state, state.params)
    assert_close(network.params, expected, atol=0)
    assert np.abs(network.params.readout.weight - state.params.readout.weight).max() > 1e-4
    assert network.loss_function(network.predict(X[..., None]), Y) == pytest.approx(
        network.history.validation[-1], abs=1e-5
    )
    network.save(tmp_path / "network.npz")
    assert_close(LSTMNetwork.load(tmp_path / "network.npz", **options).params, expected, atol=0)


def test_parameters_for_evaluation_of_some_of_the_parameters_alone():
    """Of the others they are the trained ones."""
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    labels, mask = {"a": "free", "b": "sgd"}, {"a": True, "b": False}
    free = optax.contrib.schedule_free_sgd(0.5)
    for optimizer in (
        optax.partition({"free": free, "sgd": optax.sgd(0.1)}, labels),
        optax.chain(optax.sgd(0.1), optax.masked(averaged(0.9), mask)),
    ):
        state, trained = optimizer.init(params), params
        for _ in range(3):
            updates, state = optimizer.update(params, state, trained)
            trained = optax.apply_updates(trained, updates)
        found = evaluation_params(state, trained)
        assert_close(found["b"], trained["b"], atol=0)
        assert np.abs(found["a"] - trained["a"]).max() > 1e-3


def test_the_pure_trainer_takes_and_offers_the_same():
    from jlstm import Batch, LSTMConfig, init_params, trainer

    config, batch = LSTMConfig(1, 4, 3), Batch(jnp.asarray(X[..., None]), jnp.asarray(Y))
    params = init_params(jax.random.key(0), config)
    for optimizer in (optax.MultiSteps(optax.sgd(0.1), 2), optax.lbfgs()):
        init, step = map(jax.jit, trainer(config, optimizer))
        state, first = step(init(params, jax.random.key(1)), batch)
        for _ in range(2):
            state, loss = step(state, batch)
        assert loss < first
    with pytest.raises(
        TypeError, match=r"^optimizer: expected it to be an optax GradientTransformation, got <function ada"
    ):
        trainer(config, optax.adam)
