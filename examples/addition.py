"""Sequence to sequence: one LSTM reads "535+61", and another writes "596", starting from the state that it left.

After Sutskever, Vinyals and Le, "Sequence to Sequence Learning with Neural Networks", 2014; the sums are drawn as in
Keras's example, 45,000 to learn and 5,000 held out. None comes twice, and b+a counts as a+b.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

import jlstm

CHARACTERS = "0123456789+ ="  # the space fills up, the answer follows "="
SPACE, EQUALS = map(CHARACTERS.index, " =")
BATCH, RATE, EPOCHS = 128, 0.01, 12
CONFIG = jlstm.LSTMConfig(len(CHARACTERS), hidden_size=128, output_size=len(CHARACTERS), inputs="tokens")


class Params(NamedTuple):
    encoder: jlstm.LSTMParams
    decoder: jlstm.ModelParams


def draw_sums(seed: int, count: int, digits: int) -> tuple[jlstm.Batch, jlstm.Batch]:
    """Return nine tenths of the sums and the rest: ids of questions `[N, 2 digits + 1]`, of answers `[N, digits + 1]`.

    Questions are written backwards, as in the paper. Numbers of one digit are drawn as often as those of three.
    """
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 10 ** rng.integers(1, digits + 1, (2, 20 * count)))
    _, first = np.unique(np.minimum(a, b) * 10**digits + np.maximum(a, b), return_index=True)
    if len(first) < count:
        raise SystemExit(f"--sums: expected at most {len(first)} with --digits {digits}, got {count}")
    chosen = rng.permutation(np.sort(first)[:count])
    questions = [f"{a}+{b}".ljust(2 * digits + 1)[::-1] for a, b in zip(a[chosen], b[chosen], strict=True)]
    answers = [f"{total}".ljust(digits + 1) for total in (a + b)[chosen]]
    xs, ys = (jnp.array([[*map(CHARACTERS.index, text)] for text in texts]) for texts in (questions, answers))
    held_out = count // 10
    return jlstm.Batch(xs[held_out:], ys[held_out:]), jlstm.Batch(xs[:held_out], ys[:held_out])


def loss_fn(params: Params, batch: jlstm.Batch) -> Array:
    """Return the loss of each character given the right ones before it, for its own guesses are at first noise."""
    _, state = jlstm.unroll(params.encoder, batch.xs)
    before = jnp.pad(batch.ys[:, :-1], ((0, 0), (1, 0)), constant_values=EQUALS)
    scores, _ = jlstm.forward(params.decoder, before, CONFIG, (state,))
    return jlstm.cross_entropy(scores, batch.ys)


def answer(params: Params, questions: Array, length: int) -> Array:
    """Write the likeliest character after character, knowing nothing but the question: ids `[batch, length]`."""
    _, state = jlstm.unroll(params.encoder, questions)

    def write(carry, _):
        ids, state = carry
        scores, state = jlstm.step(params.decoder, ids, CONFIG, state)
        ids = scores.argmax(axis=-1)
        return (ids, state), ids

    return lax.scan(write, (jnp.full(len(questions), EQUALS), (state,)), length=length)[1].T


def train(data: jlstm.Batch, epochs: int, seed: int) -> Iterator[Params]:
    """Yield the parameters after each epoch, which is one compiled call."""
    key_params, key_order = jax.random.split(jax.random.key(seed))
    steps = data.sequences // BATCH
    rate = optax.cosine_onecycle_schedule(epochs * steps, RATE, pct_start=0.1)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    @jax.jit
    def init(key):
        key_encoder, key_decoder = jax.random.split(key)
        encoder = jlstm.LSTM.init(key_encoder, input_size=CONFIG.input_size, hidden_size=CONFIG.hidden_size)
        params = Params(encoder, jlstm.init_params(key_decoder, CONFIG))
        return params, optimizer.init(params)

    @jax.jit
    def epoch(state, data, key):
        def update(state, rows):
            params, opt_state = state
            grads = jax.grad(loss_fn)(params, jlstm.Batch(data.xs[rows], data.ys[rows]))
            updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        order = jax.random.permutation(key, data.sequences)[: steps * BATCH]
        return lax.scan(update, state, order.reshape(steps, BATCH))[0]

    state = init(key_params)
    for key in jax.random.split(key_order, epochs):
        state = epoch(state, data, key)
        yield state[0]


@jax.jit
def shares_right(params: Params, data: jlstm.Batch) -> list[Array]:
    """Return which share of the answers is right, and of their ones, tens, hundreds and so on."""
    right = answer(params, data.xs, data.ys.shape[1]) == data.ys
    digits = (data.ys != SPACE).sum(axis=1, keepdims=True)
    places = [jnp.take_along_axis(right, jnp.maximum(digits - k, 0), axis=1) for k in range(1, data.ys.shape[1])]
    return [right.all(axis=1).mean(), *(place.mean(where=digits >= k) for k, place in enumerate(places, 1))]


def pyplot():
    try:
        from matplotlib import pyplot
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install -e '.[plot]'") from None
    pyplot.switch_backend("Agg")
    return pyplot


def draw(shares: list, path: Path) -> None:
    """Draw the shares after each epoch."""
    figure, axes = pyplot().subplots(figsize=(7, 4), layout="constrained")
    whole, *places = 100 * np.array(shares).T
    epochs = range(1, len(whole) + 1)
    for name, color, place in zip(
        ("ones", "tens", "hundreds"), ("#D55E00", "#0072B2", "#009E73"), places, strict=False
    ):
        axes.plot(epochs, place, color=color, lw=2, label=name)
    axes.plot(epochs, whole, "--", color="black", lw=2, label="whole answers")
    axes.set(xlabel="epochs", ylabel="right in held-out sums, %", ylim=(-2, 102))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, default=3, help="the most digits of a number (default 3)")
    parser.add_argument("--sums", type=int, default=50_000, help="how many, a tenth held out (default 50000)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"how often to go through them (default {EPOCHS})")
    parser.add_argument("--seed", type=int, default=0, help="of the sums and the parameters (default 0)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the share right (needs the extra 'plot')")
    options = parser.parse_args(arguments)
    if options.digits < 2 or options.epochs < 1 or options.sums < 2 * BATCH:
        parser.error(f"expected --digits of 2, --epochs of 1 and --sums of {2 * BATCH} at least")
    if options.plot:
        pyplot()  # to fail now rather than in the end

    learned, held_out = draw_sums(options.seed, options.sums, options.digits)
    began, shares = time.perf_counter(), []
    for k, params in enumerate(train(learned, options.epochs, options.seed), 1):
        shares.append(shares_right(params, held_out))
        seconds = time.perf_counter() - began
        print(
            f"epoch {k:2}: {shares[-1][0]:6.2%} of {held_out.sequences:,} held-out sums right, {seconds:.1f} s",
            flush=True,
        )

    some = jax.tree.map(lambda ids: ids[:10], held_out)
    for each in zip(some.xs[:, ::-1], answer(params, some.xs, options.digits + 1), some.ys, strict=True):
        question, wrote, right = ("".join(CHARACTERS[k] for k in ids).strip() for ids in each)
        print(f"✓ {question}={wrote}" if wrote == right else f"✗ {question}={wrote}, which is {right}")
    if options.plot:
        draw(shares, options.plot)
    return float(shares[-1][0])


if __name__ == "__main__":
    main()
