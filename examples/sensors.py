"""Hourly readings of three pumps in a CSV: how warm will each be in 24 hours, and will it fail by then?

Two networks read windows of 48 hours. They train on the first 70 % of the days; the next 15 % say when to stop and when
to warn, the last 15 % how good they are. They are kept in files beside the CSV, and read each pump's latest 48 hours.
"""

import argparse
import csv
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np

from jlstm import LSTMNetwork, SeriesWindows

READINGS = ["vibration_m", "flow_m3_s", "current_A", "temperature_C", "speed_rpm", "pressure_Pa"]
TEMPERATURE, LENGTH, AHEAD = READINGS.index("temperature_C"), 48, 24  # a row for every hour, if only with empty cells
MISSED = 5  # how many times as bad a missed failure is as a false alarm


def make(path, hours=(4500, 3800, 3000), seed=0):
    """Write readings of pumps that wear until they fail; they began at different times, and some readings are lost."""
    rng, end = np.random.default_rng(seed), datetime(2025, 6, 30, 23)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "pump", *READINGS, "failed"])
        for pump, count in zip("ABC", hours, strict=True):
            drift, heat, wear, life = 0.0, 55.0, rng.uniform(), rng.uniform(150, 450)
            for time in (end - timedelta(hours=k) for k in reversed(range(count))):
                drift = 0.95 * drift + rng.normal(scale=0.05)
                load = 0.7 + 0.2 * np.sin((time.hour - 9) * np.pi / 12) + drift
                heat += 0.2 * (30 + 35 * load + 12 * wear**4 - heat)
                means = [1e-3 + 2e-3 * wear**6, 0.05 * load, 8 + 6 * load, heat, 1500 - 40 * load, 1.2e5 + 4e4 * load]
                values = rng.normal(means, [2e-4, 1e-3, 0.3, 0.5, 3, 1e3])
                cells = ["" if rng.random() < 0.02 else f"{value:.6g}" for value in values]
                writer.writerow([time, pump, *cells, "yes" if wear > 1 else "no"])
                wear, life = (0.0, rng.uniform(150, 450)) if wear > 1 else (wear + rng.exponential(1 / life), life)


def read(path):
    """Return of each pump the times, the readings `[time, 6]` with NaN for gaps, and at which times it failed."""
    try:
        import pandas

        columns = pandas.read_csv(path, parse_dates=["time"], float_precision="round_trip")
    except ImportError:
        with open(path, newline="") as file:
            header, *rows = ([cell or "nan" for cell in row] for row in csv.reader(file))
        columns = dict(zip(header, np.array(rows).T, strict=True))
    pump, times = np.array(columns["pump"]), np.array(columns["time"], "datetime64[s]")
    readings = np.stack([np.array(columns[name], float) for name in READINGS], axis=1)
    arrays = times, readings, np.array(columns["failed"]) == "yes"
    return {str(name): tuple(array[pump == name] for array in arrays) for name in np.unique(pump)}


def windows(pumps, target, span, stride=1):
    """Return windows over a span of time, each with the temperature, or whether it failed, 24 hours behind its end."""
    tables, targets = [], []
    for times, readings, failed in pumps.values():
        rows = slice(*np.searchsorted(times, span))
        failures = np.convolve(failed, np.ones(AHEAD))[: len(failed)] > 0  # in the 24 hours up to each row
        tables.append(readings[rows])
        targets.append((failures if target == "failures" else readings[:, TEMPERATURE])[rows])
    return SeriesWindows(tables, LENGTH, targets=targets, ahead=AHEAD, stride=stride, fill="last")


def learn(file, training, validation, epochs, loss, class_weights=None):
    """Train a network that tells one thing of each window, keep it in a file, and return what is in the file."""
    network = LSTMNetwork(
        len(READINGS), 32, 1, loss == "binary_cross_entropy", loss, target="last", standardize=True, progress=False
    )
    history = network.train(
        training, None, epochs, 0.003, validation=validation, class_weights=class_weights, keep_best=True, patience=3
    )
    print(f"{file}: the best of {len(history.loss)} epochs, validation loss {min(history.validation):.3f}", flush=True)
    network.save(file)
    return LSTMNetwork.load(file)


def probabilities(network, X):
    """Return how likely a failure is: a network that counted each `MISSED` times tells so many times the odds."""
    told = network.predict(X)[:, 0, 0]
    return told / (told + MISSED * (1 - told))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("sensors.csv"), help="the CSV, made where it is missing")
    parser.add_argument("--epochs", type=int, default=12, help="the most that each network trains (default 12)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw pump A's test days (needs the extra 'plot')")
    options = parser.parse_args(arguments)
    if not options.data.exists():
        make(options.data)
    pumps = read(options.data)
    first, last = min(times[0] for times, *_ in pumps.values()), max(times[-1] for times, *_ in pumps.values())
    cuts = [first, first + 0.7 * (last - first), first + 0.85 * (last - first), last + 1]
    training, validation, test = pairwise(cuts)

    file, held_out = options.data.with_name("temperature.npz"), windows(pumps, "temperature", validation)
    forecaster = learn(file, windows(pumps, "temperature", training, stride=4), held_out, options.epochs, "mse")
    X, Y = windows(pumps, "temperature", test).arrays("last")
    forecasts, persistence = forecaster.predict(X)[:, 0, 0], X[:, -1, TEMPERATURE]
    error, as_now = (float(np.sqrt(np.nanmean((guess - Y) ** 2))) for guess in (forecasts, persistence))
    print(
        f"Temperature in 24 hours: off by {error:.2f} °C (root mean square), the forecast 'as now' by {as_now:.2f} °C"
    )

    file, held_out = options.data.with_name("failures.npz"), windows(pumps, "failures", validation)
    weighted = "binary_cross_entropy", [1, MISSED]
    warner = learn(file, windows(pumps, "failures", training, stride=4), held_out, options.epochs, *weighted)
    X, failing = held_out.arrays("last")
    told = probabilities(warner, X)
    threshold = min(told, key=lambda t: MISSED * (failing & (told < t)).sum() + (~failing & (told >= t)).sum())
    X, failing = windows(pumps, "failures", test).arrays("last")
    warned = probabilities(warner, X) >= threshold
    share, precision, recall = map(float, (failing.mean(), failing[warned].mean(), warned[failing].mean()))
    print(f"Failure within 24 hours, as in {share:.1%} of the hours: warned in {recall:.0%} of them (recall); ", end="")
    print(f"{precision:.0%} of the warnings are right (precision)")

    latest = [readings[-LENGTH:] for _, readings, _ in pumps.values()]
    X, _ = SeriesWindows(latest, LENGTH, ahead=0, fill="last").arrays()
    for name, x, warm, likely in zip(pumps, X, forecaster.predict(X)[:, 0, 0], probabilities(warner, X), strict=True):
        advice = "look after it" if likely >= threshold else "no warning"
        print(
            f"Pump {name}: {x[-1, TEMPERATURE]:.0f} °C, in 24 hours {warm:.0f} °C; fails by then: {likely:.0%}, {advice}"
        )
    if options.plot:
        draw(options.plot, {"A": pumps["A"]}, test, forecaster, warner, threshold)
    return {"error": error, "as_now": as_now, "share": share, "precision": precision, "recall": recall}


def draw(path, pump, span, forecaster, warner, threshold):
    """Draw what was told of one pump: the temperature at the hour it is told for, the failures at the hour of telling."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install -e '.[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    X, warm = windows(pump, "temperature", span).arrays("last")
    _, failing = windows(pump, "failures", span).arrays("last")
    [(times, *_)] = pump.values()
    figure, (above, below) = plt.subplots(2, figsize=(9, 6), sharex=True, layout="constrained")
    above.plot(times[-len(X) :], X[:, -1, TEMPERATURE], color="#999999", linewidth=1, label="as 24 hours before")
    above.plot(times[-len(X) :], warm, color="#0072b2", label="measured")
    above.plot(times[-len(X) :], forecaster.predict(X)[:, 0, 0], color="#d55e00", label="forecast 24 hours before")
    above.set_ylabel("temperature, °C")
    hours = times[-len(X) - AHEAD : -AHEAD]
    below.fill_between(hours, 0, 1, where=failing, color="#56b4e9", alpha=0.5, lw=0, label="fails within 24 hours")
    below.plot(hours, probabilities(warner, X), color="#d55e00", label="probability told")
    below.axhline(threshold, color="#666666", linestyle="--", linewidth=1, label="a warning from here")
    below.set_ylabel("failure within 24 hours")
    for axes in (above, below):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
        axes.grid(alpha=0.3)
    figure.autofmt_xdate()
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
