"""The machine: threads, devices and allocator the same for everybody, and what its hardware could do at best."""

import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from typing import Any, NamedTuple

from .timing import least

THREADS = 2
PACKAGES = ("jlstm", "jax", "jaxlib", "optax", "numpy", "torch", "flax", "equinox", "keras", "onnxruntime")
ALLOCATORS = {
    "as it comes": {},
    "threshold raised": {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)},
}


def environment(allocator: str) -> dict[str, str]:
    """Return the environment of a measuring process, in which every library finds the same settings."""
    unset = ("MALLOC_", "XLA_FLAGS", "JAX_", "OMP_", "MKL_", "KERAS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(THREADS))
    return kept | threads | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"} | ALLOCATORS[allocator]


def hold_threads() -> int:
    """Keep this process and its children on as many cores as threads are allowed, since XLA asks for no number."""
    cores = sorted(os.sched_getaffinity(0))[:THREADS]
    os.sched_setaffinity(0, cores)
    return len(cores)


def settings() -> dict[str, Any]:
    """Return what must be known to judge a number."""
    threads = min(THREADS, len(os.sched_getaffinity(0)))
    return {
        "processor": _processor(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "threads": threads,
        "devices": threads,
        "allocators": ALLOCATORS,
    }


def _version(package: str) -> str | None:
    if package == "jlstm":  # which may be run from its folder
        return importlib.import_module(package).__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


class Peak(NamedTuple):
    """What one library's matrix products reach: arithmetic in FLOP/s."""

    torch: float | None
    jax: float

    @property
    def best(self) -> float:
        return max(self.jax, self.torch or 0.0)

    def __str__(self) -> str:
        torch = f"{self.torch / 1e9:.0f} GFLOP/s in torch, " if self.torch else ""
        return f"a 2048³ product in float32 reaches {torch}{self.jax / 1e9:.0f} GFLOP/s in JAX"


def peak_flops(size: int = 2048) -> Peak:
    """Measure a large matrix product, in torch where it is installed and in JAX."""
    import jax
    import jax.numpy as jnp

    square = jnp.ones((size, size)) / size
    product = jax.jit(jnp.matmul)
    in_jax = 2 * size**3 / least(lambda: product(square, square).block_until_ready())
    if _version("torch") is None:
        return Peak(None, in_jax)
    import torch

    torch.set_num_threads(THREADS)
    square_torch = torch.ones(size, size) / size
    return Peak(2 * size**3 / least(lambda: square_torch @ square_torch), in_jax)


def bandwidth(count: int) -> float:
    """Measure how many bytes a second a matrix-vector product reads from a matrix of `count` bytes, over and over.

    A small matrix stays in a cache, which is then what bounds the reading; so the size has to be that of the weights.
    """
    import numpy as np

    matrix = np.ones((max(1, count // 4 // 512), 512), np.float32)
    vector = np.ones(512, np.float32)
    seconds = least(lambda: matrix @ vector)
    if _version("torch") is not None:
        import torch

        torch.set_num_threads(THREADS)
        matrix_torch, vector_torch = torch.from_numpy(matrix), torch.from_numpy(vector)
        seconds = min(seconds, least(lambda: matrix_torch @ vector_torch))
    return matrix.nbytes / seconds


def in_fresh_process(module: str, function: str, *arguments: Any) -> Any:
    """Call `module.function(*arguments)` in a new Python process; arguments and result are JSON."""
    code = (
        "import importlib, json, sys; module, name, arguments = sys.argv[1:]; "
        "print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(arguments))))"
    )
    command = [sys.executable, "-c", code, module, function, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
