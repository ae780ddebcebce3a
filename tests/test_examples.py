"""The examples, run as functions: what each of them reaches, not only that it ends."""

import importlib.util
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from test_documented import text

EXAMPLES = Path(__file__).parents[1] / "examples"


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


def test_progression_answers_most_questions(capsys):
    right = example("progression").main(["--epochs", "60"])
    assert right >= 850  # of 950; guessing gets 19
    assert f"{right} of 950 questions answered right" in capsys.readouterr().out


def test_functional_recalls_the_first_letter():
    assert example("functional").main([]) >= 0.99  # guessing gets an eighth


def test_shakespeare_learns_a_small_text(tmp_path, capsys):
    own = text(5000)
    path = tmp_path / "text.txt"
    path.write_text(own, encoding="utf-8")
    loss = example("shakespeare").main(["--text", str(path), "--stride", "20", "--epochs", "5"])
    out = capsys.readouterr().out
    assert loss < entropy(own) - 0.5
    assert f"validation loss {loss:.4f} nats a character" in out
    assert f"5,000 characters, {len(set(own))} distinct ones, 220 windows of 100" in out


@pytest.mark.parametrize("content", ["too short", None], ids=["short", "missing"])
def test_shakespeare_says_what_is_wrong_with_a_text(tmp_path, content):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match="--text: expected"):
        example("shakespeare").main(["--text", str(path)])


def test_gradients_agree():
    assert example("gradients").main([]) is True


@pytest.mark.parametrize("name", ["progression", "functional", "shakespeare", "gradients"])
def test_help(name, capsys):
    module = example(name)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert " ".join(module.__doc__.split()) in " ".join(capsys.readouterr().out.split())


def test_example_is_a_program(tmp_path):
    command = [sys.executable, str(EXAMPLES / "functional.py"), "--help"]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: functional.py")


@pytest.mark.slow
def test_shakespeare_learns_the_whole_corpus():
    """Half an hour on a busy machine; knowing how often each character comes, and nothing more, gives 3.3 nats."""
    path = os.environ.get("JLSTM_SHAKESPEARE")
    if not path:
        pytest.skip("JLSTM_SHAKESPEARE does not name the corpus, shakespeare.txt")
    assert example("shakespeare").main(["--text", path]) < 2.3
