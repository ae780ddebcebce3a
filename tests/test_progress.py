"""What a person sees while a network trains, on a terminal and elsewhere, with a clock of the test's own."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from jlstm import CharLM, LSTMNetwork, Streams, Windows, network, progress
from jlstm.progress import Progress


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def screen(self):
        """The lines that a person sees: a carriage return goes to a line's begin, and what comes then overwrites it."""
        lines = []
        for line in self.getvalue().split("\n"):
            seen = ""
            for part in line.split("\r"):
                seen = part + seen[len(part) :]
            lines.append(seen.rstrip())
        return lines


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until a test sets its `now`."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def stream(monkeypatch, terminal):
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


@pytest.mark.parametrize(
    ("epochs_done", "loss", "speed", "validation", "line"),
    [
        (5, 0.25, 150.0, None, "epoch 5/10 | loss 0.2500 | 150 sequences/s | 0:05 left"),
        (5, 0.25, 150.0, 1.5, "epoch 5/10 | loss 0.2500 | validation 1.5000 | 150 sequences/s | 0:05 left"),
        (0.5, 3.0, 7.5, None, "epoch 1/10 | loss 3.0000 | 8 sequences/s | 3:10 left"),
        (2.5, 0.00004, 37_500.0, None, "epoch 2/10 | loss 0.0000 | 37,500 sequences/s | 0:00 left"),
        (5, 12.5, 750 / 3599.4, None, "epoch 5/10 | loss 12.5000 | 0 sequences/s | 59:59 left"),
        (5, 12.5, 750 / 3600, None, "epoch 5/10 | loss 12.5000 | 0 sequences/s | 1:00:00 left"),
        (1, 12.5, 0.015, None, "epoch 1/10 | loss 12.5000 | 0 sequences/s | 25:00:00 left"),
        (10, 0.125, 25.0, None, "epoch 10/10 | loss 0.1250 | 25 sequences/s | 0:00 left"),
        (0.1, 3.0, None, None, "epoch 1/10 | loss 3.0000"),
        (1, 3.0, None, 2.5, "epoch 1/10 | loss 3.0000 | validation 2.5000"),
    ],
    ids=["seconds", "validation", "minutes", "fast", "under an hour", "an hour", "a day", "end", "first", "one epoch"],
)
def test_line(epochs_done, loss, speed, validation, line):
    assert Progress(epochs=10, items=150).line(epochs_done, loss, speed, validation) == line


def test_line_says_how_much_of_the_held_out_data_is_right():
    line = Progress(epochs=10, items=150).line(1, 3.0, None, 2.5, 0.9876)
    assert line == "epoch 1/10 | loss 3.0000 | validation 2.5000, 98.8% right"


def test_plain_lines_are_occasional(clock, monkeypatch):
    err = stream(monkeypatch, terminal=False)
    shown = Progress(epochs=100, items=150)
    for epoch in range(1, 101):  # half a second each
        clock.now += 0.5
        shown.update(epoch, 1 / epoch)
        shown.clear()
    assert "\r" not in err.getvalue()
    assert [line.split(" |")[0] for line in err.screen()] == [f"epoch {k}/100" for k in (20, 40, 60, 80, 100)] + [""]
    assert err.screen()[0] == "epoch 20/100 | loss 0.0500 | 300 sequences/s | 0:40 left"


def test_short_training_shows_its_end(clock, monkeypatch):
    err = stream(monkeypatch, terminal=False)
    shown = Progress(epochs=2, items=10)
    for epoch in (1, 2):
        clock.now += 0.5
        shown.update(epoch, 1.0)
    assert err.screen() == ["epoch 2/2 | loss 1.0000 | 20 sequences/s | 0:00 left", ""]


def test_terminal_has_one_line_that_renews_itself(clock, monkeypatch):
    err = stream(monkeypatch, terminal=True)
    shown = Progress(epochs=3, items=10)
    screens = [err.screen()]
    for done, seconds in ((0.001, 20), (1, 20), (1.5, 0.01), (2, 10), (3, 0.5)):
        clock.now += seconds
        shown.update(done, 1.0)
        screens.append(err.screen())
    assert screens == [
        ["compiling"],
        ["epoch 1/3 | loss 1.0000"],  # after 20 seconds, most of them the compiler's
        ["epoch 1/3 | loss 1.0000 | 0 sequences/s | 0:40 left"],
        ["epoch 1/3 | loss 1.0000 | 0 sequences/s | 0:40 left"],  # too soon
        ["epoch 2/3 | loss 1.0000 | 1 sequences/s | 0:15 left"],
        ["epoch 3/3 | loss 1.0000 | 1 sequences/s | 0:00 left", ""],
    ]


def test_cleared_line_leaves_the_terminal_empty(clock, monkeypatch):
    err = stream(monkeypatch, terminal=True)
    shown = Progress(epochs=3, items=10)
    shown.clear()
    assert err.screen() == [""]
    clock.now += 1
    shown.update(1, 1.0)
    shown.clear()
    assert err.screen() == [""]
    err.write("printed by a callback\n")
    clock.now += 1
    shown.update(2, 1.0)
    assert err.screen() == ["printed by a callback", "epoch 2/3 | loss 1.0000 | 10 sequences/s | 0:01 left"]


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])
def test_training_clears_the_line_before_the_callback_prints(monkeypatch, terminal):
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.0)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    err = stream(monkeypatch, terminal)
    shown = []

    def callback():
        shown.append(len(err.getvalue()))
        assert err.screen()[-1] == ""
        print("callback", file=err)

    data = np.zeros((4, 5)), np.zeros((4, 5), int)
    LSTMNetwork(1, 4, 3).train(*data, epochs=3, periodic_callback=callback, callback_every=1, validation=data)
    assert len(shown) == 3
    assert shown[0] > 0
    lines = [line for line in err.screen() if line]
    assert lines.count("callback") == 3
    assert lines[-2].startswith("epoch 3/3 | loss ")
    assert " | validation " in lines[-2]
    assert ("\r" in err.getvalue()) == terminal


def train_a_network():
    with pytest.raises(KeyboardInterrupt):
        LSTMNetwork(1, 4, 3).train(np.zeros((4, 5)), np.zeros((4, 5), int), epochs=3)


def train_a_model(**options):
    text = "to be or not to be " * 9
    CharLM.train(text, hidden_size=4, layers=1, dropout=0, epochs=3, streams=2, window=9, **options)


@pytest.mark.parametrize("train", [train_a_network, train_a_model])
def test_training_that_is_interrupted_leaves_the_cursor_on_a_line_of_its_own(monkeypatch, train):
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.0)
    err, update = stream(monkeypatch, terminal=True), Progress.update

    def interrupted(self, epochs_done, *losses):
        update(self, epochs_done, *losses)
        if epochs_done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", interrupted)
    train()
    assert err.screen()[-1] == ""  # where the traceback begins


def test_a_second_training_shows_no_validation_before_it_has_one(monkeypatch):
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.0)
    data = np.zeros((64, 5)), np.zeros((64, 5), int)
    net = LSTMNetwork(1, 4, 3, batch_size=1)  # of many calls an epoch
    for _ in range(2):
        err = stream(monkeypatch, terminal=True)
        net.train(*data, epochs=2, validation=data)
        lines = err.getvalue().replace("\n", "").split("\r")[1:]
        assert "compiling" in lines[0]
        assert "epoch 1/2" in lines[1]
        assert "validation" not in lines[1]
        assert "validation" in lines[-1]


def test_sequences_that_are_counted_are_those_of_an_epoch(monkeypatch):
    counted = []
    monkeypatch.setattr(network, "Progress", lambda epochs, items: counted.append((epochs, items)) or Progress(1, 1))
    net, text = LSTMNetwork(1, 4, 3), np.arange(50) % 3
    net.train(np.zeros((7, 5)), np.zeros((7, 5), int), epochs=0)
    net.train(Windows(text, 5), epochs=0)
    net.train(Streams(text, streams=3, length=5), epochs=0)
    assert counted == [(0, 7), (0, 45), (0, 9)]


class Gone(Stream):
    """A terminal that goes away while the training runs."""

    def write(self, text):
        if "epoch" in text:
            raise OSError(5, "Input/output error")
        return super().write(text)


class Logger:
    """What some programs put in place of standard error: it writes, and has nothing else."""

    def write(self, text):
        pass


def closed():
    stream = Stream(terminal=True)
    stream.close()
    return stream


@pytest.mark.parametrize(
    "terminal", [None, Logger(), closed(), Gone(True), Gone(False)], ids=lambda t: type(t).__name__
)
@pytest.mark.parametrize("kind", ["network", "model"])
def test_a_display_that_fails_is_switched_off_and_the_training_goes_on(monkeypatch, capsys, terminal, kind):
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.0)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal)
    calls = []
    if kind == "model":
        train_a_model(callback=lambda *check: calls.append(check))
    else:
        data = np.zeros((4, 5)), np.zeros((4, 5), int)
        options = {"callback_every": 1, "periodic_callback": lambda: calls.append(1), "validation": data}
        assert len(LSTMNetwork(1, 4, 3).train(*data, epochs=3, **options).loss) == 3
    assert len(calls) == 3
    assert capsys.readouterr().out == ""


def test_training_that_ends_early_leaves_the_line_where_it_ended(capsys):
    shown = Progress(epochs=9, items=10)
    for epoch in (1, 2):
        shown.update(epoch, 1 / epoch, 0.5, 0.25)
    shown.close()
    shown.close()
    assert capsys.readouterr().err == "epoch 2/9 | loss 0.5000 | validation 0.5000, 25.0% right\n"
