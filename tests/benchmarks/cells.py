"""The cells: each against itself in a plain scan, a GRU and both directions against torch's; what leaving out costs.

The plain scan is what one would write for a cell without this library: the same step, mapped over the batch by
`jax.vmap`, in `lax.scan`, and the gradient that JAX takes of that.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jlstm
from jlstm.cells import CELLS
from jlstm.cells.cell import zero_states
from jlstm.cells.gru import GRUParams
from jlstm.devices import mesh_for
from jlstm.model import read_out, weights_of

from . import agreement, peers, shapes
from .tables import Column, Table, faster, milliseconds, percent, target
from .timing import Effort, Run, interleaved

SHAPES = tuple(shapes.BY_NAME[name] for name in ("shakespeare", "char-rnn"))
KINDS = {"train": "training step", "forward": "forward pass"}
EFFORT = Effort(seconds=15.0)

PLAIN_TRAINING, PLAIN = {"shakespeare": 1.2}, 1.0  # how much faster than the plain scan, there and everywhere
TORCH_TRAINING = {"shakespeare": 1.3, "char-rnn": 1.0}

LEFT_OUT = {
    "recurrent_dropout=0.3": {"recurrent_dropout": 0.3},
    "zoneout=0.1": {"zoneout": 0.1},
    "weight_dropout=0.3": {"weight_dropout": 0.3},
    "input_dropout=0.3": {"input_dropout": 0.3},
}
RESETS, RESET_SHARE = "resets at 10 % of the steps", 0.1
COST, RESETS_COST = 0.15, 0.03  # at most, as parts of the training step without


def measure(run: Run) -> Iterator[Table]:
    """Measure every cell, then torch's two networks, then what training leaves out and resets."""
    chosen = shapes.QUICK if run.quick else SHAPES
    yield _beside_plain(run, chosen)
    if importlib.util.find_spec("torch") is not None:
        yield _beside_torch(run, chosen)
    yield _cost(run, chosen)


# --- a cell against itself in a plain scan ---


def _beside_plain(run: Run, chosen: tuple[shapes.Shape, ...]) -> Table:
    records: list[dict[str, Any]] = []
    cases = [(shape, name) for shape in chosen for name in CELLS]
    for k, (shape, name) in enumerate(cases):
        run.progress(f"{name} beside its plain scan, {shape}", 0.75 * k / len(cases))
        problem = peers.problem_of(shape, cell=name, projection_size=shape.H // 2 if CELLS[name].projects else None)
        mesh = mesh_for(shape.B, weights_of(problem.params))
        bounds = {"train": PLAIN_TRAINING.get(shape.name, PLAIN), "forward": PLAIN}
        records += _compared(problem, mesh, plain_peer(problem, mesh), name, bounds, run)
    notes = (
        "plain scan: the cell's own step mapped over the batch in lax.scan, with JAX's own gradient of it; the same "
        "loss, readout and optimiser, over the same devices.",
        "layer_norm: of the one number that shakespeare reads, layer normalisation leaves the sign alone.",
    )
    return _table("cells", "Every cell beside the same one in a plain scan", "plain scan", records, notes)


def plain_peer(problem: peers.Problem, mesh: Any = None) -> peers.Peer:
    """The network of a problem with its cell given as a function of a batch, which nothing but JAX differentiates."""
    cell = problem.config.cell
    step = jax.vmap(cell.step, in_axes=(None, 0, 0))

    def scores(params: jlstm.ModelParams, xs: Array) -> Array:
        (layer,), readout = params
        state = zero_states(cell, layer, (xs.shape[0],))
        _, hs = lax.scan(functools.partial(step, layer), state, jnp.swapaxes(xs, 0, 1))
        return read_out(readout, jnp.swapaxes(hs, 0, 1))

    network = peers.Network(problem.params, scores, unpack=lambda params: params)
    return peers.jax_peer("plain scan", network, problem, mesh, loss=jlstm.cross_entropy)


# --- a GRU and both directions against torch ---


def _beside_torch(run: Run, chosen: tuple[shapes.Shape, ...]) -> Table:
    records: list[dict[str, Any]] = []
    cases = [(shape, name) for shape in chosen for name in TORCH]
    for k, (shape, name) in enumerate(cases):
        run.progress(f"{name} beside torch's, {shape}", 0.75 + 0.1 * k / len(cases))
        options, build = TORCH[name]
        problem = peers.problem_of(shape, **options)
        other = peers.torch_peer(problem, build)
        bounds = {"train": TORCH_TRAINING[shape.name]}
        records += _compared(problem, mesh_for(shape.B, weights_of(problem.params)), other, name, bounds, run)
    notes = (
        "torch as it comes, with two threads; of its second biases, those that only add to the first ones are zero and "
        "stay it.",
    )
    return _table("cells beside torch", "A GRU and an LSTM in both directions beside torch's", "torch", records, notes)


class TorchGRU(NamedTuple):
    """`nn.GRU` and `nn.Linear`; of the second bias, the part within the reset product is `bias_hn`."""

    recurrent: Any
    linear: Any

    def unpack(self, of: Callable[[Any], Any]) -> jlstm.ModelParams:
        """Return what `of` gives for each parameter, as jlstm's."""
        gru, linear = self
        inside = of(gru.bias_hh_l0)[2 * gru.hidden_size :]
        layer = GRUParams(of(gru.weight_ih_l0), of(gru.weight_hh_l0), of(gru.bias_ih_l0), inside)
        return jlstm.ModelParams((layer,), jlstm.Readout(of(linear.weight).T, of(linear.bias)))


def torch_gru(problem: peers.Problem) -> TorchGRU:
    """torch: its gates stand in jlstm's order."""
    import torch

    torch.set_num_threads(peers.THREADS)
    shape, (layer,), readout = problem.shape, *problem.params
    gru, linear = torch.nn.GRU(shape.I, shape.H, batch_first=True), torch.nn.Linear(shape.H, shape.C)
    within = np.repeat(np.float32([0, 0, 1]), shape.H)
    peers.carry(
        {
            gru.weight_ih_l0: layer.weight_ih,
            gru.weight_hh_l0: layer.weight_hh,
            gru.bias_ih_l0: layer.bias,
            gru.bias_hh_l0: within * np.tile(layer.bias_hn, 3),
            linear.weight: readout.weight.T,
            linear.bias: readout.bias,
        }
    )
    mask = torch.tensor(within)
    gru.bias_hh_l0.register_hook(lambda gradient: gradient * mask)  # or two biases would learn at twice the rate
    return TorchGRU(gru, linear)


class TorchBoth(NamedTuple):
    """`nn.LSTM` that reads in both directions, and `nn.Linear`."""

    recurrent: Any
    linear: Any

    def unpack(self, of: Callable[[Any], Any]) -> jlstm.ModelParams:
        """Return what `of` gives for each parameter, as jlstm's."""
        lstm, linear = self
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
        both = (jlstm.LSTMParams(*(of(getattr(lstm, name + way)) for name in names)) for way in ("", "_reverse"))
        readout = jlstm.Readout(of(linear.weight).T, of(linear.bias))
        return jlstm.ModelParams((jlstm.Bidirectional(*both),), readout)


def torch_both(problem: peers.Problem) -> TorchBoth:
    """torch: the second biases zero and frozen."""
    import torch

    torch.set_num_threads(peers.THREADS)
    shape = problem.shape
    lstm = torch.nn.LSTM(shape.I, shape.H, batch_first=True, bidirectional=True)
    network = TorchBoth(lstm, torch.nn.Linear(2 * shape.H, shape.C))
    parameters = network.unpack(lambda parameter: parameter)
    peers.carry(dict(zip(jax.tree.leaves(parameters.layers), jax.tree.leaves(problem.params.layers), strict=True)))
    # The readout's weight is turned, so what `unpack` gives of it is no parameter.
    peers.carry(dict(zip(network.linear.parameters(), (array.T for array in problem.params.readout), strict=True)))
    for second in (lstm.bias_hh_l0, lstm.bias_hh_l0_reverse):
        peers.carry({second: np.zeros(4 * shape.H, np.float32)})
        second.requires_grad_(False)
    return network


TORCH: dict[str, tuple[dict[str, Any], Callable]] = {
    "GRU": ({"cell": "gru"}, torch_gru),
    "LSTM, both directions": ({"bidirectional": True}, torch_both),
}


# --- two programs at one problem ---


def _compared(
    problem: peers.Problem, mesh: Any, other: peers.Peer, name: str, bounds: dict[str, float], run: Run
) -> list[dict[str, Any]]:
    """Measure jlstm and another program in turn, once they agree."""
    ours = peers.jlstm_peer(problem, mesh)
    (agreed,) = agreement.check(ours, [other])
    records = []
    for kind, what in KINDS.items():
        calls = {"jlstm": getattr(ours, kind), "other": getattr(other, kind)}
        timings = interleaved(calls, run.effort if run.quick else EFFORT, ran=True)
        timings = {program: timing.per(problem.shape.steps) for program, timing in timings.items()}
        ratio = timings["other"].seconds / timings["jlstm"].seconds
        records.append(
            {
                "shape": problem.shape.name,
                "what": name,
                "kind": what,
                "jlstm": timings["jlstm"].seconds,
                "jlstm spread": timings["jlstm"].spread,
                "other": timings["other"].seconds,
                "other spread": timings["other"].spread,
                "devices": mesh.size if mesh else 1,
                "scores": agreed.scores,
                "gradient": agreed.gradient,
                "ratio": ratio,
                "target": target(ratio, bounds.get(kind)),
                "verdict": faster(ratio, other.name),
            }
        )
    return records


def _table(name: str, title: str, other: str, records: list[dict[str, Any]], notes: tuple[str, ...]) -> Table:
    columns = (
        Column("shape", "shape", right=False),
        Column("what", "network", right=False),
        Column("kind", "what", right=False),
        Column("jlstm", "jlstm, ms", milliseconds),
        Column("jlstm spread", "spread", percent),
        Column("other", f"{other}, ms", milliseconds),
        Column("other spread", "spread", percent),
        Column("devices", "devices"),
        Column("target", "target", right=False),
        Column("verdict", "ratio", right=False),
    )
    worst = {key: max(record[key] for record in records) for key in ("scores", "gradient")}
    agreed = (
        f"agreement, checked first: logits differ by {worst['scores']:.1e} at the most, gradients by "
        f"{worst['gradient']:.1e}, as parts of the largest value."
    )
    return Table(name, title, columns, records, "shape", (*notes, agreed))


# --- what training leaves out, and resets ---


def _cost(run: Run, chosen: tuple[shapes.Shape, ...]) -> Table:
    """Measure what each of these adds to the training step of the LSTM, all in turn."""
    records: list[dict[str, Any]] = []
    for k, shape in enumerate(chosen):
        run.progress(f"what training leaves out, {shape}", 0.85 + 0.15 * k / len(chosen))
        plain = peers.problem_of(shape)
        problems = {"none": plain, RESETS: plain._replace(resets=_resets(plain.ys.shape))}
        problems |= {name: peers.problem_of(shape, **options) for name, options in LEFT_OUT.items()}
        mesh = mesh_for(shape.B, weights_of(plain.params))
        programs = {name: peers.jlstm_peer(problem, mesh).train for name, problem in problems.items()}
        timings = interleaved(programs, run.effort)
        for name, timing in timings.items():
            cost = timing.seconds / timings["none"].seconds - 1
            bound = None if name == "none" else RESETS_COST if name == RESETS else COST
            record = {"shape": shape.name, "what": name, "cost": None if name == "none" else cost}
            record |= {"seconds": timing.seconds / shape.steps, "spread": timing.spread}
            records.append(record | {"target": target(100 * cost, bound and 100 * bound, at_most=True)})
    columns = (
        Column("shape", "shape", right=False),
        Column("what", "what", right=False),
        Column("seconds", "ms a step", milliseconds),
        Column("spread", "spread", percent),
        Column("cost", "costs, %", lambda cost: f"{100 * cost:.1f}"),
        Column("target", "target, %", right=False),
    )
    notes = ("each alone, in the training step of an LSTM, its random numbers drawn anew at every step.",)
    return Table("left out", "What leaving out and resets cost in training", columns, records, "shape", notes)


def _resets(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).random(shape) < RESET_SHARE
