"""The state of a training on disk: any optimiser's, to the same bits, or a clear error."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jlstm import Batch, LSTMConfig, LSTMNetwork, init_params, trainer
from jlstm.checkpoint import load_training, save_training
from jlstm.snapshot import read_training, write_training

CONFIG = LSTMConfig(1, 4, 2)
OPTIMIZERS = {
    "adam": optax.adam(0.1),
    "momentum": optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9)),
    "MultiSteps": optax.MultiSteps(optax.adam(0.1), 4),
    "schedule_free": optax.contrib.schedule_free_adamw(0.1),
    "masked": optax.masked(optax.adam(0.1), lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)),
    "hyperparameters": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
}


def plain(tree):
    """The structure of a pytree and the bits of its arrays."""
    leaves = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]
    return jax.tree.structure(tree), [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in leaves]


def a_state(optimizer, seed=0):
    return trainer(CONFIG, optimizer).init(init_params(jax.random.key(seed), CONFIG), jax.random.key(seed))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimisers_state_comes_back_to_the_same_bits(tmp_path, name):
    step = jax.jit(trainer(CONFIG, OPTIMIZERS[name]).step)
    batch = Batch(jnp.ones((2, 3, 1)), jnp.zeros((2, 3), int))
    state, _ = step(a_state(OPTIMIZERS[name]), batch)
    save_training(tmp_path / "training", state)
    loaded = load_training(tmp_path / "training", a_state(OPTIMIZERS[name], seed=1))
    assert plain(loaded) == plain(state)
    assert plain(step(loaded, batch)) == plain(step(state, batch))


def test_orbax_keeps_a_state_to_the_same_bits_by_the_lines_of_the_readme(tmp_path, monkeypatch):
    pytest.importorskip("orbax.checkpoint")
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    [lines] = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "orbax" in block]
    init, step = trainer(CONFIG, OPTIMIZERS["MultiSteps"])
    state, _ = jax.jit(step)(a_state(OPTIMIZERS["MultiSteps"]), Batch(jnp.ones((2, 3, 1)), jnp.zeros((2, 3), int)))
    names = {"jax": jax, "init": init, "params": init_params(jax.random.key(1), CONFIG), "train_state": state}
    exec(lines, names)
    assert names["train_state"] is not state
    assert plain(names["train_state"]) == plain(state) != plain(names["like"])


def test_a_state_is_any_pytree(tmp_path):
    tree = {"half": jnp.ones(3, jnp.bfloat16), "on": jnp.array([True, False]), "none": None, "one": (jnp.int8(3),)}
    write_training(tmp_path / "training", tree, {"said": [1, "two"]})
    about, loaded = read_training(tmp_path / "training", lambda about: tree)
    assert about == {"said": [1, "two"]}
    assert plain(loaded) == plain(tree)
    save_training(tmp_path / "one", jnp.float32(2))
    assert load_training(tmp_path / "one", jnp.float32(0)) == 2


def test_names_what_does_not_fit(tmp_path):
    path = tmp_path / "training"
    save_training(path, {"a": np.ones(3, np.float32)})
    for like, message in (
        ({"b": np.ones(3, np.float32)}, "members: expected 2 names, got 2, with [\"['b'].npy\"] missing"),
        ({"a": np.ones(4, np.float32)}, "['a']: expected shape (4,)"),
        ({"a": np.ones(3, np.int32)}, "['a']: expected int32, got float32"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
            load_training(path, like)
    with pytest.raises(TypeError, match=re.escape("state['a']: expected an array of numbers, got 'x'")):
        save_training(path, {"a": "x"})
    assert load_training(path, {"a": np.zeros(3, np.float32)})["a"].sum() == 3
    save_training(path, {"a": np.ones(3)})
    with pytest.raises(ValueError, match=re.escape("['a']: expected a dtype of 32 bits or less, got float64, which")):
        load_training(path, {"a": np.ones(3)})
    LSTMNetwork(1, 4, 2, progress=False).save(path)
    with pytest.raises(ValueError, match="expected an object with the format 'jlstm training', got"):
        load_training(path, {"a": np.ones(3, np.float32)})


def changed(data, rng):
    """The bytes with some of them changed, cut off, or put twice."""
    data, kind, at = bytearray(data), rng.integers(4), int(rng.integers(len(data)))
    if kind == 0:
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[at : at + 8] = rng.bytes(8)
    elif kind == 2:
        del data[at:]
    else:
        data[at:at] = data[at : at + 64]
    return bytes(data)


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_changed_file_gives_the_same_bits_or_a_clear_error(tmp_path, count):
    state, path, rng = a_state(optax.adam(0.1)), tmp_path / "training", np.random.default_rng(count)
    save_training(path, state)
    whole, refused = path.read_bytes(), 0
    for _ in range(count):
        path.write_bytes(changed(whole, rng))
        try:
            loaded = load_training(path, state)
        except ValueError as error:
            message = str(error)
        else:
            assert plain(loaded) == plain(state)
            continue
        assert message.startswith(f"{path}: ")
        refused += 1
    assert refused > count / 2
