r"""Planned looks at a growing number of pairs: tests, intervals and equivalence that hold at any of them; needs numpy.

A plan names the numbers of pairs at which the results are read. Its tests are sign-flip tests in which every sign
vector goes through the same looks as the observed one: at look :math:`k`, the vectors that were rejected at an earlier
look stay rejected, and the most extreme of the others are added while all rejected ones together are at most the share
:math:`a_k(\alpha)` of all vectors that the plan spends by then. Given the sizes of the differences, all sign vectors
are equally likely if the differences are symmetric about zero. So the probability of a rejection at or before look
:math:`k` is at most :math:`a_k(\alpha)`, whatever the distribution, and at most :math:`\alpha` over the whole study.

Every function reads the pairs in the order in which the plan counts them, and uses complete looks only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from normscope.results.statistics import Interval, tail

Spending = Literal["pocock", "obrien_fleming"]
"""Which share of alpha is spent early: much (Pocock), or little (O'Brien and Fleming)."""

DEFAULT_SPENDING: Spending = "pocock"
"""Spending of a study that goes on until it is decided."""

DEFAULT_LOOKS = (10, 15, 20, 25, 30)
"""Pairs at the looks of a study that goes on until it is decided."""

DRAWS = 2**15 - 1
"""Number of sign vectors drawn where there are too many to enumerate; the observed one is counted with them."""

# Levels at which the tests are made, ascending: 1 % apart below 0.2, where claims are.
_LEVELS = np.concatenate([0.2 * np.exp(-0.01 * np.arange(950))[::-1], np.geomspace(0.2, 1, 55)[1:]])

# Statistics closer than this share of the sum of sizes are ties: values that went through float32.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class LookPlan:
    """Numbers of pairs at which a study is read, and how alpha is spent over them."""

    pairs: tuple[int, ...]
    """Pairs at each look, ascending; the last is the maximum."""
    spending: Spending = DEFAULT_SPENDING
    """Spending function."""

    def __post_init__(self) -> None:
        pairs = self.pairs
        if len(pairs) < 2 or pairs[0] < 1 or any(after <= before for before, after in pairwise(pairs)):
            raise ValueError(f"looks must be at least two ascending numbers of pairs such as 10, 20, 30, got {pairs}")
        if self.spending not in ("pocock", "obrien_fleming"):
            raise ValueError(f"spending must be pocock or obrien_fleming, got {self.spending!r}")

    def spent(self, alpha: float, *, two_sided: bool = True) -> tuple[float, ...]:
        r"""Compute the part of alpha that is spent by the end of each look.

        .. math::
            f_k(\alpha) = \alpha \ln(1 + (e - 1)\, t_k) \quad\text{or}\quad
            f_k(\alpha) = 2 - 2 \Phi(z_{1-\alpha/2} / \sqrt{t_k})

        for Pocock's and O'Brien and Fleming's spending, with :math:`t_k` the pairs of the look over the maximum. A
        two-sided test spends :math:`f_k(\alpha / 2)` on either side.

        Raises:
            ValueError: If alpha is not between 0 and 1.

        References:
            Lan and DeMets (1983). Discrete sequential boundaries for clinical trials. Biometrika 70.
        """
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        return tuple(self._spent(np.array([alpha]), two_sided=two_sided)[:, 0].tolist())

    def reached(self, count: int) -> int:
        """Return the number of looks that this many pairs complete."""
        return sum(pairs <= count for pairs in self.pairs)

    def _spent(self, levels: np.ndarray, *, two_sided: bool) -> np.ndarray:
        """Return the spent alpha for each look and level, ``[K, L]``."""
        from scipy import special

        times = np.array(self.pairs)[:, None] / self.pairs[-1]
        if self.spending == "pocock":
            return levels * np.log1p((np.e - 1) * times)
        sides = 1 + two_sided
        return 2 * sides * special.ndtr(special.ndtri(levels / (2 * sides)) / np.sqrt(times))


def sequential_p(
    differences: np.ndarray, plan: LookPlan, *, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[float, ...]:
    r"""Compute the p-value of the group-sequential sign-flip test at each look reached.

    The p-value at look :math:`k` is the smallest level such that at this and every higher level, the two-sided test
    rejects at or before look :math:`k`. It never rises from look to look, and over all looks together

    .. math::
        P(\min_k p_k \le \alpha) \le \alpha

    if the differences are symmetric about zero. So each of several arms may stop at a look of its own: its p-value
    there is at least the one it would have reached at the maximum, Holm's correction rejects no more with larger
    p-values, and at the maximum it is valid for any dependence between the arms. Flips of all arms of a seed together
    would use their common baseline, and are not valid: :math:`(x_1 - x_0, x_2 - x_0)` is not symmetric about zero if
    :math:`x_0` is skewed, though each of the two is.

    Levels are tested on a grid of 1 %, so that a p-value is rounded up by at most as much. As long as the sign vectors
    of a look number at most ``draws`` + 1 (a vector and its opposite are one), they are enumerated. Beyond, ``draws``
    random ones are followed through the looks, and the observed one is counted with them.

    Args:
        differences: ``[P]`` in the order of the plan; pairs after the last complete look are ignored.
        plan: The looks.
        rng: Random generator of the signs; one made anew from the same seed gives an earlier look the same p-value
            when later pairs have come.
        draws: Number of sign vectors drawn; one less than a power of two.

    Returns:
        One p-value per look reached.

    Raises:
        ValueError: If a difference is not finite.
    """
    cuts = _cuts(np.abs(_checked(differences)), plan, _LEVELS, two_sided=True, rng=rng, draws=draws).observed
    return tuple(_p(np.abs(_sums(differences, plan)), cuts).tolist())


def sequential_equivalence_p(
    differences: np.ndarray, plan: LookPlan, *, margin: float, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[float, ...]:
    """Compute the p-value of equivalence at each look reached: two one-sided group-sequential sign-flip tests.

    One test has the null hypothesis that differences plus margin are symmetric about zero or below, the other that
    margin minus differences are. The p-value is the larger of the two, and never rises from look to look.

    Args:
        differences: ``[P]`` in the order of the plan; pairs after the last complete look are ignored.
        plan: The looks; each of the two tests spends alpha over them.
        margin: Smallest difference worth having, in the metric's unit.
        rng: Random generator of the signs, as for :func:`sequential_p`.
        draws: Number of sign vectors drawn.

    Raises:
        ValueError: If the margin is negative or a difference is not finite.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be zero or more, got {margin}")
    values = _checked(differences)
    both = []
    for side, generator in zip((values + margin, margin - values), rng.spawn(2), strict=True):
        cuts = _cuts(np.abs(side), plan, _LEVELS, two_sided=False, rng=generator, draws=draws).observed
        both.append(_p(_sums(side, plan), cuts))
    return tuple(np.maximum(*both).tolist())


def repeated_interval(differences: np.ndarray, plan: LookPlan, *, level: float) -> tuple[Interval, ...]:
    """Compute an interval of the mean difference at each look reached, all of which cover it together at ``level``.

    It is Student's t interval at the nominal level that the plan gives the look, see :func:`nominal_levels`.
    """
    from normscope.results.statistics import t_interval

    values = _checked(differences)
    nominal = nominal_levels(plan, 2 * tail(level))
    return tuple(
        t_interval(values[:pairs], level=1 - nominal[look])
        for look, pairs in enumerate(plan.pairs[: plan.reached(len(values))])
    )


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
    cuts = _cuts(np.abs(values), plan, np.array([alpha]), two_sided=True, rng=rng, draws=draws)
    return tuple(
        float(cut) / pairs if np.isfinite(cut) else None
        for cut, pairs in zip(cuts.drawn[:, 0], plan.pairs, strict=False)
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
        rng: Random generator of the signs.
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
    first, second, third = rng.spawn(3)
    if continuation.reached(len(values)) == 0:
        return ()
    given = _conditional(values, plan, _LEVELS, seen=seen, rng=first, draws=draws)
    sizes, kept = np.abs(values), float(values[:seen].sum())
    cuts = _cuts(sizes, continuation, _LEVELS, two_sided=True, rng=second, draws=draws, kept=kept, seen=seen)
    p = _p(np.abs(_sums(values, continuation)), cuts.observed)
    before = sequential_p(values[:seen], plan, rng=third, draws=draws)[-1]
    below = np.searchsorted(np.maximum.accumulate(given), p)
    return tuple(min(before, float(_LEVELS[index]) if index < len(_LEVELS) else 1.0) for index in below)


@lru_cache(maxsize=256)
def nominal_levels(plan: LookPlan, alpha: float, *, two_sided: bool = True) -> tuple[float, ...]:
    r"""Compute the level of each look's test if the means were Gaussian with known variance.

    The boundaries :math:`c_k` solve :math:`P(|Z_1| < c_1, \dots, |Z_{k-1}| < c_{k-1}, |Z_k| \ge c_k) = a_k - a_{k-1}`
    by integration over the values at the look before, and the levels are :math:`2 - 2 \Phi(c_k)`; one-sided likewise.

    References:
        Armitage, McPherson and Rowe (1969). Repeated significance tests on accumulating data. JRSS A 132.
    """
    from scipy import optimize, special

    times = np.array(plan.pairs) / plan.pairs[-1]
    spent = np.diff([0.0, *plan.spent(alpha, two_sided=two_sided)])
    nodes, weights = np.polynomial.legendre.leggauss(256)
    at, mass, time, levels = np.zeros(1), np.ones(1), 0.0, []
    for now, spend in zip(times, spent, strict=True):
        step, root = np.sqrt(now - time), np.sqrt(now)

        def beyond(cut: float, at=at, mass=mass, step=step, scale=root) -> float:
            out = special.ndtr((at - cut * scale) / step)
            return float(mass @ (out + special.ndtr((-at - cut * scale) / step) if two_sided else out))

        cut = optimize.brentq(lambda value, spend=spend, beyond=beyond: beyond(value) - spend, -10, 40, xtol=1e-12)
        levels.append(float((1 + two_sided) * special.ndtr(-cut)))
        high = cut * root
        low = -high if two_sided else -9 * root
        to = low + (high - low) * (nodes + 1) / 2
        density = np.exp(-(((to[:, None] - at) / step) ** 2) / 2) / (step * np.sqrt(2 * np.pi))
        mass, at, time = (density @ mass) * weights * (high - low) / 2, to, now
    return tuple(levels)


@dataclass(frozen=True, kw_only=True)
class _Cuts:
    """Critical values of a statistic for each look and level, ``[K, L]``; infinite where nothing is rejected."""

    observed: np.ndarray
    """For the observed vector, and for any other that is not among those drawn."""
    drawn: np.ndarray
    """The same, infinite as well where every vector beyond it was rejected before."""


def _cuts(
    sizes: np.ndarray,
    plan: LookPlan,
    levels: np.ndarray,
    *,
    two_sided: bool,
    rng: np.random.Generator,
    draws: int,
    kept: float = 0.0,
    seen: int = 0,
) -> _Cuts:
    """Compute the critical values at the looks reached; the first ``seen`` pairs keep their sum ``kept``."""
    pairs = plan.pairs[: plan.reached(len(sizes))]
    spent, tolerance = plan._spent(levels, two_sided=two_sided), _ROUNDING * sizes.sum()
    halved = two_sided and not seen
    exact = int(np.log2(draws + 1)) + seen + halved
    observed, drawn = np.full((2, len(pairs), len(levels)), np.inf)
    total, first_of, used, position = np.full(1, kept), np.full(1, len(levels)), np.zeros(len(levels)), seen
    following = False
    for look, count in enumerate(pairs):
        if count <= exact:
            for size in sizes[position:count]:
                halve = halved and position == 0
                total = total + size if halve else np.concatenate([total + size, total - size])
                first_of = first_of if halve else np.tile(first_of, 2)
                position += 1
        else:
            for earlier in range(look if following else 0, look + 1):
                start = max(seen, pairs[earlier - 1]) if earlier else seen
                signs = 2.0 * rng.integers(2, size=(draws, pairs[earlier] - start), dtype=np.int8) - 1
                if earlier == 0:
                    total, first_of = np.full(draws, kept), np.full(draws, len(levels))
                total = total + signs @ sizes[start : pairs[earlier]]
                if earlier < look:
                    statistic = np.abs(total) if two_sided else total
                    first_of = np.minimum(first_of, np.searchsorted(-observed[earlier], -statistic))
            following = True
        statistic = np.abs(total) if two_sided else total
        size = len(total) + following
        allowed = np.maximum(np.floor((spent[look] - used) * size + 1e-9), 0).astype(int)
        before = _count(first_of, len(levels))
        observed[look], fresh, first_of = _reject(statistic, first_of, before, allowed, tolerance, counted=following)
        drawn[look] = np.where(fresh, observed[look], np.inf)
        used = used + (_count(first_of, len(levels)) - before) / size
        if not following and count <= exact:
            used = _count(first_of, len(levels)) / size
    return _Cuts(observed=observed, drawn=drawn)


def _reject(
    statistic: np.ndarray,
    first_of: np.ndarray,
    before: np.ndarray,
    allowed: np.ndarray,
    tolerance: float,
    *,
    counted: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reject the most extreme vectors alive at each level, as many as allowed, ties together.

    Args:
        statistic: ``[N]``.
        first_of: Smallest level, as an index, at which each vector is rejected so far, ``[N]``.
        before: Number of vectors rejected so far at each level, ``[L]``.
        allowed: Number of vectors that may be added at each level, ``[L]``.
        tolerance: Largest difference within a tie.
        counted: Whether the observed vector is not among them and counts as one more.

    Returns:
        Critical values for the observed vector, whether any vector alive reaches them, and the new ``first_of``.
    """
    order = np.argsort(-statistic, kind="stable")
    ranked, first = statistic[order], first_of[order]
    ends = np.flatnonzero(np.concatenate([[True], ranked[:-1] - ranked[1:] > tolerance, [True]]))
    cut_at, others_at = np.zeros((2, len(allowed)), dtype=int)
    fresh = np.zeros(len(allowed), dtype=bool)
    for level, (room, gone) in enumerate(zip(allowed.tolist(), before.tolist(), strict=True)):
        if room == 0:
            continue
        alive = np.flatnonzero(first[: room + gone + 1] > level)
        others_at[level] = alive[room] if len(alive) > room else len(ranked)
        cut_at[level] = others_at[level] if not counted else alive[room - 1] if len(alive) >= room else len(ranked)
        fresh[level] = len(alive) > 0 and alive[0] < cut_at[level]
    ranks = []
    for rank in (cut_at, others_at):
        whole = ends[np.searchsorted(ends, rank, side="right") - 1]
        # What a level rejects, every higher one does, too.
        ranks.append(np.minimum.accumulate(whole[::-1])[::-1])
    cut_at, others_at = ranks
    cuts = np.where(cut_at > 0, ranked[np.maximum(cut_at, 1) - 1] - tolerance / 2, np.inf)
    after = np.empty_like(first_of)
    after[order] = np.minimum(first, np.searchsorted(others_at, np.arange(len(ranked)), side="right"))
    return cuts, fresh & (cut_at > 0), after


def _count(first_of: np.ndarray, levels: int) -> np.ndarray:
    return np.cumsum(np.bincount(first_of, minlength=levels + 1)[:levels])


def _conditional(
    values: np.ndarray, plan: LookPlan, levels: np.ndarray, *, seen: int, rng: np.random.Generator, draws: int
) -> np.ndarray:
    """Return the conditional level for each level of the plan, ``[L]``."""
    if seen not in plan.pairs[:-1]:
        raise ValueError(f"the plan must have been changed after one of its looks at {plan.pairs[:-1]}, got {seen}")
    if len(values) < plan.pairs[-1]:
        raise ValueError(f"the conditional level needs all {plan.pairs[-1]} planned pairs, got {len(values)}")
    first, second = rng.spawn(2)
    sizes = np.abs(values[: plan.pairs[-1]])
    cuts = _cuts(sizes, plan, levels, two_sided=True, rng=first, draws=draws).observed
    done = plan.reached(seen)
    past = _first(np.abs(_sums(values[:seen], plan)), cuts[:done]).min()
    following = plan.pairs[-1] - seen
    if 2**following <= draws + 1:
        signs = 1.0 - 2.0 * ((np.arange(2**following)[:, None] >> np.arange(following)) & 1)
    else:
        signs = 2.0 * second.integers(2, size=(draws, following), dtype=np.int8) - 1
    total, first_of, start = np.full(len(signs), values[:seen].sum()), np.full(len(signs), past), seen
    for look in range(done, len(plan.pairs)):
        count = plan.pairs[look]
        total = total + signs[:, start - seen : count - seen] @ sizes[start:count]
        first_of, start = np.minimum(first_of, _first(np.abs(total), cuts[look])), count
    return _count(first_of, len(levels)) / len(signs)


def _first(statistic: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the index of the smallest level that rejects: of each statistic, or of each look's."""
    if cuts.ndim == 1:
        return np.searchsorted(-cuts, -statistic)
    return np.array([np.searchsorted(-cut, -value) for cut, value in zip(cuts, statistic, strict=True)])


def _p(statistic: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the p-value at each look from its statistic ``[K]`` and critical values ``[K, L]``."""
    first = np.minimum.accumulate(_first(statistic, cuts)) if len(statistic) else np.zeros(0, dtype=int)
    return np.append(_LEVELS, 1.0)[first]


def _sums(differences: np.ndarray, plan: LookPlan) -> np.ndarray:
    """Return the sum of the differences at each look reached."""
    pairs = plan.pairs[: plan.reached(len(differences))]
    return np.cumsum(differences)[np.array(pairs, dtype=int) - 1]


def _checked(differences: np.ndarray | Sequence[float]) -> np.ndarray:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"expected finite paired differences [pairs], got {values.tolist()}")
    return values
