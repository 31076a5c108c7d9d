"""How far an axis reaches: far enough for what matters, not so far that one bad arm flattens the rest."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from normscope.report.words import significant


def fence(values: Sequence[float], *, reach: float = 4.0) -> tuple[float, float]:
    """Give the range of the values that lie within ``reach`` interquartile ranges of the quartiles.

    Tukey's fences (Exploratory Data Analysis, 1977, ch. 2), wider than his 1.5 and 3: only what would flatten the
    rest of a picture is to be left out. With fewer than four values, or no spread, it is the range of all.

    Raises:
        ValueError: If there are no values.
    """
    if not len(values):
        raise ValueError("a range needs at least one value, got none")
    array = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(array, [0.25, 0.75])
    if len(array) < 4 or low == high:
        return float(array.min()), float(array.max())
    inside = array[(array >= low - reach * (high - low)) & (array <= high + reach * (high - low))]
    return float(inside.min()), float(inside.max())


def padded(low: float, high: float, share: float = 0.08) -> tuple[float, float]:
    """Widen a range by a share of itself on both sides; a range of no width by a share of its size."""
    width = (high - low) or abs(high) or 1.0
    return low - share * width, high + share * width


def wants_logarithm(values: Sequence[float], ratio: float) -> bool:
    """Whether positive values span more than ``ratio``."""
    return len(values) > 0 and min(values) > 0 and max(values) / min(values) > ratio


def plain_ticks(axes: Axes, which: str, *, count: int, logarithmic: bool = False) -> None:
    """Label an axis ``"x"`` or ``"y"`` with about ``count`` plain numbers, thousands as ``k``."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if logarithmic:
        low, high = axis.get_view_interval()
        decades = math.log10(high / low)
        subs = (1.0,) if decades > 2 else (1.0, 2.0, 5.0) if decades > 0.8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=count + 2))
    else:
        axis.set_major_locator(MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """Write a tick in as few letters as it needs."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}".replace("-", "\N{MINUS SIGN}")
    # Ten digits hide the dust that adding up steps leaves.
    text = f"{value:.10f}".rstrip("0").rstrip(".") if abs(value) >= 1e-4 else f"{value:g}"
    return "0" if text in ("-0", "") else text.replace("-", "\N{MINUS SIGN}")


def describe(value: float | None, unit: str) -> str:
    """Write a value for the words of a picture."""
    return f"{significant(value, 4)} {unit}".strip()
