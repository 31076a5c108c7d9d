"""The statistics against hand-computed values, scipy as a peer, and what they must refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from normscope.results.statistics import (
    bca_interval,
    equivalence,
    holm,
    paired_differences,
    probability_of_improvement,
    sign_flip_p,
    t_interval,
)

# Two float64 routes to one number of order one: a few dozen roundings apart.
FLOAT64 = 1e-12


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_pairs_are_matched_by_seed_not_by_position():
    differences = paired_differences([(3, 30.0), (1, 11.0), (2, 22.0)], [(1, 10.0), (2, 20.0), (3, 25.0)])
    assert differences.tolist() == [1.0, 2.0, 5.0]


def test_a_seed_without_partner_is_named():
    with pytest.raises(ValueError, match=r"need the same seeds, \[2, 7\] occur on one side only"):
        paired_differences([(1, 0.0), (2, 0.0)], [(1, 0.0), (7, 0.0)])


@pytest.mark.parametrize("side", [0, 1])
def test_a_seed_given_twice_is_named(side):
    sides = [[(1, 0.0), (2, 0.0)], [(1, 0.0), (2, 0.0)]]
    sides[side].append((2, 0.5))
    with pytest.raises(ValueError, match=rf"{('the arm', 'the baseline')[side]} has \[2\] more than once"):
        paired_differences(*sides)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=r"the baseline has others for seeds \[4\]"):
        paired_differences([(4, 1.0)], [(4, value)])


def test_t_interval_is_scipys():
    differences = generator().normal(0.3, 2.0, size=7)
    wanted = stats.ttest_1samp(differences, 0.0).confidence_interval(0.9)
    assert t_interval(differences, level=0.9) == pytest.approx((wanted.low, wanted.high), rel=FLOAT64)


def test_t_interval_of_a_hand_case():
    # Mean 2, sd 1, standard error 1/sqrt(3); t(2 degrees of freedom, 0.975) = 4.302653 in every table.
    low, high = t_interval(np.array([1.0, 2.0, 3.0]), level=0.95)
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)


def test_shared_noise_cancels():
    rng = generator()
    noise, gain = rng.normal(0, 100.0, size=10), rng.normal(1.0, 0.1, size=10)
    paired = paired_differences(enumerate(noise + gain), enumerate(noise))
    low, high = t_interval(paired, level=0.95)
    wanted = stats.ttest_rel(noise + gain, noise).confidence_interval(0.95)
    # Subtracting 100 from 101 leaves 14 of 16 digits.
    assert (low, high) == pytest.approx((wanted.low, wanted.high), rel=1e-9)
    assert 0.5 < low < high < 1.5
    unpaired = stats.ttest_ind(noise + gain, generator(1).permutation(noise)).confidence_interval(0.95)
    assert unpaired.high - unpaired.low > 100 * (high - low)


@pytest.mark.parametrize("size", [5, 10, 40])
def test_bca_agrees_with_scipy(size):
    differences = generator(size).exponential(size=size)
    ours = bca_interval(differences, level=0.95, rng=generator(1), resamples=50_000)
    peer = stats.bootstrap(
        (differences,), np.mean, confidence_level=0.95, method="BCa", n_resamples=50_000, rng=generator(2)
    ).confidence_interval
    # A quantile of 50,000 draws near 2.5 % has a standard error of about 0.0007 / density; density is 0.05 per sd here.
    assert ours == pytest.approx((peer.low, peer.high), abs=0.06 * differences.std() / size**0.5)


def test_bca_leans_towards_the_long_tail():
    differences = np.array([0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 3.0])
    low, high = bca_interval(differences, level=0.95, rng=generator())
    assert high - differences.mean() > 1.5 * (differences.mean() - low)


def test_the_same_generator_gives_the_same_interval():
    differences = generator().normal(size=10)
    first, again, other = (bca_interval(differences, level=0.95, rng=generator(seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("value", [0.0, -0.25, 0.97 - 0.96])
@pytest.mark.parametrize("pairs", [2, 7])
def test_equal_differences_give_a_point_everywhere(value, pairs):
    differences = np.full(pairs, value)
    point = pytest.approx((value, value), abs=1e-15)
    assert t_interval(differences, level=0.95) == point
    assert bca_interval(differences, level=0.95, rng=generator()) == point
    assert equivalence(differences, margin=1.0, alpha=0.05).p == 0.0
    assert equivalence(differences, margin=abs(value) / 2, alpha=0.05).p == 1.0


def test_differences_equal_but_for_rounding_give_a_point():
    differences = paired_differences([(0, 0.3), (1, 1.3), (2, 7.3)], [(0, 0.2), (1, 1.2), (2, 7.2)])
    assert len(set(differences.tolist())) > 1
    low, high = bca_interval(differences, level=0.95, rng=generator())
    # 7.3 - 7.2 keeps 14 digits.
    assert low == high == pytest.approx(0.1, abs=1e-14)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12))
def test_no_statistic_of_discrete_differences_is_nan(counts):
    differences = np.array(counts) / 100
    numbers = [*t_interval(differences, level=0.95), *bca_interval(differences, level=0.95, rng=generator())]
    numbers += [sign_flip_p(differences, rng=generator()), equivalence(differences, margin=0.01, alpha=0.05).p]
    assert np.isfinite(numbers).all()
    assert numbers[2] <= numbers[3]


@pytest.mark.parametrize(("pairs", "wanted"), [(1, 1.0), (3, 2 / 8), (5, 2 / 32), (6, 2 / 64), (10, 2 / 1024)])
@pytest.mark.parametrize("sign", [1, -1])
def test_sign_flip_of_differences_on_one_side(pairs, wanted, sign):
    assert sign_flip_p(sign * (1.0 + np.arange(pairs)), rng=generator()) == wanted


def test_sign_flip_of_a_hand_case():
    # |±1 ±2 ±3| >= 4 for the observed 3 + 2 - 1: {6, 4} and their opposites, 4 of 8.
    assert sign_flip_p(np.array([-1.0, 2.0, 3.0]), rng=generator()) == 4 / 8


def test_sign_flip_counts_ties_in_spite_of_rounding():
    # 0.1 + 0.2 - 0.3 is not 0 in floating point, and 0.3 - 0.1 is not 0.2: by hand in tenths, |±1 ±2 ±3| >= 0 always.
    assert sign_flip_p(np.array([0.1, 0.2, -0.3]), rng=generator()) == 1.0
    tenths = np.array([3, -1, 2, 2, 1, -1, 3])
    exact = sign_flip_p(tenths.astype(float), rng=generator())
    assert sign_flip_p(tenths / 10, rng=generator()) == exact
    assert sign_flip_p((0.9 + tenths / 10).astype(np.float32) - np.float32(0.9), rng=generator()) == exact


def test_sign_flip_of_zeros_is_one():
    assert sign_flip_p(np.zeros(8), rng=generator()) == 1.0


@pytest.mark.parametrize("pairs", [4, 9])
@pytest.mark.parametrize("seed", range(3))
def test_sign_flip_agrees_with_scipy(pairs, seed):
    differences = generator(seed).normal(0.4, 1.0, size=pairs)
    peer = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(differences, rng=generator()) == pytest.approx(peer.pvalue, rel=FLOAT64)


def test_sign_flip_beyond_the_exact_range_is_close_and_never_zero():
    differences = generator().normal(0.3, 1.0, size=17)
    signs = 1 - 2 * ((np.arange(2**17)[:, None] >> np.arange(17)) & 1)
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) * (1 - 1e-12))
    # Five standard errors of a share of 65,535 draws.
    bound = 5 * (exact * (1 - exact) / 65_535) ** 0.5
    assert sign_flip_p(differences, rng=generator(3)) == pytest.approx(exact, abs=bound)
    assert sign_flip_p(differences, rng=generator(3)) == sign_flip_p(differences, rng=generator(3))
    assert sign_flip_p(np.ones(40), rng=generator()) == 1 / 2**16


def test_holm_of_a_known_example():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 raised to its predecessor: the example of every textbook.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stops_at_one_and_counts_what_has_no_p():
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.01, None, 0.04]) == pytest.approx([0.03, None, 0.08])
    assert holm([None]) == [None]
    assert holm([]) == []


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r"within 0 and 1, got \[nan\]"):
        holm([0.5, float("nan")])


def test_equivalence_of_a_hand_case():
    # Mean 1, sd 1, n 4: standard error 1/2. The margin 3 leaves (3 - 1) / 0.5 = 4 on the near side.
    differences = np.array([0.0, 1.0, 1.0, 2.0]) * (3 / 2) ** 0.5
    differences += 1.0 - differences.mean()
    result = equivalence(differences, margin=3.0, alpha=0.05)
    assert result.p == pytest.approx(stats.t.sf(4.0, 3), rel=FLOAT64)
    # t(3, 0.95) = 2.353363.
    assert result.interval == pytest.approx((1 - 2.353363 / 2, 1 + 2.353363 / 2), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_equivalence_is_two_one_sided_tests_of_scipy(seed):
    differences = generator(seed).normal(0.2, 1.0, size=8)
    upper = stats.ttest_1samp(differences, 0.9, alternative="less").pvalue
    lower = stats.ttest_1samp(differences, -0.9, alternative="greater").pvalue
    result = equivalence(differences, margin=0.9, alpha=0.05)
    assert result.p == pytest.approx(max(upper, lower), rel=FLOAT64)
    assert (result.p < 0.05) == (result.interval[0] > -0.9 and result.interval[1] < 0.9)


def test_equivalence_refuses_a_negative_margin():
    with pytest.raises(ValueError, match="margin must be zero or more, got -1"):
        equivalence(np.array([0.0, 1.0]), margin=-1.0, alpha=0.05)


def test_probability_of_improvement_counts_draws_half():
    differences = np.array([0.5, -0.5, 0.0, 0.2])
    assert probability_of_improvement(differences, higher_is_better=True) == (2 + 0.5) / 4
    assert probability_of_improvement(differences, higher_is_better=False) == (1 + 0.5) / 4


STATISTICS = {
    "t": lambda d: t_interval(d, level=0.95),
    "bca": lambda d: bca_interval(d, level=0.95, rng=generator()),
    "sign flip": lambda d: sign_flip_p(d, rng=generator()),
    "equivalence": lambda d: equivalence(d, margin=1.0, alpha=0.05),
    "improvement": lambda d: probability_of_improvement(d, higher_is_better=True),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_every_statistic_refuses_nan_and_nothing(name):
    with pytest.raises(ValueError, match=r"differences must be finite, got \[nan\]"):
        STATISTICS[name](np.array([0.5, np.nan, 0.1]))
    with pytest.raises(ValueError, match=r"at least \d paired differences \[pairs\], got shape \[0\]"):
        STATISTICS[name](np.array([]))


def test_a_level_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 95"):
        t_interval(np.array([0.0, 1.0]), level=95)
