"""What paired runs say: differences, intervals, tests; numpy and scipy, no torch.

A difference is the arm minus the baseline, in the metric's own unit, for one seed; ``P`` pairs. Every function refuses
differences that are too few or not finite, and a level that is not between 0 and 1, with a ValueError that shows them.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

Interval = tuple[float, float]
"""Lower and upper end, in the metric's unit."""

RESAMPLES = 10_000
"""Bootstrap resamples of an interval."""

EXACT_PAIRS = 16
"""Most pairs whose sign flips are all enumerated."""

# Values that should be equal differ by this much, relative to their size, once they went through float32 or a sum.
_ROUNDING = 1e-6

# Differences that should be equal, computed in float64 from values a thousand times their size.
_CONSTANT = 1e-12


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Two one-sided tests of whether a mean difference lies within a margin."""

    p: float
    """The larger of the two one-sided p-values."""
    interval: Interval
    """t interval at level 1 - 2 alpha: it lies within the margin exactly if ``p`` is below alpha."""


def paired_differences(arm: Iterable[tuple[int, float]], baseline: Iterable[tuple[int, float]]) -> np.ndarray:
    """Subtract the baseline's value from the arm's, seed by seed.

    Args:
        arm: Seed and value of every finished run, in any order.
        baseline: Likewise, of the same seeds.

    Returns:
        Differences in ascending order of the seeds, ``[P]`` float64.

    Raises:
        ValueError: If a seed occurs twice, lacks its partner, or has a value that is not finite; the message names it.
    """
    sides = []
    for name, rows in (("the arm", list(arm)), ("the baseline", list(baseline))):
        twice = sorted(seed for seed, count in Counter(seed for seed, _ in rows).items() if count > 1)
        if twice:
            raise ValueError(f"each seed must occur once, {name} has {twice} more than once")
        broken = sorted(seed for seed, value in rows if not np.isfinite(value))
        if broken:
            raise ValueError(f"values must be finite, {name} has others for seeds {broken}; such a run has diverged")
        sides.append(dict(rows))
    alone = sorted(sides[0].keys() ^ sides[1].keys())
    if alone:
        raise ValueError(f"both sides need the same seeds, {alone} occur on one side only")
    return np.array([sides[0][seed] - sides[1][seed] for seed in sorted(sides[0])], dtype=np.float64)


def t_interval(differences: np.ndarray, *, level: float) -> Interval:
    r"""Give Student's interval of the mean difference.

    .. math::
        \bar d \pm t_{P-1,\,(1 + level)/2} \; s / \sqrt{P}

    Args:
        differences: ``[P]``, at least two.
        level: Chance that the interval covers the true mean if the differences are Gaussian, such as 0.95.

    Returns:
        The interval; a point where all differences are equal.
    """
    values = _checked(differences, least=2)
    mean, error = _mean_and_error(values)
    reach = float(special.stdtrit(len(values) - 1, 1 - tail(level))) * error
    return mean - reach, mean + reach


def bca_interval(
    differences: np.ndarray, *, level: float, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    r"""Give the bias-corrected and accelerated bootstrap interval of the mean difference.

    The bootstrap quantiles at :math:`\Phi(z_0 + (z_0 + z) / (1 - a (z_0 + z)))` for :math:`z = \pm z_{(1 + level)/2}`,
    with the bias :math:`z_0` from the share of resampled means below the mean and the acceleration :math:`a` from the
    jackknife. It is too narrow for few pairs: shown beside the t interval, and no verdict rests on it.

    Args:
        differences: ``[P]``, at least two.
        level: Nominal coverage, such as 0.95.
        rng: Source of the resamples.
        resamples: How many.

    Returns:
        The interval; a point where all differences are equal.

    References:
        Efron (1987). Better bootstrap confidence intervals. JASA 82.
        Departs from it in: ties with the mean count half in the bias, since differences of test errors are discrete.
    """
    values = _checked(differences, least=2)
    outside, mean, size = tail(level), float(values.mean()), float(np.abs(values).max())
    if np.ptp(values) <= _CONSTANT * size:
        return mean, mean
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    tied = np.abs(means - mean) <= _CONSTANT * size
    below = ((means < mean) & ~tied).mean() + tied.mean() / 2
    # A share of exactly 0 or 1 would put the bias at infinity.
    bias = special.ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    influence = (values - mean) / (len(values) - 1)
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    shifted = bias + special.ndtri(np.array([outside, 1 - outside]))
    low, high = np.quantile(means, special.ndtr(bias + shifted / (1 - acceleration * shifted)))
    return float(low), float(high)


def sign_flip_p(differences: np.ndarray, *, rng: np.random.Generator) -> float:
    r"""Test whether the differences are symmetric about zero, by flipping their signs.

    The two-sided p-value is the share of the :math:`2^P` sign vectors whose mean is at least as far from zero as the
    observed one; a mean that is as far but for rounding counts. Up to :data:`EXACT_PAIRS` pairs all vectors are
    enumerated and ``rng`` is not touched. Beyond, :math:`B = 2^{16} - 1` vectors are drawn and the p-value is
    :math:`(1 + \#) / (1 + B)`, the observed vector counted among them: never zero, and never below :math:`2^{-16}`.

    Args:
        differences: ``[P]``, at least one.
        rng: Source of the signs beyond the exact range.

    Returns:
        The p-value; 1 where all differences are zero.

    References:
        Fisher (1935). The design of experiments, section 21. Phipson and Smyth (2010), on the added one.
    """
    values = _checked(differences, least=1)
    least = abs(values.sum()) - _ROUNDING * np.abs(values).sum()
    if len(values) > EXACT_PAIRS:
        draws = 2**EXACT_PAIRS - 1
        signs = 2.0 * rng.integers(2, size=(draws, len(values)), dtype=np.int8) - 1
        return float((1 + np.count_nonzero(np.abs(signs @ values) >= least)) / (1 + draws))
    # The first sign stays: a vector and its opposite are as far from zero.
    sums = values[:1]
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.count_nonzero(np.abs(sums) >= least) / len(sums))


def holm(p: Sequence[float | None]) -> list[float | None]:
    r"""Adjust the p-values of one card's comparisons so that the chance of any false claim stays below alpha.

    .. math::
        \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)}), \quad p_{(1)} \le \dots \le p_{(m)}

    Args:
        p: One a planned comparison; None for one that has no p-value: it stays None and counts in :math:`m`,
            so that an arm which fails does not make claims about the others cheaper.

    Returns:
        The adjusted p-values in the order given.

    Raises:
        ValueError: If a p-value is not within 0 and 1.

    References:
        Holm (1979). A simple sequentially rejective multiple test procedure.
    """
    wrong = [value for value in p if value is not None and not 0 <= value <= 1]
    if wrong:
        raise ValueError(f"p-values must lie within 0 and 1, got {wrong}")
    adjusted: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, index) in enumerate(sorted((value, index) for index, value in enumerate(p) if value is not None)):
        largest = max(largest, min(1.0, (len(p) - rank) * value))
        adjusted[index] = largest
    return adjusted


def equivalence(differences: np.ndarray, *, margin: float, alpha: float) -> Equivalence:
    r"""Test by two one-sided t tests whether the mean difference lies within the margin.

    .. math::
        p = \max\left(P(T_{P-1} > \tfrac{m + \bar d}{s/\sqrt P}),\; P(T_{P-1} > \tfrac{m - \bar d}{s/\sqrt P})\right)

    Args:
        differences: ``[P]``, at least two.
        margin: Smallest difference worth having, :math:`m`, in the metric's unit.
        alpha: Size of each of the two tests.

    Returns:
        The p-value and its interval; where all differences are equal, p is 0 within the margin and 1 elsewhere.

    Raises:
        ValueError: If the margin is negative.

    References:
        Schuirmann (1987). A comparison of the two one-sided tests procedure and the power approach.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be zero or more, got {margin}")
    values = _checked(differences, least=2)
    mean, error = _mean_and_error(values)
    room = margin - abs(mean)
    p = float(special.stdtr(len(values) - 1, -room / error)) if error > 0 else float(room <= 0)
    return Equivalence(p=p, interval=t_interval(values, level=1 - 2 * alpha))


def probability_of_improvement(differences: np.ndarray, *, higher_is_better: bool) -> float:
    """Give the share of pairs in which the arm beats the baseline; a draw counts half.

    Args:
        differences: ``[P]``, at least one.
        higher_is_better: Direction of the metric.

    References:
        Bouthillier et al. (2021). Accounting for variance in machine learning benchmarks. arXiv:2103.03098.
    """
    gains = _checked(differences, least=1) * (1 if higher_is_better else -1)
    return float((gains > 0).mean() + (gains == 0).mean() / 2)


def tail(level: float) -> float:
    """Give the probability that an interval of this level leaves out on each side.

    Raises:
        ValueError: If the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    return (1 - level) / 2


def _checked(differences: np.ndarray, *, least: int) -> np.ndarray:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) < least:
        raise ValueError(f"expected at least {least} paired differences [pairs], got shape {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"differences must be finite, got {values[~np.isfinite(values)].tolist()}")
    return values


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Give the mean and its standard error, which is exactly zero where the values differ by rounding only."""
    if np.ptp(values) <= _CONSTANT * np.abs(values).max():
        return float(values.mean()), 0.0
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


LEAST_PAIRS = 6
"""No claim rests on fewer, whatever alpha is: with five, no sign-flip test can reach 0.05."""

MOST_SEEDS = 1000
"""Where planning stops: a study that needs more is not going to be run."""


def fewest_pairs(alpha: float) -> int:
    """Count the pairs below which nothing is claimed: a sign-flip p is at least 2 / 2^P, and must be under alpha.

    Never below :data:`LEAST_PAIRS`.

    Raises:
        ValueError: If alpha is not within 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    return next(pairs for pairs in range(LEAST_PAIRS, 1100) if 2.0 ** (1 - pairs) < alpha)


def seeds_needed(*, sd: float, effect: float, alpha: float, power: float = 0.8) -> int | None:
    r"""Count the pairs that a study needs in all to find an effect.

    The smallest :math:`n` at which the two-sided paired t test of size ``alpha`` finds a true mean difference of
    ``effect`` with chance ``power``, its differences being Gaussian with standard deviation ``sd``:

    .. math::
        P(T'_{n-1}(\sqrt n \, |effect| / sd) > t_{n-1,\,1-\alpha/2}) \ge power

    where :math:`T'` is the noncentral t: found, and on the right side. Never fewer than :func:`fewest_pairs`: the
    sign-flip test must be able to agree. The sd of few pairs is itself uncertain, so the answer says "about".

    Args:
        sd: Of the paired differences, in the metric's unit.
        effect: Difference to be found, same unit: the observed one, or the margin. Its sign does not matter.
        alpha: Size of the strictest test that must be passed: with ``m`` comparisons, Holm's first step is alpha / m.
        power: Chance of finding it.

    Returns:
        The number of pairs, or None where it is over :data:`MOST_SEEDS`.

    Raises:
        ValueError: If ``sd`` is negative or a number is not finite, or alpha or power is not within 0 and 1.
    """
    if not (np.isfinite(sd) and np.isfinite(effect) and sd >= 0 and 0 < power < 1):
        raise ValueError(f"expected sd >= 0, a finite effect and a power within 0 and 1, got {sd}, {effect}, {power}")
    least = fewest_pairs(alpha)
    if effect == 0 or least > MOST_SEEDS:
        return None
    # An effect of 20 sd is found by any number of pairs that the sign flip admits, and keeps the noncentral t in range.
    ratio = min(abs(effect) / sd, 20.0) if sd > 0 else 20.0
    pairs = range(least, MOST_SEEDS + 1)
    index = bisect_left(pairs, power, key=lambda count: _t_power(count, ratio, alpha))
    return pairs[index] if index < len(pairs) else None


def _t_power(pairs: int, ratio: float, alpha: float) -> float:
    critical = special.stdtrit(pairs - 1, 1 - alpha / 2)
    shift = min(ratio * np.sqrt(pairs), 30.0)
    return float(1 - special.nctdtr(pairs - 1, shift, critical))
