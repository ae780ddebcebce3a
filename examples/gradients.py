"""Is the gradient right? A table for the documented network, and one for a loss of your own.

`jax.grad` is compared with backpropagation through time written out by hand in NumPy, and with finite differences.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import jlstm
from jlstm.gradcheck import check, gradcheck


def main(arguments: list[str] | None = None) -> bool:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=25, help="the number of hidden units (default 25)")
    parser.add_argument("--seed", type=int, default=0, help="of the parameters (default 0)")
    options = parser.parse_args(arguments)

    began = time.perf_counter()
    network = jlstm.LSTMNetwork(1, options.hidden, 50, loss="cross_entropy", seed=options.seed)
    numbers = np.array([[start * 3**k % 50 for k in range(11)] for start in range(8)])
    xs, ys = numbers[:, :-1, None] / 50, numbers[:, 1:]
    print(f"The documented network with {options.hidden} hidden units, on 8 sequences of x -> 3x mod 50:\n")
    documented = gradcheck(network.params, xs, ys, network.config)
    print(documented)

    def surprise_at_the_end(params: jlstm.ModelParams) -> jax.Array:
        scores, state = jlstm.forward(params, xs, network.config)
        return jlstm.cross_entropy(scores[:, -1], ys[:, -1]) + 0.01 * jnp.sum(state[0].c ** 2)

    print("\nA loss of your own: the cross-entropy of the last number, and a penalty on the cell state:\n")
    own = check(surprise_at_the_end, network.params)
    print(own)

    passed = documented.passed and own.passed
    verdict = "All gradients are right" if passed else "A gradient is wrong"
    print(f"\n{verdict}: {len(documented.rows) + len(own.rows)} comparisons in {time.perf_counter() - began:.1f} s")
    return passed


if __name__ == "__main__":
    raise SystemExit(not main())
