"""A file as a `.npz`, which `numpy.load` opens: a network's, as `jlstm.checkpoint` says, or a training's."""

import functools
import io
import json
import math
import os
import reprlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from jlstm.checks import same_names
from jlstm.saved import EVERY, MOST_ABOUT, Contents, read_about, reading

__all__ = ["decode", "encode"]

ABOUT = "jlstm.json"


def encode(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> memoryview:
    """Return the bytes of the file: the same ones for the same network."""
    about = about | {"dtypes": {name: array.dtype.name for name, array in arrays.items()}}
    # Python's strings may hold half a surrogate pair, which strict UTF-8 has no bytes for.
    text = json.dumps(about, ensure_ascii=False, indent=1).encode(errors="surrogatepass")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(ABOUT), text)  # a ZipInfo has no clock
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                bits = array.view(EVERY[array.dtype.name])
                np.lib.format.write_array(member, bits, version=(1, 0), allow_pickle=False)
    return file.getbuffer()


def decode(file: BinaryIO, read: Callable[..., dict[str, Any]] = read_about) -> Contents:
    """Return what the file holds; its arrays are read when they are asked for, while it is open.

    Args:
        file: the open file.
        read: what checks its object in JSON, as `read_about` does for a network.
    """
    size = os.fstat(file.fileno()).st_size
    with reading("expected a file that jlstm saved"):
        archive = zipfile.ZipFile(file)
    members = archive.infolist()
    names = {member.filename for member in members}
    if len(names) != len(members):
        raise ValueError(f"expected members of different names, got {len(members)} members with {len(names)} names")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"expected uncompressed members, got {reprlib.repr(member.filename)} compressed")
    if (total := sum(member.file_size for member in members)) > size:
        raise ValueError(f"expected members of at most {size} bytes, the file's own size, got {total}")
    with reading(f"expected a file that jlstm saved, with a member {ABOUT}"):
        member = archive.getinfo(ABOUT)
    if member.file_size > MOST_ABOUT:
        raise ValueError(f"{ABOUT}: expected at most {MOST_ABOUT} bytes, got {member.file_size}")
    with reading(f"{ABOUT}: expected JSON"):
        text = archive.read(member)
    about = read(ABOUT, text, own="dtypes")
    return Contents(about, size, len(members), functools.partial(_arrays, archive, about["dtypes"]))


def _arrays(archive: zipfile.ZipFile, dtypes: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    same_names("members", set(archive.namelist()), [ABOUT, *(f"{name}.npy" for name in shapes)])
    same_names("dtypes", dtypes, shapes)
    return {name: _array(archive, name, shape, dtypes[name]) for name, shape in shapes.items()}


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Read an array of this shape and dtype; what its header says of them is compared and never allocated."""
    if not isinstance(dtype, str) or dtype not in EVERY:
        raise ValueError(f"dtypes: expected one of {tuple(EVERY)} for {name}, got {reprlib.repr(dtype)}")
    bits = np.dtype(EVERY[dtype])
    length = math.prod(shape) * bits.itemsize
    with reading(f"{name}: expected an array in NumPy's format 1.0"), archive.open(f"{name}.npy") as member:
        if (version := np.lib.format.read_magic(member)) != (1, 0):
            raise ValueError(f"format {version}")
        got_shape, fortran, got_dtype = np.lib.format.read_array_header_1_0(member)
        data = member.read(length + 1)  # one byte more shows what is too long, and makes zipfile check the CRC
    if (got_shape, fortran, got_dtype, len(data)) != (shape, False, bits, length):
        got = f"shape {got_shape}, {got_dtype}, {len(data)} bytes{' in Fortran order' * fortran}"
        raise ValueError(f"{name}: expected shape {shape}, {bits}, {length} bytes, got {got}")
    return np.frombuffer(data, bits).view(dtype).reshape(shape)
