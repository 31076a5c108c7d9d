"""Intervals of a median, against binomial tails, scipy's, and walks written out."""

import itertools

import numpy as np
import pytest
from scipy import stats

from normscope.results.targets.medians import bounded_median, left_out, median_interval


@pytest.mark.parametrize("pairs", range(1, 41))
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_one_look_leaves_out_what_the_binomial_tail_allows(pairs, alpha):
    (count,) = left_out((pairs,), (alpha,))
    assert count < 0 or 2 * stats.binom.cdf(count, pairs, 0.5) <= alpha
    assert count >= (pairs - 1) // 2 or 2 * stats.binom.cdf(count + 1, pairs, 0.5) > alpha


@pytest.mark.parametrize("pairs", [6, 9, 16, 25])
def test_the_interval_is_that_of_scipy(pairs, rng):
    values = rng.normal(size=pairs)
    (count,) = left_out((pairs,), (0.05,))
    found = stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    assert median_interval(values, values, count) == pytest.approx((found.low, found.high), abs=0)


@pytest.mark.parametrize("looks", [(4, 8), (5, 7, 10), (6, 9, 12)])
def test_the_walks_that_leave_at_looks_are_those_that_can_be_counted(looks):
    spent = tuple(0.3 * pairs / looks[-1] for pairs in looks)
    counts, left = left_out(looks, spent), 0
    for signs in itertools.product((0, 1), repeat=looks[-1]):
        above = [sum(signs[:pairs]) for pairs in looks]
        left += any(min(at, pairs - at) <= count for at, pairs, count in zip(above, looks, counts, strict=True))
    assert left / 2 ** looks[-1] <= spent[-1]
    # One value more at any look would spend too much by then.
    for look in range(len(looks)):
        wider, left = [*counts[:look], counts[look] + 1], 0
        for signs in itertools.product((0, 1), repeat=looks[look]):
            above = [sum(signs[:pairs]) for pairs in looks]
            left += any(min(at, n - at) <= count for at, n, count in zip(above, looks, wider, strict=False))
        assert left / 2 ** looks[look] > spent[look]


def test_bounds_move_each_end_only_outwards(rng):
    values = rng.normal(size=12)
    low, high = values - rng.exponential(size=12), values + rng.exponential(size=12)
    low[2], high[5], low[7], high[7] = -np.inf, np.inf, -np.inf, np.inf
    for count in range(5):
        widest = median_interval(low, high, count)
        for _ in range(30):
            inside = np.clip(values + rng.normal(size=12), low, high)
            one = median_interval(inside, inside, count)
            assert widest[0] <= one[0] <= one[1] <= widest[1]
            middle = bounded_median(inside, inside)[0]
            assert bounded_median(low, high)[0] <= middle <= bounded_median(low, high)[1]


def test_ends_without_a_bound():
    assert median_interval([0.0, 1.0], [0.0, 1.0], -1) == (-np.inf, np.inf)
    assert median_interval([1, 2, 3, -np.inf, -np.inf], [1, 2, 3, 4, np.inf], 1) == (-np.inf, 4)
    assert bounded_median([1, 2, 3, 4], [1, 2, 3, np.inf]) == (2.5, 2.5)
    assert bounded_median([1, 2, -np.inf, -np.inf], [1, 2, 3, 3]) == (-np.inf, 2.5)
    with pytest.raises(ValueError, match=r"a lower and an upper bound, got \[1\.0\] and \[0\.5\]"):
        median_interval([1.0], [0.5], 0)
