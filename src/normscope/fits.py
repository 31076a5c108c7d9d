"""The least-squares line through logarithms: how fast a size grows by place, and the exponent of a power law."""

import math
from collections.abc import Sequence

import numpy as np


def log_slope(values: Sequence[float] | np.ndarray, positions: Sequence[float] | np.ndarray | None = None) -> float:
    r"""Return the slope of the least-squares line through the natural logarithms of values.

    .. math::
        \frac{\sum_i (x_i - \bar x) \ln v_i}{\sum_i (x_i - \bar x)^2}

    With logarithms for positions, it is the exponent of a power law.

    Args:
        values: :math:`v`, ``[n]``.
        positions: :math:`x`, ``[n]``; 0, 1, 2, … by default.

    Returns:
        The slope; infinity if any value is not positive and finite.

    Raises:
        ValueError: If the lengths differ, or fewer than two positions differ.
    """
    v = np.asarray(values, dtype=np.float64)
    x = np.arange(len(v), dtype=np.float64) if positions is None else np.asarray(positions, dtype=np.float64)
    if v.ndim != 1 or v.shape != x.shape:
        raise ValueError(f"expected values [n] and positions [n], got {list(v.shape)} and {list(x.shape)}")
    if len(np.unique(x)) < 2:
        raise ValueError(f"a line needs two positions or more that differ, got {x.tolist()}")
    if not (np.isfinite(v) & (v > 0)).all():
        return math.inf
    centered = x - x.mean()
    return float(centered @ np.log(v) / (centered @ centered))
