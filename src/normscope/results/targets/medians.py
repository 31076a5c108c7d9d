r"""Intervals of a median from order statistics, at planned looks, with values known only up to bounds; needs numpy.

Of :math:`n` independent values, the number above their median is binomial with probability 1/2, whatever their
distribution. So the interval from the :math:`(c + 1)`-th smallest to the :math:`(c + 1)`-th largest misses the median
with probability :math:`2 P(B_n \le c)`. At looks, the walk of the counts is followed exactly: at each look :math:`c`
is the largest for which the walks outside by then have at most the probability that the plan has spent.

A value that is known only up to bounds can move each end only in one direction: the lower end is computed from the
lower bounds, the upper end from the upper ones, and no value inside the bounds gives a wider interval.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from normscope.results.statistics import Interval


@lru_cache(maxsize=256)
def left_out(looks: tuple[int, ...], spent: tuple[float, ...]) -> tuple[int, ...]:
    """Compute how many of the smallest and of the largest values each look's interval leaves out.

    Args:
        looks: Number of values at each look, ascending.
        spent: Probability that an interval may miss the median at or before each look.

    Returns:
        One count per look; -1 where the interval must be unbounded.

    References:
        Departs from Jennison and Turnbull (1989) in: the walk is that of the signs, so that no theory is needed for the
        distribution of the values.
    """
    # Probability of each number of values above the median, of the walks that were inside so far.
    inside, outside, position, counts = np.ones(1), 0.0, 0, []
    for pairs, limit in zip(looks, spent, strict=True):
        for _ in range(pairs - position):
            inside = (np.append(inside, 0.0) + np.append(0.0, inside)) / 2
        position = pairs
        # Both tails at once: the distribution is symmetric.
        tails = 2 * np.cumsum(inside)[: (pairs + 1) // 2]
        count = int(np.searchsorted(outside + tails, limit * (1 + 1e-12), side="right")) - 1
        if count >= 0:
            outside += float(tails[count])
            inside[: count + 1] = inside[pairs - count :] = 0.0
        counts.append(count)
    return tuple(counts)


def median_interval(lower: Sequence[float], upper: Sequence[float], left_out: int) -> Interval:
    """Compute the interval of the median that leaves out so many values on each side.

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
    if left_out < 0 or left_out >= len(low):
        return -np.inf, np.inf
    return float(np.sort(low)[left_out]), float(np.sort(high)[len(high) - 1 - left_out])


def bounded_median(lower: Sequence[float], upper: Sequence[float]) -> Interval:
    """Return the smallest and the largest median that values within their bounds can have."""
    return _median(lower), _median(upper)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
