"""Writing text: `jlstm.sampling.generate`, which is one compiled loop, next to Python loops over a single step."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jlstm
from jlstm.sampling import generate

from . import agreement, machine, peers
from .shapes import Shape
from .tables import Column, Table, faster, microseconds, percent, target
from .timing import Run, interleaved

LENGTH = 1024  # characters a call
CHECKED = 20
CASES = ((128, 1), (128, 64), (512, 1), (512, 64))
QUICK_CASES = ((128, 1), (128, 64))


class Loop(NamedTuple):
    """A program that writes.

    Attributes:
        write: `write()`, LENGTH characters in each stream, drawn from the softmax.
        read: `read(ids [time, batch]) -> logits [time, batch, C]`, one step at a time.
    """

    write: Callable[[], Any]
    read: Callable[[np.ndarray], Any]


def measure(run: Run) -> Iterator[Table]:
    """Measure each hidden size with one stream and with 64; all programs must give the same logits for a text first."""
    peak = machine.peak_flops().best
    records: list[dict[str, Any]] = []
    cases = QUICK_CASES if run.quick else CASES
    for k, (hidden, streams) in enumerate(cases):
        case = f"{hidden}, {streams} stream{'s' if streams > 1 else ''}"
        run.progress(f"H={case}", k / len(cases))
        shape = Shape("generation", B=streams, T=CHECKED, I=65, H=hidden, C=65)
        problem = peers.problem_of(shape, steps=1)
        loops = {"own step": jax_loop(peers.jlstm_network(problem), shape)}
        for name in peers.installed():
            loops[name] = torch_loop(problem) if name == "torch" else jax_loop(peers.NETWORKS[name](problem), shape)
        ids = problem.xs[0].argmax(axis=-1)
        wanted = jlstm.forward(problem.params, ids, problem.config)[0].swapaxes(0, 1)
        for name, loop in loops.items():
            agreement.within(f"generation, H={case}, {name}", loop.read(ids.T), wanted, agreement.SCORES)
        programs = {"jlstm": jlstm_writer(problem)} | {name: loop.write for name, loop in loops.items()}
        timings = {name: timing.per(LENGTH) for name, timing in interleaved(programs, run.effort).items()}
        weights = sum(array.nbytes for array in jax.tree.leaves(problem.params) if array.shape != (65, 4 * hidden))
        memory = (weights + 4 * 4 * hidden * streams) / machine.bandwidth(weights)
        arithmetic = 2 * streams * (4 * hidden * hidden + hidden * shape.C) / peak
        least, bound = max((memory, "memory"), (arithmetic, "arithmetic"))
        for name, timing in timings.items():
            record = {
                "case": case,
                "hidden": hidden,
                "streams": streams,
                "program": name,
                "seconds": timing.seconds,
                "spread": timing.spread,
                "share": least / timing.seconds,
                "bound": f"{percent(least / timing.seconds)} {bound}",
            }
            if name != "jlstm":
                ratio = timing.seconds / timings["jlstm"].seconds
                aim = target(ratio, _bound(name, hidden, streams))
                words = "its step" if name == "own step" else name
                record |= {"ratio": ratio, "target": aim, "verdict": faster(ratio, words)}
            records.append(record)
    columns = (
        Column("case", "H", right=False),
        Column("program", "program", right=False),
        Column("seconds", "µs", microseconds),
        Column("spread", "spread", percent),
        Column("bound", "reaches", right=False),
        Column("target", "target", right=False),
        Column("verdict", "ratio", right=False),
    )
    notes = (
        f"µs: for one more character in every stream, of texts of {LENGTH:,}. jlstm: `generate`; the others, and "
        "`own step`: a Python loop over a step (jitted, in JAX) that draws from the softmax.",
        "reaches: the share of the speed that the memory allows (all weights read once a character, as fast as a "
        "matrix-vector product reads so many bytes over and over) or the arithmetic (that of a large matrix product), "
        "whichever is the narrower.",
        *peers.missing_notes(),
    )
    yield Table("generation", "Generation, a character", columns, records, "case", notes)


def _bound(name: str, hidden: int, streams: int) -> float:
    if hidden == 128 and streams == 1:
        return 25.0 if name == "torch" else 5.0
    return 1.5 if name == "torch" else 1.0


def jlstm_writer(problem: peers.Problem) -> Callable[[], np.ndarray]:
    """Return a call of `generate`, as a user would have it."""
    prompts = np.zeros((problem.shape.B, 1), np.int32)
    params = jax.tree.map(jnp.asarray, problem.params)
    return lambda: generate(params, prompts, LENGTH, problem.config, key=jax.random.key(0))


def jax_loop(network: peers.Network, shape: Shape) -> Loop:
    """A Python loop over a jitted step, the characters one-hot vectors."""

    def step(params: Any, state: Any, ids: Array) -> tuple[Array, Any]:
        return network.step(params, state, jax.nn.one_hot(ids, shape.I))

    @jax.jit
    def read_step(params: Any, state: Any, ids: Array) -> tuple[Array, Any]:
        return step(params, state, ids)

    @jax.jit
    def write_step(params: Any, state: Any, ids: Array, key: Array) -> tuple[Array, Any, Array]:
        key, key_draw = jax.random.split(key)
        scores, state = step(params, state, ids)
        return jax.random.categorical(key_draw, scores), state, key

    params = jax.tree.map(jnp.asarray, network.params)

    def write() -> Any:
        ids, state, key = jnp.zeros(shape.B, jnp.int32), network.zero_state(shape.B), jax.random.key(0)
        text = []
        for _ in range(LENGTH):
            ids, state, key = write_step(params, state, ids, key)
            text.append(ids)
        return jax.block_until_ready(text)

    def read(text: np.ndarray) -> list[Array]:
        state, logits = network.zero_state(shape.B), []
        for ids in text:
            scores, state = read_step(params, state, jnp.asarray(ids))
            logits.append(scores)
        return logits

    return Loop(write, read)


def torch_loop(problem: peers.Problem) -> Loop:
    """A Python loop over `nn.LSTM` under `inference_mode`, one step a call with the state carried."""
    import torch

    lstm, linear = peers.torch_network(problem)
    classes = problem.shape.I

    def step(ids: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        x = torch.nn.functional.one_hot(ids, classes).float()
        hs, state = lstm(x[:, None], state)
        return linear(hs[:, 0]), state

    def write() -> Any:
        with torch.inference_mode():
            ids, state, text = torch.zeros(problem.shape.B, dtype=torch.int64), None, []
            for _ in range(LENGTH):
                scores, state = step(ids, state)
                ids = torch.multinomial(scores.softmax(dim=-1), 1)[:, 0]
                text.append(ids)
            return text

    def read(text: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            state, logits = None, []
            for ids in torch.tensor(text):
                scores, state = step(ids, state)
                logits.append(scores.numpy())
            return logits

    return Loop(write, read)
