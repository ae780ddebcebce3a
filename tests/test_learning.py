"""One training from the first call to the best network: the room alone, on reports of no network, and both shells."""

import gc
import itertools
import weakref

import jax
import numpy as np
import pytest

from jlstm import CharLM, History, LSTMNetwork, language_model, network
from jlstm.evaluation import TextLoss
from jlstm.learning import Check, learn
from jlstm.optimizers import constant
from jlstm.training import Evaluation, Report

NAN = float("nan")


# The room alone. A report's state is its number, and so is what a check keeps.


def reports(epochs, parts=1, error=None):
    """Reports of so many epochs, of so many parts each, then the error."""
    for number in range(epochs * parts):
        yield Report(number, number // parts, (number % parts + 1) / parts, loss=10.0 + number)
    if error is not None:
        raise error


def checks(losses):
    """A check that finds one loss, or evaluation, after the other; an error among them is raised."""
    losses = iter(losses)

    def check(report):
        loss = next(losses)
        if isinstance(loss, BaseException):
            raise loss
        return report.state, loss if isinstance(loss, Evaluation) else Evaluation(loss)

    return check


def no_losses(report):
    return report.state, None


class Calls(list):
    """What was called, in order; as a progress too."""

    def update(self, epochs_done, loss, validation=None, accuracy=None):
        self.append(("update", epochs_done, loss, validation, accuracy))

    def clear(self):
        self.append("clear")

    def close(self):
        self.append("close")


def test_after_a_report_come_the_check_what_is_kept_the_progress_and_the_callback():
    calls, found = Calls(), checks([Evaluation(3.0, 0.25), Evaluation(2.0, 0.5)])
    learned = learn(
        reports(2, parts=2),
        lambda report: calls.append(("check", report.state)) or found(report),
        epochs=2,
        progress=calls,
        keep=lambda stands: calls.append(("keep", stands.report.state, *stands[1:4])),
        callback=lambda stands: calls.append(("callback", stands.latest.kept, stands.best.kept)),
    )
    assert calls == [
        ("keep", 0, (), (), ()),
        ("update", 0.5, 10.0, None, None),
        ("check", 1),
        ("keep", 1, (11.0,), (3.0,), (0.25,)),
        ("update", 1.0, 11.0, 3.0, 0.25),
        "clear",
        ("callback", 1, 1),
        ("keep", 2, (11.0,), (3.0,), (0.25,)),
        ("update", 1.5, 12.0, 3.0, 0.25),
        ("check", 3),
        ("keep", 3, (11.0, 13.0), (3.0, 2.0), (0.25, 0.5)),
        ("update", 2.0, 13.0, 2.0, 0.5),
        "clear",
        ("callback", 3, 3),
        "close",
    ]
    assert (learned.report.state, learned.best, learned.error) == (3, Check(2.0, 3, 2.0, 0.5), None)


def test_without_reports_there_is_nothing():
    calls = Calls()
    assert learn(reports(0), no_losses, epochs=0, progress=calls) == (None, None, None)
    assert calls == ["close"]


@pytest.mark.parametrize(
    ("epochs", "every", "checked"), [(5, 1, [1, 2, 3, 4, 5]), (5, 2, [2, 4, 5]), (4, 2, [2, 4]), (2, 9, [2])]
)
def test_checks_come_as_often_as_asked_and_at_the_end(epochs, every, checked):
    at = []
    learn(
        reports(epochs, parts=2), lambda report: (at.append(report.epoch + 1), None), epochs=epochs, check_every=every
    )
    assert at == checked


@pytest.mark.parametrize(
    ("every", "called"), [(None, [2, 4]), (1, [1, 2, 3, 4]), (0.5, [0.5 * k for k in range(1, 9)]), (1.5, [1.5, 3])]
)
def test_callback_is_called_at_checks_or_every_so_many_epochs(every, called):
    at = []
    learn(
        reports(4, parts=4),
        no_losses,
        epochs=4,
        check_every=2,
        callback=lambda stands: at.append(stands.epochs),
        callback_every=every,
    )
    assert at == called


# losses of the checks, patience: the epochs that are run, the best of them
STOPPING = {
    "falls and rises": ([3, 2, 1, 2, 3, 4], 2, 5, 3),
    "a lower one in between begins the count anew": ([3, 4, 2, 3, 1, 2, 3, 0], 2, 7, 5),
    "an equal one is not lower": ([2, 2, 2, 2], 2, 3, 1),
    "never lower": ([1, 2, 3], 1, 2, 1),
    "ever lower": ([3, 2, 1], 1, 3, 3),
    "none": ([1, 2, 3], None, 3, 1),
    "longer than the training": ([1, 2, 3], 5, 3, 1),
    "NaN is not lower": ([3, NAN, NAN, 0], 2, 3, 1),
    "NaN first": ([NAN, 3, 4, 5, 0], 2, 4, 2),
    "NaN alone": ([NAN, NAN, NAN], 2, 2, 1),
    "NaN between": ([NAN, 3, NAN, 2, NAN], 3, 5, 4),
    "infinity, then NaN": ([np.inf, NAN, 1, 2], 3, 4, 3),
}


@pytest.mark.parametrize("case", STOPPING)
def test_patience_and_the_best(case):
    losses, patience, run, best = STOPPING[case]
    learned = learn(reports(len(losses)), checks(losses), epochs=len(losses), patience=patience)
    assert (learned.report.epoch + 1, learned.best.epochs, learned.error) == (run, best, None)


def test_what_is_right_decides_nothing():
    found = checks([Evaluation(2.0, 0.5), Evaluation(1.0, 0.25), Evaluation(1.5, 1.0)])
    learned = learn(reports(3), found, epochs=3, patience=1)
    assert (learned.report.state, learned.best) == (2, Check(2.0, 1, 1.0, 0.25))


def test_without_held_out_data_the_latest_is_the_best():
    assert learn(reports(5), no_losses, epochs=5, check_every=2).best == Check(5.0, 4, None)


def test_the_callback_sees_the_check_that_ends_the_training():
    seen = []
    learn(reports(9), checks([1, 2, 3, 4]), epochs=9, patience=2, callback=lambda stands: seen.append(stands.waited))
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError(), SystemExit(), FloatingPointError("NaN")])
@pytest.mark.parametrize("of", ["training", "check", "keep", "callback"])
def test_an_error_comes_back_with_what_was_learned(error, of):
    def fail(stands):
        if stands.report.epoch == 2:
            raise error

    calls, losses = Calls(), [3.0, 2.0, error if of == "check" else 4.0, 5.0]
    learned = learn(
        reports(3 if of == "training" else 4, error=error),
        checks(losses),
        epochs=4,
        progress=calls,
        **{of: fail} if of in ("keep", "callback") else {},
    )
    assert learned.error is error
    assert (learned.report.state, learned.best) == (2, Check(2.0, 1, 2.0))
    assert calls.count("close") == 1


def test_stop_iteration_of_the_callback_is_no_error():
    def stop(stands):
        if stands.epochs == 2:
            raise StopIteration

    calls = Calls()
    learned = learn(reports(5), checks([1, 2, 3]), epochs=5, progress=calls, callback=stop)
    assert learned == (Report(1, 1, 1.0, 11.0), Check(1.0, 0, 1), None)
    assert calls[-2:] == ["clear", "close"]


def interrupted(found, parts=1, callback=None, error=None):
    """A training whose checks, every 2 epochs and once more at a Ctrl-C after 3, find these losses."""
    arguments = {"epochs": 6, "check_every": 2, "check_interrupted": True, "callback": callback}
    return learn(reports(3, parts, error or KeyboardInterrupt()), checks(found), **arguments)


def test_ctrl_c_between_two_checks_may_be_followed_by_one_more():
    seen = []
    learned = interrupted([2.0, 1.0], callback=lambda stands: seen.append((stands.epochs, stands.latest.kept)))
    assert seen == [(2, 1), (3, 2)]
    assert learned.best == Check(3.0, 2, 1.0)
    assert isinstance(learned.error, KeyboardInterrupt)
    assert learn(reports(3, error=KeyboardInterrupt()), checks([2.0]), epochs=6, check_every=2).best == Check(2, 1, 2.0)


def test_other_errors_are_followed_by_no_check():
    assert interrupted([2.0, 1.0], error=OSError()).best == Check(2.0, 1, 2.0)


def test_ctrl_c_at_a_check_is_followed_by_no_other():
    error = KeyboardInterrupt()

    def interrupt(stands):
        raise error

    learned = interrupted([2.0, 1.0], callback=interrupt)
    assert (learned.best, learned.error) == (Check(2.0, 1, 2.0), error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError()])
def test_an_error_in_the_check_after_ctrl_c_loses_nothing(error):
    learned = interrupted([2.0, error])
    assert (learned.best, learned.error) == (Check(2.0, 1, 2.0), error)


def test_stop_iteration_after_ctrl_c_leaves_the_ctrl_c():
    def stop(stands):
        if stands.epochs == 3:
            raise StopIteration

    learned = interrupted([2.0, 1.0], callback=stop)
    assert (learned.best, type(learned.error)) == (Check(3.0, 2, 1.0), KeyboardInterrupt)


# The class. Few sequences, half of whose labels are noise, are learned by heart: the validation loss falls, then rises.

H, C, N, T, EPOCHS = 4, 3, 6, 5, 12


def sequences(rng, noise):
    xs = rng.normal(size=(N, T))
    return xs, np.where(rng.random((N, T)) < noise, rng.integers(C, size=(N, T)), np.digitize(xs, [-0.5, 0.5]))


RNG = np.random.default_rng(1)
(X, Y), VALIDATION = sequences(RNG, 0.5), sequences(RNG, 0.0)


def new(**options):
    return LSTMNetwork(1, H, C, **{"progress": False, "batch_size": 3, "schedule": constant} | options)


def trained(epochs=EPOCHS, net=None, **options):
    net = net or new()
    net.train(X, Y, epochs=epochs, learning_rate=0.1, **options)
    return net


def assert_same_state(one, other):
    first, second = ([net._trained.state.params, net._trained.state.opt_state] for net in (one, other))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture(scope="module")
def losses():
    """The validation losses of the whole training, which fall and then rise."""
    return trained(validation=VALIDATION).history.validation


@pytest.fixture(scope="module")
def best(losses):
    """After how many epochs they are lowest."""
    epochs = int(np.argmin(losses)) + 1
    assert 2 < epochs < EPOCHS - 3
    return epochs


def test_keep_best_leaves_the_network_of_the_lowest_validation_loss(losses, best):
    net = trained(validation=VALIDATION, keep_best=True)
    assert_same_state(net, trained(best))
    assert net.loss_function(net.predict(VALIDATION[0][..., None]), VALIDATION[1]) == pytest.approx(
        min(losses), rel=1e-5
    )
    assert (len(net.history.loss), net.history.validation) == (EPOCHS, losses)
    assert repr(net).endswith(f"trained on 6 sequences for {best} epochs)")
    assert_same_state(trained(validation=VALIDATION), trained())  # and without it the last


def test_another_training_goes_on_from_the_best(monkeypatch, best):
    schedules, fit = [], network.fit

    def seen(state, schedule, data, **options):
        schedules.append(schedule)
        return fit(state, schedule, data, **options)

    monkeypatch.setattr(network, "fit", seen)
    net = trained(validation=VALIDATION, keep_best=True)
    trained(2, net)
    assert_same_state(net, trained(2, trained(best)))
    assert len(net.history.loss) == EPOCHS + 2
    assert schedules[1].first_epoch == EPOCHS
    assert int(schedules[1].first_step) == 2 * best  # a batch is half of the sequences
    assert repr(net).endswith(f"for {best + 2} epochs)")


def test_the_best_is_that_of_the_call(best):
    net = trained(validation=VALIDATION, keep_best=True)
    history = net.train(X, Y, epochs=1, learning_rate=1.0, validation=VALIDATION, keep_best=True)
    assert history.validation[0] > min(net.history.validation)
    assert repr(net).endswith(f"for {best + 1} epochs)")


@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("keep_best", [False, True])
def test_patience_ends_the_training(losses, patience, keep_best):
    waited = [k - int(np.argmin(losses[: k + 1])) for k in range(EPOCHS)]
    ended = waited.index(patience) + 1
    assert ended < EPOCHS
    net = new()
    history = net.train(
        X, Y, epochs=EPOCHS, learning_rate=0.1, validation=VALIDATION, keep_best=keep_best, patience=patience
    )
    assert history == net.history
    assert (len(history.loss), history.validation) == (ended, losses[:ended])
    assert_same_state(net, trained(ended - patience if keep_best else ended))


def test_the_callback_sees_the_current_network(losses):
    seen, net = [], new()

    def callback():
        seen.append(net.loss_function(net.predict(VALIDATION[0][..., None]), VALIDATION[1]))

    trained(net=net, validation=VALIDATION, keep_best=True, periodic_callback=callback, callback_every=1)
    np.testing.assert_allclose(seen, losses, rtol=1e-5)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, StopIteration])
def test_what_ends_the_training_leaves_the_best_so_far(losses, best, error):
    def callback():
        if len(net.history.loss) == best + 2:
            raise error

    net, raised = new(), None
    try:
        trained(net=net, validation=VALIDATION, keep_best=True, periodic_callback=callback, callback_every=1)
    except error as came:
        raised = came
    assert isinstance(raised, error) == (error is not StopIteration)
    assert (len(net.history.loss), net.history.validation) == (best + 2, losses[: best + 2])
    assert_same_state(net, trained(best))


def test_ctrl_c_before_the_first_check_leaves_what_was_learned():
    def interrupt():
        raise KeyboardInterrupt

    net = new(batch_size=1)  # of more than one compiled call an epoch
    with pytest.raises(KeyboardInterrupt):
        trained(net=net, validation=VALIDATION, keep_best=True, periodic_callback=interrupt, callback_every=0.01)
    assert net.history == History()
    assert int(net._trained.state.step) == 1


def test_nan_leaves_the_best_so_far():
    net = new(schedule=lambda part: jax.numpy.where(part < 0.8, 1.0, jax.numpy.nan))
    with pytest.raises(FloatingPointError, match="in epoch 11"):
        trained(net=net, validation=VALIDATION, keep_best=True)
    assert len(net.history.validation) == 10
    assert_same_state(net, trained(int(np.argmin(net.history.validation)) + 1))


def test_a_validation_loss_of_nan_is_never_the_best(monkeypatch):
    found = iter([NAN, 3.0, 2.0, NAN, 4.0, 1.0])
    monkeypatch.setattr(network, "evaluate", lambda *arguments, **options: Evaluation(next(found), 0.5))
    net = trained(validation=VALIDATION, keep_best=True, patience=2)
    assert len(net.history.validation) == 5
    assert_same_state(net, trained(3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keep_best": True}, ValueError, "^keep_best: expected False without validation, got True$"),
        ({"patience": 3}, ValueError, "^patience: expected None without validation, got 3$"),
        ({"patience": 0, "validation": VALIDATION}, ValueError, "^patience: expected at least 1, got 0$"),
        ({"patience": 1.5, "validation": VALIDATION}, TypeError, "^patience: expected an integer, got 1.5$"),
        ({"keep_best": 1, "validation": VALIDATION}, TypeError, "^keep_best: expected True or False, got 1$"),
    ],
    ids=["keep_best", "patience", "0", "1.5", "1"],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(options, error, message):
    net = new()
    with pytest.raises(error, match=message):
        trained(net=net, **options)
    assert net.history == History()
    assert_same_state(net, new())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_what_was_held_for_a_training_that_failed_is_freed_at_once(error):
    """Whoever catches the error and lets it go holds no data on devices until some collection of garbage."""

    class Held:
        pass

    def callback():
        held = Held()
        left.append(weakref.ref(held))
        raise error

    left, net = [], new()
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(error):
            trained(net=net, periodic_callback=callback, callback_every=1)
        assert left[0]() is None
    finally:
        gc.enable()


# The language model.

SMALL = {"hidden_size": 16, "layers": 2, "dropout": 0.0, "epochs": 16, "streams": 2, "window": 16, "progress": False}
LETTERS = np.random.default_rng(0).choice(list("abcdefgh"), p=np.array([8, 6, 4, 3, 2, 1, 1, 1]) / 26, size=420)
TEXT, HELD_OUT = "".join(LETTERS[:300]), "".join(LETTERS[300:])  # noise, which can only be learned by heart


def test_patience_ends_a_language_model_s_training():
    def train(**options):
        seen = []

        def callback(model, check):
            seen.append((model, check.validation.nats))

        model = CharLM.train(TEXT, validation=HELD_OUT, learning_rate=0.05, callback=callback, **SMALL | options)
        return model, [model for model, _ in seen], [loss for _, loss in seen]

    best, models, losses = train()
    lowest = int(np.argmin(losses))
    assert 2 < lowest < len(losses) - 3
    assert best is models[lowest]
    assert all(before > after for before, after in itertools.pairwise(losses[: lowest + 1]))
    again, _, until = train(patience=2)
    assert until == losses[: lowest + 3]
    jax.tree.map(np.testing.assert_array_equal, again.params, best.params)
    _, _, every_second = train(patience=1, check_every=2)
    assert len(every_second) == next(k for k in range(1, 8) if losses[2 * k + 1] > losses[2 * k - 1]) + 1


def test_patience_of_a_language_model_counts_no_nan(monkeypatch):
    found, models = iter([NAN, 2.0, NAN, NAN, 1.0]), []
    monkeypatch.setattr(language_model, "evaluate_text", lambda *arguments: TextLoss(next(found), 1))
    model = CharLM.train(
        TEXT, validation=TEXT, patience=2, callback=lambda model, check: models.append((model, check.best)), **SMALL
    )
    assert [best for _, best in models] == [True, True, False, False]
    assert model is models[1][0]


def test_ctrl_c_returns_the_best_language_model_so_far(monkeypatch):
    def interrupt(model, check):
        models.append(model)
        if check.epoch == 3:
            raise KeyboardInterrupt

    found, models = iter([2.0, 1.0, 3.0]), []
    monkeypatch.setattr(language_model, "evaluate_text", lambda *arguments: TextLoss(next(found), 1))
    assert CharLM.train(TEXT, validation=TEXT, patience=2, callback=interrupt, **SMALL) is models[1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patience": 3}, ValueError, "^patience: expected None without validation, got 3$"),
        ({"patience": 0, "validation": TEXT}, ValueError, "^patience: expected at least 1, got 0$"),
        ({"patience": True, "validation": TEXT}, TypeError, "^patience: expected an integer, got True$"),
    ],
    ids=["no validation", "0", "True"],
)
def test_patience_of_a_language_model_that_does_not_fit_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        CharLM.train(TEXT, **SMALL | options)
