"""What was handed in, or an error that names the argument, what was expected and what came.

Shapes and dtypes are known while a function is traced, so to check them costs nothing when it runs.
"""

import importlib
import math
import reprlib
import secrets
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = [
    "alike",
    "array",
    "class_ids",
    "class_only",
    "describe",
    "finite_numbers",
    "fits",
    "floating",
    "inputs",
    "is_boxed",
    "is_floating",
    "is_integer",
    "is_key",
    "is_list_of_arrays",
    "lengths_of",
    "library",
    "numbers",
    "prng_key",
    "real_number",
    "resets_of",
    "same_names",
    "shaped",
    "switch",
    "targets_of",
    "weights_of",
    "whole_number",
    "whole_seed",
    "whole_size",
    "written",
]


def whole_number(name: str, value: Any, least: int, most: int = 2**31 - 1) -> int:
    """Return the argument `name` as an integer."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {describe(value)}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {describe(value)}")
    if value > most:
        raise ValueError(f"{name}: expected at most {most}, got {describe(value)}")
    return int(value)


def whole_size(name: str, value: Any) -> Any:
    """Return the argument `name` as a size from 0 up; a symbolic one of `jax.export` is what it is."""
    return value if jax.export.is_symbolic_dim(value) else whole_number(name, value, least=0)


def whole_seed(name: str, value: Any) -> int:
    """Return the argument `name` as a seed, an integer from 0 up; for None another one each time."""
    return secrets.randbits(63) if value is None else whole_number(name, value, least=0, most=2**63 - 1)


def real_number(name: str, value: Any) -> float:
    """Return the argument `name` as a finite float from zero up."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {describe(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: expected a finite number from 0 up, got {describe(value)}")
    return number


def switch(name: str, value: Any) -> bool:
    """Return the argument `name`, which is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {describe(value)}")
    return bool(value)


def prng_key(name: str, value: Any) -> Array:
    """Return the argument `name` as a key of `jax.random.key`; `jax.random.PRNGKey` gives the same in another form."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype == np.uint32 and shape == jax.random.key_data(jax.random.key(0)).shape:
        return jax.random.wrap_key_data(jnp.asarray(value))
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or shape != ():
        raise TypeError(f"{name}: expected one key of jax.random.key, got {describe(value)}")
    return value


def is_key(value: Any) -> bool:
    """Whether this is an array of keys of `jax.random.key`."""
    return jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key)


def array(name: str, value: Any) -> Array:
    """Return the argument `name` as an array of real numbers, of a dtype that JAX has switched on."""
    return _of_jax(numbers(name, value))


def numbers(name: str, value: Any) -> Any:
    """Return the argument `name` as an array of real numbers or booleans, of NumPy where it was none before."""
    given, is_ours = value, isinstance(value, Array) or isinstance(getattr(value, "dtype", None), np.dtype)
    if not is_ours or not hasattr(value, "shape") or value.dtype == object:  # torch and pandas have dtypes of their own
        try:
            given = np.asarray(value)
            if given.dtype == object and given.size:  # numbers, as a table of several kinds of columns gives them
                given = np.array(_with_gaps(given).tolist())
        except ValueError:
            raise ValueError(
                f"{name}: expected a regular array, got parts of different shapes; sequences of different length are "
                "given to LSTMNetwork as a list of arrays, to the functions padded, with their lengths"
            ) from None
        except TypeError:
            raise TypeError(f"{name}: expected numbers, got {describe(value)}") from None
    if jnp.issubdtype(given.dtype, jnp.complexfloating):
        raise TypeError(f"{name}: expected real numbers, got complex ones")
    if not (given.dtype == bool or is_integer(given) or is_floating(given)):
        kind = {"U": "strings", "S": "bytes", "O": "objects"}.get(getattr(given.dtype, "kind", ""), str(given.dtype))
        raise TypeError(f"{name}: expected numbers, got {'None' if value is None else kind}")
    return given


def _with_gaps(objects: np.ndarray) -> np.ndarray:
    """Return objects with NaN for None and the NA of pandas, where not all of them are such."""
    gaps = np.array([each is None or type(each).__name__ == "NAType" for each in objects.flat]).reshape(objects.shape)
    return objects if gaps.all() else np.where(gaps, np.nan, objects)


def finite_numbers(
    name: str, value: Any, dtype: Any = np.float32, *, gaps: bool = False, advice: str = ""
) -> np.ndarray:
    """Return the argument `name` as a NumPy array of floats, all finite or, with `gaps`, NaN; `advice` is about NaN."""
    given = np.asarray(numbers(name, value))
    with np.errstate(over="ignore"):
        floats = given.astype(dtype)
    good = np.isfinite(floats) | np.isnan(floats) if gaps else np.isfinite(floats)
    if not good.all():
        where = tuple(int(index) for index in np.argwhere(~good)[0])
        expected = f"finite numbers in {np.dtype(dtype)}{', or NaN for unknown ones' * gaps}"
        advice = advice if np.isnan(floats[where]) else ""
        raise ValueError(f"{name}: expected {expected}, got {given[where]} at index {where}{advice}")
    return floats


def is_boxed(value: Any) -> bool:
    """Whether this is a list of arrays in an array of objects, as `numpy.load` and what splits data give it."""
    return isinstance(value, np.ndarray) and value.dtype == object and any(np.ndim(element) for element in value.flat)


def is_list_of_arrays(value: Any) -> bool:
    """Whether this is a list, or what stands for one, of which an element is an array."""
    return is_boxed(value) or (isinstance(value, (list, tuple)) and any(getattr(part, "ndim", 0) for part in value))


def same_names(what: str, got: Any, expected: Iterable[str]) -> None:
    """Raise a ValueError unless this is a dictionary or a set of exactly these names."""
    names, wanted = set(got) if isinstance(got, (Mapping, Set)) else set(), set(expected)
    if names != wanted:
        missing, more = (reprlib.repr(sorted(those)) for those in (wanted - names, names - wanted))
        counts = f"expected {len(wanted)} names, got {len(names)}"
        raise ValueError(f"{what}: {counts}, with {missing} missing and {more} unknown")


def class_ids(name: str, value: Any, classes: int, *, unknown: int | None = None) -> np.ndarray:
    """Return the argument `name` as an int32 array of NumPy, of class ids below `classes`.

    Whole floats are ids, as a table or a division gives them, and so are booleans where there are two classes. With
    `unknown`, that is an id too, and NaN stands for it.
    """
    given = np.asarray(numbers(name, value))
    advice = "" if unknown is None else f"; {unknown} is one that is not known"
    if unknown is not None and given.dtype != bool:
        here = np.isnan(given) | (given == unknown) if is_floating(given) else given == unknown
        return np.where(here, unknown, _ids_below(name, np.where(here, 0, given), classes, advice)).astype(np.int32)
    return _ids_below(name, given, classes, advice)


def _ids_below(name: str, given: np.ndarray, classes: int, advice: str) -> np.ndarray:
    if given.dtype == bool:
        if classes != 2:
            came = f"booleans, which name 2 classes and not {classes}"
            raise TypeError(f"{name}: expected class ids as integers, got {came}")
        return given.astype(np.int32)
    if is_floating(given) and not (given == np.floor(given)).all():
        came = f"{given.dtype}, {given[given != np.floor(given)][0]} among them"
        raise TypeError(f"{name}: expected class ids as integers, got {came}")
    if given.size and not (given.min() >= 0 and given.max() < classes):
        wrong = given.min() if given.min() < 0 else given.max()
        raise ValueError(f"{name}: expected class ids from 0 to {classes - 1}, got {wrong}{advice}")
    return given.astype(np.int32)


def _of_jax(given: Any) -> Array:
    if isinstance(given, np.ndarray):
        given = given.astype(given.dtype.newbyteorder("="), copy=False)  # JAX knows no other order of bytes
    return jnp.asarray(given)


def _ids(given: Any) -> Array:
    """Return integers, those of few bits in more: 256 is 0 in a byte, and every id would be out of range."""
    ids = _of_jax(given)
    return ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids


def is_integer(value: Any) -> bool:
    """Whether an array is of integers; booleans and times are none."""
    return jnp.issubdtype(value.dtype, jnp.integer) and getattr(value.dtype, "kind", "") != "m"


def is_floating(value: Any) -> bool:
    """Whether an array is of floats."""
    return jnp.issubdtype(value.dtype, jnp.floating)


def floating(name: str, dtype: Any) -> Any:
    """Return the argument `name`, which is a dtype of floats."""
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise TypeError(f"{name}: expected a dtype of floats, got {describe(dtype)}")
    return found


def shaped(name: str, value: Any, **axes: Any) -> Array:
    """Return the argument `name` as an array with these axes, each of its size or, where that is None, of any."""
    given = numbers(name, value)
    if not fits(given.shape, *axes.values()):
        raise ValueError(f"{name}: expected {written(axes)}, got {describe(given)}")
    return _of_jax(given)


def fits(shape: tuple, *sizes: Any) -> bool:
    """Whether a shape has these sizes; None stands for any."""
    return len(shape) == len(sizes) and all(wanted in (None, had) for had, wanted in zip(shape, sizes, strict=True))


def written(axes: dict[str, Any]) -> str:
    """Return axes as an error shows them, `[batch = 2, time, features = 3]`."""
    return f"[{', '.join(name if length is None else f'{name} = {length}' for name, length in axes.items())}]"


def inputs(name: str, value: Any, features: int | None, **axes: Any) -> Array:
    """Return the argument `name`: numbers with features behind these axes, or class ids, integers of these axes."""
    given = numbers(name, value)
    if fits(given.shape, *axes.values(), features):
        return _of_jax(given)
    if is_integer(given) and fits(given.shape, *axes.values()):
        return _ids(given)
    advice, one = "", f"{name}[None]"
    if features == 1 and given.ndim == len(axes):
        advice = f"; write {name}[..., None]"
    elif features == 1 and given.ndim == len(axes) - 1:
        advice = f"; write {name}[None, ..., None] for one sequence"
    elif given.ndim == len(axes) and given.shape[-1] == features:
        advice = f"; write {one} for one sequence" if "time" in axes else f"; write {one} for one"
    expected = f"{written(axes | {'features': features})}, or class ids, integers {written(axes)}"
    raise ValueError(f"{name}: expected {expected}, got {describe(given)}{advice}")


def lengths_of(lengths: Any, batch: Any) -> Array | None:
    """Return the argument `lengths` in int32: integers `[batch]`, or one for all; None for all steps."""
    if lengths is None:
        return None
    given = numbers("lengths", lengths)
    if not is_integer(given) or not (given.ndim == 0 or fits(given.shape, batch)):
        raise (ValueError if is_integer(given) else TypeError)(
            f"lengths: expected integers {written({'batch': batch})}, or one for all, got {describe(given)}"
        )
    given = _ids(given)
    most = jnp.iinfo(jnp.int32).max
    return given if given.dtype == jnp.int32 else jnp.minimum(given, most).astype(jnp.int32)


def resets_of(resets: Any, batch: Any, time: Any) -> Array | None:
    """Return the argument `resets`, booleans `[batch, time]`; None for none."""
    if resets is None:
        return None
    given = numbers("resets", resets)
    if given.dtype != bool or not fits(given.shape, batch, time):
        advice = "; write resets.astype(bool)" if fits(given.shape, batch, time) else ""
        raise (TypeError if given.dtype != bool else ValueError)(
            f"resets: expected booleans {written({'batch': batch, 'time': time})}, got {describe(given)}{advice}"
        )
    return _of_jax(given)


def weights_of(weights: Any, **axes: Any) -> Array | None:
    """Return the argument `weights`, numbers of the first of these axes, or of more of them; None for all alike."""
    if weights is None:
        return None
    given, names = numbers("weights", weights), list(axes)
    for count in range(1, len(names) + 1):
        if fits(given.shape, *(axes[name] for name in names[:count])):
            return _of_jax(given)
    allowed = " or ".join(written({name: axes[name] for name in names[:k]}) for k in range(1, len(names) + 1))
    raise ValueError(f"weights: expected numbers {allowed}, got {describe(given)}")


def targets_of(name: str, value: Any, *, ids: bool, **axes: Any) -> Array:
    """Return the argument `name` as targets of scores with these axes: values, probabilities, or class ids."""
    given, places, classes, of_ids = numbers(name, value), tuple(axes.values())[:-1], axes["C"], ids
    if fits(given.shape, *places, classes):
        return _ids(given) if is_integer(given) else _of_jax(given)
    if of_ids and is_integer(given) and fits(given.shape, *places):
        return _ids(given)
    advice = ""
    if fits(given.shape, *places):
        advice = f"; write {name}.astype(int)" if of_ids else f"; write {name}[..., None]" if classes == 1 else ""
    elif of_ids and fits(given.shape, *places, 1):
        advice = f"; write {name}[..., 0]"
    elif len(places) == 2 and (
        (given.shape[:1] == places[:1] and given.ndim == 1) or fits(given.shape, places[0], classes)
    ):
        advice = "; with one target a sequence, config.target is 'last'"
    elif len(places) == 1 and given.shape[:1] == places and given.ndim in (2, 3):
        advice = "; with a target for each time step, config.target is 'each'"
    expected = written(axes)
    if of_ids:
        of_classes = written({axis: axes[axis] for axis in axes if axis != "C"})
        expected = f"class ids, integers {of_classes}, or probabilities {expected}"
    raise (TypeError if of_ids and fits(given.shape, *places) else ValueError)(
        f"{name}: expected {expected}, got {describe(given)}{advice}"
    )


def alike(name: str, value: Any, expected: Any, *, floats: bool = True) -> Any:
    """Return the argument `name` as a pytree of NamedTuples, tuples and arrays that is like `expected`.

    Args:
        name: what to call it in an error; what is in it is called as Python would, `params.layers[0].bias`.
        value: what came.
        expected: what it has to be like; its leaves have a shape.
        floats: whether its arrays have to be of floats.

    Returns:
        The same with JAX's arrays.

    Raises:
        TypeError: something in it is of another type, or of another form.
        ValueError: an array has another shape, or a tuple another length.

    Example:
        >>> alike("bias", [1.0, 2.0], jax.ShapeDtypeStruct((2,), jnp.float32)).shape
        (2,)
    """
    if hasattr(expected, "_fields"):
        if not isinstance(value, type(expected)):
            raise TypeError(f"{name}: expected {type(expected).__name__}, got {describe(value)}")
        parts = zip(expected._fields, value, expected, strict=True)
        return type(expected)(*(alike(f"{name}.{field}", *pair, floats=floats) for field, *pair in parts))
    if isinstance(expected, tuple) and expected:
        kind = type(expected[0]).__name__
        if not isinstance(value, (tuple, list)) or hasattr(value, "_fields"):
            raise TypeError(f"{name}: expected a tuple of {len(expected)} {kind}, got {describe(value)}")
        if len(value) != len(expected):
            raise ValueError(f"{name}: expected {len(expected)} {kind}, got {len(value)}")
        pairs = zip(value, expected, strict=True)
        return tuple(alike(f"{name}[{k}]", *pair, floats=floats) for k, pair in enumerate(pairs))
    if not hasattr(expected, "shape"):  # a dict, None, or whatever else a pytree may be
        form: Any = jax.tree.structure(expected)
        if jax.tree.structure(value) != form:
            raise TypeError(f"{name}: expected {form}, got {describe(value)}")
        both = zip(jax.tree.leaves_with_path(value), jax.tree.leaves(expected), strict=True)
        found = [alike(f"{name}{jax.tree_util.keystr(path)}", leaf, like, floats=floats) for (path, leaf), like in both]
        return jax.tree.unflatten(form, found)
    given = numbers(name, value)
    if floats and not is_floating(given):
        raise TypeError(f"{name}: expected floats of shape {expected.shape}, got {describe(given)}")
    if not fits(given.shape, *expected.shape):
        raise ValueError(f"{name}: expected shape {expected.shape}, got {describe(given)}")
    return _of_jax(given)


def describe(value: Any) -> str:
    """Return in a few words what came, for an error."""
    if hasattr(value, "dtype") and hasattr(value, "shape") and value.shape != ():
        return f"{value.dtype} of shape {value.shape}"
    if isinstance(value, int) and value.bit_length() > 128:  # Python refuses to write very long ones
        return f"an integer of {value.bit_length()} bits"
    if hasattr(value, "_fields"):
        return type(value).__name__
    shown = reprlib.repr(value)
    if isinstance(value, (tuple, list)) and ("\n" in shown or any(hasattr(element, "__len__") for element in value)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__ if "\n" in shown else shown


def library(name: str, extra: str) -> Any:
    """Return a library that is an optional extra of jlstm.

    Raises:
        ModuleNotFoundError: it is not installed, or what it imports is not; the message says which.

    Example:
        >>> library("numpy", extra="interop").__name__
        'numpy'
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package, missing = name.partition(".")[0], error.name or name
        if missing.partition(".")[0] != package:  # what it imports itself
            raise ModuleNotFoundError(f"{package} needs {missing}, which is not installed", name=missing) from error
        message = f"{package} is not installed: pip install 'jlstm[{extra}]'"
        raise ModuleNotFoundError(message, name=missing) from error


if TYPE_CHECKING:
    class_only = classmethod
else:

    class class_only(classmethod):
        """A class method that an instance does not have, as it makes another one and leaves the instance as it was."""

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            """Return the method of the class."""
            if instance is not None:
                name, kind = self.__func__.__name__, type(instance).__name__
                raise AttributeError(
                    f"{name}: makes a new {kind} and leaves this one as it is; write {kind}.{name}(...)"
                )
            return super().__get__(instance, owner)
