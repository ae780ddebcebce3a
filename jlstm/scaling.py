"""Features and values brought to mean 0 and standard deviation 1, and back: what a network reads and gives best."""

from typing import Any, NamedTuple

import numpy as np

from jlstm.checks import finite_numbers
from jlstm.config import LSTMConfig

__all__ = ["Scaling", "Scalings", "restored", "scaling_of", "scalings_of", "standardized"]


class Scaling(NamedTuple):
    """Where some numbers lie, each of them by itself.

    Attributes:
        mean: `[F]` in float64.
        deviation: the standard deviation, `[F]` in float64; 1 for a number that is always the same.
    """

    mean: np.ndarray
    deviation: np.ndarray


class Scalings(NamedTuple):
    """Where what a network reads lies, and what it is to tell.

    Attributes:
        inputs: that of its features, `[I]`.
        targets: that of the values that it tells, `[C]`; None where those are none.
    """

    inputs: Scaling
    targets: Scaling | None

    def of(self, data: Any) -> Any:
        """Return data, a `Batch` or `SeriesWindows`, as the network reads them."""
        return data.mapped(self.of_inputs, self.of_targets)

    def of_inputs(self, xs: Any, name: str = "X") -> np.ndarray:
        """Return features `[..., I]` as the network reads them, in float32."""
        return finite_numbers(name, standardized(xs, self.inputs))

    def of_targets(self, ys: Any) -> np.ndarray:
        """Return targets as the network is to tell them, in float32 those that are values, `[..., C]`."""
        return ys if self.targets is None else finite_numbers("Y", standardized(ys, self.targets), gaps=True)

    def back(self, told: np.ndarray) -> np.ndarray:
        """Return what was told, values and maybe deviations behind, `[..., C, 1]` or `[..., 2C, 1]`, in float64."""
        if self.targets is None:
            return told
        size = len(self.targets.mean)
        values = restored(told[..., :size, 0], self.targets)
        deviations = told[..., size:, 0] * self.targets.deviation[: told.shape[-2] - size]
        return np.concatenate([values, deviations], axis=-1)[..., None]

    def of_told(self, prediction: Any, target: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return what was told, `[T, C]`, or means and deviations in a pair, and the target on the network's scale."""
        if self.targets is None:
            return prediction, target
        if isinstance(prediction, tuple):
            mean, deviation = prediction
            prediction = standardized(mean, self.targets), deviation / self.targets.deviation
        else:
            prediction = standardized(prediction, self.targets)
        return prediction, standardized(target, self.targets)

    def feedback(self) -> tuple[np.ndarray, np.ndarray]:
        """Return by what a value that was told is multiplied, and what is added, to be one that is read, `[C]` each."""
        into, out = self.inputs, self.targets
        assert out is not None  # a network that reads what it tells tells values
        return out.deviation / into.deviation, (out.mean - into.mean) / into.deviation


def scalings_of(data: Any, config: LSTMConfig) -> Scalings:
    """Return where the features of data and, where those are values, their targets lie."""
    inputs, targets = data.rows(config)
    values = config.objective.answers == "values"
    return Scalings(scaling_of(inputs), scaling_of(targets) if values else None)


def scaling_of(rows: np.ndarray) -> Scaling:
    """Return where numbers lie (LeCun et al., "Efficient BackProp", 1998, section 4.3).

    Args:
        rows: `[N, F]` in float64; NaN is left out.

    Returns:
        Their means and deviations; of a number that is never known 0 and 1.

    Example:
        >>> scaling_of(np.array([[1.0, 5.0], [3.0, 5.0]]))
        Scaling(mean=array([2., 5.]), deviation=array([1., 1.]))
    """
    known = ~np.isnan(rows)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, rows, 0).sum(axis=0) / count
    mean = mean + np.where(known, rows - mean, 0).sum(axis=0) / count  # what rounding took from a long sum
    deviation = np.sqrt(np.where(known, (rows - mean) ** 2, 0).sum(axis=0) / count)
    # Rounding gives a number that is always the same a deviation of some 1e-16 of it.
    return Scaling(mean, np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0))


def standardized(values: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Return values `[..., F]` as multiples of the deviation from the mean, in float64.

    Example:
        >>> standardized(np.array([[1.0], [3.0]]), Scaling(np.array([2.0]), np.array([0.5]))).tolist()
        [[-2.0], [2.0]]
    """
    return (values - scaling.mean) / scaling.deviation


def restored(values: Any, scaling: Scaling) -> np.ndarray:
    """Return what `standardized` was given, in float64, where also what lies far from 0 has all its digits.

    Example:
        >>> restored(np.array([[-2.0], [2.0]]), Scaling(np.array([2.0]), np.array([0.5]))).tolist()
        [[1.0], [3.0]]
    """
    return np.asarray(values, float) * scaling.deviation + scaling.mean
