"""The benchmark's own arithmetic: programs that agree, tables, and fits. No time is asserted anywhere."""

import functools
import os
import re
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from benchmarks import __main__ as command
from benchmarks import (
    addition,
    agreement,
    cells,
    forecasting,
    generation,
    learning,
    machine,
    original,
    peers,
    plot,
    processes,
    shapes,
    subjects,
    tables,
    timing,
)

from jlstm.cells import CELLS

os.environ.setdefault("KERAS_BACKEND", "jax")  # whoever imports Keras first decides

ONE_INPUT = shapes.Shape("one input", B=3, T=5, I=1, H=8, C=6)
FEATURES = shapes.Shape("features", B=3, T=5, I=4, H=8, C=6)
ONE_HOT = shapes.Shape("one-hot", B=3, T=5, I=6, H=8, C=6)


def build(name, shape, mesh=None):
    return peers.peer(name, peers.problem_of(shape, steps=3), mesh)


@pytest.fixture(scope="module")
def references():
    """jlstm's program at two shapes, which trains once only, so that many tests can compare with it."""
    return {shape: frozen(build("jlstm", shape)) for shape in (ONE_INPUT, FEATURES)}


def frozen(program):
    losses, scores, gradient = program.train(), program.forward(), program.gradient()
    return program._replace(train=lambda: losses, forward=lambda: scores, gradient=lambda: gradient)


@pytest.mark.parametrize("shape", [ONE_INPUT, FEATURES], ids=lambda shape: f"I={shape.I}")
@pytest.mark.parametrize("name", peers.PEERS)
def test_peers_agree_with_jlstm(references, name, shape):
    pytest.importorskip(name)
    (agreed,) = agreement.check(references[shape], [build(name, shape)])
    assert agreed.name == name
    assert agreed.scores < 2e-6
    assert agreed.gradient < 1e-5


@pytest.mark.parametrize("name", ["projected", "slstm"])  # the benchmark checks all before it measures them
def test_plain_scans_agree_with_jlstm(name):
    projection = 4 if CELLS[name].projects else None
    problem = peers.problem_of(FEATURES, steps=3, cell=name, projection_size=projection)
    (agreed,) = agreement.check(peers.jlstm_peer(problem), [cells.plain_peer(problem)])
    assert agreed.scores < 2e-6
    assert agreed.gradient < 1e-5


@pytest.mark.parametrize("name", cells.TORCH)
def test_torchs_other_networks_agree_with_jlstm(name):
    pytest.importorskip("torch")
    options, build = cells.TORCH[name]
    problem = peers.problem_of(FEATURES, steps=3, **options)
    if name == "GRU":  # whose inner bias starts at zero, which would hide where it stands
        (layer,), _ = problem.params
        layer = layer._replace(bias_hn=np.linspace(-1, 1, FEATURES.H, dtype=np.float32))
        problem = problem._replace(params=problem.params._replace(layers=(layer,)))
    (agreed,) = agreement.check(peers.jlstm_peer(problem), [peers.torch_peer(problem, build)])
    assert agreed.scores < 2e-6
    assert agreed.gradient < 1e-5


def test_a_problem_with_resets_trains_with_them(references):
    problem = peers.problem_of(FEATURES, steps=3)
    none, everywhere = (problem._replace(resets=np.full(problem.ys.shape, value)) for value in (False, True))
    wanted = references[FEATURES].train()
    np.testing.assert_allclose(peers.jlstm_peer(none).train(), wanted, rtol=1e-6)
    assert not np.allclose(peers.jlstm_peer(everywhere).train(), wanted, rtol=1e-4)


@pytest.mark.parametrize("name", ["jlstm", *peers.PEERS])
def test_single_steps_agree_with_the_whole_text(name):
    if name != "jlstm":
        pytest.importorskip(name)
    problem = peers.problem_of(ONE_HOT, steps=1)
    if name == "torch":
        loop = generation.torch_loop(problem)
    else:
        network = peers.jlstm_network(problem) if name == "jlstm" else peers.NETWORKS[name](problem)
        loop = generation.jax_loop(network, ONE_HOT)
    wanted = np.swapaxes(build("jlstm", ONE_HOT).forward()[0], 0, 1)
    ids = problem.xs[0].argmax(axis=-1)
    assert agreement.within(name, loop.read(ids.T), wanted, agreement.SCORES) < 2e-6


def test_all_agree_when_split_over_two_devices(monkeypatch):
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here}:{here.parent}")
    assert machine.in_fresh_process(Path(__file__).stem, "worst_split_disagreement") < 1e-5


def worst_split_disagreement():
    """Run in a process with two devices."""
    jax.config.update("jax_num_cpu_devices", 2)
    shape = FEATURES._replace(B=4)
    mesh = peers.mesh_of(shape)
    assert mesh.size == 2
    one = build("jlstm", shape)
    split = [build(name, shape, mesh) for name in ("jlstm", *peers.installed()) if name != "torch"]
    split = [program._replace(gradient=one.gradient) for program in split]  # theirs is of one device
    return max(max(agreed[1:]) for agreed in agreement.check(one, split))


def test_peers_that_are_not_installed_are_left_out_and_named(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name in ("torch", "keras") else name)
    assert peers.installed() == ["flax", "equinox"]
    assert peers.missing_notes() == [
        f"{name} is not installed and left out: pip install -e '.[bench]'" for name in ("torch", "keras")
    ]


def test_a_perturbed_weight_fails_loudly(references):
    problem = peers.problem_of(FEATURES, steps=3)
    layer = problem.params.layers[0]
    weight = layer.weight_hh.copy()
    weight[2, 3] += 0.01
    perturbed = problem._replace(params=problem.params._replace(layers=(layer._replace(weight_hh=weight),)))
    with pytest.raises(agreement.Disagreement, match=r"jlstm: scores: differs from jlstm's by .* is allowed"):
        agreement.check(references[FEATURES], [peers.jlstm_peer(perturbed)])


def test_a_wrong_gradient_or_optimiser_fails_loudly(references):
    right = references[FEATURES]
    loss, gradient = right.gradient()
    doubled = right._replace(gradient=lambda: (loss, jax.tree.map(lambda leaf: 2 * leaf, gradient)))
    with pytest.raises(agreement.Disagreement, match=r"gradient: differs"):
        agreement.check(right, [doubled])
    losses = right.train()
    with pytest.raises(agreement.Disagreement, match=r"losses: differs"):
        agreement.check(right, [right._replace(train=lambda: 1.01 * losses)])


@pytest.mark.parametrize(
    ("got", "wanted", "message"),
    [
        (np.array([np.nan]), np.array([1.0]), "differs"),
        (np.ones((1, 2)), np.ones(2), "shapes"),
        (np.array([1.0, 2.3]), np.array([1.0, 2.0]), "differs .* by 0.15 of the largest value; 0.1 is allowed"),
    ],
)
def test_within_names_what_differs(got, wanted, message):
    with pytest.raises(agreement.Disagreement, match=f"logits: .*{message}"):
        agreement.within("logits", got, wanted, 0.1)


def test_flops_are_counted_as_the_table_says():
    shape = shapes.Shape("", B=2, T=3, I=5, H=7, C=11)
    assert shape.forward_flops == 2 * 2 * 3 * (4 * 7 * (5 + 7) + 7 * 11)
    assert shape.training_flops == 3 * shape.forward_flops


def test_data_is_equal_for_all_and_targets_are_one_step_on():
    xs, ys = shapes.draw_data(ONE_HOT, batches=2)
    assert xs.shape == (2, 3, 5, 6)
    assert xs.dtype == np.float32
    np.testing.assert_array_equal(xs.argmax(axis=-1)[..., 1:], ys[..., :-1])
    scalar, _ = shapes.draw_data(ONE_INPUT, batches=2)
    np.testing.assert_allclose(scalar[..., 0] * 6, xs.argmax(axis=-1), rtol=1e-6)


def test_exponent_of_power_laws():
    sizes = [25, 50, 100, 200]
    assert timing.exponent(sizes, [3 * size**1.3 for size in sizes]) == pytest.approx(1.3)
    assert timing.exponent(sizes, [7.0] * 4) == pytest.approx(0)


def test_programs_are_timed_in_turn(monkeypatch):
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    calls = []
    programs = {name: lambda name=name: calls.append(name) for name in "abc"}
    effort = timing.Effort(rounds=5, seconds=0.0, least_rounds=3)
    timings = timing.interleaved(programs, effort)
    assert list(timings) == list(programs)
    assert "".join(calls) == "abc" * 4  # the first to compile, then three rounds
    assert all(len(found.samples) == 3 for found in timings.values())
    calls.clear()
    timing.interleaved(programs, effort._replace(seconds=60.0), ran=True)
    assert "".join(calls) == "abc" * 5


def test_long_calls_are_in_fewer_rounds(monkeypatch):
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(timing, "LONG_SECONDS", 0.02)
    programs = {"long": lambda: time.sleep(0.03), "short": lambda: None}
    timings = timing.interleaved(programs, timing.Effort(rounds=5, seconds=60.0))
    assert {name: len(found.samples) for name, found in timings.items()} == {"long": 3, "short": 5}


def test_progress_tells_what_time_is_left(capsys):
    timing.Run(minutes=4.0, after=6.0, pace=1.5).progress("a shape", 0.5)
    assert "about 12.0 min left  a shape" in capsys.readouterr().err
    assert shapes.done_before(shapes.BY_NAME["wide"], shapes.SHAPES) == 0.6


def test_large_shapes_have_fewer_steps_a_call():
    assert {shape.name: shape.steps for shape in shapes.SHAPES if shape.steps != shapes.STEPS} == {"wide": 5}
    assert all(len(subject.minutes) == len(subject.allocators) for subject in subjects.SUBJECTS.values())


def test_timing_is_the_median_and_the_interquartile_range():
    found = timing.Timing.of([4.0, 1.0, 2.0, 3.0, 100.0])
    assert found.seconds == 3.0
    assert found.spread == pytest.approx(2 / 3)
    assert found.per(3).seconds == 1.0
    assert found.per(3).spread == found.spread


def test_tables_align_group_and_mark_what_is_absent():
    columns = (
        tables.Column("shape", "shape", right=False),
        tables.Column("seconds", "ms", tables.milliseconds),
        tables.Column("target", "target", right=False),
    )
    records = [
        {"shape": "a", "seconds": 1.5},
        {"shape": "a", "seconds": 0.0123, "target": "≥ 1 met"},
        {"shape": "long", "seconds": None},
    ]
    table = tables.Table("t", "Title", columns, records, "shape", [" ".join(["note"] * 30)])
    assert table.text().splitlines() == [
        "Title",
        "shape     ms  target",
        "-----  -----  -------",
        "a      1,500  –",
        "        12.3  ≥ 1 met",
        "long       –  –",
        " ".join(["note"] * 22),
        " ".join(["note"] * 8),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.98765, "0.988"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (99.96, "100"),
        (1234.5, "1,234"),
        (2e-5, "0.000020"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert tables.number(value) == text


def test_targets_say_what_was_aimed_at_and_whether_it_is_met():
    assert tables.target(1.3, 1.2) == "≥ 1.2 met"
    assert tables.target(1.1, 1.2) == "≥ 1.2 MISSED"
    assert tables.target(1.1, 1.2, at_most=True) == "≤ 1.2 met"
    assert tables.target(1.1, None) is None
    assert tables.faster(2.5, "torch") == "jlstm is 2.50 x as fast as torch"


def paper_cost(fixed=0.0, row=0.0, size=0, bandwidth=np.inf, latency=0.0, messages=processes.ring):
    return processes.Cost(processes.Step(fixed, row), size, processes.Link("", bandwidth, latency), messages)


def test_machines_on_paper_compute_at_once_and_then_sum():
    cost = paper_cost(fixed=1.0, row=0.5, size=996, bandwidth=100.0, latency=0.1)
    assert processes.on_paper(1, 6, cost) == 1 + 0.5 * 6
    assert processes.on_paper(4, 6, cost) == pytest.approx(1 + 0.5 * 2 + 2 * 3 / 4 * 1000 / 100 + 2 * 2 * 3 * 0.1)
    by_halves = cost._replace(messages=processes.halving)
    assert by_halves.summing(2) == cost.summing(2)
    assert by_halves.summing(5) == pytest.approx(2 * 4 / 5 * 1000 / 100 + 2 * 2 * 3 * 0.1)


def test_another_machine_pays_until_messages_take_what_it_saves():
    assert processes.most_worthwhile(1024, paper_cost(row=1.0)) == 1024
    assert processes.most_worthwhile(1024, paper_cost(row=1.0, latency=0.25)) == 32  # (1024 / (4 latency)) ** 0.5
    assert processes.most_worthwhile(1024, paper_cost(row=1.0, size=1e9, bandwidth=1e5)) == 1


@pytest.mark.parametrize(
    ("seconds", "step"), [((3.0, 5.0), (1.0, 2.0)), ((1.0, 4.0), (0.0, 2.0)), ((5.0, 3.0), (3, 0))]
)
def test_a_step_is_a_line_through_two_without_negative_parts(seconds, step):
    assert processes.Step.through((1, 2), seconds) == step


@pytest.mark.slow
def test_processes_measure_together_what_one_learns(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(processes, "__package__", "benchmarks")
    network, usable = processes.Network(8, 1, 5), sorted(os.sched_getaffinity(0))
    ((_, wanted),) = processes.together(processes.DEVICES, usable, [("steps", network, 4, 1)])
    (seconds, learned), sums = processes.together(
        processes.PAIR, usable, [("steps", network, 4, 1), ("sums", network, 2)]
    )
    assert len(seconds) == 1
    assert len(sums) == 2
    agreement.within("first loss and gradient", learned, wanted, agreement.GRADIENT)


def test_progressions_follow_their_rule():
    task = learning.PROGRESSIONS["2x + 5 mod 37"]
    sequences = task.sequences(10)
    assert sequences.shape == (37, 11)
    np.testing.assert_array_equal(sequences[:, 1:], (2 * sequences[:, :-1] + 5) % 37)
    assert learning.centred(np.array([0, 25, 50]), 50).tolist() == [-1, 0, 1]


def test_mackey_glass_follows_its_equation(monkeypatch):
    series = forecasting.mackey_glass(300, before=0)
    assert series[0] == 1.2
    monkeypatch.setattr(forecasting, "FINE", 40)
    finer = forecasting.mackey_glass(300, before=0)
    np.testing.assert_allclose(series, finer, atol=1e-5)
    middle, delayed = finer[20:-1], finer[20 - forecasting.TAU : -1 - forecasting.TAU]
    slopes = 0.2 * delayed / (1 + delayed**10) - 0.1 * middle
    np.testing.assert_allclose((finer[21:] - finer[19:-2]) / 2, slopes, atol=0.01)
    assert series.std() > 0.2


def test_few_epochs_leave_questions_open():
    right = learning.answers_right(0, learning.TRIPLE, epochs=1)
    assert isinstance(right, int)
    assert 0 <= right < 950


def test_addition_tells_when_sums_were_right():
    assert addition.reached([(5.0, 0.5), (8.0, 0.99), (11.0, 0.98)]) == (2, 8.0)
    assert addition.reached([(5.0, 0.5)]) == (None, None)


def test_reber_strings_follow_their_grammar():
    rng = np.random.default_rng(0)
    ending = "(XT*VP)*(S|XT*VV)"
    grammar = re.compile(rf"B([TP])B(TS*X{ending}|PT*V(V|P{ending}))E\1E")
    for _ in range(50):
        string, follow = original.reber_string(rng)
        assert grammar.fullmatch(string)
        assert all(symbol in may for symbol, may in zip(string[1:], follow, strict=True))
    drawn = original.reber(rng, 3)
    knows = [np.where(may, 0.4, 0.1)[..., None] for may in drawn.truth]
    assert original.possible_ahead(knows, drawn.truth)
    knows[1][2, np.flatnonzero(drawn.truth[1][2])[-1]] = 0.05
    assert not original.possible_ahead(knows, drawn.truth)


def test_marked_pairs_hold_what_is_to_be_told():
    for multiply in (False, True):
        drawn = original.marked_pairs(np.random.default_rng(0), 200, 20, multiply)
        for pairs, truth in zip(drawn.sequences, drawn.truth, strict=True):
            values = pairs[pairs[:, 1] == 1, 0]
            assert len(values) == 2
            assert 20 <= len(pairs) <= 22
            assert truth[0] == pytest.approx(values.prod() if multiply else 0.5 + values.sum() / 4)


def test_temporal_order_is_the_class():
    drawn = original.temporal_order(np.random.default_rng(0), 50, ((10, 20), (50, 60)))
    for sequence, one_hot in zip(drawn.sequences, drawn.truth, strict=True):
        told = sequence[sequence < 2]
        assert one_hot[told[0] + 2 * told[1]] == 1
        assert sequence[0] == 2
        assert sequence[-1] == 3


def test_all_must_be_within_the_bound_but_those_that_may_be_wrong():
    truth, outputs = np.zeros((3, 1)), np.array([[[0.0]], [[0.1]], [[-0.3]]])
    assert original.within(0.31)(outputs, truth)
    assert not original.within(0.2)(outputs, truth)
    assert original.within(0.2, wrong=1)(outputs, truth)
    assert not original.within(0.31, mean=0.1)(outputs, truth)


def test_presented_sequences_are_counted_until_a_task_is_solved():
    assert all(task.trained * task.epochs < task.paper for task in original.TASKS)
    (task,) = (task for task in original.TASKS if task.name == "3a T = 100, N = 3")
    draw = functools.partial(original.two_sequences, least=10, telling=3)
    easy = task._replace(draw=draw, units=8, trained=64, epochs=60, fresh=32)
    needed = original.sequences_needed(0, easy)
    assert needed is not None
    assert needed % 64 == 0
    assert original.sequences_needed(0, easy._replace(epochs=1)) is None


def test_workers_find_the_same_settings_and_their_own_allocator(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    as_it_comes, raised = (machine.environment(name) for name in machine.ALLOCATORS)
    assert not any(name.startswith("MALLOC_") for name in as_it_comes)
    assert {name: raised[name] for name in raised if name not in as_it_comes} == machine.ALLOCATORS["threshold raised"]
    assert raised["OMP_NUM_THREADS"] == str(machine.THREADS)


def test_the_command_names_its_subjects(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in subjects.SUBJECTS)
    with pytest.raises(SystemExit):
        command.main(["--only", "nothing"])


def test_plot_draws_ratios_and_growth(tmp_path):
    pytest.importorskip("matplotlib")
    steps = [{"shape": "wide", "program": name, "ratio": 0.5 + k} for k, name in enumerate(peers.PEERS)]
    growth = [{"quantity": q, "size": size, "seconds": 1e-3 * size} for q in "TBH" for size in (1, 2, 4)]
    written = [
        {"name": "training", "title": "Training", "records": steps},
        {"name": "growth", "title": "Growth", "records": growth},
    ]
    plot.draw([{"tables": written}], str(tmp_path / "picture.png"))
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="neither was measured"):
        plot.draw([], str(tmp_path / "nothing.png"))
