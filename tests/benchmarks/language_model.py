"""A language model's speed: characters a second in training, writing and the exact evaluation of a text."""

import functools
import time
from collections.abc import Iterator

import jax
import numpy as np
import optax

import jlstm
from jlstm.data import Streams
from jlstm.evaluation import evaluate_text
from jlstm.optimizers import Schedule, averaged
from jlstm.sampling import generate
from jlstm.training import fit, trainer

from . import machine
from .tables import Column, Table, number, percent, target
from .timing import Run, Timing, interleaved

CONFIG = jlstm.LSTMConfig(65, 256, 65, inputs="tokens", layers=2, dropout=0.3)
STREAMS, WINDOW = 32, 64
TEXT, EVALUATED, WRITTEN = 1_003_854, 111_540, 2048  # characters
TRAINING_SECONDS = {False: 20.0, True: 4.0}  # quick or not
H, C = CONFIG.hidden_size, CONFIG.output_size
RECURRENT = 2 * 4 * H * H  # the weights of the products that wait for the step before
WEIGHTS = RECURRENT + 4 * H * H + H * C  # of all products; the first layer looks its inputs up


def measure(run: Run) -> Iterator[Table]:
    """Measure training, then in turn writing one text, writing 64 at once, and evaluating."""
    run.progress("training", 0)
    peak, params = machine.peak_flops().best, jlstm.init_params(jax.random.key(0), CONFIG)
    ids = np.random.default_rng(0).integers(C, size=TEXT, dtype=np.int32)
    trained = _trained(params, ids, TRAINING_SECONDS[run.quick])
    rows = [("training, 32 streams x 64", trained, 31_000, 6 * WEIGHTS / peak, 0.0)]
    run.progress("writing and evaluating", 0.5)
    programs = {
        n: functools.partial(generate, params, np.zeros((n, 1), int), WRITTEN, CONFIG, key=jax.random.key(0))
        for n in (1, 64)
    }
    timings = interleaved({**programs, "all": lambda: evaluate_text(params, ids[:EVALUATED], CONFIG)}, run.effort)
    memory, recurrent = (4 * count / machine.bandwidth(4 * count) for count in (WEIGHTS, RECURRENT))
    forward = 2 * WEIGHTS / peak
    rows += [
        ("writing, 1 stream", timings[1].per(WRITTEN), 15_000, forward, memory),
        ("writing, 64 streams", timings[64].per(64 * WRITTEN), 80_000, forward, memory / 64),
        (f"evaluating {EVALUATED:,}", timings["all"].per(EVALUATED), EVALUATED // 10, forward, recurrent),
    ]
    records = []
    for what, timing, aim, arithmetic, reading in rows:
        least, bound = max((arithmetic, "arithmetic"), (reading, "memory"))
        share, rate = least / timing.seconds, 1 / timing.seconds
        records.append({"what": what, "rate": rate, "spread": timing.spread, "share": share})
        records[-1] |= {"bound": f"{percent(share)} {bound}", "target": target(rate, aim)}
    columns = (
        Column("what", "what", right=False),
        Column("rate", "characters a second", number),
        Column("spread", "spread", percent),
        Column("bound", "reaches", right=False),
        Column("target", "target", right=False),
    )
    notes = (
        f"2 layers of {H}, {C} characters, dropout {CONFIG.dropout}; training: `fit` over `Streams`, all devices; "
        f"writing: `generate`; evaluating: `evaluate_text`, aimed at 10 s, took {timings['all'].seconds:.1f} s.",
        "reaches: the share of what the arithmetic allows (2 flops a weight, 6 in training, no look-up counted) or the "
        "memory (weights read once a character; in evaluating, the recurrent ones), whichever is the narrower.",
    )
    yield Table("language-model", "A language model, characters a second", columns, records, notes=notes)


def _optimizer(rate: optax.Schedule) -> optax.GradientTransformation:
    adamw = optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=0.05)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw, averaged(0.999))


def _trained(params: jlstm.ModelParams, ids: np.ndarray, seconds: float) -> Timing:
    """Train for some seconds and return the time of a character, from one compiled call to the next."""
    data = Streams(ids, STREAMS, WINDOW)
    state = trainer(CONFIG, _optimizer(optax.constant_schedule(0.0))).init(params, jax.random.key(0))
    schedule = Schedule(0.003, 0.0, 0, 0.0, float(data.windows), 1e6)
    reports = fit(state, schedule, data, epochs=100, batch_size=STREAMS, config=CONFIG, optimizer=_optimizer)
    times, parts = [], []
    for report in reports:
        times.append(time.perf_counter())
        parts.append(report.epoch + report.part)
        if len(times) > 6 and times[-1] > times[0] + seconds:
            break
    # The first call is compiled, the second is of one step only.
    return Timing.of((np.diff(times) / np.diff(parts) / (data.windows * STREAMS * WINDOW))[1:].tolist())
