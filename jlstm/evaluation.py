"""How well a network guesses a text: the exact loss over all of it, the state carried through."""

import math
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from jlstm.checks import class_ids
from jlstm.config import LSTMConfig
from jlstm.data import inputs_of
from jlstm.devices import compiled, replicate
from jlstm.inputs import check_scores_ids
from jlstm.losses import summed_loss
from jlstm.model import ModelParams, zero_state

__all__ = ["TextLoss", "evaluate_text"]

WINDOW = 1024  # how many characters one compiled call reads


class TextLoss(NamedTuple):
    """The loss over a text.

    Attributes:
        nats: the mean over characters of -log p(character | the characters before it that were read).
        characters: how many characters that mean is over.

    Example:
        >>> loss = TextLoss(nats=math.log(2), characters=100)
        >>> loss.bits, round(loss.perplexity, 6)
        (1.0, 2.0)
    """

    nats: float
    characters: int

    @property
    def bits(self) -> float:
        """The same in bits, bits per character."""
        return self.nats / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp(nats): among how many equally likely characters the guess would be as hard."""
        return math.exp(self.nats)


def evaluate_text(params: ModelParams, ids: Any, config: LSTMConfig) -> TextLoss:
    """Compute the exact mean loss over a whole text, in memory that does not grow with it.

    Args:
        params: the parameters of a network with a target for each step.
        ids: the text as class ids, `[characters]` integers, at least two.
        config: the network.

    Returns:
        The `TextLoss`; the windows' sums are added in float64.

    Raises:
        TypeError, ValueError: `ids` are not class ids `[characters]` of the network, or fewer than two; or the network
            scores no ids, or does not read them.

    Example:
        >>> import jax
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=5, hidden_size=8, output_size=5, inputs="tokens")
        >>> evaluate_text(init_params(jax.random.key(0), config), np.arange(3000) % 5, config).characters
        2999
    """
    check_scores_ids(config)
    ids = class_ids("ids", ids, config.output_size)
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(f"ids: expected at least two, [characters], got shape {ids.shape}")
    characters = len(ids) - 1
    ids = np.pad(ids, (0, -characters % WINDOW))
    params = replicate(params, None)
    state, total = replicate(zero_state(params, 1, cell=config.cell), None), 0.0
    for start in range(0, characters, WINDOW):
        length = min(WINDOW, characters - start)
        lengths = None if length == WINDOW else np.array([length])  # known lengths would slow all other windows down
        loss, state = _read(params, ids[None, start : start + WINDOW + 1], state, lengths, config)
        total += float(loss)
    return TextLoss(total / characters, characters)


@compiled()
def _read(params: ModelParams, ids: Array, state: Any, lengths: Any, config: LSTMConfig) -> tuple[Array, Any]:
    loss, (_, state) = summed_loss(
        params, inputs_of(ids[:, :-1], config), ids[:, 1:], config, state=state, lengths=lengths
    )
    return loss, state
