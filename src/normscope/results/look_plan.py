"""Plans of looks: how alpha is spent over them, and the levels that Gaussian theory gives each; needs numpy."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

Spending = Literal["pocock", "obrien_fleming", "kim_demets"]
"""Which share of alpha is spent early: much (Pocock), little (O'Brien and Fleming), or in between."""

DEFAULT_SPENDING: Spending = "kim_demets"
"""Spending of a study that goes on until it is decided; see benchmarks/looks.py."""

LEVELS = np.concatenate(
    [
        np.geomspace(2**-16, 0.001, 100, endpoint=False),
        np.geomspace(0.001, 0.2, 530, endpoint=False),
        np.geomspace(0.2, 1, 50),
    ]
)
"""Levels at which tests are made, ascending: 1 % apart from 0.001 to 0.2, where claims are; 3 and 4 % elsewhere."""

# Exponent of Kim and DeMets: the largest quarter with which one of six arms can be claimed at 10 of 30 pairs.
_EXPONENT = 1.25


@dataclass(frozen=True)
class LookPlan:
    """Numbers of pairs at which a study is read, and how alpha is spent over them.

    Raises:
        ValueError: If there are fewer than two looks or they do not ascend, or the spending is unknown.
    """

    pairs: tuple[int, ...]
    """Pairs at each look, ascending; the last is the maximum."""
    spending: Spending = DEFAULT_SPENDING
    """Spending function."""

    def __post_init__(self) -> None:
        pairs = self.pairs
        if len(pairs) < 2 or pairs[0] < 2 or any(after <= before for before, after in pairwise(pairs)):
            raise ValueError(
                f"looks must be two or more ascending numbers of at least two pairs, such as 10, 20, 30, got {pairs}"
            )
        if self.spending not in get_args(Spending):
            raise ValueError(f"spending must be one of {', '.join(get_args(Spending))}, got {self.spending!r}")

    def reached(self, count: int) -> int:
        """Return the number of looks that this many pairs complete."""
        return sum(pairs <= count for pairs in self.pairs)

    def spent(self, alpha: float, *, two_sided: bool = True) -> tuple[float, ...]:
        r"""Compute the part of alpha that is spent by the end of each look.

        With :math:`t_k` the pairs of look :math:`k` over the maximum, it is for Pocock, O'Brien and Fleming, and Kim
        and DeMets

        .. math::
            \alpha \ln(1 + (e - 1)\, t_k), \quad
            2 - 2 \Phi(z_{1-\alpha/2} / \sqrt{t_k}), \quad
            \alpha\, t_k^{1.25}

        and a two-sided test spends as much of :math:`\alpha / 2` on either side.

        Raises:
            ValueError: If alpha is not between 0 and 1.

        References:
            Lan and DeMets (1983). Discrete sequential boundaries for clinical trials. Biometrika 70.
            Kim and DeMets (1987). Design and analysis of group sequential tests based on the type I error spending rate
            function. Biometrika 74.
        """
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        return tuple(spending(self, np.array([alpha]), two_sided=two_sided)[:, 0].tolist())


def spending(plan: LookPlan, levels: np.ndarray, *, two_sided: bool) -> np.ndarray:
    """Compute :meth:`LookPlan.spent` for several levels ``[L]``, as ``[K, L]``."""
    from scipy import special

    times = np.array(plan.pairs)[:, None] / plan.pairs[-1]
    if plan.spending == "pocock":
        return levels * np.log1p((np.e - 1) * times)
    if plan.spending == "kim_demets":
        return levels * times**_EXPONENT
    sides = 1 + two_sided
    return 2 * sides * special.ndtr(special.ndtri(levels / (2 * sides)) / np.sqrt(times))


@lru_cache(maxsize=256)
def nominal_levels(plan: LookPlan, alpha: float, *, two_sided: bool = True) -> tuple[float, ...]:
    r"""Compute the level of each look's test if the means were Gaussian with known variance.

    The boundaries :math:`c_k` solve :math:`P(|Z_1| < c_1, \dots, |Z_{k-1}| < c_{k-1}, |Z_k| \ge c_k) = a_k - a_{k-1}`
    by integration over the values at the look before, and the levels are :math:`2 - 2 \Phi(c_k)`; one-sided likewise.

    Raises:
        ValueError: If alpha is not between 0 and 1.

    References:
        Armitage, McPherson and Rowe (1969). Repeated significance tests on accumulating data. JRSS A 132.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    return tuple(_integrate(plan, np.array([alpha]), two_sided=two_sided)[:, 0].tolist())


def nominal_table(plan: LookPlan, levels: np.ndarray, *, two_sided: bool) -> np.ndarray:
    """Compute :func:`nominal_levels` for many levels ``[L]``, interpolated between 60 of them, as ``[K, L]``."""
    some, exact = _table(plan, two_sided=two_sided)
    return np.exp([np.interp(np.log(levels), some, row) for row in exact])


@lru_cache(maxsize=16)
def _table(plan: LookPlan, *, two_sided: bool) -> tuple[np.ndarray, np.ndarray]:
    some = np.geomspace(LEVELS[0], 0.9, 60)
    exact = np.maximum.accumulate(_integrate(plan, some, two_sided=two_sided), axis=1)
    return np.log(some), np.log(np.maximum(exact, 1e-300))


def _integrate(plan: LookPlan, levels: np.ndarray, *, two_sided: bool) -> np.ndarray:
    from scipy import special

    spent = spending(plan, levels, two_sided=two_sided)
    nodes, weights = np.polynomial.legendre.leggauss(160)
    at, mass = np.zeros((len(levels), 1)), np.ones((len(levels), 1))
    found, before, time = [], np.zeros(len(levels)), 0.0
    for pairs, spend in zip(plan.pairs, spent, strict=True):
        root, step = np.sqrt(pairs / plan.pairs[-1]), np.sqrt(pairs / plan.pairs[-1] - time)
        low, high = np.full(len(levels), -10.0), np.full(len(levels), 40.0)
        for _ in range(60):
            middle = (low + high) / 2
            edge = (middle * root)[:, None]
            out = special.ndtr((at - edge) / step) + (special.ndtr((-at - edge) / step) if two_sided else 0)
            more = (mass * out).sum(axis=1) > spend - before
            low, high = np.where(more, middle, low), np.where(more, high, middle)
        found.append((1 + two_sided) * special.ndtr(-high))
        top = (high * root)[:, None]
        bottom = -top if two_sided else np.full_like(top, -9 * root)
        to = bottom + (top - bottom) * (nodes + 1) / 2
        density = np.exp(-(((to[:, :, None] - at[:, None, :]) / step) ** 2) / 2) / (step * np.sqrt(2 * np.pi))
        mass = (density @ mass[:, :, None])[:, :, 0] * weights * (top - bottom) / 2
        at, before, time = to, spend, pairs / plan.pairs[-1]
    return np.array(found)
