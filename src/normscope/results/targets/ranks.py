r"""Intervals from signed ranks, with values known only up to bounds; needs numpy.

If :math:`n` values are independent and symmetric about :math:`\theta`, the number of their :math:`n (n + 1) / 2` Walsh
averages :math:`(x_i + x_j) / 2`, :math:`i \le j`, above :math:`\theta` is distributed as Wilcoxon's signed-rank
statistic, whatever the distribution. So the interval that leaves out the :math:`c` smallest and the :math:`c` largest
averages misses :math:`\theta` with probability :math:`2 P(W_n \le c)`, or less where values are tied. The estimate of
Hodges and Lehmann is their median.

Each end grows with every value: if a value is known only up to bounds, the lower end is computed from the lower bounds
and the upper end from the upper ones, and no value inside the bounds gives an interval that reaches farther.

References:
    Hodges and Lehmann (1963). Estimates of location based on rank tests. Annals of Mathematical Statistics 34.
    Noether (1967). Wilcoxon confidence intervals for location parameters in the discrete case. JASA 62.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from normscope.results.statistics import Interval


@lru_cache(maxsize=256)
def left_out(count: int, level: float) -> int:
    """Compute how many of the smallest and of the largest Walsh averages an interval leaves out.

    Args:
        count: Number of values.
        level: Probability that the interval may miss, such as 0.05.

    Returns:
        The number; -1 where the interval must be unbounded.
    """
    # Probability of each value of the statistic: each rank counts or does not.
    share = np.ones(1)
    for rank in range(1, count + 1):
        longer = np.zeros(len(share) + rank)
        longer[: len(share)] = share / 2
        longer[rank:] += share / 2
        share = longer
    tails = 2 * np.cumsum(share[: len(share) // 2])
    return int(np.searchsorted(tails, level * (1 + 1e-12), side="right")) - 1


def signed_rank_interval(lower: Sequence[float], upper: Sequence[float], left_out: int) -> Interval:
    """Compute the interval that leaves out so many Walsh averages on each side.

    Args:
        lower: Smallest possible value of each; may be minus infinity.
        upper: Largest possible value of each, in the same order; may be infinity.
        left_out: As :func:`left_out` gives it for their number.

    Returns:
        The interval; infinite at an end where too many values have no bound.

    Raises:
        ValueError: If a bound is NaN or the bounds of a value are reversed.
    """
    low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
    if low.shape != high.shape or not (low <= high).all():
        raise ValueError(f"each value needs a lower and an upper bound, got {list(lower)} and {list(upper)}")
    if left_out < 0:
        return -np.inf, np.inf
    return float(_walsh(low)[left_out]), float(_walsh(high)[-1 - left_out])


def hodges_lehmann(lower: Sequence[float], upper: Sequence[float]) -> Interval:
    """Return the smallest and the largest estimate of Hodges and Lehmann that values within their bounds can have."""
    low, high = (_middle(_walsh(np.asarray(bounds, dtype=np.float64))) for bounds in (lower, upper))
    return low, high


def _walsh(values: np.ndarray) -> np.ndarray:
    """Return the Walsh averages in ascending order, ``[n (n + 1) / 2]``; infinite bounds have one sign."""
    first, second = np.triu_indices(len(values))
    return np.sort((values[first] + values[second]) / 2)


def _middle(ordered: np.ndarray) -> float:
    half = len(ordered) // 2
    return float(ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2)
