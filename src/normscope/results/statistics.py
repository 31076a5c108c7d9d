"""Statistics of paired runs: differences, intervals, tests, sample sizes; numpy, and scipy where it is needed.

A difference is the arm minus the baseline for one seed, in the metric's unit; ``P`` is the number of pairs. Every
function raises a ValueError if there are too few differences, one is not finite, or a level is not between 0 and 1.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Interval = tuple[float, float]
"""Lower and upper end, in the metric's unit."""

RESAMPLES = 10_000
"""Number of bootstrap resamples per interval."""

EXACT_PAIRS = 16
"""Largest number of pairs for which all sign flips are enumerated."""

# Largest number of draws in memory at once: 32 MB as float64. They are drawn row by row, so that the rows of a study of
# any size are those of one large draw.
_AT_ONCE = 2**22

# Largest number of pairs whose signs are drawn one by one; beyond, eight signs at a time select from a table of sums.
_SINGLE_SIGNS = 256

# Relative rounding error of values that went through float32 or a sum.
_ROUNDING = 1e-6

# Relative rounding error of differences computed in float64 from values a thousand times their size.
_CONSTANT = 1e-12


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Result of two one-sided tests of whether a mean difference lies within a margin."""

    p: float
    """The larger of the two one-sided p-values."""
    interval: Interval
    """t interval at level 1 - 2 alpha; it lies within the margin if and only if ``p`` is below alpha."""


def paired_differences(arm: Iterable[tuple[int, float]], baseline: Iterable[tuple[int, float]]) -> np.ndarray:
    """Compute arm minus baseline for every seed.

    Args:
        arm: Seed and value of every done run, in any order.
        baseline: The same for the baseline, with the same seeds.

    Returns:
        Differences in ascending order of the seeds, ``[P]`` float64.

    Raises:
        ValueError: If a seed occurs twice or on one side only, or a value is not finite; the message names the seeds.
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
    r"""Compute Student's t interval of the mean difference.

    .. math::
        \bar d \pm t_{P-1,\,(1 + level)/2} \; s / \sqrt{P}

    Args:
        differences: ``[P]``, at least two.
        level: Probability that the interval covers the true mean if the differences are Gaussian, such as 0.95.

    Returns:
        The interval; a single point if all differences are equal.
    """
    from scipy import special

    values = _checked(differences, least=2)
    mean, error = mean_and_error(values)
    reach = float(special.stdtrit(len(values) - 1, 1 - tail(level))) * error
    return mean - reach, mean + reach


def within(interval: Interval, limits: Interval | None) -> Interval:
    """Return the part of an interval inside the range of the quantity, which covers the truth exactly as often."""
    if limits is None:
        return interval
    low, high = (min(max(end, limits[0]), limits[1]) for end in interval)
    return low, high


def bca_interval(
    differences: np.ndarray, *, level: float, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    r"""Compute the bias-corrected and accelerated (BCa) bootstrap interval of the mean difference.

    Its ends are the bootstrap quantiles at :math:`\Phi(z_0 + (z_0 + z) / (1 - a (z_0 + z)))` for
    :math:`z = \pm z_{(1 + level)/2}`, with the bias :math:`z_0` from the share of resampled means below the mean and
    the acceleration :math:`a` from the jackknife. For few pairs it is too narrow; it is shown beside the t interval,
    and no verdict rests on it.

    Args:
        differences: ``[P]``, at least two.
        level: Nominal coverage, such as 0.95.
        rng: Random generator of the resamples.
        resamples: Number of resamples; of more than 1,000 pairs as many as make ten million draws, but at least 2,000.

    Returns:
        The interval; a single point if all differences are equal.

    References:
        Efron (1987). Better bootstrap confidence intervals. JASA 82.
        Departs from it in: ties with the mean count half in the bias, since differences of test errors are discrete.
    """
    from scipy import special

    values = _checked(differences, least=2)
    outside, mean, size = tail(level), float(values.mean()), float(np.abs(values).max())
    if np.ptp(values) <= _CONSTANT * size:
        return mean, mean
    resamples = min(resamples, max(2000, 10**7 // len(values)))
    means = np.empty(resamples)
    rows = max(1, _AT_ONCE // len(values))
    for start in range(0, resamples, rows):
        drawn = rng.integers(len(values), size=(min(rows, resamples - start), len(values)))
        means[start : start + rows] = values[drawn].mean(axis=1)
    tied = np.abs(means - mean) <= _CONSTANT * size
    below = ((means < mean) & ~tied).mean() + tied.mean() / 2
    # A share of exactly 0 or 1 would make the bias infinite.
    bias = special.ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    influence = (values - mean) / (len(values) - 1)
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    shifted = bias + special.ndtri(np.array([outside, 1 - outside]))
    low, high = np.quantile(means, special.ndtr(bias + shifted / (1 - acceleration * shifted)))
    return float(low), float(high)


def sign_flip_p(differences: np.ndarray, *, rng: np.random.Generator) -> float:
    r"""Test whether the differences are symmetric about zero, by flipping their signs.

    The two-sided p-value is the share of the :math:`2^P` sign vectors whose mean is at least as far from zero as the
    observed one, up to rounding. Up to :data:`EXACT_PAIRS` pairs all vectors are enumerated and ``rng`` is not used.
    Beyond, :math:`B = 2^{16} - 1` vectors are drawn and the p-value is :math:`(1 + \#) / (1 + B)`, which counts the
    observed vector: it is never zero, and never below :math:`2^{-16}`.

    Args:
        differences: ``[P]``, at least one.
        rng: Random generator of the signs beyond the exact range.

    Returns:
        The p-value; 1 if all differences are zero.

    References:
        Fisher (1935). The design of experiments, section 21. Phipson and Smyth (2010), on counting the observed vector.
    """
    values = _checked(differences, least=1)
    least = abs(values.sum()) - _ROUNDING * np.abs(values).sum()
    if len(values) > EXACT_PAIRS:
        draws = 2**EXACT_PAIRS - 1
        sums = flipped_sums(values, draws, rng)
        return float((1 + np.count_nonzero(np.abs(sums) >= least)) / (1 + draws))
    # The first sign is fixed: a sign vector and its opposite are equally far from zero.
    sums = values[:1]
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.count_nonzero(np.abs(sums) >= least) / len(sums))


def flipped_sums(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return the sum of the values under random sign vectors, ``[draws]``.

    Of more than 256 values a random byte gives the signs of eight: thirty times faster, without a matrix of all signs.
    """
    if len(values) <= _SINGLE_SIGNS:
        return (2.0 * rng.integers(2, size=(draws, len(values)), dtype=np.int8) - 1) @ values
    groups = np.concatenate([values, np.zeros(-len(values) % 8)]).reshape(-1, 8)
    # [256, 8]: the signs that each byte stands for.
    signs = 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) - 1
    sums = np.zeros(draws)
    for group in groups:
        sums += (signs @ group)[rng.integers(256, size=draws, dtype=np.uint8)]
    return sums


def holm(p: Sequence[float | None]) -> list[float | None]:
    r"""Adjust the p-values of a card's comparisons to control the probability of any false claim (Holm's correction).

    .. math::
        \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)}), \quad p_{(1)} \le \dots \le p_{(m)}

    Args:
        p: One p-value per planned comparison. None, for a comparison without a p-value, stays None and counts in
            :math:`m`, so that an arm that fails does not make claims about the others easier.

    Returns:
        The adjusted p-values in the same order.

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
        The p-value and its interval; if all differences are equal, p is 0 within the margin and 1 otherwise.

    Raises:
        ValueError: If the margin is negative.

    References:
        Schuirmann (1987). A comparison of the two one-sided tests procedure and the power approach.
    """
    from scipy import special

    if not margin >= 0:
        raise ValueError(f"margin must be zero or more, got {margin}")
    values = _checked(differences, least=2)
    mean, error = mean_and_error(values)
    room = margin - abs(mean)
    p = float(special.stdtr(len(values) - 1, -room / error)) if error > 0 else float(room <= 0)
    return Equivalence(p=p, interval=t_interval(values, level=1 - 2 * alpha))


def probability_of_improvement(differences: np.ndarray, *, higher_is_better: bool) -> float:
    """Compute the share of pairs in which the arm is better than the baseline; ties count half.

    Args:
        differences: ``[P]``, at least one.
        higher_is_better: Direction of the metric.

    References:
        Bouthillier et al. (2021). Accounting for variance in machine learning benchmarks. arXiv:2103.03098.
    """
    improvements = _checked(differences, least=1) * (1 if higher_is_better else -1)
    return float((improvements > 0).mean() + (improvements == 0).mean() / 2)


def sign_test(wins: int, of: int) -> float:
    """Compute the two-sided p-value of a sign test: ``wins`` of ``of`` decided comparisons, each won with chance 1/2.

    Raises:
        ValueError: If ``of`` is less than 1 or ``wins`` is not between 0 and ``of``.
    """
    from scipy import special

    if not 0 <= wins <= of or of < 1:
        raise ValueError(f"expected 0 to {of} wins of at least one comparison, got {wins} of {of}")
    return min(1.0, 2 * float(special.bdtrc(max(wins, of - wins) - 1, of, 0.5)))


def proportion_interval(count: int, of: int, *, level: float) -> Interval:
    """Compute the exact (Clopper-Pearson) interval of a proportion, ``count`` of ``of``, as fractions of 1."""
    from scipy import special

    outside = tail(level)
    low = float(special.betaincinv(count, of - count + 1, outside)) if count else 0.0
    return low, float(special.betaincinv(count + 1, of - count, 1 - outside)) if count < of else 1.0


def tail(level: float) -> float:
    """Return the probability outside an interval of this level, on each side.

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


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error, which is exactly zero if the values differ only by rounding."""
    if np.ptp(values) <= _CONSTANT * np.abs(values).max():
        return float(values.mean()), 0.0
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


LEAST_PAIRS = 6
"""Fewest pairs for a claim at any alpha: with five, no sign-flip test can reach 0.05."""

MOST_SEEDS = 1000
"""Largest number of seeds that is planned for; a study that needs more is not going to be run."""


def fewest_pairs(alpha: float) -> int:
    """Return the smallest number of pairs at which a claim is possible, at least :data:`LEAST_PAIRS`.

    The p-value of a sign-flip test is at least 2 / 2^P, and must be below alpha.

    Raises:
        ValueError: If alpha is not within 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    return next(pairs for pairs in range(LEAST_PAIRS, 1100) if 2.0 ** (1 - pairs) < alpha)


def seeds_needed(*, sd: float, effect: float, alpha: float, power: float = 0.8) -> int | None:
    r"""Compute the total number of pairs that a study needs to detect an effect.

    It is the smallest :math:`n` at which the two-sided paired t test of size ``alpha`` detects a true mean difference
    of ``effect`` with probability ``power``, if the differences are Gaussian with standard deviation ``sd``:

    .. math::
        P(T'_{n-1}(\sqrt n \, |effect| / sd) > t_{n-1,\,1-\alpha/2}) \ge power

    where :math:`T'` is noncentral t: detected, with the right sign. It is at least :func:`fewest_pairs`, since the
    sign-flip test must be able to agree. The sd of few pairs is itself uncertain, so the result is approximate.

    Args:
        sd: Standard deviation of the paired differences, in the metric's unit.
        effect: Difference to detect, in the same unit, such as the observed one or the margin; its sign is ignored.
        alpha: Size of the strictest test to pass: with ``m`` comparisons, Holm's first step has alpha / m.
        power: Probability of detection.

    Returns:
        The number of pairs, or None if it exceeds :data:`MOST_SEEDS`.

    Raises:
        ValueError: If ``sd`` is negative or a number is not finite, or alpha or power is not within 0 and 1.
    """
    if not (np.isfinite(sd) and np.isfinite(effect) and sd >= 0 and 0 < power < 1):
        raise ValueError(f"expected sd >= 0, a finite effect and a power within 0 and 1, got {sd}, {effect}, {power}")
    least = fewest_pairs(alpha)
    if effect == 0 or least > MOST_SEEDS:
        return None
    # An effect of 20 sd is detected by any number of pairs that the sign flip admits, and keeps the noncentral t in
    # range.
    ratio = min(abs(effect) / sd, 20.0) if sd > 0 else 20.0
    pairs = range(least, MOST_SEEDS + 1)
    index = bisect_left(pairs, power, key=lambda count: _t_power(count, ratio, alpha))
    return pairs[index] if index < len(pairs) else None


def _t_power(pairs: int, ratio: float, alpha: float) -> float:
    from scipy import special

    critical = special.stdtrit(pairs - 1, 1 - alpha / 2)
    shift = min(ratio * np.sqrt(pairs), 30.0)
    return float(1 - special.nctdtr(pairs - 1, shift, critical))
