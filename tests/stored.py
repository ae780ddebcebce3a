"""Texts on disk, for tests of all that reads them."""

import tempfile

import numpy as np


def on_disk(ids, dtype=np.uint8):
    """Write ids to a file without a name, which is gone with the array, and map it."""
    with tempfile.TemporaryFile() as file:
        np.asarray(ids, dtype).tofile(file)
        file.flush()
        return np.memmap(file, dtype, "r")


def mostly_zeros(characters, written):
    """Map a file of so many bytes, of which those that are not written take no room on disk."""
    with tempfile.TemporaryFile() as file:
        file.truncate(characters)
        for index, ids in written.items():
            file.seek(index)
            file.write(bytes(ids))
        file.flush()
        return np.memmap(file, np.uint8, "r")
