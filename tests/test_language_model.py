"""Text in, text out: what `CharLM` learns, keeps, says and refuses."""

import contextlib
import functools
import inspect
import json
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from jlstm import language_model
from jlstm.checkpoint import Saved, save
from jlstm.config import LSTMConfig
from jlstm.evaluation import TextLoss, evaluate_text
from jlstm.gradcheck import random_problem
from jlstm.language_model import CharLM, decode, default_dropout, encode
from jlstm.model import forward
from jlstm.optimizers import Rate, Schedule, cosine, evaluation_params

TEXT = "to be or not to be, that is the question: " * 12
VALIDATION = TEXT[:100] + "Ö"
SMALL = {"hidden_size": 16, "layers": 2, "dropout": 0.2, "epochs": 3, "streams": 2, "window": 16, "progress": False}


@pytest.fixture(scope="module")
def learned():
    """A model that knows the sentence by heart, and its checks."""
    checks = []
    model = CharLM.train(
        TEXT,
        validation=VALIDATION,
        callback=lambda model, check: checks.append((model, check)),
        check_every=20,
        **SMALL | {"hidden_size": 32, "layers": 1, "dropout": 0.0, "epochs": 75},
    )
    return model, checks


def assert_same_params(one, other):
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_learns_a_sentence_by_heart(learned):
    model, _ = learned
    assert model.generate("to be or ", 33, temperature=0) == "not to be, that is the question: "
    assert model.evaluate(TEXT).nats < 0.2  # knowing how often each character comes gives 2.5


def test_checks_come_when_asked_and_the_best_is_returned(learned):
    model, checks = learned
    assert [check.epoch for _, check in checks] == [20, 40, 60, 75]
    losses = [check.validation.nats for _, check in checks]
    assert [check.best for _, check in checks] == [loss == min(losses[: k + 1]) for k, loss in enumerate(losses)]
    assert_same_params(model, checks[int(np.argmin(losses))][0])
    assert checks[-1][1].validation == checks[-1][0].evaluate(VALIDATION)
    assert 0 < checks[0][1].seconds < checks[-1][1].seconds < 600


def test_progress_counts_characters_and_shows_every_check(monkeypatch):
    shown = []

    class Shown:
        def __init__(self, epochs, items, unit):
            shown.append((epochs, items, unit))

        def update(self, epochs_done, loss, validation=None, accuracy=None):
            assert accuracy is None, "a text's characters are not counted right or wrong"
            shown.append((epochs_done, validation))

        clear = close = lambda self: None

    monkeypatch.setattr(language_model, "Progress", Shown)
    checks = []
    options = SMALL | {"progress": True, "validation": VALIDATION, "callback": lambda *check: checks.append(check[1])}
    CharLM.train(TEXT, **options)
    assert shown[0] == (3, 2 * 16 * ((len(TEXT) - 1) // 2 // 16), "characters")
    assert [(check.epoch, check.validation.nats) for check in checks] == [
        line for line in shown[1:] if line[0] in (1, 2, 3)
    ]


def test_an_earlier_model_is_returned_if_it_is_better(monkeypatch):
    losses = iter([2.0, 1.0, 3.0])
    loss = language_model.TextLoss
    monkeypatch.setattr(language_model, "evaluate_text", lambda params, ids, config: loss(next(losses), len(ids)))
    models = []
    best = CharLM.train(
        TEXT, validation=TEXT, callback=lambda model, check: models.append((model, check.best)), **SMALL
    )
    assert [best for _, best in models] == [True, True, False]
    assert best is models[1][0]


def test_without_validation_the_last_is_returned():
    checks = []
    model = CharLM.train(TEXT, callback=lambda *check: checks.append(check), **SMALL)
    assert model is checks[-1][0]
    assert [(check.validation, check.best) for _, check in checks] == [(None, True)] * 3


def test_seed_decides_everything():
    one, same, other = (CharLM.train(TEXT, **SMALL, seed=seed) for seed in (0, 0, 1))
    assert_same_params(one, same)
    assert (one.params.readout.weight != other.params.readout.weight).any()


@pytest.mark.parametrize(("steps", "kept"), [(1000, 0.995), (50, 0.9), (3, 0.0)])
def test_weights_are_averaged_over_a_fifth_of_the_steps(steps, kept):
    """Late in a training, an average over n steps keeps 1 - 1/n of itself at each, here of zeros."""
    schedule = Schedule(0.0, 0.0, 0, 0.0, epoch_steps=1.0, steps=float(steps))
    optimizer, params = language_model._AdamW(weight_decay=0.0)(Rate(schedule, cosine, 0)), np.ones(2, np.float32)
    state = optimizer.init(params)
    late = optax.tree.set(state, steps=np.int32(10**6), average=np.zeros(2, np.float32))
    _, state = optimizer.update(params, late, params)
    np.testing.assert_allclose(evaluation_params(state, None), 1 - kept, rtol=1e-4)


def test_rate_rises_and_falls_to_a_fiftieth():
    steps = 40
    schedule = Schedule(0.5, 0.0, 0, 0.0, epoch_steps=10.0, steps=float(steps), warmup=20)
    rates = np.asarray(Rate(schedule, language_model._cosine_to_last_rate, np.arange(steps + 1))())
    np.testing.assert_allclose(rates[:20], 0.5 * np.arange(1, 21) / 20, rtol=1e-6)
    np.testing.assert_allclose(rates[[20, 30, 40]], [0.5, 0.5 * 0.51, 0.5 * 0.02], rtol=1e-5)


def test_vocabulary_is_that_of_both_texts(learned):
    model, _ = learned
    assert model.vocabulary == "".join(sorted({*TEXT, *VALIDATION}))
    assert model.config.input_size == model.config.output_size == len(model.vocabulary)


def test_ctrl_c_returns_what_was_learned():
    def interrupt(model, check):
        if not interrupted:
            interrupted.append(model)
            raise KeyboardInterrupt

    interrupted = []
    model = CharLM.train(TEXT, callback=interrupt, **SMALL)
    assert model is interrupted[0]


def test_ctrl_c_while_a_check_reads_the_validation_text(monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(language_model, "evaluate_text", interrupt)
    model = CharLM.train(TEXT, validation=TEXT, **SMALL)  # interrupted there, and once more at the end
    assert model.generate("to ", 3, temperature=0)


def test_nan_returns_the_best_so_far(monkeypatch):
    fit = language_model.fit

    def diverging(*arguments, **options):
        for report in fit(*arguments, **options):
            yield report
            if report.part == 1:
                raise FloatingPointError("the loss became NaN")

    monkeypatch.setattr(language_model, "fit", diverging)
    models = []
    with pytest.warns(RuntimeWarning, match="the model is the best of the checks before:(?s:.*)the loss became NaN"):
        model = CharLM.train(TEXT, callback=lambda model, check: models.append(model), **SMALL)
    assert models == [model]


def test_nan_before_the_first_check_is_told():
    with pytest.raises(FloatingPointError, match="epoch 1"):
        CharLM.train(TEXT, **SMALL, learning_rate=1e38)


@pytest.mark.parametrize(
    ("vocabulary", "error", "message"),
    [
        ("abc", ValueError, "vocabulary: expected output_size = 2 characters, got 3"),
        ("aa", ValueError, "vocabulary: expected each character once, got 'aa'"),
        (["a", "b"], TypeError, "vocabulary: expected a string, got list"),
    ],
    ids=["length", "twice", "list"],
)
def test_vocabulary_must_fit(vocabulary, error, message):
    config = LSTMConfig(2, 4, 2, inputs="tokens")
    with pytest.raises(error, match=message):
        CharLM(random_problem(config, 1, 1)["params"], config, vocabulary)


def test_evaluation_is_that_of_the_functions(learned):
    model, _ = learned
    ids = encode("text", TEXT, model.vocabulary)
    assert model.evaluate(TEXT) == evaluate_text(model.params, ids, model.config)
    scores, _ = forward(model.params, ids[:80].reshape(5, 16), model.config)
    logs = jax.nn.log_softmax(scores)
    expected = -np.take_along_axis(logs, ids[1:81].reshape(5, 16, 1), axis=-1).mean()
    windows = model.evaluate(TEXT[:81], window=16)
    assert windows.nats == pytest.approx(float(expected), rel=1e-5)
    assert windows.characters == 80


def test_generation_forms(learned):
    model, _ = learned
    one = model.generate("to ", 40, seed=3)
    assert isinstance(one, str)
    assert len(one) == 40
    assert "".join(model.stream("to ", 40, seed=3)) == one
    several = model.generate("to ", 40, samples=3, seed=3, temperature=2.0)
    assert len(set(several)) == 3
    assert model.generate("to be or ", 100, temperature=0, stop="be,") == "not to be,"
    assert model.generate("to be or ", 33, top_k=1) == model.generate("to be or ", 33, temperature=0)
    assert model.generate("to ", 0) == ""


def test_saved_model_is_the_same_in_a_fresh_process(learned, tmp_path):
    model, _ = learned
    path = tmp_path / "model.npz"
    model.save(path)
    program = f"from jlstm import CharLM; m = CharLM.load({str(path)!r}); print(repr((m.evaluate({TEXT!r}).nats,"
    program += " m.generate('to ', 30, seed=1), m.vocabulary)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr((model.evaluate(TEXT).nats, model.generate("to ", 30, seed=1), model.vocabulary))


def test_file_says_that_its_outputs_are_probabilities(learned, tmp_path):
    learned[0].save(tmp_path / "model.npz")
    assert json.loads(np.load(tmp_path / "model.npz")["jlstm.json"])["apply_softmax"] is True


def test_a_model_is_itself_only(learned):
    model, _ = learned
    other = CharLM(model.params, model.config, model.vocabulary)
    assert {model, other, model} == {model, other}
    assert model != other


def test_defaults_are_those_of_the_table_in_the_readme():
    defaults = {name: p.default for name, p in inspect.signature(CharLM.train).parameters.items()}
    defaults |= language_model.SIZES
    measured = {"hidden_size": 384, "layers": 2, "dropout": None, "epochs": 20, "learning_rate": 0.003}
    measured |= {"weight_decay": 0.05, "streams": 32, "window": 64, "seed": 0, "check_every": 1}
    assert defaults.items() >= measured.items()
    shakespeare = LSTMConfig(65, 384, 65, inputs="tokens", layers=2)
    assert default_dropout(shakespeare, characters=1_003_854, epochs=20) == 0.45


def test_default_dropout_is_for_long_trainings_of_large_networks():
    small, large = (LSTMConfig(65, hidden, 65, inputs="tokens", layers=2) for hidden in (128, 384))
    assert default_dropout(small, 200_000, epochs=10) < 0.1
    assert default_dropout(large, 200_000, epochs=10) < 0.1
    assert default_dropout(small, 1_000_000, epochs=20) < 0.1
    assert default_dropout(large, 10**9, epochs=10**6) < 0.1  # it can't learn that by heart
    assert default_dropout(large, 10**6, epochs=10**6) == 0.45
    model = CharLM.train(TEXT, **SMALL | {"dropout": None})
    assert model.config.dropout == default_dropout(model.config, len(TEXT), 3)


def test_file_of_a_network_without_vocabulary_is_refused(tmp_path):
    config = LSTMConfig(2, 4, 2)
    save(tmp_path / "network.npz", Saved(random_problem(config, 1, 1)["params"], config, None, False))
    with pytest.raises(ValueError, match="expected a language model, got a network without a vocabulary"):
        CharLM.load(tmp_path / "network.npz")


@pytest.mark.parametrize("text", ["Größe 大小 🙂", "\n\t ", "e\u0301"], ids=ascii)
def test_any_alphabet(text):
    vocabulary = "".join(sorted(set(text)))
    ids = encode("text", text, vocabulary)
    assert decode(ids, vocabulary) == text
    assert ids.dtype == np.int32


TRAINING_MISTAKES = [
    ({"text": b"bytes"}, TypeError, "text: expected a string, got bytes"),
    ({"text": "abc"}, ValueError, r"text: expected more than streams \* window = 2 \* 16 = 32 characters, got 3"),
    ({"text": ""}, ValueError, "text: expected more than .* got 0"),
    ({"validation": "a"}, ValueError, "validation: expected at least two characters, got 'a'"),
    ({"validation": 3}, TypeError, "validation: expected a string, got int"),
    ({"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
    ({"epochs": 1.5}, TypeError, "epochs: expected an integer, got 1.5"),
    ({"check_every": 0}, ValueError, "check_every: expected at least 1, got 0"),
    ({"streams": 0}, ValueError, "streams: expected at least 1, got 0"),
    ({"window": -1}, ValueError, "window: expected at least 1, got -1"),
    ({"dropout": 1.0}, ValueError, "dropout: expected a number below 1, got 1.0"),
    ({"layers": 0}, ValueError, "layers: expected at least 1, got 0"),
    ({"learning_rate": -1.0}, ValueError, "learning_rate: expected a finite number from 0 up, got -1.0"),
    ({"weight_decay": "x"}, TypeError, "weight_decay: expected a number, got 'x'"),
    ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
    ({"seed": 2**63}, ValueError, "seed: expected at most 9223372036854775807, got 9223372036854775808"),
    ({"callback": 3}, TypeError, "callback: expected a callable, got 3"),
]


@pytest.mark.parametrize(("changes", "error", "message"), TRAINING_MISTAKES, ids=str)
def test_training_mistakes_are_told(changes, error, message):
    arguments = {"text": TEXT} | SMALL | changes
    with pytest.raises(error, match=message):
        CharLM.train(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate(""), ValueError, "prompt: expected at least one character, got none"),
        (lambda m: m.generate("to XY"), ValueError, "prompt: expected characters that the model knows, got 'X', 'Y'"),
        (lambda m: m.generate("to", stop=""), ValueError, "stop: expected at least one character, got none"),
        (lambda m: m.generate("to", stop="Z"), ValueError, "stop: expected characters that the model knows, got 'Z'"),
        (lambda m: m.generate("to", samples=0), ValueError, "samples: expected at least 1, got 0"),
        (lambda m: m.generate("to", length=-1), ValueError, "length: expected at least 0, got -1"),
        (lambda m: m.generate("to", top_p=2.0), ValueError, "top_p: expected a number above 0 and at most 1, got 2.0"),
        (lambda m: m.stream("to", top_k=0), ValueError, "top_k: expected at least 1, got 0"),
        (lambda m: m.evaluate("t"), ValueError, "text: expected at least two characters, got 't'"),
        (lambda m: m.evaluate("to", window=2), ValueError, "text: expected more than window = 2 characters, got 2"),
        (lambda m: m.evaluate("αβγδ"), ValueError, "text: expected characters that the model knows, got 'α', 'β'"),
        (lambda m: m.evaluate("αβγδεζηθικλμ"), ValueError, "'α', .*, 'κ' and 2 more$"),
        (lambda m: m.evaluate(None), TypeError, "text: expected a string, got NoneType"),
    ],
    ids=[
        "empty",
        "unknown",
        "no stop",
        "stop",
        "samples",
        "length",
        "p",
        "k",
        "one",
        "window",
        "Greek",
        "more",
        "None",
    ],
)
def test_mistakes_are_told(learned, call, error, message):
    with pytest.raises(error, match=message):
        call(learned[0])


# Called in other ways


def test_a_callback_that_raises_stop_iteration_ends_the_training():
    def callback(model, check):
        models.append(model)
        if check.epoch == 2:
            raise StopIteration

    models = []
    assert CharLM.train(TEXT, callback=callback, **SMALL) is models[-1]
    assert len(models) == 2


def test_an_error_in_the_callback_leaves_the_best_model():
    def callback(model, check):
        models.append(model)
        if check.epoch == 2:
            raise OSError("the disk is full")

    models = []
    with pytest.warns(RuntimeWarning, match="ended early(?s:.*)callback(?s:.*)OSError: the disk is full"):
        model = CharLM.train(TEXT, callback=callback, **SMALL)
    assert model is models[-1]


@pytest.mark.parametrize("method", ["train", "load"])
def test_what_makes_a_model_is_the_class_s_alone(learned, method):
    model, _ = learned
    with pytest.raises(
        AttributeError, match=rf"^{method}: makes a new CharLM and leaves this one .*; write CharLM\.{method}"
    ):
        getattr(model, method)(TEXT)


def test_prompts_of_different_length_are_written_on_from_as_if_each_were_alone(learned):
    model, _ = learned
    prompts = ["to be or ", "t", "that is the question: to be"]
    alone = [model.generate(prompt, 20, temperature=0) for prompt in prompts]
    assert model.generate(prompts, 20, temperature=0) == alone
    samples = model.generate(prompts, 20, samples=2)
    assert [[len(text) for text in texts] for texts in samples] == [[20, 20]] * 3
    assert samples[0][0] == model.generate(prompts[0], 20)
    for prompt, message in (([], "prompt: expected at least one"), (["t", ""], r"prompt\[1\]: expected at least one")):
        with pytest.raises(ValueError, match=message):
            model.generate(prompt, 5)
    with pytest.raises(TypeError, match=r"prompt\[1\]: expected a string, got int"):
        model.generate(["t", 3], 5)


def test_samples_begin_with_the_text_that_there_is_without(learned):
    model, _ = learned
    one, three = model.generate("to be", 40, seed=3), model.generate("to be", 40, seed=3, samples=3)
    assert three[0] == one
    assert len(set(three)) == 3


def test_no_seed_is_another_one_each_time(learned):
    model, _ = learned
    assert model.generate("to be", 40) == model.generate("to be", 40)
    texts = {model.generate("to be", 40, temperature=2, seed=None) for _ in range(3)}
    texts |= {"".join(model.stream("to be", 40, temperature=2, seed=None))}
    assert len(texts) == 4


def test_a_model_shows_in_one_line_what_it_is(learned, tmp_path):
    model, _ = learned
    line = "CharLM(16 characters, 1 LSTM layer of 32 units, 6,800 parameters, trained on 504 characters for "
    assert repr(model).startswith(line)
    model.save(tmp_path / "model.npz")
    assert repr(CharLM.load(tmp_path / "model.npz")) == repr(model)


def test_texts_that_are_none_are_told_apart(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    cases = [
        (
            str(path),
            ValueError,
            r"text: expected the text itself, got the name of a file; write open\('.*'\)\.read\(\)",
        ),
        (path, TypeError, r"text: expected the text itself as a string, got a path; write path\.read_text\(\)"),
        (TEXT, ValueError, r"text: expected more than streams \* window = 32 \* 64 .*; it is enough for streams=7$"),
        ("to be", ValueError, r"text: expected more than .*; it is enough for streams=1, window=4$"),
        ("a" * 5000, ValueError, "text: expected at least two different characters, got only 'a'"),
    ]
    for text, error, message in cases:
        with pytest.raises(error, match=message):
            CharLM.train(text, progress=False)
    assert CharLM.train(TEXT, **SMALL | {"streams": 7, "window": 64, "epochs": 1}).trained_on.startswith("504")


@pytest.mark.parametrize("error", [StopIteration, KeyboardInterrupt, OSError])
def test_ctrl_c_before_a_check_that_does_not_end_either(monkeypatch, error):
    fit, models = language_model.fit, []

    def interrupted(*arguments, **options):
        for number, report in enumerate(fit(*arguments, **options)):
            yield report
            if number == 3:
                raise KeyboardInterrupt

    def callback(model, check):
        models.append(model)
        if len(models) > 1:
            raise error

    monkeypatch.setattr(language_model, "fit", interrupted)
    monkeypatch.setattr(language_model.Progress, "update", lambda *arguments: None)
    arguments = {"callback": callback, "check_every": 2} | SMALL | {"epochs": 40}
    with pytest.warns(RuntimeWarning, match="OSError") if error is OSError else contextlib.nullcontext():
        model = CharLM.train(TEXT, **arguments)
    assert model is models[-1]


def test_a_validation_loss_that_is_no_number_loses_nothing(monkeypatch):
    losses = iter([np.nan, 1.0, np.nan])
    monkeypatch.setattr(language_model, "evaluate_text", lambda *arguments: TextLoss(next(losses), 1))
    models = []
    model = CharLM.train(TEXT, validation=TEXT, callback=lambda model, check: models.append(model), **SMALL)
    assert model is models[1]


def test_a_list_of_prompts_begins_with_what_there_is_without_samples(learned):
    model, _ = learned
    prompts = np.array(["to ", "be or", " n"])
    assert [texts[0] for texts in model.generate(prompts, 12, samples=3)] == model.generate(list(prompts), 12)


def test_the_name_of_a_file_is_no_text_to_measure(learned, tmp_path):
    model, _ = learned
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    with pytest.raises(ValueError, match="validation: expected the text itself, got the name of a file"):
        CharLM.train(TEXT, validation=str(path), **SMALL)
    with pytest.raises(ValueError, match="text: expected the text itself, got the name of a file"):
        model.evaluate(str(path))
    with pytest.raises(ValueError, match=r"^text: expected more than .*, got 0$"):
        CharLM.train("")


def test_goes_on_from_a_model(capsys):
    small = {"hidden_size": 8, "layers": 1, "streams": 2, "window": 10}
    first = CharLM.train("to be or not to be, " * 12, **small, epochs=2, progress=False)
    text = "a zoo or not a zoo, " * 12
    kept = CharLM.train(text, start=first, epochs=1, learning_rate=0, streams=2, window=10)
    assert kept.vocabulary == first.vocabulary + "az"
    assert "characters that the model to start from does not know: 'az'\n" in capsys.readouterr().err
    assert (kept.config.hidden_size, kept.config.layers) == (8, 1)
    [own], [wide] = first.params.layers, kept.params.layers
    characters = len(first.vocabulary)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)  # what an average of equal ones is off
    close(wide.weight_ih[:, :characters], own.weight_ih)
    close(wide.weight_hh, own.weight_hh)
    close(kept.params.readout.weight[:, :characters], first.params.readout.weight)
    assert np.abs(wide.weight_ih[:, characters:]).min() > 0
    again = CharLM.train("to be or not to be, " * 12, start=first, **small, epochs=2, progress=False)
    assert again.evaluate("to be or not to be").nats < first.evaluate("to be or not to be").nats
    message = "hidden_size: expected 8, as the model to start from has, got 9"
    with pytest.raises(ValueError, match=message):
        CharLM.train(text, start=first, hidden_size=9, streams=2, window=10)
    with pytest.raises(ValueError, match=r"cell: expected Cell\('lstm'\), as the model to start from has, got 'gru'"):
        CharLM.train(text, start=first, cell="gru", streams=2, window=10)
    with pytest.raises(TypeError, match=r"start: expected a CharLM, got 'model\.npz'"):
        CharLM.train(text, start="model.npz")
