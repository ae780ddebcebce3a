"""An LSTM trained with nothing but pure functions: parameters, an optimiser, a step, and a loop of your own.

It reads ten letters and learns to say, after the last one, which letter came first.
"""

import argparse
import time

import jax
import optax

import jlstm

LETTERS, LENGTH, BATCH = 8, 10, 64


def sequences(key, count):
    letters = jax.random.randint(key, (count, LENGTH), 0, LETTERS)
    return jlstm.Batch(xs=jax.nn.one_hot(letters, LETTERS), ys=letters[:, 0])


def accuracy(params, batch, config):
    scores, _ = jlstm.forward(params, batch.xs, config)
    return (scores.argmax(axis=-1) == batch.ys).mean()


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="how many updates to make (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the parameters and the data (default 0)")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps: expected at least 1, got {options.steps}")

    began = time.perf_counter()
    key_params, key_state, key_data, key_test = jax.random.split(jax.random.key(options.seed), 4)

    config = jlstm.LSTMConfig(input_size=LETTERS, hidden_size=32, output_size=LETTERS, target="last")
    rate = optax.cosine_decay_schedule(0.01, options.steps)
    init, step = jlstm.trainer(config, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)))

    @jax.jit
    def draw_and_step(state):
        return step(state, sequences(jax.random.fold_in(key_data, state.step), BATCH))

    state = init(jlstm.init_params(key_params, config), key_state)
    for k in range(1, options.steps + 1):
        state, loss = draw_and_step(state)
        if k % max(1, options.steps // 10) == 0:
            print(f"step {k:4d}  loss {loss:.4f}")

    right = float(jax.jit(accuracy)(state.params, sequences(key_test, 1000), config))
    print(f"{right:.1%} of 1,000 new sequences answered right after {time.perf_counter() - began:.1f} s")
    return right


if __name__ == "__main__":
    main()
