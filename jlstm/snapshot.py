"""A training on disk: any pytree of arrays, and what it is of, in one file.

The file is a `.npz`, as a network's is (`jlstm.checkpoint`). Its object in JSON has "format", which is "jlstm
training", "version", which is 1, "about", whatever was said of the training, and "dtypes". Its arrays have the names
that JAX gives them, such as `.params.layers[0].bias`; a key of `jax.random.key` is its numbers, in uint32.
"""

import json
import os
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlstm import npz
from jlstm.checks import describe, is_key, same_names
from jlstm.files import name_of, open_file, write
from jlstm.saved import EVERY, check_bits, reading

__all__ = ["arrays_of", "read_training", "tree_of", "write_training"]

FORMAT, VERSION = "jlstm training", 1


def write_training(path: str | os.PathLike[str], state: Any, about: dict[str, Any]) -> None:
    """Write a state, any pytree of arrays, in one step, with an object for JSON that says what it is of."""
    name = name_of(path)
    write(name, npz.encode({"format": FORMAT, "version": VERSION, "about": about}, arrays_of("state", state)))


def read_training(path: str | os.PathLike[str], like: Callable[[dict[str, Any]], Any]) -> tuple[dict[str, Any], Any]:
    """Read what `write_training` wrote.

    Args:
        path: the file.
        like: given what is said of the training, returns what its state has to be like.

    Returns:
        What is said of it, and the state.

    Raises:
        ValueError, OSError: as `jlstm.checkpoint.load_training`.
    """
    path = name_of(path)
    with open_file(path) as file:
        try:
            contents = npz.decode(file, _read_about)
            about = contents.about["about"]
            expected = like(about)
            arrays = contents.arrays({name: _form(leaf).shape for name, leaf in _by_name(expected).items()})
            for name, array in arrays.items():
                check_bits(name, array)
            return about, tree_of(arrays, expected)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {str(error)[:500]}") from None


def arrays_of(what: str, tree: Any) -> dict[str, np.ndarray]:
    """Return a pytree's arrays as a file has them, by the names that JAX gives them; or a TypeError says which is none.

    Example:
        >>> arrays_of("state", {"key": jax.random.key(3), "step": jnp.int32(2)})
        {"['key']": array([0, 3], dtype=uint32), "['step']": array(2, dtype=int32)}
    """
    return {name: _plain(f"{what}{name}", leaf) for name, leaf in _by_name(tree).items()}


def tree_of(arrays: Mapping[str, np.ndarray], like: Any) -> Any:
    """Return the pytree like this one that these are the arrays of; or a ValueError says which of them is not."""
    leaves = _by_name(like)
    for name in [*leaves, *arrays]:
        if name not in arrays or name not in leaves:
            expected, came = ("an array", "none") if name in leaves else ("none", "an array")
            raise ValueError(f"{name}: expected {expected}, got {came}")
        expected, array = _form(leaves[name]), arrays[name]
        if array.shape != expected.shape:
            raise ValueError(f"{name}: expected shape {expected.shape}, got {array.shape}")
        if array.dtype != expected.dtype:
            raise ValueError(f"{name}: expected {expected.dtype}, got {array.dtype}")
    restored = [_restored(arrays[name], leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _by_name(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path) or "state": leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _form(leaf: Any) -> Any:
    """Return something with the shape and the dtype that an array has in a file."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf if hasattr(leaf, "dtype") else np.asarray(leaf)


def _plain(name: str, leaf: Any) -> np.ndarray:
    """Return an array as a file has it."""
    array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    if array.dtype.name not in EVERY:
        raise TypeError(f"{name}: expected an array of numbers, got {describe(leaf)}")
    return np.asarray(array, array.dtype.name, order="C")


def _restored(array: np.ndarray, like: Any) -> Any:
    """Return an array of a file as it was."""
    return (
        jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(like)) if is_key(like) else jnp.array(array)
    )


def _read_about(where: str, text: str | bytes, own: str) -> dict[str, Any]:
    """Return the object in JSON that says what a training is."""
    with reading(f"{where}: expected JSON"):
        about = json.loads(text)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{where}: expected an object with the format {FORMAT!r}, got {reprlib.repr(about)}")
    if about.get("version") != VERSION:
        raise ValueError(f"version: expected {VERSION}, got {reprlib.repr(about.get('version'))}")
    same_names(where, about, ["format", "version", "about", own])
    if not isinstance(about["about"], dict):
        raise ValueError(f"about: expected an object, got {reprlib.repr(about['about'])}")
    return about
