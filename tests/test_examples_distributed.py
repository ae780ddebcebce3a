"""The example of several processes, as a user starts it: what they learn together, and how they end."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_documented import text
from test_examples import EXAMPLES, entropy, example, run

from jlstm import CharLM

TEXT = text(5000)
FIRST, LAST = TEXT[:4500], TEXT[4500:]
SMALL = {"hidden": 32, "streams": 4, "epochs": 20}


@pytest.fixture
def command(tmp_path):
    """The arguments of a small training by two processes, in files of its own."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    files = {"model": tmp_path / "model.npz", "checkpoint": tmp_path / "training"}
    options = [str(word) for name, value in (files | SMALL).items() for word in (f"--{name}", value)]
    return [str(tmp_path / "text.txt"), "--processes", "2", *options]


def test_two_processes_learn_what_one_does(command, tmp_path):
    printed = run("distributed", *command)
    found = CharLM.load(tmp_path / "model.npz").evaluate(LAST).nats
    assert f"validation: {found:.4f} nats a character; the model is in {tmp_path}/model.npz" in printed
    alone = CharLM.train(FIRST, validation=LAST, hidden_size=32, streams=4, epochs=20, check_every=2, progress=False)
    assert found == pytest.approx(alone.evaluate(LAST).nats, abs=1e-4)
    assert found < entropy(TEXT) - 1


def test_says_before_it_starts_any_what_is_missing(command, tmp_path):
    main = example("distributed").main
    with pytest.raises(SystemExit, match=r"no\.txt can not be read as a text: No such file or directory"):
        main([str(tmp_path / "no.txt"), *command[1:]])
    with pytest.raises(SystemExit, match=r"There is no folder .*/no to write the model into"):
        main([*command, "--model", str(tmp_path / "no" / "model.npz")])
    assert not (tmp_path / "training").exists()


@pytest.mark.parametrize(
    ("end", "words"),
    [("sys.exit(3)", "ended with status 3"), ("os.kill(os.getpid(), 9)", r"was ended by signal 9 \(SIGKILL\)")],
    ids=["status", "signal"],
)
def test_says_which_process_ended_and_leaves_none_behind(tmp_path, monkeypatch, capfd, end, words):
    """With a program in its place of which process 1 ends badly, and the others never, not by SIGTERM either."""
    module, program = example("distributed"), tmp_path / "program.py"
    lines = ["import os, signal, sys, time", "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "print(os.getpid())"]
    lines += ["sys.stdout.flush()", f"{end} if sys.argv[-1] == '1' else (time.sleep(60), print('outlived'))"]
    program.write_text("\n".join(lines))
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(module, "__file__", str(program))
    monkeypatch.setattr(module, "LOST_SECONDS", 0.5)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as stopped:
            module.main([str(tmp_path / "text.txt"), "--processes", "3", "--checkpoint", str(tmp_path / "training")])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stopped.value.code == 1
    printed, said = capfd.readouterr()
    first, last = said.splitlines()
    assert re.fullmatch(f"distributed.py: process 1 {words}; the others find out, and end too", first)
    assert last.endswith(f"nothing is in {tmp_path}/training yet; the same command starts from the beginning")
    for pid in map(int, printed.split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class Started:
    """The example as a terminal has it: with its processes in a group of its own."""

    def __init__(self, command):
        environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent)}
        program = [sys.executable, str(EXAMPLES / "distributed.py"), *command]
        self.text, self.lock = command[0], Path(command[0]).parent / "training" / "lock"
        self.lock.unlink(missing_ok=True)  # of one that ended
        self.process = subprocess.Popen(
            program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def wait_until_it_trains(self):
        """Wait for the lock on its folder, and a moment more, until signals are heeded."""
        last = time.monotonic() + 60  # on a busy machine
        while not self.lock.exists():
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < last
            time.sleep(0.1)
        time.sleep(1)

    def pid_of(self, number):
        """The process id of one of the processes."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            words = path.read_text().split("\0") if path.exists() else []
            if self.text in words and words[-3:] == ["--process", str(number), ""]:
                return int(path.parent.name)
        raise AssertionError(f"process {number} does not run")

    def ended(self):
        """The status and what was said at the end, with no process left behind."""
        _, said = self.process.communicate(timeout=120)
        with pytest.raises(ProcessLookupError):
            os.killpg(self.process.pid, 0)
        return self.process.returncode, said


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="only Linux tells which process is which")
def test_goes_on_after_it_was_ended_and_after_a_process_was_killed(command, tmp_path):
    started = Started(command)
    started.wait_until_it_trains()
    started.process.terminate()
    status, said = started.ended()
    assert status == 128 + signal.SIGTERM, said
    safe = f"distributed.py: the training is safe in {tmp_path}/training; the same command goes on from there\n"
    assert "SIGTERM ended the training" in said
    assert said.endswith(safe)
    assert (tmp_path / "training" / "training-1.npz").exists()
    assert not (tmp_path / "training" / "training-0.npz").exists()

    started = Started(command)
    started.wait_until_it_trains()
    os.kill(started.pid_of(1), signal.SIGKILL)
    status, said = started.ended()
    assert status == 1, said
    assert "distributed.py: process 1 was ended by signal 9 (SIGKILL); the others find out, and end too\n" in said
    assert said.endswith(safe)
    assert not (tmp_path / "model.npz").exists()

    status, said = Started(command).ended()
    assert status == 0, said
    assert (tmp_path / "training" / "training-0.npz").exists()  # the second that was written: it went on
    assert CharLM.load(tmp_path / "model.npz").evaluate(LAST).nats < entropy(TEXT) - 1


@pytest.mark.slow
def test_ctrl_c_ends_all_and_keeps_what_was_learned(command, tmp_path):
    started = Started([*command, "--epochs", "2000"])
    started.wait_until_it_trains()
    os.killpg(started.process.pid, signal.SIGINT)  # as a terminal does
    status, said = started.ended()
    assert status == 128 + signal.SIGINT, said
    assert said.endswith("the same command goes on from there\n")
    assert (tmp_path / "training" / "training-1.npz").exists()
    assert 0 < float(CharLM.load(tmp_path / "model.npz").trained_on.split()[-2]) < 2000
