"""Tests at planned looks against a plain enumeration, published boundaries and the multivariate normal distribution."""

import itertools

import numpy as np
import pytest
from scipy import special, stats

from normscope.results.flips import critical_values, lowest_level
from normscope.results.look_plan import spending
from normscope.results.sequential import (
    DEFAULT_LOOKS,
    LookPlan,
    boundary,
    chance_of_decision,
    conditional_level,
    continued_p,
    nominal_levels,
    repeated_interval,
    sequential_equivalence_p,
    sequential_p,
)
from normscope.results.statistics import fewest_pairs, sign_flip_p, t_interval

LEVELS = np.array([0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 0.95])

KINDS = ["pocock", "obrien_fleming", "kim_demets"]


def seeded():
    return np.random.default_rng(7)


def enumerate_p(differences, plan, *, two_sided):
    """Return the p-value at each look by following every sign vector through sets, one level at a time."""
    vectors = list(itertools.product((1, -1), repeat=plan.pairs[-1]))
    rejected = [set() for _ in LEVELS]
    found = []
    for pairs, shares in zip(plan.pairs, spending(plan, LEVELS, two_sided=two_sided).tolist(), strict=True):
        sums = {each: sum(s * abs(d) for s, d in zip(each[:pairs], differences, strict=False)) for each in vectors}
        ranks = {each: round(abs(value) if two_sided else value, 9) for each, value in sums.items()}
        now = []
        for share, before in zip(shares, rejected, strict=True):
            held = set(before)
            for rank in sorted(set(ranks.values()), reverse=True):
                tied = {each for each in vectors if ranks[each] == rank} - held
                if len(held) + len(tied) > share * len(vectors) + 1e-9:
                    break
                held |= tied
            now.append(held)
        rejected = [set.intersection(*now[level:]) for level in range(len(LEVELS))]
        observed = tuple(1 if value >= 0 else -1 for value in differences)
        found.append(next((level for level, held in zip(LEVELS, rejected, strict=True) if observed in held), 1.0))
    return tuple(found)


def flips_p(differences, plan, *, two_sided):
    """Return the p-value at each look from the critical values."""
    sizes, spent = np.abs(differences), spending(plan, LEVELS, two_sided=two_sided)
    cuts, _ = critical_values(sizes, plan.pairs, spent, two_sided=two_sided, rng=seeded())
    lowest, found = np.array([len(LEVELS)]), []
    for pairs, cut in zip(plan.pairs, cuts, strict=True):
        total = differences[:pairs].sum(keepdims=True)
        lowest = lowest_level(np.abs(total) if two_sided else total, cut, lowest)
        found.append(float(np.append(LEVELS, 1.0)[lowest[0]]))
    return tuple(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", ["continuous", "tied"])
@pytest.mark.parametrize("two_sided", [True, False])
def test_p_values_equal_an_enumeration(kind, values, two_sided):
    rng = np.random.default_rng(len(kind) + 10 * two_sided)
    for _ in range(6):
        plan = LookPlan(tuple(sorted(rng.choice(np.arange(3, 8), size=3, replace=False).tolist())), kind)
        size = plan.pairs[-1]
        rows = rng.normal(size=size) + 0.7 if values == "continuous" else rng.integers(-1, 4, size=size) + 0.0
        expected = enumerate_p(rows, plan, two_sided=two_sided)
        assert flips_p(rows, plan, two_sided=two_sided) == expected
        if two_sided:
            assert sequential_p(rows, plan, rng=seeded(), levels=LEVELS, flips_only=True) == expected
            both = sequential_p(rows, plan, rng=seeded(), levels=LEVELS)
            assert all(p >= flips for p, flips in zip(both, expected, strict=True))


def test_a_two_sided_test_of_all_signs_has_the_level_it_spends():
    plan, sizes = LookPlan((5, 7, 9), "pocock"), np.random.default_rng(0).exponential(size=9)
    found = [
        sequential_p(sizes * np.array((1, *signs)), plan, rng=seeded(), levels=LEVELS, flips_only=True)
        for signs in itertools.product((1, -1), repeat=8)
    ]
    shares = (np.array(found)[:, :, None] <= LEVELS).mean(axis=0)
    spent = spending(plan, LEVELS, two_sided=True)
    assert (shares <= spent + 1e-12).all()
    # Of 256 vectors, one or two are left over at the last look.
    assert (shares[-1] >= spent[-1] - 2.01 / 256).all()


def test_drawn_signs_hold_the_level_and_agree_with_all_signs():
    plan, rng = LookPlan((10, 14, 18)), np.random.default_rng(3)
    rows = rng.normal(size=(12, 18)) + 0.4
    settings = {"levels": np.geomspace(1e-4, 1, 100), "flips_only": True}
    exact = np.array([sequential_p(row, plan, rng=seeded(), draws=2**17 - 1, **settings) for row in rows])
    drawn = np.array([sequential_p(row, plan, rng=seeded(), draws=2**12 - 1, **settings) for row in rows])
    np.testing.assert_allclose(drawn[:, 0], exact[:, 0])
    np.testing.assert_allclose(drawn, exact, rtol=0.3, atol=0.01)
    null = rng.exponential(size=(1000, 10)) - rng.exponential(size=(1000, 10))
    few = LookPlan((6, 10))
    # One of 16 vectors may be rejected at either look, or two.
    levels = np.array([0.126, 0.26])
    low = np.array([sequential_p(row, few, rng=rng, draws=15, levels=levels, flips_only=True)[-1] for row in null])
    for level in levels:
        # Three standard errors.
        assert (low <= level).mean() <= level + 3 * (level * (1 - level) / 1000) ** 0.5


def test_a_look_keeps_its_p_value_when_later_pairs_come():
    plan, rows = LookPlan((10, 14, 20, 26)), np.random.default_rng(5).normal(size=26) + 0.4
    complete = sequential_p(rows, plan, rng=seeded())
    assert list(complete) == sorted(complete, reverse=True)
    for count in (0, 9, 10, 13, 19, 20, 25):
        assert sequential_p(rows[:count], plan, rng=seeded()) == complete[: plan.reached(count)]
    # Nor do huge later pairs make ties of earlier sums.
    small = np.concatenate([rows[:14], 1e7 * rows[14:]])
    assert sequential_p(small, plan, rng=seeded())[:2] == complete[:2]
    equal = sequential_equivalence_p(rows, plan, margin=1.0, rng=seeded())
    assert sequential_equivalence_p(rows[:21], plan, margin=1.0, rng=seeded()) == equal[:3]


def test_the_p_value_ignores_the_unit_and_the_side():
    plan, rows = LookPlan((8, 12, 20)), np.random.default_rng(6).normal(size=20) + 0.4
    found = sequential_p(rows, plan, rng=seeded())
    assert sequential_p(-1000 * rows, plan, rng=seeded()) == found
    for seed in range(5):
        tenths = np.random.default_rng(seed).integers(-3, 6, size=8) / 10
        # The sum of tenths depends on their order in the last digit.
        assert sequential_p(tenths, plan, rng=seeded()) == sequential_p(np.round(10 * tenths), plan, rng=seeded())
    # Values that went through float32 are tied as before.
    counts = np.round(3 * rows)
    noisy = counts + 1e-7 * np.random.default_rng(0).normal(size=20)
    assert sequential_p(noisy, plan, rng=seeded()) == sequential_p(counts, plan, rng=seeded())


def test_the_first_look_spends_on_the_fixed_test():
    plan, rows = LookPlan((12, 20), "kim_demets"), np.random.default_rng(8).normal(size=12) + 1
    fixed = sign_flip_p(rows, rng=seeded())
    # The smallest level of which 0.6^1.25 is at least the p-value, to the 1 % of the grid.
    assert sequential_p(rows, plan, rng=seeded(), flips_only=True)[0] == pytest.approx(fixed / 0.6**1.25, rel=0.011)


def test_six_arms_can_be_claimed_at_the_first_default_look():
    plan, sure = LookPlan(DEFAULT_LOOKS), np.linspace(1, 2, DEFAULT_LOOKS[0])
    assert fewest_pairs(0.05 / 6) <= DEFAULT_LOOKS[0]
    assert 6 * sequential_p(sure, plan, rng=seeded())[0] < 0.05
    assert boundary(sure, plan, alpha=0.05 / 6, rng=seeded()) == (pytest.approx(sure.mean()),)
    # So are any others of one sign, however their sum was rounded.
    for rows in np.random.default_rng(0).exponential(size=(30, 10)):
        assert sequential_p(rows, plan, rng=seeded(), levels=LEVELS / 10, flips_only=True) == (0.01,)
    late = LookPlan(DEFAULT_LOOKS, "obrien_fleming")
    assert sequential_p(sure, late, rng=seeded())[0] > 0.05
    assert boundary(sure, late, alpha=0.05, rng=seeded()) == (None,)


def z_values(plan, alpha, *, two_sided):
    levels = np.array(nominal_levels(plan, alpha, two_sided=two_sided))
    return special.ndtri(1 - levels / (1 + two_sided))


@pytest.mark.parametrize(
    ("kind", "published"),
    # gsDesign(k = 5, test.type = 2, alpha = 0.025, sfu = sfLDOF or sfLDPocock).
    [("obrien_fleming", [4.877, 3.357, 2.680, 2.290, 2.031]), ("pocock", [2.438, 2.427, 2.410, 2.397, 2.386])],
)
def test_boundaries_are_those_of_r(kind, published):
    plan = LookPlan((10, 20, 30, 40, 50), kind)
    np.testing.assert_allclose(z_values(plan, 0.025, two_sided=False), published, atol=6e-4)
    np.testing.assert_allclose(z_values(plan, 0.05, two_sided=True), published, atol=6e-4)


def no_crossing(times, cuts, *, two_sided):
    """Return the probability that no look crosses, by scipy's integration over the multivariate normal."""
    times, cuts = np.asarray(times, dtype=np.float64), np.asarray(cuts)
    correlation = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    low = -cuts if two_sided else np.full(len(cuts), -np.inf)
    normal = stats.multivariate_normal(np.zeros(len(cuts)), correlation, seed=0, maxpts=400_000, abseps=1e-7)
    return normal.cdf(cuts, lower_limit=low)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("two_sided", [True, False])
def test_boundaries_spend_what_the_plan_says(kind, two_sided):
    plan = LookPlan((8, 13, 21, 40), kind)
    cuts, spent = z_values(plan, 0.05, two_sided=two_sided), plan.spent(0.05, two_sided=two_sided)
    for look in range(2, 5):
        inside = no_crossing(plan.pairs[:look], cuts[:look], two_sided=two_sided)
        assert 1 - inside == pytest.approx(spent[look - 1], abs=2e-5)


@pytest.mark.parametrize(
    # Jennison and Turnbull (2000), tables 2.1 and 2.3, for a two-sided error of 0.05.
    ("looks", "pocock", "obrien_fleming"),
    [(2, 2.178, 1.977), (3, 2.289, 2.004), (4, 2.361, 2.024), (5, 2.413, 2.040)],
)
def test_the_reference_gives_jennison_and_turnbulls_constants(looks, pocock, obrien_fleming):
    times = np.arange(1, looks + 1)
    for cuts in (np.full(looks, pocock), obrien_fleming * np.sqrt(looks / times)):
        assert 1 - no_crossing(times, cuts, two_sided=True) == pytest.approx(0.05, abs=1.2e-4)


def test_symmetric_differences_have_students_interval_at_the_nominal_levels():
    plan, rows = LookPlan((4, 8)), np.array([1.0, 3.0, 1.5, 2.5, 0.5, 3.5, 1.8, 2.2])
    found = repeated_interval(rows, plan, level=0.95)
    for pairs, interval, nominal in zip(plan.pairs, found, nominal_levels(plan, 0.05), strict=True):
        assert interval == pytest.approx(t_interval(rows[:pairs], level=1 - nominal))


def test_the_interval_of_skewed_differences_holds_students_and_reaches_further_to_the_long_tail():
    plan, rows = LookPlan((10, 20)), np.random.default_rng(2).exponential(size=20)
    for pairs, (low, high) in zip(plan.pairs, repeated_interval(rows, plan, level=0.95), strict=True):
        nominal = nominal_levels(plan, 0.05)[plan.pairs.index(pairs)]
        student = t_interval(rows[:pairs], level=1 - nominal)
        assert low == pytest.approx(student[0])
        assert high > student[1] + 0.05
        # The end solves the transformed statistic for Student's quantile: Hall (1992), with the skewness inflated.
        part = rows[:pairs]
        t = (part.mean() - high) / (part.std(ddof=1) / pairs**0.5)
        g = (1 + 10 / pairs) * stats.skew(part, bias=False)
        transformed = t + g * t**2 / (3 * pairs**0.5) + g**2 * t**3 / (27 * pairs) + g / (6 * pairs**0.5)
        assert special.stdtr(pairs - 1, transformed) == pytest.approx(nominal / 2)
        mirrored = repeated_interval(-rows, plan, level=0.95)[plan.pairs.index(pairs)]
        assert mirrored == pytest.approx((-high, -low))


def test_equal_differences_have_a_point_as_interval():
    assert repeated_interval(np.full(10, 0.1), LookPlan((5, 10)), level=0.95) == ((0.1, 0.1), (0.1, 0.1))


def test_equivalence_needs_the_margin_and_both_kinds_of_test():
    plan, rows = LookPlan((10, 20)), np.random.default_rng(4).normal(size=20)
    found = [sequential_equivalence_p(rows, plan, margin=margin, rng=seeded())[-1] for margin in (0, 0.3, 0.6, 1, 2)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.5
    assert found[-1] < 0.001
    # Ten equal differences are ten signs and no more: 1 in 1024, of the 0.5^1.25 spent by then.
    equal = sequential_equivalence_p(np.zeros(10), plan, margin=1.0, rng=seeded())
    assert equal == (pytest.approx(2**-10 / 0.5**1.25, rel=0.02),)
    # One difference in ten that is huge: every sign agrees, and the interval does not.
    spoiled = np.array([0.0] * 9 + [0.99])
    assert sequential_equivalence_p(spoiled, plan, margin=0.3, rng=seeded())[0] > 0.05


def test_equivalence_needs_the_interval_at_twice_alpha_within_the_margin_and_both_sign_flip_tests():
    plan, margin = LookPlan((10, 20)), 1.1
    share, passed = plan.spent(0.05, two_sided=False)[0], []
    every = 1 - 2 * ((np.arange(1024)[:, None] >> np.arange(10)) & 1)
    for seed in range(40):
        rows = np.random.default_rng(seed).exponential(size=10) - 1
        p = sequential_equivalence_p(rows, plan, margin=margin, rng=seeded(), levels=np.array([0.05]))[0]
        # At the first look, a two-sided test at twice alpha spends on either side what a one-sided one spends.
        low, high = repeated_interval(rows, plan, level=0.9)[0]
        flips = [np.mean(every @ np.abs(side) >= side.sum() - 1e-9) <= share for side in (rows + margin, margin - rows)]
        passed.append(-margin < low and high < margin and all(flips))
        assert (p <= 0.05) == passed[-1]
    assert 5 < sum(passed) < 35


def test_a_p_value_below_alpha_needs_an_interval_apart_from_zero():
    plan, apart, edges = LookPlan((10, 20)), [], 0
    for seed in range(60):
        rows = np.random.default_rng(seed).exponential(size=10) - 0.5
        low, high = repeated_interval(rows, plan, level=0.95)[0]
        flips = sequential_p(rows, plan, rng=seeded(), levels=np.array([0.05]), flips_only=True)[0]
        apart.append((flips <= 0.05, low > 0 or high < 0))
        assert (sequential_p(rows, plan, rng=seeded(), levels=np.array([0.05]))[0] <= 0.05) == all(apart[-1])
        for end, side in ((low, 1), (high, -1)):
            # Moved so that the interval ends just beside zero.
            beside = [rows - end + side * step for step in (1e-4, -1e-4)]
            settings = {"rng": seeded(), "levels": np.array([0.05])}
            if max(sequential_p(each, plan, **settings, flips_only=True)[0] for each in beside) <= 0.05:
                assert [sequential_p(each, plan, **settings)[0] <= 0.05 for each in beside] == [True, False]
                edges += 1
    assert edges > 10
    # Each of the two refuses some that the other lets pass, or both would not be needed.
    assert {(True, True), (True, False), (False, False)} <= set(apart)


def test_a_mean_beyond_the_boundary_is_claimed():
    plan = LookPlan((9, 12))
    levels = np.array([0.05])
    claimed = []
    for seed in range(40):
        rows = np.random.default_rng(seed).normal(size=12) + 0.6
        p = sequential_p(rows, plan, rng=seeded(), levels=levels, flips_only=True)
        edges = boundary(rows, plan, alpha=0.05, rng=seeded())
        beyond = [edge is not None and abs(rows[:n].mean()) >= edge for n, edge in zip(plan.pairs, edges, strict=True)]
        assert [each <= 0.05 for each in p] == [beyond[0], any(beyond)]
        claimed.append(any(beyond))
    assert 5 < sum(claimed) < 35


def test_the_chance_of_a_decision_follows_the_differences():
    plan, rng = LookPlan((10, 20, 30)), np.random.default_rng(1)
    noise = np.array([-1.0, 1, -0.5, 0.5, -0.8, 0.8, -0.2, 0.2, -0.4, 0.4])
    settings = {"margin": 0.1, "alpha": 0.05, "rng": rng}
    assert chance_of_decision(noise + 5, plan, **settings) > 0.999
    assert chance_of_decision(noise, plan, **settings) < 0.2
    assert chance_of_decision(noise, plan, **(settings | {"margin": 2.0})) > 0.97
    assert chance_of_decision(np.tile(noise, 3) + 5, plan, **settings) == 0
    middle = chance_of_decision(noise + 0.3, plan, **settings)
    assert chance_of_decision(noise + 0.3, plan, **settings, comparisons=6) < middle - 0.02
    # At the last look but one: a t test of 40 pairs, twenty of which are to come, with the deviation nearly known.
    long = LookPlan((200, 400))
    rows = np.tile(noise, 20) + 0.06
    mean, deviation = rows.mean(), rows.std(ddof=1)
    cut = special.ndtri(1 - nominal_levels(long, 0.05)[1] / 2) * deviation / 400**0.5
    # The mean of all 400 is that of the 200 seen plus half the distance of the next 200 to it.
    spread = deviation * (1 / 200 + 1 / 200) ** 0.5 / 2
    expected = special.ndtr((mean - cut) / spread) + special.ndtr((-mean - cut) / spread)
    found = chance_of_decision(rows, long, margin=0.0, alpha=0.05, rng=rng, futures=4000)
    assert found == pytest.approx(expected, abs=0.03)


def test_the_conditional_level_is_what_the_planned_test_would_spend():
    plan, sizes = LookPlan((5, 7, 9), "pocock"), np.random.default_rng(0).exponential(size=9)
    every = itertools.product((1, -1), repeat=8)
    settings = {"rng": seeded(), "levels": np.array([0.2]), "flips_only": True}
    p = np.array([sequential_p(sizes * np.array((1, *s)), plan, **settings) for s in every])
    left = [
        conditional_level(sizes * np.array((1, *signs, 1, 1, 1, 1)), plan, seen=5, alpha=0.2, rng=seeded())
        for signs in itertools.product((1, -1), repeat=4)
    ]
    assert np.mean(left) == pytest.approx((p[:, -1] <= 0.2).mean())
    assert sum(each == 1 for each in left) == 16 * (p[:, 0] <= 0.2).mean()
    # The signs of the pairs to come do not matter.
    assert {
        conditional_level(sizes * np.array((1, 1, 1, 1, -1, *s)), plan, seen=5, alpha=0.2, rng=seeded())
        for s in itertools.product((1, -1), repeat=4)
    } == {left[1]}


def test_a_continuation_holds_the_level_of_the_plan():
    plan, longer = LookPlan((4, 6), "pocock"), LookPlan((7, 8), "pocock")
    for seed in range(2):
        sizes = np.random.default_rng(seed).exponential(size=8)
        found = np.array(
            [
                continued_p(sizes * np.array((1, *signs)), plan, longer, seen=4, rng=seeded())
                for signs in itertools.product((1, -1), repeat=7)
            ]
        )
        assert (found[:, 1] <= found[:, 0]).all()
        for level in (0.1, 0.2, 0.3, 0.5):
            assert (found[:, 1] <= level).mean() <= level
        # It is not empty: signs that all agree are found.
        assert found[0, 1] < 0.1


def test_a_continuation_of_a_rejection_stays_one():
    plan, sure = LookPlan((8, 12)), np.linspace(1, 2, 16)
    planned = sequential_p(sure[:8], plan, rng=seeded(), flips_only=True)[0]
    assert conditional_level(sure, plan, seen=8, alpha=planned * 1.001, rng=seeded()) == 1
    assert continued_p(sure, plan, LookPlan((12, 16)), seen=8, rng=seeded())[0] <= planned
    assert continued_p(sure[:13], plan, LookPlan((14, 16)), seen=8, rng=seeded()) == ()


def test_wrong_requests_are_refused():
    plan, rows = LookPlan((10, 20)), np.ones(20)
    for pairs in ((10,), (20, 10), (10, 10), (1, 5), ()):
        with pytest.raises(ValueError, match="ascending numbers of at least two pairs"):
            LookPlan(pairs)
    with pytest.raises(ValueError, match=r"spending must be one of pocock.*got 'haybittle'"):
        LookPlan((10, 20), "haybittle")
    for alpha in (0.0, 1.0):
        with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
            plan.spent(alpha)
        with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
            nominal_levels(plan, alpha)
    with pytest.raises(ValueError, match="finite paired differences"):
        sequential_p(np.array([1.0, np.nan]), plan, rng=seeded())
    with pytest.raises(ValueError, match="margin must be zero or more"):
        sequential_equivalence_p(rows, plan, margin=-1.0, rng=seeded())
    with pytest.raises(ValueError, match=r"changed after one of its looks at \(10,\), got 20"):
        conditional_level(rows, plan, seen=20, alpha=0.05, rng=seeded())
    with pytest.raises(ValueError, match="needs all 20 planned pairs, got 15"):
        conditional_level(rows[:15], plan, seen=10, alpha=0.05, rng=seeded())
    with pytest.raises(ValueError, match="must look first at the planned maximum of 20 pairs"):
        continued_p(rows, plan, LookPlan((15, 30)), seen=10, rng=seeded())
