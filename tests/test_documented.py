"""The two documented programs, with another import and nothing else, from their beginning to their end."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRESSION, LANGUAGE_MODEL = HERE / "documented_progression.py", HERE / "documented_language_model.py"


def run(program, folder):
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "PYTHONIOENCODING": "utf-8"}
    environment.pop("XLA_FLAGS", None)  # as a user runs it
    command = [sys.executable, str(program)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def text(length):
    """Sentences of a small grammar, with new lines, and all letters of "Hello" among them."""
    subjects = ["the miller", "a grey horse", "my sister", "Hello, said he, and the fox", "every quick jay"]
    verbs = ["walks over", "keeps quiet about", "buys", "often forgets", "will vex"]
    objects = ["the bridge.", "two dozen eggs.", "a box of plums.", "what the judge said.", "the long road home."]
    sentences = []
    for k in range(length):  # more than enough
        sentences.append(f"{subjects[k % 5]} {verbs[k * k // 5 % 5]} {objects[(k + k // 7) % 5]}\n")
    return "".join(sentences)[:length]


@pytest.mark.parametrize("program", [PROGRESSION, LANGUAGE_MODEL], ids=lambda program: program.stem)
def test_program_imports_the_class_and_nothing_else_of_the_library(program):
    lines = program.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "jlstm" in line] == ["from jlstm import LSTMNetwork"]
    assert [line for line in lines if re.match(r"\s*(from|import) ", line)] == lines[:2]


def test_progression_is_learned(tmp_path):
    printed = run(PROGRESSION, tmp_path)
    marks = re.findall(r"^predicted last number: \d+, actual: \d+ (✅|❌)$", printed, re.MULTILINE)
    losses = [float(loss) for loss in re.findall(r"^Validation loss (\S+)$", printed, re.MULTILINE)]
    assert 24 <= len(marks) == len(losses) <= 26
    assert marks[-10:].count("✅") >= 8
    assert sorted(losses[-10:])[4] < 0.2


def test_language_model_runs_to_its_end(tmp_path):
    own = text(420)
    assert set("Hello\n") < set(own)
    assert 25 <= len(set(own)) <= 35
    (tmp_path / "shakespeare.txt").write_text(own, encoding="utf-8")
    printed = run(LANGUAGE_MODEL, tmp_path)
    assert printed.startswith("Training...\n")
    assert 24 <= printed.count("Generated text: [Hello") <= 26
    assert printed.endswith("]\n")
