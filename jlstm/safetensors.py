"""A network's file as a `.safetensors`, which that library reads and writes; `jlstm.checkpoint` says what is in it.

The format has no checksum, so the object "jlstm" in the metadata has one, "sha256", of everything else that the file
says, however it is laid out: of the object without it, as `json.dumps(..., sort_keys=True)` writes it, and then, tensor
by tensor in the order of their names, of a line `name dtype shape`, such as `readout.bias F32 [4]`, and of its bytes.
"""

import functools
import hashlib
import json
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from jlstm.checks import library, same_names
from jlstm.saved import EVERY, MOST_ABOUT, Contents, read_about, reading

__all__ = ["decode", "encode"]

CODES = {
    **{"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "bool": "BOOL"},
    **{f"{kind}int{bits}": f"{kind or 'i'}{bits}".upper() for kind in ("", "u") for bits in (8, 16, 32, 64)},
}
DTYPES = {code: dtype for dtype, code in CODES.items()}
ABOUT = "metadata['jlstm']"


def encode(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Return the bytes of the file: the same ones for the same network."""
    safetensors = library("safetensors.numpy", extra="safetensors")
    tensors = (
        (name, CODES[array.dtype.name], array.shape, array.reshape(-1).view(np.uint8)) for name, array in arrays.items()
    )
    told = json.dumps(about | {"sha256": _sha256(about, tensors)}, ensure_ascii=False)
    text = told.encode(errors="backslashreplace").decode()  # half a surrogate pair, which UTF-8 has no bytes for
    for name, value in json.loads(text).items():
        if name in about and value != about[name]:
            expected = "no two halves of a surrogate pair next to each other, which would come back as one character"
            raise ValueError(f"{name}: expected {expected}, got {reprlib.repr(about[name])}; save it as a .npz")
    # More entries would be in another order each time.
    return safetensors.save(arrays, metadata={"jlstm": text})


def decode(file: BinaryIO) -> Contents:
    """Return what the file holds, all of it read and its checksum compared."""
    deserialize = library("safetensors", extra="safetensors").deserialize
    data = file.read()
    length = int.from_bytes(data[:8], "little")
    if length > MOST_ABOUT:
        expected = f"expected a file that jlstm saved, with a header of at most {MOST_ABOUT} bytes"
        raise ValueError(f"{expected}, got {length}")
    with reading("expected a file that jlstm saved"):
        tensors = dict(deserialize(data))  # each in its place, with no byte between them or behind
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    if "jlstm" not in metadata:
        advice = "; weights of other libraries come in through jlstm.interop"
        raise ValueError(f"expected a file that jlstm saved, with {ABOUT}, got {reprlib.repr(metadata)}{advice}")
    about = read_about(ABOUT, metadata["jlstm"], own="sha256")
    told = {name: value for name, value in about.items() if name != "sha256"}
    with reading(f"{ABOUT}: expected JSON"):
        found = _sha256(told, ((name, each["dtype"], each["shape"], each["data"]) for name, each in tensors.items()))
    if about["sha256"] != found:
        came = f"expected {reprlib.repr(about['sha256'])}, got {reprlib.repr(found)}"
        raise ValueError(f"sha256: {came}, as the file was changed after it was written")
    size = sum(len(tensor["data"]) for tensor in tensors.values())
    return Contents(about, size, len(tensors), functools.partial(_arrays, tensors))


def _sha256(about: dict[str, Any], tensors: Iterable[tuple[str, str, Iterable[int], Any]]) -> str:
    """Return the checksum of the object and of tensors, each a name, a dtype, a shape and its bytes."""
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, dtype, shape, data in sorted(tensors, key=lambda tensor: tensor[0]):
        found.update(f"{name} {dtype} {list(shape)}\n".encode())
        found.update(data)
    return found.hexdigest()


def _arrays(tensors: dict[str, dict[str, Any]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    same_names("tensors", tensors, shapes)
    return {name: _array(name, tensors[name], shape) for name, shape in shapes.items()}


def _array(name: str, tensor: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    dtype = DTYPES.get(tensor["dtype"])
    if dtype is None:
        raise ValueError(f"{name}: expected one of {tuple(DTYPES)}, got {tensor['dtype']!r}")
    if tuple(tensor["shape"]) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor['shape'])}")
    return np.frombuffer(tensor["data"], EVERY[dtype]).view(dtype).reshape(shape)
