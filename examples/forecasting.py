"""Forecasts with intervals: carbon dioxide in the air at Mauna Loa, one and five years ahead.

A few small networks learn how fast it grows and draw paths that go on from what was measured. The last ten years are
held out. Forecasts start from every second month of them, by networks that learn anew each January from all before it.
Every setting was chosen on the twenty years before these (`--until 1991` and `--until 1981`). The held-out years were
looked at twice: before this, 8 networks that learned once, before the ten years, with a Gaussian, had errors of 0.80
and 1.69 ppm, and 83 and 74 % in their intervals.

Data: co2.csv, weekly means in ppm, 1958 to 2001, by C. D. Keeling and T. P. Whorf, Scripps Institution of Oceanography
(public domain).
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optax

from jlstm import LSTMNetwork, SeriesWindows

DATA = Path(__file__).with_name("co2.csv")
NATURAL = 280  # ppm before industry; what is above it grows by much the same part every year
HELD_OUT, EVERY, WINDOW, HISTORY = 120, 2, 60, 120  # months
HORIZONS = 12, 60
LONGEST = max(HORIZONS)


class Score(NamedTuple):
    rmse: float  # ppm, of the median of the paths
    inside: float  # the share of what was measured that lies in the 90 % interval
    naive: float  # ppm, of the seasonal-naive forecast with drift


def monthly_means(until):
    """Return the means of the known weeks of each month from November 1958 on in ppm, `[months]`.

    A month without any (February to April 1964) gets the mean of the same month in the years before and after it.
    """
    dates, ppm = np.genfromtxt(DATA, delimiter=",", skip_header=1, unpack=True)  # 19581101, ...; a gap is NaN
    known = ~np.isnan(ppm) & (dates > 19581100) & (dates < 10_000 * (until + 1))
    months = (dates[known] // 10_000 * 12 + dates[known] // 100 % 100).astype(int)
    weeks = np.bincount(months - months[0])
    means = np.bincount(months - months[0], ppm[known]) / np.maximum(weeks, 1)
    gaps = np.flatnonzero(weeks == 0)
    means[gaps] = (means[gaps - 12] + means[gaps + 12]) / 2
    return means


def yearly_growth(ppm):
    """Return how much the logarithm of what is above the natural level grew since the same month a year before."""
    excess = np.log(ppm - NATURAL)
    return excess[12:] - excess[:-12]


def continued(last_years, growth):
    """Return the ppm that follow last years, `[N, 12]`, with a growth `[..., N, months]` over whole years."""
    years = growth.reshape(*growth.shape[:-1], -1, 12).cumsum(axis=-2)
    return NATURAL + np.exp(np.log(last_years - NATURAL)[:, None] + years).reshape(growth.shape)


def adamw(rate):
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.3))


def growth_to_come(known, histories, options):
    """Let networks learn what is known, `[months]`, and draw what follows histories, `[samples, N, LONGEST]`."""
    drawn = []
    for seed in range(options.networks):
        settings = {"loss": options.loss, "standardize": True, "optimizer": adamw, "batch_size": 24, "seed": seed}
        network = LSTMNetwork(1, options.hidden, 1, **settings, progress=False)
        network.train(SeriesWindows(known, WINDOW), epochs=options.epochs, learning_rate=0.01)
        drawn.append(network.forecast(histories[..., None], LONGEST, samples=options.paths, seed=seed)[..., 0, 0])
    return np.concatenate(drawn)


def rmse(forecasts, truth):
    return float(np.sqrt(np.mean((forecasts - truth) ** 2)))


def main(arguments: list[str] | None = None) -> dict[int, Score]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=8, help="how many networks draw paths (default 8)")
    parser.add_argument("--paths", type=int, default=25, help="how many each of them draws (default 25)")
    parser.add_argument("--hidden", type=int, default=16, help="the number of hidden units (default 16)")
    parser.add_argument("--epochs", type=int, default=8, help="how often to go through the data (default 8)")
    parser.add_argument("--loss", default="laplace", help="the distribution: laplace (default) or gaussian")
    parser.add_argument("--until", type=int, default=2001, help="the last year of ten to hold out (default 2001)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw two forecasts (needs the extra 'plot')")
    options = parser.parse_args(arguments)

    began = time.perf_counter()
    ppm = monthly_means(options.until)
    growth, first = yearly_growth(ppm), len(ppm) - HELD_OUT  # growth[k - 12] is that of month k
    print(f"{len(ppm)} monthly means until {options.until}, three of them filled; the last {HELD_OUT} are held out")

    origins = np.arange(first, len(ppm), EVERY)
    last_years = np.stack([ppm[k - 12 : k] for k in origins])
    histories = np.stack([growth[k - 12 - HISTORY : k - 12] for k in origins])
    of_years = [
        growth_to_come(growth[: year - 12], histories[(year <= origins) & (origins < year + 12)], options)
        for year in range(first, len(ppm), 12)
    ]
    paths = continued(last_years, np.concatenate(of_years, axis=1))  # [samples, N, LONGEST]
    low, median, high = np.quantile(paths, (0.05, 0.5, 0.95), axis=0)

    drift = np.array([np.mean(ppm[12:k] - ppm[: k - 12]) for k in origins])  # ppm a year over all history
    naive = np.tile(last_years, LONGEST // 12) + drift[:, None] * (np.arange(LONGEST) // 12 + 1)
    steady = continued(last_years, np.tile([[growth[: k - 12].mean()] for k in origins], LONGEST))

    forecasts = {
        f"{options.networks} networks, {len(paths)} paths": median,
        "seasonal naive with drift": naive,
        "steady relative growth": steady,
    }
    scores, columns = {}, []
    for horizon in HORIZONS:
        whole = origins <= len(ppm) - horizon  # from these on all of it was measured
        truth = np.stack([ppm[k : k + horizon] for k in origins[whole]])
        inside = float(np.mean((low[whole, :horizon] <= truth) & (truth <= high[whole, :horizon])))
        errors = [rmse(forecast[whole, :horizon], truth) for forecast in forecasts.values()]
        scores[horizon] = Score(errors[0], inside, errors[1])
        columns.append(
            [f"{horizon} months", f"{errors[0]:.2f} ppm, {inside:.0%}", *(f"{e:.2f} ppm" for e in errors[1:])]
        )
    for name, *cells in zip(["", *forecasts], *columns, strict=True):
        print(f"{name:<28}" + "".join(f"{cell:<18}" for cell in cells).rstrip())
    print(
        "Root mean square error, and how much of what was measured lies in the 90 % interval; "
        f"{time.perf_counter() - began:.0f} s"
    )
    if options.plot:
        draw(options.plot, ppm, {k: paths[:, list(origins).index(k)] for k in (first, len(ppm) - LONGEST)})
    return scores


def draw(path, ppm, fans):
    """Draw paths `[samples, LONGEST]` from some months on into a file whose ending says the format."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install -e '.[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    years = 1958 + (10 + np.arange(len(ppm))) / 12
    first = min(fans)
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for start, paths in fans.items():
        low, lower, median, upper, high = np.quantile(paths, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)
        labels = iter(["90 % of the paths", "50 %", "their median"] if start == first else [None] * 3)
        ahead = years[start : start + LONGEST]
        axes.fill_between(ahead, low, high, color="#0072B2", alpha=0.2, linewidth=0, label=next(labels))
        axes.fill_between(ahead, lower, upper, color="#0072B2", alpha=0.35, linewidth=0, label=next(labels))
        axes.plot(ahead, median, color="#0072B2", label=next(labels))
    axes.plot(years[first:], ppm[first:], color="#D55E00", linestyle="--", label="measured, held out")
    axes.plot(years[first - 36 : first], ppm[first - 36 : first], color="black", label="measured before")
    axes.set(xlabel="year", ylabel="CO2 at Mauna Loa, ppm")
    axes.legend(loc="upper left")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
