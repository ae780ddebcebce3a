"""Who speaks? Nine men say "ae" (Japanese vowels); LSTMs that read in both directions, trained all at once, tell.

The data are the UCI Machine Learning Repository's "Japanese Vowels" (Kudo, Toyama and Shimbo, 1999; CC BY 4.0): 270
utterances to learn from and 370 of other occasions to test, each 7 to 29 steps of 12 LPC cepstrum coefficients.
Settings were compared by cross-validation on the 270 alone; the 370 are looked at once, when all is learned.
"""

import argparse
import functools
import io
import os
import re
import time
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import jlstm
from jlstm.model import summary

URL = "https://archive.ics.uci.edu/static/public/128/japanese+vowels.zip"
BATCH, RATE, DECAY, DROPOUT, RECURRENT, NOISE = 27, 0.005, 0.05, 0.5, 0.3, 0.3


def download():
    """Return UCI's archive in the cache folder, where it is downloaded to once."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jlstm" / "japanese_vowels.zip"
    if not path.exists():
        print(f"Downloading {URL} to {path} (once)")
        try:
            with urllib.request.urlopen(URL, timeout=30) as response:
                content = response.read()
            zipfile.ZipFile(io.BytesIO(content)).close()  # what is no archive should not be kept
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part")
            unfinished.write_bytes(content)
            unfinished.replace(path)
        except (OSError, HTTPException, zipfile.BadZipFile) as error:
            raise SystemExit(f"The download failed ({error}). Give a folder with the files as --data FOLDER.") from None
    return path


def read_uci(text, sizes):
    """Read a line a step, an empty line behind each utterance; `sizes` counts those of each speaker, in their order."""
    counts = [int(size) for size in sizes.split()]
    sequences = [np.loadtxt(io.StringIO(block), ndmin=2) for block in re.split(r"\n\s*\n", text.strip())]
    if len(sequences) != sum(counts):
        raise ValueError(f"expected as many utterances as the sizes say, {sum(counts)}, got {len(sequences)}")
    return sequences, [str(k + 1) for k, count in enumerate(counts) for _ in range(count)]


def read_ts(text):
    """Read a line an utterance: its channels, separated by colons, and the speaker; values are separated by commas."""
    lines = [line.split(":") for line in text.splitlines() if line.strip() and line[0] not in "#@"]
    return [np.loadtxt(line[:-1], delimiter=",", ndmin=2).T for line in lines], [line[-1].strip() for line in lines]


def read(path):
    """Return what to learn from and what to test on, `(sequences, speakers)` each, of a folder or a zip archive."""
    folder = zipfile.Path(path) if path.is_file() else path

    def text(name):
        return (folder / name).read_text(encoding="utf-8")

    if (folder / "JapaneseVowels_TRAIN.ts").is_file():
        return [read_ts(text(f"JapaneseVowels_{part}.ts")) for part in ("TRAIN", "TEST")]
    return [read_uci(text(f"ae.{part}"), text(f"size_ae.{part}")) for part in ("train", "test")]


def batches(training, test):
    """Return the speakers' names and two batches, with the mean and deviation of what is learned from taken out."""
    every, names = np.concatenate(training[0]), sorted(set(training[1]))

    def batch(sequences, speakers):
        lengths = np.array([len(x) for x in sequences])
        xs = np.zeros((len(sequences), lengths.max(), every.shape[1]), np.float32)
        for row, x in zip(xs, sequences, strict=True):
            row[: len(x)] = (x - every.mean(axis=0)) / every.std(axis=0)
        return jlstm.Batch(*map(jnp.asarray, (xs, [names.index(name) for name in speakers], lengths)))

    return names, batch(*training), batch(*test)


def noisy(key, xs):
    """Add noise, other at each step, and one offset to all steps of a sequence, as another microphone would."""
    each, same = jax.random.split(key)
    return xs + NOISE * (jax.random.normal(each, xs.shape) + jax.random.normal(same, (len(xs), 1, xs.shape[2])))


def with_changes(xs):
    """Put next to each step's numbers, how they differ from those of the step before, [.., .., 2I]."""
    return jnp.concatenate([xs, 2 * jnp.diff(xs, axis=1, prepend=xs[:, :1])], axis=2)


def learn(key, data, config, epochs):
    """Return the parameters that a network learned; a function of its key, and so to be mapped over many."""
    size = min(BATCH, len(data.ys))
    updates = len(data.ys) // size  # an epoch
    rate = optax.cosine_decay_schedule(RATE, epochs * updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=DECAY))
    init, step = jlstm.trainer(config, optimizer)

    def update(state, drawn):
        key, rows = drawn
        xs = with_changes(noisy(key, data.xs[rows]))
        return step(state, jlstm.Batch(xs, data.ys[rows], data.lengths[rows]))

    def epoch(state, key):
        shuffle, noise = jax.random.split(key)
        order = jax.random.permutation(shuffle, len(data.ys))[: updates * size].reshape(updates, size)
        return lax.scan(update, state, (jax.random.split(noise, updates), order))

    first, dropout, rest = jax.random.split(key, 3)
    state = init(jlstm.init_params(first, config), dropout)
    return lax.scan(epoch, state, jax.random.split(rest, epochs))[0].params


@functools.partial(jax.jit, static_argnums=3)
def guess(params, xs, lengths, config):
    """Return how probable each speaker is, [networks, batch, speakers], to networks that are stacked in one pytree."""

    def scores(params):
        return jlstm.forward(params, with_changes(xs), config, lengths=lengths)[0]

    return jax.nn.softmax(jax.vmap(scores)(params))


def pyplot():
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install -e '.[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def draw(plt, path, names, test, together, heard):
    """Draw whom the networks together take for whom, and how two utterances are recognised while they are heard."""
    titles = "a typical utterance", "the hardest utterance"
    mosaic = [["who", title] for title in titles]
    figure, panels = plt.subplot_mosaic(mosaic, figsize=(8, 4), layout="constrained")
    ys, axes = np.asarray(test.ys), panels["who"]
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (ys, together.argmax(axis=1)), 1)
    axes.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1.4)
    for (row, column), count in np.ndenumerate(counts):
        colour = "black" if row == column else "#D55E00"
        axes.text(column, row, count or "", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="recognised as", ylabel="speaker", title=f"{counts.trace()} of {len(ys)} utterances right")
    order = together[np.arange(len(ys)), ys].argsort()
    for title, k in zip(titles, (order[len(order) // 2], order[0]), strict=True):
        axes, curves, own = panels[title], heard(k), ys[k]
        *others, rival = (speaker for speaker in curves.max(axis=0).argsort() if speaker != own)
        steps = range(1, len(curves) + 1)
        axes.plot(steps, curves[:, others], color="#999999", linewidth=1)
        axes.plot(steps, curves[:, own], color="#0072B2", linewidth=2.5, label=f"{names[own]}, who speaks")
        axes.plot(steps, curves[:, rival], color="#D55E00", label=f"{names[rival]}, the likeliest other")
        axes.set(ylabel="probability", ylim=(-0.05, 1.4), yticks=[0, 0.5, 1], title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="upper center", ncols=2, frameon=False, fontsize="small")
    axes.set_xlabel("steps heard")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="UCI's files, or .ts (default: downloaded once)")
    parser.add_argument("--networks", type=int, default=8, help="how many to train at once (default 8)")
    parser.add_argument("--hidden", type=int, default=64, help="hidden units in each direction (default 64)")
    parser.add_argument("--epochs", type=int, default=60, help="how often to go through the data (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another result (default 0)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the mistakes (needs the extra 'plot')")
    options = parser.parse_args(arguments)
    for name in ("networks", "hidden", "epochs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")

    path = options.data or download()
    try:
        names, training, test = batches(*read(path))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        expected = "ae.train, ae.test and size_ae. of both, or JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts"
        raise SystemExit(f"--data: expected {expected}, in {path} ({error})") from None
    plt = pyplot() if options.plot else None  # what is missing should be said now and not in a minute
    began = time.perf_counter()
    sizes = {"input_size": 2 * training.xs.shape[2], "hidden_size": options.hidden, "output_size": len(names)}
    config = jlstm.LSTMConfig(**sizes, target="last", bidirectional=True, dropout=DROPOUT, recurrent_dropout=RECURRENT)
    print(f"{len(training.ys)} utterances of {len(names)} speakers to learn from, {len(test.ys)} others to test")
    print(f"{options.networks} networks at once, each {summary(config)}; {options.epochs} epochs, batches of {BATCH},")
    print(f"dropout {DROPOUT}, recurrent {RECURRENT}, noise {NOISE}, AdamW from {RATE} down, weight decay {DECAY}")
    print("(compared by cross-validation on what is learned from; the test decides nothing)")

    keys = jax.random.split(jax.random.key(options.seed), options.networks)
    params = jax.jit(jax.vmap(lambda key: learn(key, training, config, options.epochs)))(keys)
    each = np.asarray(guess(params, test.xs, test.lengths, config))
    together, ys = each.mean(axis=0), np.asarray(test.ys)

    def heard(k):
        """Return what all together guess of a test utterance after each of its steps, [time, speakers]."""
        prefixes = 1 + jnp.arange(test.xs.shape[1])
        xs = jnp.broadcast_to(test.xs[k], (len(prefixes), *test.xs.shape[1:]))
        return np.asarray(guess(params, xs, prefixes, config).mean(axis=0))[: test.lengths[k]]

    alone = (each.argmax(axis=2) == ys).mean(axis=1)
    median, all_together = float(np.median(alone)), float((together.argmax(axis=1) == ys).mean())
    print("right, each network alone: " + " ".join(f"{share:.2%}" for share in alone) + f"; median {median:.2%}")
    print(f"right, all together (the mean of their probabilities): {all_together:.2%}")
    print(f"{time.perf_counter() - began:.0f} s")
    if options.plot:
        draw(plt, options.plot, names, test, together, heard)
    return median, all_together


if __name__ == "__main__":
    main()
