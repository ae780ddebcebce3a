"""Forecasting: carbon dioxide beside Holt-Winters, a chaotic series in a closed loop, and the time of a value."""

import importlib.util
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jlstm import LSTMNetwork, SeriesWindows

from .tables import Column, Table, microseconds, number, percent, target
from .timing import Run, interleaved

EXAMPLE = Path(__file__).parents[2] / "examples" / "forecasting.py"
REPETITIONS = 200  # simulated paths of Holt-Winters, as many as the example draws

TAU, BETA, GAMMA, POWER, FINE = 17, 0.2, 0.1, 10, 10  # FINE steps a unit of time
KNOWN, CHOSEN_ON, TESTED, TOLD, ORIGINS, APART, AHEAD = 10_000, 10_000, 10_000, 100, 100, 97, 84
SETTINGS = {"hidden_size": 64, "cell": "lstm", "batch_size": 16}
WINDOW, STRIDE, COLD, EPOCHS, RATE, SEEDS = 100, 4, 30, 80, 0.005, 3
CHAOS_BOUND = 0.03
# Jaeger, "The 'echo state' approach to analysing and training recurrent neural networks", GMD Report 148, 2001, 6.4,
# who names what others reached, too.
PUBLISHED = [
    {"what": "echo state network, 400 units (Jaeger 2001)", "values": 3_000, "error": 0.00028},
    {"what": "echo state network, 400 units (Jaeger 2001)", "values": 21_000, "error": 0.00012},
    {"what": "the best before it, 1,200 local models", "values": 6_000, "error": 0.032},
    {"what": "the best before it, 10,000 local models", "values": 50_000, "error": 0.0088},
]

UNITS, HISTORY, STEPS, LOOPED = 64, 100, (100, 1_000, 10_000), 100
MICROSECONDS, TIMES = 15.0, 100.0


def measure(run: Run) -> Iterator[Table]:
    """Measure all three."""
    run.progress("carbon dioxide", 0.0)
    yield _carbon_dioxide(run)
    run.progress("Mackey-Glass", 0.25)
    yield _chaos(run)
    run.progress("the time of a value", 0.9)
    yield _times(run)


def _carbon_dioxide(run: Run) -> Table:
    spec = importlib.util.spec_from_file_location("example_forecasting", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    began = time.perf_counter()
    scores = example.main(["--networks", "2"] if run.quick else [])
    print()
    records = [_of_horizons("examples/forecasting.py", {h: (s.rmse, s.inside) for h, s in scores.items()}, began)]
    records.append(_of_horizons("seasonal naive with drift", {h: (s.naive, None) for h, s in scores.items()}))
    began = time.perf_counter()
    holt_winters = _holt_winters(example, 30 if run.quick else example.EVERY)
    if holt_winters:
        records.append(_of_horizons("Holt-Winters", holt_winters, began))
    columns = [Column("what", "", right=False)]
    for horizon in scores:
        columns.append(Column(f"rmse {horizon}", f"RMSE, {horizon} months", number))
        columns.append(Column(f"inside {horizon}", "inside", percent))
    columns.append(Column("seconds", "s", number))
    notes = (
        "Monthly means in ppm; the last ten years held out, forecasts from every second month of them. inside: how "
        "much of what was measured lies in the 90 % interval.",
        "Holt-Winters: additive trend and season, statsmodels' `ExponentialSmoothing`, fitted anew to all history "
        f"before each origin, its interval from {REPETITIONS} simulated paths.",
    )
    return Table("carbon dioxide", "Carbon dioxide at Mauna Loa", columns, records, notes=notes)


def _of_horizons(
    what: str, scores: dict[int, tuple[float, float | None]], began: float | None = None
) -> dict[str, Any]:
    record: dict[str, Any] = {"what": what}
    for horizon, (rmse, inside) in scores.items():
        record |= {f"rmse {horizon}": rmse, f"inside {horizon}": inside}
    return record if began is None else record | {"seconds": time.perf_counter() - began}


def _holt_winters(example: Any, every: int) -> dict[int, tuple[float, float]] | None:
    """Return what Holt and Winters' exponential smoothing reaches at each horizon; None without statsmodels."""
    try:
        from statsmodels.tsa.holtwinters import ExponentialSmoothing
    except ImportError:
        return None
    ppm = example.monthly_means(2001)
    errors: dict[int, list[np.ndarray]] = {horizon: [] for horizon in example.HORIZONS}
    inside: dict[int, list[np.ndarray]] = {horizon: [] for horizon in example.HORIZONS}
    for k in range(len(ppm) - example.HELD_OUT, len(ppm) - min(example.HORIZONS) + 1, every):
        fitted = ExponentialSmoothing(ppm[:k], trend="add", seasonal="add", seasonal_periods=12).fit()
        told = fitted.forecast(example.LONGEST)
        paths = fitted.simulate(example.LONGEST, anchor="end", repetitions=REPETITIONS, rng=np.random.default_rng(k))
        low, high = np.quantile(paths, (0.05, 0.95), axis=1)
        for horizon in example.HORIZONS:
            if k + horizon <= len(ppm):
                truth = ppm[k : k + horizon]
                errors[horizon].append(told[:horizon] - truth)
                inside[horizon].append((low[:horizon] <= truth) & (truth <= high[:horizon]))
    return {h: (float(np.sqrt(np.mean(np.square(errors[h])))), float(np.mean(inside[h]))) for h in errors}


def mackey_glass(count: int, start: float = 1.2, before: int = 1000) -> np.ndarray:
    """Return the series of Mackey and Glass ("Oscillation and chaos in physiological control systems", 1977).

    x'(t) = β x(t - τ) / (1 + x(t - τ)^n) - γ x(t), by the fourth-order method of Runge and Kutta with FINE steps a unit
    of time, of which one value is kept; the delayed value within a step is that of the cubic through its ends.

    Args:
        count: how many values.
        start: the value at all times up to 0.
        before: how many values are left out first.

    Returns:
        The values, `[count]`.
    """
    step, delay = 1 / FINE, TAU * FINE

    def slope(x: float, delayed: float) -> float:
        return BETA * delayed / (1 + delayed**POWER) - GAMMA * x

    xs, slopes = [start] * (delay + 1), [0.0] * delay
    for k in range((before + count) * FINE):
        x, first, last = xs[-1], xs[k], xs[k + 1]
        slopes.append(slope(x, first))
        middle = start if k < delay else (first + last) / 2 + step / 8 * (slopes[k] - slopes[k + 1])
        second = slope(x + step / 2 * slopes[-1], middle)
        third = slope(x + step / 2 * second, middle)
        fourth = slope(x + step * third, last)
        xs.append(x + step / 6 * (slopes[-1] + 2 * second + 2 * third + fourth))
    return np.array(xs[delay::FINE][before : before + count])


def closed_loop_errors(seed: int, epochs: int = EPOCHS) -> tuple[float, float]:
    """Train a network on the series and return its errors of the next value and AHEAD steps ahead, in deviations."""
    series = mackey_glass(KNOWN + CHOSEN_ON + TESTED)
    known, tested = series[:KNOWN], series[-TESTED:]
    network = LSTMNetwork(1, output_size=1, loss="mse", standardize=True, seed=seed, progress=False, **SETTINGS)
    X, Y = SeriesWindows(known, WINDOW, stride=STRIDE).arrays()
    weights = np.ones(Y.shape[:2])
    weights[:, :COLD] = 0  # before so many values nobody could know the state
    network.train(X, Y, epochs, RATE, weights=weights)
    starts = APART * np.arange(ORIGINS)
    told = network.forecast(np.stack([tested[k : k + TOLD] for k in starts])[..., None], AHEAD)[..., 0, 0]
    truth = np.stack([tested[k + TOLD : k + TOLD + AHEAD] for k in starts])
    of_steps = np.sqrt(np.mean((told - truth) ** 2, axis=0)) / tested.std()
    return float(of_steps[0]), float(of_steps[-1])


def _chaos(run: Run) -> Table:
    began, seeds = time.perf_counter(), 1 if run.quick else SEEDS
    pairs = [closed_loop_errors(seed, EPOCHS // 20 if run.quick else EPOCHS) for seed in range(seeds)]
    seconds = (time.perf_counter() - began) / seeds
    records: list[dict[str, Any]] = [
        {
            "what": f"LSTMNetwork, {SETTINGS['hidden_size']} units, seed {seed}",
            "values": KNOWN,
            "next": one,
            "error": far,
        }
        for seed, (one, far) in enumerate(pairs)
    ]
    middle = statistics.median(far for _, far in pairs)
    records[0] |= {"seconds": seconds, "target": target(middle, CHAOS_BOUND, at_most=True)}
    columns = (
        Column("what", "", right=False),
        Column("values", "values seen", "{:,}".format),
        Column("next", "next", "{:.5f}".format),
        Column("error", f"{AHEAD} ahead", "{:.5f}".format),
        Column("target", "target", right=False),
        Column("seconds", "s each", number),
    )
    notes = (
        f"Errors as a share of the standard deviation (NRMSE): of the next value and {AHEAD} steps ahead in a closed "
        f"loop, from {ORIGINS} places of {TESTED:,} later values, after {TOLD} values read; the target is for the "
        f"median. Between the values seen and these lie {CHOSEN_ON:,} on which the settings were chosen.",
        f"LSTMNetwork: windows of {WINDOW} values, every {STRIDE}th, without the loss of the first {COLD}; {EPOCHS} "
        f"epochs, learning rate {RATE}, batches of {SETTINGS['batch_size']}, standardised.",
        "Published: Jaeger, GMD Report 148, 2001, section 6.4, for τ = 17, 20 trials after 1,000 values read; how many "
        "values the local models saw was not quite clear to him. Of an LSTM no figure for this task was found; Gers, "
        "Eck and Schmidhuber (2001) say that theirs was not superior to networks that read a window of the series.",
    )
    return Table("mackey-glass", f"Mackey-Glass, τ = {TAU}", columns, [*records, *PUBLISHED], notes=notes)


def _times(run: Run) -> Table:
    network = LSTMNetwork(1, UNITS, 1, loss="mse", progress=False)
    history = np.sin(0.3 * np.arange(HISTORY))

    def loop() -> None:
        read = list(history)
        for _ in range(LOOPED):
            read.append(float(network.predict(read[-HISTORY:])[-1, 0, 0]))

    records: list[dict[str, Any]] = []
    for steps in STEPS[: 2 if run.quick else None]:
        programs = {"forecast": lambda steps=steps: network.forecast(history, steps), "loop": loop}
        timings = interleaved(programs, run.effort)
        seconds, looped = timings["forecast"].per(steps).seconds, timings["loop"].per(LOOPED).seconds
        record = {"steps": steps, "seconds": seconds, "spread": timings["forecast"].spread, "loop": looped}
        record |= {"target": target(1e6 * seconds, MICROSECONDS, at_most=True)}
        records.append(record | {"ratio": looped / seconds, "ratio target": target(looped / seconds, TIMES)})
    columns = (
        Column("steps", "steps", "{:,}".format),
        Column("seconds", "µs a value", microseconds),
        Column("spread", "spread", percent),
        Column("target", "target", right=False),
        Column("loop", "loop over predict", microseconds),
        Column("ratio", "times as fast", number),
        Column("ratio target", "target", right=False),
    )
    notes = (
        f"{UNITS} units, {HISTORY} values read first, their time included. The loop calls `predict` with the last "
        f"{HISTORY} values for each next one.",
    )
    return Table("forecast", "The time of a value of `LSTMNetwork.forecast`", columns, records, notes=notes)
