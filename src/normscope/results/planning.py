"""How many pairs a study needs before it can claim something."""

from bisect import bisect_left

import numpy as np
from scipy import special

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
