"""Weights from and to other libraries, one file a library: plain dictionaries and lists of arrays, or their modules.

Each `from_...` gives a `Model`, a stack of layers and a readout; each `to_...` takes one. No library is imported before
it is needed.
"""

from jlstm.interop.documented import from_documented, to_documented
from jlstm.interop.equinox import from_equinox, to_equinox
from jlstm.interop.flax import from_flax, to_flax, to_nnx
from jlstm.interop.haiku import from_haiku, to_haiku
from jlstm.interop.keras import from_keras, to_keras
from jlstm.interop.model import Model, network_of, of_network
from jlstm.interop.onnx import Node, layer_of, node_of, to_onnx
from jlstm.interop.onnx_graph import from_onnx, read_onnx
from jlstm.interop.torch import from_torch, to_torch, torch_modules

__all__ = [
    "Model",
    "Node",
    "from_documented",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_onnx",
    "from_torch",
    "layer_of",
    "network_of",
    "node_of",
    "of_network",
    "read_onnx",
    "to_documented",
    "to_equinox",
    "to_flax",
    "to_haiku",
    "to_keras",
    "to_nnx",
    "to_onnx",
    "to_torch",
    "torch_modules",
]
