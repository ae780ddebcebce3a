"""A layer of jlstm within a model of Equinox, trained with optax in a loop of Equinox.

It reads the steps of a random walk and says whether that ends above its start.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import optax

import jlstm

try:
    import equinox as eqx
except ImportError as error:
    raise ImportError("in_equinox.py needs Equinox: pip install 'jlstm[interop]'") from error

LENGTH, HIDDEN, BATCH = 30, 16, 64
OPTIMIZER = optax.adam(0.01)


class Walk(eqx.Module):
    lstm: jlstm.LSTMParams
    linear: eqx.nn.Linear

    def __init__(self, key):
        key_lstm, key_linear = jax.random.split(key)
        self.lstm = jlstm.LSTM.init(key_lstm, input_size=1, hidden_size=HIDDEN)
        self.linear = eqx.nn.Linear(HIDDEN, 1, key=key_linear)

    def __call__(self, xs):
        hs, _ = jlstm.unroll(self.lstm, xs)
        return jax.vmap(self.linear)(hs[:, -1])[:, 0]


def walks(key, count):
    steps = jax.random.normal(key, (count, LENGTH, 1))
    return steps, steps.sum(axis=(1, 2)) > 0


@eqx.filter_value_and_grad
def loss_fn(model, xs, ys):
    return optax.sigmoid_binary_cross_entropy(model(xs), ys).mean()


@eqx.filter_jit
def train_step(model, state, key):
    loss, gradients = loss_fn(model, *walks(key, BATCH))
    updates, state = OPTIMIZER.update(gradients, state, model)
    return eqx.apply_updates(model, updates), state, loss


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="how many updates to make (default 300)")
    options = parser.parse_args(arguments)

    began = time.perf_counter()
    key_model, key_data, key_test = jax.random.split(jax.random.key(0), 3)
    model = Walk(key_model)
    state = OPTIMIZER.init(eqx.filter(model, eqx.is_array))
    for k in range(1, options.steps + 1):
        model, state, loss = train_step(model, state, jax.random.fold_in(key_data, k))
        if k % 50 == 0:
            print(f"step {k:4d}  loss {loss:.4f}")

    xs, ys = walks(key_test, 1000)
    right = float(jnp.mean((model(xs) > 0) == ys))
    print(f"{right:.1%} of 1,000 new walks judged right after {time.perf_counter() - began:.1f} s")
    return right


if __name__ == "__main__":
    main()
