"""The contract of a cell: one time step of one sequence, as pure functions over a pytree of parameters.

A cell is split into a linear part and the rest, which is how its equations read anyway:

    step(params, state, x) = gates(params, linear(params, state.h, x), state)

The split lets `unroll` take the gradient of the weights as one product over all time steps. A cell knows no batch and
no time: it is written with column vectors, as the papers have it, and `unroll` maps it over a batch and scans it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jlstm.cells.initializers import in_turn, without_drawing
from jlstm.checks import alike, describe, floating, inputs, prng_key, real_number, shaped, whole_number
from jlstm.devices import spread_by_xla

__all__ = ["Cell", "Sizes", "cast_like", "checked_step", "state_shapes", "zero_states"]


class Sizes(NamedTuple):
    """How wide a layer is.

    Attributes:
        inputs: the number of features I that it reads.
        hidden: the number of units H.
        outputs: the width of its hidden state h, which is H but for a cell that projects it.

    Example:
        >>> Sizes(inputs=3, hidden=5, outputs=5).hidden
        5
    """

    inputs: int
    hidden: int
    outputs: int


@dataclass(frozen=True, repr=False)
class Cell:
    """A recurrent cell as pure functions of one sequence; its state is any NamedTuple that has a field `h`.

    Attributes:
        linear: `linear(params, h, x) -> z`, linear in `params` and in `h`; `z` is any pytree; `x` is `[I]`, or a
            class id that stands for a one-hot vector: `jlstm.cells.times` multiplies by both. Where all it
            does with the matrices of `params` is to multiply by them, `weight @ h`, or turn them, `weight.T`, they are
            laid out for that; else it is computed as it is written.
        gates: `gates(params, z, state) -> (state, h)`, the rest of the step; h is `state.h` itself, the same array,
            for the most part.
        zero_state: `zero_state(params) -> state`, the state before the first step.
        name: what it is called, in a configuration and in a file.
        draw: `draw(normal, sizes, scale, fan_in) -> params` from standard normal numbers, `normal(*shape)`: the
            parameters of a layer of these `Sizes`, the candidate's input weights `scale` times wider than usual, where
            `fan_in` features are not zero in a step; their shapes are what it returns. A network needs it.
        activations: `activations(params, z, state) -> NamedTuple`, what `gates` computes by name; none where None.
        blocks: a NamedTuple like its parameters with the names of the gates whose blocks of H rows each array stacks,
            such as "ifgo". With `weight_ih [gates · H, I]` and `weight_hh [..., H]` among them, a layer's parameters
            are checked; else, and where None, nothing is known of them.
        linear_all: `linear` for many steps at once, `linear_all(params, hs, xs) -> zs` with an axis more in front of
            each, in the form whose transpose is the fastest gradient of the weights; `linear` mapped where None.
        recurrent: the names of the arrays that multiply the hidden state.
        pads: where they are checked, whether a unit whose parameters are all zero stays zero and changes no other, so
            that a layer may be computed at a faster width.
        projects: whether its hidden state is narrower than H.
        averages: whether an average of two of its states is one.
        remembering: `remembering(params, chosen, spans) -> params`, with the biases of the units `chosen`, `[H]`
            booleans, for a memory of `exp(spans)` steps, `[H]`; None of a cell that knows no such biases.

    Example:
        >>> from jlstm.cells import LSTM
        >>> params = LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)
        >>> state, h = LSTM.step(params, LSTM.zero_state(params), jnp.ones(3))
        >>> h.shape
        (5,)
    """

    linear: Callable[[Any, Array, Any], Any]
    gates: Callable[[Any, Any, Any], tuple[Any, Any]]
    zero_state: Callable[[Any], Any]
    name: str = ""
    draw: Callable[[Callable[..., Any], Sizes, float, int], Any] | None = None
    activations: Callable[[Any, Any, Any], Any] | None = None
    blocks: Any = None
    linear_all: Callable[[Any, Array, Any], Any] | None = None
    recurrent: tuple[str, ...] = ("weight_hh",)
    pads: bool = False
    projects: bool = False
    averages: bool = True
    remembering: Callable[[Any, Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        for field in ("linear", "gates", "zero_state", "draw", "activations", "linear_all", "remembering"):
            value = getattr(self, field)
            if not callable(value) and (value is not None or field in ("linear", "gates", "zero_state")):
                raise TypeError(f"{field}: expected a function, got {describe(value)}")
        if not isinstance(self.name, str):
            raise TypeError(f"name: expected a string, got {describe(self.name)}")
        if not isinstance(self.recurrent, tuple) or not all(isinstance(name, str) for name in self.recurrent):
            raise TypeError(f"recurrent: expected a tuple of names, got {describe(self.recurrent)}")
        if self.blocks is not None and not hasattr(self.blocks, "_fields"):
            raise TypeError(f"blocks: expected a NamedTuple like the parameters, got {describe(self.blocks)}")

    @property
    def _has_sizes(self) -> bool:
        """Whether the sizes of a layer are those of its `weight_ih` and `weight_hh`."""
        return {"weight_ih", "weight_hh"} <= {*getattr(self.blocks, "_fields", ())}

    def __repr__(self) -> str:
        return f"Cell({self.name!r})"

    def step(self, params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        """Take one whole time step, `(params, state, x) -> (state, h)`."""
        return self.gates(params, self.linear(params, state.h, x), state)

    def init(
        self,
        key: Array,
        input_size: int,
        hidden_size: int,
        projection_size: int | None = None,
        *,
        input_scale: float = 1.0,
        fan_in: int | None = None,
        dtype: Any = jnp.float32,
    ) -> Any:
        """Draw the parameters of one layer.

        Args:
            key: a key of `jax.random.key`; the same key gives the same bits.
            input_size: the number of features I.
            hidden_size: the number of hidden units H.
            projection_size: the width of the hidden state of a cell that projects it; H where None.
            input_scale: how much wider than usual the candidate reads its input.
            fan_in: how many features are not zero in a step, 1 for tokens; all I where None.
            dtype: the parameters' dtype; they are drawn in float32 at the least and then cast.

        Returns:
            The parameters, as the cell's own file says.

        Raises:
            TypeError, ValueError: an argument does not fit; the message names it.
        """
        if self.draw is None:
            raise ValueError(f"draw: expected a cell that draws its parameters, Cell(..., draw=...), got {self!r}")
        input_size, hidden_size = whole_number("input_size", input_size, 1), whole_number("hidden_size", hidden_size, 1)
        sizes = Sizes(input_size, hidden_size, self.output_size(hidden_size, projection_size))
        input_scale = real_number("input_scale", input_scale)
        fan_in = input_size if fan_in is None else whole_number("fan_in", fan_in, least=1)
        drawn = jnp.promote_types(floating("dtype", dtype), jnp.float32)
        normal = jax.random.normal(prng_key("key", key), (drawing(self, sizes)[1],), drawn)
        params = self.draw(in_turn(normal), sizes, input_scale, fan_in)
        return jax.tree.map(lambda array: array.astype(dtype), params)

    def output_size(self, hidden_size: int, projection_size: Any) -> int:
        """Return the width of the hidden state, or raise an error that says what of `projection_size` does not fit."""
        if not self.projects:
            if projection_size is not None:
                raise ValueError(
                    f"projection_size: expected None with cell={self.name!r}, which projects nothing, got "
                    f"{describe(projection_size)}; the cell that does is 'projected'"
                )
            return hidden_size
        if projection_size is None:
            raise ValueError(f"projection_size: expected the width of the hidden state of cell={self.name!r}, got None")
        size = whole_number("projection_size", projection_size, least=1)
        if size >= hidden_size:
            raise ValueError(f"projection_size: expected less than hidden_size = {hidden_size}, got {size}")
        return size

    def shapes(self, sizes: Sizes) -> Any:
        """Return the parameters of a layer of these sizes as `jax.ShapeDtypeStruct`, in float32."""
        return drawing(self, sizes)[0]

    def check(self, name: str, params: Any) -> int | None:
        """Raise an error that names what is none of the cell's parameters; return how many features they read.

        Of a cell of which nothing is known but its functions, anything is taken, and None returned.
        """
        if self.draw is None or not self._has_sizes:
            return None
        if not isinstance(params, type(self.blocks)):
            advice = f"; a layer is {name}.layers[0]" if hasattr(params, "layers") else ""
            advice = f"; one direction is {name}.forward" if hasattr(params, "forward") else advice
            advice = advice or f"; of a layer of another cell than {self.name!r}, say which, cell=..."
            raise TypeError(f"{name}: expected {type(self.blocks).__name__}, got {describe(params)}{advice}")
        shaped(f"{name}.weight_ih", params.weight_ih, gates=None, I=None)
        shaped(f"{name}.weight_hh", params.weight_hh, gates=None, H=None)
        sizes: Any = self.sizes(params)
        alike(name, params, self.shapes(sizes))
        return sizes.inputs

    def sizes(self, params: Any) -> Sizes | None:
        """Return how wide the layer with these parameters is, None where nothing is known of them."""
        if not self._has_sizes:
            return None
        (rows, features), outputs = jnp.shape(params.weight_ih), jnp.shape(params.weight_hh)[1]
        return Sizes(features, rows // len(self.blocks.weight_ih) if self.projects else outputs, outputs)


@functools.lru_cache(maxsize=1024)
def drawing(cell: Cell, sizes: Sizes) -> tuple[Any, int]:
    """Return the shapes of a layer of these sizes, and how many numbers it is made of, as `without_drawing` does."""
    return without_drawing(lambda normal: cell.draw(normal, sizes, 1.0, 1))  # type: ignore[misc]


def checked_step(cell: Cell, params: Any, state: Any, x: Any) -> tuple[Any, Any]:
    """Take one time step of a batch with any axes, of arguments that are checked here.

    Args:
        cell: the cell.
        params: the layer's parameters; their dtype decides, and `state` and `x` are cast to it.
        state: the state before the step, each array `[..., H]`.
        x: the input, `[..., I]`; or class ids, integers `[...]`.

    Returns:
        The state after the step and the output.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    features = cell.check("params", params)
    params = jax.tree.map(jnp.asarray, params)
    of_one = jax.eval_shape(cell.zero_state, params)
    if not isinstance(state, type(of_one)):
        raise TypeError(f"state: expected {type(of_one).__name__}, got {describe(state)}")
    batch = jnp.shape(state.h)[: jnp.ndim(state.h) - len(of_one.h.shape)]
    state = alike("state", state, state_shapes(cell, params, batch), floats=False)
    axes = ["batch"] if len(batch) == 1 else [f"axis {k}" for k in range(len(batch))]
    x = inputs("x", x, features, **dict(zip(axes, batch, strict=True)))
    x = cast_like(params, x) if x.ndim > len(batch) else x
    return _step(params, x, cast_like(params, state), cell=cell, axes=len(batch))


@spread_by_xla((True, True))
def _step(params: Any, x: Array, state: Any, *, cell: Cell, axes: int) -> tuple[Any, Any]:
    step = functools.partial(cell.step, params)
    for _ in range(axes):
        step = jax.vmap(step)
    return step(state, x)


def zero_states(cell: Cell, params: Any, batch_shape: tuple) -> Any:
    """Return a cell's state before the first step, for each sequence of a batch."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*batch_shape, *leaf.shape)), cell.zero_state(params))


def state_shapes(cell: Cell, params: Any, batch_shape: tuple) -> Any:
    """Return what a state has to be like, as `jax.eval_shape` tells it."""
    return jax.eval_shape(lambda params: zero_states(cell, params, batch_shape), params)


def cast_like(params: Any, tree: Any) -> Any:
    """Return `tree` with its arrays in the dtype of `params`.

    Args:
        params: any pytree whose arrays are of one floating dtype.
        tree: the pytree to cast.

    Returns:
        A pytree like `tree`.

    Example:
        >>> cast_like({"w": jnp.zeros(2, jnp.bfloat16)}, jnp.arange(3)).dtype
        dtype(bfloat16)
    """
    dtypes = [jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in jax.tree.leaves(params) if hasattr(leaf, "dtype")]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtypes[0] if dtypes else None), tree)
