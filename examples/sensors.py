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

        columns = pandas.read_csv(path, parse_dates=["time"])
    except ImportError:
        with open(path, newline="") as file:
            header, *rows = ([cell or "nan" for cell in row] for row in csv.reader(file))
        columns = dict(zip(header, np.array(rows).T, strict=True))
    pump, times = np.array(columns["pump"]), np.array(columns["time"], "datetime64[s]")
    readings = np.stack([np.array(columns[name], float) for name in READINGS], axis=1)
    arrays = times, readings, np.array(columns["failed"]) == "yes"
    return {str(name): tuple(array[pump == name] for array in arrays) for name in np.unique(pump)}


def windows(pumps, target, span, stride=1):
    """Return windows over a span of time, each with what is known 24 hours behind its end."""
    tables, targets = [], {"temperature": [], "failures": []}
    for times, readings, failed in pumps:
        rows = slice(*np.searchsorted(times, span))
        tables.append(readings[rows])
        targets["temperature"].append(readings[rows, TEMPERATURE])
        targets["failures"].append(np.convolve(failed, np.ones(AHEAD))[rows] > 0)  # in the 24 hours up to each row
    return SeriesWindows(tables, LENGTH, targets=targets[target], ahead=AHEAD, stride=stride, fill="last")


def learn(file, training, validation, epochs, loss, class_weights=None):
    """Train a network that tells one thing of each window, keep it in a file, and return what the file gives."""
    network = LSTMNetwork(len(READINGS), 32, 1, loss=loss, target="last", standardize=True)
    how = {"validation": validation, "keep_best": True, "patience": 3, "class_weights": class_weights}
    network.train(training, epochs=epochs, learning_rate=0.003, **how)
    network.save(file)
    return LSTMNetwork.load(file)


def probabilities(network, X):
    """Return how likely failures are; from training that counted each `MISSED` times come so many times the odds."""
    return 1 / (1 + MISSED * np.exp(-network.predict(X)[:, 0, 0]))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("sensors.csv"), help="the CSV, made where it is missing")
    parser.add_argument("--epochs", type=int, default=12, help="the most that each network trains (default 12)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw pump A's test days (needs the extra 'plot')")
    options = parser.parse_args(arguments)
    if not options.data.exists():
        make(options.data)
        print(f"Made up readings of three pumps: {options.data}")
    names, pumps = zip(*read(options.data).items(), strict=True)
    folder = options.data.parent
    first, last = min(times[0] for times, *_ in pumps), max(times[-1] for times, *_ in pumps)
    training, validation, test = pairwise(first + share * (last - first) for share in (0, 0.7, 0.85, 1))

    to_train, to_check = windows(pumps, "temperature", training, stride=4), windows(pumps, "temperature", validation)
    forecaster = learn(folder / "temperature.npz", to_train, to_check, options.epochs, "mse")
    X, Y = windows(pumps, "temperature", test).arrays("last")
    forecast, now = forecaster.predict(X)[:, 0, 0], X[:, -1, TEMPERATURE]
    error, persistence = (float(np.sqrt(np.nanmean((guess - Y) ** 2))) for guess in (forecast, now))
    print(f"Temperature in 24 hours: off by {error:.2f} °C (root mean square); 'as it is now' by {persistence:.2f} °C")

    to_train, to_check = windows(pumps, "failures", training, stride=4), windows(pumps, "failures", validation)
    warner = learn(folder / "failures.npz", to_train, to_check, options.epochs, "binary_cross_entropy", [1, MISSED])
    X, Y = to_check.arrays("last")
    told = probabilities(warner, X)
    threshold = min(told, key=lambda least: MISSED * Y[told < least].sum() + (~Y)[told >= least].sum())
    X, Y = windows(pumps, "failures", test).arrays("last")
    warned = probabilities(warner, X) >= threshold
    share, recall, precision = float(Y.mean()), float(warned[Y].mean()), float(Y[warned].mean())
    print(f"Failure within 24 hours, true of {share:.1%} of the hours: {recall:.0%} of them are warned of (recall),")
    print(f"and {precision:.0%} of the warnings are right (precision), at a probability of {threshold:.0%} and more")

    X, _ = SeriesWindows([table[-LENGTH:] for _, table, _ in pumps], LENGTH, ahead=0, fill="last").arrays()
    for name, now, then, risk in zip(names, X, forecaster.predict(X)[:, 0, 0], probabilities(warner, X), strict=True):
        print(f"Pump {name}: {now[-1, TEMPERATURE]:.0f} °C now, {then:.0f} °C in 24 hours; ", end="")
        print(f"fails by then: {risk:.0%}{', look after it' if risk >= threshold else ''}")
    if options.plot:
        draw(options.plot, pumps[:1], test, forecaster, warner, threshold)
    return {"error": error, "persistence": persistence, "share": share, "recall": recall, "precision": precision}


def draw(path, pump, span, forecaster, warner, threshold):
    """Draw what was told of one pump: temperatures at the hour that they are for, failures at the hour of telling."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install -e '.[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    X, temperature = windows(pump, "temperature", span).arrays("last")
    _, failing = windows(pump, "failures", span).arrays("last")
    days = np.arange(len(X)) / 24
    figure, (above, below) = plt.subplots(2, figsize=(8, 5.5), sharex=True, layout="constrained")
    above.plot(days + 1, X[:, -1, TEMPERATURE], color="#999999", linewidth=1, label="the same as 24 hours before")
    above.plot(days + 1, temperature, color="#0072b2", label="measured")
    above.plot(days + 1, forecaster.predict(X)[:, 0, 0], color="#d55e00", label="forecast 24 hours before")
    above.set_ylabel("temperature, °C")
    below.fill_between(days, failing, color="#56b4e9", alpha=0.5, linewidth=0, label="fails within 24 hours")
    below.plot(days, probabilities(warner, X), color="#d55e00", label="probability told")
    below.axhline(threshold, color="#666666", linestyle="--", linewidth=1, label="a warning from here on")
    below.set(ylabel="failure within 24 hours", xlabel="days of the test")
    for axes in (above, below):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
