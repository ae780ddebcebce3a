"""Learn the next number of a progression, x -> 3x mod 50, from ten numbers at a time, and answer 950 questions on it.

The documented program: 250 epochs, learning rate 0.01, 250 hidden units, everything else as `LSTMNetwork` has it.
"""

import argparse
import time

import numpy as np

from jlstm import LSTMNetwork

MAX_NUM = 50
SEQUENCE_LEN = 10


def progression(start: int, steps: int) -> list[int]:
    sequence = [start]
    for _ in range(steps):
        sequence.append(3 * sequence[-1] % MAX_NUM)
    return sequence


def training_data() -> tuple[np.ndarray, np.ndarray]:
    sequences = np.array([progression(start, SEQUENCE_LEN) for start in range(MAX_NUM)] * 3)
    return sequences[:, :-1] / MAX_NUM, np.eye(MAX_NUM)[sequences[:, 1:], :, None]


def ask(network: LSTMNetwork, rng: np.random.Generator) -> None:
    """Ask for the last number of a random sequence, of up to twice the length that was trained, and show the answer."""
    sequence = progression(rng.integers(MAX_NUM), rng.integers(1, 2 * SEQUENCE_LEN))
    answer = network.predict(np.array(sequence[:-1]) / MAX_NUM)[-1].argmax()
    mark = "✅" if answer == sequence[-1] else "❌"
    print(f"{mark} {' '.join(map(str, sequence[:-1]))} -> {answer}" + ("" if mark == "✅" else f", not {sequence[-1]}"))


def score(network: LSTMNetwork) -> int:
    """Ask for the last number after each of the 50 starts and each length from 1 to 19, and count the right answers."""
    sequences = [progression(start, length) for start in range(MAX_NUM) for length in range(1, 2 * SEQUENCE_LEN)]
    answers = network.predict([np.array(sequence[:-1]) / MAX_NUM for sequence in sequences])
    return sum(answer[-1].argmax() == sequence[-1] for answer, sequence in zip(answers, sequences, strict=True))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=250, help="how often to go through the sequences (default 250)")
    parser.add_argument("--seed", type=int, default=0, help="of parameters, shuffles and questions (default 0)")
    options = parser.parse_args(arguments)

    began = time.perf_counter()
    rng = np.random.default_rng(options.seed)
    network = LSTMNetwork(1, 250, MAX_NUM, apply_softmax=True, loss="cross_entropy", seed=options.seed)
    X, Y = training_data()
    network.train(
        X, Y, options.epochs, learning_rate=0.01, decay_rate=0.00001, periodic_callback=lambda: ask(network, rng)
    )
    right = score(network)
    print(f"{right} of 950 questions answered right ({right / 9.5:.1f} %) after {time.perf_counter() - began:.1f} s")
    return right


if __name__ == "__main__":
    main()
