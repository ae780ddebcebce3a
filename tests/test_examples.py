"""The examples, run as functions: what each of them reaches, not only that it ends."""

import contextlib
import importlib.util
import io
import math
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from test_documented import text

from jlstm.config import LSTMConfig
from jlstm.evaluation import TextLoss
from jlstm.language_model import Checked

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {"in_equinox": "equinox", "in_flax": "flax"}  # beside jlstm


def example(name):
    path = EXAMPLES / f"{name}.py"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entropy(characters):
    """The loss, in nats a character, of knowing how often each character comes and nothing more."""
    counts = Counter(characters)
    return -sum(n / counts.total() * math.log(n / counts.total()) for n in counts.values())


def run(name, *arguments, folder=EXAMPLES):
    """Run an example as a user does, in a process of its own, and return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent)}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_progression_answers_most_questions():
    printed = run("progression", "--epochs", 60)
    [right] = re.findall(r"^(\d+) of 950 questions answered right", printed, re.MULTILINE)
    assert int(right) >= 850  # guessing gets 19


def test_functional_recalls_the_first_letter():
    assert example("functional").main([]) >= 0.99  # guessing gets an eighth


SMALL = ["--hidden", "32", "--layers", "1", "--dropout", "0", "--epochs", "20", "--streams", "4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small text, and the model and the documented model that the example learned from it."""
    folder = tmp_path_factory.mktemp("shakespeare")
    path, model, documented = folder / "text.txt", folder / "model.npz", folder / "documented.npz"
    path.write_text(text(5000), encoding="utf-8")
    main, out = example("shakespeare").main, io.StringIO()
    small = [*SMALL, "--checkpoint", str(folder / "run")]
    with contextlib.redirect_stdout(out):
        loss = main(["train", "--text", str(path), "--model", str(model), *small])
        slower = main(["documented", "--text", str(path), "--model", str(documented), "--quick", "--epochs", "2"])
    return path, model, documented, loss, slower, out.getvalue()


def test_shakespeare_learns_a_small_text(trained):
    path, _, _, loss, slower, out = trained
    own = path.read_text(encoding="utf-8")
    assert loss < entropy(own) - 1
    assert loss < slower < entropy(own)
    assert f"5,000 characters, {len(set(own))} distinct ones: 4,500 to train, the rest to validate" in out
    assert f"validation: {loss:.4f} nats" in out


def test_shakespeare_goes_on_from_where_it_was(trained, capsys):
    path, model, _, loss, *_ = trained
    command = ["train", "--text", str(path), "--model", str(model), "--checkpoint", str(path.parent / "run")]
    assert example("shakespeare").main([*command, *SMALL]) == loss  # it was done
    with pytest.raises(
        SystemExit, match=r"shakespeare\.py train: checkpoint: expected the training in .* epochs = 20, got 21"
    ):
        example("shakespeare").main([*command, *SMALL, "--epochs", "21"])
    assert "epoch 20" not in capsys.readouterr().out


def test_shakespeare_goes_on_from_a_model(trained, tmp_path):
    path, model, _, loss, *_ = trained
    command = ["train", "--text", str(path), "--model", str(tmp_path / "further.npz"), "--start", str(model)]
    assert example("shakespeare").main([*command, "--dropout", "0", "--epochs", "10", "--streams", "4"]) < loss + 0.1


def test_shakespeare_evaluates_to_what_training_printed(trained):
    path, model, documented, loss, slower, _ = trained
    first, second = run("shakespeare", "evaluate", "--text", path, model, documented).splitlines()
    assert first.startswith(f"{model}: validation: {loss:.4f} nats")
    assert second.startswith(f"{documented}: validation: {slower:.4f} nats")


def test_shakespeare_writes(trained, capsys):
    _, model, *_ = trained
    main = example("shakespeare").main
    written = []
    for seed in ("1", "1", "2"):
        main(["sample", "--model", str(model), "--prompt", "e", "--length", "80", "--seed", seed])
        written.append(capsys.readouterr().out)
    assert written[0] == written[1] != written[2]
    assert len(written[0]) == 82
    assert written[0].startswith("e")


def test_shakespeare_draws_its_curve(tmp_path):
    pytest.importorskip("matplotlib")
    module = example("shakespeare")
    checks = [Checked(k, 3 - k / 10, TextLoss(3.1 - k / 10, 10), True, 60.0 * k) for k in range(1, 9)]
    module.draw(checks, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"too short", "train: text: expected more than streams"),
        (None, "--text: expected a readable UTF-8 text file"),
        (b"", "--text: expected a text, got .* which is empty"),
        (b"abc\0def" * 100, "--text: expected a text, got .* a binary file"),
        (b"\xff\xfe" * 100, "--text: expected a readable UTF-8 text file"),
    ],
    ids=["short", "missing", "empty", "binary", "not UTF-8"],
)
def test_shakespeare_says_what_is_wrong_with_a_text(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match=message):
        example("shakespeare").main(["train", "--text", str(path), "--model", str(tmp_path / "model.npz")])
    assert not (tmp_path / "model.npz").exists()


def test_shakespeare_loses_no_model(trained):
    path, model, *_ = trained
    before = model.read_bytes()
    for command in ("train", "documented"):
        with pytest.raises(SystemExit, match=r"--model: expected a new file, got .*model\.npz, which exists"):
            example("shakespeare").main([command, "--text", str(path), "--model", str(model)])
    assert model.read_bytes() == before
    with pytest.raises(SystemExit, match="--model: expected a file in a folder that exists"):
        example("shakespeare").main(["train", "--text", str(path), "--model", str(path / "no" / "model.npz")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--model", "MISSING"], "expected a saved model .* make one with"),
        (["sample", "--model", "FOREIGN"], "expected a file that jlstm saved"),
        (["sample", "--model", "MODEL", "--prompt", "Ω"], "prompt: expected characters that the model knows, got 'Ω'"),
        (["evaluate", "MODEL", "--text", "OTHER"], "text: expected characters that the model knows, got 'Ω'"),
    ],
    ids=["missing", "foreign", "prompt", "text"],
)
def test_shakespeare_says_what_is_wrong_with_a_model(trained, tmp_path, arguments, message):
    (tmp_path / "foreign").write_bytes(b"something else")
    (tmp_path / "other.txt").write_text("Ω" * 500, encoding="utf-8")
    names = {"MISSING": tmp_path / "none", "FOREIGN": tmp_path / "foreign", "MODEL": trained[1]}
    names["OTHER"] = tmp_path / "other.txt"
    with pytest.raises(SystemExit, match=message):
        example("shakespeare").main([str(names.get(argument, argument)) for argument in arguments])


def test_own_cell_learns_and_its_gradients_are_right():
    printed = run("own_cell", "--epochs", 60, "--hidden", 32)
    assert "1 mgu layer of 32 units" in printed
    assert "Its gradients are right: finite differences differ from them by " in printed
    assert float(re.search(r"([\d.]+)% of x -> 3x mod 50", printed)[1]) > 50  # 2 % by chance


@pytest.mark.parametrize("name", NEEDS)
def test_a_layer_learns_within_a_model_of_another_library(name, monkeypatch):
    pytest.importorskip(NEEDS[name])
    assert example(name).main(["--steps", "200"]) >= 0.9  # guessing gets a half
    monkeypatch.setitem(sys.modules, NEEDS[name], None)
    with pytest.raises(ImportError, match=re.escape(f"{name}.py needs ") + r".* pip install 'jlstm\[interop\]'"):
        example(name)


def test_gradients_agree():
    assert example("gradients").main([]) is True


def test_forecasting_beats_the_naive_forecast(capsys):
    """With 1977 to 1986 held out, where no setting was looked at."""
    scores = example("forecasting").main(["--networks", "2", "--paths", "20", "--until", "1986"])
    assert scores[12].rmse < 0.9 * scores[12].naive
    assert scores[60].rmse < 0.7 * scores[60].naive
    assert all(0.8 < score.inside < 1 for score in scores.values())  # of intervals that are to hold 90 %
    printed = capsys.readouterr().out
    for score in scores.values():
        assert f"{score.rmse:.2f} ppm, {score.inside:.0%}" in printed
        assert f"{score.naive:.2f} ppm" in printed


def test_forecasting_has_a_mean_for_every_month():
    means = example("forecasting").monthly_means(2001)
    months = [(year, month) for year in range(1958, 2002) for month in range(1, 13)][10:]
    of = dict(zip(months, means, strict=True))
    assert of[2001, 12] == pytest.approx((370.3 + 370.8 + 371.2 + 371.3 + 371.5) / 5)
    assert of[1964, 3] == (of[1963, 3] + of[1965, 3]) / 2  # no week of it is known


def test_forecasting_draws_what_it_forecast(tmp_path):
    pytest.importorskip("matplotlib")
    module = example("forecasting")
    ppm = 320 + np.arange(200.0)
    fans = {k: ppm[k : k + module.LONGEST] + np.linspace(-1, 1, 20)[:, None] for k in (80, 140)}
    module.draw(tmp_path / "fan.png", ppm, fans)
    assert (tmp_path / "fan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_help(name, capsys):
    pytest.importorskip(NEEDS.get(name, "jlstm"))
    module = example(name)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert " ".join(module.__doc__.split()) in " ".join(capsys.readouterr().out.split())


def test_example_is_a_program(tmp_path):
    assert run("functional", "--help", folder=tmp_path).startswith("usage: functional.py")


@pytest.mark.slow
def test_shakespeare_quick_learns_the_whole_corpus(tmp_path):
    """Two minutes on two idle cores; knowing how often each character comes, and nothing more, gives 3.3 nats."""
    path = os.environ.get("JLSTM_SHAKESPEARE")
    if not path:
        pytest.skip("JLSTM_SHAKESPEARE does not name the corpus, shakespeare.txt")
    arguments = ["train", "--quick", "--text", path, "--model", str(tmp_path / "model.npz")]
    assert example("shakespeare").main(arguments) < 1.6


@pytest.fixture(scope="module")
def readings(tmp_path_factory):
    """A CSV of the sensors' readings, shorter than the example's own, with failures enough to choose a threshold."""
    path = tmp_path_factory.mktemp("sensors") / "sensors.csv"
    example("sensors").make(path, hours=(3000, 2500, 2000))
    return path


def test_sensors_forecast_and_warn(readings, capsys):
    plot = readings.with_name("plot.png")
    draws = ["--plot", str(plot)] if importlib.util.find_spec("matplotlib") else []
    outcome = example("sensors").main(["--data", str(readings), "--epochs", "5", *draws])
    assert outcome["error"] < 0.9 * outcome["persistence"]
    assert 0.02 < outcome["share"] < 0.15  # by chance precision is the share of yeses, whatever the recall
    assert outcome["recall"] > 0.5
    assert outcome["precision"] > 4 * outcome["share"]
    printed = capsys.readouterr().out
    assert re.findall(r"^Pump (.): \d\d °C now, \d\d °C in 24 hours; fails by then: ", printed, re.MULTILINE) == [
        *"ABC"
    ]
    for name in ("temperature.npz", "failures.npz", *(["plot.png"] if draws else [])):
        assert readings.with_name(name).stat().st_size > 1000


def test_sensors_are_read_alike_with_and_without_pandas(readings, monkeypatch):
    pytest.importorskip("pandas")
    sensors = example("sensors")
    with_pandas = sensors.read(readings)
    monkeypatch.setitem(sys.modules, "pandas", None)
    without = sensors.read(readings)
    assert [*with_pandas] == [*without] == [*"ABC"]
    for ours, theirs in zip(without.values(), with_pandas.values(), strict=True):
        for own, other in zip(ours, theirs, strict=True):
            assert own.dtype == other.dtype
            np.testing.assert_array_equal(own, other)


def test_sensors_are_read_with_gaps_and_of_different_length(tmp_path):
    sensors, path = example("sensors"), tmp_path / "sensors.csv"
    lines = ["2025-01-01 00:00:00,B,1e-3,2,3,4,5,6e5,no", "2025-01-01 00:00:00,A,1,2,3,4,5,6,no"]
    lines += ["2025-01-01 01:00:00,A,1,,3,4,5,,yes"]
    path.write_text("\n".join(["time,pump," + ",".join(sensors.READINGS) + ",failed", *lines]) + "\n")
    pumps = sensors.read(path)
    times, table, failed = pumps["A"]
    np.testing.assert_array_equal(table, [[1, 2, 3, 4, 5, 6], [1, np.nan, 3, 4, 5, np.nan]])
    assert (times[1] - times[0], failed.tolist()) == (np.timedelta64(1, "h"), [False, True])
    assert pumps["B"][1].tolist() == [[1e-3, 2, 3, 4, 5, 6e5]]


def utterances(rng, counts):
    """Made utterances of some speakers, each with a tone of his own under noise: 7 to 12 steps of 3 numbers."""
    made = []
    for speaker in np.repeat(np.arange(len(counts)), counts):
        steps = np.arange(rng.integers(7, 13))[:, None]
        tone = np.sin(steps * (0.4 + 0.5 * speaker) + np.arange(3))
        made.append(np.round(tone + 0.2 * rng.normal(size=tone.shape), 6))
    return made


@pytest.fixture(scope="module")
def vowels(tmp_path_factory):
    """The same made utterances in a folder of UCI's files, in one of `.ts` files, and in a zip archive."""
    folder, rng = tmp_path_factory.mktemp("vowels"), np.random.default_rng(0)
    uci, ts, archive = folder / "uci", folder / "ts", folder / "uci.zip"
    uci.mkdir()
    ts.mkdir()
    for part, counts in (("train", [20, 20, 20]), ("test", [11, 7, 12])):
        made = utterances(rng, counts)
        speakers = [str(k + 1) for k, count in enumerate(counts) for _ in range(count)]
        rows = ["".join(" ".join(map(str, x)) + " \n" for x in sequence) + "\n" for sequence in made]
        (uci / f"ae.{part}").write_text("".join(rows))
        (uci / f"size_ae.{part}").write_text(" ".join(map(str, counts)) + " \n")
        lines = [":".join(",".join(map(str, x)) for x in s.T) + f":{k}\n" for s, k in zip(made, speakers, strict=True)]
        (ts / f"JapaneseVowels_{part.upper()}.ts").write_text("# a remark\n@problemName Made\n@data\n" + "".join(lines))
    with zipfile.ZipFile(archive, "w") as opened:
        for path in uci.iterdir():
            opened.write(path, path.name)
    return uci, ts, archive


def test_classification_reads_the_same_from_every_kind_of_file(vowels):
    read = example("classification").read
    expected = np.random.default_rng(0)
    for counts, *parts in zip(([20, 20, 20], [11, 7, 12]), *map(read, vowels), strict=True):
        made = utterances(expected, counts)
        for sequences, speakers in parts:
            assert list(speakers) == ["1"] * counts[0] + ["2"] * counts[1] + ["3"] * counts[2]
            for sequence, x in zip(sequences, made, strict=True):
                np.testing.assert_array_equal(sequence, x)


def test_classification_tells_made_speakers_apart(vowels, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    small = ["--networks", "2", "--hidden", "16", "--epochs", "100", "--plot", str(tmp_path / "plot.png")]
    median, together = example("classification").main(["--data", str(vowels[0]), *small])
    assert min(median, together) >= 0.9  # guessing gets 0.4
    assert f"(the mean of their probabilities): {together:.2%}" in capsys.readouterr().out
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ae.test", None, "expected ae.train, ae.test and .* No such file"),
        ("size_ae.test", "11 7 13", "expected as many utterances as the sizes say, 31, got 30"),
        ("ae.train", "0.1 what 0.3\n", "could not convert string 'what'"),
        ("ae.train", "0.1 0.3\n0.1\n", "columns changed"),
    ],
    ids=["missing", "sizes", "words", "ragged"],
)
def test_classification_says_what_is_wrong_with_its_files(vowels, tmp_path, name, content, message):
    for path in vowels[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink()
    if content:
        (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit, match=f"--data: .*{message}"):
        example("classification").main(["--data", str(tmp_path)])


def test_classification_keeps_what_it_downloaded(vowels, tmp_path, monkeypatch):
    module = example("classification")
    cache, url = tmp_path / "jlstm" / "japanese_vowels.zip", vowels[2].as_uri()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "URL", (vowels[0] / "ae.train").as_uri())
    with pytest.raises(SystemExit, match=r"The download failed \(File is not a zip file\)"):
        module.download()
    assert not cache.exists()
    monkeypatch.setattr(module, "URL", url)
    assert module.download() == cache
    assert cache.read_bytes() == vowels[2].read_bytes()
    monkeypatch.setattr(module, "URL", "file:///nowhere")
    assert len(module.read(module.download())[1][0]) == 30


@pytest.mark.slow
def test_classification_tells_the_nine_speakers_apart():
    """A minute on two idle cores; the two figures are the README's, with room for other machines' rounding."""
    folder = os.environ.get("JLSTM_VOWELS")
    if not folder:
        pytest.skip("JLSTM_VOWELS does not name the folder of JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts")
    median, together = example("classification").main(["--data", folder])
    assert median >= 0.97
    assert together >= 0.98


@pytest.fixture
def addition(monkeypatch):
    """The example with a smaller network and smaller batches, for sums of two digits."""
    module = example("addition")
    monkeypatch.setattr(module, "CONFIG", LSTMConfig(13, 64, 13, inputs="tokens"))
    monkeypatch.setattr(module, "BATCH", 32)
    return module


def test_addition_answers_sums_that_it_never_saw(addition, capsys):
    share = addition.main(["--digits", "2", "--sums", "4000", "--epochs", "14"])
    assert share >= 0.6  # guessing gets a hundredth
    *_, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[✓✗] \d+\+\d+=\d+(, which is \d+)?", last)


def test_addition_draws_no_sum_twice(addition):
    questions, answers = set(), []
    for batch in addition.draw_sums(0, 1000, 2):
        for xs, ys in zip(batch.xs[:, ::-1].tolist(), batch.ys.tolist(), strict=True):
            question, answer = ("".join(addition.CHARACTERS[k] for k in ids) for ids in (xs, ys))
            numbers = sorted(map(int, question.split("+")))
            assert sum(numbers) == int(answer)
            questions.add(tuple(numbers))
            answers.append(answer)
    assert len(questions) == len(answers) == 1000
    with pytest.raises(SystemExit, match="--sums: expected at most 55 with --digits 1, got 56"):
        addition.draw_sums(0, 56, 1)


def test_memory_tells_an_agent_where_to_turn():
    remembers, forgets = example("memory").main(["--length", "4", "--updates", "100"])
    assert remembers >= 0.99
    assert 0.4 <= forgets <= 0.6  # it can't but guess


@pytest.mark.parametrize(
    ("name", "shares"), [("addition", [[0.1, 0.2, 0.9], [0.7, 0.8, 0.95]]), ("memory", [[0.0, 0.5], [1.0, 0.5]])]
)
def test_shares_are_drawn(tmp_path, name, shares):
    pytest.importorskip("matplotlib")
    example(name).draw(jnp.array(shares), tmp_path / "shares.png")
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG")


def test_deploy_gives_the_same_outputs_in_onnx_runtime(tmp_path, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path, module = tmp_path / "text.txt", example("deploy")
    path.write_text(text(5000), encoding="utf-8")
    module.SETTINGS |= {"hidden_size": 32, "streams": 4, "progress": False}
    found = module.main(["train", str(path), "--model", str(tmp_path / "model.onnx"), "--epochs", "2"])
    assert found["difference"] <= 2e-5
    assert found["same"] == 1
    out = capsys.readouterr().out
    path = tmp_path / "model.onnx"
    assert f"The model is in {path}.\nONNX Runtime wrote on, from {path}:\n" in out
    losses = re.findall(r"(.*): (\d\.\d{4}) nats a character, [\d.]+ µs for each that it wrote", out)
    assert [name for name, _ in losses] == ["ONNX Runtime", "jlstm"]
    assert losses[0][1] == losses[1][1] == f"{found['nats']:.4f}"


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_deploy_says_before_it_trains_what_it_needs(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match=r"^deploy\.py needs onnx and ONNX Runtime: pip install 'jlstm\[onnx\]' onnxr"):
        example("deploy").main(["train", str(tmp_path / "no.txt")])


def test_deploy_says_what_it_can_not_read(tmp_path):
    pytest.importorskip("onnxruntime")
    onnx, main = pytest.importorskip("onnx"), example("deploy").main
    text, model, short, images = (tmp_path / name for name in ("text.txt", "m.onnx", "short.txt", "image.png"))
    text.write_text("abc" * 99 + "xyz", encoding="utf-8")
    short.write_text("abc", encoding="utf-8")
    images.write_bytes(b"\x89PNG")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "empty", ends[:1], ends[1:])
    made = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])
    onnx.save(made, tmp_path / "other.onnx")
    onnx.helper.set_model_props(made, {"vocabulary": '"abc"'})
    onnx.save(made, model)
    for arguments, message in [
        (["run", text, "--model", model], f"{text} has characters that {model} has not learned: 'xyz'."),
        (["run", short, "--model", model], f"{short} is too short: of its 3 characters 1 are held out."),
        (
            ["run", text, "--model", tmp_path / "no"],
            f"There is no model {tmp_path}/no: deploy.py train TEXT makes one.",
        ),
        (["run", text, "--model", text], f"{text} is no model that deploy.py train TEXT made."),
        (["run", text, "--model", tmp_path / "other.onnx"], "other.onnx is no model that deploy.py train TEXT made."),
        (["run", tmp_path / "no"], f"{tmp_path}/no can not be read as a text: No such file or directory."),
        (["run", images], f"{images} can not be read as a text: 'utf-8' codec can't decode byte 0x89 in position 0"),
        (["train", tmp_path / "no"], f"{tmp_path}/no can not be read as a text: No such file or directory."),
        (
            ["train", text, "--model", tmp_path / "no" / "m"],
            f"There is no folder {tmp_path}/no to write the model into.",
        ),
    ]:
        with pytest.raises(SystemExit, match=re.escape(message)):
            main([*map(str, arguments)])


@pytest.mark.slow
def test_deploy_on_the_corpus(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = os.environ.get("JLSTM_SHAKESPEARE")
    if path is None:
        pytest.skip("JLSTM_SHAKESPEARE does not name the corpus, shakespeare.txt")
    found = example("deploy").main(["train", path, "--model", str(tmp_path / "model.onnx")])
    assert found["difference"] <= 2e-5
    assert found["same"] == 1
