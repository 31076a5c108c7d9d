"""Intervals from signed ranks, against scipy's exact test, signs written out, and the walks of planned looks."""

import itertools

import numpy as np
import pytest
from scipy import stats

from normscope.results.look_plan import LookPlan, nominal_levels
from normscope.results.targets.ranks import hodges_lehmann, left_out, signed_rank_interval


@pytest.mark.parametrize("count", [1, 2, 5, 6, 8, 11])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.1, 0.5])
def test_what_is_left_out_is_what_all_signs_allow(count, level):
    signs = np.array(list(itertools.product((0, 1), repeat=count)))
    sums = signs @ np.arange(1, count + 1)
    left = left_out(count, level)
    assert left < 0 or 2 * (sums <= left).mean() <= level
    assert 2 * (sums <= left + 1).mean() > level or 2 * (left + 2) > count * (count + 1) / 2


@pytest.mark.parametrize("count", [6, 9, 16, 30])
def test_the_interval_has_the_values_that_scipys_exact_test_does_not_reject(count, rng):
    values = rng.normal(size=count) + 0.5
    low, high = signed_rank_interval(values, values, left_out(count, 0.05))
    for end, outwards in ((low, -1e-9), (high, 1e-9)):
        inside, outside = (stats.wilcoxon(values - end + side, method="exact").pvalue for side in (outwards, -outwards))
        assert outside <= 0.05 < inside
    (middle, same) = hodges_lehmann(values, values)
    assert middle == same == np.median([(a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2)])


def test_the_textbook_table():
    """Quantiles of Hollander and Wolfe, table A.4: two-sided levels of 5 % leave out 3, 8, 25, 52 averages."""
    assert [left_out(count, 0.05) for count in (5, 6, 8, 10, 15, 20)] == [-1, 0, 3, 8, 25, 52]


def test_bounds_move_each_end_only_outwards(rng):
    values = rng.normal(size=12)
    low, high = values - rng.exponential(size=12), values + rng.exponential(size=12)
    low[2], high[5] = -np.inf, np.inf
    for left in (0, 3, 13, 20, 30):
        widest = signed_rank_interval(low, high, left)
        for _ in range(30):
            inside = np.clip(values + rng.normal(size=12), low, high)
            one = signed_rank_interval(inside, inside, left)
            assert widest[0] <= one[0] <= one[1] <= widest[1]
            middle = hodges_lehmann(inside, inside)[0]
            assert hodges_lehmann(low, high)[0] <= middle <= hodges_lehmann(low, high)[1]


def test_ends_without_a_bound():
    assert signed_rank_interval([0.0, 1.0], [0.0, 1.0], -1) == (-np.inf, np.inf)
    assert signed_rank_interval([1, 2, 3], [1, 2, np.inf], 0) == (1, np.inf)
    # Averages with an infinite value: three of six.
    assert signed_rank_interval([1, 2, -np.inf], [1, 2, 3], 3) == (1, 2)
    assert hodges_lehmann([1, 2, -np.inf, -np.inf], [1, 2, 3, 4]) == (-np.inf, 2.5)
    with pytest.raises(ValueError, match=r"a lower and an upper bound, got \[1\.0\] and \[0\.5\]"):
        signed_rank_interval([1.0], [0.5], 0)


@pytest.mark.parametrize("spending", ["pocock", "kim_demets", "obrien_fleming"])
def test_all_intervals_of_a_plan_cover_together(spending, rng):
    """Signs and ranks do not depend on the distribution, so that one simulation is about all symmetric ones."""
    plan, missed = LookPlan((8, 12, 16, 20), spending), np.zeros(20_000, dtype=bool)
    values = rng.normal(size=(len(missed), 20))
    for pairs, level in zip(plan.pairs, nominal_levels(plan, 0.05), strict=True):
        ranks = np.abs(values[:, :pairs]).argsort(axis=1).argsort(axis=1) + 1
        sums = (ranks * (values[:, :pairs] > 0)).sum(axis=1)
        left = left_out(pairs, level)
        missed |= (sums <= left) | (sums >= pairs * (pairs + 1) // 2 - left)
    # Two standard errors of the simulation.
    assert 0.025 < missed.mean() < 0.05 + 0.003
