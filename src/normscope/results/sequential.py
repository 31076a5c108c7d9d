r"""Planned looks at a growing number of pairs: tests, intervals and equivalence that hold at any of them; needs numpy.

A plan names the numbers of pairs at which the results are read. Its tests are sign-flip tests in which every sign
vector goes through the same looks as the observed one: at look :math:`k`, the vectors that were rejected at an earlier
look stay rejected, and the most extreme of the others are added while all rejected ones together are at most the share
:math:`a_k(\alpha)` of all vectors that the plan spends by then. Given the sizes of the differences, all sign vectors
are equally likely if the differences are symmetric about zero. So the probability of a rejection at or before look
:math:`k` is at most :math:`a_k(\alpha)`, whatever the distribution, and at most :math:`\alpha` over the whole study.

Every function reads the pairs in the order in which the plan counts them, and uses complete looks only.
"""

import numpy as np

from normscope.results.flips import DRAWS, critical_values, lowest_level, rejected
from normscope.results.look_plan import DEFAULT_SPENDING as DEFAULT_SPENDING
from normscope.results.look_plan import LEVELS, LookPlan, nominal_levels, nominal_table, spending
from normscope.results.look_plan import Spending as Spending
from normscope.results.statistics import Interval, mean_and_error, tail

DEFAULT_LOOKS = (10, 20, 30)
"""Pairs at the looks of a study that goes on until it is decided; see benchmarks/looks.py."""

# The skewness of n pairs is taken (1 + this / n) times: on average it is too small, for an exponential by 7 to 9 / n.
_SKEWNESS = 10


def sequential_p(
    differences: np.ndarray,
    plan: LookPlan,
    *,
    rng: np.random.Generator,
    draws: int = DRAWS,
    levels: np.ndarray = LEVELS,
    flips_only: bool = False,
) -> tuple[float, ...]:
    r"""Compute the p-value of a mean difference of zero at each look reached.

    It is the larger of two: the p-value of the two-sided group-sequential sign-flip test, and the level at which
    :func:`repeated_interval` begins to exclude zero. The first alone is exact for differences symmetric about zero,
    the second keeps skewed differences with a mean of zero from being called better or worse. Each is, at look
    :math:`k`, the smallest level such that this and every higher level reject at or before look :math:`k`; so it never
    rises from look to look, and over all looks together

    .. math::
        P(\min_k p_k \le \alpha) \le \alpha.

    Each of several arms may stop at a look of its own: its p-value there is at least the one at the maximum, Holm's
    correction rejects no more with larger p-values, and at the maximum it is valid for any dependence between the arms.
    Flips of all arms of a seed together would use their common baseline, and are not valid: :math:`(x_1 - x_0, x_2 -
    x_0)` is not symmetric about zero if :math:`x_0` is skewed, though each of the two is if :math:`x_1, x_2` and
    :math:`x_0` are distributed alike.

    Levels are tested on a grid of 1 %, so that a p-value is rounded up by as much. As long as the sign vectors of a
    look number at most ``draws`` + 1 (a vector and its opposite are one), they are enumerated. Beyond, ``draws`` random
    ones are followed through the looks, and the observed one is counted with them.

    Args:
        differences: ``[P]`` in the order of the plan; pairs after the last complete look are ignored.
        plan: The looks.
        rng: Random generator of the signs; one made anew from the same seed gives an earlier look the same p-value
            when later pairs have come.
        draws: Number of sign vectors drawn; one less than a power of two.
        levels: Levels at which the tests are made, ascending; the p-value is one of them or 1.
        flips_only: Whether to return the p-value of the sign-flip test alone.

    Returns:
        One p-value per look reached.

    Raises:
        ValueError: If a difference is not finite.
    """
    values = _checked(differences)
    cuts, _ = _cuts(values, plan, levels, two_sided=True, rng=rng, draws=draws)
    flips = _p_values(np.abs(_sums(values, plan)), cuts, levels)
    if flips_only:
        return flips
    ps = np.array([2 * min(_one_sided_p(part), _one_sided_p(-part)) for part in _parts(values, plan)])
    nominal = nominal_table(plan, levels, two_sided=True)[: len(ps)]
    return tuple(map(max, flips, _p_values(-ps, -nominal, levels)))


def sequential_equivalence_p(
    differences: np.ndarray,
    plan: LookPlan,
    *,
    margin: float,
    rng: np.random.Generator,
    draws: int = DRAWS,
    levels: np.ndarray = LEVELS,
) -> tuple[float, ...]:
    """Compute the p-value of equivalence at each look reached, by two one-sided tests at the looks of the plan.

    The null hypotheses are that the mean difference is at most minus the margin, and that it is at least the margin.
    Each is tested twice as in :func:`sequential_p`, and the p-value is the largest of the four: by the one-sided
    group-sequential sign-flip test of the distances to that end of the margin, and by the one-sided end of
    :func:`repeated_interval`. It never rises from look to look.

    Args:
        differences: ``[P]`` in the order of the plan; pairs after the last complete look are ignored.
        plan: The looks; each test spends alpha over them.
        margin: Smallest difference worth having, in the metric's unit.
        rng: Random generator of the signs, as for :func:`sequential_p`.
        draws: Number of sign vectors drawn.
        levels: As for :func:`sequential_p`.

    Raises:
        ValueError: If the margin is negative or a difference is not finite.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be zero or more, got {margin}")
    values, found = _checked(differences), []
    for distances, generator in zip((values + margin, margin - values), rng.spawn(2), strict=True):
        cuts, _ = _cuts(distances, plan, levels, two_sided=False, rng=generator, draws=draws)
        found.append(_p_values(_sums(distances, plan), cuts, levels))
        ps = np.array([_one_sided_p(part) for part in _parts(distances, plan)])
        nominal = nominal_table(plan, levels, two_sided=False)[: len(ps)]
        found.append(_p_values(-ps, -nominal, levels))
    return tuple(map(max, *found))


def repeated_interval(differences: np.ndarray, plan: LookPlan, *, level: float) -> tuple[Interval, ...]:
    r"""Compute an interval of the mean difference at each look reached; together they cover it at ``level``.

    It is the smallest interval that holds Student's t interval at the level that :func:`nominal_levels` gives the look
    and the one adjusted for skewness: with the skewness :math:`g` of :math:`n` pairs,

    .. math::
        \frac{\bar d - \mu}{s / \sqrt n} = T \quad\text{is replaced by}\quad
        T + \frac{g T^2}{3 \sqrt n} + \frac{g^2 T^3}{27 n} + \frac{g}{6 \sqrt n},

    which is monotone in :math:`\mu`. Student's interval alone covers the mean of skewed differences too seldom, see
    benchmarks/looks.py.

    Args:
        differences: ``[P]`` in the order of the plan, at least two at the first look.
        plan: The looks.
        level: Probability that all intervals cover the true mean, such as 0.95.

    Returns:
        One interval per look; single points if all differences are equal.

    References:
        Jennison and Turnbull (1989). Interim analyses: the repeated confidence interval approach. JRSS B 51.
        Hall (1992). On the removal of skewness by transformation. JRSS B 54.
        Departs from it in: Student's quantiles; the skewness is taken 1 + 10 / n times, since that of few pairs is too
        small; and the hull with Student's interval.
    """
    from scipy import special

    values, ends = _checked(differences), []
    for part, nominal in zip(_parts(values, plan), nominal_levels(plan, 2 * tail(level)), strict=False):
        mean, error, bend = _moments(part)
        reach = float(special.stdtrit(len(part) - 1, 1 - nominal / 2))
        shifts = [reach, -reach]
        if bend:
            # The inverse of the transformation; expm1 where the skewness may be next to nothing.
            bent = [3 * bend * (side - bend / 2) for side in (reach, -reach)]
            shifts += [(np.expm1(np.log1p(x) / 3) if x > -0.5 else np.cbrt(1 + x) - 1) / bend for x in bent]
        ends.append((mean - max(shifts) * error, mean - min(shifts) * error))
    return tuple((float(low), float(high)) for low, high in ends)


def _moments(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean, standard error, and the inflated skewness over 3 sqrt(n)."""
    count = len(values)
    mean, error = mean_and_error(values)
    if error == 0 or count < 3:
        return mean, error, 0.0
    skewness = count / ((count - 1) * (count - 2)) * float((((values - mean) / (error * np.sqrt(count))) ** 3).sum())
    return mean, error, (1 + _SKEWNESS / count) * skewness / (3 * np.sqrt(count))


def _one_sided_p(distances: np.ndarray) -> float:
    """Return the p-value of a mean above zero: the larger of Student's and that adjusted for skewness."""
    from scipy import special

    mean, error, bend = _moments(distances)
    if error == 0:
        return float(mean <= 0)
    t = mean / error
    adjusted = t + bend * t**2 + bend**2 * t**3 / 3 + bend / 2
    return float(special.stdtr(len(distances) - 1, -min(t, adjusted)))


def boundary(
    differences: np.ndarray, plan: LookPlan, *, alpha: float, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[float | None, ...]:
    """Compute the smallest absolute mean difference that would be claimed at each look reached.

    Args:
        differences: ``[P]`` in the order of the plan.
        plan: The looks.
        alpha: Level of the test, such as that of the arm's step in Holm's correction.
        rng: Random generator of the signs, as for :func:`sequential_p`.
        draws: Number of sign vectors drawn.

    Returns:
        One value per look in the metric's unit; None where no sign vector that is alive would be rejected.
    """
    values = _checked(differences)
    cuts, fresh = _cuts(values, plan, np.array([alpha]), two_sided=True, rng=rng, draws=draws)
    return tuple(
        float(cut) / pairs if alive else None
        for cut, alive, pairs in zip(cuts[:, 0], fresh[:, 0], plan.pairs, strict=False)
    )


def chance_of_decision(
    differences: np.ndarray,
    plan: LookPlan,
    *,
    margin: float,
    alpha: float,
    comparisons: int = 1,
    rng: np.random.Generator,
    futures: int = 1000,
) -> float:
    """Estimate the probability that an undecided arm is decided at one of the looks to come.

    Futures are drawn from the predictive distribution of Gaussian pairs with unknown mean and deviation, and judged by
    t tests at the nominal levels of the plan. No error rate depends on it: a study may go on in spite of it.

    Args:
        differences: ``[P]``, at least two.
        plan: The looks.
        margin: Smallest difference worth having, in the metric's unit.
        alpha: Level of the study.
        comparisons: Number of arms that share alpha for claims of a difference.
        rng: Random generator of the futures.
        futures: Number of futures drawn.

    Returns:
        The probability; 0 after the last look.
    """
    from scipy import special

    values = _checked(differences)
    done, count = plan.reached(len(values)), len(values)
    if done == len(plan.pairs):
        return 0.0
    deviation = values.std(ddof=1) * np.sqrt((count - 1) / rng.chisquare(count - 1, size=futures))
    means = values.mean() + deviation * rng.standard_normal(futures) / np.sqrt(count)
    future = means[:, None] + deviation[:, None] * rng.standard_normal((futures, plan.pairs[-1] - count))
    decided = np.zeros(futures, dtype=bool)
    differs, equal = nominal_levels(plan, alpha / comparisons), nominal_levels(plan, alpha, two_sided=False)
    for look in range(done, len(plan.pairs)):
        pairs = plan.pairs[look]
        path = np.concatenate([np.broadcast_to(values, (futures, count)), future[:, : pairs - count]], axis=1)
        error = path.std(axis=1, ddof=1) / np.sqrt(pairs)
        mean = np.abs(path.mean(axis=1))
        decided |= mean > special.stdtrit(pairs - 1, 1 - differs[look] / 2) * error
        decided |= margin - mean > special.stdtrit(pairs - 1, 1 - equal[look]) * error
    return float(decided.mean())


def conditional_level(
    differences: np.ndarray,
    plan: LookPlan,
    *,
    seen: int,
    alpha: float,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> float:
    """Compute the probability, given the first pairs, that the planned test would still have rejected by chance.

    It is the share of the sign vectors that keep the signs of the first ``seen`` pairs and are rejected at a later
    look of the plan: the level at which any other test of the signs of the later pairs may be made instead.

    Args:
        differences: ``[P]`` up to the plan's maximum at least; only the sizes of those after ``seen`` are used.
        plan: The looks that were planned.
        seen: Number of pairs at the look after which the plan was changed.
        alpha: Level of the planned test.
        rng: Random generator of the signs, made from the same seed as for the planned test.
        draws: Number of sign vectors drawn.

    Returns:
        The level; 1 if the planned test had rejected by then.

    Raises:
        ValueError: If ``seen`` is not a look before the maximum, or pairs up to the maximum are missing.
    """
    return float(_conditional(_checked(differences), plan, np.array([alpha]), seen=seen, rng=rng, draws=draws)[0])


def continued_p(
    differences: np.ndarray,
    plan: LookPlan,
    continuation: LookPlan,
    *,
    seen: int,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> tuple[float, ...]:
    """Compute the p-value of a study whose plan was changed after a look, at each look of the continuation reached.

    The p-value is the smallest level such that at this and every higher level, the group-sequential sign-flip test of
    the pairs after ``seen``, which leaves the signs of the earlier ones alone, rejects at the conditional level.

    Args:
        differences: ``[P]`` in the order of the plan.
        plan: The looks that were planned first.
        continuation: The looks that follow, the first at the maximum of ``plan`` or later.
        seen: Number of pairs at the look after which the plan was changed.
        rng: Random generator of the signs, as for :func:`sequential_p`.
        draws: Number of sign vectors drawn.

    Raises:
        ValueError: As for :func:`conditional_level`, or if the continuation looks before the maximum of the plan.

    References:
        Koning and van Meer (2025). Anytime validity is free: inducing sequential tests. arXiv:2501.03982.
    """
    values = _checked(differences)
    if continuation.pairs[0] < plan.pairs[-1]:
        raise ValueError(
            f"a continuation must look first at the planned maximum of {plan.pairs[-1]} pairs or later, since the "
            f"level that is left depends on them; got {continuation.pairs}"
        )
    given = _conditional(values, plan, LEVELS, seen=seen, rng=rng, draws=draws)
    cuts, _ = _cuts(values, continuation, LEVELS, two_sided=True, rng=rng.spawn(1)[0], draws=draws, seen=seen)
    p = _p_values(np.abs(_sums(values, continuation)), cuts, LEVELS)
    # All higher levels must reject, too; the level left is 1 where the planned test had rejected.
    lowest = np.searchsorted(np.minimum.accumulate(given[::-1])[::-1], p)
    return tuple(np.append(LEVELS, 1.0)[lowest].tolist())


def _cuts(
    values: np.ndarray,
    plan: LookPlan,
    levels: np.ndarray,
    *,
    two_sided: bool,
    rng: np.random.Generator,
    draws: int,
    seen: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the critical values at the looks reached and whether a vector alive reaches them, ``[K, L]``."""
    looks, spent = plan.pairs[: plan.reached(len(values))], spending(plan, levels, two_sided=two_sided)
    kept = float(values[:seen].sum())
    return critical_values(
        np.abs(values), looks, spent, two_sided=two_sided, rng=rng, draws=draws, kept=kept, seen=seen
    )


def _conditional(
    values: np.ndarray, plan: LookPlan, levels: np.ndarray, *, seen: int, rng: np.random.Generator, draws: int
) -> np.ndarray:
    """Return the conditional level for each level of the plan, ``[L]``.

    Raises:
        ValueError: As for :func:`conditional_level`.
    """
    if seen not in plan.pairs[:-1]:
        raise ValueError(f"the plan must have been changed after one of its looks at {plan.pairs[:-1]}, got {seen}")
    if len(values) < plan.pairs[-1]:
        raise ValueError(f"the conditional level needs all {plan.pairs[-1]} planned pairs, got {len(values)}")
    sizes = np.abs(values[: plan.pairs[-1]])
    cuts, _ = _cuts(sizes, plan, levels, two_sided=True, rng=rng, draws=draws)
    past = np.array([len(levels)])
    for total, cut in zip(np.abs(_sums(values[:seen], plan)), cuts, strict=False):
        past = lowest_level(np.array([total]), cut, past)
    following = plan.pairs[-1] - seen
    if 2**following <= draws + 1:
        signs = 1.0 - 2.0 * ((np.arange(2**following)[:, None] >> np.arange(following)) & 1)
    else:
        signs = 2.0 * rng.spawn(1)[0].integers(2, size=(draws, following), dtype=np.int8) - 1
    total, lowest, start = np.full(len(signs), values[:seen].sum()), np.repeat(past, len(signs)), seen
    for look in range(plan.reached(seen), len(plan.pairs)):
        count = plan.pairs[look]
        total = total + signs[:, start - seen : count - seen] @ sizes[start:count]
        lowest, start = lowest_level(np.abs(total), cuts[look], lowest), count
    return rejected(lowest, len(levels)) / len(signs)


def _p_values(statistics: np.ndarray, cuts: np.ndarray, levels: np.ndarray) -> tuple[float, ...]:
    """Return the p-value at each look from its statistic ``[K]`` and critical values ``[K, L]``."""
    lowest, found = np.array([len(levels)]), []
    for statistic, cut in zip(statistics, cuts, strict=True):
        lowest = lowest_level(np.array([statistic]), cut, lowest)
        found.append(float(np.append(levels, 1.0)[lowest[0]]))
    return tuple(found)


def _parts(differences: np.ndarray, plan: LookPlan) -> list[np.ndarray]:
    """Return the differences up to each look reached."""
    return [differences[:pairs] for pairs in plan.pairs[: plan.reached(len(differences))]]


def _sums(differences: np.ndarray, plan: LookPlan) -> np.ndarray:
    return np.array([part.sum() for part in _parts(differences, plan)])


def _checked(differences: np.ndarray) -> np.ndarray:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"expected finite paired differences [pairs], got {values.tolist()}")
    return values
