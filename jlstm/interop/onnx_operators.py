"""Operators of ONNX: what each makes of the tensors that it is given."""

from math import prod
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jlstm.checks import describe, is_floating, is_integer, library
from jlstm.interop.model import array
from jlstm.interop.onnx import Node, read_layer, read_readout
from jlstm.interop.onnx_tensor import (
    CLASSES,
    ONE_HOT,
    UNITS,
    WAYS,
    Atom,
    Network,
    Refused,
    Tensor,
    axis_of,
    concat,
    expand,
    per_sequence,
    reshape,
    take,
    take_final,
)
from jlstm.stack import directions

__all__ = ["OPERATORS", "Step", "refuse", "told"]

ACTIVATIONS: Any = {"Softmax": "softmax", "Sigmoid": "sigmoid"}


class Step(NamedTuple):
    """A node, with what it is given: arrays that are known, tensors, and None where it is given nothing."""

    kind: str
    label: str
    attributes: dict[str, Any]
    given: tuple
    outputs: int
    version: int

    def setting(self, name: str, place: int) -> Any:
        """Return what is an attribute in old versions of ONNX's operators, and an input in new ones."""
        value = self.given[place] if place < len(self.given) else None
        if isinstance(value, Tensor):
            raise Refused
        return self.attributes.get(name) if value is None else np.atleast_1d(value).tolist()

    def axis(self, default: int, rank: int) -> int:
        """Return its axis, counted from the first one."""
        return _place(self.attributes.get("axis", default), rank)


def refuse(*_: Any) -> Any:
    raise Refused


def _place(axis: int, rank: int) -> int:
    return axis % rank if -rank <= axis < rank else refuse()


def told(value: Any) -> str:
    """Say what a name in a graph stands for."""
    if not isinstance(value, Tensor):
        return describe(value)
    names = {}
    if isinstance(value.of, Network):
        names = {value.of.time: "time", value.of.batch: "batch"}
    axes = [names.get(axis, " x ".join(atom.name for atom in axis)) or "1" for axis in value.axes]
    whose = {str: repr(value.of), Network: "what the network gives", tuple: "what nodes give"}
    found = f"{whose.get(type(value.of), 'numbers')} [{', '.join(axes)}]"
    if value.how:
        found += f" behind {' and '.join(str(each[0] if isinstance(each, tuple) else each) for each in value.how)}"
    if value.picks:
        found += f", of which {' and '.join(f'{pick[1:]} of {pick[0]}' for pick in value.picks)}"
    return found


def _number(value: Any) -> Any:
    """Return the one number that a value is all over, None where there is none."""
    given = value.of if isinstance(value, Tensor) else value
    alike = isinstance(given, np.ndarray) and given.size and (given == given.flat[0]).all()
    return given.flat[0].item() if alike else None


def _first(step: Step) -> Tensor:
    """Return the first input, a tensor; the others are arrays unless an operator says so."""
    return step.given[0] if isinstance(step.given[0], Tensor) else refuse()


def _of_network(step: Step) -> Tensor:
    return step.given[0] if isinstance(_first(step).of, Network) else refuse()


def _other(step: Step) -> tuple[Tensor, Any]:
    """Return the tensor of an operator that has two inputs in any order, and the other one, an array."""
    tensor, other = step.given if isinstance(step.given[0], Tensor) else step.given[::-1]
    if isinstance(other, Tensor) or np.ndim(other) > len(tensor.axes):
        raise Refused
    return tensor, other


# --- what moves numbers ---


def _reshape(step: Step) -> Tensor:
    tensor, shape = _first(step), step.setting("shape", 1)
    if not step.attributes.get("allowzero"):
        shape = [tensor.shape[_place(k, len(tensor.axes))] if size == 0 else size for k, size in enumerate(shape)]
    if -1 in shape and prod(shape):
        shape[shape.index(-1)] = prod(tensor.shape) // -prod(shape)
    return reshape(tensor, shape)


def _flatten(step: Step) -> Tensor:
    tensor, axis = _first(step), step.attributes.get("axis", 1)
    return reshape(tensor, [prod(tensor.shape[:axis]), prod(tensor.shape[axis:])])


def _squeeze(step: Step) -> Tensor:
    tensor, axes = _first(step), step.setting("axes", 1)
    rank = len(tensor.axes)
    gone = [k for k in range(rank) if tensor.shape[k] == 1] if axes is None else [_place(axis, rank) for axis in axes]
    return reshape(tensor, [size for k, size in enumerate(tensor.shape) if k not in gone])


def _unsqueeze(step: Step) -> Tensor:
    tensor, axes = _first(step), step.setting("axes", 1)
    rank = len(tensor.axes) + len(axes)
    new, sizes = {_place(axis, rank) for axis in axes}, iter(tensor.shape)
    return reshape(tensor, [1 if k in new else next(sizes) for k in range(rank)])


def _transpose(step: Step) -> Tensor:
    tensor = _first(step)
    order = step.attributes.get("perm", [*range(len(tensor.axes))[::-1]])
    if sorted(order) != [*range(len(tensor.axes))]:
        raise Refused
    return tensor._replace(axes=tuple(tensor.axes[k] for k in order))


def _slice(step: Step) -> Tensor:
    tensor = _first(step)
    starts, stops, axes, steps = (
        step.setting(name, k + 1) for k, name in enumerate(("starts", "ends", "axes", "steps"))
    )
    axes = range(len(starts)) if axes is None else axes
    for axis, start, stop, by in zip(axes, starts, stops, steps or [1] * len(starts), strict=True):
        axis = _place(axis, len(tensor.axes))
        start, stop, by = slice(start, stop, by).indices(tensor.shape[axis])
        tensor = take(tensor, axis, start, stop) if by == 1 else refuse()
    return tensor


def _gather(step: Step) -> Tensor:
    tensor, place = step.given
    if isinstance(place, Tensor):  # numbers from 0 up, which lets through those that are there
        table = tensor
        here = isinstance(table, np.ndarray) and np.array_equal(table, np.arange(table.size))
        return place if here and _is_ids(place) else refuse()
    axis = step.axis(0, len(tensor.axes))
    if place.ndim > 1 or place.size != 1:
        raise Refused
    start = _place(place.item(), tensor.shape[axis])
    found = take(tensor, axis, start, start + 1)
    return reshape(found, found.shape[:axis] + [1] * place.ndim + found.shape[axis + 1 :])


def _split(step: Step) -> list[Tensor]:
    tensor = _first(step)
    axis, sizes = step.axis(0, len(tensor.axes)), step.setting("split", 1)
    if sizes is None:
        sizes = [-(-tensor.shape[axis] // step.outputs)] * step.outputs
    ends = np.cumsum(sizes).tolist()
    return [take(tensor, axis, end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _concat(step: Step) -> Tensor:
    if not all(isinstance(each, Tensor) for each in step.given):
        raise Refused
    return concat(step.given, step.axis(0, len(_first(step).axes)))


def _expand(step: Step) -> Tensor:
    return expand(_first(step), step.setting("shape", 1))


def _gather_elements(step: Step) -> Tensor:
    """Take the last real step of each sequence."""
    tensor, place = _of_network(step), step.given[1]
    axis = step.axis(0, len(tensor.axes))
    wanted = [1 if k == axis else size for k, size in enumerate(tensor.shape)]
    last = isinstance(place, Tensor) and _of_lengths(place, tensor.of) == (("Sub", 1),)
    if not last or tensor.how or tensor.axes[axis] != tensor.of.time or place.shape != wanted:
        raise Refused
    return take_final(tensor, axis) if per_sequence(place, tensor) else refuse()


def _cast(step: Step) -> Tensor:
    tensor, onnx = _first(step), library("onnx", extra="onnx")
    if step.attributes["to"] not in onnx.helper.get_all_tensor_dtypes():
        raise Refused
    to = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(step.attributes["to"]))
    made = tensor._replace(dtype=to)
    if is_integer(tensor) and is_integer(made):
        return made if to.itemsize > 2 else refuse()
    if not is_floating(made):
        raise Refused
    if isinstance(tensor.of, Network):
        return made if _eps(to) <= _eps(_dtype(tensor.of)) else refuse()
    if tensor.how == (ONE_HOT,) or isinstance(tensor.of, np.ndarray):
        return made
    return made._replace(how=(*tensor.how, ("Cast", _eps(to) if is_floating(tensor) else np.inf)))


def _same(step: Step) -> Tensor:
    return _first(step)


def _dropout(step: Step) -> Tensor:
    """Leave out nothing, as where nothing is trained."""
    return refuse() if any(step.setting("training_mode", 2) or ()) else _first(step)


def _shape(step: Step) -> np.ndarray:
    within = slice(step.attributes.get("start"), step.attributes.get("end"))
    return np.array(_first(step).shape[within], np.int64)


# --- what is computed of ids and of lengths ---


def _compute(step: Step) -> Tensor:
    """Write down what is computed of an input, with one number."""
    tensor, other = _other(step)
    number = _number(other)
    in_order = tensor is step.given[0] or step.kind in ("Equal", "Max", "Min")
    if not isinstance(tensor.of, str) or number is None or not in_order:
        raise Refused
    return tensor._replace(how=(*tensor.how, (step.kind, number)))


def _of_lengths(tensor: Tensor, network: Network) -> Any:
    """Return what was computed of a network's lengths, of 0 up to all steps; None of another tensor."""
    if not isinstance(tensor.of, str) or tensor.of != network.lengths:
        return None
    most = prod(atom.size for atom in network.time)
    nothing = {"Cast": lambda _: True, "Max": lambda number: number <= 0, "Min": lambda number: number >= most}
    return tuple(each for each in tensor.how if each[0] not in nothing or not nothing[each[0]](each[1]))


def _one_hot(step: Step) -> Tensor:
    ids, depth, values = step.given
    rank = len(_first(step).axes)
    last = step.axis(-1, rank + 1) == rank
    if not (_is_ids(ids) and last and _number(depth) and np.array_equal(values, [0, 1])):
        raise Refused
    axis = axis_of(Atom(ONE_HOT, int(_number(depth))))
    return ids._replace(axes=(*ids.axes, axis), dtype=values.dtype, how=(ONE_HOT,))


def _is_ids(tensor: Tensor) -> bool:
    return isinstance(tensor.of, str) and is_integer(tensor) and not tensor.how


def _where(step: Step) -> Tensor:
    """Take ids where they are not negative, which none is; or the state at the end where there is a step."""
    asked, yes, no = step.given
    if not isinstance(asked, Tensor) or not isinstance(no, Tensor):
        raise Refused
    if isinstance(no.of, str) and np.ndim(yes) == 0 and asked.how == (("Less", 0),):
        return no if asked.of == no.of and asked.axes == no.axes and _is_ids(no) else refuse()
    if isinstance(no.of, Network) and no.how in (("last",), ("cell",)) and _is_state(yes, no.of):
        return no if _of_lengths(asked, no.of) == (("Equal", 0),) and per_sequence(asked, no) else refuse()
    raise Refused


def _is_state(value: Any, network: Network) -> bool:
    """Whether a state to start from is zeros, or an input of its own."""
    if isinstance(value, Tensor) and isinstance(value.of, str):
        return is_floating(value) and value.of != network.inputs and not value.how
    return value is None or _number(value) == 0


# --- what a network is made of ---


def _layer(step: Step) -> list[Tensor]:
    names = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    given = {key: value for key, value in zip(names, step.given, strict=False) if value is not None}
    name, arrays = f"source ({step.label})", {key: given[key] for key in "WRBP" if key in given}
    for key, value in arrays.items():
        if isinstance(value, Tensor):
            raise ValueError(f"{name}.arrays[{key!r}]: expected weights, got {told(value)}")
    cell, layer = read_layer(name, Node(step.kind, step.attributes, arrays))
    turned, xs = step.attributes.get("layout") == 1, _first(step)
    if len(xs.axes) != 3:
        raise Refused
    time, batch, features = (xs.axes[k] for k in ((1, 0, 2) if turned else (0, 1, 2)))
    lengths = _lengths(name, given.get("sequence_lens"), xs, time)
    if isinstance(xs.of, Network):
        network = xs.of._replace(below=xs.of, layers=(*xs.of.layers, (cell, layer)))
        alike = (time, batch, features, lengths) == (xs.of.time, xs.of.batch, xs.of.width, xs.of.lengths)
        if xs.target != "each" or xs.of.readout or not alike:
            expected = f"all that the layer below gives, with its lengths {xs.of.lengths!r}"
            raise ValueError(f"{name}: expected X to be {expected}, got {told(xs)} and lengths {lengths!r}")
    else:
        ids = _reads(name, xs, (time, batch, features), arrays["W"])
        network = Network(None, xs.of, ids, time, batch, lengths, ((cell, layer),))
    for key in ("initial_h", "initial_c"):
        if not _is_state(given.get(key), network):
            raise ValueError(f"{name}: expected {key} that is an input of its own, or zeros, got {told(given[key])}")
    ways, units = axis_of(Atom(WAYS, network.ways)), axis_of(*(atom for atom in network.width if atom.name == UNITS))
    dtype = arrays["W"].dtype
    outputs = Tensor(network, (batch, time, ways, units) if turned else (time, ways, batch, units), dtype)
    ends = (batch, ways, units) if turned else (ways, batch, units)
    return [outputs, *(Tensor(network, ends, dtype, how) for how in (("last",), ("cell",)))]


def _reads(name: str, xs: Tensor, axes: tuple, weight: np.ndarray) -> bool:
    """Return whether the first layer reads ids; it reads all of an input, its axes in any order."""
    ids = xs.how == (ONE_HOT,)
    exact = ids or all(each == "Cast" and eps <= _eps(weight.dtype) for each, eps in xs.how)
    whole = not xs.picks and all(len(axis) < 2 for axis in axes)
    whole = whole and (not ids or axes[2] == axis_of(Atom(ONE_HOT, weight.shape[-1])))
    if not (isinstance(xs.of, str) and is_floating(xs) and exact and whole):
        expected = "X to be an input as it is, features or one-hot vectors of ids"
        raise ValueError(f"{name}: expected {expected}, got {told(xs)}")
    return ids


def _lengths(name: str, value: Any, xs: Tensor, time: tuple) -> str | None:
    """Return the name of the input that is a layer's `sequence_lens`; None where all steps are read."""
    if value is None or _number(value) == prod(atom.size for atom in time):
        return None
    reads = xs.of.inputs if isinstance(xs.of, Network) else xs.of
    own = isinstance(value, Tensor) and isinstance(value.of, str) and value.of != reads and is_integer(value)
    if own and _of_lengths(value, Network(None, reads, False, time, (), value.of, ())) == ():
        return value.of
    raise ValueError(f"{name}: expected sequence_lens that are an input of their own, or all steps, got {told(value)}")


def _dense(step: Step) -> Tensor:
    tensor, weight, *bias = step.given
    if not isinstance(tensor, Tensor) or isinstance(weight, Tensor) or not tensor.target:
        raise Refused
    network = tensor.of
    if network.readout or tensor.axes[-1] != network.width:
        raise Refused
    arrays = dict(zip("BC", [weight, *(_row(each) for each in bias if each is not None)], strict=False))
    readout = read_readout(f"source ({step.label})", Node("Gemm", step.attributes, arrays))
    network = network._replace(below=network, readout=readout, biased=len(arrays) > 1)
    return tensor._replace(of=network, axes=(*tensor.axes[:-1], axis_of(Atom(CLASSES, len(readout.bias)))))


def _add(step: Step) -> Tensor:
    """Take the bias of the dense layer."""
    tensor, bias = _other(step)
    if not tensor.target or not tensor.of.readout or tensor.of.biased or tensor.of.activation:
        raise Refused
    readout = tensor.of.readout
    bias = array(f"source ({step.label}), bias", _row(bias), len(readout.bias))
    if tensor.axes[-1] != axis_of(Atom(CLASSES, len(bias))) and len(bias) > 1:
        raise Refused
    network = tensor.of._replace(below=tensor.of, readout=readout._replace(bias=bias), biased=True)
    return tensor._replace(of=network)


def _row(bias: Any) -> Any:
    """Return a bias without axes of one in front."""
    if isinstance(bias, Tensor):
        raise Refused
    return bias.reshape(-1) if bias.shape[-1:] in ((), (bias.size,)) else bias


def _activate(step: Step) -> Tensor:
    """Take what is behind the readout."""
    tensor = _of_network(step)
    if not tensor.target or not tensor.of.readout or tensor.of.activation:
        raise Refused
    if step.kind == "Softmax":
        last = len(tensor.axes) - 1
        axis = step.attributes.get("axis", -1 if step.version > 12 else 1)
        if axis not in (-1, last) or tensor.axes[-1] != axis_of(Atom(CLASSES, len(tensor.of.readout.bias))):
            raise ValueError(f"source ({step.label}).attributes['axis']: expected the one of classes, got {axis}")
    return tensor._replace(of=tensor.of._replace(below=tensor.of, activation=ACTIVATIONS[step.kind]))


def _reduce(step: Step) -> Tensor:
    """Take the sum over time or the mean, which a readout may come before where all steps are real."""
    tensor, axes = _of_network(step), step.setting("axes", 1)
    if tensor.target != "each" or tensor.of.activation or axes is None or len(axes) != 1:
        raise Refused
    axis, network = _place(axes[0], len(tensor.axes)), tensor.of
    known = network.lengths is None or (step.kind == "ReduceSum" and network.readout is None)
    if tensor.axes[axis] != network.time or not known:
        raise Refused
    how = {"ReduceSum": ("sum",), "ReduceMean": ("mean",)}[step.kind]
    kept = [()] * step.attributes.get("keepdims", 1)
    return tensor._replace(axes=(*tensor.axes[:axis], *kept, *tensor.axes[axis + 1 :]), how=how)


def _divide(step: Step) -> Tensor:
    """Make a mean of a sum over time."""
    tensor, count = _of_network(step), step.given[1]
    if tensor.how != ("sum",) or tensor.picks:
        raise Refused
    if isinstance(count, Tensor):
        known = len(count.axes) <= len(tensor.axes) and _of_lengths(count, tensor.of) in ((), (("Max", 1),))
        known = known and tensor.of.lengths is not None and per_sequence(count, tensor)
    else:
        all_steps = _number(count) == prod(atom.size for atom in tensor.of.time)
        known = all_steps and tensor.of.lengths is None and count.ndim <= len(tensor.axes)
    return tensor._replace(how=("mean",)) if known else refuse()


def _dtype(network: Network) -> Any:
    return directions(network.layers[-1][1])[0].weight_ih.dtype


def _eps(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps)


OPERATORS: Any = {
    "Cast": _cast,
    "Concat": _concat,
    "Div": _divide,
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Identity": _same,
    "OneHot": _one_hot,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    "Add": _add,
    **dict.fromkeys(("MatMul", "Gemm"), _dense),
    **dict.fromkeys(("Softmax", "Sigmoid"), _activate),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _reduce),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _layer),
    **dict.fromkeys(("Equal", "Less", "Max", "Min", "Sub"), _compute),
}
