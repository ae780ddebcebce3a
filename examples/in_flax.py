"""A layer of jlstm within a model of Flax, trained with nnx's own optimiser in a loop of nnx.

It reads the steps of a random walk and says whether that ends above its start.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import optax

import jlstm

try:
    from flax import nnx
except ImportError as error:
    raise ImportError("in_flax.py needs Flax: pip install 'jlstm[interop]'") from error

LENGTH, HIDDEN, BATCH = 30, 16, 64


class Walk(nnx.Module):
    def __init__(self, rngs):
        params = jlstm.LSTM.init(rngs.params(), input_size=1, hidden_size=HIDDEN)
        self.weight_ih, self.weight_hh, self.bias = map(nnx.Param, params)
        self.linear = nnx.Linear(HIDDEN, 1, rngs=rngs)

    def __call__(self, xs):
        params = jlstm.LSTMParams(self.weight_ih[...], self.weight_hh[...], self.bias[...])
        hs, _ = jlstm.unroll(params, xs)
        return self.linear(hs[:, -1])[:, 0]


def walks(key, count):
    steps = jax.random.normal(key, (count, LENGTH, 1))
    return steps, steps.sum(axis=(1, 2)) > 0


def loss_fn(model, xs, ys):
    return optax.sigmoid_binary_cross_entropy(model(xs), ys).mean()


@nnx.jit
def train_step(model, optimizer, key):
    loss, gradients = nnx.value_and_grad(loss_fn)(model, *walks(key, BATCH))
    optimizer.update(model, gradients)
    return loss


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="how many updates to make (default 300)")
    options = parser.parse_args(arguments)

    began = time.perf_counter()
    model = Walk(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param)
    key_data, key_test = jax.random.split(jax.random.key(1))
    for k in range(1, options.steps + 1):
        loss = train_step(model, optimizer, jax.random.fold_in(key_data, k))
        if k % 50 == 0:
            print(f"step {k:4d}  loss {loss:.4f}")

    xs, ys = walks(key_test, 1000)
    right = float(jnp.mean((model(xs) > 0) == ys))
    print(f"{right:.1%} of 1,000 new walks judged right after {time.perf_counter() - began:.1f} s")
    return right


if __name__ == "__main__":
    main()
