"""Features and values brought to mean 0 and standard deviation 1, and back: what a network reads and gives best."""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Scaling", "Scalings", "restored", "scaling_of", "standardized"]


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
    count = np.maximum((~np.isnan(rows)).sum(axis=0), 1)
    mean = np.nansum(rows, axis=0) / count
    deviation = np.sqrt(np.nansum((rows - mean) ** 2, axis=0) / count)
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
    """Return what `standardized` was given, in float32.

    Example:
        >>> restored(np.array([[-2.0], [2.0]]), Scaling(np.array([2.0]), np.array([0.5]))).tolist()
        [[1.0], [3.0]]
    """
    return (np.asarray(values, float) * scaling.deviation + scaling.mean).astype(np.float32)
