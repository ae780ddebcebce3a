"""A simple language model: read a text a hundred characters at a time and learn to guess the next one.

The documented program: each character is one number, its index divided by the count of characters, and the windows
overlap with stride 1. They are gathered inside the compiled calls; built as arrays they would take 58 GB.
"""

import argparse
import os
import time
import urllib.request
from pathlib import Path

import numpy as np

from jlstm import LSTMNetwork, Windows

URL = "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt"
SEQUENCE_LENGTH = 100
HELD_OUT = 0.1


def read_text(path: Path | None) -> str:
    """Read the text from a file, or Shakespeare's from the cache folder, where it is downloaded to once."""
    if path is None:
        path = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jlstm" / "shakespeare.txt"
        if not path.exists():
            print(f"Downloading {URL} to {path} (1.1 MB, once)")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with urllib.request.urlopen(URL, timeout=30) as response:
                    content = response.read()
            except OSError as error:
                raise SystemExit(f"The download failed ({error}). Give a text of your own with --text FILE.") from None
            unfinished = path.with_suffix(".part")
            unfinished.write_bytes(content)
            unfinished.replace(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--text: expected a readable UTF-8 text file, got {path} ({error})") from None


def generate(network: LSTMNetwork, chars: list[str], seed_text: str, length: int, rng: np.random.Generator) -> str:
    """Write on from a text, each character drawn from what the network predicts after the last hundred."""
    ids = [chars.index(char) for char in seed_text]
    for _ in range(length):
        x = np.array(ids[-SEQUENCE_LENGTH:]) / len(chars)
        probabilities = network.predict(x)[-1, :, 0].astype(float)
        ids.append(rng.choice(len(chars), p=probabilities / probabilities.sum()))
    return "".join(chars[k] for k in ids)


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="the text to learn (default: Shakespeare's, downloaded once)")
    parser.add_argument("--epochs", type=int, default=1, help="how often to go through all windows (default 1)")
    parser.add_argument("--stride", type=int, default=1, help="from one window to the next, in characters (default 1)")
    parser.add_argument("--quick", action="store_true", help="about a minute: --stride 15")
    parser.add_argument("--seed", type=int, default=0, help="of parameters, shuffles and texts (default 0)")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs: expected at least 1, got {options.epochs}")

    began = time.perf_counter()
    text = read_text(options.text)
    chars = sorted(set(text))
    index = {char: k for k, char in enumerate(chars)}
    ids = np.array([index[char] for char in text], np.int32)
    held_out = int(len(ids) * (1 - HELD_OUT))
    if len(ids) - held_out <= SEQUENCE_LENGTH:
        raise SystemExit(
            f"--text: expected at least {int(SEQUENCE_LENGTH / HELD_OUT) + 20} characters, got {len(text)}"
        )
    windows = Windows(ids[:held_out], SEQUENCE_LENGTH, 15 if options.quick else options.stride)
    validation = Windows(ids[held_out:], SEQUENCE_LENGTH, SEQUENCE_LENGTH)
    print(f"{len(text):,} characters, {len(chars)} distinct ones, {len(windows):,} windows of {SEQUENCE_LENGTH}")

    rng = np.random.default_rng(options.seed)
    network = LSTMNetwork(1, 128, len(chars), apply_softmax=True, loss="cross_entropy", seed=options.seed)
    history = network.train(
        windows,
        epochs=options.epochs,
        learning_rate=0.01,
        validation=validation,
        periodic_callback=lambda: print(repr(generate(network, chars, text[:5], 60, rng))),
    )
    print(generate(network, chars, text[:5], 300, rng))
    loss = history.validation[-1]
    print(f"validation loss {loss:.4f} nats a character after {time.perf_counter() - began:.1f} s")
    return loss


if __name__ == "__main__":
    main()
