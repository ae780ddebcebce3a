"""To disk and back: a network in one file, with what it takes to train on; and the state of a training, in another.

The format of a network, version 5, reads without jlstm. An object in JSON says what the network is: "format" is
"jlstm", "version" is 5, "config" has the fields of `LSTMConfig`, the cell by its name, "vocabulary" is null or a string
whose k-th character is class id k, "apply_softmax" is true or false, "trained_on" says so in a few words, where it is
there. "standardize", where it is there, is true before the training, or has the "mean" and the "deviation" of each
feature, "inputs", and of each value to tell, "targets", null where those are none. All else are arrays, in C order, of
float16, bfloat16, float32 or float64: for each layer k from 0 up those of the cell, `layers[k].weight_ih`,
`layers[k].weight_hh` and `layers[k].bias` of an LSTM, of two directions `layers[k].forward.weight_ih` and so on; then
`readout.weight` and `readout.bias`; all of the shapes that the cell's file and `Readout` name.

"training", where it is there, has "epochs", how many led to the parameters, and "shapes", the names and shapes of
further arrays, beside the others: `training.history.loss`, `.validation` and `.accuracy`, in float64, one number an
epoch, and the state of the training, in any dtypes: `training.opt_state[1][0].mu.layers[0].bias` and so on as the
optimiser has them, `training.key`, the numbers of a JAX key in uint32, `training.step`, how many steps were taken, and
`training.params.readout.bias` and so on, where the parameters that are trained are not those that predict.

Under a name that ends in `.safetensors`, the file is of the format of that name, whose header has the dtypes. The
object is the string "jlstm" in its metadata, and has a "sha256" more, a checksum that `jlstm/safetensors.py` defines.

    from safetensors import safe_open
    with safe_open("model.safetensors", "numpy") as file:
        about, bias = json.loads(file.metadata()["jlstm"]), file.get_tensor("layers[0].bias")

Under all other names, it is an uncompressed zip archive that `numpy.load` opens. The object is its member `jlstm.json`,
in UTF-8, and has "dtypes" more, the dtype of each array by its name. All other members are the arrays in NumPy's format
1.0, little-endian, with `.npy` behind the name. A bfloat16 array is stored as its bits, in uint16; they are the upper
half of a float32's. Version 4 had no "training"; version 3 no "standardize" either; version 2 no cell but the LSTM, and
fewer fields in "config"; in version 1, the layers' weights were transposed as well, `[I, 4H]`, `[H, 4H]`.

    file = numpy.load("model.npz")
    about, bias = json.loads(file["jlstm.json"]), file["layers[0].bias"]
"""

import os
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp

from jlstm import npz, safetensors
from jlstm.cells import Cell
from jlstm.checks import describe
from jlstm.files import name_of, open_file, write
from jlstm.saved import Saved, Training, put_together, take_apart
from jlstm.snapshot import read_training, write_training

__all__ = ["Saved", "Training", "load", "load_training", "save", "save_training"]


def save(path: str | os.PathLike[str], saved: Saved) -> None:
    """Write a network to a file, in one step: whatever interrupts it leaves the old file whole and nothing beside it.

    Args:
        path: the file, by exactly this name; one that is there is replaced and keeps its permissions. A name that ends
            in `.safetensors` makes it of that format, any other a `.npz`.
        saved: the network; its parameters are finite numbers in float16, bfloat16, float32 or float64, and what it
            takes to train on are numbers of any dtype.

    Raises:
        TypeError, ValueError: `path` or `saved` does not fit; the message names what, and nothing was touched.
        OSError: the file can't be written.
        ModuleNotFoundError: it is to be a `.safetensors`, and that library is not installed.

    Example:
        >>> import tempfile
        >>> from jlstm import LSTMConfig, init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> params = init_params(jax.random.key(0), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/model.npz", Saved(params, config, "abc", apply_softmax=True))
        ...     load(f"{folder}/model.npz").vocabulary
        'abc'
    """
    name = name_of(path)
    encode = safetensors.encode if _ends_as_safetensors(name) else npz.encode
    write(name, encode(*take_apart(saved)))


def load(path: str | os.PathLike[str], *, cell: Cell | None = None) -> Saved:
    """Read a network from a file that `save` wrote; a file that holds anything else is refused, and nothing in it runs.

    Args:
        path: the file, under whatever name: what is in it shows its format.
        cell: the cell of the network, where it is none of `jlstm.cells`: a file has the name of it alone.

    Returns:
        The network; its parameters have the bits and the dtypes that were saved.

    Raises:
        TypeError: `path` is not a path, or `cell` no `Cell`.
        ValueError: the file is damaged, was not written by `save`, or was written by a newer jlstm; or it holds float64
            and `jax_enable_x64` is off; or the network has another cell than `cell`.
        OSError: the file is missing or can't be read.
        ModuleNotFoundError: it is a `.safetensors`, and that library is not installed.

    Example:
        >>> import tempfile
        >>> from jlstm import LSTMConfig, init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> params = init_params(jax.random.key(0), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/model.npz", Saved(params, config, "abc", apply_softmax=True))
        ...     loaded = load(f"{folder}/model.npz")
        >>> loaded.vocabulary, bool((loaded.params.readout.weight == params.readout.weight).all())
        ('abc', True)
    """
    path = name_of(path)
    if cell is not None and not isinstance(cell, Cell):
        raise TypeError(f"cell: expected a Cell, got {describe(cell)}")
    with open_file(path) as file:
        decode = safetensors.decode if _is_safetensors(path, file) else npz.decode
        try:
            saved = put_together(decode(file), cell)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {str(error)[:500]}") from None  # it may quote what a hostile file says
    return saved._replace(params=jax.tree.map(jnp.array, saved.params))


def save_training(path: str | os.PathLike[str], state: Any) -> None:
    """Write the state of a training to a file, in one step: whatever interrupts it leaves the old file whole.

    Args:
        path: the file; one that is there is replaced.
        state: a `TrainState`, or any other pytree of arrays.

    Raises:
        TypeError: something in it is no array of numbers.
        OSError: the file can't be written.

    Example:
        >>> import tempfile
        >>> state = {"step": jnp.int32(3), "key": jax.random.key(0)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_training(f"{folder}/training.npz", state)
        ...     load_training(f"{folder}/training.npz", state)["step"].item()
        3
    """
    write_training(path, state, {})


def load_training(path: str | os.PathLike[str], like: Any) -> Any:
    """Read the state of a training from a file that `save_training` wrote; nothing in it is executed.

    Args:
        path: the file.
        like: a state of the same network and optimiser, such as `init(params, key)` gives it.

    Returns:
        The state, to the same bits.

    Raises:
        ValueError: the file is damaged or foreign, or its state is not like this one; the message says where.
        OSError: the file is missing or can't be read.
    """
    return read_training(path, lambda about: like)[1]


def _ends_as_safetensors(path: str) -> bool:
    return path.lower().endswith(".safetensors")


def _is_safetensors(path: str, file: BinaryIO) -> bool:
    """Whether a file is of this format by what is in it; where that does not tell, as of a damaged one, by its name."""
    start = file.read(9)
    file.seek(0)
    return start[8:] == b"{" or (_ends_as_safetensors(path) and not start.startswith(b"PK"))
