"""An agent learns by reward alone to remember: a T-maze whose entrance tells which way to turn at its far end.

It sees the cue once, walks a corridor of 20 steps that all look alike, and gets its reward for the right turn. The same
agent without memory, its state zero before every step, can only guess.
"""

import argparse
import time
from collections import namedtuple
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from jax import lax

import jlstm

LEFT, RIGHT, AHEAD = range(3)  # the actions; the first two are also the cues
CORRIDOR, JUNCTION = 2, 3  # what else there is to see
MAZES, STEPS, EVERY, TEST_MAZES = 64, 64, 20, 1000  # mazes at once, steps an update, updates between two tests
DISCOUNT, ENTROPY = 0.98, 0.02
CONFIG = jlstm.LSTMConfig(input_size=4, hidden_size=32, output_size=4, inputs="tokens")  # three logits and the value
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.005))

# Of each maze the cue, how many steps the agent is from the entrance, whether an episode starts, and what it remembers.
World = namedtuple("World", "cue place fresh state")  # [mazes, ...]
Steps = namedtuple("Steps", "seen resets action reward ended")  # [mazes, time]


def new_world(params, key, mazes):
    cue, place = jax.random.randint(key, (mazes,), LEFT, AHEAD), jnp.zeros(mazes, int)
    return World(cue, place, jnp.ones(mazes, bool), jlstm.zero_state(params, mazes))


@jax.jit
def new_agent(key):
    key_params, key_world = jax.random.split(key)
    params = jlstm.init_params(key_params, CONFIG)
    return params, OPTIMIZER.init(params), new_world(params, key_world, MAZES)


def move(world, action, key, length):
    """Return the world after an action, with a new maze where an episode ended, and the rewards.

    After Bakker, "Reinforcement Learning with Long Short-Term Memory", 2002; here there is no way back.
    """
    ended = (world.place == length) & (action != AHEAD)
    walked = (world.place < length) & (action == AHEAD)
    reward = jnp.where(ended & (action == world.cue), 4.0, jnp.where(walked, 0.0, -0.1))
    cue = jnp.where(ended, jax.random.randint(key, ended.shape, LEFT, AHEAD), world.cue)
    return World(cue, jnp.where(ended, 0, world.place + walked), ended, world.state), reward


def act(params, world, key, length, forgetful, steps, greedy=False):
    """Return the world after the agent took some steps in all mazes, and those steps."""

    def step(world, key):
        key_action, key_maze = jax.random.split(key)
        view = jnp.where(world.place < length, CORRIDOR, JUNCTION)
        seen, resets = jnp.where(world.place == 0, world.cue, view), world.fresh | forgetful
        scores, state = jlstm.forward(params, seen[:, None], CONFIG, world.state, resets=resets[:, None])
        logits = scores[:, 0, :-1]
        action = logits.argmax(axis=-1) if greedy else jax.random.categorical(key_action, logits)
        world, reward = move(world._replace(state=state), action, key_maze, length)
        return world, Steps(seen, resets, action, reward, world.fresh)

    world, each = lax.scan(step, world, jax.random.split(key, steps))
    return world, jax.tree.map(jnp.transpose, each)


def loss_fn(params, state, steps):
    """Return the loss of an actor with a critic (Williams 1992; Mnih et al. 2016) on steps that began in a state."""
    scores, _ = jlstm.forward(params, steps.seen, CONFIG, state, resets=steps.resets)
    policy, values = jax.nn.log_softmax(scores[..., :-1]), scores[..., -1]

    def backwards(later, step):
        reward, ended = step
        now = reward + DISCOUNT * jnp.where(ended, 0, later)
        return now, now

    last = lax.stop_gradient(values[:, -1])  # stands for all rewards from the last step on
    _, returns = lax.scan(backwards, last, (steps.reward.T[:-1], steps.ended.T[:-1]), reverse=True)
    advantage = jnp.vstack([returns, last]).T - values
    chosen = jnp.take_along_axis(policy, steps.action[..., None], axis=-1)[..., 0]
    entropy = -(jnp.exp(policy) * policy).sum(axis=-1)
    return (advantage**2 / 2 - lax.stop_gradient(advantage) * chosen - ENTROPY * entropy).mean()


@jax.jit
def learn(agent, key, length, forgetful):
    """Return the agent after some updates, each from what it did in the steps before."""

    def update(agent, key):
        params, opt_state, world = agent
        later, steps = act(params, world, key, length, forgetful, STEPS)
        grads = jax.grad(loss_fn)(params, world.state, steps)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, later), None

    return lax.scan(update, agent, jax.random.split(key, EVERY))[0]


@partial(jax.jit, static_argnames="length")
def solved(params, key, length, forgetful):
    """Return the share of new mazes that the likeliest actions solve, in twice the steps that it takes at the least."""
    key_world, key_act = jax.random.split(key)
    world = new_world(params, key_world, TEST_MAZES)
    _, steps = act(params, world, key_act, length, forgetful, 2 * (length + 1), greedy=True)
    first = steps.ended & (steps.ended.cumsum(axis=1) == 1)
    return (first & (steps.reward > 0)).any(axis=1).mean()


def pyplot():
    try:
        from matplotlib import pyplot
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install -e '.[plot]'") from None
    pyplot.switch_backend("Agg")
    return pyplot


def draw(shares, path):
    """Draw the shares of mazes solved, `[tests, 2]`, with and without memory."""
    figure, axes = pyplot().subplots(figsize=(7, 4), layout="constrained")
    updates = EVERY * jnp.arange(1, len(shares) + 1)
    for name, color, share in zip(("with memory", "without"), ("#0072B2", "#D55E00"), 100 * shares.T, strict=True):
        axes.plot(updates, share, color=color, lw=2, label=name)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    axes.set(xlabel="updates", ylabel="new mazes solved, %", ylim=(-2, 103))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=20, help="how many steps to remember the cue (default 20)")
    parser.add_argument("--updates", type=int, default=300, help=f"a multiple of {EVERY} (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the agents and the mazes (default 0)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the mazes solved (needs the extra 'plot')")
    options = parser.parse_args(arguments)
    if options.length < 1 or options.updates < EVERY or options.updates % EVERY:
        parser.error(f"expected --length of 1 at least and --updates of a multiple of {EVERY}")
    if options.plot:
        pyplot()  # to fail now rather than in the end

    began = time.perf_counter()
    key_agent, key_learn, key_test = jax.random.split(jax.random.key(options.seed), 3)
    agents, shares = [new_agent(key_agent)] * 2, []  # they differ in nothing but that the second is forgetful
    print("updates   with memory   without")
    for k in range(options.updates // EVERY):
        own, test = jax.random.fold_in(key_learn, k), jax.random.fold_in(key_test, k)
        agents = [learn(agent, own, options.length, bool(f)) for f, agent in enumerate(agents)]
        shares.append([solved(agent[0], test, options.length, bool(f)) for f, agent in enumerate(agents)])
        print("{:7}{:14.1%}{:10.1%}".format(EVERY * (k + 1), *shares[-1]), flush=True)
    if options.plot:
        draw(jnp.array(shares), options.plot)
    with_memory, without = map(float, shares[-1])
    seconds = time.perf_counter() - began
    print(
        f"{with_memory:.1%} of {TEST_MAZES:,} new mazes solved with memory, {without:.1%} without, in {seconds:.1f} s"
    )
    return with_memory, without


if __name__ == "__main__":
    main()
